package publish

import (
	"context"
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/edison-cars/data-feeds/shared/feed"
	"github.com/edison-cars/data-feeds/shared/postgres/pgtest"
)

// looked makes the log believe that it last looked at the heads of the database then.
func (l *Log) lookedAt(then time.Time) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.looked = then
}

func (l *Log) head(t testing.TB) *Snapshot {
	t.Helper()
	at, _ := l.remembered(feedName)
	if at == nil {
		t.Fatal("the feed is not known")
	}
	return at
}

// lockOut keeps everybody else from the log's tables until the test is over.
func lockOut(t *testing.T, pool *pgxpool.Pool) {
	t.Helper()
	tx, err := pool.Begin(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = tx.Rollback(context.Background()) })
	if _, err := tx.Exec(t.Context(), `lock table feed, feed_entry in access exclusive mode`); err != nil {
		t.Fatal(err)
	}
}

func TestNotModifiedNeedsNoDatabase(t *testing.T) {
	t.Parallel()
	pool := database(t)
	l := deaf(t, pool)
	fill(t, l, 250)
	server := serve(t, l)
	head := l.head(t).Cursor().String()
	tags := map[string]string{}
	paths := []string{"/feeds/things", "/feeds/things.atom", "/feeds/things.html", "/feeds/things?after=0", "/feeds/things?after=" + head, "/feeds/things?before=" + head}
	for _, path := range paths {
		resp, _ := get(t, server, "GET", path)
		tags[path] = resp.Header.Get("ETag")
	}
	l.lookedAt(time.Now().Add(time.Hour)) // as if it had just looked, for the whole test
	lockOut(t, pool)
	for _, path := range paths {
		if resp, _ := get(t, server, "GET", path, "If-None-Match", tags[path]); resp.StatusCode != 304 || resp.Header.Get("ETag") != tags[path] {
			t.Errorf("%s: %d", path, resp.StatusCode)
		}
		if resp, body := get(t, server, "GET", path); resp.StatusCode != 200 || len(body) == 0 {
			t.Errorf("%s from the cache: %d", path, resp.StatusCode)
		}
	}
	// Nobody has asked for this one: the end of the feed is known all the same.
	other := "/feeds/things.json?limit=7&after=" + head
	if resp, _ := get(t, server, "GET", other, "If-None-Match", "*"); resp.StatusCode != 304 {
		t.Errorf("%s: %d", other, resp.StatusCode)
	}
}

// What this process has just appended is served from memory, to the byte what another process reads in the database.
func TestNewestEntriesNeedNoDatabase(t *testing.T) {
	t.Parallel()
	pool := database(t)
	l := deaf(t, pool)
	server := serve(t, l)
	total := 0
	for round, n := range []int{1, 1, 3, 40, 1, 60, 130, 2, 99, 1, 250, 5} {
		entries := lives(n)
		for i := range entries {
			entries[i].ID[0], entries[i].ID[1] = byte(round), 0x7c
		}
		if err := l.InTx(t.Context(), func(tx *Tx) error { tx.Append(feedName, entries...); return nil }); err != nil {
			t.Fatal(err)
		}
		total += n
		other := serve(t, openLog(t, pool)) // which remembers nothing
		head := l.head(t)
		for _, back := range []int{0, 1, 2, 5, n - 1, n, n + 1, 99, 100, 101} {
			at := max(total-back, 1)
			path := fmt.Sprintf("/feeds/things?after=%s&limit=%d", cursorAt(t, pool, int64(at)), []int{1000, 100, 7}[(round+back)%3])
			resp, body := get(t, server, "GET", path)
			want, wanted := get(t, other, "GET", path)
			if resp.StatusCode != 200 || body != wanted || resp.Header.Get("ETag") != want.Header.Get("ETag") || resp.Header.Get("Link") != want.Header.Get("Link") {
				t.Fatalf("%s is not what another process serves:\n%d %s\n%s\n%s", path, resp.StatusCode, resp.Header, body, wanted)
			}
		}
		if at := head.Recent; len(at) != min(total, maxRecent) || at[len(at)-1].Cursor != head.Cursor() {
			t.Fatalf("after %d entries %d are at hand", total, len(at))
		}
	}
	path := "/feeds/things?limit=1000&after=" + cursorAt(t, pool, int64(total-50)).String()
	l.lookedAt(time.Now().Add(time.Hour))
	lockOut(t, pool)
	if resp, body := get(t, server, "GET", path, "Accept-Encoding", "zstd"); resp.StatusCode != 200 || len(body) == 0 {
		t.Errorf("without the database: %d", resp.StatusCode)
	}
}

func TestHeadsKeepInStep(t *testing.T) {
	t.Parallel()
	pgtest.Slow(t, "many databases")
	follower := func(t *testing.T, pool *pgxpool.Pool, interval time.Duration) *Log {
		t.Helper()
		l, err := open(t.Context(), pool, Options{}, interval, patience)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(l.Close)
		return l
	}
	commit := func(t *testing.T, l *Log) {
		t.Helper()
		if err := l.Commit(t.Context(), put(thing(uuid.New(), 1))); err != nil {
			t.Fatal(err)
		}
	}
	listeners := func(t *testing.T, pool *pgxpool.Pool) (pids []int) {
		t.Helper()
		rows, err := pool.Query(t.Context(), `select pid from pg_locks join pg_database d on d.oid = database where datname = current_database() and locktype = 'advisory' and classid = $1`, listenLock)
		if err == nil {
			pids, err = pgx.CollectRows(rows, pgx.RowTo[int])
		}
		if err != nil {
			t.Fatal(err)
		}
		return pids
	}

	t.Run("by a notification", func(t *testing.T) {
		t.Parallel()
		pool := database(t)
		l := follower(t, pool, time.Hour)
		waitFor(t, "it to listen", func() bool { return len(listeners(t, pool)) == 1 })
		writer := openLog(t, pool)
		for n := range 3 {
			commit(t, writer)
			waitFor(t, "the entry of the other process", func() bool { return l.head(t).Position == int64(n+1) })
		}
		if l.head(t).Head != writer.head(t).Head {
			t.Error("they know different heads")
		}
	})
	t.Run("nobody is told where nobody listens", func(t *testing.T) {
		t.Parallel()
		pool := database(t)
		l := follower(t, pool, 20*time.Millisecond)
		waitFor(t, "it to know that it is alone", l.peers.alone.Load)
		other := follower(t, pool, time.Hour)
		waitFor(t, "it to know of the other", func() bool { return !l.peers.alone.Load() })
		commit(t, l)
		waitFor(t, "the entry of the other process", func() bool { return other.head(t).Position == 1 })
		for _, pid := range listeners(t, pool) {
			exec(t, pool, `select pg_terminate_backend($1)`, pid)
		}
		waitFor(t, "it to know that it is alone again", l.peers.alone.Load) // the other looks again in an hour
	})
	t.Run("a log in another schema is another one", func(t *testing.T) {
		t.Parallel()
		pool := database(t)
		if err := Migrate(t.Context(), pool, Options{Schema: "other"}); err != nil {
			t.Fatal(err)
		}
		l := follower(t, pool, 20*time.Millisecond)
		other, err := open(t.Context(), pool, Options{Schema: "other"}, 20*time.Millisecond, patience)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(other.Close)
		waitFor(t, "both to listen", func() bool { return len(listeners(t, pool)) == 2 })
		waitFor(t, "both to know that they are alone", func() bool { return l.peers.alone.Load() && other.peers.alone.Load() })
	})
	t.Run("by looking, when notifications get lost", func(t *testing.T) {
		t.Parallel()
		pool := database(t)
		l, writer := follower(t, pool, 20*time.Millisecond), deaf(t, pool) // and mute
		for n := range 3 {
			commit(t, writer)
			waitFor(t, "the entry of the other process", func() bool { return l.head(t).Position == int64(n+1) })
		}
	})
	t.Run("after its connection was cut", func(t *testing.T) {
		t.Parallel()
		pool := database(t)
		l, writer := follower(t, pool, 20*time.Millisecond), deaf(t, pool)
		waitFor(t, "it to listen", func() bool { return len(listeners(t, pool)) >= 1 })
		for _, pid := range listeners(t, pool) {
			exec(t, pool, `select pg_terminate_backend($1)`, pid)
		}
		commit(t, writer)
		waitFor(t, "the entry of the other process", func() bool { return l.head(t).Position == 1 })
	})
	t.Run("by asking, when nobody looked for long", func(t *testing.T) {
		t.Parallel()
		pool := database(t)
		l, writer := deaf(t, pool), deaf(t, pool)
		server := serve(t, l)
		l.lookedAt(time.Now().Add(time.Hour))
		commit(t, writer)
		if p := readJSON(t, server, "/feeds/things?after=0"); len(p.Items) != 0 {
			t.Fatal("it was to know nothing of the entry yet")
		}
		l.lookedAt(time.Now().Add(-maxStale))
		if p := readJSON(t, server, "/feeds/things?after=0"); len(p.Items) != 1 {
			t.Errorf("it answers with %d entries from a head that is too old", len(p.Items))
		}
	})
	t.Run("by what it reads", func(t *testing.T) {
		t.Parallel()
		pool := database(t)
		l, writer := deaf(t, pool), deaf(t, pool)
		server := serve(t, l)
		commit(t, l)
		l.lookedAt(time.Now().Add(time.Hour))
		first := l.head(t).Cursor().String()
		commit(t, writer)
		if p := readJSON(t, server, "/feeds/things?after=0&limit=2"); len(p.Items) != 2 {
			t.Fatalf("it reads %d entries", len(p.Items))
		}
		if p := readJSON(t, server, "/feeds/things?after="+first); len(p.Items) != 1 {
			t.Error("a later answer knows less than an earlier one")
		}
	})
}

// A between does something after its query has seen the database, and before the answer is looked at.
type between struct {
	*pgxpool.Pool
	do func()
}

func (b between) Query(ctx context.Context, sql string, args ...any) (pgx.Rows, error) {
	rows, err := b.Pool.Query(ctx, sql, args...)
	b.do()
	return rows, err
}

func TestAppendDuringALookAtTheHeads(t *testing.T) {
	t.Parallel()
	pool := database(t)
	l, other := deaf(t, pool), deaf(t, pool)
	commit := func(l *Log) {
		if err := l.Commit(t.Context(), put(thing(uuid.New(), 1))); err != nil {
			t.Error(err)
		}
	}
	commit(l)
	for range 3 {
		if _, err := l.refresh(t.Context(), between{pool, func() { commit(l) }}); err != nil {
			t.Fatal(err)
		}
		if h := l.head(t); h.Position != int64(len(logged(t, pool))) || l.epoch != 0 {
			t.Fatalf("it went back to %s, history %d", h.Cursor(), l.epoch)
		}
	}
	commit(other)
	if _, err := l.refresh(t.Context(), between{pool, func() { commit(other) }}); err != nil || l.head(t).Position != 5 {
		t.Errorf("it is at %s, %v", l.head(t).Cursor(), err)
	}
}

// restore takes the feed back to a position, and sells on.
func restore(t testing.TB, pool *pgxpool.Pool, position, more int) {
	t.Helper()
	exec(t, pool, `
		with gone as (delete from feed_entry where position > $1)
		update feed set marked_position = 0`, position)
	l := deaf(t, pool)
	for range more {
		if err := l.Commit(t.Context(), put(thing(uuid.New(), 1))); err != nil {
			t.Fatal(err)
		}
	}
}

// The database goes back to a backup under a process that goes on.
func TestAnotherHistoryUnderARunningSource(t *testing.T) {
	t.Parallel()
	pgtest.Slow(t, "restores")
	pool := database(t)
	l := openLog(t, pool)
	fill(t, l, 250)
	server := serve(t, l)
	lost := []feed.Cursor{cursorAt(t, pool, 150), cursorAt(t, pool, 200), cursorAt(t, pool, 250)}
	kept := cursorAt(t, pool, 100)
	for _, c := range append(lost, kept) {
		get(t, server, "GET", "/feeds/things?limit=10&after="+c.String())
	}
	waiting, answered := make(chan struct{}), make(chan *http.Response, 1)
	go func() {
		close(waiting)
		resp, _ := get(t, server, "GET", "/feeds/things?after="+lost[2].String(), "Prefer", "wait=30")
		answered <- resp
	}()
	<-waiting
	restore(t, pool, 120, 200)
	if resp := <-answered; resp.StatusCode != http.StatusGone {
		t.Errorf("who waited got %d", resp.StatusCode)
	}
	waitFor(t, "the restored head", func() bool { return l.head(t).Position == 320 })
	for _, c := range lost {
		resp, body := get(t, server, "GET", "/feeds/things?limit=10&after="+c.String())
		if resp.StatusCode != http.StatusGone {
			t.Errorf("%s: %d %s", c, resp.StatusCode, body)
		}
	}
	if p := readJSON(t, server, "/feeds/things?limit=10&after="+kept.String()); len(p.Items) != 10 || p.Items[0].Datafeed.Position != 101 {
		t.Errorf("what both histories share is not served: %+v", p)
	}
	p := readJSON(t, server, "/feeds/things?limit=100&after="+kept.String())
	if end := cursorAt(t, pool, 200).String(); p.Datafeed.Cursor != end {
		t.Errorf("the page ends at %s, the history at %s there", p.Datafeed.Cursor, end)
	}
	if err := l.Commit(t.Context(), put(thing(uuid.New(), 1))); err != nil {
		t.Error(err)
	}
	logged(t, pool)
}

func TestServingWhileTheDatabaseIsAway(t *testing.T) {
	t.Parallel()
	pool := database(t)
	l, away := fragile(t, pool)
	fill(t, l, 250)
	server := serve(t, l)
	sealed, tail := "/feeds/things.json?after=0&limit=100", "/feeds/things.json?after="+l.head(t).Cursor().String()
	_, want := get(t, server, "GET", sealed)
	first, _ := get(t, server, "GET", tail)
	away.Store(true)
	exec(t, pool, `select pg_terminate_backend(pid) from pg_stat_activity where datname = current_database() and pid <> pg_backend_pid()`)
	l.lookedAt(time.Now().Add(-maxStale))
	if resp, body := get(t, server, "GET", sealed); resp.StatusCode != 200 || body != want {
		t.Errorf("a sealed page of the cache: %d", resp.StatusCode)
	}
	for _, header := range [][]string{nil, {"If-None-Match", first.Header.Get("ETag")}, {"Prefer", "wait=30"}, {"Accept", feed.TypeEvents}} {
		for _, path := range []string{tail, "/feeds/things"} {
			resp, body := get(t, server, "GET", path, header...)
			if resp.StatusCode != 503 || resp.Header.Get("Retry-After") == "" || resp.Header.Get("ETag") != "" || resp.Header.Get("Content-Type") != feed.TypeProblem {
				t.Errorf("%s %v: %d %v %s", path, header, resp.StatusCode, resp.Header, body)
			}
		}
	}
	away.Store(false)
	waitFor(t, "the database to be back", func() bool {
		resp, _ := get(t, server, "GET", tail, "If-None-Match", first.Header.Get("ETag"))
		return resp.StatusCode == 304
	})
}

// A look at the heads costs the same, however long the log is.
func TestLookIsIndependentOfTheLength(t *testing.T) {
	t.Parallel()
	pgtest.Slow(t, "large tables")
	pool := database(t)
	l := openLog(t, pool)
	for range 20 {
		entries := make([]Entry, 1000)
		for i := range entries {
			entries[i] = thing(uuid.New(), 1)
		}
		appendAll(t, l, entries)
	}
	if _, err := pool.Exec(t.Context(), `analyze`); err != nil {
		t.Fatal(err)
	}
	rows, err := pool.Query(t.Context(), `explain select position, digest, is_whole from feed_head`)
	if err != nil {
		t.Fatal(err)
	}
	plan, err := pgx.CollectRows(rows, pgx.RowTo[string])
	if text := strings.Join(plan, "\n"); err != nil || strings.Contains(text, "Seq Scan on feed_entry") {
		t.Errorf("%v: the look reads the whole log:\n%s", err, text)
	}
}

// Under an old snapshot, as pg_dump has one, every version of a row stays. An append makes none of the row of its feed, so
// that neither appends nor looks at the heads become slower.
func TestOldSnapshot(t *testing.T) {
	t.Parallel()
	pool := database(t)
	exec(t, pool, `create table staged (id int primary key); select feed_create('staged'), feed_attach('staged', 'staged', 'id', mode => 'staged')`)
	l := openLog(t, pool)
	fill(t, l, 1)
	old, err := pool.BeginTx(t.Context(), pgx.TxOptions{IsoLevel: pgx.RepeatableRead})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = old.Rollback(context.Background()) }()
	size := func() (bytes int64) {
		if err := pool.QueryRow(t.Context(), `select pg_relation_size('feed')`).Scan(&bytes); err != nil {
			t.Fatal(err)
		}
		return bytes
	}
	var n, entries int
	if err := old.QueryRow(t.Context(), `select count(*) from feed_entry`).Scan(&n); err != nil {
		t.Fatal(err)
	}
	const appends = 200
	before := size()
	for i := range appends {
		for how, write := range writers {
			if err := write(t.Context(), l, thing(uuid.New(), 1)); err != nil {
				t.Fatal(how, ": ", err)
			}
		}
		exec(t, pool, `select feed_put('things', $1::text, '{}')`, fmt.Sprint(i))
		exec(t, pool, `insert into staged values ($1)`, i)
		exec(t, pool, `select feed_move('staged')`)
	}
	if after := size(); after > before {
		t.Errorf("the table feed grew from %d to %d bytes with %d appends", before, after, 4*appends)
	}
	if err := old.QueryRow(t.Context(), `select count(*) from feed_entry`).Scan(&entries); err != nil || entries != n {
		t.Errorf("the snapshot shows %d entries, %v", entries, err)
	}
	var position int64
	if err := old.QueryRow(t.Context(), `select position from feed_head where name = $1`, feedName).Scan(&position); err != nil || position != int64(n) {
		t.Errorf("the snapshot shows the head at %d, %v", position, err)
	}
}
