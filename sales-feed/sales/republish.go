package sales

import (
	"context"
	"io"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"github.com/edison-cars/data-feeds/sales-feed/source"
	"github.com/edison-cars/data-feeds/shared/feed"
	"github.com/edison-cars/data-feeds/shared/order"
	"github.com/edison-cars/data-feeds/shared/publish"
)

// Republish appends every order again, at most rate a second, those after an id.
func Republish(ctx context.Context, settings Settings, stdout io.Writer, rate int, after uuid.UUID) error {
	return source.App{Service: shell}.Republish(ctx, settings.Settings, stdout, source.Republishing{
		Feed: order.Feed, Table: "orders", Rate: rate, After: after, Again: again,
	})
}

// again raises the version of an order.
func again(ctx context.Context, tx *publish.Tx, id uuid.UUID) (publish.Entry, error) {
	rows, _ := tx.Query(ctx, selectOrder+`where id = $1 for update`, id)
	o, err := pgx.CollectExactlyOneRow(rows, scanOrder)
	if err != nil {
		return publish.Entry{}, err
	}
	o.Version++
	o.UpdatedAt = feed.TimeOf(source.Later(source.Now(), o.UpdatedAt.Time))
	if _, err = tx.Exec(ctx, `update orders set version = $2, updated_at = $3 where id = $1`, id, o.Version, o.UpdatedAt.Time); err != nil {
		return publish.Entry{}, err
	}
	return entryOf(o)
}
