package customers

import (
	"encoding/json"
	"fmt"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/google/uuid"

	"github.com/edison-cars/data-feeds/shared/customer"
	"github.com/edison-cars/data-feeds/shared/feed"
)

var pageLink = regexp.MustCompile(`<(/customers\?[^>]+)>; rel="(next|prev)"`)

func (a *app) page(t *testing.T, path string) (ids []uuid.UUID, links map[string]string) {
	t.Helper()
	resp, body := a.do(t, "GET", path, "", operator...)
	var found []customer.Customer
	if err := json.Unmarshal([]byte(body), &found); err != nil || resp.StatusCode != 200 || resp.Header.Get("Cache-Control") != "no-store" {
		t.Fatalf("%s: %d %s", path, resp.StatusCode, body)
	}
	for _, p := range found {
		ids = append(ids, p.ID)
	}
	links = map[string]string{}
	for _, link := range pageLink.FindAllStringSubmatch(resp.Header.Get("Link"), -1) {
		links[link[2]] = link[1]
	}
	return ids, links
}

func TestList(t *testing.T) {
	t.Parallel()
	a := open(t)
	_, body := a.do(t, "GET", "/customers", "", append(operator, "Accept", "text/html")...)
	if !strings.Contains(body, "Nobody has signed up yet.") {
		t.Errorf("%s", body)
	}
	if _, err := a.pool.Exec(t.Context(), `
		insert into customer (id, version, name, email, street, postal_code, city, country, created_at, updated_at)
		select gen_random_uuid(), 1, 'Customer ' || n, n || '@example.com', 'Road 1', '12345', 'Ulm', 'DE', timestamptz '2026-11-23' + n / 3 * interval '1 microsecond', '2026-11-23'
		  from generate_series(1, 130) as n`); err != nil {
		t.Fatal(err)
	}
	_, newest := a.json(t, "POST", "/customers", ada, 201)
	var all, back []uuid.UUID
	pages, last := 0, ""
	for path := "/customers"; path != ""; pages++ {
		ids, links := a.page(t, path)
		all, last, path = append(all, ids...), path, links["next"]
	}
	for path := last; path != ""; {
		ids, links := a.page(t, path)
		back, path = append(ids, back...), links["prev"]
	}
	if pages != 3 || len(all) != 131 || all[0] != newest.ID || !slices.Equal(all, back) {
		t.Errorf("%d pages of %d accounts, %d back", pages, len(all), len(back))
	}
	sorted := slices.SortedFunc(slices.Values(all), func(x, y uuid.UUID) int { return strings.Compare(x.String(), y.String()) })
	if len(slices.Compact(sorted)) != 131 {
		t.Error("an account is twice in the list")
	}
	for q, want := range map[string][]uuid.UUID{all[70].String(): {all[70]}, strings.ToUpper(all[70].String()[:18]): {all[70]}, all[70].String()[28:]: {all[70]}, uuid.NewString(): nil} {
		if got, _ := a.page(t, "/customers?q="+q); !slices.Equal(got, want) {
			t.Errorf("%s: %v", q, got)
		}
		_, body := a.do(t, "GET", "/customers?q="+q, "", append(operator, "Accept", "text/html")...)
		if found := strings.Contains(body, "@example.com"); found != (want != nil) || !strings.Contains(body, fmt.Sprintf(`value="%s"`, strings.ToLower(q))) {
			t.Errorf("%s: %s", q, body)
		}
	}
	if resp, body := a.do(t, "GET", "/customers?q=Ada", "", operator...); resp.StatusCode != 400 || resp.Header.Get("Content-Type") != feed.TypeProblem {
		t.Errorf("%d %s", resp.StatusCode, body)
	}
}

func TestListIsForOperators(t *testing.T) {
	t.Parallel()
	a := open(t, "ACCESS=closed")
	_, p := a.json(t, "POST", "/customers", ada, 201)
	for _, header := range [][]string{a.as(t, p.ID), {"Cookie", "a=b"}} {
		if resp, body := a.do(t, "GET", "/customers", "", header...); resp.StatusCode != 401 && resp.StatusCode != 403 || strings.Contains(body, "Lovelace") {
			t.Errorf("%v: %d %s", header, resp.StatusCode, body)
		}
		if _, page := a.do(t, "GET", "/signup", "", append(header, "Accept", "text/html")...); strings.Contains(page, `href="/customers"`) {
			t.Errorf("%v: a link to the list", header)
		}
	}
	open := open(t)
	if _, page := open.do(t, "GET", "/signup", "", append(operator, "Accept", "text/html")...); !strings.Contains(page, `href="/customers"`) {
		t.Error("operators have no link to the list")
	}
}
