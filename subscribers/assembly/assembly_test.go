package assembly

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http/httptest"
	"net/url"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"
	"pgregory.net/rapid"

	"github.com/edison-cars/data-feeds/shared/carbuild"
	"github.com/edison-cars/data-feeds/shared/feed"
	"github.com/edison-cars/data-feeds/shared/order"
	"github.com/edison-cars/data-feeds/shared/postgres/pgtest"
	"github.com/edison-cars/data-feeds/shared/publish"
	"github.com/edison-cars/data-feeds/shared/subscribe"
	"github.com/edison-cars/data-feeds/sql"
)

func TestMain(m *testing.M) { pgtest.Main(m) }

// A plant is a factory with its database and feed.
type plant struct {
	factory
	pool *pgxpool.Pool
	log  *publish.Log
	now  time.Time
}

// morning is when the tests begin, in real time.
var morning = time.Date(2026, 11, 23, 6, 0, 0, 0, time.UTC)

func newPlant(t *testing.T, capacity capacity, speed speed) *plant {
	t.Helper()
	p := &plant{
		factory: factory{capacity, speed}, now: morning,
		pool: pgtest.New(t, sql.Migrations("subscribe"), sql.Migrations("publish"), sql.Migrations("assembly")),
	}
	log, err := publish.Open(t.Context(), p.pool, publish.Options{})
	if err != nil {
		t.Fatal(err)
	}
	p.log = log
	t.Cleanup(func() { p.log.Close() })
	return p
}

func orderID(n int) uuid.UUID { return uuid.NewSHA1(uuid.NameSpaceOID, fmt.Append(nil, n)) }

// entry returns a version of order n; without a status it is deleted.
func entry(t rapid.TB, n int, version int64, status order.Status, lines ...order.Line) feed.Entry {
	t.Helper()
	e := feed.Entry{ID: orderID(n), Version: version, Deleted: status == ""}
	if !e.Deleted {
		var err error
		if e.Entity, err = json.Marshal(order.Order{ID: e.ID, Version: version, Status: status, CustomerID: orderID(-n), Lines: lines}); err != nil {
			t.Fatal(err)
		}
	}
	return e
}

func line(quantity int, model string, options ...string) order.Line {
	return order.Line{Model: model, Options: append([]string{}, options...), Quantity: quantity}
}

// copyPage applies entries as one page, whether they are newer or not, as at the end of a walk.
func (p *plant) copyPage(t rapid.TB, entries ...feed.Entry) {
	t.Helper()
	if err := p.tryPage(entries...); err != nil {
		t.Fatal(err)
	}
	p.wantSound(t)
}

func (p *plant) tryPage(entries ...feed.Entry) error {
	return p.log.InTx(context.Background(), func(tx *publish.Tx) error {
		return p.apply(context.Background(), tx, subscribe.NewBatch((&feed.Page{Entries: entries}).Latest(nil)), p.now)
	})
}

// pass lets real time pass, and then what is due is done.
func (p *plant) pass(t rapid.TB, d time.Duration) {
	t.Helper()
	p.now = p.now.Add(d)
	if err := p.work(context.Background(), p.pool, p.log, p.now); err != nil {
		t.Fatal(err)
	}
	p.wantSound(t)
}

// wantSound checks what must always hold: no day has more cars than it can build, each counts right, and the feed is
// what the table is, version by version.
func (p *plant) wantSound(t rapid.TB) {
	t.Helper()
	pgtest.WantRowCount(t, p.pool, "build", "status", "0")
	var wrong int
	err := p.pool.QueryRow(context.Background(), `
		select count(*) from slot full join (select slot as day, count(*) as cars from build where status <> 'cancelled' group by slot) b using (day)
		 where coalesce(slot.cars, 0) <> coalesce(b.cars, 0) or slot.cars > $1`, int(p.Capacity)).Scan(&wrong)
	if err != nil || wrong > 0 {
		t.Fatalf("%d days have too many cars, or count wrong: %v", wrong, err)
	}
	rows, err := p.pool.Query(context.Background(), `select entity_id, version, updated, payload from feed_entry order by position`)
	if err != nil {
		t.Fatal(err)
	}
	newest := map[uuid.UUID]carbuild.Build{}
	var id uuid.UUID
	var version int64
	var updated time.Time
	var payload []byte
	_, err = pgx.ForEachRow(rows, []any{&id, &version, &updated, &payload}, func() error {
		before, b := newest[id], carbuild.Build{}
		if err := carbuild.Check(feed.Entry{ID: id, Version: version, Entity: payload}); err != nil {
			return fmt.Errorf("%s: %w", payload, err)
		}
		if err := json.Unmarshal(payload, &b); err != nil {
			return err
		}
		if b.ID != id || b.Version != version || version != before.Version+1 || !b.UpdatedAt.Equal(updated) || !updated.After(before.UpdatedAt.Time) {
			return fmt.Errorf("%s comes after version %d", payload, before.Version)
		}
		if before.Status == carbuild.Started && b.Status != carbuild.Finished || before.Status == carbuild.Finished {
			return fmt.Errorf("%s comes after %s", payload, before.Status)
		}
		newest[id] = b
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	table := p.builds(t, url.Values{"limit": {"1000"}})
	for _, b := range table {
		has, _ := json.Marshal(b)
		if said, _ := json.Marshal(newest[b.ID]); string(has) != string(said) {
			t.Fatalf("the table has %s, the feed %s", has, said)
		}
	}
	if len(table) != len(newest) {
		t.Fatalf("%d builds, on the feed %d", len(table), len(newest))
	}
}

func (p *plant) builds(t rapid.TB, query url.Values) []carbuild.Build {
	t.Helper()
	found, err := list(httptest.NewRequest("GET", "/api/builds?"+query.Encode(), nil), p.pool, defaultBuilds)
	if err != nil {
		t.Fatal(err)
	}
	builds := []carbuild.Build{} // as the API has it
	for _, b := range found.Items {
		builds = append(builds, b.Build)
	}
	return builds
}

// want checks the builds of all orders, by the number of the order and the car: "1.2 planned volta 2026-11-23".
func (p *plant) want(t rapid.TB, want ...string) {
	t.Helper()
	numbers := map[uuid.UUID]int{}
	for n := range 100 {
		numbers[orderID(n)] = n
	}
	var got []string
	for _, b := range p.builds(t, url.Values{"limit": {"1000"}}) {
		got = append(got, strings.TrimSpace(fmt.Sprintf("%d.%d %s %s %s %s", numbers[b.OrderID], b.Car, b.Status, b.Model, b.Slot, strings.Join(b.Options, " "))))
	}
	slices.Sort(got)
	if !slices.Equal(got, want) {
		t.Errorf("builds\n%s\nnot\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
}

func TestPlanning(t *testing.T) {
	t.Parallel()

	t.Run("a build per car, in the order of arrival, on the earliest days with room", func(t *testing.T) {
		t.Parallel()
		p := newPlant(t, 3, 1)
		p.copyPage(t, entry(t, 1, 1, order.Placed, line(2, "volta", "glass_roof", "heat_pump")), entry(t, 2, 1, order.Placed, line(1, "ohm"), line(3, "joule")))
		p.copyPage(t, entry(t, 3, 1, order.Placed, line(1, "ampere")))
		p.want(t,
			"1.1 planned volta 2026-11-23 glass_roof heat_pump", "1.2 planned volta 2026-11-23 glass_roof heat_pump", "2.1 planned ohm 2026-11-23",
			"2.2 planned joule 2026-11-24", "2.3 planned joule 2026-11-24", "2.4 planned joule 2026-11-24", "3.1 planned ampere 2026-11-25")
	})

	t.Run("what would start after midnight is the next day's", func(t *testing.T) {
		t.Parallel()
		p := newPlant(t, 3, 1)
		p.now = morning.Add(10*time.Hour + time.Second) // and eight hours later it is midnight
		p.copyPage(t, entry(t, 1, 1, order.Placed, line(1, "volta")))
		p.want(t, "1.1 planned volta 2026-11-24")
	})

	t.Run("a slot that a cancellation frees is the next car's", func(t *testing.T) {
		t.Parallel()
		p := newPlant(t, 2, 1)
		p.copyPage(t, entry(t, 1, 1, order.Placed, line(1, "volta")), entry(t, 2, 1, order.Placed, line(3, "ohm")))
		p.copyPage(t, entry(t, 1, 2, order.Cancelled, line(1, "volta")), entry(t, 3, 1, order.Placed, line(1, "ampere")))
		p.want(t, "1.1 cancelled volta 2026-11-23", "2.1 planned ohm 2026-11-23", "2.2 planned ohm 2026-11-24", "2.3 planned ohm 2026-11-24", "3.1 planned ampere 2026-11-23")
	})

	t.Run("another capacity counts from now on", func(t *testing.T) {
		t.Parallel()
		p := newPlant(t, 1, 1)
		p.copyPage(t, entry(t, 1, 1, order.Placed, line(2, "volta")))
		p.Capacity = 2
		p.copyPage(t, entry(t, 2, 1, order.Placed, line(3, "ohm")))
		p.want(t, "1.1 planned volta 2026-11-23", "1.2 planned volta 2026-11-24", "2.1 planned ohm 2026-11-23", "2.2 planned ohm 2026-11-24", "2.3 planned ohm 2026-11-25")
	})

	t.Run("the same again changes nothing", func(t *testing.T) {
		t.Parallel()
		p := newPlant(t, 2, 1)
		page := []feed.Entry{entry(t, 1, 1, order.Placed, line(3, "volta")), entry(t, 2, 2, order.Cancelled, line(1, "ohm")), entry(t, 3, 3, "")}
		for range 3 {
			p.copyPage(t, page...)
			p.now = p.now.Add(time.Minute)
		}
		p.want(t, "1.1 planned volta 2026-11-23", "1.2 planned volta 2026-11-23", "1.3 planned volta 2026-11-24")
		p.wantEntries(t, 3)
		p.pass(t, 40*time.Hour)
		p.copyPage(t, page...)
		p.wantEntries(t, 6)
	})

	t.Run("a new version with other lines", func(t *testing.T) {
		t.Parallel()
		p := newPlant(t, 10, 1)
		p.copyPage(t, entry(t, 1, 1, order.Placed, line(3, "volta")))
		p.copyPage(t, entry(t, 1, 2, order.Placed, line(1, "volta"), line(1, "ohm", "tow_bar")))
		p.want(t, "1.1 planned volta 2026-11-23", "1.2 planned ohm 2026-11-23 tow_bar", "1.3 cancelled volta 2026-11-23")
		p.wantEntries(t, 5)
		p.pass(t, 9*time.Hour)
		p.copyPage(t, entry(t, 1, 3, order.Placed, line(3, "joule")))
		p.want(t, "1.1 started volta 2026-11-23", "1.2 started ohm 2026-11-23 tow_bar", "1.3 planned joule 2026-11-23")
	})

	t.Run("an order that makes no sense is a bad entry", func(t *testing.T) {
		t.Parallel()
		p := newPlant(t, 2, 1)
		for _, quantity := range []int{0, -1, 1 << 40, 10_000} {
			err := p.tryPage(entry(t, 1, 1, order.Placed, line(1, "volta"), line(quantity, "ohm")))
			if pgErr, ok := errors.AsType[*pgconn.PgError](err); !ok || pgErr.Code != "23514" {
				t.Errorf("%d cars: %v", quantity, err)
			}
		}
		err := p.tryPage(feed.Entry{ID: orderID(1), Version: 1, Entity: []byte(`{"lines": 1}`)})
		if _, ok := errors.AsType[*json.UnmarshalTypeError](err); !ok {
			t.Errorf("%v", err)
		}
		p.want(t)
	})

	t.Run("many large orders are too much at once, and one is not", func(t *testing.T) {
		t.Parallel()
		p := newPlant(t, 100_000, 1)
		large := func(n int) feed.Entry { return entry(t, n, 1, order.Placed, line(9_501, "volta")) }
		if err := p.tryPage(large(1), large(2), large(3)); !errors.Is(err, subscribe.ErrTooMuch) {
			t.Errorf("%v", err)
		}
		p.want(t)
		p.wantEntries(t, 0)
		if err := p.tryPage(large(1)); err != nil {
			t.Error(err)
		}
		p.wantEntries(t, 9_501)
	})
}

func (p *plant) wantEntries(t *testing.T, want int) {
	t.Helper()
	var n int
	if err := p.pool.QueryRow(t.Context(), `select count(*) from feed_entry`).Scan(&n); err != nil || n != want {
		t.Errorf("%d entries, not %d (%v)", n, want, err)
	}
}

func TestCancellation(t *testing.T) {
	t.Parallel()
	for name, gone := range map[string]feed.Entry{
		"cancelled": entry(t, 1, 2, order.Cancelled, line(2, "volta")), "deleted": entry(t, 1, 2, ""),
	} {
		t.Run(name+" before it starts", func(t *testing.T) {
			t.Parallel()
			p := newPlant(t, 1, 1)
			p.copyPage(t, entry(t, 1, 1, order.Placed, line(2, "volta")))
			p.copyPage(t, gone)
			p.want(t, "1.1 cancelled volta 2026-11-23", "1.2 cancelled volta 2026-11-24")
			p.pass(t, 100*time.Hour)
			p.wantEntries(t, 4)
			p.copyPage(t, entry(t, 1, 1, order.Placed, line(1, "volta"))) // which another history has
			p.want(t, "1.1 planned volta 2026-11-27", "1.2 cancelled volta 2026-11-24")
		})
		t.Run(name+" when one has started", func(t *testing.T) {
			t.Parallel()
			p := newPlant(t, 1, 1)
			p.copyPage(t, entry(t, 1, 1, order.Placed, line(2, "volta")))
			p.pass(t, 9*time.Hour)
			p.copyPage(t, gone)
			p.want(t, "1.1 started volta 2026-11-23", "1.2 cancelled volta 2026-11-24")
			p.pass(t, 16*time.Hour)
			p.want(t, "1.1 finished volta 2026-11-23", "1.2 cancelled volta 2026-11-24")
		})
	}
	t.Run("an order first seen as cancelled gets no build", func(t *testing.T) {
		t.Parallel()
		p := newPlant(t, 1, 1)
		p.copyPage(t, entry(t, 1, 2, order.Cancelled, line(2, "volta")))
		p.want(t)
	})
}

func TestWork(t *testing.T) {
	t.Parallel()
	p := newPlant(t, 1000, 2880)
	p.copyPage(t, entry(t, 1, 1, order.Placed, line(stepSize+1, "volta")))
	statuses := func() string {
		counts := map[carbuild.Status]int{}
		for _, b := range p.builds(t, url.Values{"limit": {"1000"}}) {
			counts[b.Status]++
		}
		return fmt.Sprint(counts)
	}
	for _, step := range []struct {
		after time.Duration
		want  string
	}{
		{9 * time.Second, "map[planned:501]"}, {time.Second, "map[started:501]"}, {19 * time.Second, "map[started:501]"}, {time.Second, "map[finished:501]"},
	} {
		p.pass(t, step.after)
		if got := statuses(); got != step.want {
			t.Errorf("at %v they are %s, not %s", p.now.Sub(morning), got, step.want)
		}
	}
	b := p.builds(t, url.Values{"limit": {"1"}})[0]
	if b.Version != 3 || !b.StartedAt.Equal(morning.Add(10*time.Second)) || !b.FinishedAt.Equal(morning.Add(30*time.Second)) || b.UpdatedAt != *b.FinishedAt {
		t.Errorf("%+v", b)
	}
}

func TestClock(t *testing.T) {
	t.Parallel()
	p := newPlant(t, 1, 1)
	shows := func(want time.Time) {
		t.Helper()
		c, err := p.clock(t.Context(), p.pool, p.now)
		if got := c.at(p.now); err != nil || !got.Equal(want) {
			t.Errorf("it shows %v, not %v (%v)", got, want, err)
		}
		if back := c.when(c.at(p.now)); back.Sub(p.now).Abs() > time.Microsecond {
			t.Errorf("it shows that at %v, not at %v", back, p.now)
		}
	}
	day := 24 * time.Hour
	shows(morning)
	p.now = p.now.Add(day)
	shows(morning.Add(day))
	p.Speed = 100 // from now on, as after a restart
	shows(morning.Add(day))
	p.now = p.now.Add(day)
	shows(morning.Add(101 * day))
	p.Speed = 0.5
	shows(morning.Add(101 * day))
	p.now = p.now.Add(day)
	shows(morning.Add(101*day + day/2))
	p.Speed = 10_000
	shows(morning.Add(101*day + day/2))
	p.now = p.now.Add(100 * day)                               // longer than a Duration is
	shows(morning.Add(101*day+day/2).AddDate(0, 0, 1_000_000)) // in the year 4765
	p.copyPage(t, entry(t, 1, 1, order.Placed, line(1, "volta")))
	p.pass(t, time.Minute)
	p.pass(t, time.Minute)
	if b := p.builds(t, nil)[0]; b.Status != carbuild.Finished || !strings.HasPrefix(b.Slot, "4764") && !strings.HasPrefix(b.Slot, "4765") {
		t.Errorf("%+v", b)
	}
	c := clock{morning, morning, 10}
	if at := c.at(morning.Add(-time.Hour)); at.Before(morning) {
		t.Errorf("with a real clock that was set back it shows %v", at)
	}
}

func TestSettings(t *testing.T) {
	t.Parallel()
	for _, c := range []struct{ name, value string }{
		{"CAPACITY", "0"}, {"CAPACITY", "many"}, {"CAPACITY", "100001"}, {"CLOCK_SPEED", "0"}, {"CLOCK_SPEED", "-1"}, {"CLOCK_SPEED", "NaN"}, {"CLOCK_SPEED", "10001"},
	} {
		err := Service().Run(t.Context(), map[string]string{c.name: c.value}, t.Output())
		if err == nil || !strings.Contains(err.Error(), c.name+": ") || !strings.Contains(err.Error(), "takes a") {
			t.Errorf("%s=%s: %v", c.name, c.value, err)
		}
	}
}

func TestList(t *testing.T) {
	t.Parallel()
	p := newPlant(t, 2, 1)
	if list, _ := json.Marshal(p.builds(t, nil)); string(list) != "[]" {
		t.Errorf("at first %s", list)
	}
	p.copyPage(t, entry(t, 1, 1, order.Placed, line(101, "volta")))
	p.now = p.now.Add(time.Second)
	p.copyPage(t, entry(t, 2, 1, order.Placed, line(1, "ohm")), entry(t, 1, 2, order.Placed, line(100, "volta")))
	for query, want := range map[string]int{
		"": 100, "limit=1000": 102, "status=cancelled": 1, "status=planned&limit=1000": 101, "order_id=" + orderID(2).String(): 1,
		"order_id=" + orderID(2).String() + "&status=finished": 0, "order_id=" + orderID(3).String(): 0,
	} {
		values, _ := url.ParseQuery(query)
		if n := len(p.builds(t, values)); n != want {
			t.Errorf("%s: %d, not %d", query, n, want)
		}
	}
	if first := p.builds(t, nil)[0]; !first.UpdatedAt.Equal(p.now) {
		t.Errorf("the first is %+v", first)
	}
	for _, query := range []string{"limit=0", "limit=1001", "limit=x", "status=lost", "order_id=1", "q=battery", "q=1234567", "before=1", "after=x"} {
		if _, err := list(httptest.NewRequest("GET", "/api/builds?"+query, nil), p.pool, defaultBuilds); err == nil || !strings.Contains(err.Error(), "takes") {
			t.Errorf("%s: %v", query, err)
		}
	}
}

// Whatever is ordered, changed, cancelled, deleted and comes again, and however time passes: what an order wants in the
// end, it has.
func TestProperty(t *testing.T) {
	t.Parallel()
	pgtest.Slow(t, "many runs")
	p := newPlant(t, 3, 1)
	rapid.Check(t, func(rt *rapid.T) {
		if _, err := p.pool.Exec(context.Background(), `truncate orders, build, slot, clock`); err != nil {
			rt.Fatal(err)
		}
		if _, err := p.pool.Exec(context.Background(), `delete from feed_entry; update feed set marked_position = 0`); err != nil {
			rt.Fatal(err)
		}
		p.log.Close()
		var err error
		if p.log, err = publish.Open(context.Background(), p.pool, publish.Options{}); err != nil {
			rt.Fatal(err)
		}
		p.now = morning
		orders := map[int]feed.Entry{}
		rt.Repeat(map[string]func(*rapid.T){
			"page": func(rt *rapid.T) {
				var page []feed.Entry
				for range rapid.IntRange(1, 4).Draw(rt, "entries") {
					n := rapid.IntRange(1, 6).Draw(rt, "order")
					status := rapid.SampledFrom([]order.Status{order.Placed, order.Placed, order.Placed, order.Cancelled, ""}).Draw(rt, "status")
					var lines []order.Line
					for range rapid.IntRange(1, 2).Draw(rt, "lines") {
						lines = append(lines, line(rapid.IntRange(1, 4).Draw(rt, "quantity"), rapid.SampledFrom([]string{"volta", "ohm"}).Draw(rt, "model")))
					}
					orders[n] = entry(rt, n, orders[n].Version+1, status, lines...)
					page = append(page, orders[n])
				}
				p.copyPage(rt, page...)
			},
			"again": func(rt *rapid.T) {
				for _, e := range orders {
					p.copyPage(rt, e)
				}
			},
			"hours": func(rt *rapid.T) { p.pass(rt, time.Duration(rapid.IntRange(0, 30).Draw(rt, "hours"))*time.Hour) },
			"speed": func(rt *rapid.T) { p.Speed = rapid.SampledFrom([]speed{0.5, 1, 7}).Draw(rt, "speed") },
		})
		for n, e := range orders {
			var want []carbuild.Build
			if !e.Deleted {
				var o orderRead
				if err := json.Unmarshal(e.Entity, &o); err != nil {
					rt.Fatal(err)
				}
				want = wanted(&o)
			}
			has := map[int]carbuild.Build{}
			for _, b := range p.builds(rt, url.Values{"order_id": {orderID(n).String()}}) {
				has[b.Car] = b
			}
			for _, w := range want {
				b := has[w.Car]
				if b.Status != carbuild.Started && b.Status != carbuild.Finished && (b.Status != carbuild.Planned || !sameCar(&b, &w)) {
					rt.Fatalf("order %d wants %+v and has %+v", n, w, b)
				}
				delete(has, w.Car)
			}
			for _, b := range has {
				if b.Status == carbuild.Planned {
					rt.Fatalf("nobody wants %+v", b)
				}
			}
		}
	})
}
