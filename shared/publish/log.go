package publish

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/edison-cars/data-feeds/shared/feed"
	"github.com/edison-cars/data-feeds/shared/migrate"
	"github.com/edison-cars/data-feeds/sql"
)

const (
	maxGroup     = 512              // changes in one packet
	patience     = 10 * time.Second // for a change to become part of a group, for one attempt to write, and to find out its outcome
	lockTimeout  = "2s"             // for a row that another transaction has locked: a commit that hangs keeps the head locked
	shortTimeout = "100ms"          // the same for the statements of changes, while others of the group wait as well, after one has waited in vain
	shortWhile   = 10 * time.Second // how long that is
	closeTimeout = time.Second      // for what is under way at Close, before it is given up, and once more after that
	maxAttempts  = 10               // of one packet, after a lost swap, a lost connection or a deadlock; while a head is locked, as many as there is time for
)

// A Log is the writing side of all feeds of one database. Several logs, in several processes, may write to the same
// database at once.
type Log struct {
	pools
	memory
	queue         queue         // of changes
	confirmations confirmations // by a synchronous standby
	peers         *peers
	reerasure     *reerasure // nil means that erasures do not outlive the restore of a dump
	compactAfter  time.Duration
	logger        *slog.Logger
	metrics       logMetrics

	away atomic.Bool // the primary did not answer when the heads were last read

	writes
	patience   time.Duration   // as the constant
	committing context.Context // ends when Close no longer waits for the commits under way
	abort      context.CancelFunc
	stop       context.CancelFunc // ends the background work
	watching   sync.WaitGroup
}

// writes are what a log remembers of its last writes.
type writes struct {
	wrote  atomic.Int64 // when the last one began, in nanoseconds since 1970
	noRoom atomic.Bool  // the last change failed since the database had no room
	locked atomic.Int64 // when a change of a group last waited in vain for a row, in nanoseconds since 1970
}

// Options say where a log keeps its tables, and how it is opened.
type Options struct {
	// Schema is the schema of the log's tables. If it is empty, it is the first schema of the pool's search_path, and
	// the log reads through the pool. Otherwise the log opens another pool of the same size for reading. The
	// connections of that pool, and those of [Log.InTx] and [Log.Commit], look for tables in Schema first, and then
	// where those of the caller's pool do.
	Schema string
	// Logger defaults to none.
	Logger *slog.Logger
	// Erasures are for a database with personal feeds. Before anything of the database is served, at the start and
	// after each restore of a dump, the log erases again what the list says is erased. If a process appends an id to
	// the list and does not commit, the id is erased soon afterwards; that process has returned ErrUnknown.
	Erasures Erasures
	// FromSQL is for a database to which programs publish by the SQL functions, feed_put and others. The log appends what
	// attached tables have staged, runs their backfills, and sees new entries within some milliseconds while a reader
	// waits. Several processes may do so.
	FromSQL bool
	// CompactAfter is the age from which on superseded entries of all feeds are compacted: see [Log.Compact]. The log
	// looks for them each minute; where several logs do, one of them goes on. Zero keeps the whole history.
	CompactAfter time.Duration
	// Standbys are pools of hot standbys of the database, one for each. Pages, snapshots and the versions of entities are
	// read from them. A standby answers if it has replayed the head that this process knows, with the same erasures and
	// compactions; else the primary does, which alone says that something is not there. The log does without a standby
	// that is down. While the primary is down, what it was last known to have is served: see [Log.Age]. Close the log
	// before the pools.
	Standbys []*pgxpool.Pool
}

// Migrate creates the tables of a log, or changes older ones to what this version of the package needs. It records what
// it has applied in the table goose_publish beside them. Several processes may call it at once. It refuses tables of a
// later version.
func Migrate(ctx context.Context, pool *pgxpool.Pool, options Options) error {
	return migrate.Up(ctx, pool, options.Schema, migrations())
}

func migrations() migrate.Set { return sql.Migrations("publish") }

// Open returns the log whose tables [Migrate] has made. It refuses tables of an older or a later version. Close the log
// before the pool. The log opens connections of its own, configured like those of the pool: up to as many for
// [Log.InTx], and 4 more.
//
// What the log acknowledges and serves is as durable as the server's settings make a commit. If
// synchronous_standby_names is set, that includes a failover to the synchronous standby: a commit that is not confirmed
// in time is an ErrUnknown and is never cancelled, and what was only read from the database counts once a later
// transaction was confirmed. There is one limit. If somebody else cancels the wait of another process's commit, by
// pg_cancel_backend or by ending its connection, other programs that write to the database may see, and build upon,
// what a failover takes away.
func Open(ctx context.Context, pool *pgxpool.Pool, options Options) (*Log, error) {
	return open(ctx, pool, options, headInterval, patience)
}

func open(ctx context.Context, pool *pgxpool.Pool, options Options, interval, patience time.Duration) (*Log, error) {
	schema, err := migrations().Check(ctx, pool, options.Schema)
	if err != nil {
		return nil, fmt.Errorf("open the log of the feeds: %w (publish.Migrate does)", err)
	}
	l := &Log{
		memory: memory{snapshots: map[string]*Snapshot{}, trails: map[string]trail{}, losses: map[string]Loss{}}, queue: newQueue(), peers: newPeers(schema), compactAfter: options.CompactAfter,
		logger: cmp.Or(options.Logger, slog.New(slog.DiscardHandler)), metrics: newLogMetrics(), patience: patience,
	}
	l.confirmations.write = l.writeWAL
	background := context.WithoutCancel(ctx)
	l.committing, l.abort = context.WithCancel(background)
	if err = l.connect(ctx, pool, options.Schema); err == nil {
		err = l.standbys.connect(ctx, options.Standbys, options.Schema)
	}
	if err == nil {
		err = l.begin(ctx, options.Erasures)
	}
	if err != nil {
		l.abort()
		l.disconnect()
		return nil, err
	}
	ctx, l.stop = context.WithCancel(background)
	l.watching.Go(func() { l.follow(ctx, interval) })
	l.watching.Go(func() { l.peers.announce(ctx, l.pool) })
	if options.FromSQL {
		l.watching.Go(func() { l.move(ctx) })
	}
	if options.CompactAfter > 0 {
		l.watching.Go(func() { l.compact(ctx) })
	}
	return l, nil
}

// begin applies the list of erased ids, reads the heads, and checks how durable a commit is. It waits a few seconds.
func (l *Log) begin(ctx context.Context, erasures Erasures) error {
	looking, cancel := context.WithTimeout(ctx, 2*refreshTimeout)
	defer cancel()
	applied := true
	if erasures.File != "" {
		switch err := l.openList(looking, erasures); {
		case errors.Is(err, errNotYet) && ctx.Err() == nil:
			applied = false
			l.logger.WarnContext(ctx, "the list of erased ids is not applied yet, and nothing is served until it is: the synchronous standby "+
				"does not answer, another transaction holds a feed, or much was restored")
		case err != nil:
			return err
		}
	}
	if applied {
		switch _, err := l.refresh(looking, l.pool); {
		case errors.Is(err, errUnconfirmed):
			l.logger.WarnContext(ctx, "the synchronous standby does not answer: nothing is served until it has confirmed what the database holds")
		case err != nil:
			return fmt.Errorf("read the heads of the feeds: %w", err)
		}
	}
	var durable string
	if err := l.transactions.QueryRow(ctx, `select current_setting('synchronous_commit')`).Scan(&durable); err != nil {
		return fmt.Errorf("read synchronous_commit: %w", err)
	}
	switch durable {
	case "off":
		l.logger.WarnContext(ctx, "synchronous_commit is off: a crash of the database may lose what was acknowledged in the second before; set it to on")
	case "local":
		l.logger.WarnContext(ctx, "synchronous_commit is local: a failover may lose what was acknowledged; set it to on")
	}
	return nil
}

// WroteWithin reports whether a write began in the last d.
func (l *Log) WroteWithin(d time.Duration) bool {
	return time.Now().UnixNano()-l.wrote.Load() < int64(d)
}

// Close refuses new changes, and lets those that were accepted, and the running calls of InTx, end. After a second it
// gives up the commits that the database does not confirm: their outcome stays unknown. It waits one more second for
// what still runs. Closing a closed log does nothing.
func (l *Log) Close() { l.queue.once.Do(l.close) }

func (l *Log) close() {
	close(l.queue.closing)
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		l.queue.leads <- struct{}{} // never received again: no group is led any more
		l.disconnect()
	}()
	for range 2 {
		select {
		case <-ended:
		case <-time.After(closeTimeout):
		}
		l.abort()
	}
	l.stop()
	l.watching.Wait()
}

// InTx runs fn in a read committed transaction and commits it together with what fn appended to feeds. If another
// writer was faster in the same feed, InTx rolls back and runs fn again, so fn must have no effect outside the
// transaction. After an error nothing has happened, unless the error wraps ErrUnknown. The error is ErrGuard if
// feed_guard stopped fn. The end of ctx does not cancel a commit that is under way; InTx waits up to 10 s for it.
func (l *Log) InTx(ctx context.Context, fn func(tx *Tx) error) error {
	l.wrote.Store(time.Now().UnixNano())
	var listed uncommitted
	isListed := false
	_, err := l.persist(ctx, func(lock bool) (attempt, error) {
		conn, err := l.transactions.Acquire(ctx)
		if err != nil {
			return attempt{}, final{err}
		}
		defer release(conn)
		inner, err := conn.Begin(ctx)
		if err != nil {
			return attempt{}, final{err}
		}
		defer rollback(conn)
		tx := &Tx{Tx: inner, pending: pending{}}
		if err := fn(tx); err != nil {
			l.dropStale(err)
			return attempt{}, final{guarded(err)}
		}
		if status := conn.Conn().PgConn().TxStatus(); status != 'T' {
			return attempt{}, final{errors.New("the transaction was ended, or has failed, before its last statement")}
		}
		runs, err := l.end(context.WithoutCancel(ctx), conn, lock, tx.pending, &listed)
		isListed = isListed || errors.As(err, new(listedError))
		l.dropStale(err)
		return attempt{runs: runs}, err
	})
	if l.reerasure != nil {
		l.reerasure.list.end(&listed, errors.Is(err, ErrUnknown))
	}
	if isListed && err != nil && !errors.Is(err, ErrUnknown) {
		err = fmt.Errorf("%w: %w", ErrUnknown, err)
	}
	return l.noteRoom(err)
}

// end appends what is pending and commits the open transaction of conn, in one packet. With lock it locks the heads
// first, so that no other writer can move them. If nothing is appended, the outcome of a lost commit cannot be found
// out later. What it adds to the list of erased ids is recorded in listed.
func (l *Log) end(ctx context.Context, conn *pgxpool.Conn, lock bool, pending pending, listed *uncommitted) ([]placed, error) {
	ctx, cancel := context.WithTimeout(ctx, l.patience)
	defer cancel()
	defer context.AfterFunc(l.committing, cancel)()
	if len(pending) == 0 {
		_, err := conn.Exec(ctx, "commit")
		if err = committed(conn, err); err != nil && connectionLost(err) {
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
	statements := []statement{{sql: appendSQL}}
	erasing := l.reerasure != nil && pending.erases() != nil
	if erasing {
		statements = append(statements, statement{sql: listedSQL})
	}
	if err := prepare(ctx, conn.Conn(), statements); err != nil {
		return nil, err
	}
	heads := l.heads()
	if lock || erasing {
		var err error
		if heads, err = lockHeads(ctx, conn, pending.feeds()); err != nil {
			return nil, err
		}
	}
	pending, err := pending.number(ctx, conn)
	if err != nil {
		return nil, err
	}
	runs := pending.place(heads)
	var last []statement
	if erasing {
		listing, err := l.addToList(pending, listed)
		if err != nil {
			return nil, final{err}
		}
		last = append(last, listing)
	}
	for i := range runs {
		last = append(last, runs[i].append())
	}
	err = committed(conn, sendLast(ctx, conn.Conn(), last))
	if erasing && err != nil {
		err = listedError{err}
	}
	return runs, err
}

// check refuses entries that break a rule of the log.
func (l *Log) check(ctx context.Context, pending pending) error {
	for name := range pending {
		if t, _ := l.remembered(name); t != nil {
			continue
		}
		heads, err := l.refresh(ctx, l.pool) // a migration may have created the feed since
		if err != nil {
			return err
		}
		if _, ok := heads[name]; !ok {
			return noFeed(name)
		}
	}
	return pending.check()
}

// lockHeads locks the feeds until the transaction ends, and returns their heads. The server ends the transaction if this
// client stalls.
func lockHeads(ctx context.Context, conn *pgxpool.Conn, feeds []string) (map[string]Head, error) {
	var b pgx.Batch
	b.Queue(`set local idle_in_transaction_session_timeout = '5s'`)
	b.Queue(`select from feed where name = any($1) order by name collate "C" for update`, feeds)
	b.Queue(`select name, position, digest, erasures, compaction from feed_head where name = any($1)`, feeds) // sees what the last holder has committed
	results := conn.SendBatch(ctx, &b)
	defer results.Close()
	for range 2 {
		if _, err := results.Exec(); err != nil {
			return nil, err
		}
	}
	rows, err := results.Query()
	if err != nil {
		return nil, err
	}
	return collectHeads(rows)
}

// rollback rolls back the open transaction of conn, if there is one.
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
	var compaction Compaction
	_, err := pgx.ForEachRow(rows, []any{&name, &position, &digest, &erasures, &compaction}, func() error {
		if len(digest) != len(feed.Digest{}) {
			return fmt.Errorf("the digest of feed %s has %d bytes", name, len(digest))
		}
		heads[name] = Head{position, feed.Digest(digest), erasures, compaction}
		return nil
	})
	return heads, err
}
