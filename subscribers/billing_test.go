package main

import (
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/edison-cars/data-feeds/shared/carbuild"
	"github.com/edison-cars/data-feeds/shared/customer"
	"github.com/edison-cars/data-feeds/shared/order"
	"github.com/edison-cars/data-feeds/shared/postgres/pgtest"
	"github.com/edison-cars/data-feeds/shared/shipment"
)

func anOrder(of uuid.UUID, cents int) map[string]any {
	return map[string]any{
		"status": "placed", "customer_id": of, "total_cents": cents, "currency": "EUR", "placed_at": noon.Add(time.Duration(cents) * time.Second), "updated_at": noon,
		"lines": []order.Line{{Model: "volta", Options: []string{"heat_pump"}, Quantity: 1, UnitPriceCents: int64(cents)}},
	}
}

func aCustomer(name, city string) map[string]any {
	return map[string]any{
		"name": name, "email": "somebody@example.com", "created_at": noon, "updated_at": noon,
		"address": customer.Address{Street: "Ring 1", PostalCode: "50667", City: city, Country: "DE"},
	}
}

type billed struct {
	Number     int64
	Kind       string
	OrderID    uuid.UUID `json:"order_id"`
	Name       string    `json:"customer_name"`
	TotalCents int       `json:"total_cents"`
	Credits    int64
}

// ledgerOf returns all documents, oldest first, and fails the test at a gap.
func ledgerOf(t *testing.T, url string) []billed {
	t.Helper()
	list := answer[[]billed](t, url+"/api/invoices")
	slices.Reverse(list)
	for i, d := range list {
		if d.Number != int64(i+1) {
			t.Fatalf("document %d has place %d", d.Number, i+1)
		}
	}
	return list
}

// Billing through its feeds: with refused entries beside the good ones, a customer who comes late, moves and leaves,
// and sources that become others.
func TestBilling(t *testing.T) {
	t.Parallel()
	pgtest.Slow(t, "all services")
	orders, customers, shipments := newSource(t, order.Feed), newSource(t, customer.Feed), newSource(t, shipment.Feed)
	pool := pgtest.New(t)
	url := start(t, "billing", pool, map[string]string{
		"FEED_URL_ORDERS": orders.url, "FEED_URL_CUSTOMERS": customers.url, "POLL_ORDERS": "@yearly", "POLL_CUSTOMERS": "@yearly",
		"FEED_URL_SHIPMENTS": shipments.url, "POLL_SHIPMENTS": "@yearly",
	})
	wilma, other := uuid.New(), uuid.New()
	ids := make([]uuid.UUID, 6)
	for i := range ids {
		ids[i] = uuid.New()
		o := anOrder(wilma, 10_000+i)
		if i == 2 || i == 4 { // of which the page is full, and which must leave no gap
			o["total_cents"] = "a lot"
		}
		orders.put(t, ids[i], o)
	}
	customers.put(t, uuid.New(), aCustomer("Bela Bystander", "Köln"))
	customers.put(t, other, map[string]any{"name": "Nobody without an address"})
	copied(t, url, orders, customers)
	var refused int
	if err := pool.QueryRow(t.Context(), `select count(*) from rejected_entry`).Scan(&refused); err != nil || refused != 3 {
		t.Errorf("%d entries are refused, want 3 (%v)", refused, err)
	}
	if list := ledgerOf(t, url); len(list) > 0 {
		t.Fatalf("invoiced without the customer: %+v", list)
	}
	if _, _, body := get(t, url+"/waiting", "text/html"); !strings.Contains(body, "Orders waiting") || !strings.Contains(body, ids[5].String()) {
		t.Errorf("the page does not show what waits:\n%s", body)
	}

	customers.put(t, wilma, aCustomer("Wilma Windhaeuser", "Altenkirchen"))
	copied(t, url, orders, customers)
	first := ledgerOf(t, url)
	if len(first) != 4 || first[0].OrderID != ids[0] || first[0].TotalCents != 10_000 {
		t.Fatalf("%+v", first)
	}
	customers.put(t, wilma, aCustomer("Wilma Windhaeuser", "Bad Neuenahr"))
	copied(t, url, customers)
	for _, feed := range []*source{orders, customers} {
		ask(t, url, feed.feed+"/resync")
		copied(t, url, feed)
	}
	if again := ledgerOf(t, url); !slices.Equal(again, first) {
		t.Errorf("%+v, and after a resync %+v", first, again)
	}
	for _, d := range first {
		_, _, body := get(t, fmt.Sprintf("%s/invoices/%06d", url, d.Number), "text/html")
		if !strings.Contains(body, "Wilma Windhaeuser<br>Ring 1<br>50667 Altenkirchen<br>Germany") {
			t.Errorf("invoice %d is not what it was:\n%s", d.Number, body)
		}
	}

	// A customer whose newest version is refused, so that rejected_entry holds the name, leaves.
	customers.put(t, wilma, map[string]any{"name": "Wilma Windhaeuser", "address": "none"})
	customers.put(t, other, aCustomer("Somebody", "Bonn"))
	copied(t, url, customers)
	if in := where(t, pool, "Windhaeuser"); !slices.Equal(in, []string{"customer.name", "document.name", "rejected_entry.entity"}) {
		t.Errorf("the name is in %q", in)
	}
	customers.put(t, wilma, nil)
	copied(t, url, customers)
	if in := where(t, pool, "Windhaeuser"); !slices.Equal(in, []string{"document.name"}) {
		t.Errorf("the account is deleted, and the name in %q", in)
	}
	if in := where(t, pool, "Bad Neuenahr"); len(in) > 0 {
		t.Errorf("the account is deleted, and the last address in %q", in)
	}
	late := uuid.New()
	orders.put(t, late, anOrder(wilma, 5))
	copied(t, url, orders)
	if _, _, body := get(t, url+"/waiting", "text/html"); !strings.Contains(body, `<span class="badge low">customer deleted</span>`) || !strings.Contains(body, late.String()) {
		t.Errorf("the page does not say that the customer is deleted:\n%s", body)
	}

	// The source lost all but one order: what becomes of the cars, shipping says.
	orders.startAnew(t)
	orders.put(t, ids[1], anOrder(wilma, 10_001))
	copied(t, url, orders)
	if list := ledgerOf(t, url); !slices.Equal(list, first) {
		t.Errorf("shipping has said nothing: %+v", list)
	}
	for _, d := range first {
		if d.OrderID != ids[1] {
			shipments.put(t, uuid.New(), map[string]any{"status": "stopped", "order_id": d.OrderID, "car": 1, "updated_at": noon})
		}
	}
	copied(t, url, shipments)
	list := ledgerOf(t, url)
	if len(list) != 7 || !slices.Equal(list[:4], first) {
		t.Fatalf("%+v", list)
	}
	for i, credits := range []int{0, 2, 3} {
		if d := list[4+i]; d.Kind != "credit_note" || d.OrderID != first[credits].OrderID || d.Credits != first[credits].Number || d.TotalCents != first[credits].TotalCents || d.Name != first[credits].Name {
			t.Errorf("%+v does not credit %+v", d, first[credits])
		}
	}
	status, _, body := get(t, fmt.Sprintf("%s/credit-notes/%06d", url, list[4].Number), "text/html")
	if status != 200 || !strings.Contains(body, "cars of invoice 000001: not delivered") {
		t.Errorf("%d: %s", status, body)
	}
	for _, path := range []string{"/invoices/000005", "/credit-notes/000001", "/invoices/000099", "/invoices/none"} {
		if status, _, _ := get(t, url+path, "text/html"); status != 404 {
			t.Errorf("%s: %d", path, status)
		}
	}
	for _, query := range []string{"?limit=0", "?limit=1001", "?before=none", "?order_id=1"} {
		if status, _, _ := get(t, url+"/api/invoices"+query, "application/json"); status != 400 {
			t.Errorf("%s: %d", query, status)
		}
	}
	if some := answer[[]billed](t, url+"/api/invoices?limit=2&before=6"); len(some) != 2 || some[0].Number != 5 || some[1].Number != 4 {
		t.Errorf("%+v", some)
	}
	if some := answer[[]billed](t, url+"/api/invoices?order_id="+ids[0].String()); len(some) != 2 || some[0].Kind != "credit_note" || some[1] != first[0] {
		t.Errorf("%+v", some)
	}
}

// An order that is cancelled after its car has left, and one whose car was never built: billing waits until shipping has
// said of each car what becomes of it, and credits the car that left once its return is recorded.
func TestCancelledAfterShipping(t *testing.T) {
	t.Parallel()
	pgtest.Slow(t, "all services")
	orders, builds, customers := newSource(t, order.Feed), newSource(t, carbuild.Feed), newSource(t, customer.Feed)
	pool := pgtest.New(t)
	wilma, left, stays := uuid.New(), uuid.New(), uuid.New()
	customers.put(t, wilma, aCustomer("Wilma Windhaeuser", "Altenkirchen"))
	orders.put(t, left, anOrder(wilma, 10_000))
	orders.put(t, stays, anOrder(wilma, 20_000))
	builds.put(t, uuid.New(), aBuild(left, wilma, carbuild.Finished))
	shipping := start(t, "shipping", pool, map[string]string{
		"FEED_URL_ORDERS": orders.url, "FEED_URL_BUILDS": builds.url, "FEED_URL_CUSTOMERS": customers.url,
		"POLL_ORDERS": "@yearly", "POLL_BUILDS": "@yearly", "POLL_CUSTOMERS": "@yearly", "PICKUP": "0s",
	})
	of := func(id uuid.UUID) (s shipped) {
		for _, s := range answer[[]shipped](t, shipping+"/api/shipments?order_id="+id.String()) {
			return s
		}
		return s
	}
	copied(t, shipping, orders, builds, customers)
	eventually(t, "the truck comes", func() bool { return of(left).Status == shipment.Shipped })
	billing := start(t, "billing", pgtest.New(t), map[string]string{
		"FEED_URL_ORDERS": orders.url, "FEED_URL_CUSTOMERS": customers.url, "FEED_URL_SHIPMENTS": shipping + "/feeds/shipments",
		"POLL_ORDERS": "@yearly", "POLL_CUSTOMERS": "@yearly", "POLL_SHIPMENTS": "@yearly",
	})
	wantKinds := func(want ...string) {
		t.Helper()
		copied(t, billing, orders, customers)
		ask(t, billing, "shipments/poll")
		var got []string
		for _, d := range ledgerOf(t, billing) {
			got = append(got, fmt.Sprint(d.Kind, " ", d.TotalCents))
		}
		if !slices.Equal(got, want) {
			t.Errorf("%q, want %q", got, want)
		}
	}
	page := func(at string, want bool, text string) {
		t.Helper()
		if status, _, body := get(t, at, "text/html"); status != http.StatusOK || strings.Contains(body, text) != want {
			t.Errorf("%s, %d, has %q: want %v\n%s", at, status, text, want, body)
		}
	}
	at := shipping + "/shipments/" + of(left).ID.String()
	wantReturn := func(at string, accept string, want int) (body string) {
		t.Helper()
		req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, at+"/return", nil)
		if err != nil {
			t.Fatal(err)
		}
		req.Header.Set("Accept", accept)
		resp, err := http.DefaultClient.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		all, err := io.ReadAll(resp.Body)
		if err != nil || resp.StatusCode != want {
			t.Fatalf("%d, want %d: %s, %v", resp.StatusCode, want, all, err)
		}
		return string(all)
	}
	wantKinds("invoice 10000", "invoice 20000")
	wantReturn(at, "application/json", http.StatusConflict) // the order stands
	page(at, false, "Record the return")

	for id, cents := range map[uuid.UUID]int{left: 10_000, stays: 20_000} {
		o := anOrder(wilma, cents)
		o["status"] = "cancelled"
		orders.put(t, id, o)
	}
	wantKinds("invoice 10000", "invoice 20000")
	page(billing+"/invoices/000002", true, "Cars not credited: 1 that shipping has not decided on.")
	copied(t, shipping, orders)
	wantKinds("invoice 10000", "invoice 20000", "credit_note 20000")
	page(billing+"/invoices/000001", true, "Cars not credited: 1 that had left, until they are returned.")
	page(billing+"/invoices/000002", true, "nothing is due.")
	page(billing+"/invoices/000002", false, "Cars not credited")
	wantReturn(shipping+"/shipments/"+of(stays).ID.String(), "application/json", http.StatusConflict)
	wantReturn(shipping+"/shipments/"+uuid.NewString(), "application/json", http.StatusNotFound)
	wantReturn(shipping+"/shipments/none", "application/json", http.StatusNotFound)

	page(at, true, "Record the return")
	if body := wantReturn(at, "text/html", http.StatusOK); !strings.Contains(body, "The order was cancelled, and the car is back.") || strings.Contains(body, "Record the return") {
		t.Errorf("the page that a browser gets:\n%s", body)
	}
	version := of(left).Version
	if body := wantReturn(at, "application/json", http.StatusOK); !strings.Contains(body, `"status":"returned"`) || of(left).Version != version {
		t.Errorf("recorded again: version %d became %d: %s", version, of(left).Version, body)
	}
	wantKinds("invoice 10000", "invoice 20000", "credit_note 20000", "credit_note 10000")
	if in := where(t, pool, "Altenkirchen"); !slices.Equal(in, []string{"customer.city"}) {
		t.Errorf("the car is back, and its address in %q", in)
	}
}
