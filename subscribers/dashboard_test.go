package main

import (
	"encoding/csv"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/edison-cars/data-feeds/shared/carbuild"
	"github.com/edison-cars/data-feeds/shared/feed"
	"github.com/edison-cars/data-feeds/shared/order"
	"github.com/edison-cars/data-feeds/shared/postgres/pgtest"
	"github.com/edison-cars/data-feeds/shared/publish"
	"github.com/edison-cars/data-feeds/shared/shipment"
	"github.com/edison-cars/data-feeds/sql"
	"github.com/edison-cars/data-feeds/subscribers/dashboard"
)

// The dashboard puts three feeds together, and is of use with the first alone.
func TestDashboardOfThreeFeeds(t *testing.T) {
	t.Parallel()
	pgtest.Slow(t, "all services")
	built, shipped := noon.Add(time.Hour), noon.Add(90*time.Minute)
	o := order.Order{
		ID: uuid.New(), Version: 1, Status: order.Placed, Currency: "EUR", PlacedAt: feed.TimeOf(noon), UpdatedAt: feed.TimeOf(noon), TotalCents: 2_797_000,
		Lines: []order.Line{{Model: "volta", Options: []string{"heat_pump"}, Quantity: 1, UnitPriceCents: 2_797_000}},
	}
	b := carbuild.Build{ID: uuid.New(), Version: 1, Status: carbuild.Finished, OrderID: o.ID, Car: 1, Model: "volta", Options: []string{}, Slot: "2026-11-23", FinishedAt: feed.OptionalTime(&built), UpdatedAt: feed.TimeOf(built)}
	s := shipment.Shipment{ID: uuid.New(), Version: 1, Status: shipment.Shipped, OrderID: o.ID, Car: 1, ShippedAt: feed.OptionalTime(&shipped), UpdatedAt: feed.TimeOf(shipped)}
	pool := pgtest.New(t, sql.Migrations("subscribe"), dashboard.Service.Migrations)
	url := start(t, "dashboard", pool, map[string]string{
		"FEED_URL_ORDERS":    ordersFeed(t, o),
		"FEED_URL_BUILDS":    serveFeed(t, carbuild.Feed, publish.Entry{ID: b.ID, Version: b.Version, Updated: b.UpdatedAt.Time, Payload: payload(t, b)}),
		"FEED_URL_SHIPMENTS": serveFeed(t, shipment.Feed, publish.Entry{ID: s.ID, Version: s.Version, Updated: s.UpdatedAt.Time, Payload: payload(t, s)}),
	})
	const want = `"by_option":[{"option":"heat_pump","cars":1,"revenue_cents":2797000}],` +
		`"by_stage":[{"stage":"placed","orders":0},{"stage":"planned","orders":0},{"stage":"started","orders":0},{"stage":"built","orders":0},{"stage":"shipped","orders":1}],` +
		`"lead_times":[{"from":"placed","to":"built","orders":1,"median_seconds":3600,"p90_seconds":3600},` +
		`{"from":"built","to":"shipped","orders":1,"median_seconds":1800,"p90_seconds":1800},{"from":"placed","to":"shipped","orders":1,"median_seconds":5400,"p90_seconds":5400}]}`
	var header http.Header
	for deadline := time.Now().Add(time.Minute); ; time.Sleep(20 * time.Millisecond) {
		var body string
		if _, header, body = get(t, url+"/api/stats", "*/*"); strings.Contains(body, want) {
			break
		}
		if time.Now().After(deadline) {
			t.Fatalf("%s has no\n%s", body, want)
		}
	}
	if copies := header.Values("Datafeed-Copy"); len(copies) != 3 {
		t.Errorf("Datafeed-Copy: %q", copies)
	}

	status, header, body := get(t, url+"/orders.csv?from=2026-11-23", "*/*")
	rows, err := csv.NewReader(strings.NewReader(body)).ReadAll()
	if err != nil || len(rows) != 2 || strings.Join(rows[1], "|") != o.ID.String()+"|placed|shipped|2026-11-23T12:00:00Z|1|1 volta|27970.00|EUR|2026-11-23T13:00:00Z|2026-11-23T13:30:00Z" {
		t.Errorf("%q, %v", rows, err)
	}
	if strings.Count(body, "\r\n") != 2 || status != 200 || header.Get("Content-Type") != "text/csv; charset=utf-8; header=present" ||
		header.Get("Content-Disposition") != "attachment; filename=orders.csv" || len(header.Values("Datafeed-Copy")) != 3 {
		t.Errorf("%d %v: %q", status, header, body)
	}
	resp, err := http.Head(url + "/orders.csv")
	if err != nil || resp.StatusCode != 200 || resp.Header.Get("Content-Disposition") == "" {
		t.Errorf("HEAD: %v, %v", resp, err)
	}
	for _, path := range []string{"/orders.csv", "/api/stats", "/"} {
		if status, header, body := get(t, url+path+"?from=soon", "application/json"); status != 400 || header.Get("Content-Type") != "application/problem+json" ||
			header.Get("Content-Disposition") != "" || !strings.Contains(body, "parameter from") {
			t.Errorf("%s: %d %s", path, status, body)
		}
	}
	for query, says := range map[string]string{"": "From order to delivery", "?to=2026-11-23": "<td data-label=\"Median\" class=\"num\">60 min</td>", "?to=2026-11-22": "No orders on these days"} {
		if status, _, body := get(t, url+"/"+query, "text/html"); status != 200 || !strings.Contains(body, says) {
			t.Errorf("%s: %d: %s", query, status, body)
		}
	}
}
