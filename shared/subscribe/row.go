package subscribe

import (
	"context"
	"fmt"
	"sync"

	"github.com/jackc/pgx/v5"
)

// A row is the row of a subscription in the database: the progress of the copy, and the settings made at run time.
type row struct {
	*target
	state   *state
	reading sync.Mutex // held from reading the row until its values are taken over, so that an older reading cannot come later
}

// load reads the progress from the database. Only the database knows whether a commit whose connection was lost has
// happened.
func (r *row) load(ctx context.Context) (progress, error) {
	ctx, cancel := context.WithTimeout(ctx, readTimeout)
	defer cancel()
	r.reading.Lock()
	defer r.reading.Unlock()
	rows, err := r.pool.Query(ctx, selectProgress+` and feed = $2`, r.service, r.Name)
	if err != nil {
		return progress{}, fmt.Errorf("read how far the copy of %s is: %w", r.Name, err)
	}
	at, err := pgx.CollectExactlyOneRow(rows, func(row pgx.CollectableRow) (progress, error) {
		_, at, err := scanProgress(row)
		return at, err
	})
	if err != nil {
		return at, fmt.Errorf("read how far the copy of %s is: %w", r.Name, err)
	}
	r.state.take(at)
	return at, nil
}

// refresh takes over what was changed in the database.
func (r *row) refresh(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, readTimeout)
	defer cancel()
	r.reading.Lock()
	defer r.reading.Unlock()
	before := r.state.current().lastSuccess
	rows, err := r.pool.Query(ctx, selectProgress+` and feed = $2`, r.service, r.Name)
	if err != nil {
		return err
	}
	defer rows.Close()
	for rows.Next() {
		_, at, err := scanProgress(rows)
		if err != nil {
			return err
		}
		r.state.adopt(at, before)
	}
	return rows.Err()
}

// set changes a setting in the database and takes it over at once. If another process polls, that one takes it over
// within a second. Settings have rows of their own, which no transaction that applies entries locks.
func (r *row) set(ctx context.Context, assignments string, args ...any) error {
	err := r.exec(ctx, `update subscription_setting set `+assignments+` where service = $1 and feed = $2`,
		append([]any{r.service, r.Name}, args...)...)
	if err != nil {
		return fmt.Errorf("change the subscription to %s: %w", r.Name, err)
	}
	return r.refresh(ctx)
}

// begin returns the progress at the start of a poll. Between two waiting requests it does not query the database: the
// lease notices what others change, and a moved cursor makes the commit fail.
func (r *row) begin(ctx context.Context, scheduled bool) (progress, error) {
	r.state.mu.Lock()
	at, known := r.state.copied, scheduled && r.state.last.state == pollSucceeded && r.state.hold == holdKept
	r.state.mu.Unlock()
	if known {
		return at, nil
	}
	return r.load(ctx)
}

// storeFailing stores since when polls fail, and where the source's feed ends, for the other processes of the service.
func (r *row) storeFailing(ctx context.Context) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), heartbeatWait)
	defer cancel()
	at := r.state.current()
	err := r.exec(ctx, `
		update subscription set failing_since = $3, stale = stale or $4, head_position = $6
		 where service = $1 and feed = $2 and last_success_at is not distinct from $5
		       and (failing_since is distinct from $3 or $4 and not stale or head_position <> $6)`,
		r.service, r.Name, at.failingSince, at.stale, timeOrNull(at.lastSuccess), at.headPosition)
	if err != nil { // the next failure tries it again
		r.logger.DebugContext(ctx, "note of failing polls not stored", "feed", r.Name, "error", err)
	}
}
