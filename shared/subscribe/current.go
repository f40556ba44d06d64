package subscribe

import (
	"context"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"
)

// A Current tells whether a service may do by its copies what cannot be undone, such as sending a mail: this process
// brought each up to date since it polls, and the database was not taken back in the meantime, as by the restore of a
// dump. Else the copies may lack a cancellation or an erasure. While a source is down later, or a copy is paused, they
// are current.
type Current struct {
	Service string
	Feeds   []string

	mu     sync.Mutex
	polled map[string]time.Time // when this process brought each copy up to date last, since it polls
	behind []string
}

// Begin begins again: this process polls since then, or no more. The engine calls it for the Current of [Options].
func (c *Current) Begin() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.polled, c.behind = map[string]time.Time{}, nil
}

// Polled says that this process has brought the copy of a feed up to date, and committed at as its last success. The
// engine calls it. What the database alone says may be of another process with another clock, and of a dump.
func (c *Current) Polled(feed string, at time.Time) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.polled[feed] = at
}

// Look returns the feeds whose copies are not current. Call it in the transaction that acts by them: a restore waits
// for its end.
func (c *Current) Look(ctx context.Context, db rowsQuerier) (behind []string, err error) {
	c.mu.Lock()
	polled := maps.Clone(c.polled) // before the rows are read, which may be of a later poll
	c.mu.Unlock()
	rows, err := db.Query(ctx, `
		select feed, last_success_at, coalesce(paused, false) from subscription left join subscription_setting using (service, feed)
		 where service = $1 and feed = any($2)`, c.Service, c.Feeds)
	if err != nil {
		return nil, err
	}
	behind = slices.Clone(c.Feeds) // also those without a row, as while a restore is under way
	var name string
	var success *time.Time // of a poll
	var paused bool
	_, err = pgx.ForEachRow(rows, []any{&name, &success, &paused}, func() error {
		at, ok := polled[name]
		if success != nil && (paused || ok && !success.Before(at) && !success.After(time.Now())) {
			behind = slices.DeleteFunc(behind, func(feed string) bool { return feed == name })
		}
		return nil
	})
	if err != nil {
		behind = slices.Clone(c.Feeds)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.behind = behind
	return behind, err
}

// Behind returns what Look did last since Begin, for a page.
func (c *Current) Behind() []string {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.behind
}
