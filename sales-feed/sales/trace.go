package sales

import (
	"context"
	"encoding/json"
	"fmt"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"github.com/edison-cars/data-feeds/shared/order"
	"github.com/edison-cars/data-feeds/shared/trace"
	"github.com/edison-cars/data-feeds/shared/web"
)

// trace returns the versions of an order, or the orders of a customer.
func (s *store) trace(ctx context.Context, id uuid.UUID) (p trace.Part, err error) {
	entries, err := s.log.Versions(ctx, order.Feed, id, trace.MaxSteps)
	if err != nil {
		return p, err
	}
	for _, e := range entries {
		if e.Superseded && e.Version == 1 { // what it said is not kept
			p.Steps = append(p.Steps, trace.Step{At: e.Updated, Text: "order placed", Path: "/orders/" + id.String()})
		}
		var o order.Order
		if err := json.Unmarshal(e.Entity, &o); err != nil || e.Deleted {
			continue
		}
		p.OrderID, p.CustomerID = &id, &o.CustomerID
		text := "order placed: " + shown(&o).Summary + ", " + web.Money(o.TotalCents, o.Currency)
		if o.Status == order.Cancelled {
			text = "cancellation requested"
		}
		p.Steps = append(p.Steps, trace.Step{At: e.Updated, Text: text, Path: "/orders/" + id.String()})
	}
	if p.OrderID != nil {
		return p, nil
	}
	rows, _ := s.pool.Query(ctx, `select id, placed_at from orders where customer_id = $1 order by placed_at limit $2`, id, trace.MaxSteps)
	var of uuid.UUID
	var at time.Time
	_, err = pgx.ForEachRow(rows, []any{&of, &at}, func() error {
		p.CustomerID = &id
		p.Steps = append(p.Steps, trace.Step{At: at, Text: fmt.Sprintf("order %s placed", web.Short(of)), Path: "/trace/" + of.String()})
		return nil
	})
	return p, err
}
