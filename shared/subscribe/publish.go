package subscribe

import (
	"context"
	"errors"

	"github.com/jackc/pgx/v5"

	"github.com/edison-cars/data-feeds/shared/publish"
)

var errNoFeed = errors.New("the subscriber has no log to append to: see Options.Log")

// Publishing returns the Apply of a subscriber that also publishes: what it appends to the feeds of [Options].Log
// commits with the cursor and the rows, or not at all. An entry that the engine rejects leaves nothing in the feeds.
func Publishing(apply func(ctx context.Context, tx *publish.Tx, batch *Batch) error) func(context.Context, pgx.Tx, *Batch) error {
	return func(ctx context.Context, tx pgx.Tx, batch *Batch) error {
		to, ok := tx.(*publish.Tx)
		if !ok {
			return errNoFeed
		}
		return apply(ctx, to, batch)
	}
}
