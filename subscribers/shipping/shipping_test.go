package shipping

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

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
	"github.com/edison-cars/data-feeds/shared/subscribe"
	"github.com/edison-cars/data-feeds/sql"
)

func TestMain(m *testing.M) { pgtest.Main(m) }

// A depot is shipping's database, and the log of its feed.
type depot struct {
	*pgxpool.Pool
	log     *publish.Log
	feeds   []subscribe.Feed
	current *subscribe.Current
}

func newDepot(t *testing.T) *depot {
	t.Helper()
	pool := pgtest.New(t, sql.Migrations("subscribe"), sql.Migrations("publish"), sql.Migrations("shipping"))
	log, err := publish.Open(t.Context(), pool, publish.Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(log.Close)
	d := &depot{pool, log, Service().Feeds, &subscribe.Current{Service: name}}
	d.current.Begin()
	for _, f := range d.feeds {
		d.current.Feeds = append(d.current.Feeds, f.Name)
		d.polled(t, f.Name)
	}
	return d
}

// polled says that this process has read the feed to its end.
func (d *depot) polled(t *testing.T, feed string) {
	t.Helper()
	at := time.Now().UTC().Truncate(time.Millisecond)
	d.lastPolled(t, feed, at)
	d.current.Polled(feed, at)
}

// lastPolled lets the database say when the feed was last read to its end, as after the restore of a dump.
func (d *depot) lastPolled(t *testing.T, feed string, at time.Time) {
	t.Helper()
	_, err := d.Exec(t.Context(), `
		insert into subscription (service, feed, last_success_at) values ($1, $2, $3)
		on conflict (service, feed) do update set last_success_at = excluded.last_success_at`, name, feed, at)
	if err != nil {
		t.Fatal(err)
	}
}

func numbered(of string, n int) uuid.UUID {
	return uuid.NewSHA1(uuid.NameSpaceOID, fmt.Append(nil, of, n))
}

// An event is an entry of one of the feeds.
type event struct {
	of int // index of the feed
	feed.Entry
}

func newEvent(of int, id uuid.UUID, version int64, entity any) event {
	e := event{of, feed.Entry{ID: id, Version: version, Deleted: entity == nil}}
	if entity != nil {
		e.Entity, _ = json.Marshal(entity) // cannot fail
	}
	return e
}

// built is a version of build n for customer c; without a status it is deleted.
func built(n int, version int64, status carbuild.Status, c int) event {
	id := numbered("build", n)
	if status == "" {
		return newEvent(0, id, version, nil)
	}
	return newEvent(0, id, version, carbuild.Build{
		ID: id, Version: version, Status: status, OrderID: numbered("order", n), CustomerID: numbered("customer", c), Car: 1, Model: "volta", Options: []string{},
	})
}

// signedUp is a version of customer n who lives in city; without a city it is deleted.
func signedUp(n int, version int64, city string) event {
	id := numbered("customer", n)
	if city == "" {
		return newEvent(1, id, version, nil)
	}
	return newEvent(1, id, version, customer.Customer{
		ID: id, Version: version, Name: fmt.Sprint("Customer ", n),
		Address: customer.Address{Street: "Ring 1", PostalCode: "50667", City: city, Country: "DE"},
	})
}

// pickup lets everything leave that is ready.
var pickup = event{of: 3}

// comeback tries to record the return of every car.
var comeback = event{of: 4}

// ordered is a version of order n, of one car for customer 1; without a status it is deleted.
func ordered(n int, version int64, status order.Status) event {
	return orderedCars(n, version, status, 1, 1)
}

func orderedCars(n int, version int64, status order.Status, c, cars int) event {
	id := numbered("order", n)
	if status == "" {
		return newEvent(2, id, version, nil)
	}
	return newEvent(2, id, version, order.Order{
		ID: id, Version: version, Status: status, CustomerID: numbered("customer", c), Lines: []order.Line{{Model: "volta", Options: []string{}, Quantity: cars}},
	})
}

func (d *depot) applyIn(ctx context.Context, tx *publish.Tx, events ...event) error {
	f := d.feeds[events[0].of]
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

// do applies events of one feed as a page, or lets leave what is ready.
func (d *depot) do(ctx context.Context, events ...event) error {
	switch events[0].of {
	case pickup.of:
		return pickUp(ctx, d.log, d.current, 0)
	case comeback.of:
		rows, err := d.Query(ctx, `select id from shipment`)
		if err != nil {
			return err
		}
		ids, err := pgx.CollectRows(rows, pgx.RowTo[uuid.UUID])
		for _, id := range ids {
			err = errors.Join(err, takeBack(ctx, d.log, id))
		}
		return err
	}
	return d.log.InTx(ctx, func(tx *publish.Tx) error { return d.applyIn(ctx, tx, events...) })
}

// states says where each shipment is, and checks that the feed says so, too, of every version.
func (d *depot) states(t rapid.TB) (list []string) {
	t.Helper()
	ctx := context.Background()
	shipments, err := overview(ctx, d.Pool)
	if err != nil {
		t.Fatal(err)
	}
	var published int64
	versions := int64(0)
	for _, stage := range shipments {
		if int(stage.Count) != len(stage.Parcels) {
			t.Errorf("%d %s, %d are shown", stage.Count, stage.Status, len(stage.Parcels))
		}
		for _, p := range stage.Parcels {
			text := fmt.Sprintf("%s v%d", p.Status, p.Version)
			if p.Name != nil {
				text += fmt.Sprintf(": %s in %s", *p.Name, *p.City)
			}
			list = append(list, text)
			versions += p.Version
			var payload []byte
			if err := d.QueryRow(ctx, `select payload from feed_entry where entity_id = $1 order by position desc limit 1`, p.ID).Scan(&payload); err != nil {
				t.Fatal(err)
			}
			want, _ := json.Marshal(shipment.Shipment{
				ID: p.ID, Version: p.Version, Status: p.Status, OrderID: p.OrderID, Car: p.Car, ShippedAt: feed.OptionalTime(p.ShippedAt), UpdatedAt: feed.TimeOf(p.UpdatedAt),
			})
			if string(payload) != string(want) {
				t.Errorf("published %s, want %s", payload, want)
			}
		}
	}
	if err := d.QueryRow(ctx, `select count(*) from feed_entry join shipment on id = entity_id`).Scan(&published); err != nil || published != versions {
		t.Errorf("%d entries are on the feed, want %d (%v)", published, versions, err)
	}
	slices.Sort(list)
	return list
}

func TestShipments(t *testing.T) {
	t.Parallel()
	finished := []event{built(1, 3, carbuild.Finished, 1)}
	for _, c := range []struct {
		name  string
		pages [][]event
		want  []string
	}{
		{"a finished car whose customer is known", [][]event{{signedUp(1, 1, "Köln")}, finished}, []string{"ready v1: Customer 1 in Köln"}},
		{"a car that waited for its customer", [][]event{finished, {signedUp(1, 1, "Köln")}}, []string{"ready v2: Customer 1 in Köln"}},
		{"a customer who has not come", [][]event{finished, {signedUp(2, 1, "Köln")}, {pickup}}, []string{"waiting v1"}},
		{"a car that is not finished", [][]event{{signedUp(1, 1, "Köln")}, {built(1, 1, carbuild.Planned, 1)}, {built(1, 2, carbuild.Started, 1)}, {built(2, 2, carbuild.Cancelled, 1)}}, nil},
		{"the truck", [][]event{{signedUp(1, 1, "Köln")}, finished, {pickup}, {pickup}}, []string{"shipped v2: Customer 1 in Köln"}},
		{"a customer who moves before the car is finished", [][]event{{signedUp(1, 1, "Köln")}, {signedUp(1, 2, "Bonn")}, finished}, []string{"ready v1: Customer 1 in Bonn"}},
		{"a customer who moves afterwards", [][]event{{signedUp(1, 1, "Köln")}, finished, {signedUp(1, 2, "Bonn")}, {pickup}}, []string{"shipped v2: Customer 1 in Köln"}},
		{"a build that the source no longer has", [][]event{{signedUp(1, 1, "Köln")}, finished, {built(1, 4, "", 0), built(2, 1, "", 0)}, {pickup}}, []string{"waiting v2"}},
		{"one that waited", [][]event{finished, {built(1, 4, "", 0)}, {signedUp(1, 1, "Köln")}, {pickup}}, []string{"waiting v1"}},
		{"one whose car has left", [][]event{{signedUp(1, 1, "Köln")}, finished, {pickup}, {built(1, 4, "", 0)}}, []string{"shipped v2: Customer 1 in Köln"}},
		{"a build that comes back", [][]event{{signedUp(1, 1, "Köln")}, finished, {built(1, 4, "", 0)}, {signedUp(1, 2, "Bonn")}, finished}, []string{"ready v3: Customer 1 in Bonn"}},
		{"a build that is not finished in another history", [][]event{{signedUp(1, 1, "Köln")}, finished, {built(1, 4, carbuild.Started, 1)}, {pickup}}, []string{"waiting v2"}},
		{"an account deleted while the car waited", [][]event{finished, {signedUp(1, 2, "")}}, []string{"stopped v2"}},
		{"an account deleted before the car is finished", [][]event{{signedUp(1, 1, "Köln")}, {signedUp(1, 2, "")}, finished, {pickup}}, []string{"stopped v1"}},
		{"an account deleted before the truck came", [][]event{{signedUp(1, 1, "Köln")}, finished, {signedUp(1, 2, "")}, {pickup}}, []string{"stopped v2"}},
		{"an account deleted after the car has left", [][]event{{signedUp(1, 1, "Köln")}, finished, {pickup}, {signedUp(1, 2, "")}}, []string{"shipped v2"}},
		{"an order cancelled before its car is finished", [][]event{{ordered(1, 2, order.Cancelled)}, {signedUp(1, 1, "Köln")}, finished, {pickup}, {comeback}}, []string{"stopped v1"}},
		{"an order cancelled while its car waited", [][]event{finished, {ordered(1, 2, order.Cancelled)}, {signedUp(1, 1, "Köln")}, {pickup}}, []string{"stopped v2"}},
		{"an order cancelled before the truck came", [][]event{{signedUp(1, 1, "Köln")}, finished, {ordered(1, 2, order.Cancelled)}, {pickup}, {comeback}}, []string{"stopped v2"}},
		{"an order cancelled after the car has left", [][]event{{signedUp(1, 1, "Köln")}, finished, {pickup}, {ordered(1, 2, order.Cancelled)}}, []string{"shipped v2: Customer 1 in Köln"}},
		{"a car that comes back", [][]event{{signedUp(1, 1, "Köln")}, finished, {pickup}, {ordered(1, 2, order.Cancelled)}, {comeback}, {pickup}}, []string{"returned v3"}},
		{"an order that stands", [][]event{{signedUp(1, 1, "Köln")}, finished, {ordered(1, 1, order.Placed)}, {pickup}, {comeback}}, []string{"shipped v2: Customer 1 in Köln"}},
		{"another order that is cancelled", [][]event{{signedUp(1, 1, "Köln")}, finished, {pickup}, {ordered(2, 2, order.Cancelled)}, {comeback}}, []string{"shipped v2: Customer 1 in Köln", "stopped v1"}},
		{"a cancelled order that was never built", [][]event{{ordered(1, 2, order.Cancelled)}}, []string{"stopped v1"}},
		{"one whose cars are", [][]event{{orderedCars(1, 1, order.Placed, 1, 3)}, {signedUp(1, 1, "Köln")}, finished, {pickup}, {orderedCars(1, 2, order.Cancelled, 1, 3)}}, []string{"shipped v2: Customer 1 in Köln", "stopped v1", "stopped v1"}},
		{"one whose car is finished nevertheless", [][]event{{ordered(1, 2, order.Cancelled)}, {built(1, 2, carbuild.Started, 1)}, finished, {signedUp(1, 1, "Köln")}, {pickup}}, []string{"stopped v1"}},
		{"an order that the source no longer has, never built", [][]event{{ordered(1, 1, order.Placed)}, {ordered(1, 2, "")}}, []string{"stopped v1"}},
		{"an order that this service never had", [][]event{{ordered(1, 2, "")}}, nil},
		{"an order that stands again, never built", [][]event{{ordered(1, 2, order.Cancelled)}, {ordered(1, 3, order.Placed)}, {signedUp(1, 1, "Köln")}}, []string{"waiting v2"}},
		{"an order that the source no longer has", [][]event{{signedUp(1, 1, "Köln")}, finished, {ordered(1, 1, order.Placed)}, {pickup}, {ordered(1, 2, "")}, {comeback}}, []string{"returned v3"}},
		{"an order that stands again before its car is back", [][]event{{signedUp(1, 1, "Köln")}, finished, {pickup}, {ordered(1, 2, "")}, {ordered(1, 1, order.Placed)}, {comeback}}, []string{"shipped v2: Customer 1 in Köln"}},
		{"an order that stands again after its car is back", [][]event{{signedUp(1, 1, "Köln")}, finished, {pickup}, {ordered(1, 2, "")}, {comeback}, {signedUp(1, 2, "Bonn")}, {ordered(1, 1, order.Placed)}, {pickup}}, []string{"shipped v5: Customer 1 in Bonn"}},
		{"an account deleted while the car is on its way back", [][]event{{signedUp(1, 1, "Köln")}, finished, {pickup}, {ordered(1, 2, order.Cancelled)}, {signedUp(1, 2, "")}, {comeback}}, []string{"returned v3"}},
		{"a build that is withdrawn after its car is back", [][]event{{signedUp(1, 1, "Köln")}, finished, {pickup}, {ordered(1, 2, order.Cancelled)}, {comeback}, {built(1, 4, "", 0)}}, []string{"returned v3"}},
		{"an account that another history has again", [][]event{finished, {signedUp(1, 2, "")}, {signedUp(1, 1, "Köln")}}, []string{"ready v3: Customer 1 in Köln"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			d := newDepot(t)
			for _, events := range c.pages {
				for range 2 { // the same page again changes nothing
					if err := d.do(t.Context(), events...); err != nil {
						t.Fatal(err)
					}
				}
				once := d.states(t)
				if err := d.do(t.Context(), events...); err != nil {
					t.Fatal(err)
				}
				if again := d.states(t); !slices.Equal(again, once) {
					t.Errorf("%q, and after the same again %q", once, again)
				}
			}
			if got := d.states(t); !slices.Equal(got, c.want) {
				t.Errorf("%q, want %q", got, c.want)
			}
		})
	}
}

// The engine sees of each customer whether shipping has an address of theirs, until the account is deleted.
func TestKept(t *testing.T) {
	t.Parallel()
	d := newDepot(t)
	for _, step := range []struct {
		of   event
		kept bool
	}{
		{built(1, 3, carbuild.Finished, 1), false}, {signedUp(1, 1, "Köln"), true}, {pickup, true}, {signedUp(1, 2, ""), false},
		{built(2, 3, carbuild.Finished, 2), false}, {signedUp(2, 1, "Köln"), true}, {signedUp(2, 2, ""), false},
	} {
		if err := d.do(t.Context(), step.of); err != nil {
			t.Fatal(err)
		}
		var kept bool
		err := d.QueryRow(t.Context(), `select exists (select from unnest($1::uuid[]) as e (id) where `+d.feeds[1].Kept+`)`,
			[]uuid.UUID{numbered("customer", 1), numbered("customer", 2)}).Scan(&kept)
		if err != nil || kept != step.kept {
			t.Errorf("after %+v: %v, %v", step.of, kept, err)
		}
	}
}

// A car that is ready leaves no earlier than PICKUP says, however many are ready.
func TestPickUp(t *testing.T) {
	t.Parallel()
	d := newDepot(t)
	var builds []event
	for n := range pickUpChunk + 7 {
		builds = append(builds, built(n, 1, carbuild.Finished, 1))
	}
	for _, step := range [][]event{{signedUp(1, 1, "Köln")}, builds} {
		if err := d.do(t.Context(), step...); err != nil {
			t.Fatal(err)
		}
	}
	for _, c := range []struct {
		after time.Duration
		left  int
	}{{time.Hour, 0}, {0, pickUpChunk}, {0, pickUpChunk + 7}} {
		if err := pickUp(t.Context(), d.log, d.current, c.after); err != nil {
			t.Fatal(err)
		}
		var left int
		if err := d.QueryRow(t.Context(), `select count(*) from shipment where status = 'shipped' and shipped_at = updated_at and shipped_at > ready_at`).Scan(&left); err != nil || left != c.left {
			t.Errorf("%d have left, want %d (%v)", left, c.left, err)
		}
	}
}

// A build and its customer that come at the same moment do not miss each other.
func TestFeedsTakeTurns(t *testing.T) {
	t.Parallel()
	first, second := built(1, 1, carbuild.Finished, 1), signedUp(1, 1, "Köln")
	for _, c := range []struct {
		name          string
		first, second event
		want          string
	}{{"the build first", first, second, "ready v2"}, {"the customer first", second, first, "ready v1"}} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			d := newDepot(t)
			other := make(chan error, 1)
			err := d.log.InTx(t.Context(), func(tx *publish.Tx) error {
				if err := d.applyIn(t.Context(), tx, c.first); err != nil {
					return err
				}
				go func() { other <- d.do(t.Context(), c.second) }()
				for deadline, waits := time.Now().Add(time.Minute), false; !waits; time.Sleep(5 * time.Millisecond) {
					err := d.QueryRow(t.Context(), `select exists (select from pg_locks where not granted and pid in (select pid from pg_stat_activity where datname = current_database()))`).Scan(&waits)
					if err != nil || len(other) > 0 || time.Now().After(deadline) {
						return fmt.Errorf("the second does not wait for the first: %w", err)
					}
				}
				return nil
			})
			if err != nil {
				t.Fatal(err)
			}
			if err := <-other; err != nil {
				t.Fatal(err)
			}
			if got := d.states(t); !slices.Equal(got, []string{c.want + ": Customer 1 in Köln"}) {
				t.Errorf("%q", got)
			}
		})
	}
}

// A trace says what a car waits for.
func TestTraceWaits(t *testing.T) {
	t.Parallel()
	d := newDepot(t)
	for _, step := range []struct {
		of   event
		want []string
	}{
		{ordered(1, 1, ""), []string{}}, {ordered(1, 2, order.Cancelled), []string{}}, {ordered(1, 3, order.Placed), []string{"car 1: to be finished"}},
		{built(1, 3, carbuild.Finished, 1), []string{"car 1: the address of its customer"}}, {signedUp(1, 1, "Köln"), []string{"car 1: to leave"}}, {pickup, []string{}},
		{ordered(1, 4, order.Cancelled), []string{"car 1: to come back, since its order is cancelled"}},
	} {
		if err := d.do(t.Context(), step.of); err != nil {
			t.Fatal(err)
		}
		part, err := traceOrder(t.Context(), d.Pool, numbered("order", 1))
		if got := part.Complete().WaitsFor; err != nil || !slices.Equal(got, step.want) {
			t.Errorf("after %+v: %q, %v; want %q", step.of, got, err, step.want)
		}
	}
}

// Cancelled orders with more cars than are stopped at once are too much for one page, but not alone.
func TestManyCars(t *testing.T) {
	t.Parallel()
	pgtest.Slow(t, "large tables")
	d := newDepot(t)
	var page []event
	for n := range 3 {
		page = append(page, orderedCars(n, 1, order.Cancelled, 1, 10_000))
	}
	if err := d.do(t.Context(), page...); !errors.Is(err, subscribe.ErrTooMuch) {
		t.Errorf("three at once: %v", err)
	}
	if err := d.do(t.Context(), page[0]); err != nil {
		t.Fatal(err)
	}
	var stopped int
	if err := d.QueryRow(t.Context(), `select count(*) from shipment where status = 'stopped'`).Scan(&stopped); err != nil || stopped != 10_000 {
		t.Errorf("%d are stopped, %v", stopped, err)
	}
}

func TestRollback(t *testing.T) {
	t.Parallel()
	d := newDepot(t)
	err := d.log.InTx(t.Context(), func(tx *publish.Tx) error {
		if err := d.applyIn(t.Context(), tx, built(1, 1, carbuild.Finished, 1)); err != nil {
			return err
		}
		return pgx.ErrTxClosed
	})
	if err == nil {
		t.Fatal("it was not undone")
	}
	if got := d.states(t); len(got) > 0 {
		t.Errorf("%q", got)
	}
}

func TestCode(t *testing.T) {
	t.Parallel()
	c, err := draw(numbered("shipment", 1).URN())
	if err != nil || c.Size < 21+2*quiet || !strings.HasPrefix(c.Path, "M4 4h1v1h-1zM5 4h1v1h-1z") { // the corner of the first finder pattern
		t.Errorf("%+v %v", c, err)
	}
}

// What became ready while the clock was ahead leaves.
func TestReadyInTheFuture(t *testing.T) {
	t.Parallel()
	d := newDepot(t)
	for _, step := range [][]event{{signedUp(1, 1, "Köln")}, {built(1, 1, carbuild.Finished, 1)}} {
		if err := d.do(t.Context(), step...); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := d.Exec(t.Context(), `update shipment set ready_at = now() + interval '74 years'`); err != nil {
		t.Fatal(err)
	}
	if err := pickUp(t.Context(), d.log, d.current, time.Hour); err != nil {
		t.Fatal(err)
	}
	var status string
	if err := d.QueryRow(t.Context(), `select status from shipment`).Scan(&status); err != nil || status != "shipped" {
		t.Errorf("%s, %v", status, err)
	}
}
