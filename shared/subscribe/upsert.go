package subscribe

import (
	"bytes"
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"

	"github.com/go-json-experiment/json/jsontext"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgtype"

	"github.com/edison-cars/data-feeds/shared/feed"
)

// copyFrom is how many new rows are worth a COPY, which takes half of what a statement for each takes but a round trip more.
const copyFrom = 20

// Upsert makes the rows of a table what the batch says, without a statement of the service's. Beside id and version, which are the
// entry's, it fills the columns from the members of the same names, as jsonb_to_recordset does: PostgreSQL reads their text as the
// column's type; what is null or missing becomes null; a column of type json or jsonb takes any value. Arrays of PostgreSQL are not
// made. Other columns of the table keep what they have, or get their default. Rows of entities that are deleted are deleted. In a first
// copy it is twice as fast as a statement that reads JSON: what is new goes in by COPY.
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
	table   string // quoted, as all here
	columns []string
	into    string // the table and its columns
	insert  string // one row, whatever is there
	newer   string // unless that is as new
	json    []bool // by column: it takes any JSON
}

// newUpsert asks for the columns' types: with a round trip on a connection that has not been asked before.
func newUpsert(ctx context.Context, conn *pgx.Conn, table string, columns []string) (*upsert, error) {
	u := &upsert{table: pgx.Identifier{table}.Sanitize(), columns: columns, json: make([]bool, len(columns))}
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
	for i := range columns {
		u.json[i] = slices.Contains([]uint32{pgtype.JSONOID, pgtype.JSONBOID}, described.ParamOIDs[i+2])
	}
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
			arg = string(u.appendText(nil, i, v))
		}
		args = append(args, arg)
	}
	to.Queue(sql, args...)
	return nil
}

// copy adds rows for entities that have none.
func (u *upsert) copy(ctx context.Context, tx pgx.Tx, entries []feed.Entry) error {
	rows := &copyRows{upsert: u, entries: entries, values: make([]jsontext.Value, len(u.columns))}
	_, err := tx.Conn().PgConn().CopyFrom(ctx, rows, `copy `+u.into+` from stdin`)
	if err != nil && !tx.Conn().IsClosed() && rows.err != nil {
		return rows.err // which the server only heard of
	}
	return err
}

// An entityError is an entity that cannot be read.
type entityError struct{ error }

func (e *entityError) Unwrap() error { return e.error }

// read puts the column's members of an entity into values; nil is null.
func (u *upsert) read(entity []byte, values []jsontext.Value) error {
	clear(values)
	d := jsontext.NewDecoder(bytes.NewBuffer(entity), jsontext.AllowDuplicateNames(true)) // of which the last counts
	begin, err := d.ReadToken()
	if err == nil && begin.Kind() != '{' {
		err = fmt.Errorf("the entity is no object, but %v", begin.Kind())
	}
	for err == nil && d.PeekKind() != '}' {
		var name, value jsontext.Value
		if name, err = d.ReadValue(); err != nil {
			break
		}
		column := u.column(name)
		if value, err = d.ReadValue(); err == nil && column >= 0 {
			end := d.InputOffset()
			values[column] = entity[end-int64(len(value)) : end]
			if value.Kind() == 'n' {
				values[column] = nil
			}
		}
	}
	if err == nil {
		_, err = d.ReadToken()
	}
	if err != nil {
		return &entityError{err}
	}
	return nil
}

// column gives the one of a member's quoted name; negative: there is none.
func (u *upsert) column(quoted jsontext.Value) int {
	if bytes.IndexByte(quoted, '\\') < 0 {
		quoted = quoted[1 : len(quoted)-1]
	} else {
		quoted, _ = jsontext.AppendUnquote(nil, quoted)
	}
	for i, c := range u.columns {
		if c == string(quoted) {
			return i
		}
	}
	return -1
}

// appendText appends what PostgreSQL reads as a value of the column.
func (u *upsert) appendText(to []byte, column int, value jsontext.Value) []byte {
	if value.Kind() == '"' && !u.json[column] {
		to, _ = jsontext.AppendUnquote(to, value) // it was read before
		return to
	}
	return append(to, value...)
}

// copyRows gives entries as rows in the text format of COPY.
type copyRows struct {
	*upsert
	entries []feed.Entry
	values  []jsontext.Value
	text    []byte // of rows that have not been read
	field   []byte
	err     error // what is wrong with an entity
}

// Read fills p: PostgreSQL takes in what was sent while the next is made.
func (r *copyRows) Read(p []byte) (int, error) {
	for len(r.text) < len(p) && len(r.entries) > 0 {
		if r.err = r.read(r.entries[0].Entity, r.values); r.err != nil {
			return 0, errBadRow
		}
		r.appendRow(r.entries[0])
		r.entries = r.entries[1:]
	}
	if len(r.text) == 0 {
		return 0, io.EOF
	}
	n := copy(p, r.text)
	r.text = append(r.text[:0], r.text[n:]...)
	return n, nil
}

// errBadRow goes to PostgreSQL, which may write it into its log: it says nothing of the entity.
var errBadRow = errors.New("a row cannot be made")

func (r *copyRows) appendRow(e feed.Entry) {
	r.text = strconv.AppendInt(append(hex.AppendEncode(r.text, e.ID[:]), '\t'), e.Version, 10)
	for i, v := range r.values {
		r.text = append(r.text, '\t')
		if v == nil {
			r.text = append(r.text, `\N`...)
			continue
		}
		r.field = r.appendText(r.field[:0], i, v)
		r.text = appendEscaped(r.text, r.field)
	}
	r.text = append(r.text, '\n')
}

// appendEscaped writes what would end a field or begin an escape as an escape.
func appendEscaped(to, field []byte) []byte {
	const special, names = "\\\n\r\t", `\nrt`
	if !slices.ContainsFunc([]byte(special), func(b byte) bool { return bytes.IndexByte(field, b) >= 0 }) {
		return append(to, field...) // as nearly all
	}
	for _, b := range field {
		if at := strings.IndexByte(special, b); at >= 0 {
			to = append(to, '\\', names[at])
		} else {
			to = append(to, b)
		}
	}
	return to
}
