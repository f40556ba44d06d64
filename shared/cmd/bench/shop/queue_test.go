package shop

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgconn"

	"github.com/edison-cars/data-feeds/shared/dev/rabbitmq"
	"github.com/edison-cars/data-feeds/shared/postgres/pgtest"
)

const patient = 2 * time.Minute

// A bench is a broker, a queue, and who works it off.
type bench struct {
	*rabbitmq.Server
	queue string
	link  *Link
	wg    sync.WaitGroup
}

func newBench(t *testing.T, broker *rabbitmq.Server, queue string) *bench {
	t.Helper()
	b := &bench{Server: broker, queue: queue, link: NewLink(broker.URL, 0)}
	t.Cleanup(func() { // the context of the test is over
		b.wg.Wait()
		b.link.Close()
	})
	ch, err := b.link.Channel(t.Context())
	if err == nil {
		err = declareQueue(ch, queue)
	}
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func (b *bench) put(t *testing.T, bodies ...string) {
	t.Helper()
	for _, body := range bodies {
		if err := b.link.Deliver(t.Context(), "", b.queue, []byte(body)); err != nil {
			t.Fatal(err)
		}
	}
}

// work has a worker handle the messages until the test ends.
func (b *bench) work(t *testing.T, handle func(ctx context.Context, body string) error) {
	t.Helper()
	ctx := t.Context()
	b.wg.Go(func() {
		err := workOff(ctx, b.URL, b.queue, func() {}, func(body []byte) error { return handle(ctx, string(body)) },
			slog.New(slog.DiscardHandler))
		if err != nil {
			t.Error(err)
		}
	})
}

// left is how many messages wait in a queue.
func (b *bench) left(t *testing.T, queue string) int {
	t.Helper()
	ch, err := b.link.Channel(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	q, err := ch.QueueDeclarePassive(queue, true, false, false, false, nil)
	if err != nil {
		t.Fatal(err)
	}
	return q.Messages
}

// A tally counts, for several.
type tally struct {
	sync.Mutex
	n map[string]int
}

func newTally() *tally { return &tally{n: map[string]int{}} }

func (c *tally) add(what string) int {
	c.Lock()
	defer c.Unlock()
	c.n[what]++
	return c.n[what]
}

func (c *tally) of(what string) int {
	c.Lock()
	defer c.Unlock()
	return c.n[what]
}

func eventually(t *testing.T, what string, condition func() bool) {
	t.Helper()
	for deadline := time.Now().Add(patient); !condition(); time.Sleep(10 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("not within %v: %s", patient, what)
		}
	}
}

func TestWorkQueue(t *testing.T) {
	t.Parallel()
	pgtest.Slow(t, "RabbitMQ")
	if _, err := rabbitmq.Find(); err != nil {
		t.Skip(err)
	}
	dir, err := os.MkdirTemp("", "edison-shop-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	broker, err := rabbitmq.Start(t.Context(), rabbitmq.Config{Dir: dir})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(broker.Kill)

	t.Run("workers share a queue", func(t *testing.T) {
		b := newBench(t, broker, "shared")
		handled, hands := newTally(), newTally()
		all := make(chan struct{}) // closed when each has a message in its hands
		var busy sync.WaitGroup
		busy.Add(workers)
		go func() { busy.Wait(); close(all) }()
		for i := range workers {
			var first sync.Once
			b.work(t, func(ctx context.Context, body string) error {
				first.Do(busy.Done)
				select {
				case <-all:
				case <-ctx.Done():
					return ctx.Err()
				}
				hands.add(fmt.Sprint(i))
				handled.add(body)
				return nil
			})
		}
		eventually(t, "all workers consume", func() bool {
			ch, err := b.link.Channel(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			q, err := ch.QueueDeclarePassive(b.queue, true, false, false, false, nil)
			return err == nil && q.Consumers == workers
		})
		const n = 10 * workers
		for i := range n {
			b.put(t, fmt.Sprint(i))
		}
		for i := range n {
			eventually(t, "every message is handled", func() bool { return handled.of(fmt.Sprint(i)) > 0 })
			if times := handled.of(fmt.Sprint(i)); times != 1 {
				t.Errorf("message %d was handled %d times", i, times)
			}
		}
		for i := range workers {
			if hands.of(fmt.Sprint(i)) == 0 {
				t.Errorf("worker %d did nothing", i)
			}
		}
	})

	t.Run("what is bad ends with the dead letters, and holds nobody up", func(t *testing.T) {
		b := newBench(t, broker, "bad")
		tries := newTally()
		b.work(t, func(_ context.Context, body string) error {
			switch n := tries.add(body); {
			case body == "bad":
				return &pgconn.PgError{Code: "23514"}
			case body == "unlucky" && n <= 2*maxTries: // the database is down, for longer than a bad one is tried
				return errors.New("connection refused")
			}
			return nil
		})
		b.put(t, "before", "bad", "unlucky", "behind")
		eventually(t, "the bad one is among the dead letters", func() bool { return b.left(t, dead(b.queue)) == 1 })
		eventually(t, "the others are handled", func() bool {
			return tries.of("before") == 1 && tries.of("unlucky") == 2*maxTries+1 && tries.of("behind") == 1 && b.left(t,
				b.queue) == 0
		})
		if n := tries.of("bad"); n != maxTries {
			t.Errorf("the bad one was tried %d times, want %d", n, maxTries)
		}
		ch, err := b.link.Channel(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if m, ok, err := ch.Get(dead(b.queue), true); err != nil || !ok || string(m.Body) != "bad" {
			t.Errorf("the dead letter is %q, %t, %v", m.Body, ok, err)
		}
	})

	t.Run("what is not acknowledged when the connection breaks is given back", func(t *testing.T) {
		b := newBench(t, broker, "crash")
		tries, inHand, broken := newTally(), make(chan struct{}), make(chan struct{})
		b.work(t, func(ctx context.Context, body string) error {
			if tries.add(body) == 1 {
				close(inHand)
				select {
				case <-broken:
				case <-ctx.Done():
				}
			}
			return nil
		})
		b.put(t, "order")
		<-inHand
		if _, err := broker.Ctl(t.Context(), "close_all_connections", "as a crash does"); err != nil {
			t.Fatal(err)
		}
		close(broken)
		eventually(t, "it comes again", func() bool { return tries.of("order") == 2 })
		eventually(t, "and is done", func() bool { return b.left(t, b.queue) == 0 && b.left(t, dead(b.queue)) == 0 })
	})
}
