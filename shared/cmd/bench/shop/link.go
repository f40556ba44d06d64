package shop

import (
	"context"
	"errors"
	"net"
	"sync"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"
)

const (
	dialTimeout = 5 * time.Second
	redialPause = 50 * time.Millisecond
	heartbeat   = 30 * time.Second      // a machine that has much to do is no fault that was asked for
	batchDelay  = 20 * time.Millisecond // for others to come to the first of a batch
)

// A Link is a channel to the broker, made again if it was lost. (The library's own recovery keeps the deliveries of
// the old channel, whose tags the new one assigns to others: an acknowledgement would lose a message.)
type Link struct {
	url   string
	ahead int // messages that a consumer may have in its hands

	mu   sync.Mutex
	conn *amqp.Connection
	ch   *amqp.Channel
}

// NewLink returns a link that connects when it is used.
func NewLink(url string, ahead int) *Link { return &Link{url: url, ahead: ahead} }

// Channel returns the channel, on which publishings are confirmed.
func (l *Link) Channel(ctx context.Context) (*amqp.Channel, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.ch != nil && !l.ch.IsClosed() {
		return l.ch, nil
	}
	if l.conn != nil {
		_ = l.conn.CloseDeadline(time.Now())
	}
	var err error
	l.conn, err = amqp.DialConfig(l.url, amqp.Config{Heartbeat: heartbeat,
		Dial: func(network, addr string) (net.Conn, error) {
			conn, err := (&net.Dialer{Timeout: dialTimeout}).DialContext(ctx, network, addr)
			if err == nil {
				err = conn.SetDeadline(time.Now().Add(dialTimeout)) // until the handshake is done
			}
			return conn, err
		}})
	if err != nil {
		return nil, err
	}
	if l.ch, err = l.conn.Channel(); err == nil {
		err = l.ch.Confirm(false)
	}
	return l.ch, err
}

// Close closes the connection.
func (l *Link) Close() {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.conn != nil {
		_ = l.conn.CloseDeadline(time.Now().Add(time.Second))
	}
}

// Persistent is a message that outlives the broker.
func Persistent(body []byte) amqp.Publishing {
	return amqp.Publishing{DeliveryMode: amqp.Persistent, ContentType: "application/json", Body: body}
}

// ErrRefused is a message that the broker did not confirm.
var ErrRefused = errors.New("the broker did not take the message")

// Deliver publishes until the broker has confirmed it, or ctx ends. It may arrive twice.
func (l *Link) Deliver(ctx context.Context, exchange, key string, body []byte) error {
	try := func() error {
		ch, err := l.Channel(ctx)
		if err != nil {
			return err
		}
		confirmation, err := ch.PublishWithDeferredConfirmWithContext(ctx, exchange, key, true, false, Persistent(body))
		if err != nil {
			return err
		}
		if ok, err := confirmation.WaitContext(ctx); err != nil || !ok {
			return errors.Join(err, ErrRefused)
		}
		return nil
	}
	for {
		err := try()
		if err == nil {
			return nil
		}
		select {
		case <-ctx.Done():
			return err
		case <-time.After(redialPause):
		}
	}
}

// Consume hands the messages of a queue, which declare makes unless it is nil, to handle, up to `most` at a time, until
// ctx ends. It calls ready when it consumes for the first time. After a lost connection or an error of handle, what was
// not acknowledged comes again.
func (l *Link) Consume(ctx context.Context, queue string, most int, declare func(*amqp.Channel) error, ready func(),
	handle func([]amqp.Delivery) error) error {
	defer l.Close()
	for {
		messages, err := l.messages(ctx, queue, declare)
		if err != nil && ready != nil && ctx.Err() == nil {
			return err // the start fails
		}
		if err == nil {
			if ready != nil {
				ready()
				ready = nil
			}
			for batch := next(ctx, messages, most); len(batch) > 0 && handle(batch) == nil; {
				batch = next(ctx, messages, most)
			}
			l.Close()
		}
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(redialPause):
		}
	}
}

func (l *Link) messages(ctx context.Context, queue string, declare func(*amqp.Channel) error) (<-chan amqp.Delivery,
	error) {
	ch, err := l.Channel(ctx)
	if err == nil && declare != nil {
		err = declare(ch)
	}
	if err == nil {
		err = ch.Qos(l.ahead, 0, false)
	}
	if err != nil {
		return nil, err
	}
	return ch.Consume(queue, "", false, false, false, false, nil)
}

// next waits for a message, and only a moment for others, up to most; or returns none if ctx is done or the connection
// lost.
func next(ctx context.Context, messages <-chan amqp.Delivery, most int) (batch []amqp.Delivery) {
	var late <-chan time.Time
	for len(batch) < most {
		select {
		case <-ctx.Done():
			return batch
		case <-late:
			return batch
		case m, ok := <-messages:
			if !ok {
				return nil
			}
			if batch = append(batch, m); late == nil && most > 1 {
				late = time.After(batchDelay)
			}
		}
	}
	return batch
}
