package main

import (
	"context"
	"fmt"
	"maps"
	"math/rand/v2"
	"net/http"
	"slices"
	"testing"
	"time"

	"github.com/edison-cars/data-feeds/subscribers/services"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/edison-cars/data-feeds/shared/carbuild"
	"github.com/edison-cars/data-feeds/shared/customer"
	"github.com/edison-cars/data-feeds/shared/order"
	"github.com/edison-cars/data-feeds/shared/postgres/pgtest"
	"github.com/edison-cars/data-feeds/shared/shipment"
)

// A company is the services that have to do with a cancellation, and what its customers did.
type company struct {
	*rand.Rand
	orders, customers *source
	pools             map[string]*pgxpool.Pool // of the services
	urls              map[string]string
	feeds             map[string][]string // of the services that run
	bought            []*purchase
	people            []*person
	bill              map[string]map[string]int64 // of materials
	counted           map[string]int64            // pieces on hand at the start
}

type purchase struct {
	id        uuid.UUID
	by        *person
	lines     []order.Line
	cancelled bool
	lost      bool // the source has lost it
}

type person struct {
	id       uuid.UUID
	signedUp bool
	erased   bool
}

// put publishes the purchase as it is.
func (c *company) put(t *testing.T, p *purchase) {
	t.Helper()
	status, total := order.Placed, int64(0)
	if p.cancelled {
		status = order.Cancelled
	}
	for _, l := range p.lines {
		total += l.PriceCents()
	}
	c.orders.put(t, p.id, map[string]any{
		"status": status, "customer_id": p.by.id, "lines": p.lines, "total_cents": total, "currency": "EUR", "placed_at": noon, "updated_at": noon,
	})
}

// run starts a service, which may have been down for long.
func (c *company) run(t *testing.T, name string, env map[string]string) {
	t.Helper()
	all := map[string]string{
		"FEED_URL_ORDERS": c.orders.url, "FEED_URL_CUSTOMERS": c.customers.url, "FEED_URL_BUILDS": c.urls["assembly"] + "/feeds/builds",
		"FEED_URL_SHIPMENTS": c.urls["shipping"] + "/feeds/shipments",
	}
	for _, s := range services.All() {
		if s.Name == name {
			for _, f := range s.Feeds {
				c.feeds[name] = append(c.feeds[name], f.Name)
			}
		}
	}
	for _, feed := range []string{"ORDERS", "CUSTOMERS", "BUILDS", "SHIPMENTS"} {
		all["POLL_"+feed] = "@every 1s"
	}
	maps.Copy(all, env)
	c.pools[name] = pgtest.New(t)
	c.urls[name] = start(t, name, c.pools[name], all)
}

// post posts to a service; it may be refused.
func (c *company) post(t *testing.T, url string) {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, url, nil)
	if err != nil {
		t.Fatal(err)
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
}

// act lets something happen.
func (c *company) act(t *testing.T) {
	t.Helper()
	name := slices.Sorted(maps.Keys(c.feeds))[c.IntN(len(c.feeds))]
	subscription := c.urls[name] + "/subscriptions/" + c.feeds[name][c.IntN(len(c.feeds[name]))]
	p := c.bought[c.IntN(len(c.bought))]
	switch who := c.people[c.IntN(len(c.people))]; c.IntN(20) {
	default:
		c.buy(t, who)
	case 0, 1, 2:
		c.cancel(t, p)
	case 3, 4:
		if left := answer[[]shipped](t, c.urls["shipping"]+"/api/shipments?status=shipped"); len(left) > 0 {
			id := left[c.IntN(len(left))].OrderID
			c.cancel(t, c.bought[slices.IndexFunc(c.bought, func(p *purchase) bool { return p.id == id })])
		}
	case 5, 6:
		if !who.erased {
			who.signedUp = true
			c.customers.put(t, who.id, aCustomer("Somebody", "Köln"))
		}
	case 7:
		if who.erased = c.IntN(3) == 0 && who.signedUp; who.erased {
			c.customers.put(t, who.id, nil)
			c.people = append(slices.DeleteFunc(c.people, func(p *person) bool { return p == who }), &person{id: uuid.New()})
		}
	case 8, 9:
		c.post(t, subscription+"/pause")
	case 10, 11, 12:
		c.post(t, subscription+"/resume")
	case 13:
		c.post(t, subscription+"/resync")
	case 14, 15:
		for _, s := range answer[[]shipped](t, c.urls["shipping"]+"/api/shipments?status=shipped") {
			if s.Cancelled && c.IntN(2) == 0 || c.IntN(50) == 0 { // refused if the order stands
				c.post(t, c.urls["shipping"]+"/shipments/"+s.ID.String()+"/return")
			}
		}
	}
}

func (c *company) cancel(t *testing.T, p *purchase) {
	t.Helper()
	if !p.cancelled && !p.lost {
		p.cancelled = true
		c.put(t, p)
	}
}

func (c *company) buy(t *testing.T, who *person) {
	t.Helper()
	p := &purchase{id: uuid.New(), by: who}
	for range 1 + c.IntN(2) {
		p.lines = append(p.lines, order.Line{Model: models[c.IntN(len(models))], Options: options[:c.IntN(3)], Quantity: 1 + c.IntN(2), UnitPriceCents: 1 + c.Int64N(1e6)})
	}
	c.bought = append(c.bought, p)
	c.put(t, p)
}

// loseSome lets the source go back to a backup: it has lost the newest orders and cancellations.
func (c *company) loseSome(t *testing.T) {
	t.Helper()
	c.orders.startAnew(t)
	for i, p := range c.bought {
		switch {
		case i > len(c.bought)-10:
			p.lost = true
			continue
		case p.cancelled && c.IntN(3) == 0:
			p.cancelled = false
			c.put(t, p)
			continue
		case p.cancelled:
			p.cancelled = false
			c.put(t, p)
			p.cancelled = true
		}
		c.put(t, p)
	}
}

// Whatever comes first and however long services are down, repeat themselves and resync: in the end each car of a
// cancelled order is stopped, shipped or returned, each invoice is credited for the cars that did not leave or came back,
// and the warehouse has taken the parts of every car that was built once, and reserves none for a car that is not to be.
func TestCancellations(t *testing.T) {
	t.Parallel()
	pgtest.Slow(t, "all services")
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	c := &company{
		Rand: rand.New(rand.NewPCG(seed, 0)), orders: newSource(t, order.Feed), customers: newSource(t, customer.Feed),
		pools: map[string]*pgxpool.Pool{}, urls: map[string]string{}, feeds: map[string][]string{}, bill: map[string]map[string]int64{}, counted: map[string]int64{},
	}
	for range 6 {
		c.people = append(c.people, &person{id: uuid.New()})
	}
	c.buy(t, c.people[0])
	c.run(t, "assembly", map[string]string{"CLOCK_SPEED": "10000", "CAPACITY": "1000"})
	c.run(t, "shipping", map[string]string{"PICKUP": "500ms"})
	goOn := func(d time.Duration) {
		for until := time.Now().Add(d); time.Now().Before(until); time.Sleep(20 * time.Millisecond) {
			c.act(t)
		}
	}
	goOn(6 * time.Second)
	c.run(t, "billing", nil)
	c.run(t, "warehouse", map[string]string{"LEAD_SPEED": "1000000"})
	goOn(6 * time.Second)
	c.loseSome(t)
	goOn(10 * time.Second)
	for name, feeds := range c.feeds {
		for _, feed := range feeds {
			c.post(t, c.urls[name]+"/subscriptions/"+feed+"/resume")
		}
	}
	collectStock(t, c)
	var err error
	for deadline := time.Now().Add(2 * time.Minute); time.Now().Before(deadline); time.Sleep(200 * time.Millisecond) {
		if err = c.check(t); err == nil {
			break
		}
	}
	if err != nil {
		t.Error(err)
	}
	found := map[string]int{}
	for _, s := range rows[struct{ Status string }](t, c.pools["shipping"], `select status from shipment`) {
		found[s.Status]++
	}
	for _, d := range rows[struct{ Kind, Reason string }](t, c.pools["billing"], `select kind, reason from document`) {
		found[d.Kind+" "+d.Reason]++
	}
	t.Logf("%d orders: %v", len(c.bought), found)
}

func collectStock(t *testing.T, c *company) {
	t.Helper()
	for _, r := range rows[struct {
		Item, Part string
		Quantity   int64
	}](t, c.pools["warehouse"], `select item, part, quantity from bill_of_materials`) {
		if c.bill[r.Item] == nil {
			c.bill[r.Item] = map[string]int64{}
		}
		c.bill[r.Item][r.Part] = r.Quantity
	}
	for _, r := range rows[struct {
		Part   string
		Pieces int64
	}](t, c.pools["warehouse"], `select part, on_hand from movement where order_id is null and purchase is null`) {
		c.counted[r.Part] = r.Pieces
	}
}

func rows[T any](t *testing.T, pool *pgxpool.Pool, query string) []T {
	t.Helper()
	found, err := pool.Query(context.Background(), query)
	if err != nil {
		t.Fatal(err)
	}
	all, err := pgx.CollectRows(found, pgx.RowToStructByPos[T])
	if err != nil {
		t.Fatal(err)
	}
	return all
}

// A place is a car of an order.
type place struct {
	Order uuid.UUID
	Car   int
}

// check returns an error while something is not as it has to be in the end.
func (c *company) check(t *testing.T) error {
	t.Helper()
	builds, words := map[place]carbuild.Status{}, map[place]shipment.Status{}
	for _, b := range rows[struct {
		Order  uuid.UUID
		Car    int
		Status carbuild.Status
	}](t, c.pools["assembly"], `select order_id, car, status from build`) {
		if b.Status == carbuild.Planned || b.Status == carbuild.Started {
			return fmt.Errorf("a build is %s", b.Status)
		}
		builds[place{b.Order, b.Car}] = b.Status
	}
	for _, s := range rows[struct {
		Order  uuid.UUID
		Car    int
		Status shipment.Status
	}](t, c.pools["shipping"], `select order_id, car, status from shipment`) {
		words[place{s.Order, s.Car}] = s.Status
	}
	standing, ever := map[place]bool{}, map[place]bool{}
	for _, i := range rows[place](t, c.pools["billing"], `select order_id, generate_series(lower(r), upper(r) - 1) from standing cross join unnest(cars) as r`) {
		if standing[i] {
			return fmt.Errorf("car %d of order %s is invoiced twice", i.Car, i.Order)
		}
		standing[i] = true
	}
	for _, i := range rows[place](t, c.pools["billing"], `select order_id, generate_series(lower(r), upper(r) - 1) from document cross join unnest(cars) as r where kind = 'invoice'`) {
		ever[i] = true
	}
	reserved, built := map[string]int64{}, map[string]int64{}
	for _, p := range c.bought {
		car := 0
		for _, l := range p.lines {
			for range l.Quantity {
				car++
				at := place{p.id, car}
				word, finished := words[at], builds[at] == carbuild.Finished
				gone := word == shipment.Stopped || word == shipment.Returned
				for _, item := range append([]string{l.Model}, l.Options...) {
					for part, n := range c.bill[item] {
						switch {
						case finished:
							built[part] += n
						case !p.cancelled && !p.lost:
							reserved[part] += n
						}
					}
				}
				switch {
				case p.lost && (word == "" || word == shipment.Waiting): // shipping never had the order
				case p.cancelled || p.lost:
					if !gone && word != shipment.Shipped {
						return fmt.Errorf("car %d of the cancelled order %s is %q", car, p.id, word)
					}
				case !finished:
					return fmt.Errorf("car %d of order %s is not built", car, p.id)
				case word == shipment.Shipped:
				case p.by.erased && word != shipment.Stopped, p.by.signedUp && !p.by.erased, !p.by.signedUp && word != shipment.Waiting:
					return fmt.Errorf("car %d of order %s is %q, its customer %+v", car, p.id, word, p.by)
				}
				if word == shipment.Shipped && !finished {
					return fmt.Errorf("car %d of order %s is shipped and not built", car, p.id)
				}
				switch {
				case gone && standing[at]:
					return fmt.Errorf("car %d of order %s is %s and not credited", car, p.id, word)
				case !gone && ever[at] && !standing[at]:
					return fmt.Errorf("car %d of order %s is %q and credited", car, p.id, word)
				case !gone && !p.cancelled && !p.lost && p.by.signedUp && !p.by.erased && !standing[at]:
					return fmt.Errorf("car %d of order %s is not invoiced", car, p.id)
				}
			}
		}
	}
	for _, s := range rows[struct {
		Part             string
		OnHand, Reserved int64
		Arrived, OnOrder int64
		Purchased        int64
	}](t, c.pools["warehouse"], `
		select part, on_hand, reserved, coalesce(sum(quantity) filter (where arrived_at is not null), 0)::bigint, on_order, coalesce(sum(quantity), 0)::bigint
		  from part left join purchase using (part) group by part`) {
		if s.Reserved != reserved[s.Part] || s.OnHand != c.counted[s.Part]+s.Arrived-built[s.Part] || s.OnOrder != s.Purchased-s.Arrived {
			return fmt.Errorf("%+v: %d are to be reserved, %d were counted, %d built in", s, reserved[s.Part], c.counted[s.Part], built[s.Part])
		}
	}
	return nil
}
