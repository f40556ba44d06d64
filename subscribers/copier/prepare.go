package copier

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/edison-cars/data-feeds/shared/subscribe"
)

// prepareLock is the advisory lock of processes that make tables.
const prepareLock = 0x636f7079

// prepare makes the table, or checks that the one of this name is a copy or can become one.
func (t *table) prepare(ctx context.Context, db *pgxpool.Pool) error {
	return subscribe.InTx(ctx, db, func(tx pgx.Tx) error {
		if _, err := tx.Exec(ctx, `select pg_advisory_xact_lock($1)`, prepareLock); err != nil {
			return err
		}
		schema := t.schema
		if schema == "" {
			err := tx.QueryRow(ctx, `
				select s from unnest(current_schemas(false)) with ordinality as path (s, n) where s <> $1 order by n limit 1`, Name).Scan(&schema)
			if errors.Is(err, pgx.ErrNoRows) {
				return errors.New("no schema of the search_path exists: create one, or set another by search_path in DATABASE_URL")
			} else if err != nil {
				return err
			}
		}
		t.name = schema + "." + t.table
		var kind string
		err := tx.QueryRow(ctx, `select relkind::text from pg_class where oid = to_regclass($1)`, quoted(t.name)).Scan(&kind)
		switch {
		case errors.Is(err, pgx.ErrNoRows):
			err = t.create(ctx, tx)
		case err == nil && kind != "r" && kind != "p":
			err = fmt.Errorf("%s exists and is no table; name another one", t.name)
		case err == nil:
			err = t.adopt(ctx, tx)
		}
		if err != nil {
			return err
		}
		return t.findMissing(ctx, tx)
	})
}

func (t *table) create(ctx context.Context, tx pgx.Tx) error {
	sql := `create table ` + quoted(t.name) + ` (id uuid primary key, version bigint not null`
	if t.columns == nil {
		sql += `, updated timestamptz not null, entity jsonb not null`
	}
	_, err := tx.Exec(ctx, sql+`)`)
	return err
}

// adopt refuses a table that cannot be a copy, or whose rows are not one's of ours.
func (t *table) adopt(ctx context.Context, tx pgx.Tx) error {
	has, err := columnsOf(ctx, tx, t.name)
	if err != nil {
		return err
	}
	if err := t.refuseLossy(ctx, tx); err != nil {
		return err
	}
	var keyed, ours, rows bool
	err = tx.QueryRow(ctx, `
		select exists (select from pg_index join pg_attribute on attrelid = indrelid and attnum = indkey[0]
		                where indrelid = to_regclass($1) and attname = 'id' and indnkeyatts = 1 and indisunique and indisvalid and indimmediate and indpred is null),
		       exists (select from subscription where table_name = $2), exists (select from `+quoted(t.name)+`)`, quoted(t.name), t.name).Scan(&keyed, &ours, &rows)
	if err != nil {
		return err
	}
	if has["id"].Type != "uuid" || has["version"].Type != "bigint" || !keyed {
		return fmt.Errorf("the table %s exists and is no copy of a feed, which has the columns id uuid primary key and version bigint; name another one", t.name)
	}
	if rows && !ours {
		return fmt.Errorf("the table %s exists and has rows that are no copy of this feed; name another one, or empty it", t.name)
	}
	for name, c := range has {
		filled := slices.Contains(ofEntries, name) || slices.ContainsFunc(t.filled(), func(c column) bool { return c.name == name })
		if c.Needed && !filled {
			return fmt.Errorf("the column %s of the table %s is not null, has no default, and is not filled; drop it, give it a default, or name another table", name, t.name)
		}
	}
	return nil
}

// refuseLossy refuses a table that may lose rows, or keep what is deleted, while the copy says that it is fresh.
func (t *table) refuseLossy(ctx context.Context, tx pgx.Tx) error {
	var unlogged, ruled bool
	var trigger *string
	err := tx.QueryRow(ctx, `
		with tables as (select coalesce(relid, to_regclass($1)) as oid from (select to_regclass($1)) as one left join pg_partition_tree(to_regclass($1)) on true)
		select bool_or(relpersistence <> 'p'), bool_or(exists (select from pg_rewrite where ev_class = c.oid)),
		       (select min(tgname::text) from pg_trigger where tgrelid in (table tables) and not tgisinternal and tgenabled <> 'D' and tgtype & 3 = 3)
		  from pg_class c where oid in (table tables)`, quoted(t.name)).Scan(&unlogged, &ruled, &trigger)
	switch {
	case err != nil:
		return err
	case unlogged:
		return fmt.Errorf("the table %s is unlogged or temporary, so that a crash empties it; alter table ... set logged, or name another one", t.name)
	case ruled:
		return fmt.Errorf("the table %s has rules, which may change what is written to it; drop them, or name another table", t.name)
	case trigger != nil:
		return fmt.Errorf("the trigger %s of the table %s runs before a row is written, and may change or refuse it; make it an after trigger, drop it, or name another table",
			*trigger, t.name)
	}
	return nil
}

// findMissing finds the columns that the table does not have, and whether a resync has to fill it. The types of missing
// columns are known when entities come.
func (t *table) findMissing(ctx context.Context, tx pgx.Tx) error {
	has, err := columnsOf(ctx, tx, t.name)
	if err != nil {
		return err
	}
	t.missing = slices.DeleteFunc(slices.Clone(t.filled()), func(c column) bool { _, is := has[c.name]; return is })
	return tx.QueryRow(ctx, `select $1 or not exists (select from `+quoted(t.name)+`)`, len(t.missing) > 0).Scan(&t.resync)
}

// A present is a column that a table has.
type present struct {
	Type   string
	Needed bool // an insert has to fill it
}

func columnsOf(ctx context.Context, tx pgx.Tx, table string) (map[string]present, error) {
	rows, err := tx.Query(ctx, `
		select attname::text, atttypid::regtype::text, attnotnull and not atthasdef and attidentity = ''
		  from pg_attribute where attrelid = to_regclass($1) and attnum > 0 and not attisdropped`, quoted(table))
	if err != nil {
		return nil, err
	}
	has := map[string]present{}
	var name string
	var c present
	_, err = pgx.ForEachRow(rows, []any{&name, &c.Type, &c.Needed}, func() error {
		has[name] = c
		return nil
	})
	return has, err
}

// quoted returns the name of a table with its schema for a statement.
func quoted(table string) string { return pgx.Identifier(strings.SplitN(table, ".", 2)).Sanitize() }
