package publish

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/edison-cars/data-feeds/shared/feed"
)

const (
	headInterval   = time.Second              // between two looks at the heads of the database, whatever is heard
	maxStale       = 2 * time.Second          // a head that was not looked at for longer is not answered from
	refreshTimeout = 2 * time.Second          // for one look
	notifyDelay    = time.Millisecond         // the readers who wait here come first
	notifyInterval = 10 * time.Millisecond    // between two notifications of the other processes
	headChannel    = "datafeed_feed_appended" // of LISTEN and NOTIFY
	listenLock     = 0x66656564               // of the advisory lock that all hold who listen
)

// A Head is the end of a feed: the position of its last entry, 0 if it has none, and the digest there; and how often
// something was erased before it.
type Head struct {
	Position int64
	Digest   feed.Digest
	Erasures int64
}

// Cursor returns the cursor of the head.
func (h Head) Cursor() feed.Cursor { return feed.At(h.Position, h.Digest) }

// A Snapshot is the end of a feed as this process knows it. It does not change; another one takes its place.
type Snapshot struct {
	Head
	// Recent are the entries before the head that this process has just appended, at most 100, oldest first. Most readers ask for no
	// others. Nobody may change them.
	Recent []feed.Entry
	// Epoch counts how often all that was made of the log had to be forgotten: after an erasure, and when the database had another
	// history.
	Epoch int

	moved chan struct{}

	mu       sync.Mutex
	foreseen []func(next *Snapshot) // called while the next one is being committed
}

// Moved returns a channel that is closed when another snapshot has taken the place of s, as after an append.
func (s *Snapshot) Moved() <-chan struct{} { return s.moved }

// maxForeseen bounds what is done of use before a commit.
const maxForeseen = 8

// Foresee has do called with the snapshot that is to follow s while its commit is under way. The commit may still fail.
func (s *Snapshot) Foresee(do func(next *Snapshot)) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.foreseen) < maxForeseen {
		s.foreseen = append(s.foreseen, do)
	}
}

// foresee makes use of the time that a commit takes.
func (l *Log) foresee(runs []placed) {
	for i := range runs {
		t, _ := l.remembered(runs[i].feed)
		if t == nil || t.Head != runs[i].from {
			continue
		}
		t.mu.Lock()
		todo := t.foreseen
		t.mu.Unlock()
		if len(todo) == 0 {
			continue
		}
		head := runs[i].head()
		next := &Snapshot{Head: head, Recent: runs[i].behind(slices.Clip(t.Recent)), Epoch: t.Epoch}
		go func() {
			for _, do := range todo {
				do(next)
			}
		}()
	}
}

// setSnapshot wants l.mu locked.
func (l *Log) setSnapshot(name string, head Head, recent []feed.Entry) {
	old := l.snapshots[name]
	if old != nil && old.Erasures != head.Erasures {
		l.epoch++
		recent = nil
	}
	l.snapshots[name] = &Snapshot{Head: head, Recent: recent, Epoch: l.epoch, moved: make(chan struct{})}
	if old != nil {
		close(old.moved)
	}
}

// remember takes over the heads that this process has just committed, and lets the other processes know.
func (l *Log) remember(runs []placed) {
	l.mu.Lock()
	for i := range runs {
		head := runs[i].head()
		if t := l.snapshots[runs[i].feed]; t == nil || head.Position > t.Position { // a later one may have been faster
			var before []feed.Entry
			if t != nil && t.Head == runs[i].from {
				before = t.Recent
			}
			l.setSnapshot(runs[i].feed, head, runs[i].behind(before))
		}
	}
	l.mu.Unlock()
	select {
	case l.appended <- struct{}{}:
	default:
	}
}

// snapshot returns the heads, for an append.
func (l *Log) heads() map[string]Head {
	l.mu.Lock()
	defer l.mu.Unlock()
	heads := make(map[string]Head, len(l.snapshots))
	for name, t := range l.snapshots {
		heads[name] = t.Head
	}
	return heads
}

// Snapshot returns the end of the feed from memory, or from the database if nobody looked there for 2 s.
func (l *Log) Snapshot(ctx context.Context, name string) (*Snapshot, error) {
	t, fresh := l.remembered(name)
	if t != nil && fresh {
		return t, nil
	}
	looked := l.looking.DoChan("", func() (any, error) {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), refreshTimeout)
		defer cancel()
		return l.refresh(ctx, l.pool)
	})
	var err error
	select {
	case <-ctx.Done():
		return nil, ctx.Err()
	case r := <-looked:
		err = r.Err
	}
	switch t, fresh = l.remembered(name); {
	case err != nil && !(t != nil && fresh && errors.Is(err, errUnconfirmed)):
		return nil, fmt.Errorf("read the head of feed %s: %w", name, err)
	case t == nil:
		return nil, noFeed(name)
	}
	return t, nil
}

// Remembered returns the last snapshot of the feed, or nil if there is none. It asks nothing of the database.
func (l *Log) Remembered(name string) *Snapshot {
	s, _ := l.remembered(name)
	return s
}

func (l *Log) remembered(name string) (t *Snapshot, fresh bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.snapshots[name], time.Since(l.looked) < maxStale
}

// maxRecent is how many entries of a feed are at hand.
const maxRecent = feed.PageSize

// behind returns the newest of the entries of before and of the run, of which before ends where the run begins.
func (p *placed) behind(before []feed.Entry) []feed.Entry {
	first := max(len(p.records)-maxRecent, 0)
	recent := before[max(len(before)+len(p.records)-first-maxRecent, 0):]
	for i := first; i < len(p.records); i++ {
		r, position := &p.records[i], p.from.Position+int64(i)+1
		recent = append(recent, feed.Entry{ // nobody reads beyond the end of before
			Position: position, ID: r.ID, Version: r.Version, Updated: r.Updated, Deleted: r.kind == kindDelete, Erased: r.erase, Entity: r.Payload,
			Cursor: feed.At(position, feed.Digest(p.digests[i])),
		})
	}
	return recent
}

func noFeed(name string) error {
	return fmt.Errorf("%w There is no feed %q: a migration makes it by select feed_create('%s'); after a restore, restore all tables of one dump",
		ErrIncomplete, name, name)
}

// follow keeps the heads in step with what other processes append: it is told by NOTIFY, and looks again and again, since
// a notification may be lost with the process that was to send it, or with the connection that was to hear it.
func (l *Log) follow(ctx context.Context, interval time.Duration) {
	for quiet := false; ; {
		err := l.listen(ctx, interval, &quiet)
		if ctx.Err() != nil {
			return
		}
		if !quiet {
			l.logger.WarnContext(ctx, "not hearing of other processes' entries, only looking for them", "error", err)
			quiet = true
		}
		sleep(ctx, interval)
		looking, cancel := context.WithTimeout(ctx, refreshTimeout)
		_, _ = l.refresh(looking, l.pool) // the next request that needs the heads gets the error
		cancel()
	}
}

// listen follows on a connection of its own, which no reader can hold up, until that breaks.
func (l *Log) listen(ctx context.Context, interval time.Duration, quiet *bool) error {
	connecting, cancel := context.WithTimeout(ctx, refreshTimeout)
	conn, err := pgx.ConnectConfig(connecting, l.pool.Config().ConnConfig)
	cancel()
	if err != nil {
		return err
	}
	defer func() {
		closing, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Second)
		defer cancel()
		_ = conn.Close(closing)
	}()
	defer l.alone.Store(false)
	if err := l.enter(ctx, conn); err != nil {
		return err
	}
	for counted := (time.Time{}); ; {
		looking, cancel := context.WithTimeout(ctx, refreshTimeout)
		_, err := l.refresh(looking, conn)
		if errors.Is(err, errUnconfirmed) {
			err = nil // the next look waits for it again
		} else if err == nil && time.Since(counted) >= interval {
			counted = time.Now()
			err = l.count(looking, conn)
		}
		cancel()
		if err != nil {
			return err
		}
		*quiet = false
		if err := l.hear(ctx, conn, interval); err != nil {
			return err
		}
	}
}

// enter has the connection hear of what other processes append, and them hear that there is one more: each holds the lock together
// with the others.
func (l *Log) enter(ctx context.Context, conn *pgx.Conn) error {
	ctx, cancel := context.WithTimeout(ctx, refreshTimeout)
	defer cancel()
	if _, err := conn.Exec(ctx, "listen "+headChannel); err != nil {
		return err
	}
	_, err := conn.Exec(ctx, `select pg_advisory_lock_shared($1, 0), pg_notify($2, $3)`, listenLock, headChannel, l.self)
	return err
}

// count notes whether any other process listens.
func (l *Log) count(ctx context.Context, conn *pgx.Conn) error {
	var alone bool
	err := conn.QueryRow(ctx, `
		select count(*) = 1 from pg_locks l join pg_database d on d.oid = l.database
		 where d.datname = current_database() and locktype = 'advisory' and classid = $1 and objid = 0 and objsubid = 2`, listenLock).Scan(&alone)
	l.alone.Store(err == nil && alone)
	return err
}

// hear returns when another process has appended, or after the interval.
func (l *Log) hear(ctx context.Context, conn *pgx.Conn, interval time.Duration) error {
	waiting, cancel := context.WithTimeout(ctx, interval)
	defer cancel()
	for {
		n, err := conn.WaitForNotification(waiting)
		switch {
		case err == nil && n.Payload == l.self: // this process knows already
		case err == nil:
			l.alone.Store(false)
			return nil
		case err != nil && ctx.Err() == nil && errors.Is(err, context.DeadlineExceeded):
			return nil
		default:
			return err
		}
	}
}

// announce tells the other processes that something was appended: after the commit, as NOTIFY in a transaction makes it wait
// for all others that do so.
func (l *Log) announce(ctx context.Context) {
	for {
		select {
		case <-ctx.Done():
			return
		case <-l.appended:
		}
		if l.alone.Load() {
			continue
		}
		sleep(ctx, notifyDelay)
		sending, cancel := context.WithTimeout(ctx, refreshTimeout)
		_, _ = l.pool.Exec(sending, `select set_config('synchronous_commit', 'off', true), pg_notify($1, $2)`, headChannel, l.self) // they look, too
		cancel()
		sleep(ctx, notifyInterval)
	}
}

func sleep(ctx context.Context, d time.Duration) {
	select {
	case <-ctx.Done():
	case <-time.After(d):
	}
}
