package warehouse

import (
	"errors"
	"net/http/httptest"
	"testing"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/edison-cars/data-feeds/shared/postgres/pgtest"
	"github.com/edison-cars/data-feeds/sql"
)

// The page is read at the same cost however long the service has been there.
func TestPageCost(t *testing.T) {
	t.Parallel()
	pgtest.Slow(t, "large tables")
	pool := pgtest.New(t, sql.Migrations("subscribe"), sql.Migrations("warehouse"))
	for _, statement := range []string{
		`insert into orders (id, version, status, lines, to_build) select gen_random_uuid(), 1, 'placed', '[]', n % 2 = 0 from generate_series(1, 60000) n`,
		`insert into purchase (part, number, quantity, due_at) select 'motor', n, 1, now() + n * interval '1 second' from generate_series(1, 60000) n`,
		`vacuum analyze`,
	} {
		if _, err := pool.Exec(t.Context(), statement); err != nil {
			t.Fatal(err)
		}
	}
	costs := pgtest.Explain(t, pool, func(pool *pgxpool.Pool) error {
		r := httptest.NewRequest("GET", "/?before="+uuid.Max.String(), nil)
		_, list := readOrders(r, pool)
		_, err := overview(r, pool)
		delivering, wrong := suppliers(t.Context(), pool)
		for _, s := range delivering {
			if want := map[string]int64{"rotor-coil": 60_000}[s.Supplier]; s.UnderWay != want {
				t.Errorf("%d purchases of %s are under way, not %d", s.UnderWay, s.Supplier, want)
			}
		}
		return errors.Join(list, err, wrong)
	})
	for _, c := range costs {
		if c.Blocks > 400 { // a table, or a count in its index, has more
			t.Errorf("%d blocks for %s\n%s", c.Blocks, c.SQL, c.Plan)
		}
	}
}
