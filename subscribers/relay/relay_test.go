package relay

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"go/format"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"
	amqp "github.com/rabbitmq/amqp091-go"

	"github.com/edison-cars/data-feeds/shared/daemon"
	"github.com/edison-cars/data-feeds/shared/feed"
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

// The last message of a page has the cursor right behind it, and none a cursor beyond it.
func TestCursor(t *testing.T) {
	t.Parallel()
	entries := []feed.Entry{
		{Position: 8, ID: numbered(1), Version: 2, Entity: []byte(`{}`)}, {Position: 9, ID: numbered(1), Version: 3, Deleted: true},
	}
	from, behind := feed.At(7, feed.Digest{1}), feed.At(9, feed.Digest{2})
	got := messages("things", 3, from, &feed.Page{Entries: entries, Cursor: behind})
	if got[0].Headers["cursor"] != from.String() || got[1].Headers["cursor"] != behind.String() || got[0].MessageId == got[1].MessageId {
		t.Errorf("%+v", got)
	}
	for _, m := range got {
		if err := m.Headers.Validate(); err != nil {
			t.Error(err)
		}
	}
}

func TestBody(t *testing.T) {
	t.Parallel()
	id := numbered(1)
	for entity, want := range map[string]string{
		`{"id":"x", "n":[1]}`:         `{"external_id":"` + id.String() + `","id":"x", "n":[1]}`,
		"  {\n \"id\":1}\n":           `{"external_id":"` + id.String() + `","id":1}`,
		`{ }`:                         `{"external_id":"` + id.String() + `"}`,
		`{"external_id":7}`:           `{"external_id":"` + id.String() + `","entity":{"external_id":7}}`,
		`{"a":{"external_id":7}}`:     `{"external_id":"` + id.String() + `","a":{"external_id":7}}`,
		`{"a":"\"external_id\":1"}`:   `{"external_id":"` + id.String() + `","a":"\"external_id\":1"}`,
		`{"\u0065xternal_id":"ours"}`: `{"external_id":"` + id.String() + `","entity":{"\u0065xternal_id":"ours"}}`,
	} {
		if got := string(body(&feed.Entry{ID: id, Entity: []byte(entity)})); got != want || !json.Valid([]byte(got)) {
			t.Errorf("%s goes out as %s, not %s", entity, got, want)
		}
	}
	if got, want := string(body(&feed.Entry{ID: id, Version: 4, Deleted: true})), `{"external_id":"`+id.String()+`","version":4,"deleted":true}`; got != want {
		t.Errorf("a tombstone goes out as %s", got)
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
		if err := daemon.Parse(map[string]string{"AMQP_URL": url}, &set); err != nil || set.Broker.shown != want {
			t.Errorf("%s is shown as %s, %v; not as %s", url, set.Broker.shown, err, want)
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

// The README's consumer, built as it stands there, ends with the source's rows, though it and the relay are killed in the middle.
func TestReadmeConsumer(t *testing.T) {
	t.Parallel()
	b := sharedBroker(t)
	s, db, garage := newSource(t, "orders"), newDatabase(t), pgtest.New(t)
	exec1(t, garage, `create table ordered (external_id uuid primary key, version bigint not null, body jsonb not null)`)
	program := readmeConsumer(t)
	consume := func() *exec.Cmd {
		cmd := exec.Command(program)
		cmd.Env = []string{"DATABASE_URL=" + pgtest.URL(garage), "AMQP_URL=" + b.URL}
		var said strings.Builder
		cmd.Stdout, cmd.Stderr = &said, &said
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() {
			_ = cmd.Process.Kill()
			if _ = cmd.Wait(); said.Len() > 0 {
				t.Error(said.String())
			}
		})
		return cmd
	}
	rows := func(sql string) (n int) {
		t.Helper()
		if err := garage.QueryRow(t.Context(), sql).Scan(&n); err != nil {
			t.Fatal(err)
		}
		return n
	}
	conn, err := amqp.Dial(b.URL)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	consumer := consume()
	eventually(t, "there is a queue", func() bool {
		ch, err := conn.Channel() // which the next line closes where there is none
		if err == nil {
			_, err = ch.QueueDeclarePassive("garage", true, false, false, false, nil)
		}
		return err == nil
	})

	relay := s.relay(t, db, b.URL, map[string]string{"PAGE_SIZE": "7"})
	s.put(t, 1, 200, 10)
	eventually(t, "some have arrived", func() bool { return rows(`select count(*) from ordered`) >= 20 })
	if err := consumer.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	relay.kill()
	s.put(t, 10, 40, 10)
	s.remove(t, 12)
	s.relay(t, db, b.URL, map[string]string{"PAGE_SIZE": "7"})
	consume()
	s.put(t, 10, 11, 10)

	want := map[uuid.UUID]publish.Entry{}
	sum := 0
	for _, e := range s.history {
		sum += int(e.Version - want[e.ID].Version)
		want[e.ID] = e
	}
	eventually(t, "all versions have arrived", func() bool { return rows(`select coalesce(sum(version), 0) from ordered`) == sum })
	if n := rows(`select count(*) from ordered`); n != len(want) {
		t.Errorf("%d rows of %d orders", n, len(want))
	}
	for id, e := range want {
		text := string(e.Payload)
		if e.Payload == nil {
			text = fmt.Sprintf(`{"version": %d, "deleted": true}`, e.Version)
		}
		var same bool
		err := garage.QueryRow(t.Context(), `select body = $2::jsonb || jsonb_build_object('external_id', $1::text) and version = $3 from ordered where external_id = $1::uuid`,
			id.String(), text, e.Version).Scan(&same)
		if err != nil || !same {
			t.Errorf("the row of version %d of %s is another one, %v", e.Version, id, err)
		}
	}
}

func readmeConsumer(t *testing.T) (program string) {
	t.Helper()
	readme, err := os.ReadFile("../../README.md")
	if err != nil {
		t.Fatal(err)
	}
	block := regexp.MustCompile("(?s)```go\n(package main\n.*?)```").FindSubmatch(readme)
	if block == nil {
		t.Fatal("the README shows no consumer")
	}
	dir := t.TempDir()
	source, program := filepath.Join(dir, "main.go"), filepath.Join(dir, "garage")
	if err := os.WriteFile(source, block[1], 0o600); err != nil {
		t.Fatal(err)
	}
	if out, err := exec.Command("go", "build", "-o", program, source).CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	if formatted, err := format.Source(block[1]); err != nil || !bytes.Equal(formatted, block[1]) {
		t.Errorf("it is not formatted: %v\n%s", err, formatted)
	}
	return program
}
