package assembly

import (
	"context"
	"fmt"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/edison-cars/data-feeds/shared/carbuild"
	"github.com/edison-cars/data-feeds/shared/trace"
)

// trace returns when the cars of an order were planned, started and finished, and what they wait for.
func (f *factory) trace(ctx context.Context, db *pgxpool.Pool, id uuid.UUID, now time.Time) (p trace.Part, err error) {
	p, err = trace.Read(ctx, db, id, `
		select order_id, customer_id from build where order_id = $1 or id = $1
		 union all select id, null from orders where id = $1`, `
		select min(updated), 'car ' || car || case status when 'planned' then ' is planned for ' || slot when 'started' then ': the build has started' else ': the build is ' || status end,
		       '/builds/' || id
		  from (select b.id, b.car, b.slot, e.updated, convert_from(e.payload, 'UTF8')::jsonb ->> 'status' as status
		          from build b join feed_entry e on e.feed = '`+carbuild.Feed+`' and e.entity_id = b.id where b.order_id = $1) as version
		 where status is not null group by id, car, slot, status`, `
		select '' where $1::uuid is null`)
	if err != nil || p.OrderID == nil {
		return p, err
	}
	c, err := f.readClock(ctx, db, now)
	if err != nil {
		return p, err
	}
	builds, err := some(ctx, db, `order_id = $1 and status in ('planned', 'started') order by car`, p.OrderID)
	for _, b := range builds {
		next := map[carbuild.Status]string{carbuild.Planned: "starts", carbuild.Started: "ends"}[b.Status]
		when := "later"
		if b.Due != nil {
			when = c.when(*b.Due).UTC().Format("on 2 January 2006 at 15:04:05") + " UTC"
		}
		p.WaitsFor = append(p.WaitsFor, fmt.Sprintf("car %d: its build %s %s", b.Car, next, when))
	}
	return p, err
}
