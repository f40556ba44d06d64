package eventstream

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"

	"github.com/edison-cars/data-feeds/shared/feed"
	"github.com/edison-cars/data-feeds/shared/subscribe"
)

const (
	// A queue keeps at most this many messages, the newest, and exists this long without a consumer. A consumer that
	// missed more reads the feed.
	maxMessages = 10_000
	expiry      = 7 * 24 * time.Hour

	assertEvery  = 10 * time.Second // between two declarations of the queue, exchange and binding
	closeTimeout = time.Second
)

// prefetch is how many messages a Queue has out, unacknowledged: what a page holds at most.
const prefetch = feed.MaxPageSize

// A Queue is a reader's own, and a [subscribe.Stream]: durable, on a quorum of the broker's nodes, and bound to the
// exchange of a feed.
type Queue struct {
	Broker Broker
	Feed   string
	Name   string // of the queue
	Logger *slog.Logger

	mu     sync.Mutex
	status subscribe.Connection
}

// Connection returns how it is with the broker.
func (q *Queue) Connection() subscribe.Connection {
	q.mu.Lock()
	defer q.mu.Unlock()
	return q.status
}

// Listen sends received messages to messages until ctx ends. It reconnects with growing pauses. Messages that were not
// acknowledged are delivered again, and acknowledged ones may be.
func (q *Queue) Listen(ctx context.Context, messages chan<- subscribe.Message) {
	q.set(subscribe.Connection{Since: time.Now()})
	for failures := 0; ; {
		err := q.consume(ctx, messages)
		if ctx.Err() != nil {
			return
		}
		at := q.Connection()
		if at.Listening {
			failures = 0
		}
		if at.Listening || at.Err == nil {
			q.Logger.WarnContext(ctx, "not listening to the stream; the feed is asked on schedule", "feed", q.Feed, "broker", q.Broker.Shown, "error", err)
			at = subscribe.Connection{Since: time.Now()}
		}
		at.Err = err
		q.set(at)
		failures++
		select {
		case <-ctx.Done():
			return
		case <-time.After(Backoff(failures)):
		}
	}
}

func (q *Queue) set(at subscribe.Connection) {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.status = at
}

func (q *Queue) consume(ctx context.Context, messages chan<- subscribe.Message) error {
	var deliveries <-chan amqp.Delivery
	conn, err := q.Broker.Connect(ctx, q.Name, func(ch *amqp.Channel) (err error) {
		if err = q.assert(ch); err == nil {
			err = ch.Qos(prefetch, 0, false)
		}
		if err == nil {
			deliveries, err = ch.Consume(q.Name, "", false, false, false, false, nil)
		}
		return err
	})
	if err != nil {
		return err
	}
	defer conn.Drop()
	defer context.AfterFunc(ctx, func() { time.AfterFunc(closeTimeout, conn.Drop) })() // even if it hangs
	closed := conn.Channel.NotifyClose(make(chan *amqp.Error, 1))
	q.Logger.InfoContext(ctx, "listening to the stream", "feed", q.Feed, "broker", q.Broker.Shown, "queue", q.Name)
	q.set(subscribe.Connection{Listening: true, Since: time.Now()})
	again := time.NewTicker(assertEvery)
	defer again.Stop()
	for {
		select {
		case <-ctx.Done():
			_ = conn.CloseDeadline(time.Now().Add(closeTimeout))
			return ctx.Err()
		case <-again.C:
			hung := time.AfterFunc(connectTimeout, conn.Drop)
			err := q.assert(conn.Channel)
			if !hung.Stop() {
				return fmt.Errorf("the broker does not answer within %v", connectTimeout)
			}
			if err != nil {
				return err
			}
		case d, ok := <-deliveries:
			if !ok {
				select {
				case err := <-closed:
					return lost(err)
				default:
					return errors.New("the queue was deleted")
				}
			}
			select {
			case messages <- Parse(q.Feed, d):
			case <-ctx.Done():
			case err := <-closed: // unacknowledged messages are delivered again
				return lost(err)
			}
		}
	}
}

func lost(err *amqp.Error) error {
	if err == nil {
		return errors.New("the connection was closed")
	}
	return fmt.Errorf("the connection was lost: %w", err)
}

// assert declares the queue, exchange and binding. A deleted exchange loses its bindings without notice.
func (q *Queue) assert(ch *amqp.Channel) error {
	if err := ch.ExchangeDeclare(q.Feed, amqp.ExchangeFanout, true, false, false, false, nil); err != nil {
		return fmt.Errorf("make the exchange %s: %w", q.Feed, err)
	}
	_, err := ch.QueueDeclare(q.Name, true, false, false, false, amqp.Table{
		amqp.QueueTypeArg: amqp.QueueTypeQuorum, amqp.QueueMaxLenArg: maxMessages, amqp.QueueOverflowArg: amqp.QueueOverflowDropHead, amqp.QueueTTLArg: expiry.Milliseconds(),
	})
	if err == nil {
		err = ch.QueueBind(q.Name, "", q.Feed, false, nil)
	}
	if err != nil {
		return fmt.Errorf("make the queue %s: %w", q.Name, err)
	}
	return nil
}
