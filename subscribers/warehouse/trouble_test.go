package warehouse

import (
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/edison-cars/data-feeds/shared/postgres/pgtest"
	"github.com/edison-cars/data-feeds/shared/web"
	"github.com/edison-cars/data-feeds/sql"
)

// The page begins with the parts that are short, if there are any.
func TestShortagesFirst(t *testing.T) {
	t.Parallel()
	pool := pgtest.New(t, sql.Migrations("subscribe"), sql.Migrations("warehouse"))
	show := func() string {
		t.Helper()
		d, err := overview(httptest.NewRequest("GET", "/", nil), pool)
		if err != nil {
			t.Fatal(err)
		}
		page, err := web.Execute(partsPage, web.Page{Data: d})
		if err != nil {
			t.Fatal(err)
		}
		return string(page)
	}
	if strings.Contains(show(), "for which cars wait:</strong>") {
		t.Error("nothing is short")
	}
	if _, err := pool.Exec(t.Context(), `update part set reserved = on_hand + case part when 'seat' then 9 else 2 end where part in ('motor', 'seat')`); err != nil {
		t.Fatal(err)
	}
	const want = `<strong>2 parts are short, for which cars wait:</strong> <a href="/orders?part=seat">Seat</a> (9), <a href="/orders?part=motor">Drive motor</a> (2).`
	if page := show(); !strings.Contains(page, want) {
		t.Error(page)
	}
}
