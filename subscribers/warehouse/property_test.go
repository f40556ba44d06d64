package warehouse

import (
	"context"
	"maps"
	"slices"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"pgregory.net/rapid"

	"github.com/edison-cars/data-feeds/shared/carbuild"
	"github.com/edison-cars/data-feeds/shared/feed"
	"github.com/edison-cars/data-feeds/shared/order"
	"github.com/edison-cars/data-feeds/shared/postgres/pgtest"
	"github.com/edison-cars/data-feeds/sql"
)

// A takes says how many pieces of each part something takes.
type takes map[string]int64

// A change is an entry, and what it does to the model.
type change struct {
	feed.Entry
	apply func(*plant)
}

// A plant is a model of the warehouse: what the orders that stand take, and what the builds that have started.
type plant struct {
	ordered map[int]takes         // by order
	built   map[int]map[int]takes // by order and car
}

// Whatever the interleaving of the pages of both feeds and of arrivals, and what comes again: the pieces of each started
// build are taken once, those of the other cars of an order that stands are reserved, and no others.
func TestAnyArrival(t *testing.T) {
	t.Parallel()
	pgtest.Slow(t, "many runs")
	pool := pgtest.New(t, sql.Migrations("subscribe"), sql.Migrations("warehouse"))
	bill, counted := map[string]takes{}, map[string]int64{}
	collect(t, pool, `select item, part, quantity from bill_of_materials`, func(item, part string, n int64) {
		if bill[item] == nil {
			bill[item] = takes{}
		}
		bill[item][part] = n
	})
	collect(t, pool, `select part, '', on_hand from part`, func(part, _ string, n int64) { counted[part] = n })
	of := func(lines ...order.Line) takes {
		sum := takes{}
		for _, l := range lines {
			for _, item := range append([]string{l.Model}, l.Options...) {
				for part, n := range bill[item] {
					sum[part] += n * int64(l.Quantity)
				}
			}
		}
		return sum
	}
	rapid.Check(t, func(t *rapid.T) {
		if err := reset(pool, counted); err != nil {
			t.Fatal(err)
		}
		model := &plant{map[int]takes{}, map[int]map[int]takes{}}
		feeds := [2][]change{drawOrders(t, of), drawBuilds(t, of)}
		for len(feeds[0])+len(feeds[1]) > 0 {
			if rapid.IntRange(0, 3).Draw(t, "arrivals") == 0 {
				if err := book(context.Background(), pool, time.Now().AddDate(1, 0, 0)); err != nil {
					t.Fatal(err)
				}
			}
			which := rapid.IntRange(0, 1).Draw(t, "feed")
			if len(feeds[which]) == 0 {
				which = 1 - which
			}
			size := min(rapid.IntRange(1, 5).Draw(t, "page size"), len(feeds[which]))
			var page []feed.Entry
			for _, c := range feeds[which][:size] {
				page = append(page, c.Entry)
				c.apply(model)
			}
			feeds[which] = feeds[which][size:]
			copies := []func(rapid.TB, *pgxpool.Pool, ...feed.Entry){copyPage, copyBuilds}[which]
			copies(t, pool, page...)
			model.check(t, pool, counted)
			if !slices.ContainsFunc(page, func(e feed.Entry) bool { return e.Deleted }) && rapid.Bool().Draw(t, "again") {
				copies(t, pool, page...)
				model.check(t, pool, counted)
			}
		}
	})
}

func reset(pool *pgxpool.Pool, counted map[string]int64) error {
	_, err := pool.Exec(context.Background(), `truncate orders, build, reservation, purchase, movement`)
	if err != nil {
		return err
	}
	_, err = pool.Exec(context.Background(), `
		with counted as (
			update part set reserved = 0, on_order = 0, on_hand = value::bigint from jsonb_each_text($1) where part = key returning part, on_hand
		)
		insert into movement (part, on_hand, on_hand_after, reserved_after, on_order_after) select part, on_hand, on_hand, 0, 0 from counted`, counted)
	return err
}

func collect(t *testing.T, pool *pgxpool.Pool, query string, add func(string, string, int64)) {
	t.Helper()
	rows, err := pool.Query(t.Context(), query)
	if err != nil {
		t.Fatal(err)
	}
	var a, b string
	var n int64
	if _, err := pgx.ForEachRow(rows, []any{&a, &b, &n}, func() error { add(a, b, n); return nil }); err != nil {
		t.Fatal(err)
	}
}

const orders = 4

func drawOrders(t *rapid.T, of func(...order.Line) takes) (feed []change) {
	versions := map[int]int64{}
	for range rapid.IntRange(1, 12).Draw(t, "entries of orders") {
		n := rapid.IntRange(1, orders).Draw(t, "order")
		versions[n]++
		status := rapid.SampledFrom([]order.Status{order.Placed, order.Placed, order.Cancelled, ""}).Draw(t, "status")
		lines := []order.Line{line(rapid.IntRange(1, 3).Draw(t, "cars"), "volta", "heat_pump"), line(1, "ohm")}
		feed = append(feed, change{entry(t, n, versions[n], status, lines...), func(p *plant) {
			if delete(p.ordered, n); status == order.Placed {
				p.ordered[n] = of(lines...)
			}
		}})
	}
	return feed
}

func drawBuilds(t *rapid.T, of func(...order.Line) takes) (feed []change) {
	versions := map[[2]int]int64{}
	for range rapid.IntRange(1, 20).Draw(t, "entries of builds") {
		n, car := rapid.IntRange(1, orders).Draw(t, "order"), rapid.IntRange(1, 3).Draw(t, "car")
		versions[[2]int{n, car}]++
		status := rapid.SampledFrom([]carbuild.Status{carbuild.Planned, carbuild.Started, carbuild.Started, carbuild.Finished, carbuild.Cancelled, ""}).Draw(t, "status")
		of := of(line(1, "volta", "heat_pump"))
		feed = append(feed, change{built(n, car, versions[[2]int{n, car}], status, "volta", "heat_pump"), func(p *plant) {
			if p.built[n] == nil {
				p.built[n] = map[int]takes{}
			}
			if delete(p.built[n], car); status == carbuild.Started || status == carbuild.Finished {
				p.built[n][car] = of
			}
		}})
	}
	return feed
}

// check compares the stock with the model.
func (p *plant) check(t *rapid.T, pool *pgxpool.Pool, counted map[string]int64) {
	t.Helper()
	reserved, onHand := maps.Clone(counted), maps.Clone(counted)
	clear(reserved)
	for n := range orders + 1 {
		left := maps.Clone(p.ordered[n])
		for _, car := range p.built[n] {
			for part, pieces := range car {
				onHand[part] -= pieces
				if left != nil {
					left[part] -= pieces
				}
			}
		}
		for part, pieces := range left {
			reserved[part] += max(pieces, 0)
		}
	}
	list, err := parts(context.Background(), pool)
	if err != nil {
		t.Fatal(err)
	}
	for _, s := range list {
		var arrived int64
		if err := pool.QueryRow(context.Background(), `select coalesce(sum(quantity), 0)::bigint from purchase where part = $1 and arrived_at is not null`, s.Part).Scan(&arrived); err != nil {
			t.Fatal(err)
		}
		if s.Reserved != reserved[s.Part] || s.OnHand != onHand[s.Part]+arrived {
			t.Fatalf("%+v, want %d reserved and %d on hand", s, reserved[s.Part], onHand[s.Part]+arrived)
		}
	}
}
