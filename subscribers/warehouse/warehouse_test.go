package warehouse

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"pgregory.net/rapid"

	"github.com/edison-cars/data-feeds/shared/carbuild"
	"github.com/edison-cars/data-feeds/shared/feed"
	"github.com/edison-cars/data-feeds/shared/order"
	"github.com/edison-cars/data-feeds/shared/postgres/pgtest"
	"github.com/edison-cars/data-feeds/shared/subscribe"
	"github.com/edison-cars/data-feeds/shared/trace"
	"github.com/edison-cars/data-feeds/shared/web"
	"github.com/edison-cars/data-feeds/sql"
)

func TestMain(m *testing.M) { pgtest.Main(m) }

// entry returns a version of order n; without a status it is deleted.
func entry(t rapid.TB, n int, version int64, status order.Status, lines ...order.Line) feed.Entry {
	t.Helper()
	e := feed.Entry{ID: uuid.NewSHA1(uuid.NameSpaceOID, fmt.Append(nil, n)), Version: version, Deleted: status == ""}
	if !e.Deleted {
		var err error
		if e.Entity, err = json.Marshal(order.Order{ID: e.ID, Version: version, Status: status, Lines: lines}); err != nil {
			t.Fatal(err)
		}
	}
	return e
}

func line(quantity int, model string, options ...string) order.Line {
	return order.Line{Model: model, Options: append([]string{}, options...), Quantity: quantity}
}

// built returns a version of the build of a car of order n; without a status it is deleted.
func built(n, car int, version int64, status carbuild.Status, model string, options ...string) feed.Entry {
	of := uuid.NewSHA1(uuid.NameSpaceOID, fmt.Append(nil, n))
	e := feed.Entry{ID: uuid.NewSHA1(of, fmt.Append(nil, car)), Version: version, Deleted: status == ""}
	if !e.Deleted {
		e.Entity, _ = json.Marshal(carbuild.Build{ // cannot fail
			ID: e.ID, Version: version, Status: status, OrderID: of, Car: car, Model: model, Options: append([]string{}, options...),
		})
	}
	return e
}

// copyPage applies entries of the orders feed as one page and checks what must always hold.
func copyPage(t rapid.TB, pool *pgxpool.Pool, entries ...feed.Entry) {
	t.Helper()
	copyFeed(t, pool, order.Feed, applyOrders, entries)
}

// copyBuilds does the same with the builds feed.
func copyBuilds(t rapid.TB, pool *pgxpool.Pool, entries ...feed.Entry) {
	t.Helper()
	copyFeed(t, pool, carbuild.Feed, applyBuilds, entries)
}

func copyFeed(t rapid.TB, pool *pgxpool.Pool, name string, apply func(context.Context, pgx.Tx, *subscribe.Batch, speed) error, entries []feed.Entry) {
	t.Helper()
	ctx := context.Background()
	err := pgx.BeginFunc(ctx, pool, func(tx pgx.Tx) error {
		feeds := Service().Feeds
		f := feeds[slices.IndexFunc(feeds, func(f subscribe.Feed) bool { return f.Name == name })]
		newer, err := f.Newer(ctx, tx, (&feed.Page{Entries: entries}).Latest(nil))
		if err != nil {
			return err
		}
		return apply(ctx, tx, subscribe.NewBatch(newer), 1)
	})
	if err != nil {
		t.Fatal(err)
	}
	wantSums(t, pool)
}

// wantSums checks what must always hold: each part is what its reservations and purchases say, and what its movements
// say, each of which follows from the one before.
func wantSums(t rapid.TB, pool *pgxpool.Pool) {
	t.Helper()
	ctx := context.Background()
	pgtest.WantRowCount(t, pool, "orders", "case when to_build then 'to build' end", "0")
	pgtest.WantRowCount(t, pool, "purchase", "case when arrived_at is null then part end", "0")
	var wrong int
	err := pool.QueryRow(ctx, `
		select count(*) from part p
		 where reserved <> (select coalesce(sum(quantity), 0) from reservation r where r.part = p.part)
		    or on_order <> (select coalesce(sum(quantity), 0) from purchase o where o.part = p.part and arrived_at is null)
		    or on_hand + on_order - reserved < reorder_point
		    or on_hand <> (select coalesce(sum(on_hand), 0) from movement m where m.part = p.part and order_id is null)
		                - (select coalesce(sum(built_in), 0) from reservation r where r.part = p.part)
		    or (on_hand, reserved, on_order) <> (select sum(on_hand), sum(reserved), sum(on_order) from movement m where m.part = p.part)`).Scan(&wrong)
	if err != nil || wrong > 0 {
		t.Fatalf("%d parts do not add up or are short: %v", wrong, err)
	}
	err = pool.QueryRow(ctx, `
		select count(*) from (
			select *, lag(on_hand_after, 1, 0::bigint) over w as had, lag(reserved_after, 1, 0::bigint) over w as held, lag(on_order_after, 1, 0::bigint) over w as bought,
			       lag(moved_at, 1, '-infinity') over w as earlier
			  from movement window w as (partition by part order by id)) m
		 where had + on_hand <> on_hand_after or held + reserved <> reserved_after or bought + on_order <> on_order_after or moved_at < earlier
		    or (on_hand, reserved, on_order) = (0, 0, 0)`).Scan(&wrong)
	if err != nil || wrong > 0 {
		t.Fatalf("%d movements do not follow from those before, or move nothing: %v", wrong, err)
	}
	err = pool.QueryRow(ctx, `select count(*) from orders o where to_build <> exists (select from reservation where order_id = o.id and quantity > 0)`).Scan(&wrong)
	if err != nil || wrong > 0 {
		t.Fatalf("%d orders are to be built without reservations, or not with some: %v", wrong, err)
	}
}

// wantReserved checks the pieces of all parts; those that are left out have none.
func wantReserved(t *testing.T, pool *pgxpool.Pool, want map[string]int64) {
	t.Helper()
	list, err := parts(t.Context(), pool)
	if err != nil {
		t.Fatal(err)
	}
	got := map[string]int64{}
	for _, p := range list {
		if p.Reserved != 0 {
			got[p.Part] = p.Reserved
		}
	}
	if !maps.Equal(got, want) {
		t.Errorf("reserved %v, not %v", got, want)
	}
}

// wantPurchases checks the pieces of each purchase of a part.
func wantPurchases(t *testing.T, pool *pgxpool.Pool, part string, want ...int64) {
	t.Helper()
	rows, err := pool.Query(t.Context(), `select quantity from purchase where part = $1 order by number`, part)
	if err != nil {
		t.Fatal(err)
	}
	got, err := pgx.CollectRows(rows, pgx.RowTo[int64])
	if err != nil {
		t.Fatal(err)
	}
	if !slices.Equal(got, want) {
		t.Errorf("purchases of %s: %v, not %v", part, got, want)
	}
}

func TestReservations(t *testing.T) {
	t.Parallel()
	volta := map[string]int64{"battery-module": 5, "motor": 1, "inverter": 1, "body-small": 1, "wheel": 4, "seat": 4}
	for _, c := range []struct {
		name  string
		pages [][]feed.Entry
		want  map[string]int64
	}{
		{"by bill of materials", [][]feed.Entry{{entry(t, 1, 1, order.Placed, line(1, "volta"))}}, volta},
		{
			"with options and several lines", [][]feed.Entry{{
				entry(t, 1, 1, order.Placed, line(2, "volta", "heat_pump"), line(1, "ohm", "all_wheel_drive", "long_range", "third_row")),
				entry(t, 2, 1, order.Placed, line(3, "joule", "tow_bar"), line(1, "volta")),
			}},
			map[string]int64{
				"battery-module": 2*5 + 8 + 2 + 3*6 + 5, "motor": 2 + 2 + 3 + 1, "inverter": 2 + 2 + 3 + 1, "body-small": 2 + 1, "body-large": 1, "body-van": 3,
				"wheel": 7 * 4, "seat": 2*4 + 5 + 2 + 3*2 + 4, "heat-pump": 2, "tow-bar": 3,
			},
		},
		{"released on cancellation", [][]feed.Entry{
			{entry(t, 1, 1, order.Placed, line(1, "volta")), entry(t, 2, 1, order.Placed, line(1, "ampere"))},
			{entry(t, 2, 2, order.Cancelled, line(1, "ampere"))},
		}, volta},
		{"none for an order first seen as cancelled", [][]feed.Entry{{entry(t, 1, 2, order.Cancelled, line(1, "volta"))}}, nil},
		{"none for an order that is cancelled on the same page", [][]feed.Entry{{
			entry(t, 1, 1, order.Placed, line(1, "volta")), entry(t, 1, 2, order.Cancelled, line(1, "volta")),
		}}, nil},
		{"an old version changes nothing", [][]feed.Entry{
			{entry(t, 1, 2, order.Cancelled, line(1, "volta")), entry(t, 2, 3, order.Placed, line(1, "volta"))},
			{entry(t, 1, 1, order.Placed, line(1, "volta")), entry(t, 2, 2, order.Placed, line(9, "ohm"))},
		}, volta},
		{"the same page again changes nothing", [][]feed.Entry{
			{entry(t, 1, 1, order.Placed, line(1, "volta"))}, {entry(t, 1, 1, order.Placed, line(1, "volta"))},
		}, volta},
		{"a new version with other lines replaces the old", [][]feed.Entry{
			{entry(t, 1, 1, order.Placed, line(4, "joule", "tow_bar"))}, {entry(t, 1, 2, order.Placed, line(1, "volta"))},
		}, volta},
		{"released when the order is deleted", [][]feed.Entry{
			{entry(t, 1, 1, order.Placed, line(1, "volta")), entry(t, 2, 1, order.Placed, line(1, "ampere"))},
			{entry(t, 2, 2, ""), entry(t, 3, 1, "")}, {entry(t, 2, 2, "")},
		}, volta},
		{"none for what the warehouse does not know", [][]feed.Entry{{entry(t, 1, 1, order.Placed, line(1, "zeppelin", "anchor"), line(1, "volta", "anchor"))}}, volta},
		{"an order without options", [][]feed.Entry{{{
			ID: uuid.Max, Version: 1,
			Entity: json.RawMessage(`{"id":"` + uuid.Max.String() + `","version":1,"status":"placed","lines":[{"model":"volta","quantity":1,"options":null}],"news":[1,{}]}`),
		}}}, volta},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			pool := pgtest.New(t, sql.Migrations("subscribe"), sql.Migrations("warehouse"))
			for _, entries := range c.pages {
				copyPage(t, pool, entries...)
			}
			wantReserved(t, pool, c.want)
		})
	}
}

// What a car takes is reserved until its build starts, and then is no longer on hand, once, whichever feed comes first.
func TestBuilds(t *testing.T) {
	t.Parallel()
	volta := map[string]int64{"battery-module": 5, "motor": 1, "inverter": 1, "body-small": 1, "wheel": 4, "seat": 4}
	two := map[string]int64{"battery-module": 10, "motor": 2, "inverter": 2, "body-small": 2, "wheel": 8, "seat": 8}
	type page []feed.Entry // builds, if it begins with one
	placed, cancelled := page{entry(t, 1, 1, order.Placed, line(2, "volta"))}, page{entry(t, 1, 2, order.Cancelled, line(2, "volta"))}
	car := func(car int, version int64, status carbuild.Status) feed.Entry {
		return built(1, car, version, status, "volta")
	}
	planned, started := page{car(1, 1, carbuild.Planned), car(2, 1, carbuild.Planned)}, page{car(1, 2, carbuild.Started)}
	for _, c := range []struct {
		name            string
		pages           []page
		reserved, taken map[string]int64
	}{
		{"planned", []page{placed, planned}, two, nil},
		{"one of two is started", []page{placed, planned, started}, volta, volta},
		{"and finished", []page{placed, planned, started, {car(1, 3, carbuild.Finished)}}, volta, volta},
		{"both are finished", []page{placed, {car(1, 3, carbuild.Finished), car(2, 3, carbuild.Finished)}}, nil, two},
		{"everything again", []page{placed, planned, started, placed, planned, started}, volta, volta},
		{"builds that come before their order", []page{planned, started, placed}, volta, volta},
		{"an order cancelled before anything is built", []page{placed, planned, cancelled, {car(1, 2, carbuild.Cancelled), car(2, 2, carbuild.Cancelled)}}, nil, nil},
		{"while one car is built", []page{placed, planned, started, cancelled, {car(2, 2, carbuild.Cancelled)}, {car(1, 3, carbuild.Finished)}}, nil, volta},
		{"before the warehouse reads that one is built", []page{placed, cancelled, planned, started, {car(2, 2, carbuild.Cancelled)}}, nil, volta},
		{"before the warehouse reads anything", []page{cancelled, {car(1, 3, carbuild.Finished), car(2, 2, carbuild.Cancelled)}}, nil, volta},
		{"an order that its source no longer has", []page{placed, started, {entry(t, 1, 2, "")}}, nil, volta},
		{"a build that its source no longer has", []page{placed, started, {car(1, 3, "")}}, two, nil},
		{"a build that turns out to be of another car", []page{placed, started, {built(1, 1, 3, carbuild.Started, "joule", "tow_bar")}}, map[string]int64{
			"battery-module": 4, "motor": 1, "inverter": 1, "body-small": 2, "wheel": 4, "seat": 6,
		}, map[string]int64{"battery-module": 6, "motor": 1, "inverter": 1, "body-van": 1, "wheel": 4, "seat": 2, "tow-bar": 1}},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			pool := pgtest.New(t, sql.Migrations("subscribe"), sql.Migrations("warehouse"))
			had := map[string]int64{}
			stock, err := parts(t.Context(), pool)
			if err != nil {
				t.Fatal(err)
			}
			for _, p := range stock {
				had[p.Part] = p.OnHand
			}
			for _, entries := range c.pages {
				if entries[0].ID == car(1, 1, "").ID || entries[0].ID == car(2, 1, "").ID {
					copyBuilds(t, pool, entries...)
				} else {
					copyPage(t, pool, entries...)
				}
			}
			wantReserved(t, pool, c.reserved)
			taken := map[string]int64{}
			if stock, err = parts(t.Context(), pool); err != nil {
				t.Fatal(err)
			}
			for _, p := range stock {
				if n := had[p.Part] - p.OnHand; n != 0 {
					taken[p.Part] = n
				}
			}
			if !maps.Equal(taken, c.taken) {
				t.Errorf("built in %v, not %v", taken, c.taken)
			}
		})
	}
}

// A trace says which parts an order still waits for: none once its cars are built.
func TestTraceWaits(t *testing.T) {
	t.Parallel()
	pool := pgtest.New(t, sql.Migrations("subscribe"), sql.Migrations("warehouse")) // 20 body shells of a van
	copyPage(t, pool, entry(t, 1, 1, order.Placed, line(1, "joule")), entry(t, 2, 1, order.Placed, line(21, "joule")))
	waits := func(want bool) {
		t.Helper()
		part, err := traceOrder(t.Context(), pool, entry(t, 1, 1, "").ID)
		if got := slices.ContainsFunc(part.WaitsFor, func(w string) bool { return strings.Contains(w, "2 pieces of Body shell, van") }); err != nil || got != want {
			t.Errorf("%q, %v; want %v", part.WaitsFor, err, want)
		}
	}
	waits(true)
	copyBuilds(t, pool, built(1, 1, 1, carbuild.Started, "joule"))
	waits(false)
}

// The steps of a trace lead to the page of the order, which says what is reserved, built in and short.
func TestOrderPage(t *testing.T) {
	t.Parallel()
	pool := pgtest.New(t, sql.Migrations("subscribe"), sql.Migrations("warehouse"))
	id := entry(t, 1, 1, "").ID
	read := func() map[string]orderedPart {
		t.Helper()
		o, err := readOrder(t.Context(), pool, id.String())
		if err != nil {
			t.Fatal(err)
		}
		all := map[string]orderedPart{}
		for _, p := range o.Parts {
			all[p.Part] = p
		}
		if len(o.Parts) != 6 || o.Released() != (all["seat"] == orderedPart{Part: "seat", Name: "Seat"}) {
			t.Errorf("%+v", o)
		}
		return all
	}
	if _, err := readOrder(t.Context(), pool, id.String()); web.StatusOf(err) != 404 {
		t.Error(err)
	}
	copyPage(t, pool, entry(t, 1, 1, order.Placed, line(22, "joule")))
	if p := read(); p["body-van"] != (orderedPart{"body-van", "Body shell, van", 22, 0, 2}) || p["seat"] != (orderedPart{"seat", "Seat", 44, 0, 0}) {
		t.Errorf("%+v", p)
	}
	copyBuilds(t, pool, built(1, 1, 1, carbuild.Started, "joule"))
	if p := read(); p["seat"] != (orderedPart{"seat", "Seat", 42, 2, 0}) {
		t.Errorf("%+v", p)
	}
	part, err := traceOrder(t.Context(), pool, id)
	if err != nil || len(part.Steps) == 0 || slices.ContainsFunc(part.Steps, func(s trace.Step) bool { return s.Path != "/reservations/"+id.String() }) {
		t.Errorf("%+v, %v", part, err)
	}
	copyBuilds(t, pool, built(1, 1, 2, carbuild.Cancelled, "joule"))
	copyPage(t, pool, entry(t, 1, 2, order.Cancelled, line(22, "joule")))
	read()
	for _, wrong := range []string{"x", uuid.NewString()} {
		if _, err := readOrder(t.Context(), pool, wrong); web.StatusOf(err) != 404 {
			t.Errorf("%s: %v", wrong, err)
		}
	}
}

func TestPurchases(t *testing.T) {
	t.Parallel()
	pool := pgtest.New(t, sql.Migrations("subscribe"), sql.Migrations("warehouse")) // 20 body shells of a van, ordered by tens below 6
	first := entry(t, 1, 1, order.Placed, line(14, "joule"))
	copyPage(t, pool, first)
	wantPurchases(t, pool, "body-van") // 6 are left
	second := entry(t, 2, 1, order.Placed, line(1, "joule"))
	copyPage(t, pool, second)
	wantPurchases(t, pool, "body-van", 10)
	copyPage(t, pool, first, second)
	copyPage(t, pool, second)
	wantPurchases(t, pool, "body-van", 10)
	copyPage(t, pool, entry(t, 3, 1, order.Placed, line(40, "joule"))) // 25 are missing
	wantPurchases(t, pool, "body-van", 10, 40)
	copyPage(t, pool, entry(t, 3, 2, order.Cancelled, line(40, "joule")))
	copyPage(t, pool, entry(t, 4, 1, order.Placed, line(40, "joule"))) // for the pieces that were released
	wantPurchases(t, pool, "body-van", 10, 40)
	var gaps int
	if err := pool.QueryRow(t.Context(), `select max(number) - count(*) from purchase`).Scan(&gaps); err != nil || gaps != 0 {
		t.Errorf("%d numbers are missing: %v", gaps, err)
	}

	view, err := overview(httptest.NewRequest("GET", "/", nil), pool)
	if err != nil {
		t.Fatal(err)
	}
	if view.Orders != 3 || len(view.Purchases) == 0 || view.Reserved == 0 || view.OnOrder == 0 {
		t.Errorf("the page shows %+v", view)
	}
	for _, p := range view.Parts {
		if p.Part == "body-van" && p != (part{"body-van", "Body shell, van", 20, 55, 50, 6, 10, "Panel Brothers", 10}) {
			t.Errorf("%+v", p)
		}
		if p.Available() < p.ReorderPoint {
			t.Errorf("%s is short: %+v", p.Part, p)
		}
	}
}

// What sales offers, written down again: a subscriber knows a source by its feed alone.
func TestEverythingForSaleHasABillOfMaterials(t *testing.T) {
	t.Parallel()
	pool := pgtest.New(t, sql.Migrations("subscribe"), sql.Migrations("warehouse"))
	for _, item := range []string{
		"volta", "ampere", "ohm", "joule",
		"long_range", "heat_pump", "glass_roof", "tow_bar", "all_wheel_drive", "driver_assistance", "third_row",
	} {
		var takes int
		if err := pool.QueryRow(t.Context(), `select count(*) from bill_of_materials where item = $1`, item).Scan(&takes); err != nil || takes == 0 {
			t.Errorf("%s takes %d parts: %v", item, takes, err)
		}
	}
}

func TestNoParts(t *testing.T) {
	t.Parallel()
	pool := pgtest.New(t, sql.Migrations("subscribe"), sql.Migrations("warehouse"))
	if _, err := pool.Exec(t.Context(), `truncate part cascade`); err != nil {
		t.Fatal(err)
	}
	list, err := parts(t.Context(), pool)
	if got, _ := json.Marshal(list); err != nil || string(got) != "[]" {
		t.Errorf("%s, %v", got, err)
	}
}
