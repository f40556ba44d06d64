package billing

import (
	"context"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/edison-cars/data-feeds/shared/trace"
)

// traceOrder returns the invoice of an order, its credit notes, and what they wait for.
func traceOrder(ctx context.Context, db *pgxpool.Pool, id uuid.UUID) (trace.Part, error) {
	return trace.Read(ctx, db, id, `
		select id, customer_id from orders where id = $1
		 union all select order_id, customer_id from document where order_id = $1
		 union all select s.order_id, o.customer_id from shipment s left join orders o on o.id = s.order_id where s.id = $1`, `
		select issued_at, case when kind = 'invoice' then 'invoice ' || number else 'credit note ' || number || ' for invoice ' || credits end,
		       case when kind = 'invoice' then '/invoices/' else '/credit-notes/' end || number
		  from document where order_id = $1`, `
		select case when exists (select from deleted_customer d where d.id = customer_id) then 'the invoice: its customer is deleted' else 'the invoice: its customer is not known yet' end
		  from orders where id = $1 and not isempty(missing)
		 union all
		select 'the credit note for invoice ' || s.invoice || ': what becomes of its cars'
		  from standing s join document i on i.number = s.invoice left join orders o on o.id = i.order_id
		 where i.order_id = $1 and o.status is distinct from 'placed' and exists (
		       select from unnest(s.cars) as r cross join generate_series(lower(r), upper(r) - 1) as n
		        where not exists (select from shipment h where h.order_id = $1 and h.car = n and h.status = 'shipped'))`)
}
