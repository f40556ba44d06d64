package access_test

import (
	"context"
	"encoding/json"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"testing"

	"github.com/chromedp/chromedp"
	"github.com/jackc/pgx/v5"

	"github.com/edison-cars/data-feeds/shared/dev/chromium"
	"github.com/edison-cars/data-feeds/shared/postgres/pgtest"
)

// Where access is closed, an operator sees what a subscriber has rejected, and tries it again once its reason is gone:
// by the API with a token, and by the page after the login. Nobody else does. By pages, the operator also tunes,
// pauses, resumes and resyncs.
func TestDayOfAnOperator(t *testing.T) {
	pgtest.Slow(t, "a browser")
	t.Parallel()
	c := startCompany(t, "closed", "sales", "assembly", "warehouse")
	warehouse := c.urls["warehouse"]
	db, err := pgx.Connect(t.Context(), c.databases["warehouse"])
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close(context.WithoutCancel(t.Context()))
	run := func(statement string) {
		t.Helper()
		if _, err := db.Exec(t.Context(), statement); err != nil {
			t.Fatal(err)
		}
	}
	has := func(order string) (there bool) {
		t.Helper()
		if err := db.QueryRow(t.Context(), `select exists (select from orders where id = $1)`, order).Scan(&there); err != nil {
			t.Fatal(err)
		}
		return there
	}
	buy := func(body string) string {
		t.Helper()
		var made struct {
			ID string `json:"id"`
		}
		c.post(t, c.urls["sales"]+"/orders", "", body, &made)
		return made.ID
	}
	run(`alter table reservation add constraint refuses_fleets check (part <> 'wheel' or quantity < 20)`)
	byAPI, byPage := buy(`{"lines": [{"model": "volta", "quantity": 6}]}`), buy(`{"lines": [{"model": "ohm", "quantity": 7}]}`)
	neighbour := buy(`{"lines": [{"model": "volta", "quantity": 1}]}`)

	const page = "/subscriptions/orders/rejected"
	rejected := func() (ids []string) {
		t.Helper()
		req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, warehouse+page, nil)
		if err != nil {
			t.Fatal(err)
		}
		bearer(c.tokens["operator"])(req)
		resp, err := client.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		var entries []struct {
			ID     string `json:"entity_id"`
			Reason string `json:"reason"`
		}
		if err := json.NewDecoder(resp.Body).Decode(&entries); err != nil || resp.StatusCode != http.StatusOK {
			t.Fatalf("%s, %v", resp.Status, err)
		}
		for _, e := range entries {
			if !strings.Contains(e.Reason, "refuses_fleets") {
				t.Errorf("%s was rejected for %q", e.ID, e.Reason)
			}
			ids = append(ids, e.ID)
		}
		return ids
	}
	eventually(t, "both are rejected, and their neighbour is there", func() bool { return len(rejected()) == 2 && has(neighbour) })
	if ids := rejected(); !slices.Equal(ids, []string{byAPI, byPage}) {
		t.Errorf("rejected: %v", ids)
	}

	retry := func(order string) string { return page + "/" + order + "/retry" }
	refused := func() {
		t.Helper()
		for _, order := range []string{byAPI, byPage} {
			for _, route := range []string{"POST " + retry(order), "POST " + page + "/" + order + "/drop", "POST " + page + "/retry", "GET " + page} {
				_, path, _ := strings.Cut(route, " ")
				if got := c.status(t, "warehouse", route, path, func(*http.Request) {}); got != http.StatusUnauthorized {
					t.Errorf("%s as nobody: %d", route, got)
				}
				if got := c.status(t, "warehouse", route, path, bearer(c.tokens["reader"])); got != http.StatusForbidden {
					t.Errorf("%s as a reader: %d", route, got)
				}
			}
		}
	}
	refused()
	if got := c.status(t, "warehouse", "POST", retry(byAPI), bearer(c.tokens["operator"])); got != http.StatusUnprocessableEntity {
		t.Errorf("retry of what is refused still: %d", got)
	}
	run(`alter table reservation drop constraint refuses_fleets`)
	refused()
	if has(byAPI) || has(byPage) || len(rejected()) != 2 {
		t.Error("somebody else tried them again")
	}

	if got := c.status(t, "warehouse", "POST", retry(byAPI), bearer(c.tokens["operator"])); got != http.StatusOK {
		t.Errorf("retry by the API: %d", got)
	}
	if ids := rejected(); !has(byAPI) || has(byPage) || !slices.Equal(ids, []string{byPage}) {
		t.Errorf("after the retry by the API: rejected: %v", ids)
	}

	b := browser{chromium.Open(t)}
	b.load(t, chromedp.Navigate(warehouse+page), 200, "/login?next="+url.QueryEscape(page), "Operator’s token")
	b.Do(t, chromedp.SetValue(chromedp.CSS("main [name=token]"), c.tokens["operator"]))
	b.load(t, chromedp.Click(chromedp.CSS("main button")), 200, page, byPage, "refuses_fleets", "Log out")
	b.load(t, chromedp.Click(chromedp.CSS(`form[action$="`+retry(byPage)+`"] button`)), 200, page+"?applied=1&rejected=0", "None: everything that came is in the copy.")
	if ids := rejected(); !has(byPage) || len(ids) != 0 {
		t.Errorf("after the retry by the page: rejected: %v", ids)
	}
	const at = "/subscriptions/orders"
	b.load(t, chromedp.Navigate(warehouse+at+"/schedule"), 200, at+"/schedule", "Tune orders")
	b.Do(t, chromedp.SetValue(chromedp.CSS("main [name=schedule]"), "@every 7s"))
	b.load(t, chromedp.Click(chromedp.CSS("main form[method=get] button")), 200, at+"/schedule?schedule=%40every+7s&wait=&page_size=", "nothing is set yet")
	b.load(t, chromedp.Click(chromedp.CSS("main form[method=post] button")), 200, at+"?done=tuned", "this is how the feed is polled from now on", "@every 7s")
	b.load(t, chromedp.Click(chromedp.CSS(`form[action$="/pause"] button`)), 200, at+"?done=paused", "Paused: the source is not asked")
	b.load(t, chromedp.Click(chromedp.CSS(`form[action$="/resume"] button`)), 200, at+"?done=resumed", "Resumed: the source is asked")
	b.Do(t, chromedp.Click(chromedp.CSS("main details details summary")))
	b.load(t, chromedp.Click(chromedp.CSS(`form[action$="/resync"] button`)), 200, at+"?done=resyncing", "read again, from its first entry")
	b.load(t, chromedp.Navigate(warehouse+at+"/schedule"), 200, at+"/schedule", "Tune orders") // which does not load itself again, as the page before does
	b.load(t, chromedp.Click(chromedp.CSS(".logout button")), 200, "/login?out", "You are logged out.")
}

// A browser shows pages of one tab.
type browser struct{ *chromium.Tab }

// load runs a step that leads to a page, and checks its status, its path and what it says.
func (b browser) load(t *testing.T, step chromedp.Action[chromedp.Void], status int64, path string, words ...string) {
	t.Helper()
	url, got, text := b.Load(t, step)
	if got != status || !strings.HasSuffix(url, path) {
		t.Fatalf("%s: %d, want %s: %d\n%s", url, got, path, status, text)
	}
	for _, w := range words {
		if !strings.Contains(text, w) {
			t.Errorf("%s does not say %q: %s", path, w, text)
		}
	}
}
