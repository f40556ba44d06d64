package mailer

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"
)

const (
	maxDue     = 500
	firstDelay = 5 * time.Second
	maxDelay   = time.Hour
	giveUp     = 5 * 24 * time.Hour // a mail that is refused temporarily, or gets no reply, again and again: RFC 5321 section 4.5.4.1
	// A process that lost its place may still be at it for so long.
	takeOverAfter = 10 * time.Second
	// For so long an outcome is tried to be noted: while the database starts again, say.
	noteTimeout = 10 * time.Second
	dbTimeout   = time.Minute // for one transaction
	// A mail may take so long from MAIL on: what is being sent when the time of work ends would be cut off, and sent again.
	oneMail   = 3*replyTimeout + dbTimeout + endTimeout
	noteRetry = 250 * time.Millisecond
)

// An outbox sends what is due.
type outbox struct {
	db     *pgxpool.Pool
	set    *settings
	outage outage
	alone  *confirmation // given up as the only one of its run, and the server has taken none since; nil: there is none such
}

const lostReply = "The connection or this process was lost before the mail server replied: the mail may have arrived. It is sent again with the same Message-ID."

// work sends all mails that are due, one after the other, over one connection.
func (o *outbox) work(ctx context.Context) error {
	if err := o.takeOver(ctx); err != nil {
		return fmt.Errorf("find mails that were being sent: %w", err)
	}
	if o.set.SMTP.addr == "" {
		return nil
	}
	if err := o.outage.waits(); err != nil {
		return err
	}
	due, err := o.due(ctx)
	if err != nil || len(due) == 0 {
		return err
	}
	r := new(run)
	for len(due) > 0 && err == nil {
		due, err = o.sendSome(ctx, due, r)
	}
	return errors.Join(err, errors.Join(r.unfit...), o.judge(ctx, r))
}

// sendSome sends mails over one connection, and returns those that are left for another one.
func (o *outbox) sendSome(ctx context.Context, due []*confirmation, r *run) (left []*confirmation, err error) {
	c, err := o.set.SMTP.dial(ctx, o.set.Helo)
	if err != nil {
		r.failing = true
		return nil, o.fail(ctx, due, err)
	}
	defer c.close()
	taken := false // a mail, over this connection
	for i, m := range due {
		if until, limited := ctx.Deadline(); limited && time.Until(until) < oneMail {
			return nil, ctx.Err() // the rest is due again at once
		}
		if ctx.Err() != nil || !r.passed && len(r.doubtful) == maxDoubtful || len(r.unfit) == maxDoubtful {
			return nil, ctx.Err()
		}
		result, err := o.send(ctx, c, m)
		switch {
		case result == outdated && errors.Is(err, errOutdated):
			return nil, nil // what is due now says the database
		case result == setup && taken: // the server takes no more over one connection
			return due[i:], nil
		case result == setup:
			r.failing = true
			return nil, o.fail(ctx, due[i:], err)
		case result == trouble:
			return nil, errors.Join(fmt.Errorf("mail server %s: %w", &o.set.SMTP, err), o.postpone(ctx, m, "Mail server: "+inOneLine(err)))
		case result == outdated && refusedRow(err) != "":
			why := fmt.Sprintf("The database refuses to note that it is being sent (SQLSTATE %s).", refusedRow(err))
			r.unfit = append(r.unfit, fmt.Errorf("mail for order %s: %s", m.OrderID, why))
			_ = o.postpone(ctx, m, why) // which it may refuse, too: then it is the first one of the next run
			return due[i+1:], nil
		case result == outdated:
			return nil, err
		case result == doubtful:
			why, _ := errors.AsType[*refusal](err)
			r.doubtful = append(r.doubtful, doubt{m, why})
			continue
		}
		if err := o.note(ctx, m, result, err); err != nil {
			return nil, fmt.Errorf("note what became of the mail for order %s: %w", m.OrderID, err)
		}
		taken = taken || result == sent
		r.passed = r.passed || taken
		if result == uncertain {
			return nil, fmt.Errorf("mail server %s: no reply to the mail for order %s", &o.set.SMTP, m.OrderID)
		}
	}
	return nil, nil
}

// refusedRow returns the SQLSTATE by which the database refuses this mail's row, and goes on to answer; or "".
func refusedRow(err error) string {
	refused, ok := errors.AsType[*pgconn.PgError](err)
	if !ok || refused.SeverityUnlocalized != "ERROR" {
		return ""
	}
	switch refused.Code[:min(2, len(refused.Code))] {
	case "08", "25", "40", "53", "55", "57", "58": // connection, read-only, conflicts, resources, locks, shutdown, I/O
		return ""
	}
	return refused.Code
}

// takeOver counts as uncertain what another process, or this one before a restart, was sending.
func (o *outbox) takeOver(ctx context.Context) error {
	return o.inTx(ctx, func(tx pgx.Tx) error {
		rows, err := tx.Query(ctx, `
			update mail set state = 'pending', attempts = attempts + 1, uncertain = uncertain + 1, sending_since = null, due_at = now(), reason = $2
			 where state = 'sending' and (sending_since < now() - $1::interval or sending_since > now() + interval '1 minute') returning order_id`, takeOverAfter, lostReply)
		if err != nil {
			return err
		}
		ids, err := pgx.CollectRows(rows, pgx.RowTo[[16]byte])
		if err == nil && len(ids) > 0 {
			_, err = tx.Exec(ctx, settle, ids, nil)
		}
		return err
	})
}

// due gives the mails to be sent now, those that wait longest first. One that would have to wait longer than any does was put off
// by a clock that was wrong.
func (o *outbox) due(ctx context.Context) ([]*confirmation, error) {
	ctx, cancel := context.WithTimeout(ctx, dbTimeout)
	defer cancel()
	rows, err := o.db.Query(ctx, `
		select m.order_id, m.customer_id, m.attempts, coalesce(m.composed_at, date_trunc('second', now())), c.name, c.email, o.lines, o.total_cents, o.currency, o.placed_at
		  from mail m join orders o on o.id = m.order_id join customers c on c.id = m.customer_id
		 where m.state = 'pending' and (m.due_at <= now() or m.due_at > now() + $2::interval) order by m.due_at, m.order_id limit $1`,
		maxDue, maxDelay+time.Minute)
	if err != nil {
		return nil, err
	}
	return pgx.CollectRows(rows, func(row pgx.CollectableRow) (*confirmation, error) {
		c := new(confirmation)
		err := row.Scan(&c.OrderID, &c.CustomerID, &c.attempts, &c.ComposedAt, &c.Name, &c.email, &c.LinesJSON, &c.TotalCents, &c.Currency, &c.PlacedAt)
		c.ComposedAt = c.ComposedAt.UTC()
		return c, err
	})
}

// errOutdated: meanwhile the order was cancelled, or the customer has changed or is gone.
var errOutdated = errors.New("the mail is not to be sent any more as it was composed")

func (o *outbox) send(ctx context.Context, c *session, m *confirmation) (outcome, error) {
	raw, err := m.compose(&o.set.From)
	switch {
	case errors.Is(err, errAddress):
		return failed, err
	case err != nil:
		return failed, fmt.Errorf("compose the mail: %w", err)
	}
	result, err := c.send(address(o.set.From.Address), address(m.to.Address), raw, func() error { return o.begin(ctx, m) })
	if result == outdated {
		c.abort()
	}
	return result, err
}

// begin makes durable that a mail is being sent, and what it says.
func (o *outbox) begin(ctx context.Context, m *confirmation) error {
	return o.inTx(ctx, func(tx pgx.Tx) error {
		tag, err := tx.Exec(ctx, `
			update mail set state = 'sending', sending_since = now(), composed_at = $2, recipient = $3, recipient_name = $4, body = $5
			  from customers c
			 where mail.order_id = $1 and mail.state = 'pending' and c.id = mail.customer_id and c.email = $3 and c.name = $4`,
			m.OrderID, m.ComposedAt, m.email, m.Name, m.text)
		if err == nil && tag.RowsAffected() == 0 {
			err = errOutdated
		}
		return err
	})
}

// note makes durable how the attempt ended. Neither the stop nor a database that starts again keeps it from that: else a mail that
// has arrived would be sent again.
func (o *outbox) note(ctx context.Context, m *confirmation, result outcome, why error) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), noteTimeout)
	defer cancel()
	state, reason := "pending", ""
	switch {
	case result == sent:
		state = "sent"
	case result == failed:
		state, reason = "failed", inOneLine(why)
	case result == uncertain && time.Since(m.ComposedAt) > giveUp:
		state, reason = "failed", "No reply for five days, though the mail may have arrived."
	case result == uncertain:
		reason = lostReply
	case time.Since(m.ComposedAt) > giveUp && o.sentSince(ctx, m.ComposedAt):
		state, reason = "failed", "Refused for five days, at last: "+inOneLine(why)
	default:
		reason = inOneLine(why)
	}
	for {
		err := o.inTx(ctx, func(tx pgx.Tx) error {
			_, err := tx.Exec(ctx, `
				update mail set state = $2, attempts = attempts + 1, uncertain = uncertain + $3, sending_since = null, due_at = now() + $4::interval,
				       composed_at = coalesce(composed_at, $5), sent_at = case $2 when 'sent' then now() end,
				       (reason, recipient) = (select coalesce(max($6::text), ''), max($7::text) from customers c where c.id = customer_id) -- a reply may name whom it refuses
				 where order_id = $1 and state in ('pending', 'sending')`,
				m.OrderID, state, flag(result == uncertain), delay(m.attempts), m.ComposedAt, reason, m.email)
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

// sentSince reports whether the server has taken a mail since then: else it is not this mail that is refused.
func (o *outbox) sentSince(ctx context.Context, t time.Time) (is bool) {
	err := o.db.QueryRow(ctx, `select exists (select from mail where sent_at > $1)`, t).Scan(&is)
	return err == nil && is
}

// postpone books a failure to the mail that was being sent: it may be its content that the server, or the database, does not bear.
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
	return pgx.BeginFunc(ctx, o.db, func(tx pgx.Tx) error {
		if _, err := tx.Exec(ctx, outboxLock); err != nil {
			return err
		}
		return f(tx)
	})
}

// delay is how long a mail waits after so many attempts before.
func delay(attempts int) time.Duration {
	return min(firstDelay<<min(attempts, 16), maxDelay)
}

func flag(b bool) int {
	if b {
		return 1
	}
	return 0
}

// address is for the envelope (RFC 5321 section 4.1.2).
func address(a string) string { return "<" + a + ">" }

// inOneLine is what a stranger's server says, made fit to be kept and shown.
func inOneLine(err error) string {
	text := []rune(strings.Join(strings.FieldsFunc(strings.ToValidUTF8(err.Error(), "?"), func(r rune) bool { return r <= ' ' || r == 0x7f }), " "))
	return string(text[:min(len(text), 500)])
}
