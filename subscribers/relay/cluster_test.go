package relay

import (
	"bytes"
	"context"
	"fmt"
	"log/slog"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/edison-cars/data-feeds/shared/dev/rabbitmq"
	"github.com/edison-cars/data-feeds/shared/eventstream"
	"github.com/edison-cars/data-feeds/shared/postgres/pgtest"
	"github.com/edison-cars/data-feeds/shared/subscribe"
)

// Each of three nodes is killed while messages are under way: those that remain carry the stream on, nothing is lost,
// and first arrivals are in order.
func TestCluster(t *testing.T) {
	t.Parallel()
	c := newCluster(t)
	s := newSource(t, "cluster")
	p := s.relay(t, newDatabase(t), c.URL, nil)
	listeners := []*listener{s.listener(t, c.URL, "one.cluster"), s.listener(t, c.URL, "two.cluster")}
	for _, l := range listeners {
		eventually(t, "it listens", func() bool { return l.queue.Connection().Listening })
	}
	out, err := c.Nodes[0].Ctl(t.Context(), "-q", "list_queues", "type", "members")
	if err != nil || strings.Count(out, "quorum") != len(listeners) || strings.Count(out, "edison") != len(c.Nodes)*len(listeners) {
		t.Errorf("%v, not a quorum queue of all nodes for each listener: %s", err, out)
	}
	declared := time.Now()
	eventually(t, "the queues can be killed", func() bool { // RabbitMQ 3.10 loses those that are younger: see README.md
		return time.Since(declared) > 5*time.Second
	})
	for i, node := range c.Nodes {
		before := len(s.history)
		s.put(t, 1, 1000, 300)
		eventually(t, "messages are under way", func() bool { return p.stream(t).Position > int64(before) })
		node.Kill()
		s.put(t, 1, 100, 300)
		for _, l := range listeners {
			l.wantAll(t, s)
		}
		eventually(t, "the relay is connected", func() bool {
			v := p.stream(t)
			return v.State == connected && v.Detail == nil && v.Position == int64(len(s.history))
		})
		if err := c.Start(t.Context(), i); err != nil {
			t.Fatal(err)
		}
	}
}

func newCluster(t *testing.T) *rabbitmq.Cluster {
	t.Helper()
	pgtest.Slow(t, "RabbitMQ")
	if _, err := rabbitmq.Find(); err != nil {
		t.Skip(err)
	}
	dir, err := os.MkdirTemp("", "edison-relay-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	c, err := rabbitmq.StartCluster(context.Background(), dir, 3)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Kill)
	return c
}

// A listener is the queue of a subscriber, with what came from it.
type listener struct {
	queue *eventstream.Queue
	mu    sync.Mutex
	heard []subscribe.Message
}

func (s *source) listener(t *testing.T, url, name string) *listener {
	t.Helper()
	l := &listener{queue: &eventstream.Queue{Feed: s.name, Name: name, Logger: slog.New(slog.DiscardHandler)}}
	if err := l.queue.Broker.UnmarshalText([]byte(url)); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	messages := make(chan subscribe.Message)
	var all sync.WaitGroup
	all.Go(func() {
		defer close(messages)
		l.queue.Listen(ctx, messages)
	})
	all.Go(func() {
		for m := range messages {
			l.mu.Lock()
			l.heard = append(l.heard, m)
			l.mu.Unlock()
			m.Acknowledge()
		}
	})
	t.Cleanup(func() { cancel(); all.Wait() })
	return l
}

// wantAll waits until every entry was heard of, and fails the test unless that was in order, and each message says what
// its entry does.
func (l *listener) wantAll(t *testing.T, s *source) {
	t.Helper()
	var firsts []subscribe.Message
	heard, seen := 0, map[int64]bool{}
	eventually(t, fmt.Sprintf("%d entries are heard of by %s", len(s.history), l.queue.Name), func() bool {
		l.mu.Lock()
		defer l.mu.Unlock()
		for ; heard < len(l.heard); heard++ {
			if m := l.heard[heard]; !seen[m.Position] {
				seen[m.Position] = true
				firsts = append(firsts, m)
			}
		}
		return len(firsts) >= len(s.history)
	})
	for i, m := range firsts {
		if e := s.history[i]; m.Err != nil || m.Position != int64(i+1) || m.ID != e.ID || m.Version != e.Version || !bytes.Equal(m.Entity, e.Payload) {
			t.Fatalf("first message %d is %+v, not of %+v", i+1, m, e)
		}
	}
	t.Logf("%s: %d messages of %d entries", l.queue.Name, heard, len(s.history))
}
