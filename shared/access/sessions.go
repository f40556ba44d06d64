package access

import (
	"context"
	"errors"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/edison-cars/data-feeds/shared/web"
)

const (
	sessionTime     = 12 * time.Hour
	databaseTimeout = 2 * time.Second // for a statement about sessions
)

// Sessions are those of the operators who have logged in to one service. An id is the SHA-256 of what the browser has.
type sessions interface {
	// add begins a session, of the login with a token that has the hash. It ends after sessionTime.
	add(ctx context.Context, id, token sum) error
	// find returns the hash of the token of a session that has not ended.
	find(ctx context.Context, id sum) (token sum, found bool, err error)
	remove(ctx context.Context, id sum) error
	// sweep removes the sessions that have ended, and those of tokens that are revoked.
	sweep(ctx context.Context, revoked [][]byte) error
}

// inDatabase keeps sessions in the table of sql/access.
type inDatabase struct {
	pool    *pgxpool.Pool
	service string
}

func (d inDatabase) add(ctx context.Context, id, token sum) error {
	ctx, cancel := context.WithTimeout(ctx, databaseTimeout)
	defer cancel()
	_, err := d.pool.Exec(ctx, `insert into operator_session (hash, service, token, ends_at) values ($1, $2, $3, now() + make_interval(secs => $4))`,
		id[:], d.service, token[:], sessionTime.Seconds())
	return err
}

func (d inDatabase) find(ctx context.Context, id sum) (sum, bool, error) {
	ctx, cancel := context.WithTimeout(ctx, databaseTimeout)
	defer cancel()
	var token []byte
	err := d.pool.QueryRow(ctx, `select token from operator_session where hash = $1 and service = $2 and ends_at > now()`,
		id[:], d.service).Scan(&token)
	if errors.Is(err, pgx.ErrNoRows) || err == nil && len(token) != len(sum{}) {
		return sum{}, false, nil
	}
	if err != nil {
		return sum{}, false, err
	}
	return sum(token), true, nil
}

func (d inDatabase) remove(ctx context.Context, id sum) error {
	ctx, cancel := context.WithTimeout(ctx, databaseTimeout)
	defer cancel()
	_, err := d.pool.Exec(ctx, `delete from operator_session where hash = $1 and service = $2`, id[:], d.service)
	return err
}

func (d inDatabase) sweep(ctx context.Context, revoked [][]byte) error {
	ctx, cancel := context.WithTimeout(ctx, databaseTimeout)
	defer cancel()
	_, err := d.pool.Exec(ctx, `delete from operator_session where service = $1 and (ends_at <= now() or token = any($2))`, d.service, revoked)
	return err
}

// inMemory keeps sessions as long as the process lives.
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

func (m *inMemory) find(_ context.Context, id sum) (sum, bool, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	s, ok := m.byHash[id]
	return s.token, ok && time.Now().Before(s.ends), nil
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

// live ends what waits by a session that has ended: by logout, at whatever replica, after sessionTime, or with its token.
type live struct {
	mu     sync.Mutex
	byHash map[sum]*web.Ending // of sessions that requests came with, until look finds that they have ended
}

// ending returns what ends the requests of a session.
func (l *live) ending(id sum) *web.Ending {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.byHash[id] == nil {
		l.byHash[id] = web.NewEnding()
	}
	return l.byHash[id]
}

// look ends the requests of the sessions that find does not find any more. After an error the others are for the next look.
func (l *live) look(ctx context.Context, find func(context.Context, sum) (*claim, error)) {
	l.mu.Lock()
	ids := slices.Collect(maps.Keys(l.byHash))
	l.mu.Unlock()
	for _, id := range ids {
		found, err := find(ctx, id)
		if err != nil {
			return
		}
		if found != nil {
			continue
		}
		l.mu.Lock()
		l.byHash[id].End()
		delete(l.byHash, id)
		l.mu.Unlock()
	}
}
