package publish

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/edison-cars/data-feeds/shared/feed"
	"github.com/edison-cars/data-feeds/shared/postgres/pgtest"
)

// openPersonal opens a log with a list, whose app keeps people in the table person.
func openPersonal(t testing.TB, pool *pgxpool.Pool, file string, says io.Writer) (*Log, error) {
	t.Helper()
	l, err := Open(t.Context(), pool, Options{Logger: slog.New(slog.NewTextHandler(says, nil)), Erasures: Erasures{
		File: file, Delete: func(ctx context.Context, tx pgx.Tx, feed string, ids []uuid.UUID) error {
			_, err := tx.Exec(ctx, `delete from person where id = any($1)`, ids)
			return err
		},
	}})
	if err == nil {
		t.Cleanup(l.Close)
	}
	return l, err
}

// people returns a database with a table of people beside the feed, and mail, which goes with them.
func people(t testing.TB) *pgxpool.Pool {
	t.Helper()
	pool := database(t)
	exec(t, pool, peopleSQL)
	return pool
}

const peopleSQL = `create table person (id uuid primary key, name text not null);
	create table letter (person_id uuid not null references person on delete cascade, name text not null)`

func signUp(t testing.TB, l *Log, id uuid.UUID, name string) {
	t.Helper()
	c := NewChange()
	c.Exec(`insert into person (id, name) values ($1, $2)`, id, name)
	c.Exec(`insert into letter (person_id, name) values ($1, $2)`, id, name)
	c.Append(feedName, Entry{ID: id, Version: 1, Updated: start, Payload: []byte(`{"name":"` + name + `"}`)})
	if err := l.Commit(t.Context(), c); err != nil {
		t.Fatal(err)
	}
}

func erasing(id uuid.UUID) *Change {
	c := NewChange()
	c.Exec(`with deleted as (delete from person where id = $1 returning 1) select feed_guard(count(*) = 1) from deleted`, id)
	c.Erase(feedName, id, 2, start.Add(time.Second))
	return c
}

// wantGone fails the test if a page or the database has the word.
func wantGone(t *testing.T, server *httptest.Server, pool *pgxpool.Pool, word string, id uuid.UUID) {
	t.Helper()
	for _, path := range []string{"", "?after=0", "?after=0&limit=1", ".atom?after=0", ".html", "?snapshot=0", "/" + id.String()} {
		var resp *http.Response
		var body string
		waitFor(t, path+" to be served", func() bool { // while it is erased again, it is not
			resp, body = get(t, server, "GET", "/feeds/things"+path)
			return resp.StatusCode != http.StatusServiceUnavailable
		})
		if resp.StatusCode != 200 || strings.Contains(body, word) || !strings.Contains(body, "rased") && path != "?after=0&limit=1" {
			t.Errorf("%s: %d %s", path, resp.StatusCode, body)
		}
	}
	if found := holds(t, pool, word); found > 0 {
		t.Errorf("the database still has %d rows with %q", found, word)
	}
}

// holds counts the rows that have the word.
func holds(t testing.TB, pool *pgxpool.Pool, word string) (rows int) {
	t.Helper()
	err := pool.QueryRow(context.Background(), `
		select (select count(*) from person where name = $1) + (select count(*) from letter where name = $1)
		     + (select count(*) from feed_entry where position(convert_to($1, 'UTF8') in payload) > 0)`, word).Scan(&rows)
	if err != nil {
		t.Fatal(err)
	}
	return rows
}

// A dump that is restored over an erasure brings nobody back: not under a process that runs, not in one that noticed
// nothing, and not at the next start.
func TestErasureOutlivesARestore(t *testing.T) {
	t.Parallel()
	pgtest.Slow(t, "restores")
	for name, args := range map[string][]string{"step by step": nil, "in one transaction": {"--single-transaction"}, "in parallel": {"--jobs=2"}} {
		t.Run("under running processes, "+name, func(t *testing.T) {
			t.Parallel()
			pool, file := people(t), filepath.Join(t.TempDir(), "made", "erased")
			l, err := openPersonal(t, pool, file, t.Output())
			if err != nil {
				t.Fatal(err)
			}
			other, err := openPersonal(t, pool, file, t.Output())
			if err != nil {
				t.Fatal(err)
			}
			server := personal(t, l, false)
			noticed := personal(t, other, false)
			ada, bob := uuid.New(), uuid.New()
			signUp(t, l, ada, "Ada")
			signUp(t, l, bob, "Bob")
			dump := pgtest.DumpFile(t, pool)
			if err := l.Commit(t.Context(), erasing(ada)); err != nil {
				t.Fatal(err)
			}
			wantGone(t, server, pool, "Ada", ada)

			// Everybody asks for everything all the time.
			asking, stop := context.WithCancel(t.Context())
			defer stop()
			var all sync.WaitGroup
			for _, s := range []*httptest.Server{server, noticed} {
				all.Go(func() {
					for n := 0; asking.Err() == nil; n++ {
						for _, path := range []string{"?after=0", fmt.Sprint("?after=0&limit=", 1+n%1000), "?snapshot=0", "/" + ada.String()} {
							if _, body := get(t, s, "GET", "/feeds/things"+path); strings.Contains(body, "Ada") {
								t.Errorf("%s is served: %s", path, body)
								return
							}
						}
					}
				})
			}
			all.Go(func() {
				for asking.Err() == nil {
					var rows int
					err := other.View(asking, feedName, func(tx pgx.Tx) ([]uuid.UUID, error) {
						err := tx.QueryRow(asking, `select (select count(*) from person where name = 'Ada') + (select count(*) from letter where name = 'Ada')`).Scan(&rows)
						return slices.Repeat([]uuid.UUID{ada}, rows), err
					})
					if err == nil && rows > 0 {
						t.Errorf("a view has %d rows of her", rows)
						return
					}
				}
			})
			pgtest.RestoreFile(t, pool, dump, args...)
			waitFor(t, "the erasure to be there again", func() bool {
				var listed bool
				err := pool.QueryRow(t.Context(), `select erasures > 0 from feed`).Scan(&listed)
				return err == nil && listed
			})
			stop()
			all.Wait()
			logged(t, pool)
			for _, s := range []*httptest.Server{server, noticed} {
				wantGone(t, s, pool, "Ada", ada)
			}
			if holds(t, pool, "Bob") != 3 {
				t.Error("others went, too")
			}
		})
	}
	t.Run("at the next start", func(t *testing.T) {
		t.Parallel()
		pool, file := people(t), filepath.Join(t.TempDir(), "erased")
		l, err := openPersonal(t, pool, file, t.Output())
		if err != nil {
			t.Fatal(err)
		}
		ada := uuid.New()
		signUp(t, l, ada, "Ada")
		dump := pgtest.DumpFile(t, pool)
		if err := l.InTx(t.Context(), func(tx *Tx) error {
			_, err := tx.Exec(t.Context(), `delete from person where id = $1`, ada)
			tx.Erase(feedName, ada, 2, start.Add(time.Second))
			return err
		}); err != nil {
			t.Fatal(err)
		}
		l.stop()
		l.watching.Wait()
		pgtest.RestoreFile(t, pool, dump)
		if holds(t, pool, "Ada") != 3 {
			t.Fatal("the restore has not brought her back")
		}
		var says bytes.Buffer
		again, err := openPersonal(t, pool, file, &says)
		if err != nil {
			t.Fatal(err)
		}
		if !strings.Contains(says.String(), "erased again") || strings.Contains(says.String(), "Ada") {
			t.Errorf("the log says %s", &says)
		}
		server := personal(t, again, false)
		wantGone(t, server, pool, "Ada", ada)
		if e := readJSON(t, server, "/feeds/things?after=0"); len(e.Items) != 2 {
			t.Errorf("it is erased by %d entries", len(e.Items))
		}
		third, err := openPersonal(t, pool, file, t.Output()) // which has nothing to do
		if err != nil || third.head(t).Head != again.head(t).Head {
			t.Errorf("%v, it appended again", err)
		}
	})
}

// A table that is restored alone, while the rest says that she is erased, brings nobody back either.
func TestErasureOutlivesARestoreOfATable(t *testing.T) {
	t.Parallel()
	pgtest.Slow(t, "restores")
	ada, bob := uuid.New(), uuid.New()
	const letter = `insert into letter select id, name from kept_person where name = 'Ada';`
	for name, restore := range map[string]string{
		"of the app":              `insert into person select * from kept_person where name = 'Ada' on conflict do nothing; ` + letter,
		"of the log":              `update feed_entry e set payload = k.payload, salt = k.salt from kept_entry k where e.position = k.position`,
		"of the app, with others": `truncate person, letter; insert into person select * from kept_person; insert into letter select id, name from kept_person;`,
		"of both": `insert into person select * from kept_person where name = 'Ada' on conflict do nothing; ` + letter +
			`update feed_entry e set payload = k.payload, salt = k.salt from kept_entry k where e.position = k.position`,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			pool, file := people(t), filepath.Join(t.TempDir(), "erased")
			l, err := openPersonal(t, pool, file, t.Output())
			if err != nil {
				t.Fatal(err)
			}
			other, err := openPersonal(t, pool, file, t.Output()) // which has erased nothing itself
			if err != nil {
				t.Fatal(err)
			}
			signUp(t, l, ada, "Ada")
			signUp(t, l, bob, "Bob")
			exec(t, pool, `create table kept_person as table person`)
			exec(t, pool, `create table kept_entry as table feed_entry`)
			if err := l.Commit(t.Context(), erasing(ada)); err != nil {
				t.Fatal(err)
			}
			for _, asked := range []*Log{l, other} {
				waitFor(t, "the table to be back", func() bool { // the other process may still be applying the list
					exec(t, pool, restore)
					return holds(t, pool, "Ada") > 0
				})
				var rows int
				err = asked.View(t.Context(), feedName, func(tx pgx.Tx) ([]uuid.UUID, error) {
					err := tx.QueryRow(t.Context(), `select count(*) from person where id = $1`, ada).Scan(&rows)
					return slices.Repeat([]uuid.UUID{ada}, rows), err
				})
				if err != nil || rows > 0 {
					t.Errorf("a view: %d rows, %v", rows, err)
				}
				server := personal(t, asked, false)
				exec(t, pool, restore) // the view may have erased it
				for _, path := range []string{"/" + ada.String(), "?after=0&limit=7", ".atom", "?before=" + asked.head(t).Cursor().String()} {
					if resp, body := get(t, server, "GET", "/feeds/things"+path); strings.Contains(body, "Ada") || resp.StatusCode != 200 && resp.StatusCode != 503 {
						t.Errorf("%s: %d %s", path, resp.StatusCode, body)
					}
				}
				waitFor(t, "the feed to answer", func() bool {
					resp, _ := get(t, server, "GET", "/feeds/things/"+ada.String())
					return resp.StatusCode == 200
				})
			}
			again, err := openPersonal(t, pool, file, t.Output()) // each start looks
			if err != nil {
				t.Fatal(err)
			}
			server := personal(t, again, false)
			wantGone(t, server, pool, "Ada", ada)
			if holds(t, pool, "Bob") != 3 {
				t.Error("others went, too")
			}
			logged(t, pool)
		})
	}
}

// Whatever cannot be written to the list is not erased, and whatever is on it is.
func TestListAndDatabase(t *testing.T) {
	t.Parallel()
	pgtest.Slow(t, "restores")
	begin := func(t *testing.T) (l *Log, pool *pgxpool.Pool, file string) {
		t.Helper()
		pool, file = people(t), filepath.Join(t.TempDir(), "erased")
		l, err := openPersonal(t, pool, file, t.Output())
		if err != nil {
			t.Fatal(err)
		}
		return l, pool, file
	}
	lines := func(t *testing.T, file string) (n int) {
		t.Helper()
		r, err := (&erasedList{path: file}).readAfter(prefix{})
		if err != nil {
			t.Fatal(err)
		}
		return len(r.ids)
	}
	t.Run("a list that cannot be written refuses the erasure", func(t *testing.T) {
		t.Parallel()
		l, pool, file := begin(t)
		ada := uuid.New()
		signUp(t, l, ada, "Ada")
		if err := os.Rename(file, file+".away"); err != nil {
			t.Fatal(err)
		}
		if err := l.Commit(t.Context(), erasing(ada)); !errors.Is(err, ErrNotListed) || errors.Is(err, ErrUnknown) {
			t.Errorf("without the file: %v", err)
		}
		if holds(t, pool, "Ada") != 3 || len(logged(t, pool)) != 1 {
			t.Error("something has happened")
		}
		if _, err := openPersonal(t, pool, file, t.Output()); err == nil || !strings.Contains(err.Error(), file+" is missing") {
			t.Errorf("a start without the file: %v", err)
		}
		if err := os.Rename(file+".away", file); err != nil {
			t.Fatal(err)
		}
		if err := l.Commit(t.Context(), erasing(ada)); err != nil || holds(t, pool, "Ada") > 0 || lines(t, file) != 1 {
			t.Errorf("with the file again: %v", err)
		}
	})
	t.Run("a list that became shorter gets what the database knows, and a warning says that there may have been more", func(t *testing.T) {
		t.Parallel()
		pool, file, log := people(t), filepath.Join(t.TempDir(), "erased"), new(bytes.Buffer)
		ada, bob := uuid.New(), uuid.New()
		open := func() *Log {
			t.Helper()
			l, err := Open(t.Context(), pool, Options{Logger: slog.New(slog.NewTextHandler(log, nil)), Erasures: Erasures{File: file}})
			if err != nil {
				t.Fatal(err)
			}
			return l
		}
		l := open()
		signUp(t, l, ada, "Ada")
		signUp(t, l, bob, "Bob")
		for _, id := range []uuid.UUID{ada, bob} {
			if err := l.Commit(t.Context(), erasing(id)); err != nil {
				t.Fatal(err)
			}
		}
		l.Close()
		for size, warns := range map[int64]bool{10_000: false, 100: true, 0: true} {
			if info, err := os.Stat(file); err != nil || size < info.Size() && os.Truncate(file, size) != nil {
				t.Fatal(err)
			}
			log.Reset()
			open().Close()
			if strings.Contains(log.String(), "shorter than it was") != warns || lines(t, file) != 2 {
				t.Errorf("cut to %d bytes it has %d lines:\n%s", size, lines(t, file), log)
			}
		}
	})
	t.Run("what fails before is not on the list", func(t *testing.T) {
		t.Parallel()
		l, pool, file := begin(t)
		ada := uuid.New()
		signUp(t, l, ada, "Ada")
		bad := NewChange()
		bad.Exec(`select feed_guard(false)`)
		bad.Erase(feedName, ada, 2, start.Add(time.Second))
		if err := l.Commit(t.Context(), bad); !errors.Is(err, ErrGuard) {
			t.Errorf("%v", err)
		}
		if lines(t, file) != 0 || holds(t, pool, "Ada") != 3 {
			t.Error("an erasure that was refused is on the list")
		}
	})
	t.Run("what fails after it is on the list has an unknown outcome, and is erased", func(t *testing.T) {
		t.Parallel()
		l, pool, file := begin(t)
		ada := uuid.New()
		signUp(t, l, ada, "Ada")
		exec(t, pool, `create function refuse() returns trigger language plpgsql as $$ begin raise exception 'no'; end $$`)
		exec(t, pool, `create constraint trigger refuse after insert on feed_entry deferrable initially deferred for each row execute function refuse()`)
		if err := l.Commit(t.Context(), erasing(ada)); !errors.Is(err, ErrUnknown) {
			t.Errorf("%v", err)
		}
		if lines(t, file) != 1 || holds(t, pool, "Ada") != 3 {
			t.Error("it is not on the list, or happened")
		}
		exec(t, pool, `drop trigger refuse on feed_entry`)
		waitFor(t, "it to be erased", func() bool { return holds(t, pool, "Ada") == 0 })
		logged(t, pool)
	})
	t.Run("an id that is added by hand is erased", func(t *testing.T) {
		t.Parallel()
		l, pool, file := begin(t)
		ada := uuid.New()
		signUp(t, l, ada, "Ada")
		f, err := os.OpenFile(file, os.O_APPEND|os.O_WRONLY, 0)
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		if _, err := fmt.Fprintf(f, "\n# by hand\r\n2026-11-28T21:04:05+01:00  things %s \r\n", ada); err != nil {
			t.Fatal(err)
		}
		waitFor(t, "it to be erased", func() bool { return holds(t, pool, "Ada") == 0 })
	})
	t.Run("while a corrected list cannot be applied, nothing is served", func(t *testing.T) {
		t.Parallel()
		l, pool, file := begin(t)
		ada, wrong := uuid.New(), uuid.New()
		signUp(t, l, ada, "Ada")
		write := func(feed string, id uuid.UUID) {
			t.Helper()
			if err := os.WriteFile(file, []byte(listHead+"2026-11-28T21:04:05Z "+feed+" "+id.String()+"\n"), 0o644); err != nil {
				t.Fatal(err)
			}
		}
		write("things", wrong)
		waitFor(t, "the list to be applied", func() bool { _, err := l.Snapshot(t.Context(), "things"); return err == nil })
		write("thongs", ada)
		refuses := func() bool { _, err := l.Snapshot(t.Context(), "things"); return errors.Is(err, ErrUnapplied) }
		waitFor(t, "it to be refused", refuses)
		for range 10 {
			time.Sleep(maxStale / 4)
			if !refuses() {
				t.Fatal("the feed is served, though its list is not applied")
			}
		}
		write("things", ada)
		waitFor(t, "it to be erased", func() bool { return holds(t, pool, "Ada") == 0 })
	})
	for name, change := range map[string]func(file, text string) error{
		"in place": func(file, text string) error { return os.WriteFile(file, []byte(text), 0o644) },
		"in another file": func(file, text string) error {
			return errors.Join(os.WriteFile(file+"~", []byte(text), 0o644), os.Rename(file+"~", file))
		},
	} {
		for _, another := range []bool{false, true} {
			t.Run(fmt.Sprintf("an id that is corrected %s is erased, another one at once: %t", name, another), func(t *testing.T) {
				t.Parallel()
				l, pool, file := begin(t)
				ada, bob, wrong := uuid.New(), uuid.New(), uuid.New()
				signUp(t, l, ada, "Ada")
				signUp(t, l, bob, "Bob")
				old, err := os.ReadFile(file)
				if err != nil {
					t.Fatal(err)
				}
				text := string(old) + "2026-11-28T21:04:05Z things " + wrong.String() + "\n"
				if err := os.WriteFile(file, []byte(text), 0o644); err != nil {
					t.Fatal(err)
				}
				waitFor(t, "the list to be applied", func() bool {
					var listed int
					if err := pool.QueryRow(t.Context(), `select listed from feed where name = 'things'`).Scan(&listed); err != nil {
						t.Fatal(err)
					}
					return listed == len(text)
				})
				if err := change(file, strings.ReplaceAll(text, wrong.String(), ada.String())); err != nil {
					t.Fatal(err)
				}
				if another {
					if err := l.Commit(t.Context(), erasing(bob)); err != nil {
						t.Fatal(err)
					}
				}
				waitFor(t, "it to be erased", func() bool { return holds(t, pool, "Ada") == 0 })
			})
		}
	}
	t.Run("the list of a database that knows of erasures gets them", func(t *testing.T) {
		t.Parallel()
		pool := people(t)
		l := openLog(t, pool)
		ada := uuid.New()
		signUp(t, l, ada, "Ada")
		if err := l.Commit(t.Context(), erasing(ada)); err != nil {
			t.Fatal(err)
		}
		file := filepath.Join(t.TempDir(), "erased")
		var says bytes.Buffer
		if _, err := openPersonal(t, pool, file, &says); err != nil {
			t.Fatal(err)
		}
		if text, err := os.ReadFile(file); err != nil || strings.Count(string(text), " things "+ada.String()+"\n") != 1 {
			t.Errorf("%v\n%s", err, text)
		}
		if !strings.Contains(says.String(), "level=WARN") || !strings.Contains(says.String(), "the list of erased ids is new") {
			t.Errorf("the log says %s", &says)
		}
	})
}

// A process that holds the list's lock and does not go on, as one that is stopped, is not waited for: nothing is
// erased, and it is tried again.
func TestErasedListIsLocked(t *testing.T) {
	t.Parallel()
	pgtest.Slow(t, "timeouts")
	l := &erasedList{path: filepath.Join(t.TempDir(), "erased")}
	if _, err := l.create(true); err != nil {
		t.Fatal(err)
	}
	before := l.stat().Size()
	holder, err := os.Open(l.path)
	if err != nil {
		t.Fatal(err)
	}
	defer holder.Close()
	if err := syscall.Flock(int(holder.Fd()), syscall.LOCK_EX); err != nil {
		t.Fatal(err)
	}
	added := []erasedID{{feed: "things", id: uuid.New()}}
	for name, step := range map[string]func() error{
		"read": func() error { _, err := l.readAfter(prefix{}); return err },
		"add":  func() error { _, _, err := l.add(added, nil); return err },
	} {
		began := time.Now()
		if err := step(); err == nil || time.Since(began) < listLockTimeout || l.stat().Size() != before {
			t.Errorf("%s: %v after %v, the list has %d bytes", name, err, time.Since(began), l.stat().Size())
		}
	}
	if err := syscall.Flock(int(holder.Fd()), syscall.LOCK_UN); err != nil {
		t.Fatal(err)
	}
	if _, _, err := l.add(added, nil); err != nil {
		t.Error(err)
	}
	if r, err := l.readAfter(prefix{}); err != nil || len(r.ids) != 1 {
		t.Errorf("%v, %v", r.ids, err)
	}
}

func TestErasedList(t *testing.T) {
	t.Parallel()
	id := uuid.MustParse("018f4e7c-5d1b-7c3a-9f00-2b6d1c8e4a11")
	whole := "2026-11-28T21:04:05Z things " + id.String()
	make := func(t *testing.T, text string) *erasedList {
		t.Helper()
		l := &erasedList{path: filepath.Join(t.TempDir(), "erased")}
		if err := os.WriteFile(l.path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return l
	}
	for name, c := range map[string]struct {
		text string
		ids  int
	}{
		"nothing":                     {"", 0},
		"comments and empty lines":    {"# ids\n\n  \n#" + whole + "\n", 0},
		"a line":                      {whole + "\n", 1},
		"white space":                 {"\t" + whole + " \r\n", 1},
		"an end that is missing":      {whole + "\n" + whole, 2},
		"a line that is cut off":      {whole + "\n" + whole[:len(whole)-1], 1},
		"a line of which little came": {whole + "\n2", 1},
		"a hole":                      {whole + "\n\x00\x00\x00", 1},
		"a long hole":                 {whole + "\n" + strings.Repeat("\x00", 10_000), 1},
		"nothing but a hole":          {strings.Repeat("\x00", 10_000), 0},
		"nothing but half a line":     {whole[:20], 0},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			l := make(t, c.text)
			if r, err := l.readAfter(prefix{}); err != nil || len(r.ids) != c.ids || r.is.Size() != int64(len(c.text)) {
				t.Fatalf("%d ids, %v, %v", len(r.ids), r.is, err)
			}
			was, is, err := l.add([]erasedID{{feed: "things", id: uuid.New()}}, nil)
			if err != nil || was.Size() != int64(len(c.text)) || !same(is, l.stat()) {
				t.Errorf("from %v to %v, %v", was, is, err)
			}
			r, err := l.readAfter(prefix{})
			if err != nil || len(r.ids) != c.ids+1 {
				t.Errorf("behind one more there are %d, %v", len(r.ids), err)
			}
		})
	}
	for name, c := range map[string]struct{ text, says string }{
		"a word":                          {whole + "\nAda\n", "line 2"},
		"no feed":                         {"\n\n2026-11-28T21:04:05Z " + id.String() + "\n" + whole, "line 3"},
		"no time":                         {"yesterday things " + id.String() + "\n", "line 1"},
		"another spelling":                {"2026-11-28T21:04:05Z things urn:uuid:" + id.String() + "\n", "36 characters"},
		"half an id":                      {whole[:len(whole)-1] + "\n" + whole + "\n", "line 1"},
		"no time, and no end of the line": {whole + "\n2026-11-28 things " + id.String(), "line 2"},
		"a comma, and no end of the line": {whole + ",", "line 1"},
		"a feed of nowhere":               {"# \n" + strings.Replace(whole, "things", "thongs", 1) + "\n", `line 2 of`},
	} {
		t.Run("a start is refused for "+name, func(t *testing.T) {
			t.Parallel()
			l := make(t, c.text)
			if _, err := openPersonal(t, people(t), l.path, t.Output()); err == nil || !strings.Contains(err.Error(), c.says) || !strings.Contains(err.Error(), l.path) {
				t.Errorf("%v", err)
			}
		})
	}
	t.Run("what a person has written without a newline is not removed", func(t *testing.T) {
		t.Parallel()
		l := make(t, whole+"\n2026-11-28 things "+id.String())
		if _, _, err := l.add([]erasedID{{feed: "things", id: uuid.New()}}, nil); !errors.Is(err, ErrNotListed) || !strings.Contains(err.Error(), "correct it") {
			t.Error(err)
		}
		if text, err := os.ReadFile(l.path); err != nil || !strings.HasSuffix(string(text), id.String()) {
			t.Errorf("%q, %v", text, err)
		}
	})
	t.Run("by several at once", func(t *testing.T) {
		t.Parallel()
		path := make(t, "").path
		var all sync.WaitGroup
		for range 4 {
			all.Go(func() {
				l := &erasedList{path: path}
				for range 25 {
					if _, _, err := l.add([]erasedID{{feed: "things", id: uuid.New()}}, nil); err != nil {
						t.Error(err)
					}
					if _, err := l.readAfter(prefix{}); err != nil {
						t.Error(err)
					}
				}
			})
		}
		all.Wait()
		if r, err := (&erasedList{path: path}).readAfter(prefix{}); err != nil || len(r.ids) != 100 {
			t.Errorf("%d ids, %v", len(r.ids), err)
		}
	})
	t.Run("one of several logs at once gets it", func(t *testing.T) {
		t.Parallel()
		path := make(t, "").path
		var all sync.WaitGroup
		var got atomic.Int32
		for range 8 {
			all.Go(func() {
				if err := (&erasedList{path: path}).claim(uuid.New()); err == nil {
					got.Add(1)
				}
			})
		}
		all.Wait()
		if got.Load() != 1 {
			t.Errorf("%d logs have the list", got.Load())
		}
	})
	t.Run("a full disk leaves nothing of an id", func(t *testing.T) {
		t.Parallel()
		l := &erasedList{path: "/dev/full"}
		if _, err := os.Stat(l.path); err != nil {
			t.Skip("needs /dev/full")
		}
		if _, _, err := l.add([]erasedID{{feed: "things", id: id}}, nil); !errors.Is(err, ErrNotListed) {
			t.Error(err)
		}
	})
}

// An application of the list costs what is new on it since the last one, at each process. What was applied before is applied again where a
// dump was restored, where the list was edited, or where something of it is found.
func TestApplicationOfWhatIsNew(t *testing.T) {
	t.Parallel()
	pool, file := people(t), filepath.Join(t.TempDir(), "erased")
	var mu sync.Mutex
	var applied [2][]uuid.UUID
	var logs [2]*Log
	for i := range logs {
		var err error
		logs[i], err = Open(t.Context(), pool, Options{FromSQL: true, Logger: slog.New(slog.NewTextHandler(t.Output(), nil)), Erasures: Erasures{
			File: file, Delete: func(ctx context.Context, tx pgx.Tx, feed string, ids []uuid.UUID) error {
				mu.Lock()
				defer mu.Unlock()
				applied[i] = append(applied[i], ids...)
				_, err := tx.Exec(ctx, `delete from person where id = any($1)`, ids)
				return err
			},
		}})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(logs[i].Close)
	}
	// applies waits until both have applied the list, and returns how many ids each of them looked at, at most.
	applies := func(change func()) (most [2]int) {
		t.Helper()
		mu.Lock()
		applied = [2][]uuid.UUID{}
		mu.Unlock()
		change()
		for i, l := range logs {
			waitFor(t, "the list to be applied", func() bool { _, err := l.look(t.Context(), pool); return err == nil })
			mu.Lock()
			ids := map[uuid.UUID]bool{}
			for _, id := range applied[i] {
				ids[id] = true
			}
			most[i] = len(ids)
			mu.Unlock()
		}
		return most
	}
	key := func(n int) uuid.UUID { return feed.EntityID(feedName, fmt.Sprint(n)) }
	write := func(text string) {
		t.Helper()
		f, err := os.OpenFile(file, os.O_APPEND|os.O_WRONLY, 0)
		if err == nil {
			_, err = f.WriteString(text)
		}
		if err = errors.Join(err, f.Close()); err != nil {
			t.Fatal(err)
		}
	}
	exec(t, pool, `select feed_put('things', n, '{}') from generate_series(1, 60) as n`)
	applies(func() { exec(t, pool, `select feed_erase('things', n) from generate_series(1, 49) as n`) })
	applies(func() { exec(t, pool, `select feed_erase('things', 50)`) }) // the process that has listed the others comes upon them once more
	if most := applies(func() { exec(t, pool, `select feed_erase('things', 51)`) }); max(most[0], most[1]) > 2 {
		t.Errorf("%v ids for one that SQL erases", most)
	}
	if most := applies(func() {
		err := logs[0].InTx(t.Context(), func(tx *Tx) error {
			tx.Erase(feedName, key(52), 0, time.Time{})
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
	}); max(most[0], most[1]) > 2 {
		t.Errorf("%v ids for one that a process erases", most)
	}
	if most := applies(func() { write("2026-11-28T21:04:05Z things " + key(53).String() + "\n") }); max(most[0], most[1]) > 3 {
		t.Errorf("%v ids for one that is added by hand", most)
	}
	if ids := logged(t, pool); len(ids) != 60+53 {
		t.Errorf("the log has %d entries", len(ids))
	}

	exec(t, pool, `create table kept_feed as table feed; create table kept_entry as table feed_entry`)
	exec(t, pool, `select feed_erase('things', n) from generate_series(54, 56) as n`)
	applies(func() {})
	if most := applies(func() {
		exec(t, pool, `begin; lock feed, feed_entry; delete from feed; insert into feed table kept_feed; delete from feed_entry; insert into feed_entry table kept_entry; commit`)
	}); max(most[0], most[1]) != 56 {
		t.Errorf("%v ids after a restore", most)
	}
	if ids := logged(t, pool); len(ids) != 60+56 {
		t.Errorf("the log has %d entries", len(ids))
	}
	if most := applies(func() {
		text, err := os.ReadFile(file)
		if err == nil {
			err = os.WriteFile(file, bytes.Replace(text, []byte(key(7).String()), []byte(key(57).String()), 1), 0o600)
		}
		if err != nil {
			t.Fatal(err)
		}
	}); max(most[0], most[1]) < 56 {
		t.Errorf("%v ids of an edited list", most)
	}
	if ids := logged(t, pool); len(ids) != 60+57 {
		t.Errorf("the log has %d entries", len(ids))
	}
	exec(t, pool, `insert into person values ($1, 'Ada'), ($2, 'Bob')`, key(8), key(9))
	err := logs[1].View(t.Context(), feedName, func(tx pgx.Tx) (found []uuid.UUID, err error) { // it looks for one of them only
		err = tx.QueryRow(t.Context(), `select array_agg(id) from person where id = $1`, key(8)).Scan(&found)
		return found, err
	})
	if n := holds(t, pool, "Ada") + holds(t, pool, "Bob"); err != nil || n > 0 {
		t.Errorf("%d rows of a table that was restored, %v", n, err)
	}
}

// A list is of one log. Another one neither erases what it names, nor starts.
func TestListOfAnotherLog(t *testing.T) {
	t.Parallel()
	file := filepath.Join(t.TempDir(), "erased")
	one, other := people(t), people(t)
	exec(t, other, `update feed_log set id = gen_random_uuid()`) // a database of a test is a copy
	l, err := openPersonal(t, one, file, t.Output())
	if err != nil {
		t.Fatal(err)
	}
	id := uuid.New()
	signUp(t, l, id, "Ada")
	if _, err := openPersonal(t, other, file, t.Output()); err == nil || !strings.Contains(err.Error(), "is of another log") || !strings.Contains(err.Error(), "ERASED_FILE") {
		t.Errorf("another log starts with it: %v", err)
	}
	l.Close()
	if _, err := openPersonal(t, one, file, t.Output()); err != nil {
		t.Error("the log itself:", err)
	}
	var log string
	if err := other.QueryRow(t.Context(), `select id::text from feed_log`).Scan(&log); err != nil {
		t.Fatal(err)
	}
	f, err := os.OpenFile(file, os.O_APPEND|os.O_WRONLY, 0)
	if err == nil {
		_, err = f.WriteString(ofLog + log + "\n")
	}
	if err = errors.Join(err, f.Close()); err != nil {
		t.Fatal(err)
	}
	if _, err := openPersonal(t, other, file, t.Output()); err != nil {
		t.Error("one that takes its place:", err)
	}
}

// A list that is empty again, as after a rotation, says of which log it is before it has an id.
func TestListThatIsEmptyAgain(t *testing.T) {
	t.Parallel()
	file := filepath.Join(t.TempDir(), "erased")
	pool := people(t)
	l, err := openPersonal(t, pool, file, t.Output())
	if err != nil {
		t.Fatal(err)
	}
	id := uuid.New()
	signUp(t, l, id, "Ada")
	if err := l.Commit(t.Context(), erasing(id)); err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(os.Rename(file, file+".1"), os.WriteFile(file, nil, 0o600)); err != nil {
		t.Fatal(err)
	}
	var log string
	if err := pool.QueryRow(t.Context(), `select id::text from feed_log`).Scan(&log); err != nil {
		t.Fatal(err)
	}
	waitFor(t, "the list to be as it was", func() bool {
		_, _ = l.look(t.Context(), pool)
		text, err := os.ReadFile(file)
		return err == nil && strings.Contains(string(text), id.String())
	})
	if text, _ := os.ReadFile(file); !strings.HasPrefix(string(text), ofLog+log+"\n") {
		t.Errorf("the list is %q", text)
	}
}

// The name of a feed may be any text.
func TestListOfFeedsWithOddNames(t *testing.T) {
	t.Parallel()
	pool, file := database(t), filepath.Join(t.TempDir(), "erased")
	names := []string{"my people", " ", "#", "50%", "a\nb", "größe"}
	for _, name := range names {
		exec(t, pool, `select feed_create($1)`, name)
	}
	if _, err := pool.Exec(t.Context(), `select feed_create('')`); !isCode(err, "23514") {
		t.Errorf("a feed without a name: %v", err)
	}
	open := func() *Log {
		l, err := Open(t.Context(), pool, Options{Logger: slog.New(slog.NewTextHandler(t.Output(), nil)), FromSQL: true, Erasures: Erasures{File: file}})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(l.Close)
		return l
	}
	l := open()
	for _, name := range names {
		exec(t, pool, `select feed_put($1, 1, '{}')`, name)
		exec(t, pool, `select feed_erase($1, 1)`, name)
	}
	listed := func(l *Log, name string) bool {
		is, err := l.reerasure.list.has(name, feed.EntityID(name, "1"))
		return err == nil && is
	}
	for _, name := range names {
		await(t, name+" is listed", func() bool { return listed(l, name) })
	}
	l.Close()
	l = open()
	for _, name := range names {
		if !listed(l, name) {
			t.Errorf("%q is not listed after a restart", name)
		}
	}
}
