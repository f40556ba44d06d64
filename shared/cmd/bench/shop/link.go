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
	heartbeat   = 30 * time.Second // a machine that has much to do is no fault that was asked for
)

// A link is a channel to the broker, made anew where it was lost. (The library's own recovery keeps the deliveries of the old channel,
// whose tags the new one gives to others: an acknowledgement would lose a message.)
type link struct {
	url   string
	ahead int // messages that a consumer may have in its hands

	mu   sync.Mutex
	conn *amqp.Connection
	ch   *amqp.Channel
}

func newLink(url string, ahead int) *link { return &link{url: url, ahead: ahead} }

// channel gives the channel, on which publishings are confirmed.
func (l *link) channel(ctx context.Context) (*amqp.Channel, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.ch != nil && !l.ch.IsClosed() {
		return l.ch, nil
	}
	if l.conn != nil {
		_ = l.conn.CloseDeadline(time.Now())
	}
	var err error
	l.conn, err = amqp.DialConfig(l.url, amqp.Config{Heartbeat: heartbeat, Dial: func(network, addr string) (net.Conn, error) {
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

func (l *link) close() {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.conn != nil {
		_ = l.conn.CloseDeadline(time.Now().Add(time.Second))
	}
}

func persistent(body []byte) amqp.Publishing {
	return amqp.Publishing{DeliveryMode: amqp.Persistent, ContentType: "application/json", Body: body}
}

var errRefused = errors.New("the broker did not take the message")

// deliver publishes until the broker has confirmed it, or ctx ends. It may arrive twice.
func (l *link) deliver(ctx context.Context, exchange, key string, body []byte) error {
	try := func() error {
		ch, err := l.channel(ctx)
		if err != nil {
			return err
		}
		confirmation, err := ch.PublishWithDeferredConfirmWithContext(ctx, exchange, key, true, false, persistent(body))
		if err != nil {
			return err
		}
		if ok, err := confirmation.WaitContext(ctx); err != nil || !ok {
			return errors.Join(err, errRefused)
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

// consume hands the messages of a queue to handle, one at a time, until ctx ends; declare makes the queue. ready is called when
// it consumes for the first time. Whatever has not been acknowledged when the connection is lost comes again.
func (l *link) consume(ctx context.Context, queue string, declare func(*amqp.Channel) error, ready func(), handle func(amqp.Delivery) error) error {
	defer l.close()
	for {
		messages, err := l.messages(ctx, queue, declare)
		if err != nil && ready != nil && ctx.Err() == nil {
			return err // at the start somebody looks
		}
		if err == nil {
			if ready != nil {
				ready()
				ready = nil
			}
			_ = handleAll(ctx, messages, handle) // by an error the connection is lost, or made anew
			l.close()
		}
		if ctx.Err() != nil {
			return nil
		}
		select {
		case <-ctx.Done():
		case <-time.After(redialPause):
		}
	}
}

func (l *link) messages(ctx context.Context, queue string, declare func(*amqp.Channel) error) (<-chan amqp.Delivery, error) {
	ch, err := l.channel(ctx)
	if err == nil {
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

func handleAll(ctx context.Context, messages <-chan amqp.Delivery, handle func(amqp.Delivery) error) error {
	for {
		select {
		case <-ctx.Done():
			return nil
		case m, ok := <-messages:
			if !ok {
				return errors.New("the connection was lost")
			}
			if err := handle(m); err != nil {
				return err
			}
		}
	}
}
