package dashboard

import (
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/edison-cars/data-feeds/shared/carbuild"
	"github.com/edison-cars/data-feeds/shared/feed"
	"github.com/edison-cars/data-feeds/shared/order"
	"github.com/edison-cars/data-feeds/shared/postgres/pgtest"
	"github.com/edison-cars/data-feeds/shared/shipment"
	"github.com/edison-cars/data-feeds/sql"
)

var began = time.Date(2026, 11, 23, 12, 0, 0, 0, time.UTC)

// car returns the build of a car of order n; it finishes so long after noon.
func car(t *testing.T, n, number int, version int64, status carbuild.Status, finished time.Duration) feed.Entry {
	t.Helper()
	of := entry(t, n, 1, "", "").ID
	b := carbuild.Build{ID: uuid.NewSHA1(of, fmt.Append(nil, number)), Version: version, Status: status, OrderID: of, Car: number, Model: "volta", Options: []string{}}
	if at := began.Add(finished); status == carbuild.Finished {
		b.FinishedAt = feed.OptionalTime(&at)
	}
	return published(t, b.ID, version, b)
}

// sent returns the shipment of that car.
func sent(t *testing.T, n, number int, version int64, status shipment.Status, shipped time.Duration) feed.Entry {
	t.Helper()
	of := entry(t, n, 1, "", "").ID
	s := shipment.Shipment{ID: uuid.NewSHA1(of, fmt.Append(nil, "shipment ", number)), Version: version, Status: status, OrderID: of, Car: number}
	if at := began.Add(shipped); status == shipment.Shipped {
		s.ShippedAt = feed.OptionalTime(&at)
	}
	return published(t, s.ID, version, s)
}

func published(t *testing.T, id uuid.UUID, version int64, entity any) feed.Entry {
	t.Helper()
	payload, err := json.Marshal(entity)
	if err != nil {
		t.Fatal(err)
	}
	return feed.Entry{ID: id, Version: version, Entity: payload}
}

// stageOf returns that of order n.
func stageOf(t *testing.T, pool *pgxpool.Pool, n int) (stage string) {
	t.Helper()
	if err := pool.QueryRow(t.Context(), `select stage from orders where id = $1`, entry(t, n, 1, "", "").ID).Scan(&stage); err != nil {
		t.Fatal(err)
	}
	return stage
}

func TestStages(t *testing.T) {
	t.Parallel()
	type page struct {
		feed    string
		entries []feed.Entry
	}
	two := page{order.Feed, []feed.Entry{entry(t, 1, 1, order.Placed, noon, line(1, "volta", 100), line(1, "ohm", 200))}}
	both := func(status carbuild.Status) page {
		return page{carbuild.Feed, []feed.Entry{car(t, 1, 1, 3, status, time.Hour), car(t, 1, 2, 3, status, 2*time.Hour)}}
	}
	first := page{shipment.Feed, []feed.Entry{sent(t, 1, 1, 2, shipment.Shipped, 3*time.Hour)}}
	second := page{shipment.Feed, []feed.Entry{sent(t, 1, 2, 2, shipment.Shipped, 5*time.Hour)}}
	for _, c := range []struct {
		name  string
		pages []page
		want  string
	}{
		{"placed", []page{two}, "placed"},
		{"one of two cars is planned", []page{two, {carbuild.Feed, []feed.Entry{car(t, 1, 1, 1, carbuild.Planned, 0)}}}, "placed"},
		{"planned", []page{two, both(carbuild.Planned)}, "planned"},
		{"builds that come before their order", []page{both(carbuild.Planned), two}, "planned"},
		{"one car is finished, one only planned", []page{two, {carbuild.Feed, []feed.Entry{car(t, 1, 1, 3, carbuild.Finished, 0), car(t, 1, 2, 1, carbuild.Planned, 0)}}}, "planned"},
		{"one car is finished, one started", []page{two, {carbuild.Feed, []feed.Entry{car(t, 1, 1, 3, carbuild.Finished, 0), car(t, 1, 2, 2, carbuild.Started, 0)}}}, "started"},
		{"built", []page{two, both(carbuild.Finished)}, "built"},
		{"one of two cars is shipped", []page{two, both(carbuild.Finished), first}, "built"},
		{"a shipment that waits is none", []page{two, both(carbuild.Finished), first, {shipment.Feed, []feed.Entry{sent(t, 1, 2, 1, shipment.Waiting, 0)}}}, "built"},
		{"shipped", []page{two, both(carbuild.Finished), first, second}, "shipped"},
		{"shipments before builds and order", []page{second, first, both(carbuild.Finished), two}, "shipped"},
		{"shipments are known sooner than that the cars are finished", []page{two, both(carbuild.Started), first, second}, "shipped"},
		{"everything twice", []page{two, both(carbuild.Finished), first, second, two, both(carbuild.Finished), first, second}, "shipped"},
		{"a build that is deleted", []page{two, both(carbuild.Finished), {carbuild.Feed, []feed.Entry{{ID: car(t, 1, 2, 1, carbuild.Planned, 0).ID, Version: 4, Deleted: true}}}}, "placed"},
		{"a shipment that is deleted", []page{two, both(carbuild.Finished), first, second, {shipment.Feed, []feed.Entry{{ID: sent(t, 1, 2, 1, shipment.Ready, 0).ID, Version: 3, Deleted: true}}}}, "built"},
		{"a build that is cancelled", []page{two, both(carbuild.Cancelled)}, "placed"},
		{"a cancelled order, whatever is built", []page{two, both(carbuild.Finished), {order.Feed, []feed.Entry{entry(t, 1, 2, order.Cancelled, noon, line(2, "volta", 100))}}}, "cancelled"},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			pool := pgtest.New(t, sql.Migrations("subscribe"), sql.Migrations("dashboard"))
			for _, p := range c.pages {
				copyFeed(t, pool, p.feed, p.entries...)
			}
			if got := stageOf(t, pool, 1); got != c.want {
				t.Errorf("it is %s, not %s", got, c.want)
			}
			s := statsFor(t, pool, "")
			for _, by := range s.ByStage {
				if want := map[bool]int64{true: 1}[by.Stage == c.want]; by.Orders != want {
					t.Errorf("%d orders are %s", by.Orders, by.Stage)
				}
			}
		})
	}
}

func TestLeadTimes(t *testing.T) {
	t.Parallel()
	pool := pgtest.New(t, sql.Migrations("subscribe"), sql.Migrations("dashboard"))
	for n := range 20 { // built after 1, 2, 3 ... 20 hours, and shipped a minute later
		copyPage(t, pool, entry(t, n, 1, order.Placed, noon, line(2, "volta", 100)))
		hours := time.Duration(n+1) * time.Hour
		copyFeed(t, pool, carbuild.Feed, car(t, n, 1, 3, carbuild.Finished, hours), car(t, n, 2, 3, carbuild.Finished, time.Minute))
		if n > 0 {
			copyFeed(t, pool, shipment.Feed, sent(t, n, 1, 3, shipment.Shipped, hours+time.Minute), sent(t, n, 2, 3, shipment.Shipped, time.Minute))
		}
	}
	copyPage(t, pool, entry(t, 99, 1, order.Placed, "2026-11-24T12:00:00Z", line(1, "volta", 100)))
	copyFeed(t, pool, carbuild.Feed, car(t, 99, 1, 3, carbuild.Finished, 24*time.Hour+1234567*time.Second))
	want := []leadTime{
		{"placed", "built", 20, 36000, 65000}, // 10 h and 18 h
		{"built", "shipped", 19, 60, 60},
		{"placed", "shipped", 19, 40000, 68000}, // 11 h 1 min and 19 h 1 min
	}
	if got := statsFor(t, pool, "to=2026-11-23").LeadTimes; !slices.Equal(got, want) {
		t.Errorf("%+v, not %+v", got, want)
	}
	want = []leadTime{{"placed", "built", 1, 1200000, 1200000}}
	if got := statsFor(t, pool, "from=2026-11-24").LeadTimes; !slices.Equal(got, want) {
		t.Errorf("%+v, not %+v", got, want)
	}
}

// Three feeds arrive at the same moment, each in its own order.
func TestFeedsArriveAtOnce(t *testing.T) {
	t.Parallel()
	pool := pgtest.New(t, sql.Migrations("subscribe"), sql.Migrations("dashboard"))
	pages := map[string][][]feed.Entry{}
	for n := range 12 {
		pages[order.Feed] = append(pages[order.Feed], []feed.Entry{entry(t, n, 1, order.Placed, noon, line(1, "volta", 100))})
		pages[carbuild.Feed] = append(pages[carbuild.Feed], []feed.Entry{car(t, n, 1, 3, carbuild.Finished, time.Hour)})
		pages[shipment.Feed] = append(pages[shipment.Feed], []feed.Entry{sent(t, n, 1, 3, shipment.Shipped, time.Hour)})
	}
	var all sync.WaitGroup
	for name, list := range pages {
		rand.Shuffle(len(list), func(i, j int) { list[i], list[j] = list[j], list[i] })
		all.Go(func() {
			for _, page := range list {
				apply(t, pool, name, page...)
			}
		})
	}
	all.Wait()
	wantFigures(t, pool)
	if s := statsFor(t, pool, ""); s.ByStage[4] != (stageSum{"shipped", 12}) || s.Orders != 12 {
		t.Errorf("%+v", s)
	}
}
