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
// lack a cancellation or an erasure. While a source is down later, or a copy is paused, they are current.
type Current struct {
	Service string
	Feeds   []string

	mu     sync.Mutex
	last   map[string]time.Time // when each copy was up to date, as it was looked at last; at first when this process began to poll
	polled map[string]bool      // since this process polls, or since the database was taken back
	behind []string
}

// Begin begins over: this process polls since then. The engine calls it for the Current of a [Service].
func (c *Current) Begin(at time.Time) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.last, c.polled, c.behind = map[string]time.Time{}, map[string]bool{}, nil
	for _, name := range c.Feeds {
		c.last[name] = at
	}
}

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

// Behind returns what Look did last since Begin, for a page.
func (c *Current) Behind() []string {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.behind
}
