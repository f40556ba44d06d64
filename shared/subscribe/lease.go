package subscribe

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"runtime/debug"
	"slices"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"
)

const (
	heartbeat     = time.Second
	heartbeatWait = 3 * time.Second // after which a connection counts as lost
	silenceEnds   = "5s"            // after which the server ends a silent session
)

// lockKey is the key of the service's advisory lock: a hash of the name $1 and of the schema of its tables. Services
// that share a database have different keys, also those of the same name in two schemas. Replicas of a service have the
// same key.
const lockKey = `hashtextextended(quote_ident(current_schema()) || ' data-feeds subscriber ' || $1, 0)`

// A lease is held by the one process of a service that polls, while the others only serve. It is an advisory lock,
// which ends with its connection. A process that has lost it without noticing is fenced: it cannot move a cursor that
// another process has moved.
type lease struct{ *Subscriber }

// run polls whenever this process holds the lease, until ctx ends.
func (l *lease) run(ctx context.Context) {
	for said := ""; ; {
		err := l.hold(ctx, &said)
		if ctx.Err() != nil {
			return
		}
		l.say(ctx, &said, err)
		select {
		case <-ctx.Done():
			return
		case <-time.After(heartbeat):
		}
	}
}

// say logs why this process does not poll, once for each reason, and refuses the polls that it was asked for.
func (l *lease) say(ctx context.Context, said *string, why error) {
	role := roleUndecided
	if errors.Is(why, ErrStandby) {
		role = roleStandby
	}
	for _, p := range l.pollers {
		p.state.assume(role)
		if errors.Is(why, errSucceeded) {
			p.state.retire(why)
		}
	}
	if constant(why) != *said {
		l.options.Logger.WarnContext(ctx, "not polling, only serving", "reason", why)
		*said = constant(why)
	}
}

// hold opens a connection and keeps it until it is lost or ctx ends. While the connection has the lock, the pollers
// run. Until then, hold only reads the progress of the process that polls.
func (l *lease) hold(ctx context.Context, said *string) error {
	conn, err := l.connect(ctx)
	if conn != nil {
		defer func() {
			closing, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Second)
			defer cancel()
			_ = conn.Close(closing)
		}()
	}
	if err != nil {
		return err
	}
	polling, stop := context.WithCancel(ctx)
	if release := l.options.Release; release != nil {
		defer release()
	}
	if current := l.options.Current; current != nil {
		defer current.Begin() // what it noted no longer counts
	}
	var all sync.WaitGroup
	defer all.Wait()
	defer stop()
	for mine := false; ; {
		if got, err := l.look(ctx, conn, mine); err != nil {
			if !errors.Is(err, errSucceeded) {
				err = fmt.Errorf("the connection for the lock is lost: %w", err)
			}
			return err
		} else if got && !mine {
			if *said != "" {
				l.options.Logger.InfoContext(ctx, "polling")
				*said = ""
			}
			l.start(polling, &all)
			mine = true
		}
		if !mine {
			l.say(ctx, said, ErrStandby)
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(heartbeat):
		}
	}
}

// connect opens a connection beside the pool, as the pool opens its own. The connection has to be closed, even after an
// error.
func (l *lease) connect(ctx context.Context) (*pgx.Conn, error) {
	config := l.pool.Config()
	if config.BeforeConnect != nil { // for example, it may set a password that is valid for an hour
		if err := config.BeforeConnect(ctx, config.ConnConfig); err != nil {
			return nil, err
		}
	}
	conn, err := pgx.ConnectConfig(ctx, config.ConnConfig)
	if err == nil && config.AfterConnect != nil { // so that times are parsed as in the pool
		err = config.AfterConnect(ctx, conn)
	}
	if err == nil {
		err = l.setSilence(ctx, conn)
	}
	return conn, err
}

// start starts what runs as long as the lock is held.
func (l *lease) start(polling context.Context, all *sync.WaitGroup) {
	if current := l.options.Current; current != nil {
		current.Begin()
	}
	for _, p := range l.pollers {
		all.Go(func() { p.run(polling) })
	}
	all.Go(func() { (&sweeper{l.Subscriber}).run(polling) })
	if l.options.Work != nil {
		all.Go(func() { l.work(polling) })
	}
}

// setSilence makes the server end the session if this process hangs or is cut off. A pooler refuses it as a startup
// parameter.
func (l *lease) setSilence(ctx context.Context, conn *pgx.Conn) error {
	ctx, cancel := context.WithTimeout(ctx, heartbeatWait)
	defer cancel()
	_, err := conn.Exec(ctx, `set idle_session_timeout = '`+silenceEnds+`'`)
	return err
}

// errSucceeded means that this process must not poll any more, and must let one that may have the lock.
var errSucceeded = errors.New("a process of this service that was started later keeps the copy in another table, or with other columns")

// succeeded returns errSucceeded if a later process has another table or other columns for a feed. What an earlier
// process had, as it is after the restore of a dump, it sets again.
func (l *lease) succeeded(ctx context.Context, conn *pgx.Conn) error {
	rows, err := conn.Query(ctx, `select feed, table_name, columns, claims from subscription where service = $1`, l.options.Name)
	if err != nil {
		return err
	}
	var name, table string
	var columns []string
	var claims int64
	var restored []*poller
	_, err = pgx.ForEachRow(rows, []any{&name, &table, &columns, &claims}, func() error {
		for _, p := range l.pollers {
			switch {
			case p.Name != name || p.Table == table && (columns == nil || slices.Equal(columns, p.columns())):
			case claims > p.claims:
				return fmt.Errorf("%w: see the feed %s", errSucceeded, name)
			default:
				restored = append(restored, p)
			}
		}
		return nil
	})
	for _, p := range restored {
		if err == nil {
			err = p.create(ctx)
		}
	}
	return err
}

// look tries to get the lock, unless mine says that it is held, and reads what others have changed in the database. It
// reports whether the lock is held.
func (l *lease) look(ctx context.Context, conn *pgx.Conn, mine bool) (bool, error) {
	ctx, cancel := context.WithTimeout(ctx, heartbeatWait)
	defer cancel()
	if err := l.succeeded(ctx, conn); err != nil {
		return false, err
	}
	if !mine {
		if err := conn.QueryRow(ctx, `select pg_try_advisory_lock(`+lockKey+`)`, l.options.Name).Scan(&mine); err != nil {
			return false, err
		}
	}
	free := map[*poller]time.Time{} // with the time of its last success before the rows are read
	for _, p := range l.pollers {
		if p.row.reading.TryLock() { // otherwise another goroutine reads it, and this one must not wait for that
			defer p.row.reading.Unlock()
			free[p] = p.state.current().lastSuccess
		}
	}
	rows, err := conn.Query(ctx, selectProgress, l.options.Name)
	if err != nil {
		return false, err
	}
	found := map[string]progress{}
	_, err = pgx.CollectRows(rows, func(row pgx.CollectableRow) (struct{}, error) {
		name, at, err := scanProgress(row)
		found[name] = at
		return struct{}{}, err
	})
	if err != nil {
		return false, err
	}
	for p, before := range free {
		if at, ok := found[p.Name]; ok {
			p.state.adopt(at, before)
		}
	}
	return mine, nil
}

const (
	workInterval = time.Second     // between two calls of Work
	workTimeout  = 5 * time.Minute // of one call, unless the service sets another
)

// work calls the service's Work again and again until ctx ends.
func (l *lease) work(ctx context.Context) {
	for said := ""; ; {
		switch err := l.workOnce(ctx); {
		case ctx.Err() != nil:
			return
		case err == nil:
			said = ""
		case constant(err) != said:
			said = constant(err)
			l.options.Logger.WarnContext(ctx, "background work failed", "error", err)
		}
		select {
		case <-ctx.Done():
			return
		case <-time.After(workInterval):
		}
	}
}

func (l *lease) workOnce(ctx context.Context) (err error) {
	ctx, cancel := context.WithTimeout(ctx, cmp.Or(l.options.WorkTimeout, workTimeout))
	defer cancel()
	defer func() {
		if v := recover(); v != nil {
			panicked := &panicError{"work", v}
			l.options.Logger.ErrorContext(ctx, "work panicked", "panic", panicked.unquoted(), "stack", string(debug.Stack()))
			err = errors.New(panicked.unquoted())
		}
	}()
	return l.options.Work(ctx)
}
