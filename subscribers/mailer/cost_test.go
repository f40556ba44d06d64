package mailer

import (
	"net/http/httptest"
	"testing"

	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/edison-cars/data-feeds/shared/postgres/pgtest"
	"github.com/edison-cars/data-feeds/sql"
)

// The page is read at the same cost however long the service has been there.
func TestPageCost(t *testing.T) {
	t.Parallel()
	pgtest.Slow(t, "large tables")
	pool := pgtest.New(t, sql.Migrations("subscribe"), sql.Migrations("mailer"))
	for _, statement := range []string{
		`insert into customers (id, version, name, email) select md5(n::text)::uuid, 1, 'Ada', 'ada@example.com' from generate_series(1, 60000) n`,
		`insert into mail (order_id, customer_id, placed_at, state)
			select gen_random_uuid(), md5(n::text)::uuid, now() - n * interval '1 second', (array['sent', 'pending', 'failed', 'skipped'])[n % 4 + 1] from generate_series(1, 60000) n`,
		`vacuum analyze`,
	} {
		if _, err := pool.Exec(t.Context(), statement); err != nil {
			t.Fatal(err)
		}
	}
	costs := pgtest.Explain(t, pool, func(pool *pgxpool.Pool) error {
		_, err := readOverview(httptest.NewRequest("GET", "/", nil), pool, new(settings), failure{}, nil)
		return err
	})
	for _, c := range costs {
		if c.Blocks > 400 { // a table, or a count in its index, has more
			t.Errorf("%d blocks for %s\n%s", c.Blocks, c.SQL, c.Plan)
		}
	}
}
