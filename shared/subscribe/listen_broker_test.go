package subscribe

import (
	"fmt"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/edison-cars/data-feeds/shared/feed"
	"github.com/edison-cars/data-feeds/shared/postgres/pgtest"
	"github.com/edison-cars/data-feeds/sql"
)

// metric is the value of one of the feed's; -1: there is none.
func metric(t *testing.T, url, name string) float64 {
	t.Helper()
	_, text := get(t, url+"/metrics", "*/*")
	for line := range strings.Lines(text) {
		if rest, ok := strings.CutPrefix(line, name+`{feed="things"} `); ok {
			var v float64
			if _, err := fmt.Sscan(rest, &v); err != nil {
				t.Fatal(err)
			}
			return v
		}
	}
	return -1
}

// Whatever becomes of the broker, polling goes on, the service says how it is, and it listens again when it can. Of its
// processes one listens: the one that polls.
func TestListenToABrokenBroker(t *testing.T) {
	t.Parallel()
	b, again := newBroker(t)
	s := newSource(t)
	s.put(t, 1, 25)
	pool := pgtest.New(t, sql.Migrations("subscribe"), thingMigrations)
	env := func(pool *pgxpool.Pool, schedule string) map[string]string {
		return map[string]string{"DATABASE_URL": pgtest.URL(pool), "FEED_URL_THINGS": s.feedURL(), "POLL_THINGS": schedule, "STREAM_THINGS": b.URL, "LOG_LEVEL": "debug"}
	}
	n := 25
	more := func(t *testing.T) {
		t.Helper()
		s.put(t, n+1, n+2)
		n += 2
	}
	whole := t // of which the services are, for longer than a part of it
	url, stop, log := start(t, env(pool, "@hourly"))
	t.Cleanup(func() {
		if t.Failed() {
			t.Log(log)
		}
	})
	is := func(t *testing.T, state string) {
		t.Helper()
		eventually(t, "the stream is "+state, func() bool { return subscription(t, url).Stream.State == state })
	}
	has(t, pool, 25)
	is(t, Listening)
	x := s.sender(t, b, "things")
	x.next(t)
	more(t)
	x.relay(t)
	has(t, pool, n)
	if metric(t, url, "subscription_stream_listening") != 1 || metric(t, url, "subscription_stream_messages_total") != 2 || metric(t, url, "subscription_stream_gaps_total") != 0 {
		t.Error("the metrics say otherwise")
	}
	if _, page := get(t, url+"/subscriptions", "text/html"); !strings.Contains(page, "listening since") || !strings.Contains(page, "2 messages, 0 gaps") {
		t.Errorf("the page says otherwise: %s", page)
	}

	t.Run("the queue is deleted", func(t *testing.T) {
		if _, err := x.channel.QueueDelete("test.things", false, false, false); err != nil {
			t.Fatal(err)
		}
		eventually(t, "the log says so", func() bool { return strings.Contains(log.String(), "the queue was deleted") })
		is(t, Listening)
		more(t)
		x.relay(t)
		has(t, pool, n)
	})

	t.Run("the exchange is deleted", func(t *testing.T) {
		if err := x.channel.ExchangeDelete("things", false, false); err != nil {
			t.Fatal(err)
		}
		more(t)
		eventually(t, "it is there again", func() bool {
			ch := channel(t, b)
			return ch.ExchangeDeclarePassive("things", "fanout", true, false, false, false, nil) == nil
		})
		eventually(t, "what comes is heard", func() bool { // the exchange comes before its binding
			x.cursor = feed.Cursor{}
			x.relay(t)
			return count(t, pool, `select count(*) from thing`) == n
		})
	})

	t.Run("one process listens, and another one takes over", func(t *testing.T) {
		url2, stop2, _ := start(whole, env(pool, "@hourly"))
		eventually(t, "it stands by", func() bool { return subscription(t, url2).Stream.State == Standby })
		if q, err := x.channel.QueueDeclarePassive("test.things", true, false, false, false, nil); err != nil || q.Consumers != 1 {
			t.Errorf("%d consumers, %v", q.Consumers, err)
		}
		if metric(t, url2, "subscription_stream_listening") != -1 {
			t.Error("it says of a stream that is another's whether it is connected")
		}
		if err := stop(); err != nil {
			t.Fatal(err)
		}
		url, stop = url2, stop2
		is(t, Listening)
		more(t)
		x.relay(t)
		has(t, pool, n)
	})

	t.Run("killed: the schedule goes on", func(t *testing.T) {
		often := pgtest.New(t, sql.Migrations("subscribe"), thingMigrations)
		other := thingService()
		other.Name = "other"
		_, _, log3 := startService(whole, other, env(often, "@every 1s"))
		has(t, often, n)
		eventually(t, "it listens", func() bool { return strings.Contains(log3.String(), "listening to the stream") })
		// RabbitMQ 3.10 keeps but half of a quorum queue that was made less than three seconds before it is killed: no
		// message for it is ever confirmed.
		if _, err := b.Ctl(t.Context(), "eval", "[dets:sync(T) || T <- dets:all()]."); err != nil {
			t.Fatal(err)
		}
		b.Kill()
		is(t, Down)
		more(t)
		has(t, often, n)
		eventually(t, "it says why it is down", func() bool { return subscription(t, url).Stream.LastError != nil })
		if now := subscription(t, url); now.State != Fresh || now.Cursor.Position != int64(n-2) || now.LastError != nil || now.Stream.Since == nil {
			t.Errorf("%+v, stream %+v", now, *now.Stream)
		}
		if _, page := get(t, url+"/subscriptions", "text/html"); !strings.Contains(page, "down since") {
			t.Errorf("the page says otherwise: %s", page)
		}
		if metric(t, url, "subscription_stream_listening") != 0 {
			t.Error("the metrics say otherwise")
		}
		if _, text := ask(t, "POST", url+"/subscriptions/things/poll", nil); !strings.Contains(text, fmt.Sprintf(`"%d-`, n)) {
			t.Errorf("a poll by hand: %s", text)
		}
		again(t)
		is(t, Listening)
		if said := strings.Count(log3.String(), "not listening to the stream"); said != 1 {
			t.Errorf("the log says %d times that it is down", said)
		}
		x = s.sender(whole, b, "things")
		x.seek(t, int64(n))
		more(t)
		x.relay(t)
		has(t, pool, n)
		has(t, often, n)
	})

	t.Run("hanging: the stop does not", func(t *testing.T) {
		if err := b.Signal(syscall.SIGSTOP); err != nil {
			t.Fatal(err)
		}
		defer func() { _ = b.Signal(syscall.SIGCONT) }()
		began := time.Now()
		if err := stop(); err != nil {
			t.Error(err)
		}
		if took := time.Since(began); took > 10*time.Second {
			t.Errorf("it took %v", took)
		}
	})
	s.copier(t, pool, 10).wantUpToDate(t, s)
	if strings.Contains(log.String(), "guest:guest") {
		t.Error("the log says the password")
	}
}

func TestStreamSetting(t *testing.T) {
	t.Parallel()
	err := thingService().Run(t.Context(), map[string]string{"STREAM_THINGS": "amqp://me:hunter2@%zz/"}, new(journal))
	if err == nil || !strings.Contains(err.Error(), "STREAM_THINGS takes the URL of a RabbitMQ") || strings.Contains(err.Error(), "hunter2") {
		t.Errorf("%v", err)
	}
	var help strings.Builder
	thingService().Help(&help)
	if !strings.Contains(help.String(), "STREAM_THINGS") {
		t.Error(help.String())
	}
}
