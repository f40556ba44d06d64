package relay

import (
	"context"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"

	"github.com/edison-cars/data-feeds/shared/dev/rabbitmq"
)

// at returns the URL of a broker that stays where it is.
func at(url string) func() string { return func() string { return url } }

// Every version of every entity goes out, in order, once while nothing fails. A queue that is bound later gets what
// comes later.
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
	eventually(t, "all is confirmed, and the cursor stored", func() bool {
		v := p.stream(t)
		return v.Position == 283 && v.PendingSince == nil && v.Behind == 0
	})
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
	if status, page := p.Get(t, "/", "text/html"); status != http.StatusOK || !strings.Contains(page, "amqp://guest@"+b.Addr) || strings.Contains(page, "guest:guest") {
		t.Errorf("%d %s", status, page)
	}
}

// A source with another history goes out again, as another generation; so does a feed after a resync. The same entry
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
	p.Post(t, "/subscriptions/"+s.name+"/resync")
	q.wantAll(t, s, 2)
	first, second := q.all(1), q.all(2)
	for i := range first {
		if first[i].MessageId != second[i].MessageId {
			t.Fatalf("entry %d has another message id", i+1)
		}
	}
	eventually(t, "the feed is read again from its start", func() bool { return !strings.Contains(p.subscriptions(t), `"resync_since":"`) })
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

func (p process) subscriptions(t *testing.T) string {
	t.Helper()
	_, body := p.Get(t, "/subscriptions", "application/json")
	return body
}

// A queue that refuses messages holds up the stream, but nobody gets a page again and again meanwhile; when it takes
// them, all goes on.
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
	tried := func() int { return strings.Count(p.Log(t), "poll failed") }
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
func (p process) post5(t *testing.T, s *source) {
	t.Helper()
	for range 5 {
		if status, body := p.Ask(t, http.MethodPost, "/subscriptions/"+s.name+"/poll", "application/json"); status/100 == 2 {
			t.Errorf("a poll succeeded: %s", body)
		}
	}
}

// A relay that is stopped closes its connection, so that the broker has nothing to complain of.
func TestStop(t *testing.T) {
	t.Parallel()
	b := sharedBroker(t)
	s := newSource(t, "stop")
	s.put(t, 1, 3, 10)
	p := s.relay(t, newDatabase(t), b.URL, nil)
	eventually(t, "all is confirmed", func() bool { return p.stream(t).Position == 3 })
	p.Interrupt(t)
	p.Ends(t)
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

// A relay that is killed when a page is confirmed, but the cursor behind it is not stored, sends that page again, and
// no other.
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
	defer func() { _ = tx.Rollback(context.Background()) }()
	if _, err := tx.Exec(t.Context(), `select from subscription for update`); err != nil {
		t.Fatal(err)
	}
	s.put(t, 101, 150, 10)
	eventually(t, "the page is confirmed", func() bool { return first.stream(t).Position == 150 })
	first.Kill()
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
