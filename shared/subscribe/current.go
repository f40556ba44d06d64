package subscribe

import (
	"context"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"
)

// A Current says whether a service may act on its copies in a way that cannot be undone, such as sending a mail. It may
// once this process has brought each copy up to date since it began to poll, unless the database was set back since, as
// by the restore of a dump: then the copies may lack a cancellation or an erasure. A copy stays current while its
// source is down later, and a paused copy counts as current.
type Current struct {
	Service string
	Feeds   []string

	mu     sync.Mutex
	names  map[string][]string  // of the subscriptions to each feed, if they have other names
	polled map[string]time.Time // when this process last brought each copy up to date, since it began to poll
	behind []string
}

// Begin forgets the polls: this process has begun or ceased to poll. The engine calls it for the Current of [Options].
func (c *Current) Begin() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.polled, c.behind = map[string]time.Time{}, nil
}

// Polled notes that this process has brought the copy of a feed up to date, and has committed at as the time of its
// last success. The engine calls it. The time in the database alone would not do: it may come from another process with
// another clock, or from a dump.
func (c *Current) Polled(feed string, at time.Time) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.polled[feed] = at
}

// follow makes the subscriptions count instead of the feeds.
func (c *Current) follow(pollers []*poller) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.names = map[string][]string{}
	for _, p := range pollers {
		c.names[p.feed] = append(c.names[p.feed], p.Name)
	}
}

// subscriptions returns the names of the subscriptions to Feeds. c.mu is locked.
func (c *Current) subscriptions() (names []string) {
	for _, feed := range c.Feeds {
		if of := c.names[feed]; of != nil {
			names = append(names, of...)
		} else {
			names = append(names, feed)
		}
	}
	return names
}

// Look returns the feeds whose copies are not current. Call it in the transaction that acts on the copies: a restore
// waits for its end.
func (c *Current) Look(ctx context.Context, db rowsQuerier) (behind []string, err error) {
	c.mu.Lock()
	polled := maps.Clone(c.polled) // before the rows are read, which may be of a later poll
	names := c.subscriptions()
	c.mu.Unlock()
	rows, err := db.Query(ctx, `
		select feed, last_success_at, coalesce(paused, false) from subscription left join subscription_setting using (service, feed)
		 where service = $1 and feed = any($2)`, c.Service, names)
	if err != nil {
		return nil, err
	}
	behind = slices.Clone(names) // also those without a row, as during a restore
	var name string
	var success *time.Time // the last successful poll
	var paused bool
	_, err = pgx.ForEachRow(rows, []any{&name, &success, &paused}, func() error {
		at, ok := polled[name]
		if success != nil && (paused || ok && !success.Before(at) && !success.After(time.Now())) {
			behind = slices.DeleteFunc(behind, func(feed string) bool { return feed == name })
		}
		return nil
	})
	if err != nil {
		behind = names
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.behind = behind
	return behind, err
}

// Behind returns the result of the last Look since Begin, for a page.
func (c *Current) Behind() []string {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.behind
}
