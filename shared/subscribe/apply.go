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

// An applier applies pages. It stores a page's rows and the cursor behind it in one transaction.
type applier struct {
	*target
	state      *state
	fetcher    *fetcher
	quarantine *quarantine
	erasures   *erasures
	metrics    *pollerMetrics
	allNew     atomic.Bool // the copy had no row for any entity of the last page
}

// A turn is the application of one page.
type turn struct {
	ids  map[uuid.UUID]bool
	done chan struct{}
	err  error // set before done is closed
}

// maxTurns is the number of pages of a pure copy that are applied at the same time. While one page waits until the
// pages before it are committed, the next ones are written.
const maxTurns = 3

// turns are the pages that are being applied, in the order of the feed. most is how many may be at the same time.
type turns struct {
	most int
	all  []*turn
}

// wait waits until at most left pages are being applied. It returns the first error of those that have ended; after an
// error it waits for all of them.
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

// guess returns an empty known, without a query, if the entries are probably new to the copy: a pure copy assumes that
// after a page of new entities the next page is one, too. It returns nil if the copy must be queried. If the guess is
// wrong, COPY fails, and the second attempt queries.
func (a *applier) guess(entries []feed.Entry) *known {
	odd := func(e feed.Entry) bool { return e.Deleted || malformed(e) }
	if a.Columns == nil || !a.allNew.Load() || a.state.hasRejected() || len(entries) < copyFrom || slices.ContainsFunc(entries, odd) {
		return nil
	}
	return noneKnown()
}

// upsertAtOnce applies a small page of a pure copy in one round trip. PostgreSQL runs the batch as one transaction, and
// each statement compares versions itself.
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

// succeeded reports whether the page between from and to ended a poll.
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

// fenced returns errFenced if the statement did not move the cursor, since another process has moved it.
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

// mostTurns returns 1 unless the copy is pure and the last poll succeeded. It leaves one connection of the pool to
// others, since each page keeps its own while it waits for the page before it.
func (a *applier) mostTurns() int {
	if !a.pure || a.state.fails() > 0 {
		return 1
	}
	return min(maxTurns, int(a.pool.Config().MaxConns)-1)
}
