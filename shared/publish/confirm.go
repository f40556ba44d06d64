package publish

import (
	"context"
	"fmt"
	"sync"
	"time"
)

// errUnconfirmed means that the synchronous standby has not confirmed in time something that the database holds.
var errUnconfirmed = fmt.Errorf("the synchronous standby has not confirmed it yet: %w", context.DeadlineExceeded)

// A confirmation is a transaction that writes WAL. Once it is confirmed, so is all that could be read before it began.
type confirmation struct {
	done chan struct{}
	err  error // set before done is closed
}

// confirmations shares confirmations among the callers that wait for one.
type confirmations struct {
	write func() error // commits a transaction that writes WAL

	mu      sync.Mutex
	running bool          // a confirmation is under way
	next    *confirmation // the confirmation after it; nil means that no caller waits for it
}

// wait returns when a transaction that began after the call is committed. It wraps errUnconfirmed.
func (all *confirmations) wait(ctx context.Context) error {
	all.mu.Lock()
	if all.next == nil {
		all.next = &confirmation{done: make(chan struct{})}
	}
	c := all.next
	if !all.running {
		all.running = true
		go all.run()
	}
	all.mu.Unlock()
	select {
	case <-c.done:
		if c.err != nil {
			return fmt.Errorf("%w (%w)", errUnconfirmed, c.err)
		}
		return nil
	case <-ctx.Done():
		return errUnconfirmed
	}
}

// run makes one confirmation at a time while callers wait. So at most one hangs in the server.
func (all *confirmations) run() {
	for {
		all.mu.Lock()
		c := all.next
		if all.next = nil; c == nil {
			all.running = false
			all.mu.Unlock()
			return
		}
		all.mu.Unlock()
		c.err = all.write()
		close(c.done)
	}
}

// Confirm waits until all changes of the feeds that the caller has read from the database are as durable as a commit,
// or until ctx ends. Call it before repeating something read as if it had just been committed, such as the first answer
// to a repeated request. It sends nothing if the heads were read within the last 2 s and there is no synchronous
// standby.
func (l *Log) Confirm(ctx context.Context) error {
	l.mu.Lock()
	needless := !l.standby && time.Since(l.looked) < maxStale
	l.mu.Unlock()
	if needless {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, l.patience)
	defer cancel()
	_, err := l.refresh(ctx, l.pool)
	return err
}

// Appendable returns nil if a change could be appended to each feed now: the database is complete and has nothing that
// is erased, a connection for [Log.Commit] is free, and no other transaction holds a head. It waits until ctx ends for
// transactions that already hold one. It locks no row and writes nothing.
func (l *Log) Appendable(ctx context.Context, feeds ...string) error {
	seen, err := l.look(ctx, l.pool)
	if err != nil {
		return err
	}
	for _, name := range feeds {
		if _, there := seen.heads[name]; !there {
			return noFeed(name)
		}
	}
	var holders []string // a transaction that has locked a row of a table holds one of these locks on the table
	const find = `
		select coalesce(array_agg(distinct virtualtransaction), '{}') from pg_locks
		 where granted and relation = 'feed'::regclass and database = (select oid from pg_database where datname = current_database())
		       and mode in ('RowShareLock', 'RowExclusiveLock') and ($1::text[] is null or virtualtransaction = any($1))`
	for wait := time.Millisecond; ; wait = min(2*wait, 100*time.Millisecond) {
		if err := l.writers.QueryRow(ctx, find, holders).Scan(&holders); err != nil || len(holders) == 0 {
			return err
		}
		sleep(ctx, wait)
	}
}

// Ready returns nil if a commit would be confirmed now, at the latest when ctx ends. It sends nothing to a database
// that has no synchronous standby.
func (l *Log) Ready(ctx context.Context) error {
	l.mu.Lock()
	standby := l.standby
	l.mu.Unlock()
	if !standby {
		return nil
	}
	return l.confirmations.wait(ctx)
}

// writeWAL commits a transaction that changes nothing. It waits as long as the server takes.
func (l *Log) writeWAL() (err error) {
	ctx, cancel := context.WithCancel(l.committing)
	defer cancel()
	defer func() {
		if err != nil && l.committing.Err() == nil {
			l.logger.Warn("entries of the database are not served: the synchronous standby cannot be asked to confirm them", "error", err)
		}
	}()
	connecting, connected := context.WithTimeout(ctx, l.patience)
	conn, err := l.writers.Acquire(connecting)
	connected()
	if err != nil {
		return err
	}
	defer release(conn)
	go l.watch(ctx, conn.Conn().PgConn().PID(), cancel)
	_, err = conn.Exec(ctx, `select pg_logical_emit_message(true, 'datafeed', '')`)
	return committed(conn, err)
}

// watch calls gone when the server has no process with this id any more, or when another server without it has taken
// its place. It ends with ctx. Without watch, the answer of a machine that is gone would be awaited for a quarter of an
// hour.
func (l *Log) watch(ctx context.Context, pid uint32, gone func()) {
	for sleep(ctx, l.patience); ctx.Err() == nil; sleep(ctx, l.patience) {
		asking, cancel := context.WithTimeout(ctx, refreshTimeout)
		var there bool
		err := l.pool.QueryRow(asking, `select exists (select from pg_stat_activity where pid = $1)`, int64(pid)).Scan(&there)
		if cancel(); err == nil && !there {
			gone()
		}
	}
}

// durable returns when this process may serve the position of the feed. It wraps errUnconfirmed if that takes too long.
func (l *Log) durable(ctx context.Context, name string, position int64) error {
	if t, _ := l.remembered(name); t != nil && t.Position >= position {
		return nil
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), refreshTimeout)
	defer cancel()
	_, err := l.refresh(ctx, l.pool)
	return err
}
