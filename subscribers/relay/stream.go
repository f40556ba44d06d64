package relay

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/google/uuid"
	"github.com/prometheus/client_golang/prometheus"
	amqp "github.com/rabbitmq/amqp091-go"

	"github.com/edison-cars/data-feeds/shared/eventstream"
	"github.com/edison-cars/data-feeds/shared/feed"
)

const (
	closeTimeout   = time.Second
	confirmTimeout = 30 * time.Second // without a confirmation, while the broker has not said that it blocks us
	maxUnconfirmed = feed.MaxPageSize
)

// A stream is a feed on its way into an exchange, over a connection of its own.
type stream struct {
	feed   string
	broker *eventstream.Broker

	working sync.Mutex // held while messages go out, or a connection is made
	conn    *connection
	// Of the page that goes out:
	from      feed.Cursor
	confirmed int       // messages
	last      uuid.UUID // id of the last of them
	unnoted   int       // messages that are confirmed, which the database does not know
	// How many messages may be unconfirmed: one after a failure, then twice as many each time. So a queue that refuses messages holds up
	// the stream, but the others do not get a page again and again.
	window int

	mu       sync.Mutex
	status   status
	failures int // to connect, in a row
	nextTry  time.Time
	rate     rate
	sent     prometheus.Counter
}

// A status is how it is with the broker.
type status struct {
	since   time.Time   // it is so
	conn    *connection // nil if there is none
	blocked string      // by the broker: why; empty: not
	pending time.Time   // since when a page has not been confirmed; zero: none is under way
	err     error       // why the last try failed
}

func newStream(name string, b *eventstream.Broker) *stream {
	return &stream{
		feed: name, broker: b, window: 1, status: status{since: time.Now()},
		sent: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "relay_messages_total", Help: "Messages that RabbitMQ has confirmed to this process.", ConstLabels: prometheus.Labels{"feed": name},
		}),
	}
}

type connection struct {
	*eventstream.Conn
	confirms <-chan amqp.Confirmation
	closed   <-chan *amqp.Error
	roused   chan struct{} // it is blocked, or no longer
}

// connect makes the exchange, too, so that queues can be bound to it before there is an entry.
func (s *stream) connect(ctx context.Context) (err error) {
	if s.conn != nil && !s.conn.Channel.IsClosed() {
		return nil
	}
	s.disconnect()
	c := &connection{roused: make(chan struct{}, 1)}
	defer func() { s.connected(c, err, time.Now()) }()
	c.Conn, err = s.broker.Connect(ctx, "relay of "+s.feed, func(ch *amqp.Channel) error {
		err := ch.ExchangeDeclare(s.feed, amqp.ExchangeFanout, true, false, false, false, nil)
		if err == nil {
			err = ch.Confirm(false)
		}
		if err != nil {
			return fmt.Errorf("make the exchange: %w", err)
		}
		return nil
	})
	if err != nil {
		return err
	}
	c.confirms = c.Channel.NotifyPublish(make(chan amqp.Confirmation, maxUnconfirmed))
	c.closed = c.Channel.NotifyClose(make(chan *amqp.Error, 1))
	blocked := c.NotifyBlocked(make(chan amqp.Blocking))
	go func() {
		for b := range blocked {
			s.setBlocked(c, b)
			select {
			case c.roused <- struct{}{}:
			default:
			}
		}
	}()
	s.conn = c
	return nil
}

// disconnect leaves nothing behind, however the connection hangs.
func (s *stream) disconnect() {
	if s.conn != nil {
		s.conn.Drop()
		s.conn = nil
	}
}

// release closes the connection in good order, if the broker answers soon.
func (s *stream) release() {
	s.working.Lock()
	defer s.working.Unlock()
	if s.conn != nil {
		_ = s.conn.CloseDeadline(time.Now().Add(closeTimeout)) // the broker sees to it, otherwise
		s.lost(errors.New("the connection was closed"), time.Now())
		s.disconnect()
	}
}

// keep connects where that is due, and says what is wrong.
func (s *stream) keep(ctx context.Context, now time.Time) error {
	if s.working.TryLock() {
		defer s.working.Unlock()
		if c := s.conn; c != nil && c.Channel.IsClosed() {
			s.lost(c.failure(), now)
			s.disconnect()
		}
		if s.due(now) {
			_ = s.connect(ctx) // the status has it
		}
	}
	return s.trouble(now)
}

// failure says why the channel was closed.
func (c *connection) failure() error {
	if err := <-c.closed; err != nil {
		return fmt.Errorf("the connection was lost: %w", err)
	}
	return errors.New("the connection was closed")
}

// send sends the messages from the first one that is not confirmed on, in order.
func (s *stream) send(ctx context.Context, all []amqp.Publishing) error {
	if err := s.connect(ctx); err != nil {
		return err
	}
	for s.confirmed < len(all) {
		n, err := s.sendSome(ctx, all[s.confirmed:min(len(all), s.confirmed+s.window)])
		s.confirmed += n
		if err != nil {
			s.window = 1
			s.lost(err, time.Now())
			s.disconnect() // what is on its way may arrive, and be sent again
			return err
		}
		s.count(n, time.Now())
		s.window = min(2*s.window, maxUnconfirmed)
	}
	return nil
}

// sendSome returns how many messages were confirmed before the first one that was not.
func (s *stream) sendSome(ctx context.Context, some []amqp.Publishing) (confirmed int, err error) {
	c := s.conn
	written := make(chan error, 1)
	go func() { // a broker that blocks us does not read
		var err error
		for i := 0; i < len(some) && err == nil; i++ {
			err = c.Channel.PublishWithContext(ctx, s.feed, "", false, false, some[i])
		}
		written <- err
	}()
	defer func() {
		if err != nil {
			c.Drop() // which ends a write that hangs
		}
		writeErr := <-written
		if err == nil {
			err = writeErr
		}
	}()
	silent := time.NewTimer(confirmTimeout)
	defer silent.Stop()
	for confirmed < len(some) {
		select {
		case <-ctx.Done():
			return confirmed, ctx.Err()
		case m, ok := <-c.confirms:
			if !ok {
				return confirmed, c.failure()
			}
			if !m.Ack {
				return confirmed, errors.New("a message was refused: a queue may be full")
			}
			confirmed++
			silent.Reset(confirmTimeout)
		case <-c.roused:
			silent.Reset(confirmTimeout)
		case <-silent.C:
			if s.isBlocked() { // it will say when it is not
				silent.Reset(confirmTimeout)
				continue
			}
			return confirmed, fmt.Errorf("no message was confirmed within %v", confirmTimeout)
		}
	}
	return confirmed, nil
}
