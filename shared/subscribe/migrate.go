package subscribe

import (
	"context"

	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/edison-cars/data-feeds/shared/migrate"
	"github.com/edison-cars/data-feeds/sql"
)

// Migrate makes the tables in which subscribers keep cursors, settings, rejected entries and the last polls, or changes
// older ones to what this version of the package needs, in the first schema of the pool's search_path. It notes what it
// applied in the table goose_subscribe beside them. Several processes may call it at once. It refuses tables of a later version.
func Migrate(ctx context.Context, pool *pgxpool.Pool) error {
	return migrate.Up(ctx, pool, "", sql.Migrations("subscribe"))
}
