package publish

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"runtime/debug"
	"slices"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
)

// A queue is where changes wait for a group.
type queue struct {
	changes chan *Change
	leads   chan struct{} // holds an element while a group is being committed
	closing chan struct{}
	once    *sync.Once // of the close
}

func newQueue() queue {
	return queue{changes: make(chan *Change), leads: make(chan struct{}, 1), closing: make(chan struct{}), once: new(sync.Once)}
}

// Commit runs the change as one transaction, together with others that wait at the same moment: up to 512 are sent in
// one packet and share one flush to disk. No change waits for more to come, and a change that fails does not fail the
// others. Commit returns when the outcome is certain, or after 30 s at most. After an error nothing has happened,
// unless the error wraps ErrUnknown. The error wraps context.DeadlineExceeded if the change waited 10 s for those
// before it, and has SQLSTATE 55P03 if another transaction held a row for up to 2 s. A change is committed once and must not
// be used again.
func (l *Log) Commit(ctx context.Context, change *Change) error {
	if len(change.pending) == 0 {
		return errors.New("a change has to append to a feed")
	}
	ctx, cancel := context.WithTimeout(ctx, l.patience)
	defer cancel()
	if err := l.check(ctx, change.pending); err != nil {
		return err
	}
	if l.reerasure != nil && change.pending.erases() != nil {
		return l.commitErasure(ctx, change)
	}
	l.wrote.Store(time.Now().UnixNano())
	select {
	case l.queue.leads <- struct{}{}:
		change.taken.Store(true)
		l.lead(change)
	case l.queue.changes <- change:
	case <-l.queue.closing:
		return ErrClosed
	case <-ctx.Done():
		return errQueue(ctx)
	}
	select {
	case err := <-change.done:
		return l.noteRoom(err)
	case <-ctx.Done():
		if change.taken.CompareAndSwap(false, true) {
			return errQueue(ctx)
		}
		return l.noteRoom(<-change.done)
	}
}

func errQueue(ctx context.Context) error {
	return fmt.Errorf("wait for the changes before this one: %w", ctx.Err())
}

// lead commits the group that begins with the change. A change that comes while no group is being committed leads the
// next one, so that a single change waits for no other goroutine. The changes that are left over continue in another
// goroutine.
func (l *Log) lead(change *Change) {
	defer func() {
		if v := recover(); v != nil { // the caller may survive the panic, but the others of the group would wait for ever
			l.logger.Error("a commit panicked", "panic", fmt.Sprintf("%T", v), "stack", string(debug.Stack()))
			go panic(v)
			select {}
		}
	}()
	runtime.Gosched() // callers who have just been answered come with the next change
	a := arrivals{queue: l.queue.changes}
	ctx, cancel := context.WithTimeout(l.committing, 2*l.patience)
	defer cancel()
	unknown := l.commitGroup(ctx, []*Change{change}, &a)
	if a.left == nil && !unknown {
		<-l.queue.leads
		return
	}
	go func() {
		if unknown {
			l.awaitHeads()
		}
		if a.left != nil && a.left.taken.CompareAndSwap(false, true) {
			l.lead(a.left)
			return
		}
		<-l.queue.leads
	}()
}

// awaitHeads returns when no transaction holds the heads. A commit that hangs holds a head until it is over. Until then
// no group is committed, and callers learn in time that nothing has happened.
func (l *Log) awaitHeads() {
	for wait := 10 * time.Millisecond; l.committing.Err() == nil && !l.headsFree(); wait = min(2*wait, time.Second) {
		sleep(l.committing, wait)
	}
}

// headsFree reports whether the heads could be locked. It waits for each of them for up to 2 s.
func (l *Log) headsFree() bool {
	ctx, cancel := context.WithTimeout(l.committing, l.patience)
	defer cancel()
	conn, err := l.writers.Acquire(ctx)
	if err != nil {
		return false
	}
	defer release(conn)
	defer rollback(conn)
	_, err = conn.Exec(ctx, `begin; select from feed order by name collate "C" for update; rollback`)
	return err == nil
}

// arrivals are the changes that come while a group is being sent.
type arrivals struct {
	queue <-chan *Change
	left  *Change // the first of the next group
}

// next returns a change that waits and fits, or nil if there is none.
func (a *arrivals) next(fits func(*Change) bool) *Change {
	for {
		select {
		case c := <-a.queue:
			switch {
			case !fits(c):
				a.left = c
				return nil
			case c.taken.CompareAndSwap(false, true):
				return c
			}
		default:
			return nil
		}
	}
}

// maxBlamed is the number of failing changes that are taken out one by one before the group is halved.
const maxBlamed = 2

var errHalve = errors.New("too many changes of the group fail")

// commitGroup commits the group without the changes that fail. It takes out the first two changes whose own statements
// fail, one by one; after that, and after any other error of the database, it halves the group. Failed changes are
// answered last, when the others are visible. Changes that come during the first attempt join the group; more may be
// nil. commitGroup reports whether an outcome is unknown.
func (l *Log) commitGroup(ctx context.Context, group []*Change, more *arrivals) (unknown bool) {
	rest, blamed, tries := group, map[*Change]error{}, 0
	won, err := l.persist(ctx, func(lock bool) (attempt, error) {
		for tries++; len(rest) > 0; {
			var runs []placed
			var err error
			rest, runs, err = l.trySend(ctx, lock, rest, more)
			if more = nil; tries == 1 {
				l.metrics.group.Observe(float64(len(rest)))
			}
			bad, ok := errors.AsType[*changeError](err)
			if !ok {
				return attempt{runs, rest}, err
			}
			if isCode(bad.error, lockNotAvailable) {
				l.locked.Store(time.Now().UnixNano())
			}
			blamed[rest[bad.index]] = guarded(unquoted(bad.error))
			rest = slices.Delete(slices.Clone(rest), bad.index, bad.index+1)
			if len(blamed) >= maxBlamed && len(rest) > 1 && tries == 1 { // in later attempts, an earlier one may still land, and that has to be settled
				break
			}
		}
		return attempt{}, final{errHalve}
	})
	unknown = errors.Is(err, ErrUnknown)
	for _, c := range won.changes {
		c.done <- nil
		delete(blamed, c) // an earlier attempt had landed
	}
	rest = slices.DeleteFunc(slices.Clone(rest), func(c *Change) bool { return slices.Contains(won.changes, c) })
	switch half := len(rest) / 2; {
	case half > 0 && divisible(err):
		first, second := l.commitGroup(ctx, rest[:half], nil), l.commitGroup(ctx, rest[half:], nil)
		unknown = first || second
	default:
		for _, c := range rest {
			c.done <- err
		}
	}
	for c, because := range blamed {
		if errors.Is(err, ErrUnknown) {
			because = err
		}
		c.done <- because
	}
	return unknown
}

// divisible reports whether nothing has happened and a part of the group may succeed.
func divisible(err error) bool {
	if errors.Is(err, ErrUnknown) || errors.As(err, new(*pgconn.ConnectError)) {
		return false
	}
	return errors.Is(err, errHalve) || errors.As(err, new(*pgconn.PgError)) && !connectionLost(err)
}

// A changeError is the error of a change's own statement.
type changeError struct {
	index int
	error
}

func (e *changeError) Unwrap() error { return e.error }

// trySend sends the group, and more, as one packet without BEGIN and COMMIT, which PostgreSQL runs as one transaction.
// With lock it sends the statements in an open transaction, and the appends after the heads are locked.
func (l *Log) trySend(ctx context.Context, lock bool, group []*Change, more *arrivals) (sent []*Change, runs []placed, err error) {
	ctx, cancel := context.WithTimeout(ctx, l.patience)
	defer cancel()
	conn, err := l.writers.Acquire(ctx)
	if err != nil {
		return group, nil, final{err}
	}
	defer release(conn)
	defer func() { l.dropStale(err) }()
	if err := encodeRows(ctx, conn.Conn()); err != nil {
		return group, nil, err
	}
	if lock {
		defer rollback(conn)
		if _, err := conn.Exec(ctx, "begin"); err != nil {
			return group, nil, err
		}
	}
	group, runs, err = l.send(ctx, conn.Conn(), lock, group, more)
	if err == nil && lock {
		runs, err = l.end(ctx, conn, true, pendingOf(group), nil)
	}
	if refused, ok := errors.AsType[*EntryError](err); ok {
		err = blame(ownerOf(group, refused), err)
	}
	return group, runs, committed(conn, err)
}

// limitLocks is the statement that sets how long the next ones may wait for rows that others have locked.
func limitLocks(timeout string) statement {
	return statement{sql: `select set_config('lock_timeout', $1, true)`, args: []any{timeout}}
}

// ownerOf returns the index of the last change that appends the entry.
func ownerOf(group []*Change, e *EntryError) int {
	for i, c := range slices.Backward(group) {
		if slices.ContainsFunc(c.pending[e.Feed], func(r record) bool { return r.ID == e.ID && r.Version == e.Version }) {
			return i
		}
	}
	return noOwner
}

// pendingOf returns what the changes append, together.
func pendingOf(group []*Change) pending {
	all := pending{}
	for _, c := range group {
		for name, records := range c.pending {
			all[name] = append(all[name], records...)
		}
	}
	return all
}

// send sends the group and, unless the heads are to be locked, its appends. If a change's statement fails, the error
// names the change.
func (l *Log) send(ctx context.Context, conn *pgx.Conn, lock bool, group []*Change, more *arrivals) (_ []*Change, runs []placed, err error) {
	for i, c := range group {
		if err := prepare(ctx, conn, c.statements); err != nil {
			return group, nil, blame(i, err)
		}
	}
	if err := prepare(ctx, conn, []statement{{sql: appendSQL}}); err != nil {
		return group, nil, err
	}
	impatient := time.Since(time.Unix(0, l.locked.Load())) < shortWhile
	if impatient {
		if err := prepare(ctx, conn, []statement{limitLocks(shortTimeout)}); err != nil {
			return group, nil, err
		}
	}
	p := newPacket(ctx, conn)
	defer func() {
		if err != nil {
			_ = p.pipeline.Close() // closes the connection if anything was sent
		}
	}()
	if impatient {
		if err := p.add(ctx, limitLocks(shortTimeout), noOwner); err != nil {
			return group, nil, err
		}
	}
	fits := func(c *Change) bool { return prepare(ctx, conn, c.statements) == nil } // nothing can be prepared now
	for i := 0; i < len(group); i++ {
		for _, s := range group[i].statements {
			if err := p.add(ctx, s, i); err != nil {
				return group, nil, err
			}
		}
		if i == len(group)-1 && more != nil && len(group) < maxGroup {
			if c := more.next(fits); c != nil {
				group = append(group, c)
			}
		}
	}
	if impatient {
		if err := p.add(ctx, limitLocks(lockTimeout), noOwner); err != nil {
			return group, nil, err
		}
	}
	if !lock {
		heads := l.heads()
		all, err := pendingOf(group).number(ctx, l.writers)
		if err != nil {
			return group, nil, err
		}
		runs = all.place(heads)
		for i := range runs {
			if err := p.add(ctx, runs[i].append(), noOwner); err != nil {
				return group, nil, err
			}
		}
	}
	if err := p.pipeline.Sync(); err != nil {
		return group, runs, err
	}
	l.foresee(runs)
	return group, runs, p.results()
}
