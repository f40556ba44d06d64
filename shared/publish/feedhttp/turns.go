package feedhttp

import (
	"context"
	"net/http"
	"time"

	"golang.org/x/sync/semaphore"

	"github.com/edison-cars/data-feeds/shared/web"
)

const (
	maxQueued   = 128              // pages that may wait to be rendered
	turnTimeout = 10 * time.Second // for a page to have its turn
	busyFor     = time.Second      // after a write, more are expected
)

// turns limit the pages that are read, rendered and compressed at once. That takes a core, the database and memory,
// which the writers of the log need, too. While the log is being written to, each turn is followed by a pause of its
// own length.
type turns struct {
	free   *semaphore.Weighted
	queued *web.Slots
	wrote  func(within time.Duration) bool // reports whether the log was written to
}

func newTurns(n int, wrote func(within time.Duration) bool) *turns {
	queue := web.Bound{All: max(maxQueued, n), Client: max(maxQueued/4, n)}
	return &turns{semaphore.NewWeighted(int64(n)), web.NewSlots("pages that wait to be rendered", queue), wrote}
}

// take runs work in a turn of the client. If too many wait before it, it returns a 429 or 503 instead.
func (t *turns) take(ctx context.Context, client string, work func() error) error {
	leave, err := t.queued.Take(client)
	if err != nil {
		return err
	}
	defer leave()
	waiting, cancel := context.WithTimeout(ctx, turnTimeout)
	defer cancel()
	if t.free.Acquire(waiting, 1) != nil {
		p := web.Errorf(http.StatusServiceUnavailable, "There are too many other pages to be rendered before this one. Try again in 5 s.")
		p.Header = http.Header{"Retry-After": {"5"}}
		return p
	}
	began := time.Now()
	defer func() {
		if t.wrote(busyFor) {
			time.AfterFunc(time.Since(began), func() { t.free.Release(1) })
		} else {
			t.free.Release(1)
		}
	}()
	return work()
}
