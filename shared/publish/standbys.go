package publish

import (
	"context"
	"errors"
	"maps"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/edison-cars/data-feeds/shared/feed"
	"github.com/edison-cars/data-feeds/shared/migrate"
)

const (
	standbyTimeout = 2 * time.Second       // for one attempt at a standby
	usualLag       = 50 * time.Millisecond // how long an attempt waits for a standby to replay what the primary has just confirmed
	restBehind     = time.Second           // how long a standby that lags further is not asked
	restAway       = 5 * time.Second       // the same for one that does not answer
)

// A standby is a hot standby from which pages are read.
type standby struct {
	pool *pgxpool.Pool
	own  bool // the log has opened the pool

	mu    sync.Mutex
	rests bool      // the last attempt failed
	until time.Time // when the next one may begin, if it rests
	away  bool      // it did not answer
}

// take reports whether the standby may be asked now. When its rest is over, it lets one caller try.
func (s *standby) take() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.rests {
		return true
	}
	if time.Now().Before(s.until) {
		return false
	}
	s.until = time.Now().Add(standbyTimeout)
	return true
}

// note records the outcome of an attempt, and reports whether the standby has gone away or come back by it.
func (s *standby) note(rest time.Duration) (changed bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.rests, s.until = rest > 0, time.Now().Add(rest)
	was := s.away
	s.away = rest == restAway
	return s.away != was
}

// standbys are those of a log.
type standbys struct {
	all  []*standby
	turn atomic.Uint64
}

func (all *standbys) connect(ctx context.Context, pools []*pgxpool.Pool, schema string) (err error) {
	for _, pool := range pools {
		s := &standby{pool: pool, own: schema != ""}
		if s.own {
			if s.pool, err = pgxpool.NewWithConfig(ctx, migrate.Within(pool.Config(), schema)); err != nil {
				return err
			}
		}
		all.all = append(all.all, s)
	}
	return nil
}

func (all *standbys) disconnect() {
	for _, s := range all.all {
		if s.own {
			s.pool.Close()
		}
	}
}

func (all *standbys) reset() {
	for _, s := range all.all {
		s.pool.Reset()
	}
}

// next returns a standby that may be asked, by turns, or nil if there is none.
func (all *standbys) next() *standby {
	n := uint64(len(all.all))
	if n == 0 {
		return nil
	}
	first := all.turn.Add(1)
	for i := range n {
		if s := all.all[(first+i)%n]; s.take() {
			return s
		}
	}
	return nil
}

// errNotThere means that a standby does not have what was asked for. Only the primary says that nothing has it.
var errNotThere = errors.New("the standby does not have it")

// readAny calls atStandby with a connection to a standby, whose state only moves forward, and the head that this process
// knows. If there is no standby, or it fails, readAny calls atPrimary.
func (l *Log) readAny(ctx context.Context, name string, atStandby func(ctx context.Context, conn *pgxpool.Conn, head Head) error, atPrimary func() error) error {
	if len(l.standbys.all) > 0 {
		if t, err := l.Snapshot(ctx, name); err == nil && l.tryStandby(ctx, func(ctx context.Context, conn *pgxpool.Conn) error { return atStandby(ctx, conn, t.Head) }) {
			l.metrics.reads.WithLabelValues("standby").Inc()
			return nil
		}
	}
	l.metrics.reads.WithLabelValues("primary").Inc()
	return atPrimary()
}

// tryStandby calls read with a connection to a standby, and reports whether it succeeded. While the standby is behind by
// no more than usualLag, read may be called again.
func (l *Log) tryStandby(ctx context.Context, read func(ctx context.Context, conn *pgxpool.Conn) error) bool {
	s := l.standbys.next()
	if s == nil {
		return false
	}
	trying, cancel := context.WithTimeout(ctx, standbyTimeout)
	defer cancel()
	var err error
	for wait := time.Millisecond; ; wait *= 2 {
		err = s.pool.AcquireFunc(trying, func(conn *pgxpool.Conn) error { return read(trying, conn) })
		if wait > usualLag/2 || !isBehind(err) {
			break
		}
		sleep(trying, wait)
	}
	rest, reason := time.Duration(0), ""
	switch {
	case err == nil:
	case errors.Is(err, errNotThere):
		reason = "unknown"
	case isBehind(err):
		rest, reason = restBehind, "behind"
	case ctx.Err() != nil: // the caller has gone
		return false
	default:
		rest, reason = restAway, "failed"
	}
	at := s.pool.Config().ConnConfig
	switch changed := s.note(rest); {
	case changed && rest > 0:
		l.logger.WarnContext(ctx, "a standby does not answer, and the primary is read instead", "host", at.Host, "port", at.Port, "error", err)
	case changed:
		l.logger.InfoContext(ctx, "the standby answers again", "host", at.Host, "port", at.Port)
	}
	if reason != "" {
		l.metrics.standbyMisses.WithLabelValues(reason).Inc()
	}
	return err == nil
}

// isBehind reports whether the error comes from a state of a standby that is not the one that the source knows.
func isBehind(err error) bool { return errors.As(err, new(*Unavailable)) }

// locateAt finds the cursor as [Log.Locate] does, in the state of a standby, for a feed that ends at head. It returns
// [ErrBehind] if the standby has not replayed head, or, if toCursor is set, neither head nor the cursor, or if it has
// other erasures or compactions. It returns errNotThere if the feed does not contain the cursor.
func (l *Log) locateAt(
	ctx context.Context, db querier, name string, head Head, cursor feed.Cursor, toCursor bool, size int64, positions ...int64,
) (*Location, error) {
	last := head.Position / size * size
	at, _, err := l.places(ctx, db, name, cursor, size, append(slices.Clone(positions), head.Position, last, last-2*size))
	if err != nil {
		return nil, err
	}
	has := func(c feed.Cursor) bool {
		place, there := at.Places[c.Position]
		return c.IsStart() || there && c.Matches(place.Digest)
	}
	known := has(cursor) && cursor.Position <= head.Position
	switch {
	case at.Head.Erasures != head.Erasures, at.Head.Compaction != head.Compaction, !has(head.Cursor()) && !(toCursor && known && !cursor.IsStart()):
		return nil, ErrBehind
	case !known:
		return nil, errNotThere
	}
	maps.DeleteFunc(at.Places, func(position int64, _ Place) bool { return position > head.Position })
	return &Location{head, true, at.Places}, nil
}

// vouch reports whether a standby has all heads that this process remembers, with the same erasures and compactions. If
// so, they may be served for a while, though the primary does not answer.
func (l *Log) vouch(ctx context.Context) bool {
	for range l.standbys.all {
		asked := time.Now()
		if l.tryStandby(ctx, func(ctx context.Context, conn *pgxpool.Conn) error {
			seen, err := l.readHeads(ctx, conn)
			if err != nil {
				return err
			}
			for name, t := range seen.before {
				head := seen.heads[name]
				if !seen.extends[name] || head.Erasures != t.Erasures || head.Compaction != t.Compaction {
					return ErrBehind
				}
			}
			return nil
		}) {
			l.mu.Lock()
			l.vouched = asked
			l.mu.Unlock()
			return true
		}
	}
	return false
}

// isAway reports whether the error of a look is that of a primary that does not answer.
func isAway(err error) bool {
	return err != nil && connectionLost(err) && !errors.As(err, new(*Unavailable)) && !errors.Is(err, errUnconfirmed)
}

// Age returns how long ago the heads were read from the primary, if that does not answer and only a standby vouches for
// them; else 0. What is appended elsewhere since then is not known.
func (l *Log) Age() time.Duration {
	l.mu.Lock()
	defer l.mu.Unlock()
	if age := time.Since(l.looked); age >= maxStale {
		return age
	}
	return 0
}
