package dashboard

import (
	"fmt"
	"io/fs"
	"testing"
	"testing/fstest"
	"time"

	"pgregory.net/rapid"

	"github.com/edison-cars/data-feeds/shared/carbuild"
	"github.com/edison-cars/data-feeds/shared/feed"
	"github.com/edison-cars/data-feeds/shared/migrate"
	"github.com/edison-cars/data-feeds/shared/order"
	"github.com/edison-cars/data-feeds/shared/postgres"
	"github.com/edison-cars/data-feeds/shared/postgres/pgtest"
	"github.com/edison-cars/data-feeds/shared/shipment"
	"github.com/edison-cars/data-feeds/sql"
)

// Whatever the pages of the three feeds, with versions left out, out of order and again, with cancellations and
// deletions, the figures are what PostgreSQL counts over the rows.
func TestFiguresProperty(t *testing.T) {
	t.Parallel()
	pgtest.Slow(t, "many runs")
	pool := pgtest.New(t, sql.Migrations("subscribe"), sql.Migrations("dashboard"))
	days := []string{"2026-11-22T23:59:59.999999Z", noon, "2026-11-24T00:30:00+01:00", "1901-01-01T00:00:00Z"}
	models := rapid.SampledFrom([]string{"volta", "ohm"})
	options := rapid.SliceOfN(rapid.SampledFrom([]string{"glass_roof", "tow_bar"}), 0, 3)
	took := rapid.Map(rapid.Int64Range(-1e12, 1e12), func(us int64) time.Duration { return time.Duration(us) * time.Microsecond })
	number, version := rapid.IntRange(1, 4), rapid.Int64Range(1, 6)
	rapid.Check(t, func(r *rapid.T) {
		if _, err := pool.Exec(t.Context(), `truncate orders, build, shipment, figure`); err != nil {
			t.Fatal(err)
		}
		draw := map[string]func() feed.Entry{
			order.Feed: func() feed.Entry {
				var lines []order.Line
				for range rapid.IntRange(1, 3).Draw(r, "lines") {
					l := line(rapid.IntRange(1, 2).Draw(r, "quantity"), models.Draw(r, "model"), rapid.Int64Range(0, 100).Draw(r, "cents"))
					l.Options = options.Draw(r, "options")
					lines = append(lines, l)
				}
				status := rapid.SampledFrom([]order.Status{order.Placed, order.Placed, order.Cancelled, ""}).Draw(r, "status")
				return entry(t, number.Draw(r, "order"), version.Draw(r, "version"), status, rapid.SampledFrom(days).Draw(r, "placed"), lines...)
			},
			carbuild.Feed: func() feed.Entry {
				status := rapid.SampledFrom([]carbuild.Status{carbuild.Planned, carbuild.Started, carbuild.Finished, carbuild.Cancelled}).Draw(r, "status")
				e := car(t, number.Draw(r, "order"), number.Draw(r, "car"), version.Draw(r, "version"), status, took.Draw(r, "took"))
				return orDeleted(r, e)
			},
			shipment.Feed: func() feed.Entry {
				status := rapid.SampledFrom([]shipment.Status{shipment.Waiting, shipment.Shipped}).Draw(r, "status")
				e := sent(t, number.Draw(r, "order"), number.Draw(r, "car"), version.Draw(r, "version"), status, took.Draw(r, "took"))
				return orDeleted(r, e)
			},
		}
		for range rapid.IntRange(1, 12).Draw(r, "pages") {
			name := rapid.SampledFrom([]string{order.Feed, carbuild.Feed, shipment.Feed}).Draw(r, "feed")
			var page []feed.Entry
			for range rapid.IntRange(1, 4).Draw(r, "entries") {
				page = append(page, draw[name]())
			}
			if copyFeed(t, pool, name, page...); t.Failed() {
				r.FailNow()
			}
		}
	})
}

func orDeleted(r *rapid.T, e feed.Entry) feed.Entry {
	if rapid.IntRange(0, 5).Draw(r, "deleted") == 0 {
		return feed.Entry{ID: e.ID, Version: e.Version, Deleted: true}
	}
	return e
}

func TestSecondsHaveTwoDigits(t *testing.T) {
	t.Parallel()
	from := time.Date(2026, 11, 23, 12, 0, 0, 0, time.UTC)
	for took, want := range map[time.Duration]string{
		-time.Hour: "0", 0: "0", 499_999 * time.Microsecond: "0", 500 * time.Millisecond: "1", 99 * time.Second: "99",
		104 * time.Second: "100", 105 * time.Second: "110", 994 * time.Second: "990", 995 * time.Second: "1000",
	} {
		if got := seconds(from, from.Add(took)); got != want {
			t.Errorf("%v: %s, want %s", took, got, want)
		}
	}
	if got := seconds(time.Date(1, 1, 1, 0, 0, 0, 0, time.UTC), time.Date(9999, 1, 1, 0, 0, 0, 0, time.UTC)); got != "320000000000" {
		t.Errorf("of 9,998 years there are %s", got)
	}
}

// A copy goes on that was made when lines had a table of their own, and before hours were counted.
func TestCopyOfTheFirstVersion(t *testing.T) {
	t.Parallel()
	all := sql.Migrations("dashboard")
	const first = "00001_dashboard.sql"
	text, err := fs.ReadFile(all.FS, first)
	if err != nil {
		t.Fatal(err)
	}
	pool := pgtest.New(t, sql.Migrations("subscribe"), postgres.Migrations{Name: all.Name, FS: fstest.MapFS{first: {Data: text}}})
	id := func(n int) string { return entry(t, n, 1, "", "").ID.String() }
	_, err = pool.Exec(t.Context(), fmt.Sprintf(`
		insert into orders (id, version, status, placed_at, total_cents, stage) values
		       ('%[1]s', 1, 'placed', '%[3]s', 500, 'placed'), ('%[2]s', 2, 'cancelled', '%[3]s', 0, 'cancelled');
		insert into order_line (order_id, line, model, quantity, unit_price_cents, options) values
		       ('%[1]s', 2, 'ohm', 1, 300, '{tow_bar}'), ('%[1]s', 1, 'volta', 2, 100, '{}');
		insert into figure values
		       ('stage', '%[3]s', 'placed', 1, 3, 500), ('stage', '%[3]s', 'cancelled', 1, 0, 0), ('model', '%[3]s', 'volta', 1, 2, 200),
		       ('model', '%[3]s', 'ohm', 1, 1, 300), ('option', '%[3]s', 'tow_bar', 1, 1, 300)`, id(1), id(2), noon))
	if err == nil {
		err = migrate.Up(t.Context(), pool, "", all)
	}
	if err != nil {
		t.Fatal(err)
	}
	wantFigures(t, pool)
	var models string
	err = pool.QueryRow(t.Context(), `select string_agg(jsonb_path_query_array(lines, '$[*].model')::text, ' ' order by status desc) from orders`).Scan(&models)
	if err != nil || models != `["volta", "ohm"] []` {
		t.Errorf("the lines are of %s: %v", models, err)
	}
	copyPage(t, pool, entry(t, 1, 2, order.Placed, noon, line(3, "volta", 100)))
	if s := statsFor(t, pool, ""); s.Cars != 3 || s.RevenueCents != 300 || len(s.ByOption) > 0 {
		t.Errorf("%+v", s)
	}
}
