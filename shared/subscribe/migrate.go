package subscribe

import (
	"context"

	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/edison-cars/data-feeds/shared/postgres"
	"github.com/edison-cars/data-feeds/sql"
)

// Migrate makes the tables in which subscribers keep cursors, settings and rejected entries, or brings them up to date. It may be
// called at every start, by several processes at once.
func Migrate(ctx context.Context, pool *pgxpool.Pool) error {
	return postgres.Migrate(ctx, pool, sql.Migrations("subscribe"))
}
