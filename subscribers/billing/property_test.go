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
	words    map[int]word   // of shipments
	standing []*issued      // the invoices that are not credited in full, in the order of their numbers
	list     []string       // as documentsOf
}

type position struct {
	status         order.Status
	customer, cars int
}

// A word is what shipping says of a car.
type word struct {
	order, car int
	status     shipment.Status
}

type issued struct {
	number, order int
	position
	left map[int]bool // the cars that are not credited
}

func cents(cars int) string { return fmt.Sprintf("%d %d %d", 10000*cars, 1900*cars, 11900*cars) }

// gone returns whether a car is stopped or returned.
func (l *ledger) gone(n, car int) (stopped, returned bool) {
	for _, w := range l.words {
		if w.order == n && w.car == car {
			stopped = stopped || w.status == shipment.Stopped
			returned = returned || w.status == shipment.Returned
		}
	}
	return stopped, returned
}

// missing returns the cars of an order that are to be invoiced.
func (l *ledger) missing(n int) map[int]bool {
	cars := map[int]bool{}
	if o := l.orders[n]; o.status == order.Placed {
		for car := 1; car <= o.cars; car++ {
			stopped, returned := l.gone(n, car)
			invoiced := slices.ContainsFunc(l.standing, func(i *issued) bool { return i.order == n && i.left[car] })
			if !stopped && !returned && !invoiced {
				cars[car] = true
			}
		}
	}
	return cars
}

func (l *ledger) invoice(n int) {
	o := l.orders[n]
	city, known := l.cities[o.customer]
	cars := l.missing(n)
	if !known || len(cars) == 0 {
		return
	}
	l.list = append(l.list, fmt.Sprintf("order %d to Customer %d in %s: %s", n, o.customer, city, cents(len(cars))))
	l.standing = append(l.standing, &issued{len(l.list), n, o, cars})
}

func (l *ledger) credit(i *issued) {
	o, ok := l.orders[i.order]
	changed := ok && o.status == order.Placed && o != i.position
	var cars []int
	var anyStopped, anyReturned bool
	for car := range i.left {
		stopped, returned := l.gone(i.order, car)
		if changed || stopped || returned {
			cars = append(cars, car)
			anyStopped, anyReturned = anyStopped || stopped, anyReturned || returned
		}
	}
	if len(cars) == 0 {
		return
	}
	reason := "not delivered or returned"
	switch {
	case changed:
		reason = "order changed"
	case !anyStopped:
		reason = "returned"
	case !anyReturned:
		reason = "not delivered"
	}
	for _, car := range cars {
		delete(i.left, car)
	}
	l.list = append(l.list, fmt.Sprintf("credit of %d, %s: %s", i.number, reason, cents(len(cars))))
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
	for _, i := range l.standing {
		if touched[i.order] {
			l.credit(i)
		}
	}
	l.standing = slices.DeleteFunc(l.standing, func(i *issued) bool { return len(i.left) == 0 })
	for _, n := range slices.Sorted(maps.Keys(touched)) {
		l.invoice(n)
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
			(n + 1) / 2, 2 + rapid.IntRange(0, 5).Draw(t, "cars")/5, // seldom another number
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
	for range rapid.IntRange(0, 16).Draw(t, "entries of shipments") {
		n := rapid.IntRange(1, 4).Draw(t, "shipment")
		from, of, car := orderOf[n], (n+1)/2, 1+n%2
		if rapid.IntRange(0, 5).Draw(t, "moved") == 0 {
			of = 3 - of
		}
		status := rapid.SampledFrom([]shipment.Status{
			shipment.Waiting, shipment.Ready, shipment.Shipped, shipment.Shipped, shipment.Returned, shipment.Stopped, shipment.Stopped, "",
		}).Draw(t, "shipment status")
		id := numbered("shipment", n)
		v := next(id)
		e := newEvent(2, id, v, shipment.Shipment{ID: id, Version: v, Status: status, OrderID: numbered("order", of), Car: car})
		if status == "" {
			e = newEvent(2, id, v, nil)
		}
		orderOf[n] = of
		feeds[2] = append(feeds[2], change{e, of, from, func(l *ledger) {
			l.words[n] = word{of, car, status}
		}})
	}
	return feeds
}

// Whatever the interleaving of the feeds' pages, and what comes again: all documents are as the model says, and nothing
// that was issued changes. In the end each car that is stopped or returned is credited, and of the cars of an order that
// stands all others are invoiced, if the customer is known.
func TestAnyArrival(t *testing.T) {
	t.Parallel()
	pgtest.Slow(t, "many runs")
	pool := newPool(t)
	rapid.Check(t, func(t *rapid.T) {
		if _, err := pool.Exec(t.Context(), `truncate document, standing, orders, customer, deleted_customer, shipment; update last_number set number = 0`); err != nil {
			t.Fatal(err)
		}
		forget := rapid.Bool().Draw(t, "forget")
		feeds := drawFeeds(t, forget)
		model := &ledger{map[int]position{}, map[int]string{}, map[int]word{}, nil, nil}
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
			if _, known := model.cities[o.customer]; known && len(model.missing(n)) > 0 {
				t.Errorf("order %d: %+v is not invoiced", n, o)
			}
		}
	})
}
