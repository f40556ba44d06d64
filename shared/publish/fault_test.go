package publish

import (
	"bytes"
	"context"
	"database/sql/driver"
	"encoding/binary"
	"errors"
	"net"
	"os"
	osexec "os/exec"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/edison-cars/data-feeds/shared/postgres"
	"github.com/edison-cars/data-feeds/shared/postgres/pgtest"
	"github.com/edison-cars/data-feeds/sql"
)

// Ways in which a connection is lost under the packet that commits.
const (
	whole = iota // the server has the packet, its answer gets lost
	half         // the server has a part of it
	none         // the server has nothing of it
	ways
)

const cancelRequest = 80877102 // PostgreSQL's protocol, section 55.7

// A cutter closes the connection of its pool that next sends the mark.
type cutter struct {
	mark []byte
	way  atomic.Int32 // -1: none
	cuts atomic.Int32
}

type cutConn struct {
	net.Conn
	*cutter
}

func (c *cutConn) Write(p []byte) (int, error) {
	if len(p) == 16 && binary.BigEndian.Uint32(p[4:]) == cancelRequest { // pgx's, when a connection breaks: it gets lost, too
		_ = c.Close()
		return 0, net.ErrClosed
	}
	if !bytes.Contains(p, c.mark) {
		return c.Conn.Write(p)
	}
	switch c.way.Swap(-1) {
	case whole:
		_, _ = c.Conn.Write(p)
	case half:
		_, _ = c.Conn.Write(p[:len(p)/2])
	case none:
	default:
		return c.Conn.Write(p)
	}
	c.cuts.Add(1)
	_ = c.Close()
	return 0, net.ErrClosed
}

const payloadMark = `<&>` // stands in every payload

// cuttable returns a log on the pool's database whose connections the cutter closes when they send the mark.
func cuttable(t *testing.T, pool *pgxpool.Pool, mark string) (*Log, *cutter) {
	t.Helper()
	cut := &cutter{mark: []byte(mark)}
	cut.way.Store(-1)
	config := pool.Config()
	dial := config.ConnConfig.DialFunc
	config.ConnConfig.DialFunc = func(ctx context.Context, network, addr string) (net.Conn, error) {
		conn, err := dial(ctx, network, addr)
		return &cutConn{conn, cut}, err
	}
	cutPool, err := pgxpool.NewWithConfig(t.Context(), config)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(cutPool.Close)
	return openLog(t, cutPool), cut
}

func TestConnectionLostInTheCommit(t *testing.T) {
	t.Parallel()
	writers := map[string]func(*Log, Entry) error{
		"Commit": func(l *Log, e Entry) error { return l.Commit(context.Background(), put(e)) },
		"InTx": func(l *Log, e Entry) error {
			return l.InTx(context.Background(), func(tx *Tx) error {
				tx.Append(feedName, e)
				_, err := tx.Exec(context.Background(), `insert into thing values ($1, $2)`, e.ID, e.Version)
				return err
			})
		},
	}
	for name, write := range writers {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			pool := database(t)
			l, cut := cuttable(t, pool, payloadMark)
			const rounds = 12
			for i := range rounds {
				cut.way.Store(int32(i % ways))
				if err := write(l, thing(numbered(i), 1)); err != nil {
					t.Fatalf("round %d: %v", i, err)
				}
			}
			if n := cut.cuts.Load(); n != rounds {
				t.Fatalf("%d connections were cut, want %d", n, rounds)
			}
			for i, r := range logged(t, pool) {
				if r.id != numbered(i) {
					t.Errorf("entry %d is of another thing: one was lost or doubled", i+1)
				}
			}
			if n := len(logged(t, pool)); n != rounds {
				t.Errorf("the log has %d entries, want %d", n, rounds)
			}
		})
	}
}

func TestConnectionLostWithABadChange(t *testing.T) {
	t.Parallel()
	pgtest.Slow(t, "many databases")
	for way := range int32(ways) {
		pool := database(t)
		l, cut := cuttable(t, pool, payloadMark)
		fill(t, l, 1)
		good, bad := put(thing(uuid.New(), 1)), put(thing(uuid.New(), 1))
		bad.Exec(`select feed_guard(false)`)
		cut.way.Store(way)
		l.commitGroup(context.Background(), []*Change{good, bad}, nil)
		if err := <-good.done; err != nil {
			t.Errorf("way %d: the good one: %v", way, err)
		}
		if err := <-bad.done; !errors.Is(err, ErrGuard) {
			t.Errorf("way %d: the bad one: %v", way, err)
		}
		if n := len(logged(t, pool)); n != 2 {
			t.Errorf("way %d: the log has %d entries, want 2", way, n)
		}
	}
}

// Without entries nobody can tell later whether it was committed: it is not run again.
func TestConnectionLostInAPlainCommit(t *testing.T) {
	t.Parallel()
	pool := database(t)
	l, cut := cuttable(t, pool, "commit\x00")
	for way := range int32(ways) {
		runs := 0
		cut.way.Store(way)
		err := l.InTx(t.Context(), func(tx *Tx) error {
			runs++
			_, err := tx.Exec(t.Context(), `insert into thing values ($1, 1)`, uuid.New())
			return err
		})
		if !errors.Is(err, ErrUnknown) || runs != 1 {
			t.Errorf("way %d: %d runs, %v", way, runs, err)
		}
	}
}

// The packet whose connection is lost waits in the server for the head row, is not in the log when the
// writer asks, and lands after all.
func TestPacketLandsAfterItsConnectionIsLost(t *testing.T) {
	t.Parallel()
	pool := database(t)
	l, cut := cuttable(t, pool, payloadMark)
	fill(t, l, 1)
	blocker, err := pool.Begin(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = blocker.Rollback(context.Background()) }()
	if _, err := blocker.Exec(t.Context(), `select from feed for update`); err != nil {
		t.Fatal(err)
	}
	cut.way.Store(whole)
	id, done := uuid.New(), make(chan error)
	go func() { done <- l.Commit(context.Background(), put(thing(id, 1))) }()
	waitFor(t, "both packets to wait for the head row", func() bool {
		var waiting int
		err := pool.QueryRow(t.Context(), `select count(*) from pg_stat_activity where datname = current_database() and wait_event_type = 'Lock'`).Scan(&waiting)
		return err == nil && waiting == 2
	})
	if err := blocker.Rollback(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	if log := logged(t, pool); len(log) != 2 || log[1].id != id {
		t.Errorf("the log has %v, want the second entry once", log)
	}
}

// Every connection is ended by the server, again and again, while many write: each write that succeeded is there
// once, none that failed is there.
func TestConnectionsTerminated(t *testing.T) {
	t.Parallel()
	pgtest.Slow(t, "timeouts")
	pool := database(t)
	victims, err := pgxpool.NewWithConfig(t.Context(), func() *pgxpool.Config {
		c := pool.Config()
		c.ConnConfig.RuntimeParams["application_name"] = "victim"
		return c
	}())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(victims.Close)
	l := openLog(t, victims)
	var all, killer sync.WaitGroup
	stop, succeeding := make(chan struct{}), make(chan struct{})
	killer.Go(func() {
		for kills := 1; ; kills++ {
			pause := time.After(5 * time.Millisecond)
			var success <-chan struct{}
			if kills%8 == 0 { // a slow machine gets nothing done between two kills
				pause, success = nil, succeeding
			}
			select {
			case <-stop:
				return
			case <-success:
			case <-pause:
			}
			_, _ = pool.Exec(context.Background(), `select pg_terminate_backend(pid) from pg_stat_activity where datname = current_database() and application_name = 'victim'`)
		}
	})
	var mu sync.Mutex
	committed := map[uuid.UUID]bool{}
	for w := range 8 {
		all.Go(func() {
			for i := range 25 {
				id := numbered(w*100 + i)
				err := l.Commit(context.Background(), put(thing(id, 1)))
				mu.Lock()
				if !errors.Is(err, ErrUnknown) {
					committed[id] = err == nil
				}
				mu.Unlock()
				if err == nil {
					select {
					case succeeding <- struct{}{}:
					default:
					}
				}
			}
		})
	}
	all.Wait()
	close(stop)
	killer.Wait()
	seen := map[uuid.UUID]bool{}
	for _, r := range logged(t, pool) {
		if succeeded, known := committed[r.id]; seen[r.id] || known && !succeeded {
			t.Errorf("entry %d: doubled %t, its write failed %t", r.position, seen[r.id], known && !succeeded)
		}
		seen[r.id] = true
	}
	succeeded := 0
	for id, ok := range committed {
		if ok {
			succeeded++
			if !seen[id] {
				t.Errorf("%s was committed and is lost", id)
			}
		}
	}
	t.Logf("%d of %d writes succeeded", succeeded, len(committed))
	if succeeded == 0 {
		t.Error("no write succeeded")
	}
}

// fragile returns a log whose database can be taken away: no new connection is made while the switch is on.
func fragile(t *testing.T, pool *pgxpool.Pool) (*Log, *atomic.Bool) {
	t.Helper()
	config, away := pool.Config(), new(atomic.Bool)
	dial := config.ConnConfig.DialFunc
	config.ConnConfig.DialFunc = func(ctx context.Context, network, addr string) (net.Conn, error) {
		if away.Load() { // a port that nobody listens on
			return (&net.Dialer{}).DialContext(ctx, "tcp", "127.0.0.1:1")
		}
		conn, err := dial(ctx, network, addr)
		return fragileConn{conn, away}, err
	}
	breakable, err := pgxpool.NewWithConfig(t.Context(), config)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(breakable.Close)
	return openLog(t, breakable), away
}

// A fragileConn sends nothing while its database is down, also if it was opened before.
type fragileConn struct {
	net.Conn
	away *atomic.Bool
}

func (c fragileConn) Write(b []byte) (int, error) {
	if c.away.Load() {
		c.Close()
		return 0, net.ErrClosed
	}
	return c.Conn.Write(b)
}

func TestDatabaseAway(t *testing.T) {
	t.Parallel()
	pool := database(t)
	l, away := fragile(t, pool)
	away.Store(true)
	l.pool.Reset()
	if err := l.Commit(t.Context(), put(thing(uuid.New(), 1))); err == nil {
		t.Error("no error while the database is down")
	}
	away.Store(false)
	if err := l.Commit(t.Context(), put(thing(uuid.New(), 1))); err != nil {
		t.Errorf("after it came back: %v", err)
	}
	if n := len(logged(t, pool)); n != 1 {
		t.Errorf("the log has %d entries, want 1", n)
	}
}

func waitFor(t testing.TB, what string, is func() bool) {
	t.Helper()
	deadline, tick := time.After(time.Minute), time.NewTicker(5*time.Millisecond)
	defer tick.Stop()
	for !is() {
		select {
		case <-deadline:
			t.Fatal("waited in vain for ", what)
		case <-tick.C:
		}
	}
}

type panics struct{}

func (panics) Value() (driver.Value, error) { panic("this has no value") }

// A caller that survives a panic, as web frameworks let it, must not leave others waiting.
func TestPanicEndsTheProcess(t *testing.T) {
	t.Parallel()
	const variable = "TEST_PANICS_IN"
	if url := os.Getenv(variable); url != "" {
		db, err := postgres.Open(t.Context(), postgres.Config{URL: url, Name: "test"})
		if err != nil {
			t.Fatal(err)
		}
		defer db.Close()
		c := put(thing(uuid.New(), 1))
		c.Exec(`select $1::text`, panics{})
		defer func() { _ = recover() }()
		t.Error(openLog(t, db.Pool).Commit(t.Context(), c))
		return
	}
	cmd := osexec.CommandContext(t.Context(), os.Args[0], "-test.run=^TestPanicEndsTheProcess$")
	cmd.Env = append(os.Environ(), variable+"="+pgtest.URL(database(t)))
	out, err := cmd.CombinedOutput()
	if exit, ok := errors.AsType[*osexec.ExitError](err); !ok || exit.ExitCode() != 2 || !strings.Contains(string(out), "panic: this has no value") {
		t.Errorf("%v\n%s", err, out)
	}
}

// A swallower sends nothing of what has the mark, as a pooler does whose server is down, while it is on.
type swallower struct {
	net.Conn
	mark []byte
	on   *atomic.Bool
}

func (s *swallower) Write(p []byte) (int, error) {
	if s.on.Load() && bytes.Contains(p, s.mark) {
		return len(p), nil
	}
	return s.Conn.Write(p)
}

// A server that falls silent right after a connection was made keeps none of the few that writers may have.
func TestConnectionsThatBeginInSilence(t *testing.T) {
	t.Parallel()
	pgtest.Slow(t, "timeouts")
	var silent atomic.Bool
	config := database(t).Config()
	config.ConnConfig.ConnectTimeout = time.Second
	dial := config.ConnConfig.DialFunc
	config.ConnConfig.DialFunc = func(ctx context.Context, network, addr string) (net.Conn, error) {
		conn, err := dial(ctx, network, addr)
		return &swallower{conn, []byte("client_min_messages"), &silent}, err
	}
	pool, err := pgxpool.NewWithConfig(t.Context(), config)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(pool.Close)
	l, err := open(t.Context(), pool, Options{}, headInterval, time.Second)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(l.Close)
	silent.Store(true)
	for range 4 { // one more than there are
		if err := l.Commit(t.Context(), put(thing(uuid.New(), 1))); err == nil {
			t.Fatal("it is written in silence")
		}
	}
	silent.Store(false)
	waitFor(t, "a write", func() bool { return l.Commit(t.Context(), put(thing(uuid.New(), 1))) == nil })
}

// A server whose connections are all taken by others, while the pool still has one of its own: nothing can be
// committed, and Appendable says so.
func TestConnectionsTakenByOthers(t *testing.T) {
	t.Parallel()
	pgtest.Slow(t, "timeouts")
	server := pgtest.NewServer(t)
	pool := server.Open("full", sql.Migrations("publish"))
	exec(t, pool, `select feed_create('`+feedName+`')`)
	exec(t, pool, `create table thing (id uuid primary key, version bigint not null, check (version < 1000))`)
	l := openLog(t, pool)
	var others []*pgx.Conn
	for {
		conn, err := pgx.Connect(t.Context(), server.URL("postgres"))
		if err != nil {
			if !isCode(err, "53300") {
				t.Fatal(err)
			}
			break
		}
		others = append(others, conn)
	}
	if err := l.Commit(t.Context(), put(thing(numbered(1), 1))); !isCode(err, "53300") {
		t.Fatalf("commit: %v", err)
	}
	if err := l.Appendable(t.Context(), feedName); !isCode(err, "53300") {
		t.Errorf("appendable, while no change is: %v", err)
	}
	for _, conn := range others {
		conn.Close(t.Context())
	}
	waitFor(t, "the server to notice", func() bool { return l.Appendable(t.Context(), feedName) == nil })
	if err := l.Commit(t.Context(), put(thing(numbered(1), 1))); err != nil {
		t.Error(err)
	}
}
