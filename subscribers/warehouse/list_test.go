package warehouse

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"

	"github.com/edison-cars/data-feeds/shared/carbuild"
	"github.com/edison-cars/data-feeds/shared/order"
	"github.com/edison-cars/data-feeds/shared/postgres/pgtest"
	"github.com/edison-cars/data-feeds/shared/web"
	"github.com/edison-cars/data-feeds/sql"
)

// The orders that wait for a part are found, with the parts that are short.
func TestOrdersToBuild(t *testing.T) {
	t.Parallel()
	pool := pgtest.New(t, sql.Migrations("subscribe"), sql.Migrations("warehouse"))
	copyPage(
		t, pool,
		entry(t, 1, 1, order.Placed, line(31, "volta")), // 30 small body shells are on hand
		entry(t, 2, 1, order.Placed, line(1, "joule", "tow_bar")),
		entry(t, 3, 1, order.Cancelled, line(1, "volta")),
		entry(t, 4, 1, order.Placed, line(1, "volta")),
	)
	copyBuilds(t, pool, built(4, 1, 1, carbuild.Started, "volta"))
	id := func(n int) string { return entry(t, n, 1, "").ID.String() }
	show := func(query string) (rows []string) {
		t.Helper()
		list, err := readOrders(httptest.NewRequest(http.MethodGet, "/orders?"+query, nil), pool)
		if err != nil {
			t.Fatal(err)
		}
		for _, o := range list.Items {
			rows = append(rows, fmt.Sprint(o.ID, " ", o.Pieces, " ", o.ShortOf))
		}
		return rows
	}
	first, second := id(1)+" 496 [Body shell, small]", id(2)+" 16 []"
	both := []string{first, second}
	slices.SortFunc(both, func(a, b string) int { return strings.Compare(b, a) })
	for query, want := range map[string][]string{
		"": both, "part=body-small": {id(1) + " 31 [Body shell, small]"}, "part=tow-bar": {id(2) + " 1 []"}, "part=glass-roof": nil,
		"q=" + id(2): {second}, "q=" + id(2)[:8]: {second}, "q=" + id(2)[28:]: {second}, "q=" + id(4): nil, "part=tow-bar&q=" + id(1): nil,
		"limit=1": both[:1], "before=" + both[0][:36]: both[1:], "after=" + both[1][:36]: both[:1],
	} {
		if got := show(query); !slices.Equal(got, want) {
			t.Errorf("%s: %q, not %q", query, got, want)
		}
	}
	if _, err := readOrders(httptest.NewRequest(http.MethodGet, "/orders?part=anchor", nil), pool); web.StatusOf(err) != http.StatusNotFound {
		t.Error(err)
	}
	l, err := showOrders(httptest.NewRequest(http.MethodGet, "/orders?part=body-small", nil), pool)
	if err != nil {
		t.Fatal(err)
	}
	page, err := web.Execute(ordersPage, web.Page{Data: l})
	for _, part := range []string{`<a href="/trace/` + id(1) + `">` + id(1)[28:] + `</a>`, "Body shell, small short</span>", `<option value="body-small" selected>`} {
		if err != nil || !strings.Contains(string(page), part) {
			t.Errorf("no %s in %s (%v)", part, page, err)
		}
	}
}

func TestSortedStock(t *testing.T) {
	t.Parallel()
	pool := pgtest.New(t, sql.Migrations("subscribe"), sql.Migrations("warehouse"))
	copyPage(t, pool, entry(t, 1, 1, order.Placed, line(70, "ohm")))
	for by, least := range map[string]string{"": "Battery module", "on-hand": "Body shell, van", "available": "Body shell, van", "reserved": "Battery module", "on-order": "Battery module"} {
		d, err := overview(httptest.NewRequest(http.MethodGet, "/?sort="+by, nil), pool)
		if err != nil {
			t.Fatal(err)
		}
		if d.Parts[0].Name != least {
			t.Errorf("%s begins with %+v", by, d.Parts[0])
		}
		page, err := web.Execute(partsPage, web.Page{Data: d})
		if err != nil || strings.Contains(string(page), "aria-sort") != (by != "") {
			t.Errorf("%s: %s (%v)", by, page, err)
		}
	}
	if _, err := overview(httptest.NewRequest(http.MethodGet, "/?sort=colour", nil), pool); web.StatusOf(err) != http.StatusBadRequest {
		t.Error(err)
	}
}
