package relay

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"
	amqp "github.com/rabbitmq/amqp091-go"

	"github.com/edison-cars/data-feeds/shared/daemon"
	"github.com/edison-cars/data-feeds/shared/postgres/pgtest"
	"github.com/edison-cars/data-feeds/shared/publish"
	"github.com/edison-cars/data-feeds/shared/rabbitmq"
)

// at gives the URL of a broker that stays where it is.
func at(url string) func() string { return func() string { return url } }

// Every version of every entity goes out, in order, once while nothing fails. Who binds a queue later hears of what comes later.
func TestStream(t *testing.T) {
	t.Parallel()
	b := sharedBroker(t)
	s := newSource(t, "stream")
	s.put(t, 1, 250, 10)
	q := listen(t, at(b.URL), s.name)
	p := s.relay(t, newDatabase(t), b.URL, nil)
	if n := q.wantAll(t, s, 1); n != 250 {
		t.Errorf("%d messages of 250 entries", n)
	}
	late := listen(t, at(b.URL), s.name) // the same queue, shared
	s.put(t, 1, 30, 10)
	s.remove(t, 7)
	s.put(t, 7, 8, 10)
	eventually(t, "all is confirmed", func() bool { return p.stream(t).Position == 283 })
	eventually(t, "both have heard all", func() bool {
		_, n := q.firsts(1)
		_, m := late.firsts(1)
		return n+m == 283
	})
	if v := p.stream(t); v.State != connected || v.Detail != nil || v.Messages != 283 || v.Generation != 1 || v.Behind != 0 || v.ConfirmedAt == nil || v.PendingSince != nil {
		t.Errorf("%+v", v)
	}
	if p.metric(t, "relay_messages_total") != 283 || p.metric(t, "relay_connected") != 1 || p.metric(t, "relay_blocked") != 0 || p.metric(t, "relay_unconfirmed_seconds") != 0 {
		t.Error("the metrics say otherwise")
	}
	if status, page := p.get(t, "/", "text/html"); status != http.StatusOK || !strings.Contains(page, "amqp://guest@"+b.Addr) || strings.Contains(page, "guest:guest") {
		t.Errorf("%d %s", status, page)
	}
}

// A source with another history goes out anew, as another generation; so does a feed that somebody wants to be read anew. The same entry
// has the same message id.
func TestAnotherHistory(t *testing.T) {
	t.Parallel()
	b := sharedBroker(t)
	t.Run("of one page", func(t *testing.T) {
		t.Parallel()
		testAnotherHistory(t, b, newSource(t, "another-page"), 40)
	})
	t.Run("of several", func(t *testing.T) {
		t.Parallel()
		testAnotherHistory(t, b, newSource(t, "another-history"), 120)
	})
}

func testAnotherHistory(t *testing.T, b *rabbitmq.Server, s *source, n int) {
	t.Helper()
	q := listen(t, at(b.URL), s.name)
	s.put(t, 1, n, 10)
	p := s.relay(t, newDatabase(t), b.URL, nil)
	q.wantAll(t, s, 1)
	p.post(t, "/subscriptions/"+s.name+"/resync")
	q.wantAll(t, s, 2)
	first, second := q.all(1), q.all(2)
	for i := range first {
		if first[i].MessageId != second[i].MessageId {
			t.Fatalf("entry %d has another message id", i+1)
		}
	}
	eventually(t, "the feed is read anew", func() bool { return !strings.Contains(p.subscriptions(t), `"resync_since":"`) })
	s.renew(t)
	s.put(t, 201, 350, 10)
	q.wantAll(t, s, 3)
	for i, m := range q.all(3)[:n] {
		if m.MessageId == first[i].MessageId {
			t.Fatalf("entry %d of another history has the same message id", i+1)
		}
	}
	eventually(t, "all is confirmed", func() bool { v := p.stream(t); return v.Generation == 3 && v.Position == 150 })
}

func (p *process) subscriptions(t *testing.T) string {
	t.Helper()
	_, body := p.get(t, "/subscriptions", "application/json")
	return body
}

// A queue that refuses messages holds up the stream, but nobody gets a page again and again meanwhile; when it takes them, all goes on.
func TestFullQueue(t *testing.T) {
	t.Parallel()
	b := sharedBroker(t)
	s := newSource(t, "full-queue")
	q := listen(t, at(b.URL), s.name)
	conn, err := amqp.Dial(b.URL)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	ch, err := conn.Channel()
	if err != nil {
		t.Fatal(err)
	}
	if _, err := ch.QueueDeclare("full", true, false, false, false, amqp.Table{"x-max-length": 5, "x-overflow": "reject-publish"}); err != nil {
		t.Fatal(err)
	}
	if err := ch.QueueBind("full", "", s.name, false, nil); err != nil {
		t.Fatal(err)
	}
	p := s.relay(t, newDatabase(t), b.URL, nil)
	s.put(t, 1, 100, 10)
	tried := func() int { return strings.Count(p.text(t), "poll failed") }
	eventually(t, "the queue is full", func() bool {
		v := p.stream(t)
		return v.PendingSince != nil && v.Detail != nil && strings.Contains(*v.Detail, "refused") && tried() > 0
	})
	_, before := q.firsts(1)
	p.post5(t, s)
	if _, after := q.firsts(1); after-before > 10 {
		t.Errorf("five tries brought %d messages again", after-before)
	}
	if v := p.stream(t); v.Position < 5 || v.Position > 20 {
		t.Errorf("a queue that holds 5 let %d through", v.Position)
	}
	if _, err := ch.QueueDelete("full", false, false, false); err != nil {
		t.Fatal(err)
	}
	q.wantAll(t, s, 1)
}

// post5 asks for five polls, which fail.
func (p *process) post5(t *testing.T, s *source) {
	t.Helper()
	for range 5 {
		req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, p.url+"/subscriptions/"+s.name+"/poll", nil)
		if err != nil {
			t.Fatal(err)
		}
		if status, body := do(t, req); status/100 == 2 {
			t.Errorf("a poll succeeded: %s", body)
		}
	}
}

// A connection that is cut in the middle of a page, at any byte: every entry arrives, and first in order.
func TestConnectionCut(t *testing.T) {
	t.Parallel()
	b := sharedBroker(t)
	for i, cut := range []int{1, 300, 500, 5_000, 20_000, 50_000} { // in the handshake, and in the pages
		t.Run(fmt.Sprint(cut), func(t *testing.T) {
			t.Parallel()
			s := newSource(t, fmt.Sprint("cut-", i))
			q := listen(t, at(b.URL), s.name)
			s.put(t, 1, 200, 300)
			through := newProxy(t, b.Addr, cut)
			s.relay(t, newDatabase(t), through.url, nil)
			n := q.wantAll(t, s, 1)
			if !through.hasCut() {
				t.Fatal("nothing was cut")
			}
			t.Logf("%d messages of 200 entries", n)
		})
	}
}

// Who is stopped closes its connection, so that the broker has nothing to complain of.
func TestStop(t *testing.T) {
	t.Parallel()
	b := sharedBroker(t)
	s := newSource(t, "stop")
	s.put(t, 1, 3, 10)
	p := s.relay(t, newDatabase(t), b.URL, nil)
	eventually(t, "all is confirmed", func() bool { return p.stream(t).Position == 3 })
	p.interrupt(t)
	closing := regexp.MustCompile(`(?m)closing AMQP connection .*relay of stop\b.*\n.*`)
	var said []byte
	eventually(t, "the broker says so", func() bool {
		log, err := os.ReadFile(filepath.Join(sharedDir, "rabbitmq.log"))
		if err != nil {
			t.Fatal(err)
		}
		said = closing.Find(log)
		return said != nil
	})
	if strings.Contains(string(said), "unexpectedly") {
		t.Errorf("the broker says: %s", said)
	}
}

// Who is killed when a page is confirmed, but the cursor behind it is not stored, sends that page again, and no other.
func TestKilledBeforeTheCursor(t *testing.T) {
	t.Parallel()
	b := sharedBroker(t)
	s, db := newSource(t, "killed"), newDatabase(t)
	q := listen(t, at(b.URL), s.name)
	s.put(t, 1, 100, 10)
	first := s.relay(t, db, b.URL, nil)
	q.wantAll(t, s, 1)
	eventually(t, "the cursor is stored", func() bool { return strings.Contains(first.subscriptions(t), `"cursor":"100-`) })
	tx, err := db.Begin(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer tx.Rollback(t.Context())
	if _, err := tx.Exec(t.Context(), `select from subscription for update`); err != nil {
		t.Fatal(err)
	}
	s.put(t, 101, 150, 10)
	eventually(t, "the page is confirmed", func() bool { return first.stream(t).Position == 150 })
	first.kill()
	if err := tx.Rollback(t.Context()); err != nil {
		t.Fatal(err)
	}
	var cursor string
	if err := db.QueryRow(t.Context(), `select cursor from subscription`).Scan(&cursor); err != nil || !strings.HasPrefix(cursor, "100-") {
		t.Fatalf("the cursor is %s, %v", cursor, err)
	}
	second := s.relay(t, db, b.URL, nil)
	eventually(t, "the cursor is stored", func() bool { return strings.Contains(second.subscriptions(t), `"cursor":"150-`) })
	eventually(t, "the page was heard of twice", func() bool { _, n := q.firsts(1); return n >= 200 })
	if n := q.wantAll(t, s, 1); n != 200 {
		t.Errorf("%d messages: 150 entries, 50 of them twice, are 200", n)
	}
	byID := map[string]int{}
	for _, m := range q.all(1) {
		byID[m.MessageId]++
	}
	for _, m := range q.all(1) {
		if twice := m.Headers["position"].(int64) > 100; (byID[m.MessageId] == 2) != twice {
			t.Errorf("entry %v was heard of %d times", m.Headers["position"], byID[m.MessageId])
		}
	}
}

// The password reaches no error of the settings and no address that is shown.
func TestPassword(t *testing.T) {
	t.Parallel()
	for _, url := range []string{"amqp://u:hunter2@h:port", "http://u:hunter2@h/", "amqp://u:hunter2@h:1/%zz", "hunter2"} {
		err := daemon.Parse(map[string]string{"AMQP_URL": url}, new(settings))
		if !errors.Is(err, daemon.ErrUsage) || strings.Contains(err.Error(), "hunter2") || !strings.Contains(err.Error(), "AMQP_URL: takes the URL") {
			t.Error(err)
		}
	}
	for url, want := range map[string]string{
		"amqp://u:hunter2@h":              "amqp://u@h:5672/",
		"amqps://u:hunter2@h:1/cars":      "amqps://u@h:1/cars",
		"amqp://u:hunter2@h:1/%2f":        "amqp://u@h:1/",
		"":                                "amqp://guest@localhost:5672/",
		"amqp://u:hunter2@h/?x=hunter2#y": "amqp://u@h:5672/",
	} {
		var set settings
		if err := daemon.Parse(map[string]string{"AMQP_URL": url}, &set); err != nil || set.Broker.Shown != want {
			t.Errorf("%s is shown as %s, %v; not as %s", url, set.Broker.Shown, err, want)
		}
	}
}

// A broker that does not know the password is told of without it, as one that is not there; the service serves all the same.
func TestRefused(t *testing.T) {
	t.Parallel()
	b := sharedBroker(t)
	for name, url := range map[string]string{"wrong-password": "amqp://guest:hunter2@" + b.Addr + "/", "nobody": "amqp://guest:hunter2@127.0.0.1:1/"} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := newSource(t, name)
			s.put(t, 1, 3, 10)
			p := s.relay(t, newDatabase(t), url, nil)
			eventually(t, "it says that it is not connected", func() bool {
				v := p.stream(t)
				return v.State == away && v.Detail != nil && v.PendingSince != nil && strings.Contains(p.text(t), "level=WARN")
			})
			for _, path := range []string{"/", "/subscriptions", "/api/relay", "/metrics", "/readyz"} {
				if status, text := p.get(t, path, "text/html"); status != http.StatusOK || strings.Contains(text, "hunter2") {
					t.Errorf("%s: %d %s", path, status, text)
				}
			}
			if p.metric(t, "relay_connected") != 0 || p.metric(t, "relay_unconfirmed_seconds") <= 0 {
				t.Error("the metrics do not say it")
			}
		})
	}
}

// An exchange that somebody has made otherwise is told of, not taken.
func TestExchangeOfAnotherKind(t *testing.T) {
	t.Parallel()
	b := sharedBroker(t)
	s := newSource(t, "another-kind")
	conn, err := amqp.Dial(b.URL)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	ch, err := conn.Channel()
	if err == nil {
		err = ch.ExchangeDeclare(s.name, "topic", true, false, false, false, nil)
	}
	if err != nil {
		t.Fatal(err)
	}
	s.put(t, 1, 3, 10)
	p := s.relay(t, newDatabase(t), b.URL, nil)
	eventually(t, "it says what is wrong", func() bool {
		v := p.stream(t)
		return v.Detail != nil && strings.Contains(*v.Detail, "PRECONDITION_FAILED")
	})
	if err := ch.ExchangeDelete(s.name, false, false); err != nil {
		t.Fatal(err)
	}
	q := listen(t, at(b.URL), s.name)
	q.wantAll(t, s, 1)
}

// What is confirmed is counted by the second, for a minute.
func TestRate(t *testing.T) {
	t.Parallel()
	var r rate
	noon := time.Date(2026, 11, 23, 12, 0, 0, 0, time.UTC)
	r.add(5, noon)
	r.add(2, noon.Add(500*time.Millisecond))
	r.add(1, noon.Add(30*time.Second))
	for after, want := range map[time.Duration]int{30: 8, 59: 8} {
		if got := r.lastMinute(noon.Add(after * time.Second)); got != want {
			t.Errorf("after %d s it is %d, not %d", after, got, want)
		}
	}
	var later []int
	for _, after := range []time.Duration{60, 89, 90, 500} {
		later = append(later, r.lastMinute(noon.Add(after*time.Second)))
	}
	if !slices.Equal(later, []int{1, 1, 0, 0}) {
		t.Errorf("later it is %v", later)
	}
}

// The consumer of the story, as it would be written by somebody who knows nothing of feeds: a durable queue at the fanout exchange
// `orders`, acknowledged by hand, what was seen told by external_id and version. Over a relay that is killed in the middle it ends with
// the source's rows.
func TestStory(t *testing.T) {
	t.Parallel()
	b := sharedBroker(t)
	s, db := newSource(t, "orders"), newDatabase(t)
	conn, err := amqp.Dial(b.URL)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	ch, err := conn.Channel()
	if err != nil {
		t.Fatal(err)
	}
	if err := ch.ExchangeDeclare("orders", "fanout", true, false, false, false, nil); err != nil {
		t.Fatal(err)
	}
	queue, err := ch.QueueDeclare("warehouse", true, false, false, false, nil)
	if err != nil {
		t.Fatal(err)
	}
	if err := ch.QueueBind(queue.Name, "", "orders", false, nil); err != nil {
		t.Fatal(err)
	}
	deliveries, err := ch.Consume(queue.Name, "", false, false, false, false, nil)
	if err != nil {
		t.Fatal(err)
	}

	warehouse := pgtest.New(t)
	exec1(t, warehouse, `create table orders (external_id uuid primary key, version bigint not null, name text, deleted boolean not null)`)
	consume := func(d amqp.Delivery) {
		t.Helper()
		var o struct {
			ExternalID uuid.UUID `json:"external_id"`
			Version    int64     `json:"version"`
			Name       string    `json:"name"`
			Deleted    bool      `json:"deleted"`
		}
		if err := json.Unmarshal(d.Body, &o); err != nil {
			t.Fatal(err)
		}
		exec1(t, warehouse, `
			insert into orders values ($1, $2, $3, $4)
			on conflict (external_id) do update set version = excluded.version, name = excluded.name, deleted = excluded.deleted
			 where orders.version < excluded.version`, o.ExternalID, o.Version, o.Name, o.Deleted)
		if err := d.Ack(false); err != nil {
			t.Fatal(err)
		}
	}

	relay := s.relay(t, db, b.URL, map[string]string{"PAGE_SIZE": "7"})
	s.put(t, 1, 60, 10)
	for range 20 {
		consume(<-deliveries)
	}
	relay.kill()
	s.put(t, 10, 40, 10)
	s.remove(t, 12)
	s.relay(t, db, b.URL, map[string]string{"PAGE_SIZE": "7"})
	s.put(t, 10, 11, 10)

	want := map[uuid.UUID]publish.Entry{}
	for _, e := range s.history {
		want[e.ID] = e
	}
	deadline := time.After(2 * time.Minute)
	for last := int64(0); last < int64(len(s.history)); {
		select {
		case d := <-deliveries:
			last = max(last, d.Headers["position"].(int64))
			consume(d)
		case <-deadline:
			t.Fatalf("only %d of %d entries within two minutes", last, len(s.history))
		}
	}
	var rows int
	for id, e := range want {
		var version int64
		var name string
		var deleted bool
		if err := warehouse.QueryRow(t.Context(), `select version, name, deleted from orders where external_id = $1`, id).Scan(&version, &name, &deleted); err != nil {
			t.Fatal(err)
		}
		if version != e.Version || deleted != (e.Payload == nil) || !deleted && !strings.Contains(string(e.Payload), `"name":"`+name+`"`) {
			t.Errorf("the row is version %d, %q, deleted %t; the source has %+v", version, name, deleted, e)
		}
	}
	if err := warehouse.QueryRow(t.Context(), `select count(*) from orders`).Scan(&rows); err != nil || rows != len(want) {
		t.Errorf("%d rows of %d orders: %v", rows, len(want), err)
	}
}
