package subscribe

import (
	"context"
	"slices"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"
)

// A Current tells whether a service may do by its copies what cannot be undone, such as sending a mail: each was brought up to date
// since this process polls, and the database was not taken back in the meantime, as by the restore of a dump. Else the copies may
// lack a cancellation or an erasure. While a source is away later, or a copy is paused, they are current.
type Current struct {
	Service string
	Feeds   []string

	mu     sync.Mutex
	last   map[string]time.Time // when each copy was up to date, as it was looked at last; before the first look: about now
	polled map[string]bool      // since this process polls, or since the database was taken back
	behind []string
}

// startSlack is how long before the first look a copy may have been brought up to date by this process.
const startSlack = 10 * time.Second

// Look returns the feeds whose copies are not current. Call it in the transaction that acts by them: a restore waits for its end.
func (c *Current) Look(ctx context.Context, db rowsQuerier) (behind []string, err error) {
	rows, err := db.Query(ctx, `
		select feed, last_success_at, coalesce(paused, false) from subscription left join subscription_setting using (service, feed)
		 where service = $1 and feed = any($2)`, c.Service, c.Feeds)
	if err != nil {
		return nil, err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.last == nil {
		c.last, c.polled = map[string]time.Time{}, map[string]bool{}
		for _, name := range c.Feeds {
			c.last[name] = time.Now().Add(-startSlack)
		}
	}
	behind = slices.Clone(c.Feeds) // also those without a row, as while a restore is under way
	var name string
	var success *time.Time // of a poll
	var paused bool
	_, err = pgx.ForEachRow(rows, []any{&name, &success, &paused}, func() error {
		if success != nil && !success.Equal(c.last[name]) {
			c.polled[name], c.last[name] = success.After(c.last[name]), *success
		}
		if success != nil && (c.polled[name] || paused) {
			behind = slices.DeleteFunc(behind, func(feed string) bool { return feed == name })
		}
		return nil
	})
	if err != nil {
		behind = slices.Clone(c.Feeds)
	}
	c.behind = behind
	return behind, err
}

// Behind returns what Look did last, for a page; nothing in a process that does not poll.
func (c *Current) Behind() []string {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.behind
}

// Reset begins anew, for Release: another process may poll from now on.
func (c *Current) Reset() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.last, c.polled, c.behind = nil, nil, nil
}
