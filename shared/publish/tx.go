package publish

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"sync/atomic"
	"time"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"
	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"github.com/edison-cars/data-feeds/shared/feed"
)

// pending are the entries that a transaction is going to append, by feed.
type pending map[string][]record

// Append adds entries to a feed in this transaction. It only collects them: the last statement of the transaction
// assigns their positions. Nothing is appended if the transaction rolls back.
func (p pending) Append(feedName string, entries ...Entry) {
	for _, e := range entries {
		p[feedName] = append(p[feedName], newRecord(e))
	}
}

// Erase deletes an entity of a personal feed, and all that the feed ever said of it. It appends a tombstone, and the
// same transaction removes payload and salt from the entity's entries. Every cursor stays valid. version and updated
// are those of the tombstone, as in [Entry].
func (p pending) Erase(feedName string, id uuid.UUID, version int64, updated time.Time) {
	r := newRecord(Entry{ID: id, Version: version, Updated: updated})
	r.erase = true
	p[feedName] = append(p[feedName], r)
}

// A Tx is an open transaction that may append to feeds. [Log.InTx] begins and ends it.
type Tx struct {
	pgx.Tx
	pending
	outer *Tx // nil means that it is not nested
}

// Begin starts a nested transaction, a savepoint, which is a *Tx, too. What is appended in it counts from its Commit
// on, and is dropped by its Rollback.
func (tx *Tx) Begin(ctx context.Context) (pgx.Tx, error) {
	inner, err := tx.Tx.Begin(ctx)
	if err != nil {
		return nil, err
	}
	return &Tx{Tx: inner, pending: pending{}, outer: tx}, nil
}

// Commit ends a nested transaction.
func (tx *Tx) Commit(ctx context.Context) error {
	if tx.outer == nil {
		return errors.New("this transaction ends with the function that InTx runs")
	}
	if err := tx.Tx.Commit(ctx); err != nil {
		return err
	}
	for name, records := range tx.pending {
		tx.outer.pending[name] = append(tx.outer.pending[name], records...)
	}
	return nil
}

// Check returns an *EntryError if an entry appended so far cannot be committed, or nil. Use it to find out early; the
// commit may still fail because of other writers' entries. After an error the transaction must be rolled back.
func (tx *Tx) Check(ctx context.Context) error {
	all, ids := pending{}, map[uuid.UUID]bool{}
	for name, records := range tx.pending {
		all[name] = records
		for _, r := range records {
			ids[r.ID] = true
		}
	}
	for at := tx.outer; at != nil; at = at.outer { // with earlier entries of the same entities
		for name, records := range at.pending {
			same := slices.DeleteFunc(slices.Clone(records), func(r record) bool { return !ids[r.ID] })
			if len(same) > 0 && all[name] != nil {
				all[name] = slices.Concat(same, all[name])
			}
		}
	}
	if len(all) == 0 {
		return nil
	}
	if err := all.check(); err != nil {
		return err
	}
	if err := encodeRows(ctx, tx.Conn()); err != nil {
		return err
	}
	all, err := all.number(ctx, tx)
	if err != nil {
		return err
	}
	for _, run := range all.place(nil) {
		if _, err := tx.Exec(ctx, `select feed_check_alone($1, $2::feed_entry[])`, run.feed, &run); err != nil {
			return entryError(err)
		}
	}
	return nil
}

// A Change is a transaction whose statements are known before it starts, so that it can be sent with others in one
// packet: see [Log.Commit]. It must append to at least one feed.
type Change struct {
	pending
	statements []statement
	taken      atomic.Bool // by a group, or its caller has given up
	done       chan error
}

type statement struct {
	sql  string
	args []any
}

// NewChange returns an empty change.
func NewChange() *Change {
	return &Change{pending: pending{}, done: make(chan error, 1)}
}

// Exec adds a statement. Its result is ignored: wrap conditions in `select feed_guard(...)`. A connection prepares each
// text once and keeps it, so pass values that vary as args.
func (c *Change) Exec(sql string, args ...any) {
	c.statements = append(c.statements, statement{sql, args})
}

// A placed is a run of entries of one feed with the place where it begins and the digests that the entries get there.
type placed struct {
	feed    string
	from    Head
	records []record
	digests [][]byte
}

func (p *placed) head() Head {
	return Head{
		p.from.Position + int64(len(p.records)), feed.Digest(p.digests[len(p.digests)-1]), p.from.Erasures + int64(len(p.erased())),
		p.from.Compaction,
	}
}

// erased returns the entities whose entries lose their payload.
func (p *placed) erased() (ids [][16]byte) {
	for i := range p.records {
		if p.records[i].erase {
			ids = append(ids, p.records[i].ID)
		}
	}
	return ids
}

// place assigns positions and digests to the entries, after the given heads. It sorts the feeds by name, so that two
// transactions never wait for each other.
func (p pending) place(heads map[string]Head) []placed {
	var runs []placed
	for _, name := range p.feeds() {
		run := placed{feed: name, from: heads[name], records: p[name]}
		digest := run.from.Digest
		for i := range run.records {
			digest = run.records[i].digest(digest)
			run.digests = append(run.digests, bytes.Clone(digest[:]))
		}
		runs = append(runs, run)
	}
	return runs
}

// number fills in the versions and times that were left out: the version after the entity's last one, and now, or a
// microsecond after the last time if the clock is not later. The caller must know the heads before number queries db:
// if another writer appends the entity in between, the swap of the head fails.
func (p pending) number(ctx context.Context, db querier) (pending, error) {
	now, numbered := time.Now().UTC().Truncate(time.Microsecond), maps.Clone(p)
	for name, records := range p {
		var ids [][16]byte
		for i := range records {
			if records[i].Version == 0 || records[i].Updated.IsZero() {
				ids = append(ids, records[i].ID)
			}
		}
		if len(ids) == 0 {
			continue
		}
		last, err := lastVersions(ctx, db, name, ids)
		if err != nil {
			return nil, err
		}
		records = slices.Clone(records)
		for i := range records {
			r := &records[i]
			r.follow(last[r.ID], now)
			last[r.ID] = r.Entry
		}
		numbered[name] = records
	}
	return numbered, nil
}

// follow fills in the version and time that were left out.
func (r *record) follow(last Entry, now time.Time) {
	if r.Version == 0 {
		r.Version = last.Version + 1
	}
	if !r.Updated.IsZero() {
		return
	}
	r.Updated = now
	if !now.After(last.Updated) {
		r.Updated = last.Updated.Add(time.Microsecond)
	}
	if r.Updated.Year() > maxYear {
		r.Updated = last.Updated // feed_check refuses that
	}
}

// lastVersions returns version and time of the last entries of the entities that the feed has.
func lastVersions(ctx context.Context, db querier, name string, ids [][16]byte) (map[uuid.UUID]Entry, error) {
	rows, err := db.Query(ctx, `
		select id, last.version, last.updated from unnest($2::uuid[]) as id cross join lateral (
		       select version, updated from feed_entry where feed = $1 and entity_id = id order by version desc limit 1) as last`, name, ids)
	if err != nil {
		return nil, err
	}
	last := map[uuid.UUID]Entry{}
	var e Entry
	_, err = pgx.ForEachRow(rows, []any{&e.ID, &e.Version, &e.Updated}, func() error {
		last[e.ID] = e
		return nil
	})
	return last, err
}

// check refuses entries that could never be removed from the log again: those that no page can carry or no reader can
// parse.
func (p pending) check() error {
	for name, records := range p {
		for i := range records {
			r := &records[i]
			if wrong := r.check(); wrong != "" {
				return &EntryError{Feed: name, ID: r.ID, Version: r.Version, wrong: wrong}
			}
		}
	}
	return nil
}

// check returns what is wrong with the record, without quoting it, or "".
func (r *record) check() string {
	switch year := r.Updated.Year(); {
	case r.ID == uuid.Nil:
		return "has the UUID zero, which is no entity's"
	case year < 1 || year > maxYear:
		return "has a time that is not of the years 1 to 9999"
	case r.kind == kindDelete:
		return ""
	case len(r.Payload) > MaxPayload:
		return fmt.Sprintf("has %d bytes; an entry takes up to %d", len(r.Payload), MaxPayload)
	case !jsontext.Value(r.Payload).IsValid(asWritten) || r.Payload[0] != '{':
		return "is not a JSON object"
	case depth(r.Payload) > MaxDepth:
		return fmt.Sprintf("is nested %d deep; an entry takes up to %d levels", depth(r.Payload), MaxDepth)
	}
	return ""
}

// depth counts how deep objects and arrays of a valid JSON text are nested.
func depth(text []byte) (deepest int) {
	level, quoted := 0, false
	for i := 0; i < len(text); i++ {
		switch c := text[i]; {
		case quoted && c == '\\':
			i++
		case c == '"':
			quoted = !quoted
		case quoted:
		case c == '{', c == '[':
			level++
			deepest = max(deepest, level)
		case c == '}', c == ']':
			level--
		}
	}
	return deepest
}

// asWritten accepts what RFC 8259 allows but discourages.
var asWritten = json.JoinOptions(jsontext.AllowDuplicateNames(true), jsontext.AllowInvalidUTF8(true))

func (p pending) feeds() []string { return slices.Sorted(maps.Keys(p)) }

// appendSQL calls feed_append. The type of the rows selects the function of the log's own schema, whatever the
// search_path.
const appendSQL = `select feed_append($1, $2, $3, $4::feed_entry[], $5)`

// append returns the statement that appends the run, for a connection prepared by encodeRows.
func (p *placed) append() statement {
	return statement{appendSQL, []any{p.feed, p.from.Position, p.from.Digest[:], p, p.erased()}}
}
