package relay

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"
	amqp "github.com/rabbitmq/amqp091-go"

	"github.com/edison-cars/data-feeds/shared/feed"
)

// A queue is one bound to a feed's exchange. It is drained into heard.
type queue struct {
	name  string
	mu    sync.Mutex
	heard []amqp.Delivery
}

// listen binds a durable queue to the exchange, which it makes if it comes first, and drains it, over connections lost.
func listen(t *testing.T, url func() string, exchange string) *queue {
	t.Helper()
	q := &queue{name: exchange + "-listener"}
	ctx, cancel := context.WithCancel(context.Background())
	bound := make(chan struct{})
	var once sync.Once
	var all sync.WaitGroup
	all.Go(func() {
		for ctx.Err() == nil {
			q.drain(ctx, url(), exchange, func() { once.Do(func() { close(bound) }) })
			select {
			case <-ctx.Done():
			case <-time.After(50 * time.Millisecond):
			}
		}
	})
	t.Cleanup(func() { cancel(); all.Wait() })
	select {
	case <-bound:
	case <-time.After(time.Minute):
		t.Fatal("no queue within a minute")
	}
	return q
}

func (q *queue) drain(ctx context.Context, url, exchange string, bound func()) {
	conn, err := amqp.DialConfig(url, amqp.Config{Heartbeat: 2 * time.Second, Dial: amqp.DefaultDial(5 * time.Second)})
	if err != nil {
		return
	}
	defer func() { _ = conn.CloseDeadline(time.Now().Add(time.Second)) }()
	ch, err := conn.Channel()
	if err == nil {
		err = ch.ExchangeDeclare(exchange, "fanout", true, false, false, false, nil)
	}
	if err == nil {
		_, err = ch.QueueDeclare(q.name, true, false, false, false, nil)
	}
	if err == nil {
		err = ch.QueueBind(q.name, "", exchange, false, nil)
	}
	if err != nil {
		return
	}
	messages, err := ch.Consume(q.name, "", false, false, false, false, nil)
	if err != nil {
		return
	}
	bound()
	for {
		select {
		case <-ctx.Done():
			return
		case m, ok := <-messages:
			if !ok {
				return
			}
			q.mu.Lock()
			q.heard = append(q.heard, m)
			q.mu.Unlock()
			if m.Ack(false) != nil {
				return
			}
		}
	}
}

// all returns what was heard of a generation.
func (q *queue) all(generation int64) (found []amqp.Delivery) {
	q.mu.Lock()
	defer q.mu.Unlock()
	for _, m := range q.heard {
		if m.Headers["generation"] == generation {
			found = append(found, m)
		}
	}
	return found
}

// firsts are the positions as they were heard of first, and times how often all were.
func (q *queue) firsts(generation int64) (firsts []int64, times int) {
	seen := map[int64]bool{}
	for _, m := range q.all(generation) {
		position, _ := m.Headers["position"].(int64)
		if times++; !seen[position] {
			seen[position] = true
			firsts = append(firsts, position)
		}
	}
	return firsts, times
}

// wantAll waits until every entry was heard of, and fails the test unless that was in order, and each message says what
// its entry does.
func (q *queue) wantAll(t *testing.T, s *source, generation int64) (messages int) {
	t.Helper()
	var firsts []int64
	eventually(t, fmt.Sprintf("%d entries are heard of", len(s.history)), func() bool {
		firsts, messages = q.firsts(generation)
		return len(firsts) >= len(s.history)
	})
	want := make([]int64, len(s.history))
	for i := range want {
		want[i] = int64(i + 1)
	}
	if !slices.Equal(firsts, want) {
		t.Fatalf("first heard of in the order %v", firsts)
	}
	ids := map[string]int64{}
	for _, m := range q.all(generation) {
		position := m.Headers["position"].(int64)
		if other, seen := ids[m.MessageId]; seen && other != position {
			t.Fatalf("positions %d and %d have the same message id", position, other)
		}
		ids[m.MessageId] = position
		s.wantSame(t, m)
	}
	if len(ids) != len(s.history) {
		t.Fatalf("%d message ids of %d entries", len(ids), len(s.history))
	}
	return messages
}

// wantSame: the message says what its entry does.
func (s *source) wantSame(t *testing.T, m amqp.Delivery) {
	t.Helper()
	position := m.Headers["position"].(int64)
	e := s.history[position-1]
	var body struct {
		ExternalID uuid.UUID `json:"external_id"`
		ID         uuid.UUID `json:"id"`
		Version    int64     `json:"version"`
		Deleted    bool      `json:"deleted"`
	}
	if err := json.Unmarshal(m.Body, &body); err != nil {
		t.Fatalf("%v: %s", err, m.Body)
	}
	deleted := e.Payload == nil
	if body.ExternalID != e.ID || body.Version != e.Version || body.Deleted != deleted || !deleted && body.ID != e.ID {
		t.Errorf("entry %d, %+v, goes out as %s", position, e, m.Body)
	}
	cursor, err := feed.ParseCursor(m.Headers["cursor"].(string))
	if err != nil || cursor.Position > position {
		t.Errorf("the cursor of entry %d is %s, %v", position, cursor, err)
	}
	if m.Headers["feed"] != s.name || m.Headers["version"] != e.Version || m.Headers["deleted"] != deleted || m.Exchange != s.name ||
		m.DeliveryMode != amqp.Persistent || m.ContentType != "application/json" {
		t.Errorf("entry %d goes out as %+v", position, m)
	}
}
