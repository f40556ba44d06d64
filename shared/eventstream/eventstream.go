// Package eventstream defines the messages of an event stream beside a feed, and the queue from which a reader receives
// them. The feed remains the record; the stream has new entries sooner.
package eventstream

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"strconv"
	"strings"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"
)

const (
	connectTimeout = 5 * time.Second
	heartbeat      = 5 * time.Second  // a broker that is silent for three of them counts as down
	maxDelay       = 30 * time.Second // between two tries to connect
)

// A Broker is the address of a RabbitMQ: of one node, or of several nodes of a cluster.
type Broker struct {
	urls  []string // one per node
	Shown string   // without the password
}

// UnmarshalText reads the URL of a RabbitMQ: amqp://user:password@host:5672/vhost, or amqps://... for TLS. A cluster has
// its hosts separated by commas, each with its port. Errors do not repeat the URL.
func (b *Broker) UnmarshalText(text []byte) error {
	before, hosts, after := cutHosts(string(text))
	b.urls = nil
	var shown []string
	var uri amqp.URI
	for host := range strings.SplitSeq(hosts, ",") {
		var err error
		if uri, err = amqp.ParseURI(before + host + after); err != nil || host == "" && hosts != "" { // its text may contain the password
			return errors.New("takes the URL of a RabbitMQ, such as amqp://localhost:5672/vhost, or amqps:// for TLS; " +
				"of a cluster amqp://one:5672,two:5672/vhost")
		}
		b.urls = append(b.urls, before+host+after)
		shown = append(shown, net.JoinHostPort(uri.Host, strconv.Itoa(uri.Port)))
	}
	b.Shown = fmt.Sprintf("%s://%s@%s/", uri.Scheme, uri.Username, strings.Join(shown, ","))
	if uri.Vhost != "/" {
		b.Shown += uri.Vhost
	}
	return nil
}

// cutHosts returns the hosts of a URL, and what is before and after them.
func cutHosts(url string) (before, hosts, after string) {
	start := strings.Index(url, "://")
	if start < 0 {
		return url, "", ""
	}
	start += len("://")
	end := len(url)
	if i := strings.IndexAny(url[start:], "/?#"); i >= 0 {
		end = start + i
	}
	start += strings.LastIndex(url[start:end], "@") + 1
	return url[:start], url[start:end], url[end:]
}

// A Conn is a connection to a broker with one channel.
type Conn struct {
	*amqp.Connection
	Channel *amqp.Channel
	raw     net.Conn
}

// Connect returns a connection to one of the nodes, prepared by setUp, within five seconds per node. It begins with a
// random node, so that a reader does not return for ever to one that accepts connections and confirms nothing. The
// broker shows the connection under name.
func (b *Broker) Connect(ctx context.Context, name string, setUp func(*amqp.Channel) error) (*Conn, error) {
	errs := make([]error, len(b.urls)) // in the order of the URL, so that equal ones read the same
	for i, first := 0, rand.IntN(len(b.urls)); i < len(b.urls) && ctx.Err() == nil; i++ {
		node := (first + i) % len(b.urls)
		conn, err := connect(ctx, b.urls[node], name, setUp)
		if err == nil {
			return conn, nil
		}
		errs[node] = err
	}
	return nil, cmp.Or(errors.Join(errs...), ctx.Err())
}

func connect(ctx context.Context, url, name string, setUp func(*amqp.Channel) error) (*Conn, error) {
	ctx, cancel := context.WithTimeout(ctx, connectTimeout)
	defer cancel()
	c := new(Conn)
	var err error
	c.Connection, err = amqp.DialConfig(url, amqp.Config{
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
