package shipping

import (
	"context"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/edison-cars/data-feeds/shared/trace"
)

// traceOrder returns when the cars of an order became ready, left and came back, and what they wait for.
func traceOrder(ctx context.Context, db *pgxpool.Pool, id uuid.UUID) (trace.Part, error) {
	return trace.Read(ctx, db, id, `
		select order_id, customer_id from shipment where order_id = $1 or id = $1
		 union all select order_id, customer_id from build where order_id = $1 or id = $1`, `
		select at, 'car ' || car || ' ' || what, '/shipments/' || id
		  from shipment cross join lateral (values
		       (case when status = 'ready' or shipped_at is null then ready_at end, 'is ready to leave'),
		       (shipped_at, 'has left'),
		       (case when status = 'returned' then updated_at end, 'came back'),
		       (case when status = 'stopped' then updated_at end, 'does not leave')) as step (at, what)
		 where order_id = $1`, `
		select 'car ' || car || case
		       when status = 'shipped' then ': to come back, since its order is cancelled'
		       when status = 'ready' then ': to leave'
		       when not exists (select from build b where b.order_id = shipment.order_id and b.car = shipment.car and b.status = 'finished') then ': to be finished'
		       else ': the address of its customer' end
		  from shipment where order_id = $1 and (status in ('waiting', 'ready') or status = 'shipped' and order_id in (select id from cancelled_order)) order by car`)
}
