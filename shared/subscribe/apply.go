package subscribe

import (
	"cmp"
	"context"
	"slices"
	"sync/atomic"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/edison-cars/data-feeds/shared/feed"
)

// An applier applies pages: each with the cursor behind it, or neither.
type applier struct {
	*target
	state      *state
	fetcher    *fetcher
	quarantine *quarantine
	erasures   *erasures
	metrics    *pollerMetrics
	allNew     atomic.Bool // the copy knew nothing of what was on the last page
}

// A turn is a page's, to be applied.
type turn struct {
	ids  map[uuid.UUID]bool
	done chan struct{}
	err  error // when done
}

// maxTurns is how many pages of a pure copy are applied at once: while one waits until those before it are committed,
// others are written.
const maxTurns = 3

// turns are those under way, in order: one, or up to most where one may go on beside the next.
type turns struct {
	most int
	all  []*turn
}

// wait waits until no more than so many are under way, and gives the first error of those that have ended: behind that
// none goes on.
func (t *turns) wait(left int) (err error) {
	for len(t.all) > 0 && (len(t.all) > left || isDone(t.all[0])) {
		<-t.all[0].done
		if err = cmp.Or(err, t.all[0].err); err != nil {
			left = 0
		}
		t.all = t.all[1:]
	}
	return err
}

func overlap(a, b map[uuid.UUID]bool) bool {
	for id := range a {
		if b[id] {
			return true
		}
	}
	return false
}

// guess returns what the copy knows of entries, which is nothing, without a look at it; nil means one is due. After a
// page of new entities only, a pure copy takes for granted that the next is such a one: where not, COPY fails, and the
// careful second try looks.
func (a *applier) guess(entries []feed.Entry) *known {
	odd := func(e feed.Entry) bool { return e.Deleted || malformed(e) }
	if a.Columns == nil || !a.allNew.Load() || a.state.hasRejected() || len(entries) < copyFrom || slices.ContainsFunc(entries, odd) {
		return nil
	}
	return noneKnown()
}

// upsertAtOnce does it for a pure copy by one packet, which PostgreSQL takes for one transaction: the statements see
// themselves what is newer than the copy.
func (a *applier) upsertAtOnce(ctx context.Context, entries []feed.Entry, from, to progress) error {
	return a.pool.AcquireFunc(ctx, func(conn *pgxpool.Conn) error {
		u, err := newUpsert(ctx, conn.Conn(), a.Table, a.Columns)
		if err != nil {
			return err
		}
		var b pgx.Batch
		a.move(&b, from, to)
		for _, e := range entries {
			if e.Deleted {
				b.Queue(`delete from `+u.table+` where id = $1 and (version < $2 or $3)`, e.ID, e.Version, e.Erased)
			} else if err := u.queue(&b, u.newer, e); err != nil {
				return err
			}
		}
		return conn.SendBatch(ctx, &b).Close()
	})
}

// succeeded reports whether a poll ended on the way.
func succeeded(from, to progress) bool { return !to.lastSuccess.Equal(from.lastSuccess) }

const notNullViolation = "23502"

// good returns the ids of the entries that were not refused.
func good(entries []feed.Entry, bad []rejection) (ids []uuid.UUID) {
	for _, e := range entries {
		if !slices.ContainsFunc(bad, func(r rejection) bool { return r.ID == e.ID }) {
			ids = append(ids, e.ID)
		}
	}
	return ids
}

// fenced looks whether the cursor was still where it moved from.
func fenced(tag pgconn.CommandTag) error {
	if tag.RowsAffected() == 0 {
		return errFenced
	}
	return nil
}

func isDone(t *turn) bool {
	select {
	case <-t.done:
		return true
	default:
		return false
	}
}

// mostTurns is one unless the copy is pure and the last poll did not fail. A connection is left: who waits for the page
// before keeps its own meanwhile.
func (a *applier) mostTurns() int {
	if !a.pure || a.state.fails() > 0 {
		return 1
	}
	return min(maxTurns, int(a.pool.Config().MaxConns)-1)
}
