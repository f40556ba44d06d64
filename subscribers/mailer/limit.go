package mailer

import (
	"context"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
)

// overLimit is the reason of a mail whose address has reached the limit.
const overLimit = "Its address has reached MAIL_LIMIT for this hour."

// uncount undoes the count of mails that the server refused.
const uncount = `
	delete from recent_mail r using mail m
	 where m.order_id = any($1) and m.state = 'sending' and r.order_id = m.order_id and r.began_at = m.sending_since`

func (o *outbox) next(ctx context.Context) ([]*confirmation, error) {
	for {
		due, err := o.due(ctx)
		if err != nil || len(due) == 0 || o.set.Limit == 0 {
			return due, err
		}
		if allowed, err := o.withinLimit(ctx, due); err != nil || len(allowed) > 0 {
			return allowed, err
		}
	}
}

// withinLimit returns the due mails that their addresses may get now. The others wait if their address has reached the
// limit already, or else are due again in the next run.
func (o *outbox) withinLimit(ctx context.Context, due []*confirmation) (allowed []*confirmation, err error) {
	mailboxes := make([][]byte, len(due))
	for i, m := range due {
		mailboxes[i] = m.mailbox
	}
	rows, _ := o.db.Query(ctx, `
		select mailbox, count(*), (array_agg(began_at order by began_at desc))[$2] + interval '1 hour'
		  from recent_mail where mailbox = any($1) and began_at > now() - interval '1 hour'
		       and began_at <= now() + interval '1 minute' -- later ones are of a clock that was wrong
		 group by mailbox`, mailboxes, o.set.Limit)
	had, until := map[string]int{}, map[string]time.Time{} // by mailbox
	var mailbox []byte
	var n int
	var t *time.Time // nil means below the limit
	_, err = pgx.ForEachRow(rows, []any{&mailbox, &n, &t}, func() error {
		had[string(mailbox)] = n
		if t != nil {
			until[string(mailbox)] = *t
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	var waiting []uuid.UUID
	var times []time.Time
	for _, m := range due {
		if t, full := until[string(m.mailbox)]; full {
			waiting, times = append(waiting, m.OrderID), append(times, t)
		} else if had[string(m.mailbox)]++; had[string(m.mailbox)] <= int(o.set.Limit) {
			allowed = append(allowed, m)
		}
	}
	if len(waiting) == 0 {
		return allowed, nil
	}
	return allowed, o.inTx(ctx, func(tx pgx.Tx) error {
		_, err := tx.Exec(ctx, `
			update mail set due_at = w.until, reason = $3 from unnest($1::uuid[], $2::timestamptz[]) as w (order_id, until)
			 where mail.order_id = w.order_id and mail.state = 'pending'`, waiting, times, overLimit)
		return err
	})
}
