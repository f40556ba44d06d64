package mailer

import (
	"context"
	"errors"
	"fmt"

	"github.com/jackc/pgx/v5"

	"github.com/edison-cars/data-feeds/shared/smtp"
)

// maxDoubtful mails that are refused one after the other, and none that is taken, end a run: a server may shut out a client that
// does not stop.
const maxDoubtful = 20

// A run is what became of the mails of one session.
type run struct {
	passed   bool // the server took one
	failing  bool // by no mail's fault
	doubtful []doubt
	closed   int     // mails in a row at which the server has closed the connection
	unfit    []error // of mails whose row the database refuses
}

// A doubt is a mail that was refused for good, by its own fault or that of the set-up.
type doubt struct {
	*confirmation
	why *smtp.Refusal
}

// judge says whose fault the doubtful refusals of a run are. A reply that speaks of the mailbox is the mail's own, and no doubt.
// Of all others the neighbours tell: where the server has taken another mail in the same session, the set-up is right, and who was
// refused is given up. Where it has taken none, its replies may be meant for this sender, greeting or network: then the mails wait,
// nothing is booked to them, and all are tried again with the next ones. A single mail whose mailbox is refused without an
// enhanced code is given up, unless the next one to another address fares alike: then both wait. What this does not see: a set-up
// that is refused for some domains alone.
func (o *outbox) judge(ctx context.Context, r *run) error {
	var err error
	alone := len(r.doubtful) == 1 && r.doubtful[0].why.OfMailbox() && (o.alone == nil || o.alone.email == r.doubtful[0].email)
	switch {
	case r.passed:
		o.alone = nil
	case alone:
		o.alone = r.doubtful[0].confirmation
	case len(r.doubtful) > 0 && o.alone != nil:
		err = o.revive(ctx, o.alone)
		o.alone = nil
	}
	if r.passed || alone {
		for _, d := range r.doubtful {
			if err := o.note(ctx, d.confirmation, smtp.Failed, d.why); err != nil {
				return fmt.Errorf("note what became of the mail for order %s: %w", d.OrderID, err)
			}
		}
		r.doubtful = nil
	}
	if len(r.doubtful) == 0 {
		if !r.failing {
			o.outage.over()
		}
		return err
	}
	for _, d := range r.doubtful {
		err = errors.Join(err, o.wait(ctx, []*confirmation{d.confirmation}, d.why))
	}
	if r.failing {
		return err
	}
	// The text of the reply may name a recipient.
	return errors.Join(o.outage.again(fmt.Errorf("mail server %s takes no mail: %s", &o.set.Server, r.doubtful[0].why.Short())), err)
}

// revive takes back that a mail was given up. What became of its order and its customer since then counts.
func (o *outbox) revive(ctx context.Context, m *confirmation) error {
	return o.inTx(ctx, func(tx pgx.Tx) error {
		_, err := tx.Exec(ctx, `
			update mail set state = 'pending', attempts = attempts - 1, due_at = now() where order_id = $1 and state = 'failed'`, m.OrderID)
		if err == nil {
			_, err = tx.Exec(ctx, settle, [][16]byte{m.OrderID}, nil)
		}
		return err
	})
}

// fail notes that nothing can be sent at the moment, by no mail's fault.
func (o *outbox) fail(ctx context.Context, mails []*confirmation, why error) error {
	return errors.Join(o.outage.again(fmt.Errorf("mail server %s: %w", &o.set.Server, why)), o.wait(ctx, mails, why))
}

// wait says of mails why they are not sent, and books nothing to them: also the five days of a temporary refusal begin over, unless
// the mail may have arrived, and so must stay as it is. They go behind all others that are due.
func (o *outbox) wait(ctx context.Context, mails []*confirmation, why error) error {
	ids := make([][16]byte, len(mails))
	for i, m := range mails {
		ids[i] = m.OrderID
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), noteTimeout)
	defer cancel()
	return o.inTx(ctx, func(tx pgx.Tx) error {
		if _, err := tx.Exec(ctx, uncount, ids); err != nil {
			return err
		}
		_, err := tx.Exec(ctx, `
			update mail set state = 'pending', sending_since = null, due_at = now(), composed_at = case when uncertain > 0 then composed_at end,
			       reason = coalesce((select max($2::text) from customers c where c.id = customer_id), '') -- as in note
			 where order_id = any($1) and state in ('pending', 'sending')`, ids, "Mail server: "+inOneLine(why))
		if err == nil {
			_, err = tx.Exec(ctx, settle, ids, nil)
		}
		return err
	})
}
