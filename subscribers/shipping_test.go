package main

import (
	"encoding/json"
	"net/http"
	"slices"
	"strings"
	"testing"

	"github.com/google/uuid"

	"github.com/edison-cars/data-feeds/shared/carbuild"
	"github.com/edison-cars/data-feeds/shared/customer"
	"github.com/edison-cars/data-feeds/shared/feedclient"
	"github.com/edison-cars/data-feeds/shared/order"
	"github.com/edison-cars/data-feeds/shared/postgres/pgtest"
	"github.com/edison-cars/data-feeds/shared/shipment"
)

func aBuild(of, customer uuid.UUID, status carbuild.Status) map[string]any {
	return map[string]any{
		"status": status, "order_id": of, "customer_id": customer, "car": 1, "model": "volta", "options": []string{},
		"slot": "2026-11-23", "updated_at": noon,
	}
}

type shipped struct {
	ID      uuid.UUID
	Version int64
	Status  shipment.Status
	OrderID uuid.UUID `json:"order_id"`
	Car     int

	Cancelled bool `json:"order_cancelled"`
	Name      string
	City      string
}

// Shipping through its feeds: a customer who comes late, moves, and leaves while one car has left and another has not;
// a source that becomes another; and its own feed, which says all that without naming anybody.
func TestShipping(t *testing.T) {
	t.Parallel()
	builds, customers := newSource(t, carbuild.Feed), newSource(t, customer.Feed)
	pool := pgtest.New(t)
	env := map[string]string{
		"FEED_URL_ORDERS": newSource(t, order.Feed).url, "FEED_URL_BUILDS": builds.url, "FEED_URL_CUSTOMERS": customers.url, "POLL_BUILDS": "@yearly", "POLL_CUSTOMERS": "@yearly", "PICKUP": "0s",
	}
	var url string
	wilma := uuid.New()
	left, stays, planned := uuid.New(), uuid.New(), uuid.New()
	is := func(id uuid.UUID) shipped {
		for _, s := range answer[[]shipped](t, url+"/api/shipments") {
			if s.OrderID == id {
				return s
			}
		}
		return shipped{}
	}
	var gone shipped
	var label string
	t.Run("the truck comes at once", func(t *testing.T) {
		url = start(t, "shipping", pool, env)
		builds.put(t, left, aBuild(left, wilma, carbuild.Finished))
		builds.put(t, planned, aBuild(planned, wilma, carbuild.Planned))
		builds.put(t, uuid.New(), map[string]any{"status": "finished", "order_id": "none"}) // refused
		copied(t, url, builds, customers)
		if s := is(left); s.Status != shipment.Waiting || s.Version != 1 {
			t.Fatalf("%+v", s)
		}
		customers.put(t, wilma, aCustomer("Wilma Windhaeuser", "Altenkirchen"))
		copied(t, url, customers)
		eventually(t, "the truck comes", func() bool { return is(left).Status == shipment.Shipped })
		gone = is(left)
		if gone.Name != "Wilma Windhaeuser" || gone.City != "Altenkirchen" || gone.Version != 3 {
			t.Errorf("%+v", gone)
		}
		label = "/shipments/" + gone.ID.String()
		if _, _, body := get(t, url+label, "text/html"); !strings.Contains(body, "Wilma Windhaeuser<br>Ring 1<br>50667 Altenkirchen<br>Germany") || !strings.Contains(body, `<svg class="code" viewBox="0 0 `) {
			t.Errorf("the label:\n%s", body)
		}
	})

	// From here on it comes in an hour.
	env["PICKUP"] = "1h"
	url = start(t, "shipping", pool, env)
	customers.put(t, wilma, aCustomer("Wilma Windhaeuser", "Bad Neuenahr"))
	copied(t, url, customers)
	if s := is(left); s.City != "Altenkirchen" {
		t.Errorf("a move changed %+v", s)
	}
	builds.put(t, stays, aBuild(stays, wilma, carbuild.Finished))
	copied(t, url, builds)
	if s := is(stays); s.Status != shipment.Ready || s.City != "Bad Neuenahr" {
		t.Errorf("%+v", s)
	}
	before := answer[[]shipped](t, url+"/api/shipments")
	for _, feed := range []*source{builds, customers} {
		ask(t, url, feed.feed+"/resync")
		copied(t, url, feed)
	}
	if after := answer[[]shipped](t, url+"/api/shipments"); !slices.Equal(after, before) {
		t.Errorf("%+v, and after a resync %+v", before, after)
	}

	customers.put(t, wilma, map[string]any{"name": "Wilma Windhaeuser", "address": "none"}) // refused, and kept in rejected_entry
	copied(t, url, customers)
	if in := where(t, pool, "Windhaeuser"); !slices.Equal(in, []string{"customer.name", "rejected_entry.entity", "shipment.name"}) {
		t.Errorf("the name is in %q", in)
	}
	customers.put(t, wilma, nil)
	copied(t, url, customers)
	if s := is(stays); s.Status != shipment.Stopped {
		t.Errorf("the account is deleted: %+v", s)
	}
	if s := is(left); s.Status != shipment.Shipped || s.Version != gone.Version {
		t.Errorf("the account is deleted: %+v", s)
	}
	for _, word := range []string{"Windhaeuser", "Altenkirchen", "Bad Neuenahr"} {
		if in := where(t, pool, word); len(in) > 0 {
			t.Errorf("the account is deleted, and %s in %q", word, in)
		}
	}
	if status, _, body := get(t, url+label, "text/html"); status != 200 || !strings.Contains(body, "The address was erased") {
		t.Errorf("the label, %d:\n%s", status, body)
	}

	// The source of builds lost all but one, which waits for another customer.
	second, other := uuid.New(), uuid.New()
	builds.put(t, second, aBuild(second, other, carbuild.Finished))
	copied(t, url, builds)
	builds.startAnew(t)
	builds.put(t, left, aBuild(left, wilma, carbuild.Finished))
	copied(t, url, builds)
	if a, b := is(second), is(left); a.Status != shipment.Waiting || b.Status != shipment.Shipped {
		t.Errorf("%+v, %+v", a, b)
	}
	wantFeed(t, url, answer[[]shipped](t, url+"/api/shipments"))
	for path, want := range map[string]int{"/shipments/none": 404, "/shipments/" + uuid.NewString(): 404, "/api/shipments?status=lost": 400, "/api/shipments?limit=0": 400, "/api/shipments?order_id=1": 400} {
		if status, _, _ := get(t, url+path, "application/json"); status != want {
			t.Errorf("%s: %d", path, status)
		}
	}
	if ready := answer[[]shipped](t, url+"/api/shipments?status=shipped&limit=5"); len(ready) != 1 || ready[0].OrderID != left {
		t.Errorf("%+v", ready)
	}
}

// wantFeed reads shipping's feed from its start: every version once and in order, the newest as the API says.
func wantFeed(t *testing.T, url string, want []shipped) {
	t.Helper()
	client := feedclient.New("")
	defer client.Close()
	got, err := client.Get(t.Context(), feedclient.Request{URL: url + "/feeds/shipments", Limit: 100})
	if err != nil || !got.Page.UpToDate {
		t.Fatalf("%+v %v", got, err)
	}
	newest := map[uuid.UUID]shipment.Shipment{}
	for _, e := range got.Page.Entries {
		var s shipment.Shipment
		if err := json.Unmarshal(e.Entity, &s); err != nil {
			t.Fatal(err)
		}
		if err := shipment.Check(e); err != nil {
			t.Errorf("%s: %v", e.Entity, err)
		}
		if was := newest[e.ID]; s.Version != was.Version+1 || !s.UpdatedAt.After(was.UpdatedAt.Time) || s.Version != e.Version || !s.UpdatedAt.Equal(e.Updated) {
			t.Errorf("%+v comes after %+v", s, was)
		}
		newest[e.ID] = s
	}
	for _, s := range want {
		if is := newest[s.ID]; is.Version != s.Version || is.Status != s.Status || is.OrderID != s.OrderID || is.Car != s.Car || (is.ShippedAt != nil) != (is.Status == shipment.Shipped || is.Status == shipment.Returned) {
			t.Errorf("the feed has %+v, the API %+v", is, s)
		}
	}
	if len(newest) != len(want) {
		t.Errorf("%d are on the feed, %d in the API", len(newest), len(want))
	}
	for _, format := range []string{".html", ".atom", ".json"} {
		if status, _, body := get(t, url+"/feeds/shipments"+format, ""); status != http.StatusOK || strings.Contains(body, "Windhaeuser") {
			t.Errorf("%s: %d: %s", format, status, body)
		}
	}
}
