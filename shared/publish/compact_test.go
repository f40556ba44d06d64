package publish

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/prometheus/client_golang/prometheus/testutil"

	"github.com/edison-cars/data-feeds/shared/postgres/pgtest"
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

// While a step of a compaction is not committed yet, each kind of writer and reader goes on, and another process has
// nothing to do. Only an erasure of what is being compacted waits; a step that meets one leaves it alone.
func TestWritersDoNotWaitForACompaction(t *testing.T) {
	t.Parallel()
	pool := database(t)
	exec(t, pool, `create table item (id bigint primary key); select feed_attach('things', 'item', 'id', mode => 'staged')`)
	l := openLog(t, pool)
	server := serve(t, l)
	old(t, l, 0, 1, 2, 1, 2)
	exec(t, pool, `insert into item values (1)`)
	step, err := pool.Begin(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = step.Rollback(context.WithoutCancel(t.Context())) }()
	if _, err := step.Exec(t.Context(), `select feed_compact_step($1, '0')`, feedName); err != nil {
		t.Fatal(err)
	}
	impatient := ownPool(t, pool)
	config := impatient.Config()
	config.ConnConfig.RuntimeParams["lock_timeout"] = "1" // ms: what waits fails
	if impatient, err = pgxpool.NewWithConfig(t.Context(), config); err != nil {
		t.Fatal(err)
	}
	defer impatient.Close()
	for _, statement := range []string{ // in this order: the last one needs the feed
		`select feed_put('things', 'ada', '{"name":"Ada"}')`,
		`select feed_delete('things', 'bob')`,
		`select feed_erase('things', 'eve')`,
		`insert into item values (2)`,
		`select feed_move('things')`,
		`select feed_create('others')`,
		`select feed_compact_step('others', '0')`,
	} {
		if _, err := impatient.Exec(t.Context(), statement); err != nil {
			t.Errorf("%s: %v", statement, err)
		}
	}
	if err := l.Commit(t.Context(), put(thing(numbered(3), 1))); err != nil {
		t.Error(err)
	}
	appendAll(t, l, []Entry{{ID: numbered(1), Payload: []byte(`{}`)}})
	if resp, body := get(t, server, "GET", "/feeds/things?after=0&limit=4"); resp.StatusCode != 200 || strings.Contains(body, "superseded") {
		t.Errorf("%d %s", resp.StatusCode, body)
	}
	compact(t, l, 0, 0) // the other process does it
	waiting := make(chan error, 1)
	erase := func(tx *Tx) error {
		tx.Erase(feedName, numbered(1), 0, time.Time{})
		return nil
	}
	go func() { waiting <- l.InTx(context.WithoutCancel(t.Context()), erase) }()
	waitFor(t, "the erasure to wait", func() bool {
		var n int
		err := pool.QueryRow(t.Context(), `select count(*) from pg_stat_activity where datname = current_database() and wait_event_type = 'Lock'`).Scan(&n)
		return err == nil && n > 0
	})
	if err := step.Commit(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := <-waiting; err != nil {
		t.Error(err)
	}
	logged(t, pool)
	if have := kept(t, pool); !strings.HasPrefix(have, "erased superseded erased put ") {
		t.Errorf("kept: %s", have)
	}

	// The other way round: an erasure that is not committed yet.
	old(t, l, 10, 5, 5)
	tx, err := pool.Begin(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = tx.Rollback(context.WithoutCancel(t.Context())) }()
	if _, err := tx.Exec(t.Context(), `update feed_entry set payload = null, salt = null where entity_id = $1`, numbered(5)); err != nil {
		t.Fatal(err)
	}
	compact(t, l, 0, 0)
	if err := tx.Rollback(t.Context()); err != nil {
		t.Fatal(err)
	}
	compact(t, l, 0, 1)
}

// Space that superseded entries of 430 bytes take goes down to 0.45 of what it was, and 0.6 times as many new entries
// then fit without growth: measured is the size of the table less the free space in it.
func TestSizeOfACompactedLog(t *testing.T) {
	t.Parallel()
	pgtest.Slow(t, "a large log")
	pool := database(t)
	l := openLog(t, pool)
	const entities, versions = 1000, 20
	exec(t, pool, `alter table feed_entry set (autovacuum_enabled = false)`)
	fillWith := func(version int) {
		t.Helper()
		err := l.InTx(t.Context(), func(tx *Tx) error {
			for i := range entities {
				payload := fmt.Appendf(nil, `{"version":%d,"text":"`, version)
				for len(payload) < 428 {
					payload = fmt.Appendf(payload, "%x", numbered(version*entities+i))
				}
				tx.Append(feedName, Entry{ID: numbered(i), Payload: append(payload[:428], `"}`...)})
			}
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	for v := range versions + 1 {
		fillWith(v)
	}
	size := func() (total, inUse int64) {
		t.Helper()
		exec(t, pool, `vacuum feed_entry`)
		exec(t, pool, `create extension if not exists pgstattuple`)
		err := pool.QueryRow(t.Context(), `select table_len, table_len - free_space from pgstattuple('feed_entry')`).Scan(&total, &inUse)
		if err != nil {
			t.Fatal(err)
		}
		return total, inUse
	}
	length, before := size()
	exec(t, pool, `call feed_compact('`+feedName+`', '0')`)
	total, after := size()
	newest := before / (versions + 1) // what is not superseded
	if ratio := float64(after-newest) / float64(before-newest); ratio > 0.45 {
		t.Errorf("%d bytes in use of %d: %.2f of what superseded entries took", after, before, ratio)
	} else {
		t.Logf("%d bytes in use of %d: %.2f of what superseded entries took; the table has %d bytes and had %d", after, before, ratio, total, length)
	}
	for v := range versions * 6 / 10 {
		fillWith(versions + 1 + v)
	}
	if grown, _ := size(); grown > total {
		t.Errorf("the table had %d bytes, and has %d", total, grown)
	}
}

// lines are what was logged.
type lines struct {
	mu   sync.Mutex
	text strings.Builder
}

func (l *lines) Write(b []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.Write(b)
}

func (l *lines) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.String()
}

// A log that compacts by itself says so in its log, once for a run that took something away, and counts it.
func TestCompactAfter(t *testing.T) {
	t.Parallel()
	pool := database(t)
	old(t, openLog(t, pool), 0, 1, 2, 1, 2, 3)
	var lines lines
	l, err := Open(t.Context(), pool, Options{CompactAfter: time.Hour, Logger: slog.New(slog.NewTextHandler(&lines, nil))})
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	waitFor(t, "the compaction", func() bool { return strings.Contains(lines.String(), "compacted") })
	if have := kept(t, pool); have != "superseded superseded put put put" || strings.Count(lines.String(), "\n") != 1 ||
		!strings.Contains(lines.String(), `msg="superseded entries compacted" feed=things entries=2 bytes=`) || strings.Contains(lines.String(), "<&>") {
		t.Errorf("kept: %s\n%s", have, lines.String())
	}
	if n := testutil.ToFloat64(l.metrics.compacted.WithLabelValues(feedName)); n != 2 {
		t.Errorf("%g entries are counted", n)
	}
	if b := testutil.ToFloat64(l.metrics.freed.WithLabelValues(feedName)); b < 40 {
		t.Errorf("%g bytes are counted", b)
	}
}

// A dump from before an erasure that has compacted entries of the person brings nothing back.
func TestErasedAgainAfterACompaction(t *testing.T) {
	t.Parallel()
	pool := database(t)
	l := openLog(t, pool)
	old(t, l, 0, 1, 1, 1)
	compact(t, l, 0, 2)
	l.Close()
	file := filepath.Join(t.TempDir(), "erased")
	l, err := Open(t.Context(), pool, Options{Erasures: Erasures{File: file}})
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	if _, err := pool.Exec(t.Context(), `update feed set listed = 1`); err != nil { // as an older dump has it
		t.Fatal(err)
	}
	f, err := os.OpenFile(file, os.O_APPEND|os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	fmt.Fprintf(f, "2026-11-23T08:00:00Z %s %s\n", feedName, numbered(1))
	f.Close()
	if _, err := l.Versions(t.Context(), feedName, numbered(1), 10); err != nil {
		t.Error(err)
	}
	if have := kept(t, pool); have != "erased erased erased erased" {
		t.Errorf("kept: %s", have)
	}
	compact(t, l, 0, 0)
}

// A step costs what it looks at, however long the log is and however much was compacted before.
func TestCompactGoesOn(t *testing.T) {
	t.Parallel()
	pool := database(t)
	l := openLog(t, pool)
	old(t, l, 0, 1, 2, 1, 2)
	if _, err := pool.Exec(t.Context(), `
		insert into feed_entry select feed, position + 4 * n, kind, entity_id, version + 2 * n, updated + n * interval '1 s', payload, salt, payload_hash, digest
		  from feed_entry, generate_series(1, 5000) as n where position <= 4`); err != nil {
		t.Fatal(err)
	}
	exec(t, pool, `analyze feed_entry`)
	var looked []int
	for {
		var n, entries int
		if err := pool.QueryRow(t.Context(), `select looked, compacted from feed_compact_step($1, '0', 5000)`, feedName).Scan(&n, &entries); err != nil {
			t.Fatal(err)
		}
		if looked = append(looked, n); n < 5000 {
			break
		}
	}
	if fmt.Sprint(looked) != "[5000 5000 5000 5000 4]" {
		t.Errorf("looked at %v", looked)
	}
	old(t, l, 40000, 1, 2)
	pages := func() (read int64) {
		t.Helper()
		var plan []byte
		if err := pool.QueryRow(t.Context(), `explain (analyze, buffers, format json) select feed_compact_step($1, '0')`, feedName).Scan(&plan); err != nil {
			t.Fatal(err)
		}
		var p []struct {
			Plan struct {
				Hit  int64 `json:"Shared Hit Blocks"`
				Read int64 `json:"Shared Read Blocks"`
			}
		}
		if err := json.Unmarshal(plan, &p); err != nil {
			t.Fatal(err)
		}
		return p[0].Plan.Hit + p[0].Plan.Read
	}
	if n := pages(); n > 400 {
		t.Errorf("a step that looks at 2 entries reads %d pages", n)
	}
	if n := pages(); n > 100 {
		t.Errorf("a step that looks at no entry reads %d pages", n)
	}
}
