package shipping

import (
	"testing"

	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/edison-cars/data-feeds/shared/postgres/pgtest"
	"github.com/edison-cars/data-feeds/sql"
)

// The page is read at the same cost however long the service has been there.
func TestPageCost(t *testing.T) {
	t.Parallel()
	pgtest.Slow(t, "large tables")
	pool := pgtest.New(t, sql.Migrations("publish"), sql.Migrations("subscribe"), sql.Migrations("shipping"))
	for _, statement := range []string{
		`insert into shipment (id, version, status, order_id, customer_id, car, model, ready_at, shipped_at, updated_at)
			select gen_random_uuid(), 1, case when n % 2 = 0 then 'shipped' else 'stopped' end, gen_random_uuid(), gen_random_uuid(), 1, 'volta',
			       case when n % 2 = 0 then now() end, case when n % 2 = 0 then now() end, now() - n * interval '1 second' from generate_series(1, 150000) n`,
		`vacuum analyze`,
	} {
		if _, err := pool.Exec(t.Context(), statement); err != nil {
			t.Fatal(err)
		}
	}
	costs := pgtest.Explain(t, pool, func(pool *pgxpool.Pool) error {
		_, err := overview(t.Context(), pool)
		return err
	})
	for _, c := range costs {
		if c.Blocks > 400 { // a table, or a count in its index, has more
			t.Errorf("%d blocks for %s\n%s", c.Blocks, c.SQL, c.Plan)
		}
	}
}
