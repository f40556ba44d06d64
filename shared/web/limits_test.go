package web

import (
	"errors"
	"strconv"
	"strings"
	"sync"
	"testing"
)

func TestBound(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]Bound{
		"1000": {1000, 250}, "1000/1000": {1000, 1000}, "3": {3, 1}, "1/1": {1, 1},
		"": {}, "0": {}, "-1": {}, "10/11": {}, "10/0": {}, "10/": {}, "/10": {}, "1/2/3": {}, "many": {}, "1e3": {}, "99999999999": {},
	} {
		var b Bound
		if err := b.UnmarshalText([]byte(text)); b != want || (err == nil) != (want != Bound{}) {
			t.Errorf("%q is %v, %v", text, b, err)
		}
	}
}

// Whatever the limit of open files is, some of it remains for clients that hold nothing, and for what no client has.
func TestLimitsFollowOpenFiles(t *testing.T) {
	t.Parallel()
	for _, files := range []int{64, 256, 600, 1024, 20_000, 1 << 20, 1 << 24} {
		connections := maxConnections(files)
		waiting, streams := quarters(min(connections/2, 20_000)), quarters(min(connections/8, 4000))
		if rest := files - connections; rest < min(64, files/2) || connections-waiting.All-streams.All < files/8 || waiting.Client < 4 {
			t.Errorf("%d files: %d connections, of which wait %v, stream %v", files, connections, waiting, streams)
		}
	}
	l, err := Limits{}.Complete()
	if err != nil || l.Waiting.All < 1 || l.Streams.All < 1 || l.Rendering < 1 {
		t.Errorf("%+v, %v", l, err)
	}
	l = Limits{Waiting: Bound{7, 3}, Streams: Bound{5, 2}, Rendering: 9}
	if same, err := l.Complete(); err != nil || same != l {
		t.Errorf("%+v, %v", same, err)
	}
	if _, err := (Limits{Waiting: Bound{1 << 30, 1}}).Complete(); err == nil || !strings.Contains(err.Error(), "limit of open files") {
		t.Error("more connections than files:", err)
	}
	if _, err := (Limits{Rendering: -1}).Complete(); err == nil {
		t.Error("less than nothing is rendered at once")
	}
}

func TestSlots(t *testing.T) {
	t.Parallel()
	client := func(n int) string { return "192.0.2." + strconv.Itoa(n) }
	s := NewSlots("event streams", Bound{All: 5, Client: 2})
	var held []func()
	for _, x := range []struct{ client, status int }{{1, 0}, {1, 0}, {1, 429}, {2, 0}, {3, 0}, {3, 0}, {3, 429}, {4, 503}, {2, 503}} {
		release, err := s.Take(client(x.client))
		if x.status == 0 && err == nil {
			held = append(held, release)
		} else if p, ok := errors.AsType[*Problem](err); x.status == 0 || !ok || p.Status != x.status || p.Header.Get("Retry-After") == "" {
			t.Errorf("client %d: %v, want %d", x.client, err, x.status)
		}
	}
	held[0]()
	if _, err := s.Take(client(4)); err != nil {
		t.Error("a slot was given back:", err)
	}
	for _, release := range held[1:] {
		release()
	}
	if s.Taken() != 1 || len(s.byName) != 1 {
		t.Errorf("%d are taken by %v", s.Taken(), s.byName)
	}

	t.Run("many at once", func(t *testing.T) {
		s := NewSlots("things", Bound{All: 50, Client: 10})
		var all sync.WaitGroup
		for i := range 200 {
			all.Go(func() {
				for range 100 {
					if release, err := s.Take(client(i % 10)); err == nil {
						if n := s.Taken(); n > 50 {
							t.Errorf("%d of 50", n)
						}
						release()
					}
				}
			})
		}
		all.Wait()
		if s.Taken() != 0 || len(s.byName) != 0 {
			t.Errorf("%d are left: %v", s.Taken(), s.byName)
		}
	})
}
