package subscribe

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	amqp "github.com/rabbitmq/amqp091-go"

	"github.com/edison-cars/data-feeds/shared/daemon"
	"github.com/edison-cars/data-feeds/shared/dev/rabbitmq"
	"github.com/edison-cars/data-feeds/shared/feed"
	"github.com/edison-cars/data-feeds/shared/feedclient"
	"github.com/edison-cars/data-feeds/shared/postgres/pgtest"
)

// newBroker starts a RabbitMQ; again starts it where it was.
func newBroker(t *testing.T) (b *rabbitmq.Server, again func(*testing.T)) {
	t.Helper()
	pgtest.Slow(t, "RabbitMQ")
	if _, err := rabbitmq.Find(); err != nil {
		t.Skip(err)
	}
	dir, err := os.MkdirTemp("", "edison-listen-")
	if err != nil {
		t.Fatal(err)
	}
	b = new(rabbitmq.Server)
	again = func(t *testing.T) {
		t.Helper()
		s, err := rabbitmq.Start(context.Background(), rabbitmq.Config{Dir: dir, Addr: b.Addr})
		if err != nil {
			t.Fatal(err)
		}
		*b = *s
	}
	again(t)
	t.Cleanup(func() { b.Kill(); os.RemoveAll(dir) })
	return b, again
}

// channel returns one to the broker.
func channel(t *testing.T, b *rabbitmq.Server) *amqp.Channel {
	t.Helper()
	conn, err := amqp.Dial(b.URL)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.CloseDeadline(time.Now().Add(time.Second)) })
	ch, err := conn.Channel()
	if err == nil {
		err = ch.Confirm(false)
	}
	if err != nil {
		t.Fatal(err)
	}
	return ch
}

// A sender relays a source's feed to an exchange, when it is told to.
type sender struct {
	*studio
	broker   *rabbitmq.Server
	exchange string
	channel  *amqp.Channel
}

func (s *source) sender(t *testing.T, b *rabbitmq.Server, exchange string) *sender {
	t.Helper()
	x := &sender{studio: &studio{source: s, client: feedclient.New(""), generation: 1}, broker: b, exchange: exchange, channel: channel(t, b)}
	t.Cleanup(x.client.Close)
	return x
}

// next returns the messages of the next page, which ends the feed.
func (x *sender) next(t *testing.T) (all []amqp.Publishing) {
	t.Helper()
	for len(all) == 0 {
		x.page(t, feed.MaxPageSize, func(from feed.Cursor, page *feed.Page) bool {
			all = Outside.Messages(x.exchange, x.generation, from, page)
			return true
		})
	}
	return all
}

// out sends messages until the broker has them. It may lose one just after its start, as long as a queue has no leader.
func (x *sender) out(t *testing.T, all ...amqp.Publishing) {
	t.Helper()
	eventually(t, "the broker has them", func() bool {
		for _, m := range all {
			c, err := x.channel.PublishWithDeferredConfirmWithContext(t.Context(), x.exchange, "", false, false, m)
			if err != nil {
				t.Fatal(err)
			}
			soon, cancel := context.WithTimeout(t.Context(), 5*time.Second)
			has, _ := c.WaitContext(soon)
			if cancel(); !has {
				x.channel = channel(t, x.broker)
				return false
			}
		}
		return true
	})
}

// relay sends what is new.
func (x *sender) relay(t *testing.T) {
	t.Helper()
	x.out(t, x.next(t)...)
}

// A hearer is a copier that polls once an hour, and listens.
type hearer struct {
	*copier
	look *copier // at the same copy
	log  *journal
	stop func()
}

func (s *source) hearer(t *testing.T, url, exchange string, prepare func(*copier)) *hearer {
	t.Helper()
	h := &hearer{copier: newCopier(t, s), log: new(journal)}
	h.look = s.copier(t, h.pool, 10)
	t.Cleanup(h.look.fetcher.client.Close)
	var err error
	if h.state.given.schedule, err = ParseSchedule("@hourly", "test"); err != nil {
		t.Fatal(err)
	}
	h.logger = daemon.Logger(h.log, slog.LevelDebug)
	queue, err := Outside.Queue(url, exchange, "test."+exchange, h.logger)
	if err != nil {
		t.Fatal(err)
	}
	h.stream = h.newStream(queue)
	if prepare != nil {
		prepare(h.copier)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() {
		defer close(done)
		h.run(ctx)
	}()
	h.stop = sync.OnceFunc(func() { cancel(); <-done })
	t.Cleanup(func() {
		h.stop()
		if t.Failed() {
			t.Log(h.log)
		}
	})
	eventually(t, "it has polled and listens", func() bool {
		now := h.status(time.Now())
		return now.LastSuccessAt != nil && now.Stream.State == Listening
	})
	return h
}

// becomes waits until the copy is what the source has.
func (h *hearer) becomes(t *testing.T, s *source) {
	t.Helper()
	want := s.head(t).Cursor()
	eventually(t, "the copy is at "+want.String(), func() bool { return h.look.stored(t).cursor == want })
	h.look.wantUpToDate(t, s)
}

func (h *hearer) hasHeard(t *testing.T, messages int64) {
	t.Helper()
	eventually(t, fmt.Sprintf("%d messages have come", messages), func() bool { return h.now().Messages >= messages })
}

func (h *hearer) now() *StreamStatus { return h.status(time.Now()).Stream }

func queueLength(t *testing.T, ch *amqp.Channel, queue string) int {
	t.Helper()
	q, err := ch.QueueDeclarePassive(queue, true, false, false, false, nil)
	if err != nil {
		t.Fatal(err)
	}
	return q.Messages
}

// What comes by the stream is in the copy at once, though the source is asked but once an hour.
func TestListen(t *testing.T) {
	t.Parallel()
	b, _ := newBroker(t)
	begin := func(t *testing.T, exchange string, prepare func(*copier)) (*source, *sender, *hearer) {
		s := newSource(t)
		s.put(t, 1, 25)
		h := s.hearer(t, b.URL, exchange, prepare)
		x := s.sender(t, b, exchange)
		h.becomes(t, s)
		s.exchanges()
		t.Cleanup(func() {
			if strings.Contains(h.log.String(), "not listening") {
				t.Error("the connection was lost")
			}
		})
		return s, x, h
	}

	t.Run("history first, then what is new, without a request", func(t *testing.T) {
		t.Parallel()
		s, x, h := begin(t, "new", nil)
		x.relay(t) // all that the copy has
		h.hasHeard(t, 25)
		s.exchanges()
		var took []time.Duration
		for n := range 20 {
			e := s.version(26 + n)
			e.Updated = time.Now().UTC().Truncate(time.Microsecond)
			e.Payload = fmt.Appendf(nil, `{"id":"%s","version":1,"name":"n"}`, e.ID)
			s.publish(t, e)
			page := x.next(t)
			began := time.Now()
			x.out(t, page...)
			h.becomes(t, s)
			took = append(took, time.Since(began))
			eventually(t, "its status says so", func() bool {
				now := h.status(time.Now())
				return now.AsOf != nil && now.AsOf.Equal(e.Updated.Truncate(time.Millisecond)) && now.LagEntries == 0 && now.Stream.LastMessageAt != nil
			})
		}
		slices.Sort(took)
		t.Logf("p50 %v, most %v from the relay to the test, which looks every 5 ms", took[10], took[19])
		for _, e := range s.exchanges() {
			if !strings.HasSuffix(e.query, "limit=1000") { // the relay's
				t.Errorf("the copy asked for %s", e.query)
			}
		}

		x.cursor = feed.Cursor{}
		x.relay(t) // a relay that lost its cursor
		x.seek(t, 40)
		x.relay(t)
		s.remove(t, 7)
		s.put(t, 3, 9)
		h.mu.Lock()
		h.applied = nil
		h.mu.Unlock()
		x.relay(t)
		h.becomes(t, s)
		if now := h.now(); now.Gaps != 0 || now.Messages != 25+20+45+5+8 {
			t.Errorf("it heard %+v", now)
		}
		h.mu.Lock()
		defer h.mu.Unlock()
		eventually(t, "all is acknowledged", func() bool { return queueLength(t, x.channel, "test.new") == 0 })
	})

	t.Run("a gap is filled from the feed", func(t *testing.T) {
		t.Parallel()
		s, x, h := begin(t, "gap", nil)
		x.next(t)
		s.put(t, 26, 27)
		x.next(t) // nobody hears of it
		s.put(t, 28, 28)
		x.relay(t)
		h.becomes(t, s)
		if now := h.now(); now.Gaps != 1 {
			t.Errorf("%+v", now)
		}
		s.put(t, 29, 29)
		x.relay(t)
		h.becomes(t, s)
		if now := h.now(); now.Gaps != 1 {
			t.Errorf("after it %+v", now)
		}
	})

	t.Run("the copy is in the middle of the relay's page", func(t *testing.T) {
		t.Parallel()
		s, x, h := begin(t, "middle", nil)
		x.next(t)
		s.put(t, 26, 27)
		if err := h.requests.pollNow(t.Context()); err != nil {
			t.Fatal(err)
		}
		s.put(t, 28, 31)
		s.exchanges()
		x.relay(t)
		h.becomes(t, s)
		asked := s.exchanges()
		if now := h.now(); now.Gaps != 0 || len(asked) != 2 || !strings.HasSuffix(asked[1].query, "limit=1") {
			t.Errorf("%+v, %v", now, asked)
		}
	})

	t.Run("a page that does not end", func(t *testing.T) {
		t.Parallel()
		s, x, h := begin(t, "broken", nil)
		x.next(t)
		s.put(t, 26, 31)
		all := x.next(t)
		x.out(t, all[:3]...)
		h.becomes(t, s)
		x.out(t, all...) // the relay does not know
		s.put(t, 32, 33)
		x.relay(t)
		h.becomes(t, s)
		if now := h.now(); now.Gaps != 0 {
			t.Errorf("%+v", now)
		}
	})

	t.Run("what is no message", func(t *testing.T) {
		t.Parallel()
		s, x, h := begin(t, "noise", nil)
		x.next(t)
		s.put(t, 26, 26)
		x.out(t, amqp.Publishing{Body: []byte("hello")})
		h.becomes(t, s) // for the feed was asked
		if !strings.Contains(h.log.String(), "not a message of the feed noise") {
			t.Error("the log does not say so")
		}
	})

	t.Run("a bad entry is put aside, its neighbours are applied", func(t *testing.T) {
		t.Parallel()
		s, x, h := begin(t, "bad", nil)
		x.next(t)
		exec(t, h.pool, `alter table thing add constraint banned check (name !~ '^thing 27,')`)
		s.put(t, 26, 28)
		s.exchanges()
		x.relay(t)
		eventually(t, "the page is applied", func() bool { return h.look.stored(t).cursor == s.head(t).Cursor() })
		h.look.wantRejected(t, s, "banned", 27)
		if now := h.status(time.Now()); now.Stream.Gaps != 0 || len(s.exchanges()) != 1 {
			t.Errorf("%+v", now)
		}
	})

	t.Run("an Apply that fails for a while", func(t *testing.T) {
		t.Parallel()
		fails := make(chan bool, 1)
		s, x, h := begin(t, "fails", func(c *copier) {
			c.Apply = func(ctx context.Context, tx pgx.Tx, b *Batch) error {
				select {
				case <-fails:
					return io.ErrUnexpectedEOF
				default:
					return copyThings(ctx, tx, b)
				}
			}
		})
		x.next(t)
		s.put(t, 26, 28)
		fails <- true
		x.relay(t)
		h.becomes(t, s)
	})

	t.Run("paused, and resumed", func(t *testing.T) {
		t.Parallel()
		s, x, h := begin(t, "paused", nil)
		x.next(t)
		if err := h.row.set(t.Context(), `paused = true`); err != nil {
			t.Fatal(err)
		}
		s.put(t, 26, 28)
		x.relay(t)
		h.hasHeard(t, 3)
		eventually(t, "the queue is empty", func() bool { return queueLength(t, x.channel, "test.paused") == 0 })
		if at := h.look.stored(t); at.cursor.Position != 25 {
			t.Errorf("it went on to %s", at.cursor)
		}
		if err := h.row.set(t.Context(), `paused = false`); err != nil {
			t.Fatal(err)
		}
		h.becomes(t, s)
		if now := h.now(); now.Gaps != 0 {
			t.Errorf("%+v", now)
		}
	})

	t.Run("a source that is down, and one that comes back with another history", func(t *testing.T) {
		t.Parallel()
		s, x, h := begin(t, "other", nil)
		x.next(t)
		down := func(w http.ResponseWriter, r *http.Request, honest http.Handler) {
			if strings.HasSuffix(r.URL.RawQuery, "limit=1000") { // the relay's
				honest.ServeHTTP(w, r)
				return
			}
			http.Error(w, "down", http.StatusInternalServerError)
		}
		s.setTamper(down)
		if err := h.requests.pollNow(t.Context()); err == nil {
			t.Fatal("the source answers")
		}
		s.put(t, 26, 28)
		x.relay(t)
		h.becomes(t, s)

		s.setTamper(nil)
		if err := h.requests.pollNow(t.Context()); err != nil {
			t.Fatal(err)
		}
		s.restored(t, 20)
		s.put(t, 40, 42) // the copy is ahead, at 28
		s.open(t)
		x.relay(t) // from the start
		h.becomes(t, s)
		s.put(t, 43, 43)
		x.relay(t)
		h.becomes(t, s)
		if at := h.look.stored(t); at.generation != 2 {
			t.Errorf("it is %+v", at)
		}
	})

	// The relay is behind the place where the histories part, and the copy is not: nothing but the source tells.
	t.Run("another history that the relay does not know of", func(t *testing.T) {
		t.Parallel()
		s, x, h := begin(t, "fork", nil)
		x.next(t)
		s.put(t, 26, 30)
		if err := h.requests.pollNow(t.Context()); err != nil {
			t.Fatal(err)
		}
		s.restored(t, 27)
		s.put(t, 50, 55)
		s.open(t)
		x.relay(t)
		h.becomes(t, s)
		if at := h.look.stored(t); at.generation != 2 {
			t.Errorf("it is %+v", at)
		}
	})

	t.Run("the connection is lost between the commit and the acknowledgement", func(t *testing.T) {
		t.Parallel()
		cable := newCable(t, b.Addr)
		s := newSource(t)
		s.put(t, 1, 5)
		var once sync.Once
		h := s.hearer(t, cable.url, "cut", func(c *copier) {
			apply := c.Apply
			c.Apply = func(ctx context.Context, tx pgx.Tx, batch *Batch) error {
				if batch.has(7) {
					once.Do(cable.cut)
				}
				return apply(ctx, tx, batch)
			}
		})
		x := s.sender(t, b, "cut")
		x.next(t)
		s.put(t, 6, 8)
		x.relay(t)
		h.becomes(t, s)
		h.hasHeard(t, 6) // three of them twice
		eventually(t, "the queue is empty", func() bool { return queueLength(t, x.channel, "test.cut") == 0 })
		h.mu.Lock()
		defer h.mu.Unlock()
		if now := h.now(); now.Gaps != 0 || !slices.Equal(h.applied, []int{5, 3}) || !strings.Contains(h.log.String(), "not listening") {
			t.Errorf("%+v, batches of %v", now, h.applied)
		}
	})
}

// seek makes what goes out next begin behind a position.
func (x *sender) seek(t *testing.T, position int64) {
	t.Helper()
	for x.cursor = (feed.Cursor{}); x.cursor.Position < position; {
		x.page(t, 1, func(feed.Cursor, *feed.Page) bool { return true })
	}
}

// A cable leads to the broker until it is cut; a new connection takes a new one.
type cable struct {
	url string
	mu  sync.Mutex
	now []net.Conn
}

func newCable(t *testing.T, to string) *cable {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	c := &cable{url: "amqp://guest:guest@" + ln.Addr().String() + "/"}
	var all sync.WaitGroup
	all.Go(func() {
		for {
			client, err := ln.Accept()
			if err != nil {
				return
			}
			server, err := net.Dial("tcp", to)
			if err != nil {
				client.Close()
				continue
			}
			c.mu.Lock()
			c.now = append(c.now, client, server)
			c.mu.Unlock()
			all.Go(func() { _, _ = io.Copy(client, server); client.Close() })
			all.Go(func() { _, _ = io.Copy(server, client); server.Close() })
		}
	})
	t.Cleanup(func() { ln.Close(); c.cut(); all.Wait() })
	return c
}

func (c *cable) cut() {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, conn := range c.now {
		conn.Close()
	}
	c.now = nil
}
