package publish

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"slices"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
)

// Commit runs the change as one transaction, together with those that are waiting at the same moment: up to 512
// travel in one packet and share one flush to disk. None waits for more to come, and a change that fails takes
// no other down with it. Commit answers when the outcome is certain; after an error nothing has happened, unless
// it wraps ErrUnknown. It wraps context.DeadlineExceeded for a change that waited 10 s for those before it, and has
// SQLSTATE 55P03 for one that met a row which somebody else held for 2 s. A change is committed once and not used again.
func (l *Log) Commit(ctx context.Context, change *Change) error {
	if len(change.pending) == 0 {
		return errors.New("a change has to append to a feed")
	}
	if err := l.check(ctx, change.pending); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, queueTimeout)
	defer cancel()
	select {
	case l.queue <- change:
		return <-change.done
	case <-l.closing:
		return ErrClosed
	case <-ctx.Done():
		return fmt.Errorf("wait for the changes before this one: %w", ctx.Err())
	}
}

func (l *Log) commitGroups() {
	defer close(l.stopped)
	for {
		select {
		case <-l.closing:
			return
		case first := <-l.queue:
			l.commitGroup(l.collect(first))
		}
	}
}

// collect takes the changes that are waiting.
func (l *Log) collect(first *Change) []*Change {
	group := []*Change{first}
	for came := 0; len(group) > came; { // those whose group has just ended are about to come again
		came = len(group)
		runtime.Gosched()
		for more := true; more && len(group) < maxGroup; {
			select {
			case c := <-l.queue:
				group = append(group, c)
			default:
				more = false
			}
		}
	}
	return group
}

// maxBlamed is how many changes of a group are taken out one by one before it is halved.
const maxBlamed = 2

var errHalve = errors.New("too many changes of the group fail")

// commitGroup commits the group without those that fail. The one whose own statement fails is known, and taken out;
// behind any other failure the group is halved. Who failed hears of it last: by then the others are there to be read.
func (l *Log) commitGroup(group []*Change) {
	l.metrics.group.Observe(float64(len(group)))
	rest, blamed, tries := group, map[*Change]error{}, 0
	won, err := l.persist(context.Background(), func(lock bool) (attempt, error) {
		for tries++; len(rest) > 0; {
			runs, err := l.trySend(lock, rest)
			bad, ok := errors.AsType[*changeError](err)
			if !ok {
				return attempt{runs, rest}, err
			}
			blamed[rest[bad.index]] = guarded(bad.error)
			rest = slices.Delete(slices.Clone(rest), bad.index, bad.index+1)
			if len(blamed) >= maxBlamed && len(rest) > 1 && tries == 1 { // later, an earlier attempt may still land: that must be settled
				break
			}
		}
		return attempt{}, final{errHalve}
	})
	for _, c := range won.changes {
		c.done <- nil
		delete(blamed, c) // blamed only because an earlier attempt had landed
	}
	rest = slices.DeleteFunc(slices.Clone(rest), func(c *Change) bool { return slices.Contains(won.changes, c) })
	switch half := len(rest) / 2; {
	case half > 0 && divisible(err):
		l.commitGroup(rest[:half])
		l.commitGroup(rest[half:])
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
}

// divisible: nothing has happened, and a part of the group may succeed where the whole failed.
func divisible(err error) bool {
	if errors.Is(err, ErrUnknown) || errors.As(err, new(*pgconn.ConnectError)) {
		return false
	}
	return errors.Is(err, errHalve) || errors.As(err, &pgx.ErrPreprocessingBatch{}) || errors.As(err, new(*pgconn.PgError)) && !connectionLost(err)
}

// A changeError says which change of a group failed by a statement of its own.
type changeError struct {
	index int
	error
}

func (e *changeError) Unwrap() error { return e.error }

// trySend sends the group as one packet without BEGIN and COMMIT, which PostgreSQL runs as one transaction. With lock
// the statements go ahead in a transaction that is open, and the appends follow when the heads are locked.
func (l *Log) trySend(lock bool, group []*Change) ([]placed, error) {
	ctx, cancel := context.WithTimeout(context.Background(), writeTimeout)
	defer cancel()
	conn, err := l.writers.Acquire(ctx)
	if err != nil {
		return nil, final{err}
	}
	defer conn.Release()
	if err := encodeRows(ctx, conn.Conn()); err != nil {
		return nil, err
	}

	var statements []statement
	var owners []int // of each statement: the index of its change
	all := pending{}
	for i, c := range group {
		for _, s := range c.statements {
			statements = append(statements, s)
			owners = append(owners, i)
		}
		for name, records := range c.pending {
			all[name] = append(all[name], records...)
		}
	}
	if lock {
		defer rollback(conn)
		if _, err := conn.Exec(ctx, "begin"); err != nil {
			return nil, err
		}
		if err := send(ctx, conn.Conn(), statements, owners, func() {}); err != nil {
			return nil, err
		}
		return l.end(ctx, conn, true, all)
	}
	runs := all.place(l.snapshot())
	for i := range runs {
		statements = append(statements, runs[i].append())
	}
	return runs, send(ctx, conn.Conn(), statements, owners, func() { l.foresee(runs) })
}

// flushSize is how many bytes of arguments are encoded before PostgreSQL gets them to work on.
const flushSize = 8 << 10

// send sends statements, the first of which belong to the owners, and blames the one that fails. PostgreSQL works on the
// first while the next are encoded; nothing of them counts before their end is sent. Then sent is called.
func send(ctx context.Context, conn *pgx.Conn, statements []statement, owners []int, sent func()) error {
	blame := func(i int, err error) error {
		if i < len(owners) && !connectionLost(err) && !isCode(err, "40P01") {
			return &changeError{owners[i], err}
		}
		return err
	}
	descriptions := make([]*pgconn.StatementDescription, len(statements))
	for i, s := range statements {
		var err error
		if descriptions[i], err = conn.Prepare(ctx, s.sql, s.sql); err != nil { // asks the server only once
			return blame(i, err)
		}
	}
	pipeline := conn.PgConn().StartPipeline(ctx)
	var encoder pgx.ExtendedQueryBuilder
	size := 0
	for i, s := range statements {
		if err := encoder.Build(conn.TypeMap(), descriptions[i], s.args); err != nil {
			_ = pipeline.Close() // closes the connection if anything has been sent
			return blame(i, final{err})
		}
		pipeline.SendQueryStatement(descriptions[i], encoder.ParamValues, encoder.ParamFormats, nil)
		for _, v := range encoder.ParamValues {
			size += len(v)
		}
		if size >= flushSize && i < len(owners) {
			if err := pipeline.Flush(); err != nil {
				return err
			}
			size = 0
		}
	}
	if err := pipeline.Sync(); err != nil {
		return err
	}
	sent()
	for i := range statements {
		if err := result(pipeline); err != nil {
			_ = pipeline.Close() // repeats err
			return blame(i, err)
		}
	}
	return pipeline.Close()
}

// result reads the answer to one statement.
func result(pipeline *pgconn.Pipeline) error {
	answer, err := pipeline.GetResults()
	if reader, ok := answer.(*pgconn.ResultReader); ok {
		_, err = reader.Close()
	}
	return err
}
