package publish

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"

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
	pool   *pgxpool.Pool
	logger *slog.Logger

	mu    sync.Mutex
	heads map[string]Head // as this process last saw them; an append succeeds only onto the true head

	queue   chan *Change
	closing chan struct{}
	stopped chan struct{}
}

// Open gives the log of a database that has the migrations of sql/publish. Close it before the pool.
func Open(ctx context.Context, pool *pgxpool.Pool, logger *slog.Logger) (*Log, error) {
	l := &Log{
		pool: pool, logger: logger, heads: map[string]Head{},
		queue: make(chan *Change), closing: make(chan struct{}), stopped: make(chan struct{}),
	}
	if err := l.refresh(ctx); err != nil {
		return nil, fmt.Errorf("read the heads of the feeds: %w", err)
	}
	go l.commitGroups()
	return l, nil
}

// Close lets the changes that were accepted end and takes no more.
func (l *Log) Close() {
	close(l.closing)
	<-l.stopped
}

// InTx runs fn in a transaction and commits it together with what fn appended to feeds. When another writer was
// faster in the same feed, everything is undone and fn runs again: it must have no effect outside the transaction.
// After an error nothing has happened, unless it wraps ErrUnknown.
func (l *Log) InTx(ctx context.Context, fn func(tx *Tx) error) error {
	return l.persist(ctx, func(lock bool) ([]placed, error) {
		conn, err := l.pool.Acquire(ctx)
		if err != nil {
			return nil, final{err}
		}
		defer conn.Release()
		inner, err := conn.Begin(ctx)
		if err != nil {
			return nil, final{err}
		}
		defer rollback(conn)
		tx := &Tx{Tx: inner, pending: pending{}}
		if err := fn(tx); err != nil {
			return nil, final{err}
		}
		return l.end(ctx, conn, lock, tx.pending)
	})
}

// end appends what is pending and commits the transaction that is open on conn, in one packet. With lock it first
// waits for the heads, which then are true.
func (l *Log) end(ctx context.Context, conn *pgxpool.Conn, lock bool, pending pending) ([]placed, error) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), writeTimeout)
	defer cancel()
	heads := l.snapshot()
	if lock {
		var err error
		if heads, err = lockHeads(ctx, conn, pending.feeds()); err != nil {
			return nil, err
		}
	}
	runs, err := pending.place(heads)
	if err != nil {
		return nil, final{err}
	}
	var b pgx.Batch
	for i := range runs {
		runs[i].queue(&b)
	}
	b.Queue("commit")
	return runs, conn.SendBatch(ctx, &b).Close()
}

// persist tries to write until the outcome is certain. try gives the runs that it appended, and how that ended.
func (l *Log) persist(ctx context.Context, try func(lock bool) ([]placed, error)) error {
	var unknown [][]placed // attempts whose connection was lost
	lock := false
	for attempt := 1; ; attempt++ {
		runs, err := try(lock)
		again := attempt < maxAttempts
		switch {
		case err == nil:
			l.remember(runs)
			return nil
		case lostSwap(err):
			lock = true
		case connectionLost(err):
			l.logger.Warn("connection lost in a commit: asking whether it happened", "attempt", attempt, "error", err)
			unknown = append(unknown, runs)
			lock = false // an attempt that is still under way must lose its swap against the next one
		case isCode(err, "40P01"): // deadlock
		case len(unknown) == 0:
			return err
		default: // perhaps only because an earlier attempt landed: what it inserted is there
			again = false
		}
		committed, possible, settleErr := l.settle(ctx, unknown)
		switch {
		case committed:
			return nil
		case settleErr != nil && len(unknown) > 0:
			return fmt.Errorf("%w: %w; then: %w", ErrUnknown, err, settleErr)
		case settleErr != nil || !again && !possible:
			return err
		case !again:
			return fmt.Errorf("%w: %w", ErrUnknown, err)
		case possible:
			lock = false
		default:
			unknown = nil
		}
	}
}

// final wraps an error after which nothing has happened and another attempt would not help.
type final struct{ error }

func (e final) Unwrap() error { return e.error }

// lostSwap: another writer appended first.
func lostSwap(err error) bool {
	var pgErr *pgconn.PgError
	return errors.As(err, &pgErr) && pgErr.Code == "40001" && pgErr.TableName == "feed"
}

// connectionLost: what was sent may have been committed or not.
func connectionLost(err error) bool {
	if errors.As(err, &final{}) || errors.As(err, &pgx.ErrPreprocessingBatch{}) {
		return false
	}
	if pgErr, ok := errors.AsType[*pgconn.PgError](err); ok {
		return pgErr.SeverityUnlocalized == "FATAL" || pgErr.SeverityUnlocalized == "PANIC"
	}
	return true
}

func isCode(err error, code string) bool {
	var pgErr *pgconn.PgError
	return errors.As(err, &pgErr) && pgErr.Code == code
}

// settle finds out whether one of the attempts was committed, whether one is still possible, and where the heads are
// now. It asks a database that is away again and again, until ctx ends or the time for one write is over.
//
// A packet that is still under way cannot land unseen: it appends onto the head that it was made for, and so does the
// next attempt. Only one of them can succeed; the other loses the swap and is settled again. Once the head has moved
// on, it never comes back.
func (l *Log) settle(ctx context.Context, attempts [][]placed) (committed, possible bool, err error) {
	ctx, cancel := context.WithTimeout(ctx, writeTimeout)
	defer cancel()
	for wait := 10 * time.Millisecond; ; wait = min(2*wait, time.Second) {
		if err = l.refresh(ctx); err == nil {
			if committed, possible, err = l.find(ctx, attempts); err == nil {
				return committed, possible, nil
			}
		}
		select {
		case <-ctx.Done():
			return false, true, err
		case <-time.After(wait):
		}
	}
}

// find looks for the attempts in the log. One run speaks for all of its transaction. What the heads were before the
// search tells what is still possible after it.
func (l *Log) find(ctx context.Context, attempts [][]placed) (committed, possible bool, err error) {
	heads := l.snapshot()
	for _, runs := range attempts {
		if len(runs) == 0 { // nothing was sent that could commit
			continue
		}
		run := &runs[0]
		head := run.head()
		err = l.pool.QueryRow(ctx, `select exists (select from feed_entry where feed = $1 and position = $2 and digest = $3)`,
			run.feed, head.Position, head.Digest[:]).Scan(&committed)
		if committed || err != nil {
			return committed, false, err
		}
		possible = possible || heads[run.feed] == run.from
	}
	return false, possible, nil
}

func (l *Log) refresh(ctx context.Context) error {
	rows, err := l.pool.Query(ctx, `select name, position, digest from feed`)
	if err != nil {
		return err
	}
	heads, err := collectHeads(rows)
	if err != nil {
		return err
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.heads = heads
	return nil
}

// lockHeads locks the head rows of the feeds until the transaction ends, and gives the heads. The server ends the
// transaction when this client stalls.
func lockHeads(ctx context.Context, conn *pgxpool.Conn, feeds []string) (map[string]Head, error) {
	var b pgx.Batch
	b.Queue(`set local idle_in_transaction_session_timeout = '5s'`)
	b.Queue(`select name, position, digest from feed where name = any($1) order by name for update`, feeds)
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
	var position int64
	var digest []byte
	_, err := pgx.ForEachRow(rows, []any{&name, &position, &digest}, func() error {
		if len(digest) != len(feed.Digest{}) {
			return fmt.Errorf("the digest of feed %s has %d bytes", name, len(digest))
		}
		heads[name] = Head{position, feed.Digest(digest)}
		return nil
	})
	return heads, err
}

func (l *Log) snapshot() map[string]Head {
	l.mu.Lock()
	defer l.mu.Unlock()
	return maps.Clone(l.heads)
}

func (l *Log) remember(runs []placed) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for i := range runs {
		l.heads[runs[i].feed] = runs[i].head()
	}
}
