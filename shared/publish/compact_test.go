package publish

import (
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"
)

// kept returns of each position what the log has there: put, delete, erased, or superseded.
func kept(t testing.TB, pool *pgxpool.Pool) string {
	t.Helper()
	var words []string
	err := pool.QueryRow(t.Context(), `
		select coalesce(array_agg(case when salt is null then 'erased' when salt = '' then 'superseded' else kind end order by position), '{}')
		  from feed_entry where feed = $1`, feedName).Scan(&words)
	if err != nil {
		t.Fatal(err)
	}
	return strings.Join(words, " ")
}

// old appends entries of the entities with the numbers, each with its next version: a negative number is a tombstone.
// The first is of start, and each one is a minute later than the one before it.
func old(t testing.TB, l *Log, from int, numbers ...int) {
	t.Helper()
	var entries []Entry
	for i, n := range numbers {
		e := thing(numbered(max(n, -n)), 0)
		e.Updated = start.Add(time.Duration(from+i) * time.Minute)
		if n < 0 {
			e.Payload = nil
		}
		entries = append(entries, e)
	}
	appendAll(t, l, entries)
}

// since is how long ago the entries of old were that many minutes after start.
func since(minutes int) time.Duration {
	return time.Since(start.Add(time.Duration(minutes) * time.Minute))
}

func compact(t testing.TB, l *Log, olderThan time.Duration, want int64) {
	t.Helper()
	freed, err := l.Compact(t.Context(), feedName, olderThan)
	if err != nil || freed.Entries != want || (freed.Bytes > 0) != (want > 0) {
		t.Errorf("compacted %+v, %v, want %d entries", freed, err, want)
	}
}

// A compaction takes away what old versions superseded: the newest version of an entity stays, and so does a tombstone.
// Each run goes on where the last one ended, also if the newer version comes much later.
func TestCompact(t *testing.T) {
	t.Parallel()
	pool := database(t)
	l := openLog(t, pool)
	compact(t, l, 0, 0)
	old(t, l, 0, 1, 2, 1, 3, -2, 1, 3, 2)
	before := logged(t, pool)

	compact(t, l, since(2)+10*time.Second, 0) // what supersedes the first one is younger
	compact(t, l, since(4)-10*time.Second, 2)
	if have := kept(t, pool); have != "superseded superseded put put delete put put put" {
		t.Errorf("kept: %s", have)
	}
	compact(t, l, since(7)-10*time.Second, 2)
	compact(t, l, 0, 0)
	if have := kept(t, pool); have != "superseded superseded superseded superseded delete put put put" {
		t.Errorf("kept: %s", have)
	}
	if after := logged(t, pool); !slices.Equal(before, after) {
		t.Errorf("the log is %v", after)
	}
	old(t, l, 8, 3, -3)
	compact(t, l, 0, 2)
	if have := kept(t, pool); have != "superseded superseded superseded superseded delete put superseded put superseded delete" {
		t.Errorf("kept: %s", have)
	}

	// A time in the future supersedes nothing, and holds up nothing.
	err := l.InTx(t.Context(), func(tx *Tx) error {
		tx.Append(feedName, Entry{ID: numbered(1), Updated: time.Now().Add(48 * time.Hour), Payload: []byte(`{}`)}, Entry{ID: numbered(2), Payload: []byte(`{}`)})
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	compact(t, l, time.Hour, 0)
	compact(t, l, 0, 1)

	err = l.InTx(t.Context(), func(tx *Tx) error {
		tx.Erase(feedName, numbered(3), 0, time.Time{})
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if have := kept(t, pool); have != "superseded superseded superseded erased delete put erased superseded erased erased put put erased" {
		t.Errorf("kept: %s", have)
	}
	if _, err := l.Compact(t.Context(), "nothing", 0); !isCode(err, "42704") {
		t.Errorf("of a feed that is not there: %v", err)
	}
	if _, err := l.Compact(t.Context(), feedName, -time.Second); !isCode(err, "22023") {
		t.Errorf("of a negative age: %v", err)
	}
}
