package publish

import (
	"context"
	"slices"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/edison-cars/data-feeds/shared/feed"
)

// A Loss says which entries of a feed this process knew, and its database does not have any more, as after a failover to
// an asynchronous standby or the restore of a backup.
type Loss struct {
	At      time.Time   // when this process found out
	Until   feed.Cursor // the end of the feed as this process knew it
	After   feed.Cursor // the last place before it that this process remembers and the database still has
	AtLeast int64       // the number of lost entries, if nothing was appended since
	AtMost  int64       // the entries between After and Until
	Losses  int         // how often that happened; the fields above are those of the last time
	All     int64       // the sum of AtLeast
}

// Lost returns what the feed lost since this process opened the log. Readers learn of it on their own: the source does
// not know their cursors any more.
func (l *Log) Lost(name string) Loss {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.losses[name]
}

// A trail has places where a feed once ended, as this process knew it, oldest first. The older they are, the fewer it
// has.
type trail []feed.Cursor

// maxTrail is the number of places from which on the older half of a trail loses every second one.
const maxTrail = 4096

// add returns the trail with one more place.
func (t trail) add(end feed.Cursor) trail {
	if n := len(t); n > 0 && t[n-1].Position >= end.Position {
		return t
	}
	if len(t) >= maxTrail {
		kept := t[:0]
		for i, c := range t {
			if i >= len(t)/2 || i%2 == 0 {
				kept = append(kept, c)
			}
		}
		t = kept
	}
	return append(t, end)
}

// lastKnown returns the last place of the feed's trail that the database has, or the start.
func (l *Log) lastKnown(ctx context.Context, db querier, name string) (last feed.Cursor, err error) {
	l.mu.Lock()
	places := slices.Clone(l.trails[name])
	l.mu.Unlock()
	positions := make([]int64, len(places))
	for i, c := range places {
		positions[i] = c.Position
	}
	rows, err := db.Query(ctx, `select position, digest from feed_entry where feed = $1 and position = any ($2)`, name, positions)
	if err != nil {
		return last, err
	}
	var position int64
	var digest []byte
	known := map[int64]feed.Digest{}
	_, err = pgx.ForEachRow(rows, []any{&position, &digest}, func() error {
		known[position] = feed.Digest(digest)
		return nil
	})
	for _, c := range slices.Backward(places) {
		if digest, there := known[c.Position]; there && c.Matches(digest) {
			return c, err
		}
	}
	return last, err
}

// loses notes that the feed's entries after the cursor, up to the end that this process knew, are gone, and that the feed
// ends at found now. m.mu is locked.
func (m *memory) loses(name string, after, until feed.Cursor, found int64) Loss {
	before := m.losses[name]
	least := max(until.Position-found, 1)
	m.losses[name] = Loss{time.Now(), until, after, least, until.Position - after.Position, before.Losses + 1, before.All + least}
	m.trails[name] = slices.DeleteFunc(m.trails[name], func(c feed.Cursor) bool { return c.Position > after.Position })
	return m.losses[name]
}
