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
	return fmt.Sprintf("every one of the %d entries was refused, the first: %s", e.entries, unquoted(e.first))
}

func (e *refusedError) Unwrap() error { return e.first }

// allRefused gives that error where all of several entries are bad.
func allRefused(bad []rejection, entries int) error {
	if entries > 1 && len(bad) == entries {
		return &refusedError{entries, bad[0].reason}
	}
	return nil
}

// badEntry tells that an entry is at fault: it cannot be decoded, or breaks a constraint (SQLSTATE classes 22 and 23).
func badEntry(err error) bool {
	if pgErr, ok := errors.AsType[*pgconn.PgError](err); ok {
		return strings.HasPrefix(pgErr.Code, "22") || strings.HasPrefix(pgErr.Code, "23")
	}
	_, syntax := errors.AsType[*json.SyntaxError](err)
	_, wrongType := errors.AsType[*json.UnmarshalTypeError](err)
	_, entity := errors.AsType[*entityError](err)
	return syntax || wrongType || entity
}

// applyCarefully applies the entries, each the newest of its entity, in tx, but those that are bad: these it gives, for reject.
func (p *poller) applyCarefully(ctx context.Context, tx pgx.Tx, entries []feed.Entry) (bad []rejection, err error) {
	return p.applyBest(ctx, tx, entries)
}

// clear takes entities off the list of those rejected: what was applied is good, whatever was wrong with them before.
func (p *poller) clear(ctx context.Context, tx pgx.Tx, ids ...uuid.UUID) error {
	_, err := tx.Exec(ctx, `delete from rejected_entry where service = $1 and feed = $2 and entity_id = any($3)`,
		p.service, p.Name, ids)
	return err
}

// call runs the service's Apply; a panic of it is an error. Of what is stored nothing need be known.
func (p *poller) call(ctx context.Context, tx pgx.Tx, entries []feed.Entry, stored map[uuid.UUID]int64) (err error) {
	defer func() {
		if v := recover(); v != nil {
			p.logger.ErrorContext(ctx, "apply panicked", "feed", p.Name, "panic", v, "stack", string(debug.Stack()))
			err = fmt.Errorf("apply panicked: %v", v)
		}
	}()
	batch := NewBatch(entries)
	batch.stored = stored
	if p.Past {
		err := tx.QueryRow(ctx, `select past from subscription where service = $1 and feed = $2`, p.service, p.Name).Scan(&batch.Past)
		if err != nil {
			return err
		}
	}
	return p.Apply(ctx, tx, batch)
}

// passOn runs the service's Entries, if it has any; a panic of it is an error.
func (p *poller) passOn(ctx context.Context, from feed.Cursor, page *feed.Page) (err error) {
	if p.Entries == nil || page == nil || len(page.Entries) == 0 {
		return nil
	}
	defer func() {
		if v := recover(); v != nil {
			p.logger.ErrorContext(ctx, "entries panicked", "feed", p.Name, "panic", v, "stack", string(debug.Stack()))
			err = fmt.Errorf("entries panicked: %v", v)
		}
		if err != nil {
			err = &entriesError{from, err}
		}
	}()
	return p.Entries(ctx, p.pool, from, page)
}

// An entriesError is one of the service's Entries: the source is not at fault.
type entriesError struct {
	from feed.Cursor
	err  error
}

func (e *entriesError) Error() string {
	return fmt.Sprintf("pass on the page after %s: %v", e.from, e.err)
}
func (e *entriesError) Unwrap() error { return e.err }

// A rejection is an entry that cannot be applied.
type rejection struct {
	feed.Entry
	reason error
}

// applyBest applies all entries but the bad ones, which it finds by halving, each try under a savepoint.
func (p *poller) applyBest(ctx context.Context, tx pgx.Tx, entries []feed.Entry) (bad []rejection, err error) {
	err = pgx.BeginFunc(ctx, tx, func(tx pgx.Tx) error {
		if err := p.call(ctx, tx, entries, nil); err != nil {
			return err
		}
		// What would break at the commit, breaks here; what comes next may put it off again.
		_, err := tx.Exec(ctx, `set constraints all immediate; set constraints all deferred`)
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

// reject writes down the bad entries.
func (p *poller) reject(ctx context.Context, tx pgx.Tx, bad []rejection) error {
	for _, r := range bad {
		_, err := tx.Exec(ctx, `
			insert into rejected_entry (service, feed, entity_id, version, position, updated, entity, reason)
			values ($1, $2, $3, $4, $5, $6, $7, $8)
			on conflict (service, feed, entity_id) do update set version = excluded.version, position = excluded.position,
			       updated = excluded.updated, entity = excluded.entity, reason = excluded.reason,
			       rejected_at = now(), attempts = rejected_entry.attempts + 1`,
			p.service, p.Name, r.ID, r.Version, r.Position, r.Updated, []byte(r.Entity),
			strings.ToValidUTF8(strings.ReplaceAll(r.reason.Error(), "\x00", "�"), "�"))
		if err != nil {
			return err
		}
	}
	return nil
}

func (p *poller) logRejected(ctx context.Context, bad []rejection) {
	for _, r := range bad {
		p.logger.WarnContext(ctx, "entry rejected", "feed", p.Name, "position", r.Position, "entity", r.ID.String(), "version", r.Version, "error", unquoted(r.reason))
	}
}

// unquoted tells what is wrong with a bad entry without a word of it: what is logged stays when the entity is erased. The whole
// reason is in rejected_entry, and goes with the entry.
func unquoted(err error) string {
	if pgErr, ok := errors.AsType[*pgconn.PgError](err); ok {
		return fmt.Sprintf("refused by the database, table %q, column %q, constraint %q (SQLSTATE %s)", pgErr.TableName, pgErr.ColumnName, pgErr.ConstraintName, pgErr.Code)
	}
	if wrong, ok := errors.AsType[*json.UnmarshalTypeError](err); ok {
		return fmt.Sprintf("field %q is no %v", wrong.Field, wrong.Type)
	}
	return "no JSON of the kind that is expected"
}

// Newer gives the entries that are newer than the rows in Table: what the engine lets Apply see. Of an entity that was rejected, the
// row is older than what was, and may be of another history: then the rejected version counts.
func (f *Feed) Newer(ctx context.Context, tx pgx.Tx, entries []feed.Entry) ([]feed.Entry, error) {
	var b pgx.Batch
	known := noneKnown()
	f.lookUp(&b, entries, true, known)
	err := tx.SendBatch(ctx, &b).Close()
	return known.newer(entries), err
}

// known are the versions of a page's entities that the copy has, and of those that it has rejected.
type known struct{ rows, rejected map[uuid.UUID]int64 }

func noneKnown() *known { return &known{map[uuid.UUID]int64{}, map[uuid.UUID]int64{}} }

// lookUp makes b find them. (PostgreSQL plans a statement that takes a list every time, so each table has its own, and the second
// is left out where nothing is rejected.)
func (f *Feed) lookUp(b *pgx.Batch, entries []feed.Entry, rejected bool, k *known) {
	ids := make([]uuid.UUID, len(entries))
	for i, e := range entries {
		ids[i] = e.ID
	}
	into := func(versions map[uuid.UUID]int64) func(pgx.Rows) error {
		return func(rows pgx.Rows) error {
			var id [16]byte
			var version int64
			_, err := pgx.ForEachRow(rows, []any{&id, &version}, func() error {
				versions[id] = version
				return nil
			})
			return err
		}
	}
	b.Queue(`select id, version from `+f.table()+` where id = any($1)`, ids).Query(into(k.rows))
	if rejected {
		b.Queue(`
			select entity_id, version from rejected_entry join subscription using (service, feed)
			 where entity_id = any($1) and table_name = $2`, ids, f.Table).Query(into(k.rejected))
	}
}

func (k *known) newer(entries []feed.Entry) []feed.Entry {
	if len(k.rows)+len(k.rejected) == 0 {
		return entries
	}
	newer := make([]feed.Entry, 0, len(entries))
	for _, e := range entries {
		rejected, is := k.rejected[e.ID]
		row, has := k.rows[e.ID]
		if is && e.Version >= rejected || !is && (!has || e.Version > row) {
			newer = append(newer, e)
		}
	}
	return newer
}

func (f *Feed) table() string { return pgx.Identifier{f.Table}.Sanitize() }
