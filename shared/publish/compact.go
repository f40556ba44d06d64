package publish

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgtype"

	"github.com/edison-cars/data-feeds/shared/feed"
)

// A Compaction says what of a feed was compacted at one time. The zero value says that nothing was.
type Compaction struct {
	ID        string        // differs after each step, also of another history
	UpTo      feed.Cursor   // what superseded entries that were compacted lies at or before it
	OlderThan time.Duration // the age that superseded entries had at least, in all steps
}

// ScanText implements [pgtype.TextScanner] for the column compaction of feed_head.
func (c *Compaction) ScanText(column pgtype.Text) (err error) {
	*c = Compaction{}
	if column.String == "" {
		return nil
	}
	parts := strings.Fields(column.String)
	if len(parts) != 3 {
		return fmt.Errorf("a compaction has 3 parts, not %d", len(parts))
	}
	c.ID = parts[0]
	if c.UpTo, err = feed.ParseCursor(parts[1]); err != nil {
		return err
	}
	age, err := strconv.ParseInt(parts[2], 10, 64)
	c.OlderThan = time.Duration(age)
	return err
}

// covers returns an error if entries were compacted by a later step, as after the restore of a single table: a reader
// could not know what a restore takes away. by is the last position that superseded one of them.
func (c *Compaction) covers(by latest) error {
	if int64(by) > c.UpTo.Position {
		return fmt.Errorf("%w The table feed_compaction is older than the log: restore all tables of one dump", ErrIncomplete)
	}
	return nil
}

// supersededBy is the position of the entry that superseded the entry e, which is compacted, of feed $1; the highest one
// there is if the log lacks it, and null if e is not compacted.
const supersededBy = `case when e.salt = '' then coalesce((
	select position from feed_entry as n where n.feed = $1 and n.entity_id = e.entity_id and n.version = e.version + 1), 9223372036854775807) end`

// latest is a column that is scanned row by row. It becomes the highest number of it, or 0.
type latest int64

// ScanInt64 implements [pgtype.Int64Scanner].
func (l *latest) ScanInt64(column pgtype.Int8) error {
	*l = max(*l, latest(column.Int64))
	return nil
}

// Freed is what a compaction took away.
type Freed struct {
	Entries int64
	Bytes   int64 // of their content, as it was stored
}

const (
	compactInterval = time.Minute      // between two runs
	compactTimeout  = 10 * time.Second // for one step
	maxCompacted    = 1000             // entries that one step looks at
)

// Compact takes the content from entries of a feed that are superseded: the entity has a newer version whose time,
// [Entry].Updated, is longer ago than olderThan. Such an entry keeps its place, and readers skip it:
// [shared/feed/PROTOCOL.md#compaction] says what they see. The newest version of each entity stays, and so do tombstones.
// Compact works in steps of up to 1,000 entries, each in a transaction that no writer waits for, and pauses between them
// for as long as they take. Each run goes on where the last one ended, so it costs what was appended since. It returns
// what it has taken away when all is done, while another process compacts the feed, or with an error. PostgreSQL's
// autovacuum makes room for new entries of what is freed.
//
// [shared/feed/PROTOCOL.md#compaction]: https://github.com/edison-cars/data-feeds/blob/main/shared/feed/PROTOCOL.md#compaction
func (l *Log) Compact(ctx context.Context, name string, olderThan time.Duration) (freed Freed, err error) {
	connecting, cancel := context.WithTimeout(ctx, refreshTimeout)
	conn, err := l.dial(connecting, false)
	cancel()
	if err != nil {
		return freed, err
	}
	defer hangUp(ctx, conn)
	// A step that a crash of the database takes back is done again.
	if _, err = conn.Exec(ctx, ofCommitters+`; set synchronous_commit = off; set lock_timeout = '`+lockTimeout+`'`); err != nil {
		return freed, err
	}
	var before, after int64
	for more := true; more; {
		began := time.Now()
		more, err = l.compactStep(ctx, conn, name, olderThan, &freed, &after)
		if err != nil {
			err = fmt.Errorf("compact feed %s: %w", name, err)
			break
		}
		if before == 0 {
			before = after
		}
		if more {
			sleep(ctx, time.Since(began))
		}
	}
	if freed.Entries > 0 {
		l.logger.InfoContext(ctx, "superseded entries compacted", "feed", name, "entries", freed.Entries, "bytes", freed.Bytes,
			"table_bytes_before", before, "table_bytes_after", after)
	}
	return freed, err
}

// compactStep does one step, and reports whether there is more to do. size becomes the size of the log's table. Where
// the clock of the database is ahead of this machine's by more than a minute, entries have to be older by that.
func (l *Log) compactStep(ctx context.Context, conn *pgx.Conn, name string, olderThan time.Duration, freed *Freed, size *int64) (more bool, err error) {
	ctx, cancel := context.WithTimeout(ctx, compactTimeout)
	defer cancel()
	var looked, entries, bytes *int64
	err = conn.QueryRow(ctx, `
		select looked, compacted, bytes, pg_table_size('feed_entry')
		  from feed_compact_step($1, $2::interval + greatest(interval '0', now() - interval '1 minute' - $3::timestamptz), $4)`,
		name, olderThan, time.Now(), maxCompacted).Scan(&looked, &entries, &bytes, size)
	if err != nil || looked == nil {
		return false, err
	}
	freed.Entries, freed.Bytes = freed.Entries+*entries, freed.Bytes+*bytes
	l.metrics.compacted.WithLabelValues(name).Add(float64(*entries))
	l.metrics.freed.WithLabelValues(name).Add(float64(*bytes))
	return *looked == maxCompacted, nil
}

// compact compacts all feeds at an interval until ctx ends.
func (l *Log) compact(ctx context.Context) {
	for quiet := false; ctx.Err() == nil; sleep(ctx, compactInterval) {
		failed := false
		for _, name := range slices.Sorted(maps.Keys(l.heads())) {
			_, err := l.Compact(ctx, name, l.compactAfter)
			if err == nil || ctx.Err() != nil {
				continue
			}
			if failed = true; !quiet {
				l.logger.WarnContext(ctx, "superseded entries are not compacted", "feed", name, "error", err)
				quiet = true
			}
		}
		quiet = failed
	}
}

// Retention returns how long an entry of the feed keeps its content after the time of a newer version of its entity. It
// returns false if that is for ever.
func (l *Log) Retention(name string) (time.Duration, bool) {
	age, bounded := l.compactAfter, l.compactAfter > 0
	if s := l.Remembered(name); s != nil && s.Compaction.ID != "" && (!bounded || s.Compaction.OlderThan < age) {
		return s.Compaction.OlderThan, true
	}
	return age, bounded
}
