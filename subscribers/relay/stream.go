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
	confirmTimeout = 30 * time.Second // for the next confirmation, unless the broker has blocked the connection
	maxUnconfirmed = feed.MaxPageSize
)

type stream struct {
	feed   string
	broker *eventstream.Broker

	working sync.Mutex // held while messages go out, or a connection is made
	conn    *connection
	// Of the page that is being sent:
	from      feed.Cursor
	confirmed int       // messages
	last      uuid.UUID // the id of the last confirmed message
	unnoted   int       // confirmed messages that the database does not count yet
	// window is the limit of unconfirmed messages: one after a failure, then doubled after each success. A queue that
	// refuses messages stops the stream, but does not flood the other queues with repeated pages.
	window int

	mu       sync.Mutex
	status   status
	failures int // to connect, in a row
	nextTry  time.Time
	rate     rate
	sent     prometheus.Counter
}

type status struct {
	since   time.Time   // of the state
	conn    *connection // nil means not connected
	blocked string      // the broker's reason for blocking; empty: not blocked
	pending time.Time   // since when a page waits for confirmation; zero: no page does
	err     error       // of the last try
}

func newStream(name string, b *eventstream.Broker) *stream {
	return &stream{
		feed: name, broker: b, window: 1, status: status{since: time.Now()},
		sent: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "relay_messages_total", Help: "Messages of this process that RabbitMQ has confirmed.", ConstLabels: prometheus.Labels{"feed": name},
		}),
	}
}

type connection struct {
	*eventstream.Conn
	confirms <-chan amqp.Confirmation
	closed   <-chan *amqp.Error
	roused   chan struct{} // signals that the connection was blocked or unblocked
}

// connect also declares the exchange, so that queues can be bound to it before the first entry.
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

func (s *stream) disconnect() {
	if s.conn != nil {
		s.conn.Drop()
		s.conn = nil
	}
}

// release closes the connection cleanly if the broker answers soon.
func (s *stream) release() {
	s.working.Lock()
	defer s.working.Unlock()
	if s.conn != nil {
		_ = s.conn.CloseDeadline(time.Now().Add(closeTimeout)) // otherwise the broker notices by itself
		s.lost(errors.New("the connection was closed"), time.Now())
		s.disconnect()
	}
}

// keep connects if that is due, and returns the current problem.
func (s *stream) keep(ctx context.Context, now time.Time) error {
	if s.working.TryLock() {
		defer s.working.Unlock()
		if c := s.conn; c != nil && c.Channel.IsClosed() {
			s.lost(c.failure(), now)
			s.disconnect()
		}
		if s.due(now) {
			_ = s.connect(ctx) // its error is in the status
		}
	}
	return s.trouble(now)
}

func (c *connection) failure() error {
	if err := <-c.closed; err != nil {
		return fmt.Errorf("the connection was lost: %w", err)
	}
	return errors.New("the connection was closed")
}

// send sends all messages from the first unconfirmed one, in order.
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
			s.disconnect() // messages under way may still arrive, and are sent again
			return err
		}
		s.count(n, time.Now())
		s.window = min(2*s.window, maxUnconfirmed)
	}
	return nil
}

// sendSome returns the number of messages that were confirmed before the first one that was not.
func (s *stream) sendSome(ctx context.Context, some []amqp.Publishing) (confirmed int, err error) {
	c := s.conn
	written := make(chan error, 1)
	go func() { // a broker that blocks the connection does not read
		var err error
		for i := 0; i < len(some) && err == nil; i++ {
			err = c.Channel.PublishWithContext(ctx, s.feed, "", false, false, some[i])
		}
		written <- err
	}()
	defer func() {
		if err != nil {
			c.Drop() // ends a write that hangs
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
				return confirmed, errors.New("RabbitMQ refused a message: a queue may be full")
			}
			confirmed++
			silent.Reset(confirmTimeout)
		case <-c.roused:
			silent.Reset(confirmTimeout)
		case <-silent.C:
			if s.isBlocked() { // the broker will report the end of it
				silent.Reset(confirmTimeout)
				continue
			}
			return confirmed, fmt.Errorf("no message was confirmed within %v", confirmTimeout)
		}
	}
	return confirmed, nil
}
