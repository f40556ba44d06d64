package mailer

import (
	"net/http"
	"net/http/httptest"
	"testing"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/edison-cars/data-feeds/shared/postgres/pgtest"
	"github.com/edison-cars/data-feeds/shared/web"
	"github.com/edison-cars/data-feeds/sql"
)

// Each mail is on one page, whatever is added while the pages are read, and is found by its ids. No page costs more
// in a large table.
func TestPages(t *testing.T) {
	t.Parallel()
	pgtest.Slow(t, "large tables")
	pool := pgtest.New(t, sql.Migrations("subscribe"), sql.Migrations("mailer"))
	add := func(n int) {
		t.Helper()
		if _, err := pool.Exec(t.Context(), `
			insert into mail (order_id, customer_id, placed_at, state)
			select gen_random_uuid(), gen_random_uuid(), (select coalesce(max(placed_at), '2026-11-23') + interval '1 s' from mail) + (i / 4) * interval '1 s', 'sent'
			  from generate_series(1, $1) as i`, n); err != nil {
			t.Fatal(err)
		}
	}
	read := func(url string) web.List[row] {
		t.Helper()
		found, err := readRows(httptest.NewRequest(http.MethodGet, url, nil), pool, maxShown)
		if err != nil {
			t.Fatalf("%s: %v", url, err)
		}
		return found
	}
	add(60)
	seen := map[uuid.UUID]bool{}
	for url := "/?limit=7"; url != ""; add(3) {
		found := read(url)
		for _, row := range found.Items {
			if seen[row.OrderID] {
				t.Errorf("%s: %s is on two pages", url, row.OrderID)
			}
			seen[row.OrderID] = true
		}
		url = found.Older
	}
	if len(seen) != 60 {
		t.Errorf("%d rows", len(seen))
	}
	for _, query := range []string{"state=lost", "q=ada", "q=1234567", "limit=1001", "before=1", "after=x"} {
		r := httptest.NewRequest(http.MethodGet, "/?"+query, nil)
		if _, err := readRows(r, pool, maxShown); web.StatusOf(err) != http.StatusBadRequest {
			t.Errorf("%s: %v", query, err)
		}
	}
	add(60_000)
	if _, err := pool.Exec(t.Context(), `vacuum analyze`); err != nil {
		t.Fatal(err)
	}
	middle := read("/?limit=500").Items[400]
	for _, query := range []string{
		"q=" + middle.OrderID.String(), "q=" + middle.OrderID.String()[:13], "q=" + middle.CustomerID.String(),
		"state=sent", "state=failed", read("/?state=sent").Older[2:], "",
	} {
		costs := pgtest.Explain(t, pool, func(pool *pgxpool.Pool) error {
			r := httptest.NewRequest(http.MethodGet, "/?"+query, nil)
			found, err := readRows(r, pool, maxShown)
			if query != "" && query[0] == 'q' && (len(found.Items) != 1 || found.Items[0].OrderID != middle.OrderID) {
				t.Errorf("%s: %v", query, found.Items)
			}
			return err
		})
		for _, c := range costs {
			if c.Blocks > 300 {
				t.Errorf("%s: %d blocks for %s\n%s", query, c.Blocks, c.SQL, c.Plan)
			}
		}
	}
}
