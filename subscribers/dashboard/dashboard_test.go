package dashboard

import (
	"encoding/json"
	"fmt"
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

// entry gives a version of order n; without a status it is deleted.
func entry(t *testing.T, n int, version int64, status order.Status, placedAt string, lines ...order.Line) feed.Entry {
	t.Helper()
	e := feed.Entry{ID: uuid.NewSHA1(uuid.NameSpaceOID, fmt.Append(nil, n)), Version: version, Deleted: status == ""}
	if !e.Deleted {
		o := order.Order{ID: e.ID, Version: version, Status: status, Lines: lines}
		var err error
		if o.PlacedAt, err = time.Parse(time.RFC3339, placedAt); err != nil {
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
	err := pgx.BeginFunc(t.Context(), pool, func(tx pgx.Tx) error {
		newer, err := Service.Feeds[0].Newer(t.Context(), tx, (&feed.Page{Entries: entries}).Latest())
		if err != nil {
			return err
		}
		return apply(t.Context(), tx, subscribe.NewBatch(newer))
	})
	if err != nil {
		t.Fatal(err)
	}
}

const (
	noon  = "2026-11-23T12:00:00Z"
	empty = `{"revenue_cents":0,"currency":"EUR","orders":0,"cancelled":0,"cars":0,"by_model":[],"by_day":[]}`
	one   = `{"revenue_cents":300,"currency":"EUR","orders":1,"cancelled":0,"cars":3,"by_model":[{"model":"volta","cars":3,"revenue_cents":300}],"by_day":[{"day":"2026-11-23","orders":1,"cars":3,"revenue_cents":300}]}`
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
				`"by_day":[{"day":"2026-11-23","orders":2,"cars":6,"revenue_cents":5600},{"day":"2026-11-25","orders":1,"cars":3,"revenue_cents":16000}]}`,
		},
		{
			"a day is one of UTC", [][]feed.Entry{{
				entry(t, 1, 1, order.Placed, "2026-11-23T23:59:59.999999Z", line(1, "volta", 1)),
				entry(t, 2, 1, order.Placed, "2026-11-24T00:30:00+01:00", line(1, "volta", 1)),
				entry(t, 3, 1, order.Placed, "2026-11-23T23:30:00-01:00", line(1, "volta", 1)),
			}},
			`{"revenue_cents":3,"currency":"EUR","orders":3,"cancelled":0,"cars":3,"by_model":[{"model":"volta","cars":3,"revenue_cents":3}],` +
				`"by_day":[{"day":"2026-11-23","orders":2,"cars":2,"revenue_cents":2},{"day":"2026-11-24","orders":1,"cars":1,"revenue_cents":1}]}`,
		},
		{
			"a cancelled order is only counted", [][]feed.Entry{
				{placed, entry(t, 2, 1, order.Placed, noon, line(9, "ohm", 900))},
				{entry(t, 2, 2, order.Cancelled, noon, line(9, "ohm", 900))},
			},
			`{"revenue_cents":300,"currency":"EUR","orders":1,"cancelled":1,"cars":3,"by_model":[{"model":"volta","cars":3,"revenue_cents":300}],"by_day":[{"day":"2026-11-23","orders":1,"cars":3,"revenue_cents":300}]}`,
		},
		{
			"an order first seen as cancelled", [][]feed.Entry{{entry(t, 1, 2, order.Cancelled, noon, line(9, "ohm", 900))}},
			`{"revenue_cents":0,"currency":"EUR","orders":0,"cancelled":1,"cars":0,"by_model":[],"by_day":[]}`,
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
		}}, `{"revenue_cents":4000000000000000,"currency":"EUR","orders":1,"cancelled":0,"cars":1000000,"by_model":[{"model":"volta","cars":1000000,"revenue_cents":4000000000000000}],"by_day":[{"day":"2026-11-23","orders":1,"cars":1000000,"revenue_cents":4000000000000000}]}`},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			pool := pgtest.New(t, sql.Migrations("subscribe"), sql.Migrations("dashboard"))
			for _, entries := range c.pages {
				copyPage(t, pool, entries...)
			}
			s, err := stats(t.Context(), pool)
			if err != nil {
				t.Fatal(err)
			}
			if got, _ := json.Marshal(s); string(got) != c.want {
				t.Errorf("%s, not\n%s", got, c.want)
			}
		})
	}
}
