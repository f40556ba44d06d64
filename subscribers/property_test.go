package main

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"pgregory.net/rapid"

	"github.com/edison-cars/data-feeds/shared/daemon"
	"github.com/edison-cars/data-feeds/shared/feed"
	"github.com/edison-cars/data-feeds/shared/order"
	"github.com/edison-cars/data-feeds/shared/postgres/pgtest"
	"github.com/edison-cars/data-feeds/shared/service/subscriber"
	"github.com/edison-cars/data-feeds/shared/subscribe"
	"github.com/edison-cars/data-feeds/sql"
	"github.com/edison-cars/data-feeds/subscribers/dashboard"
	"github.com/edison-cars/data-feeds/subscribers/warehouse"
)

var (
	models  = []string{"volta", "ampere", "ohm", "joule"}
	options = []string{"long_range", "heat_pump", "glass_roof", "tow_bar", "all_wheel_drive", "driver_assistance", "third_row"}
)

func drawLines(t *rapid.T) []order.Line {
	return rapid.SliceOfN(rapid.Custom(func(t *rapid.T) order.Line {
		return order.Line{
			Model:          rapid.SampledFrom(models).Draw(t, "model"),
			Options:        rapid.SliceOfNDistinct(rapid.SampledFrom(options), 0, 3, rapid.ID).Draw(t, "options"),
			Quantity:       rapid.IntRange(1, 9).Draw(t, "quantity"),
			UnitPriceCents: rapid.Int64Range(1, 1000).Draw(t, "price"),
		}
	}), 1, 3).Draw(t, "lines")
}

// drawHistory returns a feed of orders that are placed, changed, cancelled and, if forget, deleted.
func drawHistory(t *rapid.T, forget bool) (history []feed.Entry) {
	latest := map[int]*order.Order{}
	for range rapid.IntRange(1, 25).Draw(t, "entries") {
		n := rapid.IntRange(1, 8).Draw(t, "order")
		o := latest[n]
		if o == nil {
			placed := noon.Add(time.Duration(rapid.IntRange(-100, 100).Draw(t, "hours")) * time.Hour)
			o = &order.Order{ID: uuid.NewSHA1(uuid.NameSpaceOID, fmt.Append(nil, n)), PlacedAt: feed.TimeOf(placed), Status: order.Placed, Lines: drawLines(t)}
			latest[n] = o
		} else {
			switch action := rapid.IntRange(0, 5).Draw(t, "action"); {
			case action == 0 && forget:
				history = append(history, feed.Entry{ID: o.ID, Version: o.Version + 1, Deleted: true})
				o.Version++
				continue
			case action <= 2:
				o.Status = order.Cancelled
			case o.Status == order.Placed:
				o.Lines = drawLines(t)
			}
		}
		o.Version++
		payload, err := json.Marshal(o)
		if err != nil {
			t.Fatal(err)
		}
		history = append(history, feed.Entry{ID: o.ID, Version: o.Version, Entity: payload})
	}
	return history
}

// stateAfter returns the orders that stand and those that are cancelled, as a reader of this history must see them.
func stateAfter(t *rapid.T, history []feed.Entry) (placed, cancelled []order.Order) {
	latest := map[uuid.UUID]feed.Entry{}
	for _, e := range history {
		latest[e.ID] = e
	}
	for _, e := range latest {
		if e.Deleted {
			continue
		}
		var o order.Order
		if err := json.Unmarshal(e.Entity, &o); err != nil {
			t.Fatal(err)
		}
		if o.Status == order.Placed {
			placed = append(placed, o)
		} else {
			cancelled = append(cancelled, o)
		}
	}
	return placed, cancelled
}

// A replica is a service that runs, and whose pages a test applies itself.
type replica struct {
	*subscriber.Service
	pool *pgxpool.Pool
	url  string
}

// noFeed is the address of no feed.
const noFeed = "http://127.0.0.1:1/feeds/none"

func newReplica(t *testing.T, s *subscriber.Service, source string) *replica {
	pool := pgtest.New(t, sql.Migrations("subscribe"), s.Migrations)
	env := map[string]string{"FEED_URL_ORDERS": source, "FEED_URL_BUILDS": noFeed, "FEED_URL_SHIPMENTS": noFeed, "POLL_ORDERS": "@yearly", "POLL_BUILDS": "@yearly", "POLL_SHIPMENTS": "@yearly", "LEAD_SPEED": "1"}
	if s.Settings != nil {
		if err := daemon.Parse(env, s.Settings); err != nil {
			t.Fatal(err)
		}
	}
	return &replica{s, pool, start(t, s.Name, pool, env)}
}

func (r *replica) apply(t *rapid.T, entries []feed.Entry) {
	err := pgx.BeginFunc(context.Background(), r.pool, func(tx pgx.Tx) error {
		newer, err := r.Feeds[0].Newer(context.Background(), tx, (&feed.Page{Entries: entries}).Latest(nil))
		if err != nil {
			return err
		}
		return r.Feeds[0].Apply(context.Background(), tx, subscribe.NewBatch(newer))
	})
	if err != nil {
		t.Fatalf("%s: %v", r.Name, err)
	}
}

// read asks the service's API.
func read[T any](t *rapid.T, r *replica, path string) (v T) {
	if _, _, body := get(t, r.url+path, "application/json"); json.Unmarshal([]byte(body), &v) != nil {
		t.Fatalf("%s%s: %s", r.Name, path, body)
	}
	return v
}

// copies applies the history to r in pages of any size, and now and then what was applied before again. It calls check
// after each.
func copies(t *rapid.T, r *replica, history []feed.Entry, reset string, check func(copied []feed.Entry, again bool)) {
	if _, err := r.pool.Exec(context.Background(), reset); err != nil {
		t.Fatal(err)
	}
	deletes := slices.ContainsFunc(history, func(e feed.Entry) bool { return e.Deleted })
	for from := 0; from < len(history); {
		to := min(from+rapid.IntRange(1, 10).Draw(t, "page size"), len(history))
		r.apply(t, history[from:to])
		check(history[:to], false)
		if rapid.Bool().Draw(t, "again") {
			first, last := from, to
			if !deletes { // an old page would bring back what is deleted, until its deletion comes again too
				first = rapid.IntRange(0, to-1).Draw(t, "from")
				last = rapid.IntRange(first+1, to).Draw(t, "to")
			}
			r.apply(t, history[first:last])
			check(history[:to], true)
		}
		from = to
	}
}

type stock struct {
	Part                               string
	OnHand, Reserved, OnOrder, Reorder int64
	Lot, Purchased, InReservations     int64
	Moved                              int64 // into reservations
}

// Whatever the history, the pages and the repetitions, the warehouse reserves what the orders that stand take, orders
// what is short in whole lots, and orders nothing because of a repetition.
func TestWarehouseProperty(t *testing.T) {
	t.Parallel()
	pgtest.Slow(t, "many runs")
	r := newReplica(t, warehouse.Service(), ordersFeed(t))
	takes := map[string]map[string]int64{}
	rows, err := r.pool.Query(t.Context(), `select item, part, quantity from bill_of_materials`)
	if err != nil {
		t.Fatal(err)
	}
	var item, part string
	var quantity int64
	if _, err := pgx.ForEachRow(rows, []any{&item, &part, &quantity}, func() error {
		if takes[item] == nil {
			takes[item] = map[string]int64{}
		}
		takes[item][part] = quantity
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	if len(takes) != len(models)+len(options) {
		t.Fatalf("%d models and options have a bill of materials", len(takes))
	}
	rapid.Check(t, func(t *rapid.T) {
		bought := map[string]int64{}
		copies(t, r, drawHistory(t, rapid.Bool().Draw(t, "forget")), `truncate orders, reservation, purchase, movement; update part set reserved = 0, on_order = 0`,
			func(copied []feed.Entry, again bool) {
				want := map[string]int64{}
				placed, _ := stateAfter(t, copied)
				for _, o := range placed {
					for _, l := range o.Lines {
						for _, item := range append([]string{l.Model}, l.Options...) {
							for part, n := range takes[item] {
								want[part] += n * int64(l.Quantity)
							}
						}
					}
				}
				rows, err := r.pool.Query(context.Background(), `
					select part, on_hand, reserved, on_order, reorder_point, lot,
					       (select coalesce(sum(quantity), 0)::bigint from purchase p where p.part = part.part and arrived_at is null),
					       (select coalesce(sum(quantity), 0)::bigint from reservation r where r.part = part.part),
					       (select coalesce(sum(reserved), 0)::bigint from movement m where m.part = part.part)
					  from part order by part`)
				if err != nil {
					t.Fatal(err)
				}
				stocks, err := pgx.CollectRows(rows, pgx.RowToStructByPos[stock])
				if err != nil {
					t.Fatal(err)
				}
				shown := read[[]struct {
					Part     string
					Reserved int64
				}](t, r, "/api/parts")
				for i, s := range stocks {
					switch {
					case s.Reserved != want[s.Part] || s.InReservations != want[s.Part] || s.Moved != want[s.Part] || shown[i].Reserved != want[s.Part] || shown[i].Part != s.Part:
						t.Fatalf("%d %s are reserved, %d in reservations, %v shown, not %d", s.Reserved, s.Part, s.InReservations, shown[i], want[s.Part])
					case s.OnOrder != s.Purchased || s.OnOrder%s.Lot != 0 || s.OnHand+s.OnOrder-s.Reserved < s.Reorder:
						t.Fatalf("purchases of %s: %+v", s.Part, s)
					case s.OnOrder != bought[s.Part] && (again || s.OnHand+s.OnOrder-s.Lot-s.Reserved >= s.Reorder):
						t.Fatalf("too many %s were ordered after %d: %+v", s.Part, bought[s.Part], s)
					}
					bought[s.Part] = s.OnOrder
				}
			})
	})
}

type sums struct {
	RevenueCents int64 `json:"revenue_cents"`
	Orders, Cars int64
	Cancelled    int64
	ByModel      []sum `json:"by_model"`
	ByDay        []sum `json:"by_day"`
	ByOption     []sum `json:"by_option"`
}

type sum struct {
	Model, Option, Day string
	Orders, Cars       int64
	RevenueCents       int64 `json:"revenue_cents"`
}

// Whatever the history, the pages and the repetitions, the dashboard counts what the orders that stand amount to.
func TestDashboardProperty(t *testing.T) {
	t.Parallel()
	pgtest.Slow(t, "many runs")
	r := newReplica(t, dashboard.Service, ordersFeed(t))
	rapid.Check(t, func(t *rapid.T) {
		copies(t, r, drawHistory(t, rapid.Bool().Draw(t, "forget")), `truncate orders, figure`, func(copied []feed.Entry, _ bool) {
			placed, cancelled := stateAfter(t, copied)
			want := sums{Orders: int64(len(placed)), Cancelled: int64(len(cancelled))}
			byModel, byDay, byOption := map[string]sum{}, map[string]sum{}, map[string]sum{}
			for _, o := range placed {
				day := o.PlacedAt.UTC().Format(time.DateOnly)
				d := byDay[day]
				d.Day = day
				d.Orders++
				for _, l := range o.Lines {
					cars, cents := int64(l.Quantity), int64(l.Quantity)*l.UnitPriceCents
					m := byModel[l.Model]
					byModel[l.Model] = sum{Model: l.Model, Cars: m.Cars + cars, RevenueCents: m.RevenueCents + cents}
					for _, option := range l.Options {
						o := byOption[option]
						byOption[option] = sum{Option: option, Cars: o.Cars + cars, RevenueCents: o.RevenueCents + cents}
					}
					d.Cars += cars
					d.RevenueCents += cents
					want.Cars += cars
					want.RevenueCents += cents
				}
				byDay[day] = d
			}
			mostCars := func(a, b sum) int {
				return cmp.Or(cmp.Compare(b.Cars, a.Cars), cmp.Compare(a.Model, b.Model), cmp.Compare(a.Option, b.Option))
			}
			want.ByModel = slices.SortedFunc(maps.Values(byModel), mostCars)
			want.ByOption = slices.SortedFunc(maps.Values(byOption), mostCars)
			want.ByDay = slices.SortedFunc(maps.Values(byDay), func(a, b sum) int { return cmp.Compare(a.Day, b.Day) })
			got := read[sums](t, r, "/api/stats")
			if fmt.Sprint(got) != fmt.Sprint(want) {
				t.Fatalf("it counts\n%+v, not\n%+v", got, want)
			}
		})
	})
}
