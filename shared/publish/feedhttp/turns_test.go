package feedhttp

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/edison-cars/data-feeds/shared/feed"
	"github.com/edison-cars/data-feeds/shared/web"
)

func TestTurns(t *testing.T) {
	t.Parallel()
	var all sync.WaitGroup
	take := func(tn *turns, ctx context.Context, client string, work time.Duration) <-chan error {
		done := make(chan error, 1)
		all.Go(func() {
			done <- tn.take(ctx, client, func() error {
				time.Sleep(work)
				return nil
			})
		})
		synctest.Wait()
		return done
	}
	status := func(err error) int {
		p, ok := errors.AsType[*web.Problem](err)
		if !ok || p.Header.Get("Retry-After") == "" {
			return 0
		}
		return p.Status
	}
	for name, test := range map[string]func(*testing.T, *turns, *time.Time){
		"one after the other, as long as nothing is written": func(t *testing.T, tn *turns, _ *time.Time) {
			start := time.Now()
			first, second := take(tn, t.Context(), "a", 3*time.Second), take(tn, t.Context(), "b", 3*time.Second)
			if err := errors.Join(<-first, <-second); err != nil || time.Since(start) != 6*time.Second {
				t.Error(err, time.Since(start))
			}
		},
		"with pauses in between, while something is": func(t *testing.T, tn *turns, written *time.Time) {
			start := time.Now()
			first, second := take(tn, t.Context(), "a", time.Second), take(tn, t.Context(), "b", time.Second)
			*written = time.Now().Add(100 * time.Millisecond)
			if err := <-first; err != nil || time.Since(start) != time.Second {
				t.Error("who is done waits for the pause:", err, time.Since(start))
			}
			if err := <-second; err != nil || time.Since(start) != 3*time.Second {
				t.Error(err, time.Since(start))
			}
		},
		"not for ever": func(t *testing.T, tn *turns, _ *time.Time) {
			start := time.Now()
			first, second := take(tn, t.Context(), "a", 15*time.Second), take(tn, t.Context(), "b", 0)
			if err := <-second; status(err) != http.StatusServiceUnavailable || time.Since(start) != turnTimeout {
				t.Error(err, time.Since(start))
			}
			if err := <-first; err != nil {
				t.Error(err)
			}
		},
		"a client has a share of the queue": func(t *testing.T, tn *turns, _ *time.Time) {
			var done []<-chan error
			for client := range 4 {
				for range maxQueued / 4 {
					done = append(done, take(tn, t.Context(), fmt.Sprint(client), time.Millisecond))
				}
				if client == 3 {
					break
				}
				if err := <-take(tn, t.Context(), fmt.Sprint(client), 0); status(err) != http.StatusTooManyRequests {
					t.Error("a client has more than its share:", err)
				}
			}
			if err := <-take(tn, t.Context(), "another", 0); status(err) != http.StatusServiceUnavailable {
				t.Error("more than fit are queued:", err)
			}
			for _, d := range done {
				if err := <-d; err != nil {
					t.Error(err)
				}
			}
			if tn.queued.Taken() != 0 {
				t.Error(tn.queued.Taken(), "are left in the queue")
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				written := time.Now().Add(-time.Hour)
				test(t, newTurns(1, func(within time.Duration) bool { return time.Since(written) < within }), &written)
				all.Wait()
			})
		})
	}
}

// Pages that many ask for are rendered one by one. A request that waits for the next entry does not wait for them.
func TestRenderingIsBounded(t *testing.T) {
	t.Parallel()
	l := openLog(t, database(t))
	fill(t, l, 40)
	var rendering, most atomic.Int64
	began, release := make(chan struct{}, 1000), make(chan struct{})
	d := description
	d.Show = func(e feed.Entry) (feed.Shown, error) {
		if e.Position <= 40 {
			most.Store(max(most.Load(), rendering.Add(1)))
			defer rendering.Add(-1)
			began <- struct{}{}
			<-release
		}
		return description.Show(e)
	}
	r := runAs(t, l, web.Limits{Rendering: 1}, d)
	end := "/feeds/things?after=" + head(t, l).Cursor().String()
	var all sync.WaitGroup
	for i := range 20 {
		all.Go(func() {
			client := fmt.Sprint("192.0.2.", i%5)
			resp, err := r.ask(t.Context(), fmt.Sprint("/feeds/things?after=0&limit=", i+1), "X-Forwarded-For", client, "Accept-Encoding", "gzip")
			if err != nil {
				t.Error(err)
				return
			}
			if _ = resp.Body.Close(); resp.StatusCode != 200 {
				t.Error(resp.Status)
			}
		})
	}
	<-began
	waitFor(t, "the queue", func() bool { return r.turns.queued.Taken() == 20 })
	var waiter sync.WaitGroup
	waiter.Go(func() {
		resp, err := r.ask(t.Context(), end, "Prefer", "wait=30")
		if err != nil {
			t.Error(err)
			return
		}
		if _ = resp.Body.Close(); resp.StatusCode != 200 {
			t.Error(resp.Status)
		}
	})
	r.waitForWaiters(t, 1)
	commit(t, l)
	waiter.Wait()
	if r.turns.queued.Taken() != 20 {
		t.Error("the others had their turn before")
	}
	close(release)
	all.Wait()
	if most.Load() != 1 {
		t.Errorf("%d pages were rendered at once", most.Load())
	}
}

// The versions of an entity, of which each may be as large as a page, are read and rendered in turn, too.
func TestEntitiesAreReadInTurn(t *testing.T) {
	t.Parallel()
	l := openLog(t, database(t))
	fill(t, l, 1)
	r := runAs(t, l, web.Limits{Rendering: 1}, description)
	began, release := make(chan struct{}), make(chan struct{})
	var all sync.WaitGroup
	all.Go(func() {
		err := r.turns.take(t.Context(), "another", func() error {
			close(began)
			<-release
			return nil
		})
		if err != nil {
			t.Error(err)
		}
	})
	<-began
	var answered atomic.Int64
	for _, accept := range []string{"application/json", browser} {
		all.Go(func() {
			resp, err := r.ask(t.Context(), "/feeds/things/"+numbered(1).String(), "Accept", accept)
			answered.Add(1)
			if err != nil {
				t.Error(err)
				return
			}
			if _ = resp.Body.Close(); resp.StatusCode != http.StatusOK {
				t.Error(resp.Status)
			}
		})
	}
	waitFor(t, "the queue, or the answers", func() bool { return r.turns.queued.Taken() == 3 || answered.Load() == 2 })
	if answered.Load() != 0 {
		t.Error("it is not waited for a turn")
	}
	close(release)
	all.Wait()
}
