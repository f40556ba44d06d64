// Package eventstream defines the messages of an event stream beside a feed, and the queue from which a reader receives
// them. The feed remains the record; the stream has new entries sooner.
package eventstream

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"
)

const (
	connectTimeout = 5 * time.Second
	heartbeat      = 5 * time.Second  // a broker that is silent for three of them counts as down
	maxDelay       = 30 * time.Second // between two tries to connect
)

// A Broker is the address of a RabbitMQ.
type Broker struct {
	url   string
	Shown string // without the password
}

// UnmarshalText reads the URL of a RabbitMQ: amqp://user:password@host:5672/vhost, or amqps://... for TLS. Errors do
// not repeat it.
func (b *Broker) UnmarshalText(text []byte) error {
	uri, err := amqp.ParseURI(string(text))
	if err != nil { // its text may contain the password
		return errors.New("takes the URL of a RabbitMQ, such as amqp://localhost:5672/vhost, or amqps:// for TLS")
	}
	b.url = string(text)
	uri.Password = ""
	b.Shown = fmt.Sprintf("%s://%s@%s:%d/%s", uri.Scheme, uri.Username, uri.Host, uri.Port, uri.Vhost)
	if uri.Vhost == "/" {
		b.Shown = b.Shown[:len(b.Shown)-1]
	}
	return nil
}

// A Conn is a connection to a broker with one channel.
type Conn struct {
	*amqp.Connection
	Channel *amqp.Channel
	raw     net.Conn
}

// Connect returns a connection prepared by setUp, within five seconds. The broker shows it under name.
func (b *Broker) Connect(ctx context.Context, name string, setUp func(*amqp.Channel) error) (*Conn, error) {
	ctx, cancel := context.WithTimeout(ctx, connectTimeout)
	defer cancel()
	c := new(Conn)
	var err error
	c.Connection, err = amqp.DialConfig(b.url, amqp.Config{
		Heartbeat: heartbeat, Properties: amqp.Table{"connection_name": name},
		Dial: func(network, addr string) (conn net.Conn, err error) {
			if conn, err = new(net.Dialer).DialContext(ctx, network, addr); err == nil {
				c.raw = conn
				err = conn.SetDeadline(time.Now().Add(connectTimeout)) // until the handshake is complete
			}
			return conn, err
		},
	})
	if err != nil {
		return nil, fmt.Errorf("connect: %w", err)
	}
	defer context.AfterFunc(ctx, c.Drop)()
	if c.Channel, err = c.Connection.Channel(); err == nil {
		err = setUp(c.Channel)
	}
	if err != nil {
		c.Drop()
		return nil, err
	}
	return c, nil
}

// Drop ends the connection at once, even if it hangs.
func (c *Conn) Drop() { c.raw.Close() }

// Backoff returns the pause after the given number of failures in a row, 1 or more: up to 30 s, with jitter.
func Backoff(failures int) time.Duration {
	d := min(time.Second<<min(failures-1, 10), maxDelay)
	return d/2 + rand.N(d/2+1)
}
