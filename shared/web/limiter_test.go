package web

import (
	"net"
	"net/http/httptest"
	"strconv"
	"testing"
	"testing/synctest"
	"time"
)

func TestLimiter(t *testing.T) {
	t.Parallel()
	allowed := func(l *Limiter, key string, units, times int) (n int) {
		for range times {
			if _, ok := l.Allow(key, units); ok {
				n++
			}
		}
		return n
	}
	t.Run("a burst, then so many a second", func(t *testing.T) {
		t.Parallel()
		synctest.Test(t, func(t *testing.T) {
			l := NewLimiter(20, 100)
			if n := allowed(l, "a", 1, 1000); n != 100 {
				t.Errorf("a burst of %d", n)
			}
			if after, ok := l.Allow("a", 1); ok || after != 50*time.Millisecond {
				t.Errorf("%v %t", after, ok)
			}
			if after, ok := l.Allow("a", 10); ok || after != 500*time.Millisecond {
				t.Errorf("what is refused is taken: %v %t", after, ok)
			}
			if n := allowed(l, "b", 1, 1000); n != 100 {
				t.Errorf("another client has %d", n)
			}
			time.Sleep(time.Second)
			if n := allowed(l, "a", 2, 1000); n != 10 {
				t.Errorf("a second later it has %d of 2 units", n)
			}
			time.Sleep(time.Hour)
			if n := allowed(l, "a", 1000, 2); n != 1 {
				t.Errorf("%d times more than a burst", n)
			}
		})
	})
	t.Run("it forgets whom it has not seen for the longest", func(t *testing.T) {
		t.Parallel()
		synctest.Test(t, func(t *testing.T) {
			l := NewLimiter(1, 1)
			for i := range 3 * maxClients {
				allowed(l, "busy", 1, 1)
				allowed(l, strconv.Itoa(i), 1, 1)
			}
			if n := l.buckets.Len(); n != maxClients {
				t.Errorf("it remembers %d", n)
			}
			if allowed(l, "busy", 1, 1) != 0 {
				t.Error("it forgot one that is there all the time")
			}
		})
	})
}

func TestClientKey(t *testing.T) {
	t.Parallel()
	for peer, want := range map[string]string{
		"192.0.2.7:1234":                 "192.0.2.7",
		"[::ffff:192.0.2.7]:1":           "192.0.2.7",
		"[2001:db8:1:2:3:4:5:6]:1":       "2001:db8:1:2::",
		"[2001:db8:1:2::]:1":             "2001:db8:1:2::",
		"[2001:db8:1:3:3:4:5:6]:1":       "2001:db8:1:3::",
		"[fe80::1%eth0]:1":               "fe80::",
		"a socket without an address :1": "",
	} {
		r := httptest.NewRequest("GET", "/", nil)
		r.RemoteAddr = peer
		if got := ClientKey(r); got != want {
			t.Errorf("%s: %q, want %q", peer, got, want)
		}
		host, _, _ := net.SplitHostPort(peer)
		r.RemoteAddr = "198.51.100.1:1"
		if got := ClientKey(WithClient(r, &Client{Addr: func() string { return host }})); got != want {
			t.Errorf("%s behind a proxy: %q, want %q", peer, got, want)
		}
		if got := ClientKey(WithClient(r, &Client{Reader: "warehouse"})); got != "warehouse" {
			t.Errorf("a reader from %s: %q", peer, got)
		}
	}
}
