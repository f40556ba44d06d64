package mailer

import (
	"context"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/edison-cars/data-feeds/shared/trace"
)

// traceOrder returns when the confirmation of an order was sent, and what it waits for.
func traceOrder(ctx context.Context, db *pgxpool.Pool, id uuid.UUID) (trace.Part, error) {
	return trace.Read(ctx, db, id, `
		select order_id, customer_id from mail where order_id = $1
		 union all select id, customer_id from orders where id = $1`, `
		select at, what, '/mails/' || order_id
		  from mail cross join lateral (values
		       (composed_at, 'confirmation written'),
		       (sent_at, 'confirmation sent')) as step (at, what)
		 where order_id = $1`, `
		select case
		       when state = 'failed' then 'the confirmation: the mail server has refused it for good'
		       when state = 'sending' then 'the confirmation: the reply of the mail server'
		       when not exists (select from customers c where c.id = customer_id) then 'the confirmation: its customer is not known yet'
		       else 'the confirmation: it is sent ' || to_char(due_at at time zone 'UTC', '"from" FMDD Mon YYYY, HH24:MI "UTC on"') || case when attempts > 0 then ', after ' || attempts || ' attempts' else '' end end
		  from mail where order_id = $1 and state in ('pending', 'sending', 'failed')`)
}
