package relay

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"

	"github.com/edison-cars/data-feeds/shared/daemon"
	"github.com/edison-cars/data-feeds/shared/eventstream"
	"github.com/edison-cars/data-feeds/shared/subscribe"
)

// A connection that is cut in the middle of a page, at any byte: every entry arrives, and first in order.
func TestConnectionCut(t *testing.T) {
	t.Parallel()
	b := sharedBroker(t)
	for i, cut := range []int{1, 300, 500, 5_000, 20_000, 50_000} { // in the handshake, and in the pages
		t.Run(fmt.Sprint(cut), func(t *testing.T) {
			t.Parallel()
			s := newSource(t, fmt.Sprint("cut-", i))
			q := listen(t, at(b.URL), s.name)
			s.put(t, 1, 200, 300)
			through := newProxy(t, b.Addr, cut)
			s.relay(t, newDatabase(t), through.url, nil)
			n := q.wantAll(t, s, 1)
			if !through.hasCut() {
				t.Fatal("nothing was cut")
			}
			t.Logf("%d messages of 200 entries", n)
		})
	}
}

// The password reaches no error of the settings and no address that is shown.
func TestPassword(t *testing.T) {
	t.Parallel()
	for _, url := range []string{"amqp://u:hunter2@h:port", "http://u:hunter2@h/", "amqp://u:hunter2@h:1/%zz", "hunter2", "amqp://u:hunter2@h,/", "amqp://u:hunter2@h:1,h:port"} {
		err := daemon.Parse(map[string]string{"AMQP_URL": url}, new(settings))
		if !errors.Is(err, daemon.ErrUsage) || strings.Contains(err.Error(), "hunter2") || !strings.Contains(err.Error(), "AMQP_URL: takes the URL") {
			t.Error(err)
		}
	}
	for url, want := range map[string]string{
		"amqp://u:hunter2@h":              "amqp://u@h:5672/",
		"amqps://u:hunter2@h:1/cars":      "amqps://u@h:1/cars",
		"amqp://u:hunter2@h:1/%2f":        "amqp://u@h:1/",
		"":                                "amqp://guest@localhost:5672/",
		"amqp://u:hunter2@h/?x=hunter2#y": "amqp://u@h:5672/",
		"amqp://u:hunter2,@a,b:1/cars":    "amqp://u@a:5672,b:1/cars",
		"amqps://u:hunter2@[::1],b?x=,":   "amqps://u@[::1]:5671,b:5671/",
	} {
		var set settings
		if err := daemon.Parse(map[string]string{"AMQP_URL": url}, &set); err != nil || set.Broker.Shown != want {
			t.Errorf("%s is shown as %s, %v; not as %s", url, set.Broker.Shown, err, want)
		}
	}
}

// A broker that does not know the password is told of without it, as one that is not there; the service serves all the
// same.
func TestRefused(t *testing.T) {
	t.Parallel()
	b := sharedBroker(t)
	for name, url := range map[string]string{"wrong-password": "amqp://guest:hunter2@" + b.Addr + "/", "nobody": "amqp://guest:hunter2@127.0.0.1:1/"} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := newSource(t, name)
			s.put(t, 1, 3, 10)
			p := s.relay(t, newDatabase(t), url, nil)
			eventually(t, "it says that it is not connected", func() bool {
				v := p.stream(t)
				return v.State == away && v.Detail != nil && v.PendingSince != nil && strings.Contains(p.Log(t), "level=WARN")
			})
			for _, path := range []string{"/", "/subscriptions", "/api/relay", "/metrics", "/readyz"} {
				if status, text := p.Get(t, path, "text/html"); status != http.StatusOK || strings.Contains(text, "hunter2") {
					t.Errorf("%s: %d %s", path, status, text)
				}
			}
			if p.metric(t, "relay_connected") != 0 || p.metric(t, "relay_unconfirmed_seconds") <= 0 {
				t.Error("the metrics do not say it")
			}
		})
	}
}

// An exchange that somebody has made otherwise is told of, not taken.
func TestExchangeOfAnotherKind(t *testing.T) {
	t.Parallel()
	b := sharedBroker(t)
	s := newSource(t, "another-kind")
	conn, err := amqp.Dial(b.URL)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	ch, err := conn.Channel()
	if err == nil {
		err = ch.ExchangeDeclare(s.name, "topic", true, false, false, false, nil)
	}
	if err != nil {
		t.Fatal(err)
	}
	s.put(t, 1, 3, 10)
	p := s.relay(t, newDatabase(t), b.URL, nil)
	eventually(t, "it says what is wrong", func() bool {
		v := p.stream(t)
		return v.Detail != nil && strings.Contains(*v.Detail, "PRECONDITION_FAILED")
	})
	if err := ch.ExchangeDelete(s.name, false, false); err != nil {
		t.Fatal(err)
	}
	eventually(t, "it goes on", func() bool {
		v := p.stream(t)
		return v.State == connected && v.Detail == nil && v.Messages == 3 && v.Position == 3
	})
	q := listen(t, at(b.URL), s.name)
	p.Post(t, "/subscriptions/"+s.name+"/resync")
	q.wantAll(t, s, 2)
}

// A broker that sends heartbeats and nothing else, as one may whose queues have no quorum, holds up neither a queue nor
// a stop.
func TestHeartbeatsAlone(t *testing.T) {
	t.Parallel()
	b := sharedBroker(t)
	through := newProxy(t, b.Addr, 0)
	var broker eventstream.Broker
	if err := broker.UnmarshalText([]byte(through.url)); err != nil {
		t.Fatal(err)
	}
	q := eventstream.Queue{Broker: broker, Feed: "heartbeats", Name: "heartbeats-alone", Logger: slog.New(slog.DiscardHandler)}
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan struct{})
	go func() { defer close(ended); q.Listen(ctx, make(chan subscribe.Message)) }()
	p := newSource(t, "heartbeats").relay(t, newDatabase(t), through.url, nil)
	for _, silent := range []bool{false, true, false} {
		through.silent.Store(silent)
		eventually(t, "the queue says how it is", func() bool { return q.Connection().Listening != silent })
	}
	eventually(t, "the relay is connected", func() bool { return p.stream(t).State == connected })
	through.silent.Store(true)
	cancel()
	p.Interrupt(t)
	p.Ends(t)
	<-ended
}

// A proxy stands between a relay and the broker.
type proxy struct {
	url    string
	silent atomic.Bool // nothing passes, and the relay gets heartbeats
	mu     sync.Mutex
	cut    int // after so many bytes from the relay its connection is cut, once; 0: it is not
	was    bool
}

func newProxy(t *testing.T, to string, cut int) *proxy {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	p := &proxy{url: "amqp://guest:guest@" + ln.Addr().String() + "/", cut: cut}
	var all sync.WaitGroup
	all.Go(func() {
		for {
			client, err := ln.Accept()
			if err != nil {
				return
			}
			server, err := net.Dial("tcp", to)
			if err != nil {
				client.Close()
				continue
			}
			all.Go(func() { p.answer(client, server) })
			all.Go(func() { p.pass(client, server) })
		}
	})
	t.Cleanup(func() { ln.Close(); all.Wait() })
	return p
}

func (p *proxy) pass(client, server net.Conn) {
	defer server.Close()
	defer client.Close()
	p.mu.Lock()
	cut := p.cut
	p.cut = 0
	p.mu.Unlock()
	if cut == 0 {
		_, _ = io.Copy(loud{server, &p.silent}, client)
		return
	}
	_, _ = io.CopyN(server, client, int64(cut))
	p.mu.Lock()
	defer p.mu.Unlock()
	p.was = true
}

// answer passes what the broker sends, a frame at a time (AMQP 0-9-1, 4.2.3).
func (p *proxy) answer(client, server net.Conn) {
	defer client.Close()
	heartbeat := []byte{8, 0, 0, 0, 0, 0, 0, 0xce}
	for {
		frame := make([]byte, 7)
		if _, err := io.ReadFull(server, frame); err != nil && !p.silent.Load() {
			return
		}
		for ; p.silent.Load(); time.Sleep(100 * time.Millisecond) {
			if _, err := client.Write(heartbeat); err != nil {
				return
			}
		}
		size := binary.BigEndian.Uint32(frame[3:])
		if _, err := client.Write(frame); err != nil {
			return
		}
		if _, err := io.CopyN(client, server, int64(size)+1); err != nil {
			return
		}
	}
}

// A loud writes what it is given, unless its proxy is silent.
type loud struct {
	io.Writer
	silent *atomic.Bool
}

func (w loud) Write(b []byte) (int, error) {
	if w.silent.Load() {
		return len(b), nil
	}
	return w.Writer.Write(b)
}

func (p *proxy) hasCut() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.was
}
