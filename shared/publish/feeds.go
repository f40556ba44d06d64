package publish

import (
	"context"
	"fmt"

	"github.com/jackc/pgx/v5"

	"github.com/edison-cars/data-feeds/shared/feed"
)

// Feeds returns the feeds of the database by name, as feed_create was told to describe them, with the schemas
// of the tables that are attached.
func (l *Log) Feeds(ctx context.Context) (feeds []feed.Description, err error) {
	err = l.Read(ctx, func(conn *pgx.Conn) error {
		rows, err := conn.Query(ctx, `
			select name, coalesce(title, ''), coalesce(description, ''), personal from feed order by name collate "C"`)
		if err != nil {
			return err
		}
		feeds, err = pgx.CollectRows(rows, func(row pgx.CollectableRow) (d feed.Description, err error) {
			return d, row.Scan(&d.Name, &d.Title, &d.Text, &d.Personal)
		})
		if err != nil {
			return err
		}
		if rows, err = conn.Query(ctx, `
			select feed, attname, format_type(atttypid, null), case when atttypid in ('varchar'::regtype, 'bpchar'::regtype) and atttypmod > 4 then atttypmod - 4 end, attnotnull
			  from feed_attached join pg_attribute on attrelid = relation and attname = any (columns) and not attisdropped
			 order by feed, attnum`); err != nil {
			return err
		}
		schemas, err := schemas(rows)
		for i := range feeds {
			feeds[i].Schema = schemas[feeds[i].Name]
		}
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("read the descriptions of the feeds: %w", err)
	}
	return feeds, nil
}
