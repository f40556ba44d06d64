package subscribe

import (
	"context"
	"errors"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/edison-cars/data-feeds/shared/feedclient"
	"github.com/edison-cars/data-feeds/shared/postgres/pgtest"
)

// waiting is a poller that runs and whose requests wait 25 s at the source; its schedule alone would poll twice a year.
func waiting(t *testing.T, s *source) *copier {
	t.Helper()
	c := newCopier(t, s)
	schedule, err := ParseSchedule("0 0 1 */6 *", "test")
	if err != nil {
		t.Fatal(err)
	}
	c.state.given.schedule, c.state.given.wait = schedule, 25*time.Second
	c.state.tuned = c.state.given
	ctx, stop := context.WithCancel(t.Context())
	stopped := make(chan struct{})
	go func() {
		defer close(stopped)
		c.run(ctx)
	}()
	t.Cleanup(func() {
		stop()
		if err := opened(stopped); err != nil {
			t.Error("it does not stop while a request waits: ", err)
		}
	})
	eventually(t, "it runs", func() bool { return !c.shows().Standby })
	return c
}

// holds tells whether a request waits.
func (c *copier) holds() bool {
	c.requests.mu.Lock()
	defer c.requests.mu.Unlock()
	return c.requests.interrupt != nil
}

func (c *copier) shows() Status { return c.status(time.Now()) }

// at is the position that the process itself knows of.
func (c *copier) at() int64 { return c.shows().Cursor.Position }

func TestWaiting(t *testing.T) {
	t.Parallel()
	pgtest.Slow(t, "many databases")

	t.Run("one request for each piece of news, and none while there is none", func(t *testing.T) {
		t.Parallel()
		s := newSource(t)
		s.put(t, 1, 3)
		c := waiting(t, s)
		for n := 4; n <= 23; n++ {
			eventually(t, "a request waits", c.holds)
			s.put(t, n, n)
			eventually(t, "the news is there", func() bool { return c.at() == int64(n) })
		}
		eventually(t, "a request waits", c.holds)
		c.wantUpToDate(t, s)
		// The first poll, one each, and the full pages 10 and 20 have one behind them.
		if n := len(s.exchanges()); n < 21 || n > 24 {
			t.Errorf("%d requests for 20 pieces of news", n)
		}
		if shown := c.shows(); shown.State != Fresh {
			t.Errorf("it shows %+v", shown)
		}
	})

	t.Run("a poll, a pause and a setting that come before the request does end it, too", func(t *testing.T) {
		t.Parallel()
		s := newSource(t)
		s.put(t, 1, 3)
		c := waiting(t, s)
		soon, cancel := context.WithTimeout(t.Context(), 20*time.Second)
		defer cancel()
		for range 200 { // at any moment of a poll
			if err := c.requests.pollNow(soon); err != nil {
				t.Fatal(err)
			}
		}
		eventually(t, "a request waits", c.holds)
		if err := c.row.set(t.Context(), "wait_seconds = 20"); err != nil {
			t.Fatal(err)
		}
		eventually(t, "the next request waits as was set", func() bool { return c.shows().Wait == "20s" && c.holds() })
		if err := c.row.set(t.Context(), "paused = true"); err != nil {
			t.Fatal(err)
		}
		eventually(t, "the pause ends the wait", func() bool { return !c.holds() && c.shows().State == Paused })
		s.put(t, 4, 4)
		if err := c.requests.pollNow(t.Context()); err != nil { // which a pause does not forbid
			t.Fatal(err)
		}
		c.wantUpToDate(t, s)
		if c.holds() || c.shows().State != Paused {
			t.Errorf("it shows %+v", c.shows())
		}
		s.put(t, 5, 5)
		if err := c.row.set(t.Context(), "paused = false"); err != nil {
			t.Fatal(err)
		}
		eventually(t, "it goes on", func() bool { return c.at() == 5 })
	})

	t.Run("a source that does not wait is asked on schedule", func(t *testing.T) {
		t.Parallel()
		s := newSource(t)
		s.put(t, 1, 3)
		s.setTamper(func(w http.ResponseWriter, r *http.Request, honest http.Handler) {
			r.Header.Del("Prefer")
			honest.ServeHTTP(w, r)
		})
		c := waiting(t, s)
		c.wantOnSchedule(t, s)
	})

	t.Run("one that promises to wait, and does not, is asked on schedule", func(t *testing.T) {
		t.Parallel()
		s := newSource(t)
		s.put(t, 1, 3)
		s.setTamper(func(w http.ResponseWriter, r *http.Request, honest http.Handler) {
			if r.Header.Get("Prefer") != "" {
				w.Header().Set("Preference-Applied", "wait=25")
			}
			r.Header.Del("Prefer")
			honest.ServeHTTP(w, r)
		})
		c := waiting(t, s)
		c.wantOnSchedule(t, s)
	})

	t.Run("a source that dies while a request waits, and comes back", func(t *testing.T) {
		t.Parallel()
		s := newSource(t)
		s.put(t, 1, 3)
		c := waiting(t, s)
		eventually(t, "a request waits", c.holds)
		addr := s.Listener.Addr().String()
		s.Listener.Close()
		eventually(t, "the death is noticed", func() bool {
			s.CloseClientConnections() // the request may be on its way
			return c.shows().LastError != nil
		})
		s.put(t, 4, 4)
		s.serve(t, addr)
		eventually(t, "it goes on", func() bool { return c.at() == 4 })
		eventually(t, "a request waits again", c.holds)
		if shown := c.shows(); shown.State != Fresh || shown.LastError != nil {
			t.Errorf("it shows %+v", shown)
		}
		c.wantUpToDate(t, s)
	})
}

// wantOnSchedule fails the test if the source is asked more than a few times.
func (c *copier) wantOnSchedule(t *testing.T, s *source) {
	t.Helper()
	eventually(t, "the next poll is half a year away", func() bool {
		c.poller.state.mu.Lock()
		defer c.poller.state.mu.Unlock()
		return c.state.nextPoll.After(time.Now().Add(time.Minute))
	})
	if n := len(s.exchanges()); n > 4 {
		t.Errorf("it asked %d times", n)
	}
	s.put(t, 4, 4)
	if err := c.requests.pollNow(t.Context()); err != nil {
		t.Error(err)
	}
	c.wantUpToDate(t, s)
	if c.holds() {
		t.Error("a request waits")
	}
}

// A copy is fresh while the source holds its request, from the first one on, and for no longer.
func TestStaleWhileWaiting(t *testing.T) {
	t.Parallel()
	s := newSource(t)
	s.put(t, 1, 1)
	c := newCopier(t, s)
	c.state.given.wait = 25 * time.Second
	c.state.tuned = c.state.given
	c.mustPoll(t)
	now := c.state.after(nil, time.Now())
	last := c.stored(t).lastSuccess
	for after, want := range map[time.Duration]string{0: Fresh, 30 * time.Second: Fresh, 36 * time.Second: Stale} {
		if shown := c.status(last.Add(after)); shown.State != want {
			t.Errorf("%v after the last success it is %s while the first request waits", after, shown.State)
		}
	}
	held := func(applied, took time.Duration) {
		c.state.noteHold(fetched{Request: feedclient.Request{Wait: 25 * time.Second}, Answer: &feedclient.Answer{Waits: applied}}, took)
	}
	held(2*time.Second, 2*time.Second) // it may wait for less than was asked for
	if shown := c.status(last.Add(30 * time.Second)); shown.State != Fresh {
		t.Errorf("it is %s though the source waits", shown.State)
	}
	held(25*time.Second, time.Millisecond)
	if shown := c.status(last.Add(30 * time.Second)); shown.State != Stale {
		t.Errorf("it is %s though the source does not wait", shown.State)
	}
	c.state.after(errors.New("away"), now)
	if shown := c.status(last.Add(30 * time.Second)); shown.State != Stale {
		t.Errorf("it is %s though the source failed", shown.State)
	}
}

// An answer with nothing new that comes early from a cache was fetched for another request that waited. The next
// request is sent when the cache has the answer no longer.
func TestWaitSharedWithOthers(t *testing.T) {
	t.Parallel()
	schedule, err := ParseSchedule("@every 1h", "test")
	if err != nil {
		t.Fatal(err)
	}
	s := newSource(t)
	s.put(t, 1, 1)
	c := newCopier(t, s)
	c.state.given.schedule, c.state.given.wait = schedule, 25*time.Second
	c.state.tuned = c.state.given
	c.mustPoll(t)
	now := time.Now()
	for _, x := range []struct {
		name       string
		kept, took time.Duration
		want       time.Time // of the next poll
	}{
		{"early, from a cache", 2 * time.Second, time.Second, now.Add(2 * time.Second)},
		{"early, without a cache", 0, time.Second, schedule.Next(now)},
		{"from a cache, after the wait", 2 * time.Second, 25 * time.Second, now},
		{"early, from a cache that keeps it for longer than the schedule", 2 * time.Hour, time.Second, schedule.Next(now)},
	} {
		c.state.noteHold(fetched{Request: feedclient.Request{Wait: 25 * time.Second}, Answer: &feedclient.Answer{Waits: 25 * time.Second, Kept: x.kept}}, x.took)
		if got := c.state.after(nil, now); !got.Equal(x.want) {
			t.Errorf("%s: the next poll is due at %v, not %v", x.name, got, x.want)
		}
	}
}

// A pause stops a long copy between two pages, and the stop of the process does.
func TestPauseWhileCopying(t *testing.T) {
	t.Parallel()
	s := newSource(t)
	s.put(t, 1, 100)
	c := newCopier(t, s)
	s.setTamper(func(w http.ResponseWriter, r *http.Request, honest http.Handler) {
		if strings.HasPrefix(r.URL.Query().Get("after"), "30-") {
			if err := c.row.set(context.Background(), "paused = true"); err != nil {
				panic(err)
			}
		}
		honest.ServeHTTP(w, r)
	})
	if err := c.poller.poll(t.Context(), true); !errors.Is(err, errInterrupted) {
		t.Errorf("%v", err)
	}
	if cursor := c.wantConsistent(t, s); cursor.Position == 100 {
		t.Error("it copied everything")
	}
	s.setTamper(nil)
	if err := c.row.set(t.Context(), "paused = false"); err != nil {
		t.Fatal(err)
	}
	c.mustPoll(t)
	c.wantUpToDate(t, s)
}
