package assembly

import (
	"net/http/httptest"
	"testing"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/edison-cars/data-feeds/shared/postgres/pgtest"
)

// Each build is on one page, whatever is planned while the pages are read. Back from the last page they are the same.
func TestBuildPages(t *testing.T) {
	t.Parallel()
	p := newPlant(t, 20, 2880)
	p.stock(t, 60)
	seen := map[uuid.UUID]bool{}
	var back []string
	for url := "/builds?limit=7&status="; url != ""; {
		found, err := list(httptest.NewRequest("GET", url, nil), p.pool, pageBuilds)
		if err != nil {
			t.Fatal(err)
		}
		for _, b := range found.Items {
			if seen[b.ID] {
				t.Errorf("%s: build %s is on two pages", url, b.ID)
			}
			seen[b.ID] = true
		}
		p.stock(t, 3) // newer ones
		back = append(back, found.Newer)
		url = found.Older
	}
	if len(seen) != 60 {
		t.Errorf("%d builds", len(seen))
	}
	n := 0
	for url := back[len(back)-1]; url != ""; {
		found, err := list(httptest.NewRequest("GET", url, nil), p.pool, pageBuilds)
		if err != nil {
			t.Fatal(err)
		}
		n += len(found.Items)
		url = found.Newer
	}
	if want := 60 - 4 + 3*len(back); n != want {
		t.Errorf("%d builds on the way back, not %d", n, want)
	}
}

// stock adds builds, the last of them changed last, several at the same time.
func (p *plant) stock(t *testing.T, n int) {
	t.Helper()
	if _, err := p.pool.Exec(t.Context(), `
		insert into build (id, version, status, order_id, customer_id, car, model, options, slot, updated_at)
		select gen_random_uuid(), 1, 'planned', gen_random_uuid(), gen_random_uuid(), 1, 'volta', '{}', date '2026-11-23',
		       (select coalesce(max(updated_at), '2026-11-23') + interval '1 s' from build) + (i / 4) * interval '1 s' from generate_series(1, $1) as i`, n); err != nil {
		t.Fatal(err)
	}
}

// A build is found by its id, by that of its order, and by their beginnings, at the same cost in a large table.
func TestFindBuild(t *testing.T) {
	t.Parallel()
	pgtest.Slow(t, "large tables")
	p := newPlant(t, 20, 2880)
	p.stock(t, 100_000)
	var id, order uuid.UUID
	if err := p.pool.QueryRow(t.Context(), `select id, order_id from build order by updated_at offset 50000 limit 1`).Scan(&id, &order); err != nil {
		t.Fatal(err)
	}
	if _, err := p.pool.Exec(t.Context(), `vacuum analyze`); err != nil {
		t.Fatal(err)
	}
	for _, query := range []string{"q=" + id.String(), "q=" + id.String()[:13], "q=" + order.String()[:8], "q=" + order.String(), "q=" + id.String()[28:], "q=" + order.String()[28:], "", "status=planned", "status=cancelled", "before=2026-11-23T01:00:00Z," + id.String()} {
		costs := pgtest.Explain(t, p.pool, func(pool *pgxpool.Pool) error {
			found, err := list(httptest.NewRequest("GET", "/builds?"+query, nil), pool, pageBuilds)
			if len(query) > 20 && query[0] == 'q' && (len(found.Items) != 1 || found.Items[0].ID != id) {
				t.Errorf("%s: %v", query, found.Items)
			}
			return err
		})
		for _, c := range costs {
			if c.Blocks > 100 {
				t.Errorf("%s: %d blocks for %s\n%s", query, c.Blocks, c.SQL, c.Plan)
			}
		}
	}
}
