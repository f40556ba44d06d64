// Package listtest tests the lists of the services that are read in pages.
package listtest

import (
	"net/http"
	"net/http/httptest"
	"testing"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/edison-cars/data-feeds/shared/postgres/pgtest"
	"github.com/edison-cars/data-feeds/shared/web"
)

// A List is a list of rows that are sorted by a time and an id, the newest first.
type List[Row any] struct {
	// Insert is a statement that adds $1 rows, newer than those that are there, several at the same time.
	Insert string
	// Read returns the page that a request asks for.
	Read func(r *http.Request, db *pgxpool.Pool) (web.List[Row], error)
	// IDs returns the id of a row, and the others by which it is found.
	IDs func(Row) []uuid.UUID
	// Filter is the parameter that filters the list, All its value for the rows that Insert adds, None one that no row
	// has.
	Filter, All, None string
}

// Check checks that each row is on one page, whatever is added while the pages are read, that a row is found by its
// ids, that wrong parameters are refused and, unless -short is set, that no page costs more in a large table.
func (l List[Row]) Check(t *testing.T, db *pgxpool.Pool) {
	t.Helper()
	l.add(t, db, 60)
	seen := map[uuid.UUID]bool{}
	for query := "limit=7"; query != ""; l.add(t, db, 3) {
		found := l.read(t, db, query)
		for _, row := range found.Items {
			if id := l.IDs(row)[0]; seen[id] {
				t.Errorf("%s: %s is on two pages", query, id)
			} else {
				seen[id] = true
			}
		}
		query = older(found)
	}
	if len(seen) != 60 {
		t.Errorf("%d rows", len(seen))
	}
	for _, query := range []string{l.Filter + "=lost", "q=ada", "q=1234567", "limit=1001", "before=1", "after=x"} {
		if _, err := l.Read(request(t, query), db); web.StatusOf(err) != http.StatusBadRequest {
			t.Errorf("%s: %v", query, err)
		}
	}
	l.find(t, db, l.read(t, db, "limit=50").Items[40])
	t.Run("in a large table", func(t *testing.T) {
		pgtest.Slow(t, "large tables")
		l.add(t, db, 60_000)
		if _, err := db.Exec(t.Context(), `vacuum analyze`); err != nil {
			t.Fatal(err)
		}
		row := l.read(t, db, "limit=500").Items[400]
		queries := append(l.find(t, db, row), l.Filter+"="+l.All, l.Filter+"="+l.None, older(l.read(t, db, l.Filter+"="+l.All)), "")
		for _, query := range queries {
			costs := pgtest.Explain(t, db, func(db *pgxpool.Pool) error {
				_, err := l.Read(request(t, query), db)
				return err
			})
			for _, c := range costs {
				if c.Blocks > 300 {
					t.Errorf("%s: %d blocks for %s\n%s", query, c.Blocks, c.SQL, c.Plan)
				}
			}
		}
	})
}

// find checks that the row, and no other, is found by each of its ids, by the beginning of its first one and by what
// pages show of that. It returns the queries.
func (l List[Row]) find(t *testing.T, db *pgxpool.Pool, row Row) (queries []string) {
	t.Helper()
	ids := l.IDs(row)
	queries = append(queries, "q="+ids[0].String()[:13], "q="+web.Short(ids[0]))
	for _, id := range ids {
		queries = append(queries, "q="+id.String())
	}
	for _, query := range queries {
		if found := l.read(t, db, query); len(found.Items) != 1 || l.IDs(found.Items[0])[0] != ids[0] {
			t.Errorf("%s: %v", query, found.Items)
		}
	}
	return queries
}

func (l List[Row]) add(t *testing.T, db *pgxpool.Pool, n int) {
	t.Helper()
	if _, err := db.Exec(t.Context(), l.Insert, n); err != nil {
		t.Fatal(err)
	}
}

func (l List[Row]) read(t *testing.T, db *pgxpool.Pool, query string) web.List[Row] {
	t.Helper()
	found, err := l.Read(request(t, query), db)
	if err != nil {
		t.Fatalf("%s: %v", query, err)
	}
	return found
}

func request(t *testing.T, query string) *http.Request {
	return httptest.NewRequestWithContext(t.Context(), http.MethodGet, "/?"+query, nil)
}

// older returns the query of the page of older rows, or "" if there is none.
func older[Row any](l web.List[Row]) string {
	if l.Older == "" {
		return ""
	}
	return l.Older[len("/?"):]
}
