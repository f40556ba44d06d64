package publish

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"slices"
	"sync/atomic"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"golang.org/x/sync/singleflight"

	"github.com/edison-cars/data-feeds/shared/migrate"
)

// Erasures say how erased entities stay erased when an older dump of the database is restored.
type Erasures struct {
	// File is the path of the list of erased ids. It lies outside the database and its backups, and all processes that
	// write to the database share it. Each id is flushed to it before the erasure is committed.
	File string
	// Delete deletes what the app itself has of entities, as it does when one is erased. It must have no effect outside
	// tx. Nil means that the log does not know of the app's tables.
	Delete func(ctx context.Context, tx pgx.Tx, feed string, ids []uuid.UUID) error
}

// applyTimeout limits one application of the list.
const applyTimeout = time.Minute

// reerasure keeps the feeds as the list says.
type reerasure struct {
	Erasures
	list        erasedList
	log         uuid.UUID
	constraints []string // of all tables, as of the opening of the log; without Delete, of those of the log
	applying    singleflight.Group
	last        application // that succeeded; only an application reads and sets it
	whole       atomic.Bool // the next application is of the whole list
	failure     string      // of the last application that told of it, or ""
}

// openList opens the list, or creates it for a database that was never used with one, and applies it. It returns
// errNotYet if ctx ends before the list is applied, as while a synchronous standby is down.
func (l *Log) openList(ctx context.Context, erasures Erasures) error {
	r := &reerasure{Erasures: erasures, list: erasedList{path: erasures.File}}
	var used bool
	var erased int64
	var log *uuid.UUID
	err := l.pool.QueryRow(ctx, `
		select coalesce(max(abs(listed)), 0) > 0, coalesce(sum(erasures), 0)::bigint, (select min(id::text)::uuid from feed_log) from feed`).Scan(&used, &erased, &log)
	if err == nil && log == nil {
		err = fmt.Errorf("%w The table feed_log is empty: restore all tables of one dump", ErrIncomplete)
	}
	if err != nil {
		return err
	}
	made, err := r.list.create(!used)
	if err == nil {
		_, err = r.list.has("")
	}
	if err == nil {
		r.log = *log
		err = r.list.claim(r.log)
	}
	if err == nil {
		_, err = r.list.has("") // of the list with the note
	}
	if err != nil {
		return err
	}
	if made && erased > 0 {
		l.logger.WarnContext(ctx, "the list of erased ids is new, and gets those that the database knows; what was erased after a dump "+
			"that this database was restored from has to be erased again by hand", "file", erasures.File, "erasures", erased)
	}
	var tables []string // nil means all
	if erasures.Delete == nil {
		if tables, err = migrate.Tables(migrations()); err != nil {
			return err
		}
	}
	err = l.pool.QueryRow(ctx, `
		select coalesce(array_agg(name), '{}') from (`+constraintNames+`) as all_names
		 where $1::text[] is null or split_part(name, ' ', 1) = any($1)`, tables).Scan(&r.constraints)
	if err != nil {
		return err
	}
	l.reerasure = r
	select {
	case <-ctx.Done():
		return errNotYet
	case applied := <-l.applying(ctx, false):
		return applied.Err
	}
}

// errNotYet means that the list has not been applied in time at the start. Nothing is served until it is.
var errNotYet = errors.New("the list of erased ids is not applied yet")

// apply applies the list. All errors wrap ErrUnapplied.
func (l *Log) apply(ctx context.Context) error {
	select {
	case <-ctx.Done():
		return fmt.Errorf("%w: %w", ErrUnapplied, ctx.Err())
	case r := <-l.applying(ctx, true):
		if r.Err != nil {
			return fmt.Errorf("%w: %w", ErrUnapplied, r.Err)
		}
	}
	return nil
}

// applying begins to apply the list, once for all callers at the same moment, and goes on after ctx. If tell is set, it
// logs a new error.
func (l *Log) applying(ctx context.Context, tell bool) <-chan singleflight.Result {
	return l.reerasure.applying.DoChan("", func() (any, error) {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), applyTimeout)
		defer cancel()
		err := l.applyList(ctx)
		failure := ""
		if err != nil {
			failure = err.Error()
		}
		if tell && failure != "" && failure != l.reerasure.failure {
			l.logger.ErrorContext(ctx, "the list of erased ids is not applied, and its feeds are not served", "error", err)
		}
		if tell || failure == "" {
			l.reerasure.failure = failure
		}
		if err != nil && ctx.Err() == nil && !isCode(err, lockNotAvailable) { // else a commit still holds the head
			l.reerasure.list.forgetUnknown()
		}
		return nil, err
	})
}

// applyList makes the database what the list says, and adds to the list what the database knows to be erased. It uses
// one transaction, which several processes may run at once. It opens a new connection: one from before a restore may
// have cached tables that are gone. If nothing is to be done, it locks no head and writes nothing, so that it waits for
// no other writer and no synchronous standby.
func (l *Log) applyList(ctx context.Context) error {
	conn, err := l.dial(ctx, true)
	if err != nil {
		return err
	}
	defer hangUp(ctx, conn)
	if err := encodeRows(ctx, conn); err != nil {
		return err
	}
	done := application{whole: l.reerasure.whole.Load()}
	for _, done.locked = range []bool{false, true} {
		err = pgx.BeginTxFunc(ctx, conn, pgx.TxOptions{IsoLevel: pgx.ReadCommitted}, func(tx pgx.Tx) error { return l.applyIn(ctx, tx, &done) })
		if !errors.Is(err, errToDo) {
			break
		}
	}
	if err != nil {
		return fmt.Errorf("apply the list of erased ids: %w", err)
	}
	back := done.back
	done.back = nil
	l.reerasure.list.applied(done.list)
	l.reerasure.last = done
	if done.whole {
		l.reerasure.whole.Store(false)
	}
	for name, records := range back {
		l.logger.WarnContext(ctx, "erased again what the database had back, as after the restore of a dump", "feed", name, "entities", len(records))
	}
	return nil
}

// errToDo means that the list is to be applied with the heads locked.
var errToDo = errors.New("the list of erased ids is to be applied")

// An application of the list.
type application struct {
	whole  bool            // also what was applied before
	locked bool            // the heads are locked; else it returns errToDo where something is to be done
	heads  map[string]Head // from before it
	back   pending         // the tombstones that were appended
	list   os.FileInfo     // the state of the list that was applied
	known  prefix          // of it
}

// applyIn applies in a transaction what is new on the list, and adds what is newly erased. It applies the whole list if
// that was edited, if the database is not one in which the last application of this process was done, or if a.whole
// is set.
func (l *Log) applyIn(ctx context.Context, tx pgx.Tx, a *application) error {
	if a.locked {
		if _, err := tx.Exec(ctx, `select from feed order by name collate "C" for update`); err != nil {
			return err
		}
	}
	rows, err := tx.Query(ctx, `select name, position, digest, erasures, compaction from feed_head`)
	if err != nil {
		return err
	}
	heads, err := collectHeads(rows)
	if err != nil {
		return err
	}
	if err := l.complete(ctx, tx); err != nil {
		return err
	}
	if err := l.reerasure.list.claim(l.reerasure.log); err != nil { // a new file may be in its place
		return err
	}
	last := l.reerasure.last
	if holds, err := last.holds(ctx, tx); err != nil {
		return err
	} else if !holds || a.whole {
		last = application{}
	}
	list, err := l.reerasure.list.readAfter(last.known)
	if err != nil {
		return err
	}
	if !list.grow {
		last = application{}
	}
	listed, is := map[string]map[uuid.UUID]bool{}, list.is
	for name := range heads {
		listed[name] = map[uuid.UUID]bool{}
	}
	for _, e := range list.ids {
		if listed[e.feed] == nil {
			return fmt.Errorf("line %d of %s is of feed %q, which this database does not have", e.line, l.reerasure.File, e.feed)
		}
		listed[e.feed][e.id] = true
	}
	unlisted, err := erasedSince(ctx, tx, heads, last.heads)
	if err == nil {
		unlisted, err = l.reerasure.list.lacks(unlisted)
	}
	if err != nil {
		return err
	}
	back := pending{}
	for name, ids := range listed {
		if err := eraseAgain(ctx, tx, back, name, slices.Collect(maps.Keys(ids))); err != nil {
			return err
		}
	}
	if !a.locked && len(unlisted)+len(back) > 0 {
		return errToDo
	}
	for name, ids := range listed { // in any case: a dump may have been restored in part
		if len(ids) > 0 && l.reerasure.Delete != nil {
			if err := l.reerasure.Delete(ctx, tx, name, slices.Collect(maps.Keys(ids))); err != nil {
				return err
			}
		}
	}
	if a.locked {
		if is, err = l.write(ctx, tx, heads, unlisted, back, is); err != nil {
			return err
		}
	}
	var written bool
	if _, err = tx.Exec(ctx, `update feed set listed = $1 where listed <> $1`, is.Size()); err == nil {
		err = tx.QueryRow(ctx, `select txid_current_if_assigned() is not null`).Scan(&written)
	}
	if err == nil && written && !a.locked {
		err = errToDo
	}
	a.heads, a.back, a.list, a.known = heads, back, is, list.next
	return err
}

// holds reports whether the database is still one in which the application was done: the logs go on from the heads, and
// no feed is as an older list says. It is not if a dump from before was restored.
func (a *application) holds(ctx context.Context, tx pgx.Tx) (holds bool, err error) {
	var names []string
	var positions, erasures []int64
	var digests [][]byte
	for name, h := range a.heads {
		names, positions, digests, erasures = append(names, name), append(positions, h.Position), append(digests, h.Digest[:]), append(erasures, h.Erasures)
	}
	if len(names) == 0 {
		return false, nil
	}
	err = tx.QueryRow(ctx, `
		select bool_and(coalesce(abs(f.listed) >= $5 and f.erasures >= h.erasures and (h.position = 0 or e.digest = h.digest), false))
		  from unnest($1::text[], $2::bigint[], $3::bytea[], $4::bigint[]) as h (name, position, digest, erasures)
		       left join feed as f on f.name = h.name left join feed_entry as e on e.feed = h.name and e.position = h.position`,
		names, positions, digests, erasures, a.list.Size()).Scan(&holds)
	return holds, err
}

// write adds ids to the list, whose state is is, and appends tombstones. It returns the list's state.
func (l *Log) write(ctx context.Context, tx pgx.Tx, heads map[string]Head, unlisted []erasedID, back pending, is os.FileInfo) (os.FileInfo, error) {
	var was int64
	if err := tx.QueryRow(ctx, `select coalesce(max(abs(listed)), 0) from feed`).Scan(&was); err != nil {
		return nil, err
	}
	if is.Size() < was {
		l.logger.WarnContext(ctx, "the list of erased ids is shorter than it was: put its newest state back, or what it alone knew is not erased "+
			"again where a dump brings it back", "file", l.reerasure.File, "was", was, "is", is.Size())
	}
	if len(unlisted) > 0 {
		before, now, err := l.reerasure.list.add(unlisted, nil)
		if err != nil {
			return nil, err
		}
		if same(is, before) { // else something was added since the list was read: it is applied the next time
			is = now
		}
	}
	numbered, err := back.number(ctx, tx)
	if err != nil {
		return nil, err
	}
	runs := numbered.place(heads)
	for i := range runs {
		appending := runs[i].append()
		if _, err := tx.Exec(ctx, appending.sql, appending.args...); err != nil {
			return nil, err
		}
	}
	return is, nil
}

// constraintNames selects the tables' constraints as TABLE CONSTRAINT.
const constraintNames = `
	select relname || ' ' || conname as name from pg_constraint join pg_class on pg_class.oid = conrelid
	 where connamespace in (select oid from pg_namespace where nspname = any(current_schemas(false)))`

// complete returns an error during a restore: a table's constraints are restored after its rows.
func (l *Log) complete(ctx context.Context, tx pgx.Tx) error {
	var missing *string
	err := tx.QueryRow(ctx, `
		select min(name) from (select unnest($1::text[]) as name except `+constraintNames+`) as missing`,
		l.reerasure.constraints).Scan(&missing)
	if err == nil && missing == nil {
		err = tx.QueryRow(ctx, `select 'feed ' || min(name) from feed_head where not is_whole`).Scan(&missing)
	}
	if err == nil && missing != nil {
		err = fmt.Errorf("%s is not complete: a restore is under way, or the dump is of an older version and needs a restart of this process", *missing)
	}
	return err
}

// erasedSince returns the ids that the database knows to be erased after the heads before, or all if there are none.
func erasedSince(ctx context.Context, tx pgx.Tx, heads, before map[string]Head) (erased []erasedID, err error) {
	for name, head := range heads {
		if head.Erasures == before[name].Erasures {
			continue
		}
		rows, err := tx.Query(ctx, `
			select distinct entity_id from feed_entry where feed = $1 and position > $2 and kind = 'delete' and salt is null`, name, before[name].Position)
		if err != nil {
			return nil, err
		}
		ids, err := pgx.CollectRows(rows, pgx.RowTo[uuid.UUID])
		if err != nil {
			return nil, err
		}
		for _, id := range ids {
			erased = append(erased, erasedID{feed: name, id: id})
		}
	}
	return erased, nil
}

// eraseAgain adds to back a tombstone for each of the entities of which the feed says anything.
func eraseAgain(ctx context.Context, tx pgx.Tx, back pending, name string, ids []uuid.UUID) error {
	rows, err := tx.Query(ctx, `
		select entity_id from feed_entry where feed = $1 and entity_id = any($2)
		 group by entity_id having bool_or(salt is not null) order by entity_id`, name, ids)
	if err != nil {
		return err
	}
	var id uuid.UUID
	_, err = pgx.ForEachRow(rows, []any{&id}, func() error {
		back.Erase(name, id, 0, time.Time{})
		return nil
	})
	return err
}
