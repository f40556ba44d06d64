package subscribe

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"runtime/debug"
	"strings"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/edison-cars/data-feeds/shared/feed"
)

// errFenced: somebody else moved the cursor.
var errFenced = errors.New("another process copies this feed into the same database")

// A refusedError is a page of which every entry was refused: the fault is not an entry's.
type refusedError struct {
	entries int
	first   error
}

func (e *refusedError) Error() string {
	return fmt.Sprintf("every one of the %d entries was refused, the first: %v", e.entries, e.first)
}

func (e *refusedError) Unwrap() error { return e.first }

// badEntry tells that an entry is at fault: it cannot be decoded, or breaks a constraint (SQLSTATE classes 22 and 23).
func badEntry(err error) bool {
	if pgErr, ok := errors.AsType[*pgconn.PgError](err); ok {
		return strings.HasPrefix(pgErr.Code, "22") || strings.HasPrefix(pgErr.Code, "23")
	}
	_, syntax := errors.AsType[*json.SyntaxError](err)
	_, wrongType := errors.AsType[*json.UnmarshalTypeError](err)
	return syntax || wrongType
}

// apply applies the entries, each the newest of its entity, in tx. Where one is bad, carefully takes the bad ones out.
func (p *poller) apply(ctx context.Context, tx pgx.Tx, entries []feed.Entry, carefully bool) (rejected int, err error) {
	if len(entries) == 0 {
		return 0, nil
	}
	if carefully {
		var bad []rejection
		if bad, err = p.applyBest(ctx, tx, entries); err != nil {
			return 0, err
		}
		if len(bad) > 1 && len(bad) == len(entries) {
			return 0, &refusedError{len(bad), bad[0].reason}
		}
		entries, err = p.reject(ctx, tx, entries, bad)
		if err != nil {
			return 0, err
		}
		rejected = len(bad)
	} else if err = p.call(ctx, tx, entries); err != nil {
		return 0, err
	}
	ids := make([]uuid.UUID, len(entries))
	for i, e := range entries {
		ids[i] = e.ID
	}
	// What was applied is good, whatever was wrong with the entity before.
	_, err = tx.Exec(ctx, `delete from rejected_entry where feed = $1 and entity_id = any($2)`, p.Name, ids)
	return rejected, err
}

// call runs the service's Apply; a panic of it is an error.
func (p *poller) call(ctx context.Context, tx pgx.Tx, entries []feed.Entry) (err error) {
	defer func() {
		if v := recover(); v != nil {
			err = fmt.Errorf("apply panicked: %v\n%s", v, debug.Stack())
		}
	}()
	return p.Apply(ctx, tx, NewBatch(entries))
}

// A rejection is an entry that cannot be applied.
type rejection struct {
	feed.Entry
	reason error
}

// applyBest applies all entries but the bad ones, which it finds by halving, each try under a savepoint.
func (p *poller) applyBest(ctx context.Context, tx pgx.Tx, entries []feed.Entry) (bad []rejection, err error) {
	err = pgx.BeginFunc(ctx, tx, func(tx pgx.Tx) error {
		if err := p.call(ctx, tx, entries); err != nil {
			return err
		}
		_, err := tx.Exec(ctx, `set constraints all immediate`) // what would break at the commit, breaks here
		return err
	})
	switch half := len(entries) / 2; {
	case err == nil:
		return nil, nil
	case !badEntry(err):
		return nil, err
	case half == 0:
		return []rejection{{entries[0], err}}, nil
	default:
		first, err := p.applyBest(ctx, tx, entries[:half])
		if err != nil {
			return nil, err
		}
		second, err := p.applyBest(ctx, tx, entries[half:])
		return append(first, second...), err
	}
}

// reject writes down the bad entries, and gives the others.
func (p *poller) reject(ctx context.Context, tx pgx.Tx, entries []feed.Entry, bad []rejection) (good []feed.Entry, err error) {
	is := make(map[uuid.UUID]bool, len(bad))
	for _, r := range bad {
		is[r.ID] = true
		_, err = tx.Exec(ctx, `
			insert into rejected_entry (feed, entity_id, version, position, updated, entity, reason)
			values ($1, $2, $3, $4, $5, $6, $7)
			on conflict (feed, entity_id) do update set version = excluded.version, position = excluded.position,
			       updated = excluded.updated, entity = excluded.entity, reason = excluded.reason,
			       rejected_at = now(), attempts = rejected_entry.attempts + 1`,
			p.Name, r.ID, r.Version, r.Position, r.Updated, []byte(r.Entity), r.reason.Error())
		if err != nil {
			return nil, err
		}
		p.logger.WarnContext(ctx, "entry rejected", "feed", p.Name, "position", r.Position, "entity", r.ID.String(), "version", r.Version, "error", r.reason)
	}
	for _, e := range entries {
		if !is[e.ID] {
			good = append(good, e)
		}
	}
	return good, nil
}

// Newer gives the entries that are newer than the rows in Table: what the engine lets Apply see.
func (f *Feed) Newer(ctx context.Context, tx pgx.Tx, entries []feed.Entry) ([]feed.Entry, error) {
	ids, versions := make([]uuid.UUID, len(entries)), make([]int64, len(entries))
	for i, e := range entries {
		ids[i], versions[i] = e.ID, e.Version
	}
	rows, err := tx.Query(ctx, `
		select id from unnest($1::uuid[], $2::bigint[]) as e (id, asked) join `+f.table()+` as t using (id) where t.version >= e.asked`, ids, versions)
	if err != nil {
		return nil, err
	}
	known, err := pgx.CollectRows(rows, pgx.RowTo[uuid.UUID])
	if err != nil || len(known) == 0 {
		return entries, err
	}
	is := make(map[uuid.UUID]bool, len(known))
	for _, id := range known {
		is[id] = true
	}
	var newer []feed.Entry
	for _, e := range entries {
		if !is[e.ID] {
			newer = append(newer, e)
		}
	}
	return newer, nil
}

func (f *Feed) table() string { return pgx.Identifier{f.Table}.Sanitize() }
