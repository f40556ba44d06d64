package dashboard

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"slices"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/edison-cars/data-feeds/shared/feed"
	"github.com/edison-cars/data-feeds/shared/order"
	"github.com/edison-cars/data-feeds/shared/postgres/pgtest"
	"github.com/edison-cars/data-feeds/shared/subscribe"
	"github.com/edison-cars/data-feeds/sql"
)

func TestMain(m *testing.M) { pgtest.Main(m) }

// entry returns a version of order n; without a status it is deleted.
func entry(t *testing.T, n int, version int64, status order.Status, placedAt string, lines ...order.Line) feed.Entry {
	t.Helper()
	e := feed.Entry{ID: uuid.NewSHA1(uuid.NameSpaceOID, fmt.Append(nil, n)), Version: version, Deleted: status == ""}
	if !e.Deleted {
		o := order.Order{ID: e.ID, Version: version, Status: status, Lines: append([]order.Line{}, lines...)}
		var err error
		if o.PlacedAt.Time, err = time.Parse(time.RFC3339, placedAt); err != nil {
			t.Fatal(err)
		}
		for _, l := range lines {
			o.TotalCents += int64(l.Quantity) * l.UnitPriceCents
		}
		if e.Entity, err = json.Marshal(o); err != nil {
			t.Fatal(err)
		}
	}
	return e
}

func line(quantity int, model string, cents int64) order.Line {
	return order.Line{Model: model, Options: []string{}, Quantity: quantity, UnitPriceCents: cents}
}

func copyPage(t *testing.T, pool *pgxpool.Pool, entries ...feed.Entry) {
	t.Helper()
	copyFeed(t, pool, order.Feed, entries...)
}

// copyFeed applies entries as one page of a feed.
func copyFeed(t *testing.T, pool *pgxpool.Pool, name string, entries ...feed.Entry) {
	t.Helper()
	apply(t, pool, name, entries...)
	wantFigures(t, pool)
}

func apply(t *testing.T, pool *pgxpool.Pool, name string, entries ...feed.Entry) {
	t.Helper()
	at := &Service.Feeds[slices.IndexFunc(Service.Feeds, func(f subscribe.Feed) bool { return f.Name == name })]
	err := pgx.BeginFunc(t.Context(), pool, func(tx pgx.Tx) error {
		newer, err := at.Newer(t.Context(), tx, (&feed.Page{Entries: entries}).Latest(nil))
		if err != nil {
			return err
		}
		return at.Apply(t.Context(), tx, subscribe.NewBatch(newer))
	})
	if err != nil {
		t.Error(err)
	}
}

// wantFigures checks that the figures are what PostgreSQL counts.
func wantFigures(t *testing.T, pool *pgxpool.Pool) {
	t.Helper()
	read := func(db interface {
		Query(context.Context, string, ...any) (pgx.Rows, error)
	}, sql string) []string {
		rows, _ := db.Query(t.Context(), `select format('%s %s %s: %s %s %s', kind, day, name, orders, cars, revenue_cents) from (`+sql+`) as figure order by 1`)
		list, err := pgx.CollectRows(rows, pgx.RowTo[string])
		if err != nil {
			t.Fatal(err)
		}
		return list
	}
	kept := read(pool, `select * from figure where (orders, cars, revenue_cents) <> (0, 0, 0)`)
	tx, err := pool.Begin(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = tx.Rollback(t.Context()) }()
	var ids []uuid.UUID
	err = tx.QueryRow(t.Context(), `
		with reset as (update orders set stage = 'placed', built_at = null, shipped_at = null returning id) select array_agg(id) from reset`).Scan(&ids)
	if err == nil {
		_, err = tx.Exec(t.Context(), stage, ids)
	}
	if err != nil {
		t.Fatal(err)
	}
	if counted := read(tx, figuresOfAll); !slices.Equal(kept, counted) {
		t.Errorf("the figures are %q, not %q", kept, counted)
	}
}

const figuresOfAll = `
	with counted as (
		select *, (placed_at at time zone 'UTC')::date as day from orders
	), line as (
		select id, day, stage <> 'cancelled' as stands, model, options, quantity, quantity * unit_price_cents as cents
		  from counted cross join jsonb_to_recordset(lines) as l (model text, options text[], quantity bigint, unit_price_cents bigint)
	), lead as (
		select day, kind, greatest(round(extract(epoch from span)), 0) as seconds
		  from counted cross join lateral (values
			('placed-built', built_at - placed_at), ('built-shipped', shipped_at - built_at), ('placed-shipped', shipped_at - placed_at)) as v (kind, span)
		 where span is not null
	)
	select 'stage' as kind, counted.day, stage as name, count(distinct counted.id) as orders, coalesce(sum(quantity), 0) as cars, coalesce(sum(cents), 0) as revenue_cents
	  from counted left join line using (id) group by counted.day, stage
	union all
	select 'hour', counted.day, to_char(placed_at at time zone 'UTC', 'HH24'), count(distinct counted.id), coalesce(sum(quantity), 0), coalesce(sum(cents), 0)
	  from counted left join line using (id) where stage <> 'cancelled' group by 1, 2, 3
	union all
	select 'model', day, model, count(distinct id), sum(quantity), sum(cents) from line where stands group by day, model
	union all
	select 'option', day, option, count(distinct id), sum(quantity), sum(cents) from line cross join unnest(options) as option where stands group by day, option
	union all
	select kind, day, round(seconds, 2 - length(seconds::text))::bigint::text, count(*), 0, 0 from lead group by 1, 2, 3`

func statsFor(t *testing.T, pool *pgxpool.Pool, query string) *statistics {
	t.Helper()
	s, err := stats(httptest.NewRequest(http.MethodGet, "/?"+query, nil), pool)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

const noon = "2026-11-23T12:00:00Z"

// rest is how the statistics of cars without options end, when none is built.
func rest(orders int) string {
	return fmt.Sprintf(`,"by_option":[],"by_stage":[{"stage":"placed","orders":%d},{"stage":"planned","orders":0},{"stage":"started","orders":0},`+
		`{"stage":"built","orders":0},{"stage":"shipped","orders":0}],"lead_times":[]}`, orders)
}

var (
	empty = `{"revenue_cents":0,"currency":"EUR","orders":0,"cancelled":0,"cars":0,"by_model":[],"by_day":[]` + rest(0)
	one   = `{"revenue_cents":300,"currency":"EUR","orders":1,"cancelled":0,"cars":3,"by_model":[{"model":"volta","cars":3,"revenue_cents":300}],"by_day":[{"day":"2026-11-23","orders":1,"cars":3,"revenue_cents":300}]` + rest(1)
)

func TestStats(t *testing.T) {
	t.Parallel()
	placed := entry(t, 1, 1, order.Placed, noon, line(3, "volta", 100))
	for _, c := range []struct {
		name  string
		pages [][]feed.Entry
		want  string
	}{
		{"no orders", nil, empty},
		{"one order", [][]feed.Entry{{placed}}, one},
		{"the same page again changes nothing", [][]feed.Entry{{placed}, {placed}, {placed}}, one},
		{
			"orders, cars and revenue by model and by day", [][]feed.Entry{{
				placed,
				entry(t, 2, 1, order.Placed, noon, line(1, "ohm", 5000), line(2, "volta", 150)),
				entry(t, 3, 1, order.Placed, "2026-11-25T00:00:00Z", line(2, "ohm", 5000), line(1, "ohm", 6000)),
			}},
			`{"revenue_cents":21600,"currency":"EUR","orders":3,"cancelled":0,"cars":9,` +
				`"by_model":[{"model":"volta","cars":5,"revenue_cents":600},{"model":"ohm","cars":4,"revenue_cents":21000}],` +
				`"by_day":[{"day":"2026-11-23","orders":2,"cars":6,"revenue_cents":5600},{"day":"2026-11-25","orders":1,"cars":3,"revenue_cents":16000}]` + rest(3),
		},
		{
			"a day is one of UTC", [][]feed.Entry{{
				entry(t, 1, 1, order.Placed, "2026-11-23T23:59:59.999999Z", line(1, "volta", 1)),
				entry(t, 2, 1, order.Placed, "2026-11-24T00:30:00+01:00", line(1, "volta", 1)),
				entry(t, 3, 1, order.Placed, "2026-11-23T23:30:00-01:00", line(1, "volta", 1)),
			}},
			`{"revenue_cents":3,"currency":"EUR","orders":3,"cancelled":0,"cars":3,"by_model":[{"model":"volta","cars":3,"revenue_cents":3}],` +
				`"by_day":[{"day":"2026-11-23","orders":2,"cars":2,"revenue_cents":2},{"day":"2026-11-24","orders":1,"cars":1,"revenue_cents":1}]` + rest(3),
		},
		{
			"a cancelled order is only counted", [][]feed.Entry{
				{placed, entry(t, 2, 1, order.Placed, noon, line(9, "ohm", 900))},
				{entry(t, 2, 2, order.Cancelled, noon, line(9, "ohm", 900))},
			},
			`{"revenue_cents":300,"currency":"EUR","orders":1,"cancelled":1,"cars":3,"by_model":[{"model":"volta","cars":3,"revenue_cents":300}],"by_day":[{"day":"2026-11-23","orders":1,"cars":3,"revenue_cents":300}]` + rest(1),
		},
		{
			"an order first seen as cancelled", [][]feed.Entry{{entry(t, 1, 2, order.Cancelled, noon, line(9, "ohm", 900))}},
			`{"revenue_cents":0,"currency":"EUR","orders":0,"cancelled":1,"cars":0,"by_model":[],"by_day":[]` + rest(0),
		},
		{"a new version with other lines replaces the old", [][]feed.Entry{
			{entry(t, 1, 1, order.Placed, "2026-11-22T12:00:00Z", line(1, "ohm", 7), line(2, "joule", 8))},
			{entry(t, 1, 2, order.Placed, noon, line(3, "volta", 100))},
		}, one},
		{"an old version changes nothing", [][]feed.Entry{
			{entry(t, 1, 3, order.Placed, noon, line(3, "volta", 100))},
			{entry(t, 1, 2, order.Cancelled, noon, line(1, "ohm", 7))},
			{entry(t, 1, 1, order.Placed, noon, line(1, "ohm", 7))},
		}, one},
		{"two versions on one page", [][]feed.Entry{
			{entry(t, 1, 1, order.Placed, noon, line(1, "ohm", 7)), entry(t, 1, 2, order.Placed, noon, line(3, "volta", 100))},
		}, one},
		{"a deleted order is gone", [][]feed.Entry{
			{placed, entry(t, 2, 1, order.Placed, noon, line(9, "ohm", 900)), entry(t, 3, 1, order.Placed, noon, line(1, "ohm", 900)), entry(t, 3, 2, "", "")},
			{entry(t, 2, 2, "", "")}, {entry(t, 2, 2, "", "")},
		}, one},
		{"a large fleet", [][]feed.Entry{{
			entry(t, 1, 1, order.Placed, noon, line(1_000_000, "volta", 4_000_000_000)),
		}}, `{"revenue_cents":4000000000000000,"currency":"EUR","orders":1,"cancelled":0,"cars":1000000,"by_model":[{"model":"volta","cars":1000000,"revenue_cents":4000000000000000}],"by_day":[{"day":"2026-11-23","orders":1,"cars":1000000,"revenue_cents":4000000000000000}]` + rest(1)},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			pool := pgtest.New(t, sql.Migrations("subscribe"), sql.Migrations("dashboard"))
			for _, entries := range c.pages {
				copyPage(t, pool, entries...)
			}
			if got, _ := json.Marshal(statsFor(t, pool, "")); string(got) != c.want {
				t.Errorf("%s, not\n%s", got, c.want)
			}
		})
	}
}
