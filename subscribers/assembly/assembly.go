// Package assembly plans a build for every ordered car, builds it, and publishes its progress.
package assembly

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"slices"
	"strconv"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"github.com/edison-cars/data-feeds/shared/carbuild"
	"github.com/edison-cars/data-feeds/shared/feed"
	"github.com/edison-cars/data-feeds/shared/order"
	"github.com/edison-cars/data-feeds/shared/publish"
	"github.com/edison-cars/data-feeds/shared/service/subscriber"
	"github.com/edison-cars/data-feeds/shared/subscribe"
	"github.com/edison-cars/data-feeds/shared/trace"
	"github.com/edison-cars/data-feeds/sql"
)

// Service returns the assembly service.
func Service() *subscriber.Service {
	f := new(factory)
	return &subscriber.Service{
		Name: "assembly", Title: "Assembly", Addr: "127.0.0.1:8091",
		Text:       "plans a build per ordered car, builds it, publishes builds",
		Migrations: sql.Migrations("assembly"),
		Settings:   f,
		Feeds: []subscribe.Feed{{
			Name: order.Feed, URL: "http://localhost:8080/feeds/orders", Schedule: "@every 5s", Table: "orders",
			Check: order.Check, Needs: orderPart.Needs,
			Apply: subscribe.Publishing(func(ctx context.Context, tx *publish.Tx, batch *subscribe.Batch) error {
				return f.apply(ctx, tx, batch, now())
			}),
		}},
		Publishes: func(publicURL string) []feed.Description { return []feed.Description{describe(publicURL)} },
		Work:      func(ctx context.Context, s *subscriber.Site) error { return f.work(ctx, s.DB, s.Log, now()) },
		Trace: func(ctx context.Context, s *subscriber.Site, id uuid.UUID) (trace.Part, error) {
			return f.trace(ctx, s.DB, id, now())
		},
		Routes: func(s *subscriber.Site) {
			s.Page("/", "Builds", overviewPage, func(r *http.Request) (any, error) { return f.overview(r.Context(), s.DB, now()) })
			s.Page("/builds", "All builds", buildsPage, func(r *http.Request) (any, error) { return f.list(r, s.DB, now()) })
			s.Page("/builds/:id", "Build", buildPage, func(r *http.Request) (any, error) { return f.show(r.Context(), s.DB, r.PathValue("id"), now()) })
			s.JSON("/api/builds", func(r *http.Request) (any, error) { return apiList(r, s.DB) })
		},
	}
}

type factory struct {
	Capacity capacity `env:"CAPACITY" envDefault:"20" help:"cars that the factory can build in a day, 1 to 100000"`
	Speed    speed    `env:"CLOCK_SPEED" envDefault:"2880" help:"how many times faster than real time the factory works, 0.01 to 10000: 1 is real time, at 2880 a day takes 30 s"`
}

type capacity int

// UnmarshalText reads a whole number from 1 to 100000.
func (c *capacity) UnmarshalText(text []byte) error {
	n, err := strconv.Atoi(string(text))
	if err != nil || n < 1 || n > 100_000 {
		return fmt.Errorf("takes a whole number from 1 to 100000, not %.40q", text)
	}
	*c = capacity(n)
	return nil
}

func now() time.Time { return time.Now().UTC().Truncate(time.Microsecond) }

// apply plans a build for every car of the orders in the batch, and cancels the builds that no order has any more,
// unless they have started.
func (f *factory) apply(ctx context.Context, tx *publish.Tx, batch *subscribe.Batch, now time.Time) error {
	orders, err := copyOrders(ctx, tx, batch)
	if err != nil {
		return err
	}
	known, err := buildsOf(ctx, tx, append(batch.IDs(), batch.Deleted...))
	if err != nil {
		return err
	}
	byID := make(map[uuid.UUID]*row, len(known))
	for _, b := range known {
		byID[b.ID] = b
	}
	var planned, changed, cancelled []*row
	for i := range orders {
		for _, want := range wanted(&orders[i]) {
			b := byID[want.ID]
			delete(byID, want.ID)
			switch {
			case b == nil:
				planned = append(planned, &row{Build: want})
			case b.Status == carbuild.Cancelled: // the order returned, for example after sales was restored from a backup
				b.CustomerID, b.Model, b.Options = want.CustomerID, want.Model, want.Options
				planned = append(planned, b)
			case b.Status == carbuild.Planned && !sameCar(&b.Build, &want):
				b.CustomerID, b.Model, b.Options = want.CustomerID, want.Model, want.Options
				changed = append(changed, b)
			}
		}
	}
	for _, b := range known {
		if byID[b.ID] != nil && b.Status == carbuild.Planned {
			b.Status, b.Due = carbuild.Cancelled, nil
			cancelled = append(cancelled, b)
		}
	}
	if err := free(ctx, tx, cancelled); err != nil {
		return err
	}
	if err := f.plan(ctx, tx, planned, now); err != nil {
		return err
	}
	return save(ctx, tx, slices.Concat(cancelled, changed, planned), now)
}

// copyOrders stores the orders of the batch, and returns them. It refuses an order with more cars than the table
// allows, and several orders with more than maxCars.
func copyOrders(ctx context.Context, tx pgx.Tx, batch *subscribe.Batch) ([]orderRead, error) {
	orders := make([]orderRead, len(batch.Entities))
	numbers := make([]int, len(orders))
	versions := make([]int64, len(orders))
	sum := 0
	for i, e := range batch.Entities {
		if err := json.Unmarshal(e.Entity, &orders[i]); err != nil {
			return nil, fmt.Errorf("read order %s: %w", e.ID, err)
		}
		orders[i].ID, versions[i], numbers[i] = e.ID, e.Version, cars(&orders[i])
		if sum += numbers[i]; sum > maxCars && len(orders) > 1 {
			return nil, subscribe.ErrTooMuch
		}
	}
	var b pgx.Batch
	b.Queue(`
		insert into orders (id, version, cars) select * from unnest($1::uuid[], $2::bigint[], $3::int[])
		on conflict (id) do update set version = excluded.version, cars = excluded.cars`, batch.IDs(), versions, numbers)
	b.Queue(`delete from orders where id = any($1)`, batch.Deleted)
	return orders, tx.SendBatch(ctx, &b).Close()
}

const (
	// maxQuantity bounds each number before they are summed; the table orders bounds the sum.
	maxQuantity = 10_000
	// maxCars is the limit of cars in a batch of several orders.
	maxCars = 20_000
)

// cars returns the number of cars, or -1 if a quantity is invalid.
func cars(o *orderRead) (n int) {
	for _, l := range o.Lines {
		if l.Quantity < 1 || l.Quantity > maxQuantity || n > maxQuantity {
			return -1
		}
		n += l.Quantity
	}
	return n
}

func wanted(o *orderRead) (builds []carbuild.Build) {
	if o.Status != order.Placed {
		return nil
	}
	for _, l := range o.Lines {
		for range l.Quantity {
			car := len(builds) + 1
			builds = append(builds, carbuild.Build{
				ID: uuid.NewSHA1(o.ID, []byte(strconv.Itoa(car))), Status: carbuild.Planned, OrderID: o.ID, CustomerID: o.CustomerID,
				Car: car, Model: l.Model, Options: append([]string{}, l.Options...),
			})
		}
	}
	return builds
}

func sameCar(a, b *carbuild.Build) bool {
	return a.CustomerID == b.CustomerID && a.Model == b.Model && slices.Equal(a.Options, b.Options)
}
