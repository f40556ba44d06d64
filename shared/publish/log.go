package publish

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"golang.org/x/sync/singleflight"

	"github.com/edison-cars/data-feeds/shared/feed"
)

const (
	maxGroup     = 512              // changes in one packet
	writeTimeout = 30 * time.Second // for one attempt to write
	queueTimeout = 10 * time.Second // for a change to become part of a group
	maxAttempts  = 10               // of one packet, over lost swaps, lost connections and deadlocks
)

var (
	// ErrGuard is returned for a transaction that feed_guard stopped: what it changes is not as it was read.
	ErrGuard = errors.New("changed by somebody else in the meantime")
	// ErrUnknown is wrapped when a connection was lost in a commit and the database stayed away: the transaction may
	// have happened or not.
	ErrUnknown = errors.New("nobody knows whether it was committed")
	// ErrClosed is returned for a change that came after Close.
	ErrClosed = errors.New("the log is closed")
)

// A Log is the writing side of all feeds of one database. Several logs, in several processes, may write to the same
// database at once.
type Log struct {
	pool    *pgxpool.Pool
	writers *pgxpool.Pool // of the groups: no reader takes their connections, and no lock holds them up for long
	logger  *slog.Logger

	mu      sync.Mutex
	tips    map[string]*tip // an append succeeds only onto the true head
	epoch   int             // counts how often all that was made of the log had to be forgotten: after an erasure, and when the database had another history
	looked  time.Time       // when the database was last asked for the heads
	looking singleflight.Group

	wrote    atomic.Int64 // when the last write began, in nanoseconds since 1970
	metrics  logMetrics
	self     string      // in notifications
	alone    atomic.Bool // no other process listens
	appended chan struct{}

	queue    chan *Change
	closing  chan struct{}
	leads    chan struct{} // has something in it while somebody commits a group
	stop     context.CancelFunc
	watching sync.WaitGroup

	reerasure *reerasure // nil: erasures do not outlive the restore of a dump
}

// Open gives the log of a database that has the migrations of sql/publish. Close it before the pool.
func Open(ctx context.Context, pool *pgxpool.Pool, logger *slog.Logger) (*Log, error) {
	return open(ctx, pool, logger, headInterval)
}

func open(ctx context.Context, pool *pgxpool.Pool, logger *slog.Logger, interval time.Duration, erasures ...Erasures) (*Log, error) {
	config := pool.Config()
	config.MinConns, config.MaxConns = 0, 2
	connected := config.AfterConnect
	config.AfterConnect = func(ctx context.Context, conn *pgx.Conn) error { // a pooler may refuse it as a startup parameter
		if connected != nil {
			if err := connected(ctx, conn); err != nil {
				return err
			}
		}
		_, err := conn.Exec(ctx, `set lock_timeout = '2s'`)
		return err
	}
	writers, err := pgxpool.NewWithConfig(ctx, config)
	if err != nil {
		return nil, err
	}
	l := &Log{
		pool: pool, writers: writers, logger: logger, tips: map[string]*tip{}, metrics: newLogMetrics(),
		self: uuid.NewString(), appended: make(chan struct{}, 1),
		queue: make(chan *Change), closing: make(chan struct{}), leads: make(chan struct{}, 1),
	}
	for _, e := range erasures {
		if err := l.openList(ctx, e); err != nil {
			writers.Close()
			return nil, err
		}
	}
	reading, cancel := context.WithTimeout(ctx, readTimeout)
	defer cancel()
	if _, err := l.refresh(reading, pool); err != nil {
		writers.Close()
		return nil, fmt.Errorf("read the heads of the feeds: %w", err)
	}
	ctx, l.stop = context.WithCancel(context.WithoutCancel(ctx))
	l.watching.Go(func() { l.follow(ctx, interval) })
	l.watching.Go(func() { l.announce(ctx) })
	return l, nil
}

// Close lets the changes that were accepted end and takes no more.
func (l *Log) Close() {
	close(l.closing)
	l.leads <- struct{}{} // for ever
	l.stop()
	l.watching.Wait()
	l.writers.Close()
}

// wroteWithin reports whether a write began in the last d.
func (l *Log) wroteWithin(d time.Duration) bool {
	return time.Now().UnixNano()-l.wrote.Load() < int64(d)
}

// InTx runs fn in a transaction and commits it together with what fn appended to feeds. When another writer was
// faster in the same feed, everything is undone and fn runs again: it must have no effect outside the transaction.
// After an error nothing has happened, unless it wraps ErrUnknown. It is ErrGuard where feed_guard stopped fn.
func (l *Log) InTx(ctx context.Context, fn func(tx *Tx) error) error {
	l.wrote.Store(time.Now().UnixNano())
	listed := false
	_, err := l.persist(ctx, func(lock bool) (attempt, error) {
		conn, err := l.pool.Acquire(ctx)
		if err != nil {
			return attempt{}, final{err}
		}
		defer conn.Release()
		inner, err := conn.Begin(ctx)
		if err != nil {
			return attempt{}, final{err}
		}
		defer rollback(conn)
		tx := &Tx{Tx: inner, pending: pending{}}
		if err := fn(tx); err != nil {
			return attempt{}, final{guarded(err)}
		}
		if status := conn.Conn().PgConn().TxStatus(); status != 'T' {
			return attempt{}, final{errors.New("the transaction was ended, or has failed, before its last statement")}
		}
		runs, err := l.end(ctx, conn, lock, tx.pending)
		listed = listed || errors.As(err, new(listedError))
		return attempt{runs: runs}, err
	})
	if listed && err != nil && !errors.Is(err, ErrUnknown) {
		err = fmt.Errorf("%w: %w", ErrUnknown, err)
	}
	return err
}

// end appends what is pending and commits the transaction that is open on conn, in one packet. With lock it first
// waits for the heads, which then are true. Without entries nobody can tell later what became of it.
func (l *Log) end(ctx context.Context, conn *pgxpool.Conn, lock bool, pending pending) ([]placed, error) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), writeTimeout)
	defer cancel()
	if len(pending) == 0 {
		_, err := conn.Exec(ctx, "commit")
		if err != nil && connectionLost(err) {
			err = fmt.Errorf("%w: %w", ErrUnknown, err)
		}
		return nil, final{err}.orNil()
	}
	if err := l.check(ctx, pending); err != nil {
		return nil, final{err}
	}
	if err := encodeRows(ctx, conn.Conn()); err != nil {
		return nil, err
	}
	heads, erasing := l.snapshot(), l.reerasure != nil && pending.erases() != nil
	if lock || erasing {
		var err error
		if heads, err = lockHeads(ctx, conn, pending.feeds()); err != nil {
			return nil, err
		}
	}
	runs := pending.place(heads)
	var b pgx.Batch
	if erasing {
		listing, err := l.addToList(pending)
		if err != nil {
			return nil, final{err}
		}
		b.Queue(listing.sql, listing.args...)
	}
	for i := range runs {
		appending := runs[i].append()
		b.Queue(appending.sql, appending.args...)
	}
	b.Queue("commit")
	err := conn.SendBatch(ctx, &b).Close()
	if erasing && err != nil {
		err = listedError{err}
	}
	return runs, err
}

// check refuses entries that must not get into the log.
func (l *Log) check(ctx context.Context, pending pending) error {
	for name := range pending {
		if t, _ := l.remembered(name); t != nil {
			continue
		}
		heads, err := l.refresh(ctx, l.pool) // a migration may have made the feed since
		if err != nil {
			return err
		}
		if _, ok := heads[name]; !ok {
			return noFeed(name)
		}
	}
	return pending.check()
}

// lockHeads locks the head rows of the feeds until the transaction ends, and gives the heads. The server ends the
// transaction when this client stalls.
func lockHeads(ctx context.Context, conn *pgxpool.Conn, feeds []string) (map[string]Head, error) {
	var b pgx.Batch
	b.Queue(`set local idle_in_transaction_session_timeout = '5s'`)
	b.Queue(`select name, position, digest, erasures from feed where name = any($1) order by name collate "C" for update`, feeds)
	results := conn.SendBatch(ctx, &b)
	defer results.Close()
	if _, err := results.Exec(); err != nil {
		return nil, err
	}
	rows, err := results.Query()
	if err != nil {
		return nil, err
	}
	return collectHeads(rows)
}

// rollback ends what is open on conn.
func rollback(conn *pgxpool.Conn) {
	if pgConn := conn.Conn().PgConn(); !pgConn.IsClosed() && pgConn.TxStatus() != 'I' {
		ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
		defer cancel()
		_, _ = conn.Exec(ctx, "rollback") // if it fails, the pool drops the connection
	}
}

func collectHeads(rows pgx.Rows) (map[string]Head, error) {
	heads := map[string]Head{}
	var name string
	var position, erasures int64
	var digest []byte
	_, err := pgx.ForEachRow(rows, []any{&name, &position, &digest, &erasures}, func() error {
		if len(digest) != len(feed.Digest{}) {
			return fmt.Errorf("the digest of feed %s has %d bytes", name, len(digest))
		}
		heads[name] = Head{position, feed.Digest(digest), erasures}
		return nil
	})
	return heads, err
}
