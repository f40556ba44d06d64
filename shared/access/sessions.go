package access

import (
	"context"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/edison-cars/data-feeds/shared/webserver"
)

const (
	sessionTime     = 12 * time.Hour
	databaseTimeout = 2 * time.Second // of a statement about sessions
)

// A session that ends later than one that begins now was stored by a wrong clock, and counts as ended.
const latestEnd = `now() + make_interval(secs => $3) + interval '1 minute'`

// Sessions are the operators' sessions at one service. An id is the SHA-256 of the cookie's value.
type sessions interface {
	// add begins a session for the token with the hash. It ends after sessionTime.
	add(ctx context.Context, id, token sum) error
	// find returns, for the sessions that have not ended, the hashes of their tokens.
	find(ctx context.Context, ids ...sum) (tokens map[sum]sum, err error)
	remove(ctx context.Context, id sum) error
	// sweep removes ended sessions and those of revoked tokens.
	sweep(ctx context.Context, revoked [][]byte) error
}

type inDatabase struct {
	pool    *pgxpool.Pool
	service string
}

func (d inDatabase) exec(ctx context.Context, sql string, args ...any) error {
	ctx, cancel := context.WithTimeout(ctx, databaseTimeout)
	defer cancel()
	_, err := d.pool.Exec(ctx, sql, args...)
	return err
}

func (d inDatabase) add(ctx context.Context, id, token sum) error {
	return d.exec(ctx, `insert into operator_session (hash, service, token, ends_at) values ($1, $2, $3, now() + make_interval(secs => $4))`,
		id[:], d.service, token[:], sessionTime.Seconds())
}

func (d inDatabase) find(ctx context.Context, ids ...sum) (map[sum]sum, error) {
	ctx, cancel := context.WithTimeout(ctx, databaseTimeout)
	defer cancel()
	var hashes [][]byte
	for _, id := range ids {
		hashes = append(hashes, id[:])
	}
	rows, _ := d.pool.Query(ctx, `select hash, token from operator_session where hash = any($1) and service = $2 and ends_at > now() and ends_at <= `+latestEnd,
		hashes, d.service, sessionTime.Seconds())
	tokens := map[sum]sum{}
	var id, token []byte
	_, err := pgx.ForEachRow(rows, []any{&id, &token}, func() error {
		if len(id) == len(sum{}) && len(token) == len(sum{}) {
			tokens[sum(id)] = sum(token)
		}
		return nil
	})
	return tokens, err
}

func (d inDatabase) remove(ctx context.Context, id sum) error {
	return d.exec(ctx, `delete from operator_session where hash = $1 and service = $2`, id[:], d.service)
}

func (d inDatabase) sweep(ctx context.Context, revoked [][]byte) error {
	return d.exec(ctx, `delete from operator_session where service = $1 and (ends_at <= now() or ends_at > `+latestEnd+` or token = any($2))`,
		d.service, revoked, sessionTime.Seconds())
}

type inMemory struct {
	mu     sync.Mutex
	byHash map[sum]memorized
}

type memorized struct {
	token sum
	ends  time.Time
}

func (m *inMemory) add(_ context.Context, id, token sum) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.byHash[id] = memorized{token, time.Now().Add(sessionTime)}
	return nil
}

func (m *inMemory) find(_ context.Context, ids ...sum) (map[sum]sum, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	tokens := map[sum]sum{}
	for _, id := range ids {
		if s, ok := m.byHash[id]; ok && time.Now().Before(s.ends) {
			tokens[id] = s.token
		}
	}
	return tokens, nil
}

func (m *inMemory) remove(_ context.Context, id sum) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	delete(m.byHash, id)
	return nil
}

func (m *inMemory) sweep(_ context.Context, revoked [][]byte) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	maps.DeleteFunc(m.byHash, func(_ sum, s memorized) bool {
		return !time.Now().Before(s.ends) || slices.ContainsFunc(revoked, func(hash []byte) bool { return sum(hash) == s.token })
	})
	return nil
}

// live ends requests that wait when their session ends: by logout at any replica, after sessionTime, or with its token.
type live struct {
	mu     sync.Mutex
	byHash map[sum]waited // sessions of recent requests, until they end
}

type waited struct {
	token  sum // hash of the token
	ending *webserver.Ending
}

func (l *live) ending(id, token sum) *webserver.Ending {
	l.mu.Lock()
	defer l.mu.Unlock()
	w, ok := l.byHash[id]
	if !ok {
		w = waited{token, webserver.NewEnding()}
		l.byHash[id] = w
	}
	return w.ending
}

// keep ends the requests of all sessions that kept rejects.
func (l *live) keep(kept func(id sum, w waited) bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	maps.DeleteFunc(l.byHash, func(id sum, w waited) bool {
		if kept(id, w) {
			return false
		}
		w.ending.End()
		return true
	})
}

// look ends the requests of the sessions that the store no longer has. If the store fails, they are checked again next
// time.
func (l *live) look(ctx context.Context, store sessions) {
	l.mu.Lock()
	ids := slices.Collect(maps.Keys(l.byHash))
	l.mu.Unlock()
	if len(ids) == 0 {
		return
	}
	found, err := store.find(ctx, ids...)
	if err != nil {
		return
	}
	gone := map[sum]bool{} // of the sessions asked for: others may have begun since
	for _, id := range ids {
		_, there := found[id]
		gone[id] = !there
	}
	l.keep(func(id sum, _ waited) bool { return !gone[id] })
}
