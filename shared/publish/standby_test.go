package publish

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/prometheus/client_golang/prometheus/testutil"

	"github.com/edison-cars/data-feeds/shared/feed"
	"github.com/edison-cars/data-feeds/shared/postgres/pgtest"
	"github.com/edison-cars/data-feeds/sql"
)

// replicated returns a primary with one feed, and its synchronous standby.
func replicated(t *testing.T) (primary, standby *pgtest.Server, pool *pgxpool.Pool) {
	t.Helper()
	primary, standby = pgtest.Replicated(t)
	pool = primary.Open("things", sql.Migrations("publish"))
	exec(t, pool, `select feed_create('`+feedName+`')`)
	exec(t, pool, `create table thing (id uuid primary key, version bigint not null, check (version < 1000))`)
	return primary, standby, pool
}

// writers are the ways to write an entry and a row beside it.
var writers = map[string]func(context.Context, *Log, Entry) error{
	"Commit": func(ctx context.Context, l *Log, e Entry) error { return l.Commit(ctx, put(e)) },
	"InTx": func(ctx context.Context, l *Log, e Entry) error {
		return l.InTx(ctx, func(tx *Tx) error {
			tx.Append(feedName, e)
			_, err := tx.Exec(ctx, `insert into thing values ($1, $2)`, e.ID, e.Version)
			return err
		})
	},
}

// spied returns a log on the pool's database, and counts the CancelRequests of its connections.
func spied(t *testing.T, pool *pgxpool.Pool) (*Log, *atomic.Int32) {
	t.Helper()
	own, cancels := pgtest.CountCancels(t, pool)
	return impatient(t, own), cancels
}

// impatient returns a log that waits for 4 s.
func impatient(t *testing.T, pool *pgxpool.Pool) *Log {
	t.Helper()
	l, err := open(t.Context(), pool, Options{}, headInterval, 4*time.Second)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(l.Close)
	return l
}

// waiting counts the commits that wait for the standby, and the confirmations.
func waiting(server *pgtest.Server) (commits, confirmations int) {
	for _, statement := range server.Waiting() {
		if strings.Contains(statement, "pg_logical_emit_message") {
			confirmations++
		} else {
			commits++
		}
	}
	return commits, confirmations
}

// entries counts those in the log; -1 while the database is down.
func entries(t *testing.T, pool *pgxpool.Pool) (n int) {
	t.Helper()
	if err := pool.QueryRow(t.Context(), `select count(*) from feed_entry`).Scan(&n); err != nil {
		return -1
	}
	return n
}

func awaitHanging(t *testing.T, server *pgtest.Server) {
	t.Helper()
	waitFor(t, "the commit to wait for the standby", func() bool {
		commits, _ := waiting(server)
		return commits == 1
	})
}

// What was acknowledged is there after a failover, and what the standby did not confirm is neither acknowledged nor
// served.
func TestSynchronousStandby(t *testing.T) {
	t.Parallel()
	for name, write := range writers {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			primary, standby, pool := replicated(t)
			l, cancels := spied(t, pool)
			server := serve(t, l)
			if err := write(t.Context(), l, thing(numbered(1), 1)); err != nil {
				t.Fatal(err)
			}
			standby.Stop()
			began := time.Now()
			hanging := make(chan error, 1)
			go func() { hanging <- write(context.Background(), l, thing(numbered(2), 1)) }()
			awaitHanging(t, primary)
			replica := impatient(t, ownPool(t, pool))
			elsewhere := make(chan error, 1)
			go func() { elsewhere <- write(context.Background(), replica, thing(numbered(4), 1)) }()
			behind := make(chan error, 1)
			go func() { behind <- l.Commit(context.Background(), put(thing(numbered(3), 1))) }()

			if err := <-hanging; !errors.Is(err, ErrUnknown) || time.Since(began) > 4*l.patience {
				t.Errorf("the one that hangs, after %v: %v, want an unknown outcome", time.Since(began), err)
			}
			if err := <-behind; err == nil || errors.Is(err, ErrUnknown) || time.Since(began) > 5*l.patience {
				t.Errorf("the one behind it, after %v: %v, want an error after which nothing has happened", time.Since(began), err)
			}
			if err := <-elsewhere; err == nil || errors.Is(err, ErrUnknown) {
				t.Errorf("the one of another process: %v, want an error after which nothing has happened", err)
			}
			if n, _ := waiting(primary); n != 1 {
				t.Errorf("%d commits wait for the standby now, want the one that hangs", n)
			}
			if n := cancels.Load(); n > 0 {
				t.Errorf("%d CancelRequests were sent", n)
			}
			for _, query := range []string{"?after=0&limit=10", "?snapshot=0"} {
				if _, body := get(t, server, "GET", "/feeds/things.json"+query); strings.Contains(body, numbered(2).String()) {
					t.Errorf("the feed shows what is not confirmed: %s", body)
				}
			}

			standby.Start()
			var fourth Entry
			waitFor(t, "the log to write again", func() bool {
				fourth = thing(uuid.New(), 1)
				return write(t.Context(), l, fourth) == nil
			})
			if n := cancels.Load(); n > 0 {
				t.Errorf("%d CancelRequests were sent", n)
			}
			served := logged(t, pool)
			if len(served) < 3 || served[1].id != numbered(2) {
				t.Errorf("the log has %v, want the one that hung in the second place", served)
			}
			primary.Stop()
			standby.Promote()
			if after := logged(t, standby.Open("things")); len(after) != len(served) {
				t.Errorf("after the failover the log has %d entries, want %d", len(after), len(served))
			}
		})
	}
}

// Whatever ends a connection, no CancelRequest is sent for it: it may be committing.
func TestNoCancelRequests(t *testing.T) {
	t.Parallel()
	for name, write := range map[string]func(ctx context.Context, l *Log, statement string) error{
		"Commit": func(ctx context.Context, l *Log, statement string) error {
			change := NewChange()
			change.Exec(statement)
			change.Append(feedName, thing(uuid.New(), 1))
			return l.Commit(ctx, change)
		},
		"InTx": func(ctx context.Context, l *Log, statement string) error {
			return l.InTx(ctx, func(tx *Tx) error {
				tx.Append(feedName, thing(uuid.New(), 1))
				_, err := tx.Exec(ctx, statement)
				return err
			})
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			primary, standby, pool := replicated(t)
			l, cancels := spied(t, pool)
			// Reads may be cancelled: nothing reads in the background, nor over this pool.
			l.stop()
			l.watching.Wait()
			waitFor(t, "the end of what it read", func() bool { return l.pool.Stat().AcquiredConns() == 0 })
			l.pool = pool
			cancels.Store(0)
			wantNone := func(after string) {
				t.Helper()
				time.Sleep(100 * time.Millisecond) // pgx sends it in the background
				if n := cancels.Load(); n > 0 {
					t.Errorf("after %s: %d CancelRequests were sent", after, n)
				}
			}
			if err := write(t.Context(), l, `select pg_terminate_backend(pg_backend_pid())`); err == nil {
				t.Error("a session that was terminated has committed")
			}
			wantNone("the end of the session")
			ctx, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
			defer cancel()
			if err := write(ctx, l, `select pg_sleep(3)`); name == "InTx" && err == nil {
				t.Error("it did not end with its context")
			}
			wantNone("the end of the context")
			if name == "Commit" { // a transaction has the time that its function takes
				if err := write(t.Context(), l, `select pg_sleep(20)`); err == nil {
					t.Error("it did not end in time")
				}
				wantNone("the end of the log's patience")
			}
			standby.Stop()
			hanging := make(chan error, 1)
			go func() { hanging <- write(context.Background(), l, `select`) }()
			awaitHanging(t, primary)
			l.Close()
			if err := <-hanging; !errors.Is(err, ErrUnknown) {
				t.Errorf("what hung at the close: %v", err)
			}
			wantNone("the close")
		})
	}
}

// A failover while a commit hangs, or after its writer was answered: what was acknowledged is there, once, and nothing
// else is served.
func TestFailoverWhileACommitHangs(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		writer   string
		answered bool // before the failover
		both     bool // the log goes on to the standby, else it knows the primary alone
	}{
		"before the answer":                      {"Commit", false, false},
		"before the answer, with a way on":       {"Commit", false, true},
		"before the answer, with a way on, InTx": {"InTx", false, true},
		"after the answer":                       {"InTx", true, false},
		"after the answer, with a way on":        {"Commit", true, true},
		"after the answer, with a way on, InTx":  {"InTx", true, true},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			primary, standby, pool := replicated(t)
			if c.both {
				pool = primary.OpenEither(standby, "things")
			}
			l, cancels := spied(t, pool)
			server := serve(t, l)
			fill(t, l, 2)
			standby.Stop()
			hanging := make(chan error, 1)
			go func() { hanging <- writers[c.writer](context.Background(), l, thing(numbered(3), 1)) }()
			awaitHanging(t, primary)
			var err error
			if c.answered {
				err = <-hanging
			}
			if n := cancels.Load(); n > 0 {
				t.Errorf("%d CancelRequests were sent", n)
			}
			primary.Stop()
			standby.Start()
			standby.Promote()
			if !c.answered {
				err = <-hanging
			}
			acknowledged, possible := 2, 2
			if err == nil {
				acknowledged = 3
			} else if !errors.Is(err, ErrUnknown) {
				t.Errorf("%v, want an unknown outcome", err)
			}
			if c.both && !c.answered { // it may have been sent to the standby, too
				possible = 3
			}
			n := len(logged(t, standby.Open("things")))
			if n < acknowledged || n > possible {
				t.Errorf("the log has %d entries, %d were acknowledged", n, acknowledged)
			}
			if !c.both {
				return
			}
			waitFor(t, "the log to write again", func() bool { return writers[c.writer](t.Context(), l, thing(numbered(4), 1)) == nil })
			waitFor(t, "the feed to be served", func() bool {
				_, body := get(t, server, "GET", "/feeds/things.json?after=0&limit=10")
				return strings.Contains(body, numbered(4).String()) && strings.Contains(body, numbered(3).String()) == (n == 3)
			})
		})
	}
}

// Somebody cancels the wait of a commit: it counts on the primary, but is neither acknowledged nor served before the
// standby has it.
func TestCancelledWait(t *testing.T) {
	t.Parallel()
	for _, ending := range []string{"pg_cancel_backend", "pg_terminate_backend"} {
		for name, write := range writers {
			if ending == "pg_terminate_backend" && name == "InTx" {
				continue // the same
			}
			t.Run(ending+" of "+name, func(t *testing.T) {
				t.Parallel()
				primary, standby, pool := replicated(t)
				exec(t, pool, `alter database things set client_min_messages = 'error'`) // the log hears of it all the same
				l, _ := spied(t, pool)
				server := serve(t, l)
				fill(t, l, 1)
				standby.Stop()
				done := make(chan error, 1)
				go func() { done <- write(context.Background(), l, thing(numbered(2), 1)) }()
				awaitHanging(t, primary)
				exec(t, pool, `select `+ending+`(pid) from pg_stat_activity where wait_event = 'SyncRep'`)
				waitFor(t, "the entry to be there", func() bool { return entries(t, pool) == 2 })
				for _, query := range []string{"?after=0&limit=10", "?snapshot=0"} {
					if _, body := get(t, server, "GET", "/feeds/things.json"+query); strings.Contains(body, numbered(2).String()) {
						t.Errorf("the feed shows what is not confirmed: %s", body)
					}
				}
				if resp, body := get(t, server, "GET", "/feeds/things/"+numbered(2).String()); resp.StatusCode != http.StatusServiceUnavailable {
					t.Errorf("the versions of the entity: %d %s, want 503", resp.StatusCode, body)
				}
				if err := <-done; !errors.Is(err, ErrUnknown) {
					t.Errorf("%v, want an unknown outcome", err)
				}
				if err := l.Confirm(t.Context()); !errors.Is(err, errUnconfirmed) {
					t.Errorf("Confirm: %v, want that it is not confirmed", err)
				}
				if commits, confirmations := waiting(primary); commits != 0 || confirmations != 1 {
					t.Errorf("%d commits and %d confirmations wait for the standby, want one confirmation", commits, confirmations)
				}
				standby.Start()
				waitFor(t, "the feed to show the entry", func() bool {
					_, body := get(t, server, "GET", "/feeds/things.json?after=0&limit=10")
					return strings.Contains(body, numbered(2).String())
				})
				if err := errors.Join(l.Confirm(t.Context()), write(t.Context(), l, thing(numbered(3), 1))); err != nil {
					t.Error(err)
				}
			})
		}
	}
}

// After a restart of the server a transaction that nobody confirmed is there: a process that starts then serves nothing
// of it.
func TestRestartWithAnUnconfirmedEntry(t *testing.T) {
	t.Parallel()
	primary, standby, pool := replicated(t)
	l, _ := spied(t, pool)
	server := serve(t, l)
	fill(t, l, 1)
	standby.Stop()
	hanging := make(chan error, 1)
	go func() { hanging <- l.Commit(context.Background(), put(thing(numbered(2), 1))) }()
	awaitHanging(t, primary)
	primary.Stop()
	primary.Start()
	waitFor(t, "the entry to be there", func() bool { return entries(t, pool) == 2 })
	if err := <-hanging; !errors.Is(err, ErrUnknown) {
		t.Errorf("%v, want an unknown outcome", err)
	}
	later, err := Open(t.Context(), pool, Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(later.Close)
	laterServer := serve(t, later)
	path := "/feeds/things.json?after=0&limit=10"
	if resp, _ := get(t, laterServer, "GET", path); resp.StatusCode != http.StatusServiceUnavailable {
		t.Errorf("a process that starts answers %d, want 503", resp.StatusCode)
	}
	if _, body := get(t, server, "GET", path); strings.Contains(body, numbered(2).String()) {
		t.Errorf("the feed shows what is not confirmed: %s", body)
	}
	standby.Start()
	for _, s := range []string{server.URL, laterServer.URL} {
		waitFor(t, "the feed to show the entry", func() bool {
			resp, err := http.Get(s + path)
			if err != nil {
				return false
			}
			defer resp.Body.Close()
			return resp.StatusCode == http.StatusOK && strings.Contains(bodyOf(resp.Body), numbered(2).String())
		})
	}
}

// The log closes soon while a commit hangs, and does not cancel it.
func TestCloseWhileACommitHangs(t *testing.T) {
	t.Parallel()
	for name, write := range writers {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			primary, standby, pool := replicated(t)
			own, err := pgxpool.NewWithConfig(t.Context(), pool.Config())
			if err != nil {
				t.Fatal(err)
			}
			l, err := Open(t.Context(), own, Options{})
			if err != nil {
				t.Fatal(err)
			}
			standby.Stop()
			done := make(chan error, 1)
			go func() { done <- write(context.Background(), l, thing(numbered(1), 1)) }()
			awaitHanging(t, primary)
			began := time.Now()
			l.Close()
			own.Close()
			if took := time.Since(began); took > 10*time.Second {
				t.Errorf("it took %v", took)
			}
			if err := <-done; !errors.Is(err, ErrUnknown) {
				t.Errorf("%v, want an unknown outcome", err)
			}
			if n, _ := waiting(primary); n != 1 {
				t.Errorf("%d commits wait for the standby, want 1", n)
			}
			standby.Start()
			waitFor(t, "the entry to be there", func() bool { return entries(t, pool) == 1 })
		})
	}
}

// A server that promises less is warned of.
func TestWarnsOfLessDurableCommits(t *testing.T) {
	t.Parallel()
	for setting, want := range map[string]string{"off": "synchronous_commit is off", "local": "synchronous_commit is local", "on": "", "remote_apply": ""} {
		pool := database(t)
		config := pool.Config()
		config.ConnConfig.RuntimeParams["synchronous_commit"] = setting
		own, err := pgxpool.NewWithConfig(t.Context(), config)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(own.Close)
		var text strings.Builder
		l, err := Open(t.Context(), own, Options{Logger: slog.New(slog.NewTextHandler(&text, nil))})
		if err != nil {
			t.Fatal(err)
		}
		l.Close()
		if got := text.String(); !strings.Contains(got, want) || want == "" && strings.Contains(got, "synchronous_commit") {
			t.Errorf("%s: the log says %q", setting, got)
		}
	}
}

func bodyOf(r io.Reader) string {
	body, _ := io.ReadAll(r)
	return string(body)
}

// While the connections lead to a hot standby that has yet to replay entries, as in a failover, no reader hears of
// another history, and no page ends before what was served.
func TestStandbyThatIsBehind(t *testing.T) {
	t.Parallel()
	primary, standby, pool := replicated(t)
	var other atomic.Pointer[string] // nil means the connections lead to the primary
	config := pool.Config()
	dial := config.ConnConfig.DialFunc
	config.ConnConfig.DialFunc = func(ctx context.Context, network, addr string) (net.Conn, error) {
		if to := other.Load(); to != nil {
			addr = *to
		}
		return dial(ctx, network, addr)
	}
	own, err := pgxpool.NewWithConfig(t.Context(), config)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(own.Close)
	end := func(server *pgtest.Server) {
		server.Exec(`select pg_terminate_backend(pid) from pg_stat_activity where datname = 'things'`)
	}
	l := impatient(t, own)
	server := serve(t, l)
	fill(t, l, 5)
	waitFor(t, "the standby to be where the primary is", func() (is bool) {
		err := pool.QueryRow(t.Context(), `select bool_and(replay_lsn >= pg_current_wal_lsn()) from pg_stat_replication`).Scan(&is)
		return err == nil && is
	})
	fifth, _ := l.remembered(feedName)
	standby.Exec(`select pg_wal_replay_pause()`)
	for n := 6; n <= 8; n++ {
		if err := l.Commit(t.Context(), put(thing(numbered(n), 1))); err != nil {
			t.Fatal(err)
		}
	}
	eighth, _ := l.remembered(feedName)
	fetch := func(after string) int {
		answer, body := get(t, server, "GET", "/feeds/things.json?limit=10&after="+after)
		if answer.StatusCode == http.StatusGone {
			t.Fatalf("after %s: %s", after, body)
		}
		if answer.StatusCode == http.StatusOK && after != eighth.Cursor().String() && !strings.Contains(body, numbered(8).String()) {
			t.Fatalf("after %s the last entry is missing: %s", after, body)
		}
		return answer.StatusCode
	}
	cursors := []string{eighth.Cursor().String(), fifth.Cursor().String(), "0"}
	all := func(status int) func() bool {
		return func() bool {
			is := true
			for _, c := range cursors {
				is = fetch(c) == status && is
			}
			return is
		}
	}

	pgConfig, err := pgxpool.ParseConfig(standby.URL("things"))
	if err != nil {
		t.Fatal(err)
	}
	socket := pgConfig.ConnConfig.Host + "/.s.PGSQL.5432"
	other.Store(&socket)
	end(primary)
	waitFor(t, "the feed to be refused", all(http.StatusServiceUnavailable))
	other.Store(nil)
	end(standby)
	waitFor(t, "the feed to be served", all(http.StatusOK))

	other.Store(&socket)
	primary.Stop()
	waitFor(t, "the feed to be refused", all(http.StatusServiceUnavailable))
	standby.Exec(`select pg_wal_replay_resume()`)
	standby.Promote()
	waitFor(t, "the feed to be served by what was the standby", all(http.StatusOK))
}

// A primary whose synchronous standby was promoted does not say that the history of those who follow the new one is
// another.
func TestDeposedPrimary(t *testing.T) {
	t.Parallel()
	pgtest.Slow(t, "a standby")
	_, standby, pool := replicated(t)
	l := impatient(t, pool)
	server := serve(t, l)
	fill(t, l, 3)
	standby.Promote()
	after := standby.Open("things")
	waitFor(t, "the promotion", func() bool {
		var recovering bool
		return after.QueryRow(t.Context(), `select pg_is_in_recovery()`).Scan(&recovering) == nil && !recovering
	})
	standby.Exec("alter system set synchronous_standby_names = ''", "select pg_reload_conf()")
	waitFor(t, "the new primary to wait for nobody", func() bool {
		var names string
		return after.QueryRow(t.Context(), `show synchronous_standby_names`).Scan(&names) == nil && names == ""
	})
	if err := impatient(t, after).Commit(t.Context(), put(thing(uuid.New(), 1))); err != nil {
		t.Fatal(err)
	}
	var cursor string
	if err := after.QueryRow(t.Context(), `select position || '-' || left(encode(digest, 'hex'), 12) from feed_head`).Scan(&cursor); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if resp, body := get(t, server, "GET", "/feeds/things.json?after="+cursor+"&limit=10"); resp.StatusCode != http.StatusServiceUnavailable || resp.Header.Get("Retry-After") == "" {
			t.Errorf("%d %s", resp.StatusCode, body)
		}
	}
}

// personally returns a primary with its synchronous standby, a log on it whose app keeps people, and the log's list.
func personally(t *testing.T) (primary, standby *pgtest.Server, pool *pgxpool.Pool, l *Log, file string) {
	t.Helper()
	primary, standby, pool = replicated(t)
	exec(t, pool, peopleSQL)
	file = filepath.Join(t.TempDir(), "erased")
	l, err := openPersonal(t, pool, file, t.Output())
	if err != nil {
		t.Fatal(err)
	}
	return primary, standby, pool, l, file
}

// A start with a list of erased ids does not wait for a synchronous standby.
func TestStartWithListWithoutStandby(t *testing.T) {
	t.Parallel()
	pgtest.Slow(t, "timeouts")
	primary, standby, pool, l, file := personally(t)
	ada, bob := uuid.New(), uuid.New()
	signUp(t, l, ada, "Ada")
	signUp(t, l, bob, "Bob")
	if err := l.Commit(t.Context(), erasing(ada)); err != nil {
		t.Fatal(err)
	}
	l.Close()
	standby.Stop()
	start := func(want string) *Log {
		t.Helper()
		var says bytes.Buffer
		began := time.Now()
		again, err := openPersonal(t, ownPool(t, pool), file, &says)
		if took := time.Since(began); err != nil || took > 8*time.Second {
			t.Fatalf("%v after %v", err, took)
		}
		if !strings.Contains(says.String(), want) {
			t.Errorf("it says %s", &says)
		}
		return again
	}
	start("nothing is served until it has confirmed what the database holds")
	if commits, _ := waiting(primary); commits > 0 {
		t.Errorf("%d commits wait for the standby", commits)
	}
	f, err := os.OpenFile(file, os.O_APPEND|os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if _, err := fmt.Fprintf(f, "2026-11-28T21:04:05Z things %s\n", bob); err != nil {
		t.Fatal(err)
	}
	again := start("nothing is served until it is")
	if _, err := again.Snapshot(t.Context(), "things"); err == nil {
		t.Error("the feed is served, though its list is not applied")
	}
	standby.Start()
	waitFor(t, "it to be erased", func() bool { return holds(t, pool, "Bob") == 0 })
	waitFor(t, "the feed to be served", func() bool { _, err := again.Snapshot(t.Context(), "things"); return err == nil })
}

// While an erasure of this process waits for a synchronous standby, everything else is served. What another process has
// listed counts at once.
func TestReadsDuringAnErasure(t *testing.T) {
	t.Parallel()
	pgtest.Slow(t, "timeouts")
	primary, standby, pool, l, file := personally(t)
	server := personal(t, l, false)
	ada, bob, cid := uuid.New(), uuid.New(), uuid.New()
	signUp(t, l, ada, "Ada")
	signUp(t, l, bob, "Bob")
	signUp(t, l, cid, "Cid")
	if err := l.Commit(t.Context(), erasing(cid)); err != nil {
		t.Fatal(err)
	}
	view := func(id uuid.UUID) (found bool, err error) {
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
		defer cancel()
		return found, l.View(ctx, feedName, func(tx pgx.Tx) (ids []uuid.UUID, err error) {
			if err = tx.QueryRow(ctx, `select exists (select from person where id = $1)`, id).Scan(&found); found {
				ids = append(ids, id)
			}
			return ids, err
		})
	}
	standby.Stop()
	outcome := make(chan error, 1)
	go func() { outcome <- l.Commit(context.Background(), erasing(ada)) }()
	awaitHanging(t, primary)
	for range 2 { // before and after the outcome is unknown
		for deadline := time.Now().Add(3 * maxStale / 2); time.Now().Before(deadline); time.Sleep(100 * time.Millisecond) {
			for _, path := range []string{"", "?after=0", "?snapshot=0", "/" + bob.String(), ".atom"} {
				if resp, body := get(t, server, "GET", "/feeds/things"+path); resp.StatusCode != 200 || strings.Contains(body, "Cid") {
					t.Fatalf("%s: %d %s", path, resp.StatusCode, body)
				}
			}
			if found, err := view(bob); !found || err != nil {
				t.Fatal(found, err)
			}
		}
		if outcome == nil {
			break
		}
		if err := <-outcome; !errors.Is(err, ErrUnknown) {
			t.Error(err)
		}
		outcome = nil
	}
	if _, _, err := (&erasedList{path: file}).add([]erasedID{{feed: feedName, id: bob}}, nil); err != nil { // as another process does
		t.Fatal(err)
	}
	if _, err := view(bob); !errors.Is(err, ErrUnapplied) {
		t.Errorf("listed by another process: %v", err)
	}
	standby.Start()
	waitFor(t, "both to be erased", func() bool { return holds(t, pool, "Ada")+holds(t, pool, "Bob") == 0 })
	time.Sleep(maxStale) // this process learns of a commit that it gave up as of another process's
	wantGone(t, server, pool, "Ada", ada)
	wantGone(t, server, pool, "Bob", bob)
	if l.reerasure.list.hasUnknown() {
		t.Error("an outcome is still unknown")
	}
}

// An erasure that its process takes for one that is being committed is done again if it was not, as after a failover.
func TestErasureOfUnknownOutcome(t *testing.T) {
	t.Parallel()
	pool := people(t)
	l, err := openPersonal(t, pool, filepath.Join(t.TempDir(), "erased"), t.Output())
	if err != nil {
		t.Fatal(err)
	}
	ada := uuid.New()
	signUp(t, l, ada, "Ada")
	if _, err := l.addToList(pending{feedName: {{erase: true, Entry: Entry{ID: ada}}}}, &uncommitted{unknown: true}); err != nil {
		t.Fatal(err)
	}
	waitFor(t, "it to be erased", func() bool { return holds(t, pool, "Ada") == 0 })
}

// An asynchronous failover loses what the standby does not have. A process that lives through it says what: in its log,
// in a metric and on the feed's page. A reader of the lost end gets a 410.
func TestLossIsTold(t *testing.T) {
	t.Parallel()
	pgtest.Slow(t, "a standby")
	primary := pgtest.NewServer(t)
	pool := primary.Open("things", sql.Migrations("publish"))
	exec(t, pool, `select feed_create('`+feedName+`')`)
	exec(t, pool, `create table thing (id uuid primary key, version bigint not null)`)
	standby := primary.Standby()
	var text strings.Builder
	l, err := Open(t.Context(), primary.OpenEither(standby, "things"), Options{Logger: slog.New(slog.NewTextHandler(&text, nil))})
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	server := serve(t, l)
	fill(t, l, 5)
	kept := l.Remembered(feedName).Cursor()
	waitFor(t, "the standby to have all", func() (is bool) {
		err := l.pool.QueryRow(t.Context(), `select bool_and(replay_lsn >= pg_current_wal_lsn()) from pg_stat_replication`).Scan(&is)
		return err == nil && is
	})
	standby.Stop()
	for n := 6; n <= 8; n++ {
		if err := l.Commit(t.Context(), put(thing(numbered(n), 1))); err != nil {
			t.Fatal(err)
		}
	}
	end := l.Remembered(feedName).Cursor()
	before, page := get(t, server, "GET", "/feeds/things.html")
	if strings.Contains(page, "Lost") || l.Lost(feedName) != (Loss{}) {
		t.Errorf("something is lost before: %+v", l.Lost(feedName))
	}
	primary.Kill()
	standby.Start()
	standby.Promote()
	waitFor(t, "the log to write again", func() bool { return l.Commit(t.Context(), put(thing(numbered(9), 1))) == nil })
	lost := l.Lost(feedName)
	if want := (Loss{At: lost.At, Until: end, After: kept, AtLeast: 3, AtMost: 3, Losses: 1, All: 3}); lost != want || time.Since(lost.At) > time.Minute {
		t.Errorf("it says %+v, want %+v", lost, want)
	}
	resp, page := get(t, server, "GET", "/feeds/things.html", "If-None-Match", before.Header.Get("ETag"))
	for _, want := range []string{"3 entries, up to position 8", kept.String(), end.String()} {
		if !strings.Contains(page, want) {
			t.Errorf("the page does not say %q: %d %s", want, resp.StatusCode, page)
		}
	}
	if resp, _ := get(t, server, "GET", "/feeds/things?after="+end.String()); resp.StatusCode != http.StatusGone {
		t.Errorf("a reader of the lost end gets %d", resp.StatusCode)
	}
	want := `
# HELP feed_lost_entries_total Entries, at least, that this process knew and that its database lost, as in a failover without its last commits or by the restore of a backup.
# TYPE feed_lost_entries_total counter
feed_lost_entries_total{feed="things"} 3
`
	if err := testutil.CollectAndCompare(l, strings.NewReader(want), "feed_lost_entries_total"); err != nil {
		t.Error(err)
	}
	l.Close()
	if !strings.Contains(text.String(), "entries are lost") || !strings.Contains(text.String(), " at_least=3 at_most=3 after="+kept.String()+" remembered="+end.String()) {
		t.Errorf("the log says %s", &text)
	}
}

// A trail keeps its last places, and some of the older ones.
func TestTrail(t *testing.T) {
	t.Parallel()
	var places trail
	for n := range int64(10 * maxTrail) {
		places = places.add(feed.At(n+1, feed.Digest{}))
	}
	last := places[len(places)-1].Position
	if len(places) > maxTrail || last != 10*maxTrail || places[0].Position != 1 {
		t.Errorf("%d places, from %v to %v", len(places), places[0], last)
	}
	for i, c := range places[len(places)-maxTrail/4:] {
		if want := last - maxTrail/4 + 1 + int64(i); c.Position != want {
			t.Fatalf("place %d is %v, want %d", i, c, want)
		}
	}
}
