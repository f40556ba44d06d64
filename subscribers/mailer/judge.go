package mailer

import (
	"context"
	"errors"
	"fmt"

	"github.com/jackc/pgx/v5"

	"github.com/edison-cars/data-feeds/shared/smtp"
)

// maxDoubtful is the number of refusals in a row, with no mail accepted, that ends a run: a server may block a client
// that continues.
const maxDoubtful = 20

type run struct {
	passed   bool // the server accepted at least one mail
	failing  bool // an error that is no mail's fault occurred
	doubtful []doubt
	closed   int     // mails in a row at which the server closed the connection
	unfit    []error // errors of mails whose row the database refuses
}

// A doubt is a permanently refused mail: because of the mail itself, or because of the set-up.
type doubt struct {
	*confirmation
	why *smtp.Refusal
}

// judge decides whether the mails or the set-up caused the doubtful refusals of a run. A reply about the mailbox is the
// mail's fault, and never doubtful. For the other replies the neighbours decide. If the server accepted another mail in
// the same session, the set-up is right, and the refused mails are given up. If it accepted none, its replies may be
// about the sender, the greeting or the network: then the mails wait, no failure is counted, and all are tried again
// later. A single mail whose mailbox is refused without an enhanced code is given up, unless the next one to another
// address is refused, too: then both wait. A set-up that only some domains refuse is not detected.
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
				return fmt.Errorf("store the outcome of the mail for order %s: %w", d.OrderID, err)
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
	// The reply's text may contain a recipient.
	return errors.Join(o.outage.again(fmt.Errorf("mail server %s accepts no mail: %s", &o.set.Server, r.doubtful[0].why.Short())), err)
}

// revive undoes that a mail was given up, unless its order or customer has changed since.
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

// fail records that no mail can be sent at the moment, which is no mail's fault.
func (o *outbox) fail(ctx context.Context, mails []*confirmation, why error) error {
	return errors.Join(o.outage.again(fmt.Errorf("mail server %s: %w", &o.set.Server, why)), o.wait(ctx, mails, why))
}

// wait stores why the mails are not sent, without counting a failure. It also restarts the five days of a temporary
// refusal, unless the mail may have arrived, in which case its text must not change. The mails queue behind all others
// that are due.
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
