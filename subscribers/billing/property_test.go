package billing

import (
	"fmt"
	"maps"
	"slices"
	"testing"

	"github.com/google/uuid"
	"pgregory.net/rapid"

	"github.com/edison-cars/data-feeds/shared/order"
	"github.com/edison-cars/data-feeds/shared/postgres/pgtest"
	"github.com/edison-cars/data-feeds/shared/shipment"
)

// A ledger is a model of billing.
type ledger struct {
	orders   map[int]position
	cities   map[int]string // of the customers that are known
	out      map[int]int    // the order of each car that has left, by shipment
	standing map[int]issued // the invoices that are not credited, by order
	list     []string       // as documentsOf
}

type position struct {
	status         order.Status
	customer, cars int
}

type issued struct {
	number int
	position
}

func (p position) cents() string {
	return fmt.Sprintf("%d %d %d", 10000*p.cars, 1900*p.cars, 11900*p.cars)
}

func (l *ledger) invoice(n int) {
	o, ok := l.orders[n]
	city, known := l.cities[o.customer]
	if _, has := l.standing[n]; has || !ok || !known || o.status != order.Placed {
		return
	}
	l.list = append(l.list, fmt.Sprintf("order %d to Customer %d in %s: %s", n, o.customer, city, o.cents()))
	l.standing[n] = issued{len(l.list), o}
}

func (l *ledger) credit(n int) {
	was, has := l.standing[n]
	o, ok := l.orders[n]
	var reason string
	switch {
	case !has || o == was.position, o.status != order.Placed && slices.Contains(slices.Collect(maps.Values(l.out)), n):
		return
	case !ok:
		reason = "order withdrawn"
	case o.status == order.Cancelled:
		reason = "order cancelled"
	default:
		reason = "order changed"
	}
	delete(l.standing, n)
	l.list = append(l.list, fmt.Sprintf("credit of %d, %s: %s", was.number, reason, was.cents()))
}

// A change is an event, and what it does to the model.
type change struct {
	event
	number int // of the order or the customer, or, with from, the order of a shipment
	from   int // its order before
	apply  func(*ledger)
}

// apply applies a page of one feed.
func (l *ledger) apply(page []change) {
	touched := map[int]bool{}
	for _, c := range page {
		touched[c.number], touched[c.from] = true, true
		c.apply(l)
	}
	if page[0].of == 1 {
		for _, n := range slices.Sorted(maps.Keys(l.orders)) {
			if touched[l.orders[n].customer] {
				l.invoice(n)
			}
		}
		return
	}
	numbers := slices.Sorted(maps.Keys(touched))
	byInvoice := slices.SortedFunc(slices.Values(numbers), func(a, b int) int { return l.standing[a].number - l.standing[b].number })
	for _, n := range byInvoice {
		l.credit(n)
	}
	if page[0].of == 0 {
		for _, n := range numbers {
			l.invoice(n)
		}
	}
}

// drawFeeds returns the histories of the feeds; forget lets orders be withdrawn and accounts be deleted.
func drawFeeds(t *rapid.T, forget bool) (feeds [3][]change) {
	versions := map[uuid.UUID]int64{}
	add := func(number int, e event, apply func(*ledger)) {
		feeds[e.of] = append(feeds[e.of], change{event: e, number: number, apply: apply})
	}
	next := func(id uuid.UUID) int64 { versions[id]++; return versions[id] }
	for range rapid.IntRange(1, 12).Draw(t, "entries of orders") {
		n := rapid.IntRange(1, 5).Draw(t, "order")
		p := position{
			rapid.SampledFrom([]order.Status{order.Placed, order.Placed, order.Cancelled}).Draw(t, "status"),
			(n + 1) / 2, rapid.IntRange(1, 2).Draw(t, "cars"),
		}
		v := next(numbered("order", n))
		if forget && rapid.IntRange(0, 5).Draw(t, "withdrawn") == 0 {
			add(n, ordered(n, v, "", 0, 0), func(l *ledger) { delete(l.orders, n) })
		} else {
			add(n, ordered(n, v, p.status, p.customer, p.cars), func(l *ledger) { l.orders[n] = p })
		}
	}
	for range rapid.IntRange(1, 8).Draw(t, "entries of customers") {
		n := rapid.IntRange(1, 3).Draw(t, "customer")
		city := rapid.SampledFrom([]string{"Köln", "Bonn", "Trier"}).Draw(t, "city")
		v := next(numbered("customer", n))
		if forget && rapid.IntRange(0, 3).Draw(t, "deleted") == 0 {
			add(n, signedUp(n, v, ""), func(l *ledger) { delete(l.cities, n) })
		} else {
			add(n, signedUp(n, v, city), func(l *ledger) { l.cities[n] = city })
		}
	}
	orderOf := map[int]int{} // of a shipment: it may be another one's later
	for range rapid.IntRange(0, 12).Draw(t, "entries of shipments") {
		n := rapid.IntRange(1, 3).Draw(t, "shipment")
		from, of := orderOf[n], (n+1)/2
		if rapid.IntRange(0, 2).Draw(t, "moved") == 0 {
			of = 3 - of
		}
		status := rapid.SampledFrom([]shipment.Status{
			shipment.Waiting, shipment.Ready, shipment.Shipped, shipment.Shipped, shipment.Shipped, shipment.Returned, shipment.Returned, shipment.Stopped, "",
		}).Draw(t, "shipment status")
		id := numbered("shipment", n)
		v := next(id)
		e := newEvent(2, id, v, shipment.Shipment{ID: id, Version: v, Status: status, BuildID: id, OrderID: numbered("order", of)})
		if status == "" {
			e = newEvent(2, id, v, nil)
		}
		orderOf[n] = of
		feeds[2] = append(feeds[2], change{e, of, from, func(l *ledger) {
			if delete(l.out, n); status == shipment.Shipped {
				l.out[n] = of
			}
		}})
	}
	return feeds
}

// Whatever the interleaving of the feeds' pages, and what comes again: all documents are as the model says, and nothing
// that was issued changes. Where nothing is forgotten, the same orders are invoiced in the end.
func TestAnyArrival(t *testing.T) {
	t.Parallel()
	pgtest.Slow(t, "many runs")
	pool := newPool(t)
	rapid.Check(t, func(t *rapid.T) {
		if _, err := pool.Exec(t.Context(), `truncate document, orders, customer, deleted_customer, shipment; update last_number set number = 0`); err != nil {
			t.Fatal(err)
		}
		forget := rapid.Bool().Draw(t, "forget")
		feeds := drawFeeds(t, forget)
		model := &ledger{map[int]position{}, map[int]string{}, map[int]int{}, map[int]issued{}, nil}
		for len(feeds[0])+len(feeds[1])+len(feeds[2]) > 0 {
			of := rapid.IntRange(0, 2).Draw(t, "feed")
			for len(feeds[of]) == 0 {
				of = (of + 1) % 3
			}
			size := min(rapid.IntRange(1, 4).Draw(t, "page size"), len(feeds[of]))
			page := feeds[of][:size]
			feeds[of] = feeds[of][size:]
			var events []event
			for _, c := range page {
				events = append(events, c.event)
			}
			model.apply(page)
			copyPage(t, pool, events...)
			wantDocuments(t, pool, model.list...)
			if !slices.ContainsFunc(events, func(e event) bool { return e.Deleted }) && rapid.Bool().Draw(t, "again") {
				copyPage(t, pool, events...)
				wantDocuments(t, pool, model.list...)
			}
		}
		for n, o := range model.orders {
			if _, known := model.cities[o.customer]; !forget && (known && o.status == order.Placed) != (model.standing[n].position == o) {
				t.Errorf("order %d: %+v, invoiced: %+v", n, o, model.standing[n])
			}
		}
	})
}
