package subscribe

import (
	"bytes"
	"context"
	"errors"
	"slices"
	"strconv"

	"github.com/go-json-experiment/json/jsontext"
	"github.com/jackc/pgx/v5"

	"github.com/edison-cars/data-feeds/shared/feed"
)

// copyFrom is how many new rows are worth a COPY, which takes half of what a statement for each takes but a round trip
// more.
const copyFrom = 20

// Upsert makes the rows of a table what the batch says, without a statement of the service's. Beside id and version,
// which are the entry's, it fills the columns from the members of the same names, as jsonb_to_recordset does:
// PostgreSQL reads their text as the column's type; what is null or missing becomes null; a column of type json or
// jsonb takes any value. Arrays of PostgreSQL are not made. Other columns of the table keep what they have, or get
// their default. Rows of entities that are deleted are deleted. In a first copy it is twice as fast as a statement that
// reads JSON: what is new goes in by COPY.
func (b *Batch) Upsert(ctx context.Context, tx pgx.Tx, table string, columns ...string) error {
	u, err := newUpsert(ctx, tx.Conn(), table, columns)
	if err != nil {
		return err
	}
	var fresh, rest []feed.Entry
	for _, e := range b.Entities {
		if _, is := b.stored[e.ID]; is || b.stored == nil {
			rest = append(rest, e)
		} else {
			fresh = append(fresh, e)
		}
	}
	if len(fresh) < copyFrom {
		rest = b.Entities
	} else if err := u.copy(ctx, tx, fresh); err != nil {
		return err
	}
	var to pgx.Batch
	for _, e := range rest {
		if err := u.queue(&to, u.insert, e); err != nil {
			return err
		}
	}
	if len(b.Deleted) > 0 {
		to.Queue(`delete from `+u.table+` where id = any($1)`, b.Deleted)
	}
	return tx.SendBatch(ctx, &to).Close()
}

// An upsert is what it takes to bring the columns of a table to the state in entries.
type upsert struct {
	into    string // the table and its columns, quoted as all here
	table   string
	insert  string   // one row, whatever is there
	newer   string   // unless that is as new
	columns []string // without id and version
	types   []uint32 // OIDs, with those two in front
}

// newUpsert asks for the columns' types: with a round trip on a connection that has not been asked before.
func newUpsert(ctx context.Context, conn *pgx.Conn, table string, columns []string) (*upsert, error) {
	u := &upsert{table: pgx.Identifier{table}.Sanitize(), columns: columns}
	names, values, set := "id, version", "$1, $2", "version = excluded.version"
	for i, c := range columns {
		c = pgx.Identifier{c}.Sanitize()
		names, values, set = names+", "+c, values+", $"+strconv.Itoa(i+3), set+", "+c+" = excluded."+c
	}
	u.into = u.table + " (" + names + ")"
	u.insert = "insert into " + u.into + " values (" + values + ") on conflict (id) do update set " + set
	u.newer = u.insert + " where " + u.table + ".version < excluded.version"
	described, err := conn.Prepare(ctx, u.insert, u.insert)
	if err != nil {
		return nil, err
	}
	u.types = described.ParamOIDs
	return u, nil
}

// queue queues a statement for one entry.
func (u *upsert) queue(to *pgx.Batch, sql string, e feed.Entry) error {
	values, args := make([]jsontext.Value, len(u.columns)), []any{e.ID, e.Version}
	if err := u.read(e.Entity, values); err != nil {
		return err
	}
	for i, v := range values {
		var arg any
		if v != nil {
			text, err := appendText(nil, u.types[i+2], v)
			if err != nil {
				return err
			}
			arg = string(text)
		}
		args = append(args, arg)
	}
	to.Queue(sql, args...)
	return nil
}

// copy adds rows for entities that have none: in binary, which spares PostgreSQL a seventh, or if that cannot be as
// text. It sorts entries as the primary key is, which then finds the pages that it needs in the processor's cache.
func (u *upsert) copy(ctx context.Context, tx pgx.Tx, entries []feed.Entry) error {
	slices.SortFunc(entries, func(a, b feed.Entry) int { return bytes.Compare(a.ID[:], b.ID[:]) })
	sql := `copy ` + u.into + ` from stdin`
	rows, err := u.rows([]byte(binaryBegin), entries, u.appendBinary)
	if errors.Is(err, errUnusual) {
		rows, err = u.rows(nil, entries, u.appendRow)
	} else {
		sql += ` (format binary)`
		rows = append(rows, binaryEnd...)
	}
	if err != nil {
		return err
	}
	_, err = tx.Conn().PgConn().CopyFrom(ctx, bytes.NewReader(rows), sql)
	return err
}

// rows appends those of the entries, in a form of COPY.
func (u *upsert) rows(to []byte, entries []feed.Entry, appendRow func(to []byte, e feed.Entry, values []jsontext.Value) ([]byte, error)) (_ []byte, err error) {
	values := make([]jsontext.Value, len(u.columns))
	for _, e := range entries {
		if err = u.read(e.Entity, values); err != nil {
			return nil, err
		}
		if to, err = appendRow(to, e, values); err != nil {
			return nil, err
		}
	}
	return to, nil
}
