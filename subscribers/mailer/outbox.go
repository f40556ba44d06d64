package mailer

import (
	"cmp"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/edison-cars/data-feeds/shared/customer"
	"github.com/edison-cars/data-feeds/shared/order"
	"github.com/edison-cars/data-feeds/shared/smtp"
	"github.com/edison-cars/data-feeds/shared/subscribe"
)

const (
	maxDue     = 500
	firstDelay = 5 * time.Second
	maxDelay   = time.Hour
	giveUp     = 5 * 24 * time.Hour // for a mail that is refused temporarily, or gets no reply: RFC 5321 section 4.5.4.1
	maxCut     = 10                 // attempts without a reply, while the server accepts other mails
	// A process that has lost the lease may still be sending for this time.
	takeOverAfter = 10 * time.Second
	// For this time it is tried to store an outcome, for example while the database restarts.
	noteTimeout = 10 * time.Second
	dbTimeout   = time.Minute // of one transaction
	// The longest time for one mail. A mail is not begun if the work's time would end before: it would be sent again.
	oneMail   = smtp.SendTimeout + dbTimeout
	noteRetry = 250 * time.Millisecond
)

type outbox struct {
	db      *pgxpool.Pool
	set     *settings
	outage  outage
	current subscribe.Current
	alone   *confirmation // the only mail of its run, given up, with none accepted since; nil if there is none
}

func newOutbox(set *settings) *outbox {
	return &outbox{set: set, current: subscribe.Current{Service: name, Feeds: []string{order.Feed, customer.Feed}}}
}

const lostReply = "The connection or this process failed before the mail server replied: the mail may have arrived. It is sent again with the same Message-ID."

// work sends all due mails, one after another, over one connection.
func (o *outbox) work(ctx context.Context) error {
	if err := o.takeOver(ctx); err != nil {
		return fmt.Errorf("find mails that were being sent: %w", err)
	}
	if o.set.Server.String() == "" {
		return nil
	}
	if err := o.outage.waits(); err != nil {
		return err
	}
	if behind, err := o.current.Look(ctx, o.db); err != nil || len(behind) > 0 {
		return err
	}
	due, err := o.next(ctx)
	if err != nil || len(due) == 0 {
		return err
	}
	r := new(run)
	for len(due) > 0 && err == nil {
		due, err = o.sendSome(ctx, due, r)
	}
	return errors.Join(err, errors.Join(r.unfit...), o.judge(ctx, r))
}

// sendSome sends mails over one connection, and returns those that need another one.
func (o *outbox) sendSome(ctx context.Context, due []*confirmation, r *run) (left []*confirmation, err error) {
	c, err := o.set.Dial(ctx)
	if err != nil {
		r.failing = true
		return nil, o.fail(ctx, due, err)
	}
	defer c.Close()
	taken := false // over this connection
	for i, m := range due {
		if until, limited := ctx.Deadline(); limited && time.Until(until) < oneMail {
			return nil, ctx.Err() // the remaining mails stay due
		}
		if ctx.Err() != nil || !r.passed && len(r.doubtful) == maxDoubtful || len(r.unfit) == maxDoubtful {
			return nil, ctx.Err()
		}
		result, err := o.send(ctx, c, m)
		switch {
		case result == smtp.Stopped && errors.Is(err, errOutdated):
			return nil, nil // the database determines what is due now
		case result == smtp.Setup && taken: // the server accepts no more mails on one connection
			return due[i:], nil
		case result == smtp.Setup:
			r.failing = true
			return nil, o.fail(ctx, due[i:], err)
		case result == smtp.Trouble:
			return nil, errors.Join(fmt.Errorf("mail server %s: %w", &o.set.Server, err), o.note(ctx, m, result, err))
		case result == smtp.Stopped && refusedRow(err) != "":
			why := fmt.Sprintf("The database refuses to store that it is being sent (SQLSTATE %s).", refusedRow(err))
			r.unfit = append(r.unfit, fmt.Errorf("mail for order %s: %s", m.OrderID, why))
			_ = o.postpone(ctx, m, why) // if this fails too, the mail is the first one of the next run
			return due[i+1:], nil
		case result == smtp.Stopped:
			return nil, err
		case result == smtp.Doubtful:
			why, _ := errors.AsType[*smtp.Refusal](err)
			r.doubtful = append(r.doubtful, doubt{m, why})
			continue
		}
		if err := o.note(ctx, m, result, err); err != nil {
			return nil, fmt.Errorf("store the outcome of the mail for order %s: %w", m.OrderID, err)
		}
		taken = taken || result == smtp.Sent
		r.passed = r.passed || taken
		why, _ := errors.AsType[*smtp.Refusal](err)
		switch {
		case result == smtp.Sent:
			r.closed = 0
		case why == nil || !why.Closes():
		case r.closed+1 == maxDoubtful:
			r.failing = true
			return nil, o.fail(ctx, due[i+1:], why)
		default: // possibly the mail's fault
			r.closed++
			return due[i+1:], nil
		}
		if result == smtp.Uncertain {
			return nil, fmt.Errorf("mail server %s: no reply to the mail for order %s", &o.set.Server, m.OrderID)
		}
	}
	return nil, nil
}

// refusedRow returns the SQLSTATE with which the database refuses this mail's row while it still answers, or "".
func refusedRow(err error) string {
	refused, ok := errors.AsType[*pgconn.PgError](err)
	if !ok || refused.SeverityUnlocalized != "ERROR" || refused.File == "varsup.c" || refused.File == "multixact.c" { // no transaction ids are left
		return ""
	}
	switch refused.Code[:min(2, len(refused.Code))] {
	case "08", "25", "40", "53", "55", "57", "58": // connection, read-only, conflicts, resources, locks, shutdown, I/O
		return ""
	}
	return refused.Code
}

// takeOver marks mails as uncertain that another process, or this one before a restart, was sending, and forgets the
// counts that are older than an hour, and whom old mails were sent to and what they said. The age of a mail that was
// composed in the future, by a wrong clock, begins now.
func (o *outbox) takeOver(ctx context.Context) error {
	return o.inTx(ctx, func(tx pgx.Tx) error {
		rows, _ := tx.Query(ctx, `
			update mail set state = 'pending', attempts = attempts + 1, uncertain = uncertain + 1, sending_since = null, due_at = now(), reason = $2
			 where state = 'sending' and (sending_since < now() - $1::interval or sending_since > now() + interval '1 minute') returning order_id`, takeOverAfter, lostReply)
		ids, err := pgx.CollectRows(rows, pgx.RowTo[[16]byte])
		if err == nil && len(ids) > 0 {
			_, err = tx.Exec(ctx, settle, ids, nil)
		}
		if err == nil {
			_, err = tx.Exec(ctx, `delete from recent_mail where began_at <= now() - interval '1 hour' or began_at > now() + interval '1 minute'`)
		}
		if err == nil {
			_, err = tx.Exec(ctx, `
				update mail set composed_at = greatest(now(), $1) where order_id = any(array(
				       select order_id from mail
				        where recipient is not null and state not in ('pending', 'sending') and coalesce(composed_at, due_at) > greatest(now(), $1) + interval '1 minute'
				        limit $2))`, time.Now(), maxDue)
		}
		if err == nil {
			_, err = tx.Exec(ctx, `
				update mail set recipient = null, recipient_name = null, body = null, reason = '' where order_id = any(array(
				       select order_id from mail
				        where recipient is not null and state not in ('pending', 'sending')
				          and coalesce(composed_at, due_at) < least(now(), $1) - $2::interval
				        order by coalesce(composed_at, due_at) limit $3))`, time.Now(), time.Duration(o.set.TextAge), maxDue)
		}
		return err
	})
}

// notErased is the condition that the customer of mail m was not erased: restored tables may have brought it back.
const notErased = `not exists (select from erased_entity where service = '` + name + `' and feed = '` + customer.Feed + `' and id = m.customer_id)`

// due returns the mails to be sent now, the longest waiting first. A mail that is postponed beyond any delay, or
// composed in the future, is due too: it was stored by a wrong clock. Ages are by the database's clock, which set the
// times.
func (o *outbox) due(ctx context.Context) ([]*confirmation, error) {
	ctx, cancel := context.WithTimeout(ctx, dbTimeout)
	defer cancel()
	rows, _ := o.db.Query(ctx, `
		select m.order_id, m.customer_id, m.attempts, m.uncertain,
		       case when m.composed_at <= now() + interval '1 minute' then m.composed_at else date_trunc('second', now()) end,
		       coalesce(m.composed_at < now() - $3::interval, false), c.name, c.email, c.email_confirmed, o.lines, o.total_cents,
		       o.currency, o.placed_at
		  from mail m join orders o on o.id = m.order_id join customers c on c.id = m.customer_id
		 where m.state = 'pending' and `+notErased+` and (m.due_at <= now() or m.due_at > now() + $2::interval) order by m.due_at, m.order_id limit $1`,
		maxDue, maxDelay+time.Minute, giveUp)
	return pgx.CollectRows(rows, func(row pgx.CollectableRow) (*confirmation, error) {
		c := new(confirmation)
		err := row.Scan(&c.OrderID, &c.CustomerID, &c.attempts, &c.uncertain, &c.ComposedAt, &c.old, &c.name, &c.email, &c.confirmed, &c.LinesJSON,
			&c.TotalCents, &c.Currency, &c.PlacedAt)
		mailbox := sha256.Sum256([]byte(smtp.Mailbox(c.email)))
		c.mailbox = mailbox[:]
		return c, err
	})
}

// errOutdated says that the order or the customer changed since the mail was composed, or that the address has reached
// the limit, or that the database was restored.
var errOutdated = errors.New("the mail must not be sent as it was composed")

func (o *outbox) send(ctx context.Context, c *smtp.Session, m *confirmation) (smtp.Outcome, error) {
	msg, err := m.compose(&o.set.From)
	switch {
	case errors.Is(err, smtp.ErrAddress):
		return smtp.Failed, err
	case err != nil:
		return smtp.Failed, fmt.Errorf("compose the mail: %w", err)
	}
	return c.Send(msg, func() error { return o.begin(ctx, m) })
}

// begin stores durably that a mail is being sent, and its content.
func (o *outbox) begin(ctx context.Context, m *confirmation) error {
	return o.inTx(ctx, func(tx pgx.Tx) error {
		if behind, err := o.current.Look(ctx, tx); err != nil || len(behind) > 0 {
			return cmp.Or(err, errOutdated)
		}
		tag, err := tx.Exec(ctx, `
			update mail m set state = 'sending', sending_since = now(), composed_at = $2, recipient = $3, recipient_name = nullif($4, ''), body = $5
			  from customers c
			 where m.order_id = $1 and m.state = 'pending' and `+notErased+` and c.id = m.customer_id and c.email = $3 and c.name = $6 and c.email_confirmed = $7
			   and ($9 = 0 or $9 > (select count(*) from recent_mail where mailbox = $8
			                       and began_at > now() - interval '1 hour' and began_at <= now() + interval '1 minute'))`,
			m.OrderID, m.ComposedAt, m.email, m.Name(), m.text, m.name, m.confirmed, m.mailbox, o.set.Limit)
		if err == nil && tag.RowsAffected() == 0 {
			err = errOutdated
		}
		if err == nil {
			_, err = tx.Exec(ctx, `insert into recent_mail (order_id, mailbox, began_at) values ($1, $2, now())`, m.OrderID, m.mailbox)
		}
		return err
	})
}

// note stores durably how the attempt ended, even during the stop or a restart of the database: otherwise a mail that
// has arrived would be sent again.
func (o *outbox) note(ctx context.Context, m *confirmation, result smtp.Outcome, why error) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), noteTimeout)
	defer cancel()
	state, reason := "pending", ""
	switch {
	case result == smtp.Sent:
		state = "sent"
	case result == smtp.Failed:
		state, reason = "failed", inOneLine(why)
	case result == smtp.Uncertain && m.old:
		state, reason = "failed", "No reply for five days, though the mail may have arrived."
	case result == smtp.Uncertain && m.uncertain+1 >= maxCut && o.sentSince(ctx, m.ComposedAt):
		state, reason = "failed", fmt.Sprintf("No reply to %d attempts, though the mail may have arrived. Other mails got one.", m.uncertain+1)
	case result == smtp.Uncertain:
		reason = lostReply
	case result == smtp.Trouble && m.old && o.sentSince(ctx, m.ComposedAt):
		state, reason = "failed", "The connection was lost for five days, most recently: "+inOneLine(why)+". Other mails were sent."
	case result == smtp.Trouble:
		reason = "Mail server: " + inOneLine(why)
	case m.old && o.sentSince(ctx, m.ComposedAt):
		state, reason = "failed", "Refused for five days, most recently: "+inOneLine(why)
	default:
		reason = inOneLine(why)
	}
	for {
		err := o.inTx(ctx, func(tx pgx.Tx) error {
			if result != smtp.Sent && result != smtp.Uncertain {
				if _, err := tx.Exec(ctx, uncount, [][16]byte{m.OrderID}); err != nil {
					return err
				}
			}
			_, err := tx.Exec(ctx, `
				update mail set state = $2, attempts = attempts + 1, uncertain = uncertain + case when $3 then 1 else 0 end, sending_since = null, due_at = now() + $4::interval,
				       composed_at = $5, sent_at = case $2 when 'sent' then now() end,
				       (reason, recipient) = (select coalesce(max($6::text), ''), max($7::text) from customers c where c.id = customer_id) -- a reply may name whom it refuses
				 where order_id = $1 and state in ('pending', 'sending')`,
				m.OrderID, state, result == smtp.Uncertain, delay(m.attempts), m.ComposedAt, reason, m.email)
			if err == nil {
				_, err = tx.Exec(ctx, settle, [][16]byte{m.OrderID}, nil)
			}
			return err
		})
		if err == nil {
			return nil
		}
		select {
		case <-ctx.Done():
			return err
		case <-time.After(noteRetry):
		}
	}
}

// sentSince reports whether the server has accepted a mail since t. If not, a refusal may not be this mail's fault.
func (o *outbox) sentSince(ctx context.Context, t time.Time) (is bool) {
	err := o.db.QueryRow(ctx, `select exists (select from mail where sent_at > $1 and sent_at <= now() + interval '1 minute')`, t).Scan(&is)
	return err == nil && is
}

// postpone counts a failure of the mail that was being sent: its content may be what the server or the database
// refuses.
func (o *outbox) postpone(ctx context.Context, m *confirmation, reason string) error {
	return o.inTx(ctx, func(tx pgx.Tx) error {
		_, err := tx.Exec(ctx, `
			update mail set attempts = attempts + 1, due_at = now() + $2::interval, reason = $3
			 where order_id = $1 and state = 'pending'`, m.OrderID, delay(m.attempts), reason)
		return err
	})
}

func (o *outbox) inTx(ctx context.Context, f func(pgx.Tx) error) error {
	ctx, cancel := context.WithTimeout(ctx, dbTimeout)
	defer cancel()
	return subscribe.InTx(ctx, o.db, func(tx pgx.Tx) error {
		if _, err := tx.Exec(ctx, outboxLock); err != nil {
			return err
		}
		return f(tx)
	})
}

// delay returns how long a mail waits after the given number of attempts.
func delay(attempts int) time.Duration {
	return min(firstDelay<<min(attempts, 16), maxDelay)
}

// inOneLine returns the text of a server's error, in a form that can be stored and shown.
func inOneLine(err error) string {
	text := []rune(strings.Join(strings.FieldsFunc(strings.ToValidUTF8(err.Error(), "?"), func(r rune) bool { return r <= ' ' || r == 0x7f }), " "))
	return string(text[:min(len(text), 500)])
}
