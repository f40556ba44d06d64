package mailer

import (
	"encoding/json"
	"fmt"
	"log/slog"
	"maps"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/edison-cars/data-feeds/shared/customer"
	"github.com/edison-cars/data-feeds/shared/dev/exectest"
	"github.com/edison-cars/data-feeds/shared/dev/mailsink"
	"github.com/edison-cars/data-feeds/shared/feed"
	"github.com/edison-cars/data-feeds/shared/order"
	"github.com/edison-cars/data-feeds/shared/postgres/pgtest"
	"github.com/edison-cars/data-feeds/shared/publish"
	"github.com/edison-cars/data-feeds/shared/publish/feedhttp"
	"github.com/edison-cars/data-feeds/sql"
)

// sources publish both feeds.
type sources struct {
	pool   *pgxpool.Pool
	log    *publish.Log
	url    string
	mu     sync.Mutex
	engine http.Handler
}

func newSources(t *testing.T) *sources {
	t.Helper()
	s := new(sources)
	s.renew(t)
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		s.mu.Lock()
		engine := s.engine
		s.mu.Unlock()
		engine.ServeHTTP(w, r)
	}))
	t.Cleanup(server.Close)
	s.url = server.URL
	return s
}

// renew makes them begin another history.
func (s *sources) renew(t *testing.T) {
	t.Helper()
	logger, pool := slog.New(slog.DiscardHandler), pgtest.New(t, sql.Migrations("publish"))
	exec(t, pool, `select feed_create('orders'), feed_create('customers')`)
	log, err := publish.Open(t.Context(), pool, publish.Options{Logger: logger})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(log.Close)
	describe := func(name string) feed.Description {
		return feed.Description{
			Name: name, Title: name, ID: "tag:edison-cars.example,2026:" + name, Personal: name == customer.Feed,
			Show: func(feed.Entry) (feed.Shown, error) { return feed.Shown{Title: "An entry"}, nil },
		}
	}
	engine := feedhttp.New(log, feedhttp.Options{Name: "Test", PublicURL: "http://source.example"}, describe(order.Feed), describe(customer.Feed))
	s.mu.Lock()
	defer s.mu.Unlock()
	s.pool, s.log, s.engine = pool, log, engine
}

func (s *sources) append(t *testing.T, name string, entries ...publish.Entry) {
	t.Helper()
	err := s.log.InTx(t.Context(), func(tx *publish.Tx) error {
		tx.Append(name, entries...)
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}

// sell publishes the orders from and to, each placed.
func (s *sources) sell(t *testing.T, from, to int) {
	t.Helper()
	var entries []publish.Entry
	for n := from; n <= to; n++ {
		o := anOrder(n, 1, order.Placed)
		entries = append(entries, publish.Entry{ID: o.ID, Version: 1, Updated: o.UpdatedAt.Time, Payload: rawJSON(t, o)})
	}
	s.append(t, order.Feed, entries...)
}

// signUp publishes the customers from and to.
func (s *sources) signUp(t *testing.T, from, to int) {
	t.Helper()
	var entries []publish.Entry
	for n := from; n <= to; n++ {
		c := aCustomer(n, 1)
		entries = append(entries, publish.Entry{ID: c.ID, Version: 1, Updated: c.UpdatedAt.Time, Payload: rawJSON(t, c)})
	}
	s.append(t, customer.Feed, entries...)
}

// A process is a mailer in a process of its own.
type process struct{ *exectest.Process }

// start starts a mailer on the database that sends by the server at smtp.
func (s *sources) start(t *testing.T, db *pgxpool.Pool, smtp string, more map[string]string) process {
	t.Helper()
	set := map[string]string{
		"ADDR": "127.0.0.1:0", "DATABASE_URL": pgtest.URL(db), "SMTP_URL": "smtp://" + smtp, "POLL_ORDERS": "@every 1s", "POLL_CUSTOMERS": "@every 1s",
		"FEED_URL_ORDERS": s.url + "/feeds/orders", "FEED_URL_CUSTOMERS": s.url + "/feeds/customers", "PAGE_SIZE": "100",
	}
	maps.Copy(set, more)
	return process{exectest.Self(t, set)}
}

// mails are what the API tells, by order.
func (p process) mails(t testing.TB) map[uuid.UUID]listed {
	t.Helper()
	_, body := p.Get(t, "/api/mails", "application/json")
	var list []listed
	if err := json.Unmarshal([]byte(body), &list); err != nil {
		t.Fatalf("%v: %s", err, body)
	}
	mails := map[uuid.UUID]listed{}
	for _, m := range list {
		mails[m.OrderID] = m
	}
	return mails
}

func (p process) state(t testing.TB, n int) string {
	t.Helper()
	return p.mails(t)[orderID(n)].State
}

func newDatabase(t *testing.T) *pgxpool.Pool {
	t.Helper()
	return pgtest.New(t, sql.Migrations("subscribe"), sql.Migrations("mailer"))
}

// A process that is killed at any stage of a mail, and one that follows it, send the mail once. Between the end of the
// mail and its reply alone nobody knows: then they send it twice, with the same Message-ID, and count that.
func TestKilled(t *testing.T) {
	t.Parallel()
	pgtest.Slow(t, "processes")
	for _, stage := range []string{"greeting", "EHLO", "MAIL", "RCPT", "DATA", "end", "sent"} {
		t.Run(stage, func(t *testing.T) {
			t.Parallel()
			s, db, sink := newSources(t), newDatabase(t), new(mailsink.Sink)
			p := newProxy(t, serve(t, sink))
			first := s.start(t, db, p.addr, nil)
			eventually(t, "the mailer is ready", func() bool { status, _ := first.Get(t, "/readyz", ""); return status == http.StatusOK })
			p.at(stage, false)
			s.sell(t, 1, 1)
			s.signUp(t, 1, 1)
			if stage == "sent" {
				eventually(t, "the mail is sent", func() bool { return first.state(t, 1) == "sent" })
			} else {
				<-p.held
			}
			first.Kill()
			p.drop()
			second := s.start(t, db, p.addr, nil)
			eventually(t, "the mail is sent", func() bool { return second.state(t, 1) == "sent" })
			s.sell(t, 2, 2) // what is sent after it, is sent later
			s.signUp(t, 2, 2)
			eventually(t, "the next mail is sent", func() bool { return second.state(t, 2) == "sent" })
			copies, uncertain := 1, 0
			if stage == "end" {
				copies, uncertain = 2, 1
			}
			if got := arrivals(sink, 1); len(got) != copies || second.mails(t)[orderID(1)].Uncertain != uncertain {
				t.Errorf("%d mails have arrived, not %d: %+v", len(got), copies, second.mails(t)[orderID(1)])
			}
			if got := arrivals(sink, 2); len(got) != 1 {
				t.Errorf("the next mail has arrived %d times", len(got))
			}
		})
	}
}

// A mailer that stops in good order waits for the reply.
func TestStopped(t *testing.T) {
	t.Parallel()
	s, db := newSources(t), newDatabase(t)
	asked, goOn := make(chan struct{}), make(chan struct{})
	sink := &mailsink.Sink{After: func(*mailsink.Mail) *mailsink.Refusal {
		close(asked)
		<-goOn
		return nil
	}}
	first := s.start(t, db, serve(t, sink), nil)
	eventually(t, "the mailer is ready", func() bool { status, _ := first.Get(t, "/readyz", ""); return status == http.StatusOK })
	s.sell(t, 1, 1)
	s.signUp(t, 1, 1)
	<-asked
	first.Interrupt(t)
	eventually(t, "the mailer is about to stop", func() bool {
		resp, err := http.Get(first.URL + "/livez")
		if err == nil {
			resp.Body.Close()
		}
		return err != nil
	})
	close(goOn)
	first.Ends(t)
	var state string
	if err := db.QueryRow(t.Context(), `select state from mail`).Scan(&state); err != nil || state != "sent" || len(sink.Mails()) != 1 {
		t.Errorf("%s, %v; %d arrived", state, err, len(sink.Mails()))
	}
}

// A mailer that is new to a company with a past mails none of it, and everything from then on: also what is sold while
// it copies the past, and after it was killed over that, and after the source has another history.
func TestNewMailer(t *testing.T) {
	t.Parallel()
	pgtest.Slow(t, "large tables")
	s, db, sink := newSources(t), newDatabase(t), new(mailsink.Sink)
	s.signUp(t, 1, 300)
	s.sell(t, 1, 250)
	addr := serve(t, sink)
	exec(t, db, `create function refuse() returns trigger language plpgsql as $$ begin raise exception 'not now' using errcode = 'lock_not_available'; end $$;
		create trigger refuse before insert on orders for each row when (new.id = '`+orderID(150).String()+`') execute function refuse()`)
	first := s.start(t, db, addr, nil)
	eventually(t, "the first page is copied, the second cannot be", func() bool { return len(first.mails(t)) == 100 })
	first.Kill()
	s.sell(t, 251, 260)
	exec(t, db, `drop trigger refuse on orders`)
	second := s.start(t, db, addr, nil)
	wantSent := func(p process, from, to int) {
		t.Helper()
		eventually(t, fmt.Sprintf("the mails for all orders up to %d are sent or skipped", to), func() bool {
			mails := p.mails(t)
			for _, m := range mails {
				if m.State != "skipped" && m.State != "sent" {
					return false
				}
			}
			return len(mails) == to
		})
		for n := 1; n <= to; n++ {
			want := 1
			if n < from {
				want = 0
			}
			if got := len(arrivals(sink, n)); got != want {
				t.Errorf("the mail for order %d has arrived %d times, not %d times", n, got, want)
			}
		}
	}
	wantSent(second, 251, 260)
	second.Post(t, "/subscriptions/orders/resync")
	second.Post(t, "/subscriptions/orders/poll")
	s.sell(t, 261, 261)
	wantSent(second, 251, 261)

	s.renew(t) // the customers, too
	s.signUp(t, 1, 300)
	s.sell(t, 1, 262) // the last one is new, at a position of the past's
	eventually(t, "the feed is read again from its start", func() bool {
		_, body := second.Get(t, "/subscriptions", "application/json")
		return strings.Contains(body, `"resync_reason":"The source has another history`) && strings.Contains(body, `"lag_entries":0`)
	})
	wantSent(second, 251, 262)
}
