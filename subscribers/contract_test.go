package main

import (
	"bytes"
	"context"
	"encoding/json"
	"math/rand/v2"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/edison-cars/data-feeds/shared/subscribe"
	"github.com/edison-cars/data-feeds/subscribers/services"

	"github.com/go-json-experiment/json/jsontext"
	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"pgregory.net/rapid"

	"github.com/edison-cars/data-feeds/shared/carbuild"
	"github.com/edison-cars/data-feeds/shared/customer"
	"github.com/edison-cars/data-feeds/shared/feed"
	"github.com/edison-cars/data-feeds/shared/order"
	"github.com/edison-cars/data-feeds/shared/postgres/pgtest"
	"github.com/edison-cars/data-feeds/shared/publish"
	"github.com/edison-cars/data-feeds/shared/shipment"
)

// keepers are the services that keep to the contracts, and a path of their API. A service that is added copies whatever
// it is given, until it says what it checks.
var keepers = map[string]string{"warehouse": "parts", "assembly": "builds", "dashboard": "stats", "billing": "invoices", "shipping": "shipments", "mailer": "mails"}

// readers are the keepers, each by its feeds, from sources of which a test says what they publish.
type readers struct {
	sources map[string]*source
	all     []reader
}

// A reader is a service's copy of one feed, or of a view of it.
type reader struct {
	service, feed, view, table, url string
	pool                            *pgxpool.Pool
}

func newReaders(t *testing.T) *readers {
	r := &readers{sources: map[string]*source{}}
	for _, name := range []string{order.Feed, customer.Feed, carbuild.Feed, shipment.Feed} {
		r.sources[name] = newSource(t, name)
	}
	for _, s := range services.All() {
		env := map[string]string{}
		if keepers[s.Name] == "" {
			continue
		}
		for _, f := range s.Feeds {
			env["FEED_URL_"+strings.ToUpper(f.Name)] = r.sources[f.Name].url + viewOf(f)
			env["POLL_"+strings.ToUpper(f.Name)] = "@yearly"
		}
		pool := pgtest.New(t)
		url := start(t, s.Name, pool, env)
		for _, f := range s.Feeds {
			r.all = append(r.all, reader{s.Name, f.Name, viewOf(f), f.Table, url, pool})
		}
	}
	return r
}

// viewOf returns the path of the view that a service reads, below that of the feed, or "" if it reads the feed.
func viewOf(f subscribe.Feed) string {
	_, view, _ := strings.Cut(f.URL, "/feeds/"+f.Name)
	return view
}

// An entity is one that a feed publishes; good ones must arrive.
type entity struct {
	feed    string
	id      uuid.UUID
	payload string
	good    bool
	name    string
}

// publish publishes the entities, those of a feed in one transaction, and has every service copy them.
func (r *readers) publish(t *testing.T, entities []entity) {
	t.Helper()
	for name, s := range r.sources {
		err := s.log.InTx(t.Context(), func(tx *publish.Tx) error {
			for _, e := range entities {
				if e.feed == name {
					tx.Append(name, publish.Entry{ID: e.id, Version: 1, Updated: noon, Payload: []byte(e.payload)})
				}
			}
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	var polls sync.WaitGroup
	for _, reader := range r.all {
		polls.Go(func() { ask(t, reader.url, reader.feed+"/poll") })
	}
	if polls.Wait(); t.Failed() {
		t.FailNow()
	}
}

// ids returns those that a query finds.
func ids(t *testing.T, pool *pgxpool.Pool, sql string, args ...any) map[uuid.UUID]bool {
	t.Helper()
	rows, err := pool.Query(context.Background(), sql, args...)
	if err != nil {
		t.Fatal(err)
	}
	list, err := pgx.CollectRows(rows, pgx.RowTo[uuid.UUID])
	if err != nil {
		t.Fatal(err)
	}
	found := map[uuid.UUID]bool{}
	for _, id := range list {
		found[id] = true
	}
	return found
}

// agree fails the test unless every entity is applied by all readers of the feed or view, or rejected by all, and the
// good ones are applied.
func (r *readers) agree(t *testing.T, entities []entity) (rejected map[uuid.UUID]bool) {
	t.Helper()
	rejected = map[uuid.UUID]bool{}
	first := map[string]map[uuid.UUID]bool{}
	for _, reader := range r.all {
		has := ids(t, reader.pool, `select id from `+reader.table)
		bad := ids(t, reader.pool, `select entity_id from rejected_entry where feed = $1`, reader.feed)
		for _, e := range entities {
			switch {
			case e.feed != reader.feed:
				continue
			case has[e.id] == bad[e.id]:
				t.Errorf("%s, %s: applied %t, rejected %t: %.300q", reader.service, e.name, has[e.id], bad[e.id], e.payload)
			case e.good && bad[e.id]:
				t.Errorf("%s has rejected a good one, %s: %.300q", reader.service, e.name, e.payload)
			case first[reader.feed+reader.view] != nil && first[reader.feed+reader.view][e.id] != bad[e.id]:
				t.Errorf("%s, %s: rejected %t, unlike the others: %.300q", reader.service, e.name, bad[e.id], e.payload)
			}
		}
		if first[reader.feed+reader.view] == nil {
			first[reader.feed+reader.view] = bad
		}
		for id := range bad {
			rejected[id] = true
		}
	}
	return rejected
}

// work looks at pages and APIs: what got into a copy breaks none.
func (r *readers) work(t *testing.T) {
	t.Helper()
	for _, reader := range r.all {
		for _, path := range []string{"/", "/api/" + keepers[reader.service], "/subscriptions/" + reader.feed + "/rejected"} {
			if status, _, body := get(t, reader.url+path, "text/html"); status != http.StatusOK {
				t.Errorf("%s%s: %d: %.300s", reader.service, path, status, body)
			}
		}
	}
}

// goodOf returns an entity as the contract says.
func goodOf(of string) entity {
	id := uuid.New()
	at := feed.TimeOf(noon.Add(time.Duration(rand.IntN(1e6)) * time.Microsecond))
	var v any
	switch of {
	case order.Feed:
		v = order.Order{
			ID: id, Version: 1, Status: order.Placed, CustomerID: uuid.New(), TotalCents: 11900, Currency: "EUR", PlacedAt: at, UpdatedAt: at,
			Lines: []order.Line{{Model: "volta", Options: []string{"heat_pump"}, Quantity: 1, UnitPriceCents: 11900}},
		}
	case customer.Feed:
		v = customer.Customer{
			ID: id, Version: 1, Name: "Ada", Email: "ada@example.com", CreatedAt: at, UpdatedAt: at,
			Address: customer.Address{Street: "Ring 1", PostalCode: "50667", City: "Köln", Country: "DE"},
		}
	case carbuild.Feed:
		v = carbuild.Build{
			ID: id, Version: 1, Status: carbuild.Finished, OrderID: uuid.New(), CustomerID: uuid.New(), Car: 1, Model: "volta", Options: []string{},
			Slot: "2026-11-23", StartedAt: &at, FinishedAt: &at, UpdatedAt: at,
		}
	case shipment.Feed:
		v = shipment.Shipment{ID: id, Version: 1, Status: shipment.Shipped, OrderID: uuid.New(), Car: 1, ShippedAt: &at, UpdatedAt: at}
	}
	payload, err := json.Marshal(v)
	if err != nil {
		panic(err)
	}
	return entity{of, id, string(payload), true, "a good one"}
}

// What stands in an order or a customer against the contract stops no service: all of them put it aside, and the
// others arrive.
func TestBadEntries(t *testing.T) {
	t.Parallel()
	pgtest.Slow(t, "all services")
	r := newReaders(t)
	var entities []entity
	for _, feed := range []string{order.Feed, customer.Feed, carbuild.Feed, shipment.Feed} {
		for range 3 {
			entities = append(entities, goodOf(feed))
		}
	}
	replace := func(feed, member, by string) {
		e := goodOf(feed)
		var members map[string]json.RawMessage
		if err := json.Unmarshal([]byte(e.payload), &members); err != nil || members[member] == nil {
			t.Fatalf("%s has no %s: %v", feed, member, err)
		}
		e.payload = strings.Replace(e.payload, `"`+member+`":`+string(members[member]), by, 1)
		e.good, e.name = false, by[:min(len(by), 60)]
		entities = append(entities, e, goodOf(feed))
	}
	lines := func(model, more string) string {
		return `"lines":[{"model":"` + model + `","options":[],"quantity":1,"unit_price_cents":1` + more + `}]`
	}
	replace(order.Feed, "customer_id", `"customer_id":"x"`)
	for _, at := range []string{
		"yesterday", "infinity", "-infinity", "now", "0000-01-01T00:00:00Z", "10000-01-01T00:00:00Z", "9999-12-31T23:59:59.9999999Z", "2026-11-23T24:00:00Z",
		"2026-11-23T23:59:60Z", "0000-12-31T23:30:00-01:00", "2026-11-23", "2026-11-23 12:00:00", "2026-11-23T12:00:00+16:00", "0044-03-15 BC", "294276-12-31T00:00:00Z",
	} {
		replace(order.Feed, "placed_at", `"placed_at":"`+at+`"`)
	}
	replace(carbuild.Feed, "finished_at", `"finished_at":"infinity"`)
	replace(shipment.Feed, "shipped_at", `"shipped_at":"infinity"`)
	replace(order.Feed, "status", `"status":"placed","Status":"cancelled"`)
	replace(order.Feed, "status", `"Status":"placed"`)
	replace(order.Feed, "status", `"status":"placed","status":"cancelled"`)
	replace(order.Feed, "lines", lines("volta", `,"Model":"ohm"`))
	replace(order.Feed, "lines", lines(random(3200), ``))
	replace(order.Feed, "lines", lines(`vol\u0000ta`, ``))
	replace(order.Feed, "lines", lines(`\ud800`, ``))
	replace(order.Feed, "lines", lines("\xff", ``))
	replace(order.Feed, "lines", `"lines":null`)
	replace(order.Feed, "lines", `"lines":`+strings.Repeat("[", 450)+strings.Repeat("]", 450))
	replace(order.Feed, "total_cents", `"total_cents":1e400`)
	replace(order.Feed, "total_cents", `"total_cents":-1`)
	replace(order.Feed, "currency", `"currency":"EUR","news":`+strings.Repeat("[", 450)+strings.Repeat("]", 450))
	replace(customer.Feed, "address", `"address":null`)
	replace(customer.Feed, "name", `"name":"`+strings.Repeat("x", 100_000)+`"`)
	r.publish(t, entities)
	rejected := r.agree(t, entities)
	for _, e := range entities {
		if !e.good && !rejected[e.id] {
			t.Errorf("it got in: %s", e.name)
		}
	}
	r.work(t)
}

// random returns text that PostgreSQL cannot compress.
func random(n int) string {
	b := make([]byte, n)
	for i := range b {
		b[i] = byte('a' + rand.IntN(26))
	}
	return string(b)
}

// nasty values stand where others belong.
var nasty = []string{
	`null`, `true`, `{}`, `[]`, `""`, `"x"`, `0`, `-1`, `1.5`, `1e2`, `2147483648`, `9223372036854775808`, `1e400`, `1e99999`, `-0`, `"1"`, `"NaN"`, `[null]`, `[{}]`, `{"a":{"A":1}}`,
	`"\u0000"`, `"\ud800"`, "\"\xff\"", `"\\u0000"`, `"infinity"`, `"now"`, `"2026-11-23T12:00:00Z"`, `"2026-11-23T12:00:00.1234567+02:00"`, `"2026-02-30T00:00:00Z"`,
	`"0000-01-01T00:00:00Z"`, `"9999-12-31T23:59:59.9999999Z"`, `"2026-11-23T12:00:00,5Z"`, `"2026-11-23T12:00:00+01:75"`, `"2026-11-23T1:00:00Z"`,
	`"6BA7B810-9DAD-11D1-80B4-00C04FD430C8"`, `"{6ba7b810-9dad-11d1-80b4-00c04fd430c8}"`, `"6ba7b8109dad11d180b400c04fd430c8"`, `"placed"`, `"finished"`, `"2026-11-23"`, `"0000-01-01"`,
	`"` + strings.Repeat("x", 90) + `"`, `"` + strings.Repeat("ö", 300) + `"`, strings.Repeat(`[`, 120) + strings.Repeat(`]`, 120), strings.Repeat("9", 120),
}

// mutate changes something in a JSON value, at any level.
func mutate(t *rapid.T, v jsontext.Value) string {
	var names []string // quoted; nil in an array
	var values []string
	d := jsontext.NewDecoder(bytes.NewReader(v))
	open, _ := d.ReadToken()
	for d.PeekKind() != '}' && d.PeekKind() != ']' {
		if open.Kind() == '{' {
			name, _ := d.ReadValue()
			names = append(names, string(name))
		}
		value, err := d.ReadValue()
		if err != nil {
			t.Fatal(err)
		}
		values = append(values, string(value))
	}
	if len(values) == 0 {
		return rapid.SampledFrom(nasty).Draw(t, "instead")
	}
	i := rapid.IntRange(0, len(values)-1).Draw(t, "member")
	action := rapid.IntRange(0, 9).Draw(t, "action")
	switch deeper := values[i][0] == '{' || values[i][0] == '['; {
	case deeper && action < 6:
		values[i] = mutate(t, jsontext.Value(values[i]))
	case names == nil && action == 9: // a list that is shorter
		values = slices.Delete(values, i, i+1)
	case names == nil && action == 8: // longer
		values = append(values, values[i])
	case names == nil && action == 7: // as long as nobody expects
		values = slices.Repeat(values, 300)
	case names == nil || action < 5:
		values[i] = rapid.SampledFrom(nasty).Draw(t, "value")
	case action == 5:
		names, values = slices.Delete(names, i, i+1), slices.Delete(values, i, i+1)
	case action == 6: // again, the same or another
		names = append(names, names[i])
		values = append(values, rapid.SampledFrom([]string{values[i], `null`, `"x"`}).Draw(t, "twice"))
	case action == 7: // in another case, instead or beside
		other := strings.ToUpper(names[i][:2]) + names[i][2:]
		if rapid.Bool().Draw(t, "beside") {
			names, values = append(names, other), append(values, values[i])
		} else {
			names[i] = other
		}
	default: // what nobody knows
		name := rapid.SampledFrom([]string{`"news"`, `"news\u0000"`, `"_x"`, `"line"`}).Draw(t, "name")
		names, values = append(names, name), append(values, rapid.SampledFrom(nasty).Draw(t, "value"))
	}
	var b strings.Builder
	for i := range values {
		if i > 0 {
			b.WriteByte(',')
		}
		if names != nil {
			b.WriteString(names[i] + ":")
		}
		b.WriteString(values[i])
	}
	if names != nil {
		return "{" + b.String() + "}"
	}
	return "[" + b.String() + "]"
}

// Whatever is wrong with an entity: all services that read the feed, or the same view of it, put it aside, or none does; and the good ones
// arrive.
func TestBadEntriesProperty(t *testing.T) {
	t.Parallel()
	pgtest.Slow(t, "many runs")
	const rounds, perFeed = 8, 60
	r := newReaders(t)
	draw := rapid.Custom(func(t *rapid.T) entity {
		e := goodOf(rapid.SampledFrom([]string{order.Feed, order.Feed, customer.Feed, carbuild.Feed, shipment.Feed}).Draw(t, "feed"))
		if rapid.IntRange(0, 2).Draw(t, "good") > 0 {
			e.payload, e.good, e.name = mutate(t, jsontext.Value(e.payload)), false, "a mutant"
		}
		return e
	})
	seed := rand.IntN(1 << 30)
	var all []entity
	for n := range rounds {
		var some []entity
		for i := range 4 * perFeed {
			some = append(some, draw.Example(seed+n*4*perFeed+i))
		}
		some = slices.DeleteFunc(some, func(e entity) bool { return e.payload[0] != '{' }) // which the log would not take
		r.publish(t, some)
		all = append(all, some...)
	}
	rejected := r.agree(t, all)
	r.work(t)
	if share := float64(len(rejected)) / float64(len(all)); share < 0.2 || share > 0.9 {
		t.Errorf("%d of %d are rejected", len(rejected), len(all))
	}
	if t.Failed() {
		t.Logf("seed %d", seed)
	}
}
