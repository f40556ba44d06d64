package billing

import (
	"crypto/md5"
	"fmt"
	"net/http/httptest"
	"testing"

	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/edison-cars/data-feeds/shared/postgres/pgtest"
	"github.com/edison-cars/data-feeds/shared/web"
)

// Each document and each waiting order is on one page, and is found by its number or ids. No page costs more in a large
// table.
func TestPages(t *testing.T) {
	t.Parallel()
	pgtest.Slow(t, "large tables")
	pool := newPool(t)
	for _, statement := range []string{
		`insert into document (number, kind, credits, issued_at, order_id, placed_at, customer_id, name, street, postal_code, city, country, lines, cars, currency, total_cents, vat_percent, vat_cents)
			select n, case when n % 10 = 0 then 'credit_note' else 'invoice' end, case when n % 10 = 0 then n - 1 end, now(), md5(n::text)::uuid, now(), gen_random_uuid(),
			       'Ada', '', '', '', 'DE', '[]', '{[1,2)}', 'EUR', 11900, 19, 1900 from generate_series(1, 60000) n`,
		`insert into orders (id, version, status, customer_id, lines, total_cents, currency, placed_at, missing)
			select md5(n::text)::uuid, 1, 'placed', gen_random_uuid(), '[]', 11900, 'EUR', timestamptz '2026-11-23' + (n / 4) * interval '1 second', case when n % 2 = 1 then '{}' else '{[1,2)}'::int4multirange end
			  from generate_series(1, 60000) n`,
		`vacuum analyze`,
	} {
		if _, err := pool.Exec(t.Context(), statement); err != nil {
			t.Fatal(err)
		}
	}
	seen := map[any]int{}
	for url := "/?limit=1000"; url != ""; {
		found, err := listDocuments(httptest.NewRequest("GET", url, nil), pool, pageLimit)
		if err != nil {
			t.Fatal(err)
		}
		for _, d := range found.Items {
			seen[d.Number]++
		}
		url = found.Older
	}
	for url := "/waiting?limit=1000"; url != ""; {
		found, err := waitingOrders(httptest.NewRequest("GET", url, nil), pool, pageLimit)
		if err != nil {
			t.Fatal(err)
		}
		for _, o := range found.Items {
			seen[o.ID]++
		}
		url = found.Older
	}
	for key, n := range seen {
		if n != 1 {
			t.Errorf("%v is on %d pages", key, n)
		}
	}
	if len(seen) != 90_000 {
		t.Errorf("%d rows", len(seen))
	}
	for query, want := range map[string]int64{"q=30010": 30010, "q=030010": 30010, "q=" + of(30010): 30010, "q=" + of(30010)[:9]: 30010, "q=" + of(30010)[28:]: 30010, "kind=credit_note": 60000, "before=100": 99, "kind=invoice&before=000100": 99, "after=100": 150, "": 60000} {
		costs := pgtest.Explain(t, pool, func(pool *pgxpool.Pool) error {
			r := httptest.NewRequest("GET", "/?"+query, nil)
			found, err := listDocuments(r, pool, pageLimit)
			if err == nil && (len(found.Items) == 0 || found.Items[0].Number != want || query != "" && query[0] == 'q' && len(found.Items) != 1) {
				t.Errorf("%s: %v", query, found.Items)
			}
			return err
		})
		for _, c := range costs {
			if c.Blocks > 400 {
				t.Errorf("%s: %d blocks for %s\n%s", query, c.Blocks, c.SQL, c.Plan)
			}
		}
	}
	for _, query := range []string{"", "q=" + of(30010), "q=" + of(30010)[28:], "before=2026-11-23T01:00:00Z," + of(30010), "after=2026-11-23T01:00:00Z," + of(30010)} {
		costs := pgtest.Explain(t, pool, func(pool *pgxpool.Pool) error {
			found, err := waitingOrders(httptest.NewRequest("GET", "/waiting?"+query, nil), pool, pageLimit)
			if n := len(found.Items); query != "" && query[0] == 'q' && n != 1 || n == 0 {
				t.Errorf("%s: %d orders", query, n)
			}
			return err
		})
		for _, c := range costs {
			if c.Blocks > 300 {
				t.Errorf("%s: %d blocks for %s\n%s", query, c.Blocks, c.SQL, c.Plan)
			}
		}
	}
	for _, query := range []string{"q=ada", "kind=bill", "before=0", "after=x", "limit=1001"} {
		if _, err := listDocuments(httptest.NewRequest("GET", "/?"+query, nil), pool, pageLimit); web.StatusOf(err) != 400 {
			t.Errorf("%s: %v", query, err)
		}
	}
}

// of returns the id of the order of a document.
func of(number int) string {
	sum := fmt.Sprintf("%x", md5.Sum(fmt.Append(nil, number)))
	return sum[:8] + "-" + sum[8:12] + "-" + sum[12:16] + "-" + sum[16:20] + "-" + sum[20:]
}
