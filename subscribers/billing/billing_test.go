package billing

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"pgregory.net/rapid"

	"github.com/edison-cars/data-feeds/shared/customer"
	"github.com/edison-cars/data-feeds/shared/feed"
	"github.com/edison-cars/data-feeds/shared/order"
	"github.com/edison-cars/data-feeds/shared/postgres/pgtest"
	"github.com/edison-cars/data-feeds/shared/shipment"
	"github.com/edison-cars/data-feeds/shared/subscribe"
	"github.com/edison-cars/data-feeds/sql"
)

func TestMain(m *testing.M) { pgtest.Main(m) }

func newPool(t *testing.T) *pgxpool.Pool {
	t.Helper()
	return pgtest.New(t, sql.Migrations("subscribe"), sql.Migrations("billing"))
}

func numbered(of string, n int) uuid.UUID {
	return uuid.NewSHA1(uuid.NameSpaceOID, fmt.Append(nil, of, n))
}

// An event is an entry of one of the feeds.
type event struct {
	of int // index of the feed in Service.Feeds
	feed.Entry
}

func newEvent(of int, id uuid.UUID, version int64, entity any) event {
	e := event{of, feed.Entry{ID: id, Version: version, Deleted: entity == nil}}
	if entity != nil {
		e.Entity, _ = json.Marshal(entity) // cannot fail
	}
	return e
}

var noon = time.Date(2026, 11, 23, 12, 0, 0, 0, time.UTC)

// ordered is a version of order n for customer c, of cars at 119 euros; without a status it is deleted.
func ordered(n int, version int64, status order.Status, c, cars int) event {
	id := numbered("order", n)
	if status == "" {
		return newEvent(0, id, version, nil)
	}
	return newEvent(0, id, version, order.Order{
		ID: id, Version: version, Status: status, CustomerID: numbered("customer", c), TotalCents: int64(cars) * 11900, Currency: "EUR",
		PlacedAt: feed.TimeOf(noon.Add(time.Duration(n) * time.Minute)),
		Lines:    []order.Line{{Model: "volta", Options: []string{"heat_pump"}, Quantity: cars, UnitPriceCents: 11900}},
	})
}

// signedUp is a version of customer n who lives in city; without a city it is deleted.
func signedUp(n int, version int64, city string) event {
	id := numbered("customer", n)
	if city == "" {
		return newEvent(1, id, version, nil)
	}
	return newEvent(1, id, version, customer.Customer{
		ID: id, Version: version, Name: fmt.Sprint("Customer ", n), Email: fmt.Sprintf("customer%d@example.com", n),
		Address: customer.Address{Street: "Ring 1", PostalCode: "50667", City: city, Country: "DE"},
	})
}

// shipped is a version of the shipment of order n's car; without a status it is deleted.
func shipped(n, car int, version int64, status shipment.Status) event {
	id := numbered(fmt.Sprint("shipment of car ", car), n)
	if status == "" {
		return newEvent(2, id, version, nil)
	}
	return newEvent(2, id, version, shipment.Shipment{ID: id, Version: version, Status: status, OrderID: numbered("order", n), Car: car})
}

// moved is the shipment, but of order n.
func moved(e event, n int) event {
	var s shipment.Shipment
	_ = json.Unmarshal(e.Entity, &s) // cannot fail
	s.OrderID = numbered("order", n)
	return newEvent(e.of, e.ID, e.Version, s)
}

// applyIn applies events of one feed as a page.
func applyIn(ctx context.Context, tx pgx.Tx, events ...event) error {
	f := Service.Feeds[events[0].of]
	var page feed.Page
	for _, e := range events {
		page.Entries = append(page.Entries, e.Entry)
	}
	newer, err := f.Newer(ctx, tx, page.Latest(nil))
	if err != nil {
		return err
	}
	return f.Apply(ctx, tx, subscribe.NewBatch(newer))
}

func copyPage(t rapid.TB, pool *pgxpool.Pool, events ...event) {
	t.Helper()
	ctx := context.Background()
	if err := pgx.BeginFunc(ctx, pool, func(tx pgx.Tx) error { return applyIn(ctx, tx, events...) }); err != nil {
		t.Fatal(err)
	}
}

// documentsOf says what was issued, oldest first: the number, the order, where to, net, VAT, total.
func documentsOf(t rapid.TB, pool *pgxpool.Pool) (list []string) {
	t.Helper()
	issued, err := listDocuments(httptest.NewRequest("GET", "/api/invoices", nil), pool, apiLimit)
	if err != nil {
		t.Fatal(err)
	}
	slices.Reverse(issued.Items)
	for i, d := range issued.Items {
		if d.Number != int64(i+1) || i > 0 && d.IssuedAt.Before(issued.Items[i-1].IssuedAt) {
			t.Errorf("document %d, issued at %v, has place %d", d.Number, d.IssuedAt, i+1)
		}
		r := httptest.NewRequest("GET", d.URL(), nil)
		r.SetPathValue("number", d.URL()[strings.LastIndexByte(d.URL(), '/')+1:])
		p, err := readDocument(r, pool, d.Kind)
		if err != nil {
			t.Fatal(err)
		}
		text := fmt.Sprintf("order %d to %s in %s", int(p.PlacedAt.Sub(noon)/time.Minute), p.Name, p.City)
		if p.Credit() {
			text = fmt.Sprintf("credit of %d, %s", *p.Credits, p.Reason)
		}
		list = append(list, fmt.Sprintf("%s: %d %d %d", text, p.NetCents, p.VATCents, p.TotalCents))
	}
	return list
}

// wantCounts checks the figures above the lists, and that the documents add up.
func wantCounts(t rapid.TB, pool *pgxpool.Pool) {
	t.Helper()
	var want data
	if err := pool.QueryRow(context.Background(), `
		select (select count(*) from document where kind = 'invoice'), (select count(*) from document where kind = 'credit_note'),
		       (select coalesce(sum(total_cents), 0)::bigint from document where kind = 'invoice'), (select coalesce(sum(total_cents), 0)::bigint from document where kind = 'credit_note'),
		       (select count(*) from orders where not isempty(missing))`).Scan(&want.Invoices, &want.CreditNotes, &want.InvoicedCents, &want.CreditedCents, &want.Waiting); err != nil {
		t.Fatal(err)
	}
	got, err := overview(httptest.NewRequest("GET", "/", nil), pool)
	if err != nil {
		t.Fatal(err)
	}
	if got.Invoices != want.Invoices || got.CreditNotes != want.CreditNotes || got.InvoicedCents != want.InvoicedCents || got.CreditedCents != want.CreditedCents || got.Waiting != want.Waiting {
		t.Errorf("the page says %+v, want %+v", got, want)
	}
	for what, query := range map[string]string{
		"an invoice is not what of it stands and what is credited": `
			select count(*) from document d left join standing s on s.invoice = d.number
			  left join (select credits, range_agg(r) as cars, sum(upper(r) - lower(r)) as pieces, sum(total_cents) as cents from document cross join unnest(cars) as r where credits is not null group by credits) c on c.credits = d.number
			 where d.kind = 'invoice' and (coalesce(s.cars, '{}') + coalesce(c.cars, '{}') <> d.cars or coalesce(s.cars, '{}') * coalesce(c.cars, '{}') <> '{}'
			    or coalesce(c.pieces, 0) <> coalesce((select sum(upper(r) - lower(r)) from unnest(c.cars) as r), 0))`,
		"an invoice that is credited in full is not balanced": `
			select count(*) from document d where d.kind = 'invoice' and not exists (select from standing where invoice = d.number)
			   and (d.total_cents, d.vat_cents) is distinct from (select (sum(total_cents)::bigint, sum(vat_cents)::bigint) from document where credits = d.number)`,
		"a car that is stopped or returned is not credited": `
			select count(*) from standing s join shipment w on w.order_id = s.order_id and w.car <@ s.cars and w.status in ('stopped', 'returned')`,
		"a car is invoiced twice": `select count(*) from standing a join standing b on b.order_id = a.order_id and b.invoice > a.invoice and a.cars && b.cars`,
	} {
		var wrong int
		if err := pool.QueryRow(context.Background(), query).Scan(&wrong); err != nil || wrong > 0 {
			t.Errorf("%s: %d, %v", what, wrong, err)
		}
	}
}

func wantDocuments(t rapid.TB, pool *pgxpool.Pool, want ...string) {
	t.Helper()
	wantCounts(t, pool)
	if got := documentsOf(t, pool); !slices.Equal(got, want) {
		t.Errorf("issued:\n%s\nwant:\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
}

func wantWaiting(t rapid.TB, pool *pgxpool.Pool, want ...string) {
	t.Helper()
	waiting, err := waitingOrders(httptest.NewRequest("GET", "/waiting", nil), pool, pageLimit)
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, w := range waiting.Items {
		text := fmt.Sprint("order ", int(w.PlacedAt.Sub(noon)/time.Minute))
		if w.CustomerDeleted {
			text += ", customer deleted"
		}
		got = append(got, text)
	}
	if !slices.Equal(got, want) {
		t.Errorf("waiting: %q, want %q", got, want)
	}
}

func TestDocuments(t *testing.T) {
	t.Parallel()
	const first = "order 1 to Customer 1 in Köln: 10000 1900 11900"
	for _, c := range []struct {
		name    string
		pages   [][]event
		want    []string
		waiting []string
	}{
		{"an order whose customer is known", [][]event{{signedUp(1, 1, "Köln")}, {ordered(1, 1, order.Placed, 1, 1)}}, []string{first}, nil},
		{"an order that waited for its customer", [][]event{{ordered(1, 1, order.Placed, 1, 1)}, {signedUp(1, 1, "Köln")}}, []string{first}, nil},
		{"a customer who has not come", [][]event{{ordered(1, 1, order.Placed, 1, 1)}, {signedUp(2, 1, "Köln")}}, nil, []string{"order 1"}},
		{
			"numbers in the order of the sales", [][]event{{ordered(3, 1, order.Placed, 1, 1), ordered(2, 1, order.Placed, 1, 2)}, {signedUp(1, 1, "Köln")}},
			[]string{"order 2 to Customer 1 in Köln: 20000 3800 23800", "order 3 to Customer 1 in Köln: 10000 1900 11900"}, nil,
		},
		{
			"a cancellation of which shipping says nothing yet", [][]event{{signedUp(1, 1, "Köln")}, {ordered(1, 1, order.Placed, 1, 1)}, {ordered(1, 2, order.Cancelled, 1, 1)}},
			[]string{first}, nil,
		},
		{
			"a cancellation before the car has left", [][]event{{signedUp(1, 1, "Köln")}, {ordered(1, 1, order.Placed, 1, 1)}, {shipped(1, 1, 1, shipment.Ready)}, {ordered(1, 2, order.Cancelled, 1, 1)}, {shipped(1, 1, 2, shipment.Stopped)}},
			[]string{first, "credit of 1, not delivered: 10000 1900 11900"}, nil,
		},
		{
			"a car that is stopped before its cancellation is known", [][]event{{signedUp(1, 1, "Köln")}, {ordered(1, 1, order.Placed, 1, 1)}, {shipped(1, 1, 1, shipment.Stopped)}, {ordered(1, 2, order.Cancelled, 1, 1)}},
			[]string{first, "credit of 1, not delivered: 10000 1900 11900"}, nil,
		},
		{
			"a car that is stopped before its order is known", [][]event{{signedUp(1, 1, "Köln")}, {shipped(1, 1, 1, shipment.Stopped)}, {ordered(1, 1, order.Placed, 1, 2)}, {ordered(1, 2, order.Cancelled, 1, 2)}, {shipped(1, 2, 1, shipment.Stopped)}},
			[]string{first, "credit of 1, not delivered: 10000 1900 11900"}, nil,
		},
		{"a cancellation after the car has left", [][]event{{signedUp(1, 1, "Köln")}, {ordered(1, 1, order.Placed, 1, 1)}, {shipped(1, 1, 2, shipment.Shipped)}, {ordered(1, 2, order.Cancelled, 1, 1)}}, []string{first}, nil},
		{
			"a cancelled car that came back", [][]event{{signedUp(1, 1, "Köln")}, {ordered(1, 1, order.Placed, 1, 1)}, {shipped(1, 1, 2, shipment.Shipped)}, {ordered(1, 2, order.Cancelled, 1, 1)}, {shipped(1, 1, 3, shipment.Returned)}},
			[]string{first, "credit of 1, returned: 10000 1900 11900"}, nil,
		},
		{
			"a car that came back before its cancellation is known", [][]event{{signedUp(1, 1, "Köln")}, {ordered(1, 1, order.Placed, 1, 1)}, {shipped(1, 1, 3, shipment.Returned)}, {ordered(1, 2, order.Cancelled, 1, 1)}},
			[]string{first, "credit of 1, returned: 10000 1900 11900"}, nil,
		},
		{
			"one car that left, one that came back, one that was never built",
			[][]event{{signedUp(1, 1, "Köln")}, {ordered(1, 1, order.Placed, 1, 3)}, {shipped(1, 1, 2, shipment.Shipped), shipped(1, 2, 2, shipment.Shipped)}, {ordered(1, 2, order.Cancelled, 1, 3)}, {shipped(1, 3, 1, shipment.Stopped)}, {shipped(1, 2, 3, shipment.Returned)}},
			[]string{"order 1 to Customer 1 in Köln: 30000 5700 35700", "credit of 1, not delivered: 10000 1900 11900", "credit of 1, returned: 10000 1900 11900"}, nil,
		},
		{
			"two words at once", [][]event{{signedUp(1, 1, "Köln")}, {ordered(1, 1, order.Placed, 1, 3)}, {ordered(1, 2, order.Cancelled, 1, 3)}, {shipped(1, 1, 3, shipment.Returned), shipped(1, 3, 1, shipment.Stopped), shipped(1, 2, 3, shipment.Shipped)}},
			[]string{"order 1 to Customer 1 in Köln: 30000 5700 35700", "credit of 1, not delivered or returned: 20000 3800 23800"}, nil,
		},
		{
			"a car of a deleted account, whose order stands", [][]event{{signedUp(1, 1, "Köln")}, {ordered(1, 1, order.Placed, 1, 1)}, {signedUp(1, 2, "")}, {shipped(1, 1, 1, shipment.Stopped)}},
			[]string{first, "credit of 1, not delivered: 10000 1900 11900"}, nil,
		},
		{
			"a shipment that turns out to be another order's", [][]event{{signedUp(1, 1, "Köln")}, {ordered(1, 1, order.Placed, 1, 1), ordered(2, 1, order.Placed, 1, 2)}, {shipped(1, 1, 1, shipment.Shipped)}, {moved(shipped(1, 1, 2, shipment.Stopped), 2)}},
			[]string{first, "order 2 to Customer 1 in Köln: 20000 3800 23800", "credit of 2, not delivered: 10000 1900 11900"}, nil,
		},
		{
			"one that was credited before", [][]event{{signedUp(1, 1, "Köln")}, {ordered(1, 1, order.Placed, 1, 1)}, {shipped(1, 1, 1, shipment.Stopped)}, {moved(shipped(1, 1, 2, shipment.Stopped), 2)}},
			[]string{first, "credit of 1, not delivered: 10000 1900 11900", first}, nil,
		},
		{
			"a shipment that its source no longer has", [][]event{{signedUp(1, 1, "Köln")}, {ordered(1, 1, order.Placed, 1, 1)}, {shipped(1, 1, 2, shipment.Shipped)}, {ordered(1, 2, order.Cancelled, 1, 1)}, {shipped(1, 1, 3, "")}},
			[]string{first}, nil,
		},
		{"an order that the source no longer has, whose car has left", [][]event{{signedUp(1, 1, "Köln")}, {ordered(1, 1, order.Placed, 1, 1)}, {shipped(1, 1, 2, shipment.Shipped)}, {ordered(1, 2, "", 0, 0)}}, []string{first}, nil},
		{
			"one whose car came back", [][]event{{signedUp(1, 1, "Köln")}, {ordered(1, 1, order.Placed, 1, 1)}, {shipped(1, 1, 2, shipment.Shipped)}, {ordered(1, 2, "", 0, 0)}, {shipped(1, 1, 3, shipment.Returned)}},
			[]string{first, "credit of 1, returned: 10000 1900 11900"}, nil,
		},
		{
			"one that is back before its car", [][]event{{signedUp(1, 1, "Köln")}, {ordered(1, 1, order.Placed, 1, 1)}, {shipped(1, 1, 2, shipment.Shipped)}, {ordered(1, 2, "", 0, 0)}, {ordered(1, 1, order.Placed, 1, 1)}},
			[]string{first}, nil,
		},
		{
			"a cancelled order that stands again and whose car leaves after all", [][]event{
				{signedUp(1, 1, "Köln")}, {ordered(1, 1, order.Placed, 1, 2)}, {ordered(1, 2, order.Cancelled, 1, 2)}, {shipped(1, 1, 1, shipment.Stopped)},
				{ordered(1, 3, order.Placed, 1, 2)}, {shipped(1, 1, 2, shipment.Ready)}, {shipped(1, 1, 3, shipment.Shipped)},
			},
			[]string{"order 1 to Customer 1 in Köln: 20000 3800 23800", "credit of 1, not delivered: 10000 1900 11900", first}, nil,
		},
		{
			"a shipped order that is another one now", [][]event{{signedUp(1, 1, "Köln")}, {ordered(1, 1, order.Placed, 1, 1)}, {shipped(1, 1, 2, shipment.Shipped)}, {ordered(1, 2, order.Placed, 1, 2)}},
			[]string{first, "credit of 1, order changed: 10000 1900 11900", "order 1 to Customer 1 in Köln: 20000 3800 23800"}, nil,
		},
		{"an order first seen as cancelled", [][]event{{signedUp(1, 1, "Köln")}, {ordered(1, 2, order.Cancelled, 1, 1)}}, nil, nil},
		{"an order cancelled on the page that it is placed on", [][]event{{signedUp(1, 1, "Köln")}, {ordered(1, 1, order.Placed, 1, 1), ordered(1, 2, order.Cancelled, 1, 1)}}, nil, nil},
		{"an order cancelled while it waited", [][]event{{ordered(1, 1, order.Placed, 1, 1)}, {ordered(1, 2, order.Cancelled, 1, 1)}, {signedUp(1, 1, "Köln")}}, nil, nil},
		{"a customer who moves before", [][]event{{signedUp(1, 1, "Bonn"), signedUp(1, 2, "Köln")}, {ordered(1, 1, order.Placed, 1, 1)}}, []string{first}, nil},
		{
			"a customer who moves afterwards", [][]event{{signedUp(1, 1, "Köln")}, {ordered(1, 1, order.Placed, 1, 1)}, {signedUp(1, 2, "Bonn")}, {ordered(1, 2, order.Cancelled, 1, 1)}, {shipped(1, 1, 1, shipment.Stopped)}},
			[]string{first, "credit of 1, not delivered: 10000 1900 11900"}, nil,
		},
		{"a customer who leaves afterwards", [][]event{{signedUp(1, 1, "Köln")}, {ordered(1, 1, order.Placed, 1, 1)}, {signedUp(1, 2, "")}}, []string{first}, nil},
		{
			"a cancellation after the customer left", [][]event{{signedUp(1, 1, "Köln")}, {ordered(1, 1, order.Placed, 1, 1)}, {signedUp(1, 2, "")}, {ordered(1, 2, order.Cancelled, 1, 1)}, {shipped(1, 1, 1, shipment.Stopped)}},
			[]string{first, "credit of 1, not delivered: 10000 1900 11900"}, nil,
		},
		{"a customer who leaves before", [][]event{{ordered(1, 1, order.Placed, 1, 1)}, {signedUp(1, 2, "")}}, nil, []string{"order 1, customer deleted"}},
		{"an order of one who has left", [][]event{{signedUp(1, 1, "Köln")}, {signedUp(1, 2, "")}, {ordered(1, 1, order.Placed, 1, 1)}}, nil, []string{"order 1, customer deleted"}},
		{"a customer whom another history has again", [][]event{{ordered(1, 1, order.Placed, 1, 1)}, {signedUp(1, 2, "")}, {signedUp(1, 1, "Köln")}}, []string{first}, nil},
		{
			"an order that the source no longer has", [][]event{{signedUp(1, 1, "Köln")}, {ordered(1, 1, order.Placed, 1, 1)}, {ordered(1, 2, "", 0, 0), ordered(2, 1, "", 0, 0)}, {shipped(1, 1, 1, shipment.Stopped)}},
			[]string{first, "credit of 1, not delivered: 10000 1900 11900"}, nil,
		},
		{
			"an order that comes back", [][]event{{signedUp(1, 1, "Köln")}, {ordered(1, 1, order.Placed, 1, 1)}, {ordered(1, 2, "", 0, 0)}, {shipped(1, 1, 1, shipment.Stopped)}, {ordered(1, 1, order.Placed, 1, 1)}, {shipped(1, 1, 2, shipment.Waiting)}},
			[]string{first, "credit of 1, not delivered: 10000 1900 11900", first}, nil,
		},
		{
			"an order that changes", [][]event{{signedUp(1, 1, "Köln")}, {ordered(1, 1, order.Placed, 1, 1)}, {ordered(1, 2, order.Placed, 1, 2)}, {ordered(1, 3, order.Placed, 1, 2)}},
			[]string{first, "credit of 1, order changed: 10000 1900 11900", "order 1 to Customer 1 in Köln: 20000 3800 23800"}, nil,
		},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			pool := newPool(t)
			for _, events := range c.pages {
				copyPage(t, pool, events...)
				issued := documentsOf(t, pool)
				copyPage(t, pool, events...)
				wantDocuments(t, pool, issued...) // the same page again changes nothing
			}
			wantDocuments(t, pool, c.want...)
			wantWaiting(t, pool, c.waiting...)
		})
	}
}

func TestVAT(t *testing.T) {
	t.Parallel()
	pool := newPool(t)
	copyPage(t, pool, signedUp(1, 1, "Köln"))
	for n, c := range []struct{ total, vat int64 }{{0, 0}, {1, 0}, {3, 0}, {4, 1}, {100, 16}, {119, 19}, {3997000, 638176}, {9007199254740993, 1438124250756965}} {
		id := numbered("order", n)
		copyPage(t, pool, newEvent(0, id, 1, order.Order{
			ID: id, Version: 1, Status: order.Placed, CustomerID: numbered("customer", 1), TotalCents: c.total, Currency: "EUR",
			Lines: []order.Line{{Model: "volta", Options: []string{}, Quantity: 1, UnitPriceCents: c.total}},
		}))
		var vat int64
		if err := pool.QueryRow(t.Context(), `select vat_cents from document where order_id = $1`, id).Scan(&vat); err != nil || vat != c.vat {
			t.Errorf("of %d: %d, want %d (%v)", c.total, vat, c.vat, err)
		}
	}
}

// The cars of an order are those of its lines, in their order. Each is credited at its price, and the VAT of the credit
// notes adds up to that of the invoice.
func TestCreditOfLines(t *testing.T) {
	t.Parallel()
	pool := newPool(t)
	o := order.Order{
		ID: numbered("order", 1), Version: 1, Status: order.Placed, CustomerID: numbered("customer", 1), TotalCents: 3*4 + 100 + 2*7, Currency: "EUR", PlacedAt: feed.TimeOf(noon),
		Lines: []order.Line{
			{Model: "volta", Options: []string{}, Quantity: 3, UnitPriceCents: 4}, {Model: "ohm", Options: []string{"tow_bar"}, Quantity: 1, UnitPriceCents: 100},
			{Model: "volta", Options: []string{}, Quantity: 2, UnitPriceCents: 7},
		},
	}
	copyPage(t, pool, signedUp(1, 1, "Köln"))
	copyPage(t, pool, newEvent(0, o.ID, 1, o))
	o.Version, o.Status = 2, order.Cancelled
	copyPage(t, pool, newEvent(0, o.ID, 2, o))
	copyPage(t, pool, shipped(1, 5, 1, shipment.Stopped), shipped(1, 2, 1, shipment.Stopped), shipped(1, 3, 1, shipment.Stopped))
	for _, car := range []int{4, 1, 6} {
		copyPage(t, pool, shipped(1, car, 1, shipment.Stopped))
	}
	wantDocuments(t, pool, "order 0 to Customer 1 in Köln: 106 20 126", "credit of 1, not delivered: 13 2 15", "credit of 1, not delivered: 84 16 100",
		"credit of 1, not delivered: 3 1 4", "credit of 1, not delivered: 6 1 7")
	for number, want := range map[string]string{"1": "3 Volta, 1 Ohm with tow bar, 2 Volta", "2": "2 Volta, 1 Volta", "3": "1 Ohm with tow bar", "4": "1 Volta", "5": "1 Volta"} {
		kind := creditNote
		if number == "1" {
			kind = invoice
		}
		r := httptest.NewRequest("GET", "/", nil)
		r.SetPathValue("number", number)
		p, err := readDocument(r, pool, kind)
		if err != nil {
			t.Fatal(err)
		}
		var lines []string
		for _, l := range p.Lines {
			lines = append(lines, fmt.Sprint(l.Quantity, " ", order.CarName(l.Model, l.Options...)))
		}
		if got := strings.Join(lines, ", "); got != want {
			t.Errorf("document %s: %s, want %s", number, got, want)
		}
	}
}

// An order and its customer that come at the same moment do not miss each other.
func TestFeedsTakeTurns(t *testing.T) {
	t.Parallel()
	first, second := []event{ordered(1, 1, order.Placed, 1, 1)}, []event{signedUp(1, 1, "Köln")}
	for _, c := range []struct {
		name          string
		first, second []event
	}{{"the order first", first, second}, {"the customer first", second, first}} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			pool := newPool(t)
			tx, err := pool.Begin(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			defer func() { _ = tx.Rollback(context.Background()) }()
			if err := applyIn(t.Context(), tx, c.first...); err != nil {
				t.Fatal(err)
			}
			other := make(chan error, 1)
			go func() {
				other <- pgx.BeginFunc(t.Context(), pool, func(tx pgx.Tx) error { return applyIn(t.Context(), tx, c.second...) })
			}()
			for deadline, waits := time.Now().Add(time.Minute), false; !waits; time.Sleep(5 * time.Millisecond) {
				err := pool.QueryRow(t.Context(), `select exists (select from pg_locks where not granted and pid in (select pid from pg_stat_activity where datname = current_database()))`).Scan(&waits)
				if err != nil || len(other) > 0 || time.Now().After(deadline) {
					t.Fatalf("the second does not wait for the first: %v", err)
				}
			}
			if err := tx.Commit(t.Context()); err != nil {
				t.Fatal(err)
			}
			if err := <-other; err != nil {
				t.Fatal(err)
			}
			wantDocuments(t, pool, "order 1 to Customer 1 in Köln: 10000 1900 11900")
			wantWaiting(t, pool)
		})
	}
}

func TestRollbackLeavesNoGap(t *testing.T) {
	t.Parallel()
	pool := newPool(t)
	copyPage(t, pool, signedUp(1, 1, "Köln"))
	err := pgx.BeginFunc(t.Context(), pool, func(tx pgx.Tx) error {
		if err := applyIn(t.Context(), tx, ordered(1, 1, order.Placed, 1, 1)); err != nil {
			return err
		}
		return context.Canceled
	})
	if !errors.Is(err, context.Canceled) {
		t.Fatal(err)
	}
	wantDocuments(t, pool)
	copyPage(t, pool, ordered(2, 1, order.Placed, 1, 1))
	wantDocuments(t, pool, "order 2 to Customer 1 in Köln: 10000 1900 11900")
}

// Documents are dated in the order of their numbers, also when the clock was set back after the first.
func TestDatesFollowNumbers(t *testing.T) {
	t.Parallel()
	pool := newPool(t)
	copyPage(t, pool, signedUp(1, 1, "Köln"))
	copyPage(t, pool, ordered(1, 1, order.Placed, 1, 1))
	for _, sql := range []string{
		`alter table document disable trigger issued`,
		`update document set issued_at = issued_at + interval '1 hour'`,
		`alter table document enable trigger issued`,
	} {
		if _, err := pool.Exec(t.Context(), sql); err != nil {
			t.Fatal(err)
		}
	}
	copyPage(t, pool, ordered(2, 1, order.Placed, 1, 1))
	copyPage(t, pool, shipped(1, 1, 1, shipment.Stopped))
	var documents, early int
	err := pool.QueryRow(t.Context(), `
		select count(*), count(*) filter (where issued_at < before)
		  from (select issued_at, lag(issued_at) over (order by number) as before from document) d`).Scan(&documents, &early)
	if err != nil || documents != 3 || early > 0 {
		t.Errorf("%d of %d documents are dated before one with a lower number: %v", early, documents, err)
	}
}

func TestIssuedIsFinal(t *testing.T) {
	t.Parallel()
	pool := newPool(t)
	copyPage(t, pool, signedUp(1, 1, "Köln"))
	copyPage(t, pool, ordered(1, 1, order.Placed, 1, 1))
	for _, statement := range []string{`update document set name = 'Somebody else'`, `delete from document`} {
		if _, err := pool.Exec(t.Context(), statement); err == nil || !strings.Contains(err.Error(), "document 1 was issued: it cannot be changed") {
			t.Errorf("%s: %v", statement, err)
		}
	}
}
