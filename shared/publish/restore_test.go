package publish

import (
	"context"
	"errors"
	"net/http"
	osexec "os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/edison-cars/data-feeds/shared/migrate"
	"github.com/edison-cars/data-feeds/shared/postgres/pgtest"
	"github.com/edison-cars/data-feeds/shared/web"
	"github.com/edison-cars/data-feeds/sql"
)

// The tables are made again under a log that runs: what its connections remember of types and statements holds no write
// up for longer than one failure.
func TestTablesMadeAnew(t *testing.T) {
	t.Parallel()
	server := pgtest.NewServer(t)
	for name, renew := range map[string]func(t *testing.T, pool *pgxpool.Pool, dump string){
		"restored": func(t *testing.T, pool *pgxpool.Pool, dump string) {
			runProgram(t, server.Program("pg_restore"), "--clean", "--dbname="+pgtest.URL(pool), dump)
		},
		"emptied": func(t *testing.T, pool *pgxpool.Pool, _ string) {
			exec(t, pool, `drop schema public cascade; create schema public`)
			if err := migrate.Up(t.Context(), pool, "", sql.Migrations("publish")); err != nil {
				t.Fatal(err)
			}
			exec(t, pool, `select feed_create('`+feedName+`')`)
			exec(t, pool, `create table thing (id uuid primary key, version bigint not null, check (version < 1000))`)
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			admin := server.Open(name, sql.Migrations("publish"))
			exec(t, admin, `select feed_create('`+feedName+`')`)
			exec(t, admin, `create table thing (id uuid primary key, version bigint not null, check (version < 1000))`)
			own := ownPool(t, admin)
			l := openLog(t, own)
			source := serve(t, l)
			n := 0
			write := func(by func(context.Context, *Log, Entry) error) error {
				n++
				return by(t.Context(), l, thing(numbered(n), 1))
			}
			for range 3 {
				for how, by := range writers {
					if err := write(by); err != nil {
						t.Fatal(how, ": ", err)
					}
				}
			}
			dump := filepath.Join(t.TempDir(), "dump")
			runProgram(t, server.Program("pg_dump"), "--format=custom", "--file="+dump, pgtest.URL(admin))
			before := len(logged(t, admin))
			for how, by := range writers {
				if err := write(by); err != nil {
					t.Fatal(how, ": ", err)
				}
			}
			renew(t, admin, dump)
			if name == "emptied" {
				before = 0
			}
			for how, by := range writers {
				failures := 0
				for range 5 {
					if err := write(by); err != nil {
						failures++
						t.Log(how, ": ", err)
					}
				}
				if before += 5 - failures; failures > 1 {
					t.Errorf("%s: %d failures, want one at most", how, failures)
				}
			}
			admin.Reset()
			if got := len(logged(t, admin)); got != before {
				t.Errorf("the log has %d entries, want %d", got, before)
			}
			waitFor(t, "the feed to be served", func() bool {
				resp, _ := get(t, source, "GET", "/feeds/things.json?after=0&limit=100")
				return resp.StatusCode == http.StatusOK
			})
		})
	}
}

func runProgram(t *testing.T, program string, args ...string) {
	t.Helper()
	if out, err := osexec.CommandContext(t.Context(), program, args...).CombinedOutput(); err != nil {
		t.Fatalf("%s: %v\n%s", program, err, out)
	}
}

// A log that lacks the entry of its feed's mark, as after the restore of that table alone, is neither served as a shorter
// history nor written to. Neither is one without its feed.
func TestRestoredInPart(t *testing.T) {
	t.Parallel()
	pgtest.Slow(t, "restores")
	for name, restore := range map[string]string{
		"no feed":           `delete from feed`,
		"an older log":      `delete from feed_entry where position > 2`,
		"an empty log":      `truncate feed_entry`,
		"another log":       `update feed_entry set digest = sha256(digest)`,
		"an end that lacks": `delete from feed_entry where position = 5`,
		"nothing at all":    `truncate feed_entry, feed`,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			pool := database(t)
			l, first := openLog(t, pool), uuid.New()
			server := serve(t, l)
			if err := l.Commit(t.Context(), put(thing(first, 1))); err != nil {
				t.Fatal(err)
			}
			moveMark(t, pool)
			fill(t, l, 4)
			exec(t, pool, `create table kept_feed as table feed`)
			exec(t, pool, `create table kept_entry as table feed_entry`)
			third := cursorAt(t, pool, 3).String()
			exec(t, pool, restore)
			for _, path := range []string{"/feeds/things.json?after=0&limit=2", "/feeds/things.json?limit=1&after=" + third} {
				resp, body := get(t, server, "GET", path) // at once, while the head of before is remembered
				if resp.StatusCode == http.StatusGone || resp.StatusCode == http.StatusOK && strings.Contains(body, `"up_to_date":true`) {
					t.Errorf("%s: %d %s", path, resp.StatusCode, body)
				}
			}
			before := entries(t, pool)
			for how, write := range writers {
				if err := write(t.Context(), l, thing(uuid.New(), 1)); web.StatusOf(err) != http.StatusServiceUnavailable || errors.Is(err, ErrUnknown) {
					t.Errorf("%s: %v", how, err)
				}
			}
			if n := entries(t, pool); n != before {
				t.Errorf("%d entries were appended", n-before)
			}
			waitFor(t, "the feed not to be served", func() bool {
				resp, body := get(t, server, "GET", "/feeds/things?after=0&limit=10")
				return resp.StatusCode == http.StatusServiceUnavailable && resp.Header.Get("Retry-After") != "" && strings.Contains(body, "restored")
			})
			for _, id := range []uuid.UUID{first, uuid.New()} {
				if resp, body := get(t, server, "GET", "/feeds/things/"+id.String()); resp.StatusCode == http.StatusNotFound {
					t.Errorf("an entity: %d %s", resp.StatusCode, body)
				}
			}
			if err := l.Appendable(t.Context()); web.StatusOf(err) != http.StatusServiceUnavailable {
				t.Errorf("appendable: %v", err)
			}
			if other, err := Open(t.Context(), pool, Options{}); err == nil {
				if name != "no feed" && name != "nothing at all" { // which is as a database that has no feed yet
					t.Error("a process starts on it")
				}
				resp, body := get(t, serve(t, other), "GET", "/feeds/things?after=0&limit=10")
				if resp.StatusCode != http.StatusServiceUnavailable || resp.Header.Get("Retry-After") == "" || !strings.Contains(body, "restored") {
					t.Errorf("a process that starts on it answers %d %s", resp.StatusCode, body)
				}
				for how, err := range map[string]error{"ready": other.Appendable(t.Context(), feedName), "write": other.Commit(t.Context(), put(thing(uuid.New(), 1)))} {
					if web.StatusOf(err) != http.StatusServiceUnavailable {
						t.Errorf("a process that starts on it, %s: %v", how, err)
					}
				}
				other.Close()
			}
			exec(t, pool, `begin; truncate feed, feed_entry; insert into feed select * from kept_feed; insert into feed_entry select * from kept_entry; commit`)
			waitFor(t, "the feed to be served", func() bool {
				resp, body := get(t, server, "GET", "/feeds/things.json?after=0&limit=10")
				return resp.StatusCode == http.StatusOK && strings.Contains(body, first.String())
			})
			if err := errors.Join(l.Appendable(t.Context()), l.Commit(t.Context(), put(thing(uuid.New(), 1)))); err != nil || len(logged(t, pool)) != 6 {
				t.Errorf("in the end: %v", err)
			}
		})
	}
}

// moveMark makes the next append move the mark, as one a minute later does.
func moveMark(t *testing.T, pool *pgxpool.Pool) {
	t.Helper()
	exec(t, pool, `update feed set marked_at = marked_at - interval '61 seconds'`)
}

// A mark that a clock set which was ahead is moved as an old one.
func TestMarkOfAClockAhead(t *testing.T) {
	t.Parallel()
	pool := database(t)
	l := openLog(t, pool)
	fill(t, l, 1)
	exec(t, pool, `update feed set marked_at = now() + interval '10 days'`)
	if err := l.Commit(t.Context(), put(thing(uuid.New(), 1))); err != nil {
		t.Fatal(err)
	}
	var at int64
	if err := pool.QueryRow(t.Context(), `select marked_position from feed where marked_at < now()`).Scan(&at); err != nil || at != 2 {
		t.Errorf("the mark is at %d, %v", at, err)
	}
}

// A log that has the entry of its feed's mark is the history, whatever its feed remembers: the row of a feed may be older,
// and what a log lost within a minute is as after the restore of a dump.
func TestMark(t *testing.T) {
	t.Parallel()
	pgtest.Slow(t, "restores")
	for name, test := range map[string]struct {
		restore string
		entries int
	}{
		"an older row of the feed": {`update feed set (marked_position, marked_digest) = (select position, digest from feed_entry where position = 2)`, 5},
		"a new row of the feed":    {`delete from feed; select feed_create('` + feedName + `')`, 5},
		"a log that ends later":    {`delete from feed_entry where position > 3`, 3},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			pool := database(t)
			l := openLog(t, pool)
			server := serve(t, l)
			fill(t, l, 5) // the first append moves the mark, later ones within a minute do not
			exec(t, pool, `update feed set (marked_position, marked_digest) = (select position, digest from feed_entry where position = 3)`)
			last := cursorAt(t, pool, 5).String()
			exec(t, pool, test.restore)
			waitFor(t, "the history to be served", func() bool {
				resp, _ := get(t, server, "GET", "/feeds/things.json?limit=1&after="+last)
				return (resp.StatusCode == http.StatusOK) == (test.entries == 5) && (resp.StatusCode == http.StatusGone) == (test.entries < 5)
			})
			for how, write := range writers {
				if err := write(t.Context(), l, thing(uuid.New(), 1)); err != nil {
					t.Errorf("%s: %v", how, err)
				}
			}
			exec(t, pool, `select feed_put('`+feedName+`', 'a', '{}')`)
			if n := len(logged(t, pool)); n != test.entries+3 {
				t.Errorf("the log has %d entries, want %d", n, test.entries+3)
			}
		})
	}
	t.Run("moves with time, entries and erasures", func(t *testing.T) {
		t.Parallel()
		pool := database(t)
		l := openLog(t, pool)
		wantMark := func(why string, want int64) {
			t.Helper()
			var mark int64
			if err := pool.QueryRow(t.Context(), `select marked_position from feed join feed_entry on (position, digest) = (marked_position, marked_digest)`).Scan(&mark); err != nil || mark != want {
				t.Errorf("%s: the mark is at %d, want %d: %v", why, mark, want, err)
			}
		}
		put := func(key string) { exec(t, pool, `select feed_put('`+feedName+`', $1::text, '{}')`, key) }
		fill(t, l, 1)
		wantMark("the first append", 1)
		fill2 := func(n int) {
			entries := make([]Entry, n)
			for i := range entries {
				entries[i] = thing(uuid.New(), 1)
			}
			appendAll(t, l, entries)
		}
		fill2(998)
		put("a")
		wantMark("999 further", 1)
		put("b")
		wantMark("1,000 further", 1001)
		fill2(999)
		wantMark("999 further", 1001)
		fill2(1)
		wantMark("1,000 further", 2001)
		put("c")
		moveMark(t, pool)
		put("c")
		wantMark("nothing was appended", 2001)
		put("d")
		wantMark("a minute later", 2003)
		moveMark(t, pool)
		fill2(1)
		wantMark("a minute later", 2004)
		exec(t, pool, `select feed_erase('`+feedName+`', 'a'::text)`)
		wantMark("an erasure by SQL", 2005)
		if err := l.InTx(t.Context(), func(tx *Tx) error { tx.Erase(feedName, numbered(1), 0, time.Time{}); return nil }); err != nil {
			t.Fatal(err)
		}
		wantMark("an erasure", 2006)
	})
}

// A row of the table feed that is older than an erasure would give pages of before it the tags of later ones.
func TestFeedRestoredAlone(t *testing.T) {
	t.Parallel()
	pgtest.Slow(t, "restores")
	pool := database(t)
	l, id := openLog(t, pool), uuid.New()
	server := serve(t, l)
	if err := l.Commit(t.Context(), put(thing(id, 1))); err != nil {
		t.Fatal(err)
	}
	exec(t, pool, `create table kept_feed as table feed`)
	err := l.InTx(t.Context(), func(tx *Tx) error {
		tx.Erase(feedName, id, 2, start.Add(time.Hour))
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	exec(t, pool, `create table newer_feed as table feed`)
	exec(t, pool, `begin; truncate feed; insert into feed select * from kept_feed; commit`)
	waitFor(t, "the feed not to be served", func() bool {
		resp, body := get(t, server, "GET", "/feeds/things?after=0&limit=10")
		return resp.StatusCode == http.StatusServiceUnavailable && strings.Contains(body, "restored")
	})
	exec(t, pool, `begin; truncate feed; insert into feed select * from newer_feed; commit`)
	waitFor(t, "the feed to be served", func() bool {
		resp, _ := get(t, server, "GET", "/feeds/things?after=0&limit=10")
		return resp.StatusCode == http.StatusOK
	})
}
