package copier

import (
	"cmp"
	"context"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"
	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"github.com/edison-cars/data-feeds/shared/columntype"
	"github.com/edison-cars/data-feeds/shared/feed"
	"github.com/edison-cars/data-feeds/shared/subscribe"
)

// applyWhole writes whole entities.
func (t *table) applyWhole(ctx context.Context, tx pgx.Tx, b *subscribe.Batch) error {
	if err := t.addMissing(ctx, tx, b.Entities); err != nil {
		return err
	}
	n := len(b.Entities)
	ids, versions, updated, entities := make([]uuid.UUID, n), make([]int64, n), make([]any, n), make([]string, n)
	for i, e := range b.Entities {
		ids[i], versions[i], updated[i], entities[i] = e.ID, e.Version, e.Updated, string(e.Entity)
	}
	var to pgx.Batch
	to.Queue(`
		insert into `+quoted(t.name)+` (id, version, updated, entity)
		select id, version, updated, entity::jsonb from unnest($1::uuid[], $2::bigint[], $3::timestamptz[], $4::text[]) as e (id, version, updated, entity)
		on conflict (id) do update set version = excluded.version, updated = excluded.updated, entity = excluded.entity`, ids, versions, updated, entities)
	to.Queue(`delete from `+quoted(t.name)+` where id = any($1)`, b.Deleted)
	return tx.SendBatch(ctx, &to).Close()
}

// apply writes columns.
func (t *table) apply(ctx context.Context, tx pgx.Tx, b *subscribe.Batch) error {
	if err := t.addMissing(ctx, tx, b.Entities); err != nil {
		return err
	}
	return b.Upsert(ctx, tx, t.name, texts(t.columns)...)
}

// addMissing adds the columns that were missing at the start, and still are, with the types of the first entities. It
// adds them when no row has them null: to an empty table, and at the end of a resync, which writes all rows. An attempt
// may be rolled back, and columns keep the types of the first one, by which connections have prepared statements.
func (t *table) addMissing(ctx context.Context, tx pgx.Tx, entities []feed.Entry) error {
	if len(t.missing) == 0 || len(entities) == 0 {
		return nil
	}
	has, err := columnsOf(ctx, tx, t.name)
	if err != nil {
		return err
	}
	var fills bool
	err = tx.QueryRow(ctx, `
		select not exists (select from `+quoted(t.name)+`) or exists (select from subscription where service = $1 and split_part(feed, '@', 1) = $2 and resynced_at = now())`,
		Name, t.feed).Scan(&fills)
	if err != nil {
		return err
	}
	for _, c := range t.missing {
		if _, there := has[c.name]; !there && fills {
			_, err := tx.Exec(ctx, `alter table `+quoted(t.name)+` add column `+pgx.Identifier{c.name}.Sanitize()+` `+t.typeOf(c, entities))
			if err != nil {
				return err
			}
		}
	}
	return nil
}

func (t *table) typeOf(c column, entities []feed.Entry) string {
	if t.columns == nil {
		return map[string]string{"updated": "timestamptz", "entity": "jsonb"}[c.name]
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.types == nil {
		t.types = map[string]string{}
	}
	if t.types[c.name] == "" {
		suggested := ""
		for _, e := range entities {
			var members map[string]jsontext.Value
			if json.Unmarshal(jsontext.Value(e.Entity), &members, jsontext.AllowDuplicateNames(true), jsontext.AllowInvalidUTF8(true)) == nil && members[c.member] != nil {
				suggested = columntype.Both(suggested, columntype.Of(members[c.member]))
			}
		}
		t.types[c.name] = cmp.Or(suggested, "text")
	}
	return t.types[c.name]
}
