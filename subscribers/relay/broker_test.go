package relay

import (
	"context"
	"os"
	"strings"
	"sync"
	"syscall"
	"testing"

	"github.com/edison-cars/data-feeds/shared/dev/rabbitmq"
	"github.com/edison-cars/data-feeds/shared/postgres/pgtest"
)

// A machine is a broker of one test alone, which does it harm.
type machine struct {
	dir, addr string
	mu        sync.Mutex
	server    *rabbitmq.Server
}

func newMachine(t *testing.T) *machine {
	t.Helper()
	pgtest.Slow(t, "RabbitMQ")
	if _, err := rabbitmq.Find(); err != nil {
		t.Skip(err)
	}
	dir, err := os.MkdirTemp("", "edison-relay-") // removed after the cleanups of the test
	if err != nil {
		t.Fatal(err)
	}
	m := &machine{dir: dir}
	t.Cleanup(func() {
		_ = m.server.Signal(syscall.SIGCONT)
		m.server.Kill()
		os.RemoveAll(dir)
	})
	m.start(t)
	m.addr = m.server.Addr
	return m
}

// start starts it where it was.
func (m *machine) start(t *testing.T) {
	t.Helper()
	s, err := rabbitmq.Start(context.Background(), rabbitmq.Config{Dir: m.dir, Addr: m.addr})
	if err != nil {
		t.Fatal(err)
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	m.server = s
}

func (m *machine) url() string {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.server.URL
}

// A broker may be killed, hang, or be short of memory: the relay says so, serves, and goes on when the broker does; and
// each entry arrives, first in order.
func TestBrokerFaults(t *testing.T) {
	t.Parallel()
	m := newMachine(t)
	s := newSource(t, "faults")
	q := listen(t, m.url, s.name)
	p := s.relay(t, newDatabase(t), m.url(), nil)
	s.put(t, 1, 150, 100)
	q.wantAll(t, s, 1)

	t.Run("killed, and started again", func(t *testing.T) {
		s.put(t, 1, 400, 100)
		m.server.Kill()
		s.put(t, 1, 50, 100)
		eventually(t, "the relay says so", func() bool {
			v := p.stream(t)
			return v.State == away && v.Detail != nil && v.PendingSince != nil && p.metric(t, "relay_connected") == 0
		})
		if status, page := p.Get(t, "/", "text/html"); status != 200 || !strings.Contains(page, "not connected") || !strings.Contains(page, "nothing is lost") {
			t.Errorf("%d %s", status, page)
		}
		m.start(t)
		q.wantAll(t, s, 1)
	})

	t.Run("killed while there is nothing new", func(t *testing.T) {
		eventually(t, "all is confirmed", func() bool { return p.stream(t).PendingSince == nil })
		m.server.Kill()
		eventually(t, "the relay says so", func() bool { return p.stream(t).State == away })
		m.start(t)
		eventually(t, "the relay is connected", func() bool { return p.stream(t).State == connected && p.stream(t).Detail == nil })
	})

	t.Run("short of memory", func(t *testing.T) {
		if _, err := m.server.Ctl(t.Context(), "set_vm_memory_high_watermark", "absolute", "1"); err != nil {
			t.Fatal(err)
		}
		before := p.stream(t).Position
		s.put(t, 1, 120, 100)
		eventually(t, "the relay says so", func() bool {
			v := p.stream(t)
			return v.State == blocked && v.Detail != nil && strings.Contains(*v.Detail, "it takes no message") && p.metric(t, "relay_blocked") == 1
		})
		eventually(t, "its age grows", func() bool { return p.metric(t, "relay_unconfirmed_seconds") > 2 })
		if n := p.metric(t, "subscription_lag_entries"); n == 0 {
			t.Error("by the lag nothing is left")
		}
		eventually(t, "the log says so", func() bool { return strings.Contains(p.Log(t), "it takes no message") })
		if v := p.stream(t); v.Position != before {
			t.Errorf("%d entries were confirmed meanwhile", v.Position-before)
		}
		if _, err := m.server.Ctl(t.Context(), "set_vm_memory_high_watermark", "0.9"); err != nil {
			t.Fatal(err)
		}
		if n, had := q.wantAll(t, s, 1), len(s.history); n < had {
			t.Errorf("%d messages of %d entries", n, had)
		}
		if p.metric(t, "relay_blocked") != 0 {
			t.Error("it still says that it is blocked")
		}
	})

	t.Run("stopped in good order while the broker is short of memory", func(t *testing.T) {
		if _, err := m.server.Ctl(t.Context(), "set_vm_memory_high_watermark", "absolute", "1"); err != nil {
			t.Fatal(err)
		}
		other := newSource(t, "stopped")
		heard := listen(t, m.url, other.name)
		db := newDatabase(t)
		first := other.relay(t, db, m.url(), nil)
		other.put(t, 1, 20, 100)
		eventually(t, "it is blocked", func() bool { return first.stream(t).State == blocked })
		first.Interrupt(t)
		first.Ends(t)
		if _, err := m.server.Ctl(t.Context(), "set_vm_memory_high_watermark", "0.9"); err != nil {
			t.Fatal(err)
		}
		other.relay(t, db, m.url(), nil)
		heard.wantAll(t, other, 1)
	})

	t.Run("hanging", func(t *testing.T) {
		if err := m.server.Signal(syscall.SIGSTOP); err != nil {
			t.Fatal(err)
		}
		s.put(t, 1, 120, 100)
		eventually(t, "the connection counts as lost", func() bool { return p.stream(t).State == away })
		if err := m.server.Signal(syscall.SIGCONT); err != nil {
			t.Fatal(err)
		}
		q.wantAll(t, s, 1)
	})
}
