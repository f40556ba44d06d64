package shipping

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/google/uuid"
	"pgregory.net/rapid"

	"github.com/edison-cars/data-feeds/shared/carbuild"
	"github.com/edison-cars/data-feeds/shared/order"
	"github.com/edison-cars/data-feeds/shared/postgres/pgtest"
	"github.com/edison-cars/data-feeds/shared/shipment"
)

// An account is how a customer stands.
type account string

const (
	unknown account = ""
	known   account = "known"
	deleted account = "deleted"
)

// A change is an event, and what it does to the model.
type change struct {
	event
	build    int // with status; or
	status   carbuild.Status
	customer int // with account; or
	account  account
	order    int // with its cars, or with 0 if it is deleted, and stands
	cars     int
	stands   bool
}

// A place is a car of an order.
type place struct{ order, car int }

// Whatever the interleaving of the feeds' pages and of the truck, and what comes again: where a shipment is depends on
// nothing but what the feeds said last, and whether the truck was there when it was ready or its return was recorded.
// Every car of a cancelled order is stopped, shipped or returned. The shipments feed says every version.
func TestAnyArrival(t *testing.T) {
	t.Parallel()
	pgtest.Slow(t, "many runs")
	d := newDepot(t)
	run := 0
	rapid.Check(t, func(t *rapid.T) {
		if _, err := d.Exec(t.Context(), `truncate build, customer, deleted_customer, orders, cancelled_order, shipment`); err != nil {
			t.Fatal(err)
		}
		run++ // the feed goes on: each run has ids of its own
		id := func(n int) int { return 10*run + n }
		versions := map[uuid.UUID]int64{}
		next := func(id uuid.UUID) int64 { versions[id]++; return versions[id] }
		var feeds [3][]change
		for range rapid.IntRange(1, 12).Draw(t, "entries of builds") {
			n := rapid.IntRange(1, 5).Draw(t, "build")
			status := rapid.SampledFrom([]carbuild.Status{carbuild.Planned, carbuild.Started, carbuild.Finished, carbuild.Finished, carbuild.Cancelled, ""}).Draw(t, "status")
			feeds[0] = append(feeds[0], change{event: built(id(n), next(numbered("build", id(n))), status, id((n+1)/2)), build: n, status: status})
		}
		for range rapid.IntRange(1, 8).Draw(t, "entries of customers") {
			n := rapid.IntRange(1, 3).Draw(t, "customer")
			city, to := "Köln", known
			if rapid.IntRange(0, 3).Draw(t, "deleted") == 0 {
				city, to = "", deleted
			}
			feeds[1] = append(feeds[1], change{event: signedUp(id(n), next(numbered("customer", id(n))), city), customer: n, account: to})
		}

		for range rapid.IntRange(0, 8).Draw(t, "entries of orders") {
			n := rapid.IntRange(1, 5).Draw(t, "order")
			status := rapid.SampledFrom([]order.Status{order.Placed, order.Placed, order.Cancelled, order.Cancelled, ""}).Draw(t, "order status")
			c := change{order: n, cars: 1 + n%2, stands: status == order.Placed}
			if c.event = orderedCars(id(n), next(numbered("order", id(n))), status, id((n+1)/2), c.cars); c.Deleted {
				c.cars = 0
			}
			feeds[2] = append(feeds[2], c)
		}

		builds, accounts, model := map[int]carbuild.Status{}, map[int]account{}, map[place]shipment.Status{}
		cancelled, cars := map[int]bool{}, map[int]int{} // orders
		forgotten := map[place]bool{}                    // shipped to a customer that deleted the account then: should the account come back, the name does not
		check := func() {
			var want []string
			for p, is := range model {
				switch account := accounts[(p.order+1)/2]; {
				case is == shipment.Shipped:
					forgotten[p] = forgotten[p] || account == deleted
				case account == deleted || cancelled[p.order]:
					if is != shipment.Returned {
						model[p] = shipment.Stopped
					}
				case account == known && p.car == 1 && builds[p.order] == carbuild.Finished:
					model[p] = shipment.Ready
					forgotten[p] = false
				default:
					model[p] = shipment.Waiting
				}
			}
			for n := range cancelled {
				for car := range cars[n] {
					is := model[place{n, car + 1}]
					if final := is == shipment.Stopped || is == shipment.Shipped || is == shipment.Returned; cancelled[n] && !final {
						t.Fatalf("car %d of the cancelled order %d is %q", car+1, n, is)
					}
				}
			}
			for p, is := range model {
				text := string(is)
				if is == shipment.Ready || is == shipment.Shipped && !forgotten[p] {
					text += ", named"
				}
				want = append(want, text)
			}
			slices.Sort(want)
			pgtest.WantRowCount(t, d.Pool, "shipment", "status", "0")
			var got []string
			for _, s := range d.states(t) {
				status, _, named := strings.Cut(s, ":")
				text, _, _ := strings.Cut(status, " ")
				if named {
					text += ", named"
				}
				got = append(got, text)
			}
			if slices.Sort(got); !slices.Equal(got, want) {
				t.Fatalf("%q, want %q", got, want)
			}
		}
		do := func(events ...event) {
			if err := d.do(t.Context(), events...); err != nil {
				t.Fatal(err)
			}
			check()
		}
		for len(feeds[0])+len(feeds[1])+len(feeds[2]) > 0 {
			switch rapid.IntRange(0, 6).Draw(t, "truck") {
			case 0, 1:
				for p, is := range model {
					if is == shipment.Ready {
						model[p] = shipment.Shipped
					}
				}
				do(pickup)
			case 2:
				for p, is := range model {
					if is == shipment.Shipped && cancelled[p.order] {
						model[p] = shipment.Returned
					}
				}
				do(comeback)
			}
			of := rapid.IntRange(0, 2).Draw(t, "feed")
			for len(feeds[of]) == 0 {
				of = (of + 1) % 3
			}
			size := min(rapid.IntRange(1, 4).Draw(t, "page size"), len(feeds[of]))
			newest := map[string]change{} // of the page: Apply sees no other
			var events []event
			for _, c := range feeds[of][:size] {
				events = append(events, c.event)
				newest[fmt.Sprint(c.build, c.customer, c.order)] = c
			}
			feeds[of] = feeds[of][size:]
			for _, c := range newest {
				switch of {
				case 1:
					accounts[c.customer] = c.account
					continue
				case 2:
					cancelled[c.order] = !c.stands
					for car := range max(c.cars, cars[c.order]) {
						if p := (place{c.order, car + 1}); model[p] == "" && !c.stands {
							model[p] = shipment.Waiting
						}
					}
					cars[c.order] = c.cars
					continue
				}
				builds[c.build] = c.status
				if p := (place{c.build, 1}); model[p] == "" && c.status == carbuild.Finished {
					model[p] = shipment.Waiting
				}
			}
			do(events...)
			if !slices.ContainsFunc(events, func(e event) bool { return e.Deleted }) && rapid.Bool().Draw(t, "again") {
				do(events...)
			}
		}
	})
}
