package access

import (
	"net/http/httptest"
	"strings"
	"testing"
	"testing/fstest"

	"github.com/chromedp/chromedp"
	"github.com/gin-gonic/gin"

	"github.com/edison-cars/data-feeds/shared/dev/chromium"
	"github.com/edison-cars/data-feeds/shared/postgres/pgtest"
	"github.com/edison-cars/data-feeds/shared/web"
	"github.com/edison-cars/data-feeds/shared/webserver"
)

// A tab is one in which pages run no scripts.
type tab struct {
	*chromium.Tab
	url string
}

// load runs a step that leads to a page, and checks its status, its path and what it says.
func (b tab) load(t *testing.T, step chromedp.Action[chromedp.Void], status int64, path string, words ...string) {
	t.Helper()
	url, got, text := b.Load(t, step)
	if at := strings.TrimPrefix(url, b.url); got != status || at != path {
		t.Fatalf("%s: %d, want %s: %d\n%s", at, got, path, status, text)
	}
	for _, w := range words {
		if !strings.Contains(text, w) {
			t.Errorf("%s does not say %q: %s", path, w, text)
		}
	}
	for _, e := range b.Errors() {
		t.Errorf("%s: %s", path, e)
	}
}

func fill(name, text string) chromedp.Action[chromedp.Void] {
	return chromedp.SetValue(chromedp.CSS("main [name="+name+"]"), text)
}

func click(selector string) chromedp.Action[chromedp.Void] {
	return chromedp.Click(chromedp.CSS(selector))
}

func TestLoginInABrowser(t *testing.T) {
	pgtest.Slow(t, "a browser")
	t.Parallel()
	stores(t, func(t *testing.T, o Options) {
		site := newSite(t, Closed, o)
		e := engine(t, site.Access)
		page := web.Template(fstest.MapFS{"page.html": {Data: []byte(`{{define "main"}}<form method="post" action="/people?from=form">
<input name="name"><textarea name="note"></textarea><input type="hidden" name="hidden" value="&lt;b&gt;"><button>Change</button></form>{{end}}`)}}, "page.html")
		webserver.GET(e, "/form", site.Operator(), func(c *gin.Context) {
			webserver.Render(c, 200, page, web.Page{Service: "Warehouse", Title: "Form"})
		})
		server := httptest.NewServer(e)
		t.Cleanup(server.Close)
		ada := site.tokens["ada:operator"]
		unknown, _ := NewToken()
		b := tab{chromium.Open(t), server.URL}
		b.Scripts(t, false)

		b.load(t, chromedp.Navigate(server.URL+"/form?a=b&c=%C3%BC"), 200, "/login?next=%2Fform%3Fa%3Db%26c%3D%25C3%25BC", "Operator’s token")
		b.Do(t, fill("token", unknown))
		b.load(t, click("main button"), 401, "/login", "This token is not valid here.")
		if shown := chromium.Evaluate[string](t, b.Tab, "document.documentElement.outerHTML + document.querySelector('[name=token]').value"); strings.Contains(shown, unknown) {
			t.Error("the page shows the token")
		}
		b.Do(t, fill("token", site.tokens["warehouse:reader"]))
		b.load(t, click("main button"), 403, "/login", "token, for programs that read feeds")
		b.Do(t, fill("token", ada))
		b.load(t, click("main button"), 200, "/form?a=b&c=%C3%BC", "ada", "Log out")

		b.Do(t, fill("name", "Ada & Grace +1"), fill("note", "first\nsecond = ü"))
		b.load(t, click("main button"), 200, "/people?from=form", "<hidden=%3Cb%3E&name=Ada+%26+Grace+%2B1&note=first%0D%0Asecond+%3D+%C3%BC>")

		// The session ends in the middle of a form.
		b.load(t, chromedp.Navigate(server.URL+"/form"), 200, "/form", "Log out")
		b.Do(t, fill("name", "Ada & Grace +1"), fill("note", "first\nsecond = ü"))
		known := site.Access.tokens.Load().find(ada)
		if err := site.sessions.sweep(t.Context(), [][]byte{known.hash[:]}); err != nil {
			t.Fatal(err)
		}
		b.load(t, click("main button"), 401, "/people?from=form", "Your session has ended, and nothing was changed.")
		b.Do(t, fill("token", unknown))
		b.load(t, click("main button"), 401, "/login", "This token is not valid here.")
		b.Do(t, fill("token", ada))
		b.load(t, click("main button"), 200, "/login", "Your form has not been sent yet.", "Log out")
		b.load(t, click("main button"), 200, "/people?from=form", "<hidden=%3Cb%3E&name=Ada+%26+Grace+%2B1&note=first%0D%0Asecond+%3D+%C3%BC>")

		b.load(t, chromedp.Navigate(server.URL+"/form"), 200, "/form", "ada")
		for _, path := range []string{"/sealed", "/people"} { // which are no pages
			b.load(t, chromedp.Navigate(server.URL+path), 200, path, "ada operator")
		}
		b.load(t, chromedp.Navigate(server.URL+"/form"), 200, "/form", "ada")
		b.load(t, click(".logout button"), 200, "/login?out", "You are logged out.")
		b.load(t, chromedp.NavigateBack(), 200, "/login?next=%2Fform", "Operator’s token") // not the page of before
		b.load(t, chromedp.NavigateBack(), 200, "/login?next=%2Fpeople", "Operator’s token")
		b.load(t, chromedp.NavigateBack(), 200, "/login?next=%2Fsealed", "Operator’s token")
		b.load(t, chromedp.Navigate(server.URL+"/sealed"), 200, "/login?next=%2Fsealed", "Operator’s token")
		b.load(t, chromedp.Navigate(server.URL+"/form"), 200, "/login?next=%2Fform", "Operator’s token")
	})
}
