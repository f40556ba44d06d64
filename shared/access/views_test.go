package access

import "testing"

// A request with the token of a view gets that view, and nothing else of its feed.
func TestReaderOfAView(t *testing.T) {
	t.Parallel()
	s, made := settings(t, "shipping:reader=orders/views/open", "scarce:reader=orders")
	site := start(t, s, Options{}, made)
	for path, want := range map[string]int{
		"/feeds/orders/views/open": 200, "/feeds/orders/views/open.atom": 200, "/feeds/orders/views/open/schema": 200, "/feeds": 200,
		"/feeds/orders": 403, "/feeds/orders.json": 403, "/feeds/orders/schema": 403, "/feeds/orders/views": 403, "/feeds/orders/views/all": 403,
		"/feeds/orders/views/all/schema": 403, "/feeds/customers/views/open": 403, "/people": 403,
	} {
		if r := site.ask(t, "GET", path, "", "Authorization", "Bearer "+made["shipping:reader=orders/views/open"]); r.status != want {
			t.Errorf("%s: %d, want %d", path, r.status, want)
		}
		if r := site.ask(t, "GET", path, "", "Authorization", "Bearer "+made["scarce:reader=orders"]); want == 200 && r.status != 200 {
			t.Errorf("%s with the token of the feed: %d", path, r.status)
		}
	}
}
