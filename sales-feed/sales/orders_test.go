package sales

import (
	"encoding/json"
	"fmt"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/edison-cars/data-feeds/shared/feed"
	"github.com/edison-cars/data-feeds/shared/order"
	"github.com/edison-cars/data-feeds/shared/web"
)

// stock writes n orders without a feed: one a minute up to noon of 23 November 2026, every third an Ohm and every fifth
// cancelled. Newest first, as a list of all of them.
func stock(t *testing.T, s *shop, n int) (orders []order.Order) {
	t.Helper()
	noon := time.Date(2026, 11, 23, 12, 0, 0, 0, time.UTC)
	for i := range n {
		o := order.Order{ID: firstID(noon.Add(-time.Duration(i) * time.Minute)), Version: 1, Status: order.Placed, CustomerID: uuid.New(), Currency: currency, TotalCents: 1}
		o.ID[6], o.ID[8] = 0x70, 0x80
		o.PlacedAt = feed.TimeOf(noon.Add(-time.Duration(i)*time.Minute - time.Millisecond))
		o.Lines = []order.Line{{Model: "volta", Options: []string{}, Quantity: 1, UnitPriceCents: 1}}
		if i%3 == 0 {
			o.Lines = append(o.Lines, order.Line{Model: "ohm", Options: []string{"tow_bar"}, Quantity: 2, UnitPriceCents: 1})
		}
		if i%5 == 0 {
			o.Status = order.Cancelled
		}
		o.UpdatedAt = o.PlacedAt
		if _, err := s.pool.Exec(t.Context(), `insert into orders values ($1, $2, $3, $4, $5, $6, $7, $8, $9)`,
			o.ID, o.Version, o.Status, o.CustomerID, o.Lines, o.TotalCents, o.Currency, o.PlacedAt.Time, o.UpdatedAt.Time); err != nil {
			t.Fatal(err)
		}
		orders = append(orders, o)
	}
	return orders
}

var pageLink = regexp.MustCompile(`<(/orders\?[^>]+)>; rel="(next|prev)"`)

func (s *shop) page(t *testing.T, path string) (orders []order.Order, links map[string]string) {
	t.Helper()
	resp, body := s.do(t, "GET", path, "", operator...)
	if err := json.Unmarshal([]byte(body), &orders); err != nil || resp.StatusCode != 200 || !strings.HasPrefix(body, "[") {
		t.Fatalf("%s: %d %s", path, resp.StatusCode, body)
	}
	links = map[string]string{}
	for _, link := range pageLink.FindAllStringSubmatch(resp.Header.Get("Link"), -1) {
		links[link[2]] = link[1]
	}
	return orders, links
}

// walk reads the list page by page, and back again.
func (s *shop) walk(t *testing.T, path string) (ids []uuid.UUID) {
	t.Helper()
	before := ""
	for n := 1; path != ""; n++ {
		page, links := s.page(t, path)
		for _, o := range page {
			ids = append(ids, o.ID)
		}
		if links["next"] != "" && len(page) != listed {
			t.Errorf("%s has %d orders, and a next page", path, len(page))
		}
		if (links["prev"] != "") != (n > 1) {
			t.Errorf("page %d: %v", n, links)
		} else if n > 1 {
			back, _ := s.page(t, links["prev"])
			if len(back) != listed || back[0].ID.String() != before {
				t.Errorf("back from page %d: %d orders", n, len(back))
			}
		}
		if len(page) > 0 {
			before = page[0].ID.String()
		}
		path = links["next"]
	}
	return ids
}

func TestList(t *testing.T) {
	t.Parallel()
	s := open(t)
	orders := stock(t, s, 1600) // back into the 22nd
	days := func(from, to string) func(order.Order) bool {
		return func(o order.Order) bool {
			day := o.PlacedAt.Format(time.DateOnly)
			return day >= from && day <= to
		}
	}
	ohm := func(o order.Order) bool { return len(o.Lines) == 2 }
	cancelled := func(o order.Order) bool { return o.Status == order.Cancelled }
	for query, want := range map[string]func(order.Order) bool{
		"":                               func(order.Order) bool { return true },
		"?status=&model=&from=&to=":      func(order.Order) bool { return true },
		"?status=placed":                 func(o order.Order) bool { return !cancelled(o) },
		"?status=cancelled":              cancelled,
		"?model=ohm":                     ohm,
		"?model=joule":                   func(order.Order) bool { return false },
		"?from=2026-11-23":               days("2026-11-23", "9999-12-31"),
		"?to=2026-11-22":                 days("0001-01-01", "2026-11-22"),
		"?from=2026-11-22&to=2026-11-22": days("2026-11-22", "2026-11-22"),
		"?from=0001-01-01&to=9999-12-31": days("0001-01-01", "9999-12-31"),
		"?from=2026-11-24":               func(order.Order) bool { return false },
		"?to=1969-12-31":                 func(order.Order) bool { return false },
		"?status=cancelled&model=ohm&from=2026-11-22&to=2026-11-22": func(o order.Order) bool {
			return cancelled(o) && ohm(o) && days("2026-11-22", "2026-11-22")(o)
		},
	} {
		t.Run(query, func(t *testing.T) {
			t.Parallel()
			var ids []uuid.UUID
			for _, o := range orders {
				if want(o) {
					ids = append(ids, o.ID)
				}
			}
			if got := s.walk(t, "/orders"+query); !slices.Equal(got, ids) {
				t.Errorf("%d orders, want %d", len(got), len(ids))
			}
		})
	}
	t.Run("the page keeps its filters and its place", func(t *testing.T) {
		t.Parallel()
		resp, page := s.do(t, "GET", "/orders?status=placed&model=volta&from=2026-11-22", "", append(operator, "Accept", "text/html")...)
		if resp.Header.Get("Cache-Control") != "no-store" {
			t.Errorf("Back shows the orders after the sign-out: %v", resp.Header)
		}
		want := "before=" + orders[62].ID.String() + "&amp;from=2026-11-22&amp;model=volta&amp;status=placed" // the 50th placed
		for _, part := range []string{`<option value="placed" selected>placed</option>`, `<option value="cancelled">cancellation requested</option>`, `<option value="volta" selected>`, `value="2026-11-22"`, `href="/orders?` + want, `rel="alternate"`} {
			if !strings.Contains(page, part) {
				t.Errorf("no %s in the page (%d)", part, resp.StatusCode)
			}
		}
	})
	t.Run("nothing to list has a way out", func(t *testing.T) {
		t.Parallel()
		for query, out := range map[string]string{
			"?model=joule":                             `<a href="/orders">`,
			"?before=" + orders[1599].ID.String():      `<a href="/orders">`,
			"?model=joule&before=" + uuid.Max.String(): `<a href="/orders?model=joule">`,
		} {
			if resp, page := s.do(t, "GET", "/orders"+query, "", append(operator, "Accept", "text/html")...); resp.StatusCode != 200 || !strings.Contains(page, out) || strings.Contains(page, "<table") {
				t.Errorf("%s: %d %s", query, resp.StatusCode, page)
			}
		}
	})
}

func TestListFindsAnOrderAndItsCustomersOrders(t *testing.T) {
	t.Parallel()
	s := open(t)
	orders := stock(t, s, 130)
	if _, err := s.pool.Exec(t.Context(), `update orders set customer_id = $1 where id = any($2)`, orders[0].CustomerID, []uuid.UUID{orders[4].ID, orders[129].ID}); err != nil {
		t.Fatal(err)
	}
	stocked := orders[7].ID
	orders[7].ID[15] = 7 // the others end alike
	if _, err := s.pool.Exec(t.Context(), `update orders set id = $1 where id = $2`, orders[7].ID, stocked); err != nil {
		t.Fatal(err)
	}
	all := []uuid.UUID{orders[0].ID, orders[4].ID, orders[129].ID}
	for q, want := range map[string][]uuid.UUID{
		orders[7].ID.String():                          {orders[7].ID},
		web.Short(orders[7].ID):                        {orders[7].ID},
		strings.ToUpper(orders[0].CustomerID.String()): all,
		orders[0].CustomerID.String()[:13]:             all,
		uuid.NewString():                               nil,
	} {
		if got := s.walk(t, "/orders?q="+q); !slices.Equal(got, want) {
			t.Errorf("%s: %v, not %v", q, got, want)
		}
		resp, page := s.do(t, "GET", "/orders?q="+q, "", append(operator, "Accept", "text/html")...)
		if resp.StatusCode != 200 || strings.Contains(page, "Nothing here has the id") != (want == nil) || !strings.Contains(page, `value="`+strings.ToLower(q)+`"`) {
			t.Errorf("%s: %s", q, page)
		}
	}
	if _, err := s.pool.Exec(t.Context(), `update orders set customer_id = $1`, orders[0].CustomerID); err != nil {
		t.Fatal(err)
	}
	for _, q := range []string{orders[0].CustomerID.String(), orders[0].CustomerID.String()[:13]} {
		if got := s.walk(t, "/orders?q="+q); len(got) != 130 {
			t.Errorf("%s: %d orders of a customer with 130", q, len(got))
		}
	}
	stranger := s.as(t, uuid.NewString())
	if _, body := s.do(t, "GET", "/orders?q="+orders[0].ID.String(), "", stranger...); strings.TrimSpace(body) != "[]" {
		t.Errorf("a stranger finds %s", body)
	}
}

func TestListRefuses(t *testing.T) {
	t.Parallel()
	s := open(t)
	for query, says := range map[string]string{
		"status=paid":                    "status takes one of placed, cancelled",
		"status=placed&status=cancelled": "status may be given only once",
		"model=zeppelin":                 "model takes one of volta, joule",
		"from=yesterday":                 "from takes a day",
		"from=2026-02-30":                "from takes a day",
		"from=0000-01-01":                "from takes a day",
		"to=23.11.2026":                  "to takes a day",
		"from=2026-11-23&to=2026-11-22":  "not before that of from",
		"before=42":                      "before takes what the links",
		"after=42":                       "after takes what the links",
		"q=volta":                        "q takes an id",
		"limit=0":                        "limit takes",
		"status=%zz":                     "malformed",
	} {
		resp, body := s.do(t, "GET", "/orders?"+query, "")
		if resp.StatusCode != 400 || !strings.Contains(body, says) || resp.Header.Get("Content-Type") != feed.TypeProblem {
			t.Errorf("%s: %d %s, want %q", query, resp.StatusCode, body, says)
		}
	}
}

// What a real sale gets as id and as time is what the list finds by day.
func TestListFindsTheDayOfASale(t *testing.T) {
	t.Parallel()
	s := open(t)
	_, o := s.buy(t, twoOhms)
	day := o.PlacedAt.Format(time.DateOnly)
	if got := s.walk(t, fmt.Sprintf("/orders?from=%[1]s&to=%[1]s", day)); len(got) != 1 || got[0] != o.ID {
		t.Errorf("%v", got)
	}
	if firstID(o.PlacedAt.Time).String() > o.ID.String() {
		t.Errorf("order %s of %v has an id before its time", o.ID, o.PlacedAt)
	}
}
