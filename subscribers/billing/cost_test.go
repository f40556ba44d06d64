package billing

import (
	"net/http/httptest"
	"testing"

	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/edison-cars/data-feeds/shared/postgres/pgtest"
)

// The page is read at the same cost however long the service has been there.
func TestPageCost(t *testing.T) {
	t.Parallel()
	pgtest.Slow(t, "large tables")
	pool := newPool(t)
	for _, statement := range []string{
		`insert into document (number, kind, credits, issued_at, order_id, placed_at, customer_id, name, street, postal_code, city, country, lines, cars, currency, total_cents, vat_percent, vat_cents)
			select n, case when n % 10 = 0 then 'credit_note' else 'invoice' end, case when n % 10 = 0 then n - 1 end, now(), gen_random_uuid(), now(), gen_random_uuid(),
			       'Ada', '', '', '', 'DE', '[]', '{[1,2)}', 'EUR', 11900, 19, 1900 from generate_series(1, 60000) n`,
		`insert into standing (invoice, order_id, cars) select number, order_id, cars from document where kind = 'invoice' and number % 10 <> 9`,
		`insert into orders (id, version, status, customer_id, lines, total_cents, currency, placed_at, missing)
			select gen_random_uuid(), 1, 'placed', gen_random_uuid(), '[]', 11900, 'EUR', now() - n * interval '1 second', case when n % 2 = 1 then '{}' else '{[1,2)}'::int4multirange end from generate_series(1, 60000) n`,
		`vacuum analyze`,
	} {
		if _, err := pool.Exec(t.Context(), statement); err != nil {
			t.Fatal(err)
		}
	}
	costs := pgtest.Explain(t, pool, func(pool *pgxpool.Pool) error {
		_, err := overview(httptest.NewRequest("GET", "/", nil), pool)
		return err
	})
	for _, c := range costs {
		if c.Blocks > 400 { // a table, or a count in its index, has more
			t.Errorf("%d blocks for %s\n%s", c.Blocks, c.SQL, c.Plan)
		}
	}
}
