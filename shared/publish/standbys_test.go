package publish

import (
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/prometheus/client_golang/prometheus/testutil"

	"github.com/edison-cars/data-feeds/shared/feed"
	"github.com/edison-cars/data-feeds/shared/postgres/pgtest"
)

// readingStandbys returns a primary with standbys, a log that reads from them, and its server.
func readingStandbys(t *testing.T, n int) (primary *pgtest.Server, standbys []*pgtest.Server, l *Log, server *httptest.Server) {
	t.Helper()
	pgtest.Slow(t, "standbys")
	primary, standby, _ := replicated(t)
	standbys = append(standbys, standby)
	for range n - 1 {
		standbys = append(standbys, primary.Standby())
	}
	pool, read := primary.OpenWithStandbys("things", standbys...)
	l, err := Open(t.Context(), pool, Options{Standbys: read})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(l.Close)
	return primary, standbys, l, serve(t, l)
}

// waitReplayed waits until all standbys have replayed what the primary has.
func waitReplayed(t *testing.T, pool *pgxpool.Pool) {
	t.Helper()
	waitFor(t, "the standbys to be where the primary is", func() (are bool) {
		err := pool.QueryRow(t.Context(), `select bool_and(replay_lsn >= pg_current_wal_lsn()) from pg_stat_replication`).Scan(&are)
		return err == nil && are
	})
}

func reads(l *Log, from string) float64 {
	return testutil.ToFloat64(l.metrics.reads.WithLabelValues(from))
}

func misses(l *Log, reason string) float64 {
	return testutil.ToFloat64(l.metrics.standbyMisses.WithLabelValues(reason))
}

// pathsOf are a path of each kind that is read from a database, with a number of their own, so that none is in memory.
func pathsOf(t *testing.T, l *Log, pool *pgxpool.Pool, limit int) []string {
	t.Helper()
	n := strconv.Itoa(limit)
	return []string{
		".json?limit=" + n, ".atom?after=0&limit=" + n, ".json?after=" + cursorAt(t, pool, 5).String() + "&limit=" + n,
		".json?before=" + cursorAt(t, pool, int64(limit)).String(), "?snapshot=0&limit=" + n,
		"?snapshot=" + l.Remembered(feedName).Cursor().String() + "&from=" + numbered(3).String() + "&limit=" + n, "/" + numbered(limit).String(),
	}
}

// Pages, snapshots and versions come from the standbys, by turns, with the bytes of the primary. That something is not
// there is the primary's word.
func TestReadsFromStandbys(t *testing.T) {
	t.Parallel()
	_, standbys, l, server := readingStandbys(t, 2)
	fill(t, l, 250)
	waitReplayed(t, l.pool)
	plainly := serve(t, impatient(t, l.pool))
	paths := pathsOf(t, l, l.pool, 11)
	for _, path := range paths {
		before := reads(l, "standby")
		answer, body := get(t, server, "GET", "/feeds/things"+path)
		if want, same := get(t, plainly, "GET", "/feeds/things"+path); body != same || answer.Header.Get("ETag") != want.Header.Get("ETag") || answer.StatusCode != 200 {
			t.Errorf("%s: %d %s, want %d %s", path, answer.StatusCode, body, want.StatusCode, same)
		}
		if reads(l, "standby") == before || answer.Header.Get("Age") != "" {
			t.Errorf("%s was not read from a standby: %v", path, answer.Header)
		}
	}
	if n := reads(l, "primary"); n != 0 {
		t.Errorf("%v reads were from the primary", n)
	}
	for i, standby := range standbys {
		if l.standbys.all[i].pool.Stat().AcquireCount() == 0 {
			t.Errorf("%s was never asked", standby.URL("things"))
		}
	}
	for path, status := range map[string]int{
		"/" + uuid.NewString():                             http.StatusNotFound,
		"?after=7-0123456789ab":                            http.StatusGone,
		"?after=900-0123456789ab":                          http.StatusGone,
		"?snapshot=7-0123456789ab&limit=10":                http.StatusGone,
		"/jump?to=251":                                     http.StatusNotFound,
		"/jump?to=2001-01-01":                              http.StatusNotFound,
		"/jump?to=" + uuid.NewString():                     http.StatusNotFound,
		"/newer?before=" + cursorAt(t, l.pool, 7).String(): http.StatusTemporaryRedirect,
	} {
		before := reads(l, "primary")
		if answer, body := get(t, server, "GET", "/feeds/things"+path); answer.StatusCode != status {
			t.Errorf("%s: %d %s, want %d", path, answer.StatusCode, body, status)
		}
		if n := reads(l, "primary"); n == before && status == http.StatusGone {
			t.Errorf("%s: the primary was not asked", path)
		}
	}
	if n := misses(l, "behind") + misses(l, "failed"); n != 0 {
		t.Errorf("the standbys failed %v times", n)
	}
}

// A standby that lags is not read from, so that no page is older than what this process knows, and nothing that is
// erased is shown.
func TestStandbyThatLags(t *testing.T) {
	t.Parallel()
	_, standbys, l, server := readingStandbys(t, 1)
	fill(t, l, 250)
	waitReplayed(t, l.pool)
	first := l.Remembered(feedName).Cursor()
	standbys[0].Exec(`select pg_wal_replay_pause()`)
	gone := numbered(7)
	if err := l.InTx(t.Context(), func(tx *Tx) error {
		tx.Erase(feedName, gone, 2, start.Add(time.Minute))
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	for _, path := range append(pathsOf(t, l, l.pool, 12), "/"+gone.String(), "?after=0&limit=9", ".json?after="+first.String()) {
		answer, body := get(t, server, "GET", "/feeds/things"+path)
		if answer.StatusCode != 200 || strings.Contains(body, gone.String()[:4]+" ") {
			t.Errorf("%s: %d %s", path, answer.StatusCode, body)
		}
		if path == ".json?after="+first.String() && !strings.Contains(body, gone.String()) {
			t.Errorf("%s: the last entry is missing: %s", path, body)
		}
	}
	if n, from := misses(l, "behind"), reads(l, "standby"); n == 0 || from != 0 {
		t.Errorf("it was behind %v times, and was read from %v times", n, from)
	}
	standbys[0].Exec(`select pg_wal_replay_resume()`)
	waitReplayed(t, l.pool)
	waitFor(t, "the standby to be read from", func() bool {
		if answer, body := get(t, server, "GET", "/feeds/things/"+gone.String()); answer.StatusCode != 200 {
			t.Fatal(answer.StatusCode, body)
		}
		return reads(l, "standby") > 0
	})

	// What is compacted since is not shown either.
	standbys[0].Exec(`select pg_wal_replay_pause()`)
	if err := l.Commit(t.Context(), put(thing(numbered(8), 2))); err != nil {
		t.Fatal(err)
	}
	if _, err := l.Compact(t.Context(), feedName, 0); err != nil {
		t.Fatal(err)
	}
	waitFor(t, "the compaction to be known", func() bool { return l.Remembered(feedName).Compaction.ID != "" })
	if _, body := get(t, server, "GET", "/feeds/things/"+numbered(8).String()); strings.Count(body, `"superseded"`) != 1 {
		t.Errorf("the versions are %s", body)
	}
}

// While a snapshot is walked, a standby answers that has the snapshot's head, though entries were appended since.
func TestSnapshotFromStandbyThatLags(t *testing.T) {
	t.Parallel()
	_, standbys, l, server := readingStandbys(t, 1)
	fill(t, l, 50)
	waitReplayed(t, l.pool)
	head := l.Remembered(feedName).Cursor().String()
	standbys[0].Exec(`select pg_wal_replay_pause()`)
	if err := l.Commit(t.Context(), put(thing(numbered(51), 1))); err != nil {
		t.Fatal(err)
	}
	answer, body := get(t, server, "GET", "/feeds/things?snapshot="+head+"&limit=100")
	if n := strings.Count(body, `"position"`); answer.StatusCode != 200 || reads(l, "standby") != 1 || n != 50 {
		t.Errorf("%d, %d entries: %s", answer.StatusCode, n, body)
	}
	answer, body = get(t, server, "GET", "/feeds/things?snapshot=0&limit=100")
	if n := strings.Count(body, `"position"`); answer.StatusCode != 200 || reads(l, "standby") != 1 || n != 51 {
		t.Errorf("%d, %d entries: %s", answer.StatusCode, n, body)
	}
}

// A standby that is killed, or hangs, is done without, and used again when it is back.
func TestStandbyThatIsDown(t *testing.T) {
	t.Parallel()
	primary, standbys, l, server := readingStandbys(t, 1)
	primary.Exec("alter system set synchronous_standby_names = ''", "select pg_reload_conf()")
	fill(t, l, 250)
	waitReplayed(t, l.pool)
	fetch := func() { // from no cache
		t.Helper()
		if answer, body := get(t, server, "GET", "/feeds/things/"+numbered(7).String()); answer.StatusCode != 200 {
			t.Fatal(answer.StatusCode, body)
		}
	}
	back := func() {
		t.Helper()
		waitReplayed(t, l.pool)
		before := reads(l, "standby")
		waitFor(t, "the standby to be read from", func() bool { fetch(); return reads(l, "standby") > before })
	}
	back()
	for name, c := range map[string]func() (undo func()){
		"killed": func() func() { standbys[0].Kill(); return standbys[0].Start },
		"hangs":  func() func() { return standbys[0].Freeze(t) },
	} {
		undo, before := c(), misses(l, "failed")
		for range 100 { // one of them waits
			fetch()
		}
		if n := misses(l, "failed") - before; n == 0 || n > 50 {
			t.Errorf("%s: it failed %v times", name, n)
		}
		if err := l.Appendable(t.Context(), feedName); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		undo()
		back()
	}
}

// While the primary hangs, what was promised is served, with its age, and nothing else.
func TestPrimaryThatHangs(t *testing.T) {
	t.Parallel()
	primary, standbys, l, server := readingStandbys(t, 1)
	fill(t, l, 250)
	waitReplayed(t, l.pool)
	head := l.Remembered(feedName).Cursor()
	tail := "/feeds/things.json?after=" + head.String()
	answer, _ := get(t, server, "GET", tail)
	tag, paths := answer.Header.Get("ETag"), pathsOf(t, l, l.pool, 13)
	unknown := []string{"?after=7-0123456789ab", "/" + uuid.NewString()}
	thaw := primary.Freeze(t)
	waitFor(t, "the age to be told", func() bool {
		answer, _ := get(t, server, "GET", "/feeds/things.json?limit=3")
		return answer.StatusCode == 200 && answer.Header.Get("Age") != ""
	})
	for _, path := range paths {
		waitFor(t, path+" to be served", func() bool {
			answer, _ := get(t, server, "GET", "/feeds/things"+path)
			return answer.StatusCode == 200
		})
	}
	for _, header := range [][]string{{"If-None-Match", tag}, {"If-None-Match", tag, "Prefer", "wait=1"}} {
		waitFor(t, "a 304 with an age", func() bool {
			answer, _ := get(t, server, "GET", tail, header...)
			return answer.StatusCode == http.StatusNotModified && answer.Header.Get("Age") != ""
		})
	}
	waitFor(t, "the end of the wait", func() bool {
		answer, body := get(t, server, "GET", tail, "Prefer", "wait=1")
		return answer.StatusCode == 200 && answer.Header.Get("Age") != "" && strings.Contains(body, `"head":"`+head.String()+`"`)
	})
	for _, path := range unknown {
		if answer, body := get(t, server, "GET", "/feeds/things"+path); answer.StatusCode != http.StatusServiceUnavailable {
			t.Errorf("%s: %d %s, want 503", path, answer.StatusCode, body)
		}
	}
	thaw()
	waitFor(t, "the age to be over", func() bool {
		answer, _ := get(t, server, "GET", tail)
		return answer.StatusCode == 200 && answer.Header.Get("Age") == ""
	})

	// A standby without the last entry does not stand in.
	standbys[0].Exec(`select pg_wal_replay_pause()`)
	if err := l.Commit(t.Context(), put(thing(numbered(251), 1))); err != nil {
		t.Fatal(err)
	}
	thaw = primary.Freeze(t)
	waitFor(t, "the feed to be refused", func() bool {
		answer, body := get(t, server, "GET", "/feeds/things.json?limit=3")
		if answer.StatusCode == 200 && !strings.Contains(body, numbered(251).String()) {
			t.Fatalf("the last entry is missing: %s", body)
		}
		return answer.StatusCode == http.StatusServiceUnavailable
	})
	standbys[0].Exec(`select pg_wal_replay_resume()`)
	waitFor(t, "the feed to be served", func() bool {
		answer, body := get(t, server, "GET", "/feeds/things.json?limit=3")
		return answer.StatusCode == 200 && strings.Contains(body, numbered(251).String())
	})
	thaw()
}

// What the list says is erased is not read from a standby that still has it, though this process has not seen the erasure.
func TestListedIsNotReadFromAStandby(t *testing.T) {
	t.Parallel()
	pgtest.Slow(t, "a standby")
	primary, standby, pool := replicated(t)
	exec(t, pool, peopleSQL)
	waitReplayed(t, pool)
	file := filepath.Join(t.TempDir(), "erased")
	other, err := openPersonal(t, pool, file, t.Output())
	if err != nil {
		t.Fatal(err)
	}
	own, read := primary.OpenWithStandbys("things", standby)
	l, err := Open(t.Context(), own, Options{Standbys: read, Erasures: Erasures{File: file}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(l.Close)
	ada, bob := uuid.New(), uuid.New()
	signUp(t, other, ada, "Ada")
	signUp(t, other, bob, "Bob")
	waitReplayed(t, pool)
	waitFor(t, "a standby to be read from", func() bool {
		entries, err := l.Versions(t.Context(), feedName, ada, 10)
		return err == nil && len(entries) == 1 && reads(l, "standby") > 0
	})
	standby.Exec(`select pg_wal_replay_pause()`)
	if err := other.Commit(t.Context(), erasing(ada)); err != nil {
		t.Fatal(err)
	}
	entries, err := l.Versions(t.Context(), feedName, ada, 10)
	if err != nil || len(entries) != 2 {
		t.Fatal(err, entries)
	}
	for _, e := range entries {
		if e.Entity != nil || !e.Erased {
			t.Errorf("it still says %s", e.Entity)
		}
	}
	found, err := l.Entities(t.Context(), feedName, feed.Cursor{}, uuid.Nil, 10)
	if err != nil || len(found.Entries) != 2 {
		t.Fatal(err, found)
	}
	for _, e := range found.Entries {
		if (e.ID == ada) != e.Erased {
			t.Errorf("the snapshot has %+v", e)
		}
	}
}
