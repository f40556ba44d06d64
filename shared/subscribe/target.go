package subscribe

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"runtime/debug"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/edison-cars/data-feeds/shared/feed"
	"github.com/edison-cars/data-feeds/shared/publish"
)

// A target is where a copy goes: the feed, its tables, and what the service does with entries.
type target struct {
	Feed            // whose Name is that of the subscription: orders@eu
	feed     string // without the source: orders
	owned    bool   // entities have owners: the feed has sources with names, or had
	pure     bool   // the feed has Columns and no Apply
	replays  bool   // a first copy and a resync read all versions, in the order of the feed, also of a source that offers snapshots
	service  string // the service's name
	shownURL string // as feedclient.ShownURL has it
	pool     *pgxpool.Pool
	log      *publish.Log // nil means the service publishes nothing
	logger   *slog.Logger
	timeout  time.Duration // for a page to be applied, as a whole or in parts
	acting   *Current      // set up to date when a poll succeeds, or nil
	unknown  atomic.Bool   // the outcome of a commit was unknown
	claims   int64         // the column, as this process last set or found it
}

// snapshotAt returns where a first copy or a resync goes on with a snapshot, or nil if it replays from the place.
func (t *target) snapshotAt(at place) *feed.SnapshotPlace {
	if !at.cursor.IsStart() || !at.inSnapshot() && t.replays {
		return nil
	}
	return &at.snapshot
}

// saySucceeded notes in Current that this copy is up to date, since the service may act only on such copies.
func (t *target) saySucceeded(to progress) {
	if t.acting != nil {
		t.acting.Polled(t.Name, to.lastSuccess)
	}
}

// errFenced means that another process has moved the cursor, or that a resync has begun.
var errFenced = errors.New("another process copies this feed into the same database")

// call calls the service's Apply, and returns a panic of it as an error. stored may be nil.
func (t *target) call(ctx context.Context, tx pgx.Tx, entries []feed.Entry, stored map[uuid.UUID]int64) (err error) {
	defer func() {
		if v := recover(); v != nil {
			panicked := &panicError{"apply", v}
			t.logger.ErrorContext(ctx, "apply panicked", "feed", t.Name, "panic", panicked.unquoted(), "stack", string(debug.Stack()))
			err = panicked
		}
		if err != nil {
			err = &applyError{err}
		}
	}()
	batch := NewBatch(entries)
	batch.stored = stored
	if t.Apply == nil { // the service got the entries by Entries
		return nil
	}
	if t.Past {
		err := tx.QueryRow(ctx, `select past from subscription where service = $1 and feed = $2`, t.service, t.Name).Scan(&batch.Past)
		if err != nil {
			return err
		}
	}
	if err := t.Apply(ctx, tx, batch); err != nil {
		return err
	}
	return t.release(ctx, tx, batch.Deleted)
}

// passOn calls the service's Entries, if there is one, for the well-formed entries of the page. It returns a panic as
// an error.
func (t *target) passOn(ctx context.Context, from feed.Cursor, page *feed.Page) (err error) {
	if t.Entries == nil || page == nil {
		return nil
	}
	if slices.ContainsFunc(page.Entries, malformed) {
		good := *page
		good.Entries = slices.DeleteFunc(slices.Clone(page.Entries), malformed)
		page = &good
	}
	if len(page.Entries) == 0 {
		return nil
	}
	defer func() {
		if v := recover(); v != nil {
			panicked := &panicError{"entries", v}
			t.logger.ErrorContext(ctx, "entries panicked", "feed", t.Name, "panic", panicked.unquoted(), "stack", string(debug.Stack()))
			err = errors.New(panicked.unquoted())
		}
		if err != nil {
			err = &entriesError{from, err}
		}
	}()
	return t.Entries(ctx, t.pool, from, page)
}

func malformed(e feed.Entry) bool { return e.Malformed() != nil }

// An entriesError is an error of the service's Entries, not of the source.
type entriesError struct {
	from feed.Cursor
	err  error
}

func (e *entriesError) Error() string {
	return fmt.Sprintf("pass on the page after %s: %v", e.from, e.err)
}
func (e *entriesError) Unwrap() error        { return e.err }
func (e *entriesError) Is(target error) bool { return target == ErrEntries }

// Newer returns the entries that Apply gets: those that are newer than the rows in Table. For a rejected entity the
// rejected version counts instead, since the row is older and may be of another history.
func (f *Feed) Newer(ctx context.Context, tx pgx.Tx, entries []feed.Entry) ([]feed.Entry, error) {
	var b pgx.Batch
	known := noneKnown()
	f.lookUp(&b, entries, true, known)
	err := tx.SendBatch(ctx, &b).Close()
	return known.newer(entries), err
}

// known are the versions of a page's entities that the copy has, and those that it has rejected, with the positions of
// the first versions of entities that it has rejected or skipped, and the owners of entities of other sources.
type known struct {
	rows, rejected, first map[uuid.UUID]int64
	owners                map[uuid.UUID]string // of entities that are of another source
}

func noneKnown() *known {
	return &known{map[uuid.UUID]int64{}, map[uuid.UUID]int64{}, map[uuid.UUID]int64{}, map[uuid.UUID]string{}}
}

// lookUp makes b query the known versions. PostgreSQL plans a statement with a list each time, so each table has its
// own statement, and the second is left out if nothing is rejected.
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
	if f.Table != "" {
		b.Queue(`select id, version from `+f.table()+` where id = any($1)`, ids).Query(into(k.rows))
	}
	if rejected {
		b.Queue(`
			select entity_id, max(version) from rejected_entry join subscription using (service, feed)
			 where entity_id = any($1) and table_name = $2 and source = $3 group by entity_id`, ids, f.Table, f.Source).Query(into(k.rejected))
		b.Queue(`
			select entity_id, min(coalesce(first_position, position)) from rejected_entry join subscription using (service, feed)
			 where entity_id = any($1) and table_name = $2 and source = $3 group by entity_id`, ids, f.Table, f.Source).Query(into(k.first))
	}
}

// takeSkipped makes b query, and forget, what is known of the entities from superseded entries.
func (t *target) takeSkipped(b *pgx.Batch, entries []feed.Entry, k *known) {
	ids := make([]uuid.UUID, len(entries))
	for i, e := range entries {
		ids[i] = e.ID
	}
	b.Queue(`delete from skipped_entity where service = $1 and feed = $2 and id = any($3) returning id, first_position`, t.service, t.Name, ids).
		Query(func(rows pgx.Rows) error {
			var id [16]byte
			var position int64
			_, err := pgx.ForEachRow(rows, []any{&id, &position}, func() error {
				if first, has := k.first[id]; !has || position < first {
					k.first[id] = position
				}
				return nil
			})
			return err
		})
}

func (k *known) newer(entries []feed.Entry) []feed.Entry {
	if len(k.rows)+len(k.rejected)+len(k.first) == 0 && !slices.ContainsFunc(entries, malformed) {
		return entries
	}
	newer := make([]feed.Entry, 0, len(entries))
	passed := map[uuid.UUID]int64{} // versions of entries on this page
	for _, e := range entries {
		rejected, is := k.rejected[e.ID]
		if first, has := k.first[e.ID]; has && first < cmp.Or(e.First, e.Position) {
			e.First = first
		}
		row, has := k.rows[e.ID]
		if malformed(e) { // its version may be wrong, and must not hold back later ones
			known := max(rejected, row, passed[e.ID])
			if e.Version = max(e.Version, known); e.Version > known {
				e.Version = known + 1
			}
			newer = append(newer, e)
		} else if e.Erased || is && e.Version >= rejected || !is && (!has || e.Version > row) {
			passed[e.ID] = e.Version
			newer = append(newer, e)
		}
	}
	return newer
}

func (f *Feed) table() string { return quoted(f.Table) }

// quoted returns the name of a table, which may begin with a schema, for a statement.
func quoted(table string) string { return pgx.Identifier(strings.SplitN(table, ".", 2)).Sanitize() }

// answers reports whether the database answers.
func (t *target) answers(ctx context.Context) bool {
	ctx, cancel := context.WithTimeout(ctx, answerTimeout)
	defer cancel()
	return t.pool.Ping(ctx) == nil
}

// key identifies the service's schedule of a feed: see ParseSchedule.
func (t *target) key() string { return t.service + "/" + t.Name }

// create makes the subscription's rows at the first start. It fails if another feed keeps its copy in the same table,
// since each would take the other's rows for its own. If the feed's table is another one than before, it may be
// empty, so create begins a resync, as it does if a column is new and for Resync. If nothing has changed, create writes nothing and locks no row: a commit that
// writes waits for a synchronous standby, and the copy can be served without it.
func (t *target) create(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, dbTimeout)
	defer cancel()
	err := inTx(ctx, t.pool, func(b *pgx.Batch) {
		b.Queue(`
			select exists (select from subscription where table_name = $3 and $3 <> '' and (service, split_part(feed, '@', 1)) <> ($1, $2))`,
			t.service, t.feed, t.Table).
			QueryRow(func(row pgx.Row) (err error) {
				var taken bool
				if err = row.Scan(&taken); taken {
					err = errTableTaken
				}
				return err
			})
		if t.Source != "" { // what was erased while the source had no name
			b.Queue(`
				insert into erased_entity (service, feed, id, erased_at)
				select $1, $2, id, erased_at from erased_entity where service = $1 and feed = $3
				   and not exists (select from subscription where service = $1 and feed = $2)
				on conflict do nothing`, t.service, t.Name, t.feed)
		}
		b.Queue(`
			with begun as (
			     update subscription set resync_cursor = '0', snapshot = null, compacted = null, resync_history = '0', resync_since = now(),
			            lost_after = null, lost_since = null,
			            resync_reason = case when table_name <> $3 then 'The copy has another table now.'
			                                 when not $4 <@ columns then 'The copy has a new column.' else $5 end
			      where service = $1 and feed = $2 and (table_name <> $3 or not $4 <@ columns or $5 <> '')
			            and (resync_cursor is null or `+currentLost+` is not null)
			     returning 1)
			delete from resynced_entity where service = $1 and feed = $2 and exists (select from begun)`,
			t.service, t.Name, t.Table, t.columns(), t.Resync)
		b.Queue(`
			insert into subscription (service, feed, table_name, columns)
			select $1, $2, $3, $4::text[] where not exists (
			       select from subscription where service = $1 and feed = $2 and table_name = $3 and columns = $4)
			on conflict (service, feed) do update set table_name = excluded.table_name, columns = excluded.columns,
			       claims = greatest(subscription.claims, $5) + 1`,
			t.service, t.Name, t.Table, t.columns(), t.claims)
		b.Queue(`select claims from subscription where service = $1 and feed = $2`, t.service, t.Name).
			QueryRow(func(row pgx.Row) error { return row.Scan(&t.claims) })
		b.Queue(`insert into subscription_setting (service, feed) values ($1, $2) on conflict do nothing`, t.service, t.Name)
	}, func(pgx.Tx) error { return nil })
	if pgErr, ok := errors.AsType[*pgconn.PgError](err); ok && pgErr.Code == uniqueViolation || errors.Is(err, errTableTaken) {
		return t.tableTaken(ctx, err)
	}
	return err
}

// columns returns the feed's Columns in an order that does not depend on theirs. It is not nil, which would be null.
func (t *target) columns() []string {
	all := append([]string{}, t.Columns...)
	slices.Sort(all)
	return all
}

var errTableTaken = errors.New("the table holds the copy of another feed")

// tableTaken returns an error that names the subscription that has the table.
func (t *target) tableTaken(ctx context.Context, err error) error {
	var service, feed string
	row := t.pool.QueryRow(ctx, `
		select service, feed from subscription where table_name = $1 order by (service, split_part(feed, '@', 1)) = ($2, $3) limit 1`, t.Table, t.service, t.feed)
	if row.Scan(&service, &feed) != nil {
		return err
	}
	if service == t.service {
		return fmt.Errorf("the table %s holds the copy of the feed %s; give each feed a table of its own (tables that are to be swapped need a third one for a time)", t.Table, feed)
	}
	return fmt.Errorf("the table %s holds the copy of %s that the service %s keeps in the same database; "+
		"give each service tables of its own, or a database of its own (if that service has been renamed to %[4]s: "+
		"update subscription set service = '%[4]s' where service = '%[3]s'; "+
		"update erased_entity set service = '%[4]s' where service = '%[3]s'; "+
		"update entity_owner set service = '%[4]s' where service = '%[3]s')", t.Table, feed, service, t.service)
}
