package customers

import (
	"context"
	"io"

	"github.com/google/uuid"

	"github.com/edison-cars/data-feeds/sales-feed/source"
	"github.com/edison-cars/data-feeds/shared/customer"
	"github.com/edison-cars/data-feeds/shared/feed"
	"github.com/edison-cars/data-feeds/shared/publish"
)

// Republish appends every customer again, at most rate a second, those after an id.
func Republish(ctx context.Context, settings Settings, stdout io.Writer, rate int, after uuid.UUID) error {
	return source.App{Service: shell, Erasures: Erasures(settings)}.Republish(ctx, settings.Settings, stdout, source.Republishing{
		Feed: customer.Feed, Table: "customer", Rate: rate, After: after, Again: again,
	})
}

// again raises the version of a customer.
func again(ctx context.Context, tx *publish.Tx, id uuid.UUID) (publish.Entry, error) {
	p, err := scan(tx.QueryRow(ctx, selectCustomer+` where id = $1 for update`, id))
	if err != nil {
		return publish.Entry{}, err
	}
	p.Version++
	p.UpdatedAt = feed.TimeOf(source.Later(source.Now(), p.UpdatedAt.Time))
	if _, err = tx.Exec(ctx, `update customer set version = $2, updated_at = $3 where id = $1`, id, p.Version, p.UpdatedAt.Time); err != nil {
		return publish.Entry{}, err
	}
	return entryOf(p)
}
