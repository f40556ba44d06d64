package warehouse

import (
	"context"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/edison-cars/data-feeds/shared/trace"
)

// traceOrder returns when the pieces of an order were reserved and released, and which are missing.
func traceOrder(ctx context.Context, db *pgxpool.Pool, id uuid.UUID) (trace.Part, error) {
	return trace.Read(ctx, db, id, `
		select id, null::uuid from orders where id = $1
		 union all select order_id, null from movement where order_id = $1`, `
		select min(moved_at), case when on_hand < 0 then 'built in ' || -sum(on_hand) || ' pieces' when reserved > 0 then 'reserved ' || sum(reserved) || ' pieces'
		       else 'released ' || -sum(reserved) || ' pieces' end || ' of ' || count(distinct part) || ' parts', '/reservations/' || order_id
		  from movement where order_id = $1 group by order_id, on_hand < 0, reserved > 0, date_trunc('second', moved_at)`, `
		select p.reserved - p.on_hand || ' pieces of ' || p.name || ' that all cars together lack'
		  from reservation r join part p using (part) where r.order_id = $1 and r.quantity > 0 and p.reserved > p.on_hand order by p.name`)
}
