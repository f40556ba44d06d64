package faults_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/edison-cars/data-feeds/shared/postgres/pgtest"
)

// A till sells at a steady rate. A sale that fails is repeated with its key until it is acknowledged.
type till struct {
	stop    chan struct{}
	selling sync.WaitGroup

	mu    sync.Mutex
	acked map[string]acknowledgement // by the id of what was made
	tries int
	wrong []error // other refusals than those that say to try again
}

// An acknowledgement is the answer of a service that something was made.
type acknowledgement struct {
	by string
	at time.Time
}

// sell opens a till at sales, and has a customer sign up with each tenth order. Their keys begin with the prefix.
func sell(p *inProcess, prefix string) *till {
	c := &till{stop: make(chan struct{}), acked: map[string]acknowledgement{}}
	c.selling.Go(func() {
		tick := time.NewTicker(time.Second / 20)
		defer tick.Stop()
		for n := 0; ; n++ {
			select {
			case <-c.stop:
				return
			case <-tick.C:
			}
			c.selling.Go(func() {
				c.persist("sales", p.urls["sales"]+"/orders", prefix+"-order-"+strconv.Itoa(n), `{"lines":[{"model":"volta","options":[],"quantity":1}]}`)
			})
			if n%10 == 0 {
				c.selling.Go(func() {
					c.persist("customers", p.urls["customers"]+"/customers", prefix+"-customer-"+strconv.Itoa(n),
						`{"name":"Ada Example","email":"ada@mail.example","address":{"street":"Ring 1","postal_code":"50667","city":"Köln","country":"DE"}}`)
				})
			}
		}
	})
	return c
}

// persist sends the request until it is acknowledged.
func (c *till) persist(by, url, key, body string) {
	for deadline := time.Now().Add(patience); time.Now().Before(deadline); time.Sleep(200 * time.Millisecond) {
		req, err := http.NewRequest(http.MethodPost, url, strings.NewReader(body))
		if err != nil {
			panic(err)
		}
		req.Header.Set("Content-Type", "application/json")
		req.Header.Set("Idempotency-Key", key)
		resp, err := client.Do(req)
		if err != nil {
			continue
		}
		text, _ := io.ReadAll(resp.Body)
		resp.Body.Close()
		var made struct{ ID string }
		c.mu.Lock()
		c.tries++
		switch {
		case resp.StatusCode == http.StatusCreated && json.Unmarshal(text, &made) == nil && made.ID != "":
			if _, again := c.acked[made.ID]; again {
				c.wrong = append(c.wrong, fmt.Errorf("%s was acknowledged twice", made.ID))
			}
			c.acked[made.ID] = acknowledgement{by, time.Now()}
			c.mu.Unlock()
			return
		case resp.StatusCode != http.StatusServiceUnavailable || resp.Header.Get("Retry-After") == "" && resp.Header.Get("Location") == "":
			c.wrong = append(c.wrong, fmt.Errorf("%s: %d %s", url, resp.StatusCode, text))
		}
		c.mu.Unlock()
	}
	c.mu.Lock()
	c.wrong = append(c.wrong, fmt.Errorf("%s was not acknowledged within %v", key, patience))
	c.mu.Unlock()
}

// close ends the sale, and returns what was acknowledged.
func (c *till) close(t *testing.T) map[string]acknowledgement {
	t.Helper()
	close(c.stop)
	c.selling.Wait()
	if len(c.wrong) > 0 {
		t.Error(errors.Join(c.wrong...))
	}
	t.Logf("%d acknowledged, in %d requests", len(c.acked), c.tries)
	return c.acked
}

// since returns the time from then to the first acknowledgement after it, or false if there was none yet.
func (c *till) since(then time.Time) (first time.Duration, found bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, a := range c.acked {
		if took := a.at.Sub(then); took > 0 && (!found || took < first) {
			first, found = took, true
		}
	}
	return first, found
}

// resumes waits until something is sold after the promotion, and says how long that took.
func (c *till) resumes(t *testing.T, promoted time.Time) {
	t.Helper()
	eventually(t, func() error {
		if _, found := c.since(promoted); !found {
			return errors.New("nothing is sold")
		}
		return nil
	})
	took, _ := c.since(promoted)
	t.Logf("sold again %v after the promotion", took.Round(time.Millisecond))
}

// promote makes the standby a primary, and returns when it was one.
func promote(standby *pgtest.Server) time.Time {
	standby.Promote()
	return time.Now()
}

// rows returns the first column of a query.
func rows(t *testing.T, databaseURL, query string) []string {
	t.Helper()
	conn, err := pgx.Connect(t.Context(), databaseURL)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close(t.Context())
	result, err := conn.Query(t.Context(), query)
	if err != nil {
		t.Fatal(err)
	}
	list, err := pgx.CollectRows(result, pgx.RowTo[string])
	if err != nil {
		t.Fatal(err)
	}
	return list
}

// chain are the services of the tests of a failover: both sources, a subscriber that publishes, and one that does not.
var chain = []string{"sales", "customers", "assembly", "billing"}

// onEither runs the chain on the databases of whichever of two servers takes writes.
func onEither(t *testing.T, urls ...func(database string) string) *inProcess {
	t.Helper()
	p := newInProcess(func(name string) string {
		var all []string
		for _, url := range urls {
			all = append(all, url(name))
		}
		return pgtest.EitherURL(t, name, all...)
	})
	for _, name := range chain {
		p.start(t, name)
	}
	return p
}

// fixed returns the URLs of the server's databases, which it tells while it runs.
func fixed(server *pgtest.Server) func(string) string {
	url := server.URL("DATABASE")
	return func(database string) string { return strings.Replace(url, "DATABASE", database, 1) }
}

// wantAll fails unless everything that was acknowledged is in the databases of the server and on their feeds, once, and
// the copies are complete.
func wantAll(t *testing.T, p *inProcess, server *pgtest.Server, acked map[string]acknowledgement) {
	t.Helper()
	found := map[string]int{}
	for name, query := range map[string]string{
		"sales":     `select id::text from orders union all select entity_id::text from feed_entry where version = 1`,
		"customers": `select id::text from customer union all select entity_id::text from feed_entry where version = 1`,
	} {
		for _, id := range rows(t, server.URL(name), query) {
			found[id]++
		}
	}
	for id := range acked {
		if found[id] != 2 {
			t.Errorf("%s, which was acknowledged, is there %d times, want a row and an entry", id, found[id])
		}
		delete(found, id)
	}
	for id := range found {
		t.Errorf("%s is there, but was never acknowledged: it was made twice", id)
	}
	for name, feeds := range map[string]map[string]string{
		"assembly": {"orders": "sales"}, "billing": {"orders": "sales", "customers": "customers"},
	} {
		for feed, source := range feeds {
			eventually(t, func() error {
				head, err := value(server.URL(source), `select position || '-' || left(encode(digest, 'hex'), 12) from feed_head`)
				if err != nil {
					return err
				}
				copied, err := value(server.URL(name), `select cursor || coalesce(resync_cursor, '') from subscription where feed = '`+feed+`'`)
				if err == nil && copied != head {
					err = fmt.Errorf("the copy of %s in %s is at %s, the feed at %s\n%s", feed, name, copied, head, p.logs[name])
				}
				return err
			})
		}
	}
	orders := rows(t, server.URL("sales"), `select id::text from orders order by id`)
	for _, of := range []struct{ name, query string }{
		{"billing", `select id::text from orders order by 1`},
		{"assembly", `select distinct order_id::text from build order by 1`},
	} {
		if copied := rows(t, server.URL(of.name), of.query); !slices.Equal(copied, orders) {
			t.Errorf("%s has %d orders, sales %d", of.name, len(copied), len(orders))
		}
	}
	eventually(t, func() error { // each build of assembly is on its feed, which nothing is missing from
		states, err := value(server.URL("assembly"), `
			select format('%s %s %s', (select count(*) from build), count(distinct entity_id), max(position) - count(*)) from feed_entry`)
		if fields := strings.Fields(states); err == nil && (fields[0] != fields[1] || fields[2] != "0") {
			err = errors.New("builds, entities on the feed, gaps: " + states)
		}
		return err
	})
}

// The primary of all services is killed while they sell, and its synchronous standby promoted: without a restart they
// sell on, and everything that was acknowledged is there once, also behind a PgBouncer before each server.
func TestSynchronousFailover(t *testing.T) {
	t.Parallel()
	for name, to := range map[string]func(t *testing.T, server *pgtest.Server) func(database string) string{
		"direct": func(_ *testing.T, server *pgtest.Server) func(string) string { return fixed(server) },
		"behind PgBouncer": func(t *testing.T, server *pgtest.Server) func(string) string {
			through := pgtest.Bouncer(t, server.URL("postgres"), "session")
			return func(database string) string { return strings.Replace(through, "/postgres?", "/"+database+"?", 1) }
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			pgtest.Slow(t, "servers that replicate")
			primary, standby := pgtest.Replicated(t)
			for _, name := range chain { // PgBouncer remembers for a while that a database is missing
				primary.Exec("create database " + name)
			}
			caughtUp(t, primary)
			p := onEither(t, to(t, primary), to(t, standby))
			c := sell(p, "key")
			time.Sleep(2 * time.Second)
			primary.Kill()
			time.Sleep(time.Second) // a failover takes its time
			c.resumes(t, promote(standby))
			time.Sleep(2 * time.Second)
			wantAll(t, p, standby, c.close(t))
			for _, name := range chain {
				eventually(t, func() error { return ready(name, p.urls[name]) })
			}
		})
	}
}

// The primary is killed while its asynchronous standby lags: sales says how many of the orders that it acknowledged are
// lost, and all copies are as their sources are then.
func TestAsynchronousFailover(t *testing.T) {
	t.Parallel()
	pgtest.Slow(t, "servers that replicate")
	primary := pgtest.NewServer(t)
	standby := primary.Standby()
	p := onEither(t, fixed(primary), fixed(standby))
	c := sell(p, "key")
	time.Sleep(2 * time.Second)
	standby.Stop()
	time.Sleep(time.Second)
	primary.Kill()
	standby.Start()
	c.resumes(t, promote(standby))
	time.Sleep(2 * time.Second)
	acked := c.close(t)
	lost := 0
	for _, of := range []struct{ name, table, feed string }{{"sales", "orders", "orders"}, {"customers", "customer", "customers"}} {
		there := rows(t, standby.URL(of.name), `select id::text from `+of.table)
		want := 0
		for id, a := range acked {
			if a.by == of.name && !slices.Contains(there, id) {
				delete(acked, id)
				want++
			}
		}
		lost += want
		eventually(t, func() error {
			_, _, metrics, err := ask(http.MethodGet, p.urls[of.name]+"/metrics", "", nil)
			if line := fmt.Sprintf("feed_lost_entries_total{feed=%q} %d\n", of.feed, want); err == nil && !strings.Contains(metrics, line) {
				err = fmt.Errorf("the metrics do not say %s", line)
			}
			return err
		})
		if want > 0 {
			_, _, page, err := ask(http.MethodGet, p.urls[of.name]+"/feeds/"+of.feed, "text/html", nil)
			if words := regexp.MustCompile(`Lost .*: ` + strconv.Itoa(want) + ` entr`); err != nil || !words.MatchString(page) {
				t.Errorf("the page of %s does not say that %d were lost: %v", of.feed, want, err)
			}
		}
	}
	if lost == 0 {
		t.Error("nothing was lost")
	}
	t.Logf("%d acknowledged and lost", lost)
	wantAll(t, p, standby, acked)
}

// A primary hangs, its asynchronous standby is promoted, and then it goes on. It is the first host of the URLs, and takes
// writes. No service uses it any more, also none that starts then.
func TestReturningPrimary(t *testing.T) {
	t.Parallel()
	pgtest.Slow(t, "servers that replicate")
	primary := pgtest.NewServer(t)
	standby := primary.Standby()
	p := onEither(t, fixed(primary), fixed(standby))
	c := sell(p, "before")
	time.Sleep(time.Second)
	acked := c.close(t)
	caughtUp(t, primary)
	thaw := primary.Freeze(t)
	c = sell(p, "after")
	time.Sleep(time.Second)
	c.resumes(t, promote(standby))
	for _, name := range chain {
		eventually(t, func() error {
			if log := p.logs[name].String(); !strings.Contains(log, "the database has another primary") {
				return errors.New(name + " does not know of the promotion")
			}
			return nil
		})
	}
	thaw()
	before := rows(t, primary.URL("sales"), `select id::text from orders`)
	time.Sleep(2 * time.Second)
	p.start(t, "sales")
	time.Sleep(2 * time.Second)
	maps.Copy(acked, c.close(t))
	if after := rows(t, primary.URL("sales"), `select id::text from orders`); len(after) != len(before) {
		t.Errorf("the old primary has %d orders more", len(after)-len(before))
	}
	wantAll(t, p, standby, acked)
	if log := p.logs["sales"].String(); !strings.Contains(log, "a server is refused") {
		t.Errorf("sales does not say that it refuses the old primary:\n%s", log)
	}
	for _, name := range chain {
		if log := p.logs[name].String(); strings.Contains(log, "another history") {
			t.Errorf("%s takes the old primary for another history:\n%s", name, log)
		}
	}
}

// caughtUp waits until the standby of the server has all that it holds.
func caughtUp(t *testing.T, server *pgtest.Server) {
	t.Helper()
	eventually(t, func() error {
		is, err := value(server.URL("postgres"), `select bool_and(replay_lsn >= pg_current_wal_lsn())::text from pg_stat_replication`)
		if err == nil && is != "true" {
			err = errors.New("the standby is behind")
		}
		return err
	})
}
