package webserver

import (
	"fmt"
	"net/http"
	"os"
	"strings"
	"sync"
	"testing"
	"testing/fstest"
	"time"

	"github.com/chromedp/cdproto/emulation"
	"github.com/chromedp/chromedp"
	"github.com/chromedp/chromedp/kb"
	"github.com/gin-gonic/gin"

	"github.com/edison-cars/data-feeds/shared/dev/chromium"
	"github.com/edison-cars/data-feeds/shared/web"
)

// followed shows rows, the newest first, and counts how often it was asked for.
type followed struct {
	mu     sync.Mutex
	rows   int
	set    string // value of a field
	status int
	asked  []time.Time
}

func (f *followed) change(change func(f *followed)) {
	f.mu.Lock()
	defer f.mu.Unlock()
	change(f)
}

func (f *followed) count() int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return len(f.asked)
}

const followedPage = `{{define "main"}}<h1>Rows</h1>
{{with .Data}}{{if gt .Rows 40}}<p class="banner done">There are many.</p>{{end}}
<p id="text">This text stays as it is, and can be selected.</p>
<p>At <span id="at">{{time .Now}}</span>, <span id="ago">{{ago .Now}}</span>, <span id="old">{{time .Old}}</span>, <span id="old-ago">{{ago .Old}}</span>,
<span id="soon">{{ago .Soon}}</span>, <span role="status" id="spoken">{{time .Now}}</span>, <span id="since">{{since .Now}}</span>, <span id="never">{{time .Zero}}</span></p>
<form class="filters"><div class="field"><label for="untouched">Untouched</label><input id="untouched" value="{{.Set}}"></div></form>
<form class="filters"><div class="field"><label for="typed">Typed</label><input id="typed" value="{{.Set}}"></div>
<div class="field"><label for="chosen">Chosen</label><select id="chosen"><option>one</option><option>two</option></select></div></form>
<details id="more"><summary>More of {{.Rows}}</summary><p>There are {{.Rows}} rows.</p></details>
<div class="table"><table><thead><tr><th scope="col">Row</th><th scope="col">Of</th></tr></thead><tbody>
{{range .List}}<tr><th scope="row"><a id="row-{{.}}" href="/rows/{{.}}">{{.}}</a></th><td>{{$.Data.Rows}}</td></tr>
{{end}}</tbody></table></div>{{end}}{{end}}`

func (f *followed) serve(t *testing.T) string {
	t.Helper()
	page := web.Template(fstest.MapFS{"page.html": {Data: []byte(followedPage)}}, "page.html")
	url, _ := newServer(t, func(r *gin.Engine) {
		r.GET("/", func(c *gin.Context) {
			f.mu.Lock()
			defer f.mu.Unlock()
			f.asked = append(f.asked, time.Now())
			switch f.status {
			case 0:
			case http.StatusSeeOther:
				c.Redirect(f.status, "/login")
				return
			default:
				c.String(f.status, "")
				return
			}
			now := time.Now()
			var list []int
			for n := f.rows; n > 0; n-- {
				list = append(list, n)
			}
			Render(c, http.StatusOK, page, web.Page{Service: "Sales", Title: "Rows", Follow: 1,
				Nav:       []web.Link{{Text: "Models", URL: "/", Current: true}, {Text: "Feed", URL: "/feeds/orders"}, {Text: "Map", URL: "/map"}},
				Freshness: []web.Freshness{{Feed: "orders", State: "fresh", AsOf: now.Add(-2 * time.Second), NextAt: now.Add(time.Minute), URL: "/subscriptions/orders", Schedule: "@every 5s", Wait: "0s"}},
				Data: map[string]any{"Rows": f.rows, "List": list, "Set": f.set, "Now": now, "Zero": time.Time{},
					"Old": time.Date(2026, 7, 23, 8, 0, 0, 0, time.UTC), "Soon": now.Add(90 * time.Second)}})
		})
		r.GET("/login", func(c *gin.Context) { c.String(http.StatusOK, "log in") })
	})
	return url + "/"
}

func TestTimesInABrowser(t *testing.T) {
	t.Parallel()
	b := chromium.Open(t)
	url := (&followed{rows: 1}).serve(t)
	b.Do(t, chromium.Command(emulation.SetTimezoneOverride, emulation.SetTimezoneOverrideParams{TimezoneID: "Europe/Berlin"}))
	text := func(id string) string {
		return chromium.Evaluate[string](t, b, "document.getElementById('"+id+"').innerText")
	}
	says := func(id, want string) {
		t.Helper()
		if got := text(id); got != want {
			t.Errorf("%s: %q, want %q", id, got, want)
		}
	}
	b.Scripts(t, false)
	b.Do(t, chromedp.Navigate(url))
	says("old", "23 Jul 2026, 08:00:00 UTC")
	says("soon", "in 1 min")
	says("ago", "just now")
	if !chromium.Evaluate[bool](t, b, "document.getElementById('follow').hidden") {
		t.Error("without scripts there is a switch that does nothing")
	}

	b.Scripts(t, true)
	b.Do(t, chromedp.Navigate(url))
	b.Becomes(t, "!document.getElementById('follow').hidden")
	b.Do(t, chromedp.Click(chromedp.CSS("#follow button"))) // paused
	says("old", "23 Jul 2026, 10:00:00 CEST")
	says("never", "never")
	says("soon", "in 1 min")
	if got := chromium.Evaluate[string](t, b, "document.querySelector('#old time').title"); got != "23 Jul 2026, 08:00:00 UTC" {
		t.Errorf("the title is %q", got)
	}
	if got := text("old-ago"); !strings.HasSuffix(got, " days ago") && !strings.HasPrefix(got, "in ") {
		t.Error(got)
	}
	for _, id := range []string{"spoken", "since"} {
		if got := text(id); !strings.Contains(got, ":") {
			t.Errorf("%s counts: %s", id, got)
		}
	}
	for _, id := range []string{"at", "ago"} {
		seconds := "parseInt(/^([0-9]+) s ago$/.exec(document.getElementById('" + id + "').innerText)?.[1] ?? 0)"
		was := chromium.Evaluate[int](t, b, seconds)
		b.Becomes(t, fmt.Sprintf("%s >= %d", seconds, was+2))
	}
	// What lay ahead is never said to be over while the page was not updated.
	b.Becomes(t, `(e => { e.dateTime = new Date(Date.now() + 2000).toISOString(); return true })(document.querySelector('#soon time'))`)
	b.Becomes(t, "document.getElementById('soon').innerText === 'now'")
}

func TestFollow(t *testing.T) {
	t.Parallel()
	b := chromium.Open(t)
	f := &followed{rows: 40, set: "first"}
	url := f.serve(t)
	state := "document.querySelector('#follow .badge').innerText"
	b.Do(t, chromedp.EmulateViewport(1280, 800), chromedp.Navigate(url))
	b.Becomes(t, state+" === 'live'")

	t.Run("what the person is at stays", func(t *testing.T) {
		b.Do(t, chromedp.Click(chromedp.CSS("#more summary")), chromedp.Click(chromedp.CSS(".copy summary")),
			chromedp.SetValue(chromedp.CSS("#chosen"), "two"), chromedp.Click(chromedp.CSS("#typed")), chromedp.KeyEvent(kb.End+" typed"))
		b.Becomes(t, `(() => {
			window.sameAsBefore = document.getElementById("row-20");
			sameAsBefore.focus();
			sameAsBefore.scrollIntoView({ block: "center" });
			window.top20 = sameAsBefore.getBoundingClientRect().top;
			getSelection().selectAllChildren(document.getElementById("text"));
			return true;
		})()`)
		f.change(func(f *followed) { f.rows, f.set = 43, "second" })
		b.Becomes(t, "!!document.getElementById('row-43') && !!document.querySelector('.banner.done')")
		for _, holds := range []string{
			"sameAsBefore === document.activeElement && sameAsBefore.isConnected",
			"Math.abs(sameAsBefore.getBoundingClientRect().top - top20) < 2",
			"getSelection().toString() === 'This text stays as it is, and can be selected.'",
			"document.getElementById('more').open && document.querySelector('.copy').open",
			"document.querySelector('#more p').innerText === 'There are 43 rows.'",
			"document.getElementById('typed').value === 'first typed' && document.getElementById('chosen').value === 'two'",
			"document.getElementById('untouched').value === 'second'",
			"document.querySelectorAll('tbody tr').length === 43 && [...document.querySelectorAll('tbody a')].every((a, i) => a.innerText === String(43 - i))",
		} {
			if !chromium.Evaluate[bool](t, b, holds) {
				t.Error(holds)
			}
		}
		f.change(func(f *followed) { f.rows = 2 })
		b.Becomes(t, "!document.getElementById('row-43') && !document.querySelector('.banner.done')")
		if !chromium.Evaluate[bool](t, b, "sameAsBefore === document.activeElement") {
			t.Error("the row with the focus is gone")
		}
		b.Becomes(t, "(document.activeElement.blur(), document.querySelectorAll('tbody tr').length === 2)")
	})

	t.Run("a form that has the focus stays", func(t *testing.T) {
		b.Becomes(t, "(document.getElementById('untouched').focus(), true)")
		f.change(func(f *followed) { f.set, f.rows = "third", 3 })
		b.Becomes(t, "!!document.getElementById('row-3')")
		if got := chromium.Evaluate[string](t, b, "document.getElementById('untouched').value"); got != "second" {
			t.Errorf("it has %q", got)
		}
	})

	t.Run("a hidden tab stops", func(t *testing.T) {
		show := func(hidden bool) {
			b.Becomes(t, fmt.Sprintf(`(Object.defineProperty(document, "hidden", { value: %t, configurable: true }), document.dispatchEvent(new Event("visibilitychange")), true)`, hidden))
		}
		show(true)
		time.Sleep(time.Second) // for an answer under way
		before := f.count()
		f.change(func(f *followed) { f.rows = 4 })
		time.Sleep(2500 * time.Millisecond)
		if now := f.count(); now != before {
			t.Errorf("hidden, it asked %d times", now-before)
		}
		show(false)
		b.Becomes(t, "!!document.getElementById('row-4')")
	})

	t.Run("paused it stays, also when it is loaded again", func(t *testing.T) {
		b.Do(t, chromedp.Focus(chromedp.CSS("#follow button")), chromedp.KeyEvent(kb.Enter))
		b.Becomes(t, state+" === 'paused'")
		b.Do(t, chromedp.Reload())
		b.Becomes(t, state+" === 'paused'")
		before := f.count()
		f.change(func(f *followed) { f.rows = 5 })
		time.Sleep(2500 * time.Millisecond)
		if now := f.count(); now != before {
			t.Errorf("paused, it asked %d times", now-before)
		}
		b.Do(t, chromedp.Click(chromedp.CSS("#follow button")))
		b.Becomes(t, "!!document.getElementById('row-5') && "+state+" === 'live'")
	})

	t.Run("after an error it retries ever later, and says so", func(t *testing.T) {
		for status, words := range map[int]string{http.StatusServiceUnavailable: "retrying", http.StatusSeeOther: "log in again"} {
			f.change(func(f *followed) { f.status, f.asked = status, nil })
			b.Becomes(t, "/^out of date since [0-9:]+, "+words+"$/.test("+state+")")
			if status == http.StatusServiceUnavailable {
				for f.count() < 3 {
					time.Sleep(20 * time.Millisecond)
				}
				f.change(func(f *followed) {
					if first, last := f.asked[1].Sub(f.asked[0]), f.asked[2].Sub(f.asked[1]); last < first*3/2 {
						t.Errorf("it asked again after %v, and later after %v", first, last)
					}
				})
			}
			f.change(func(f *followed) { f.status = 0 })
			b.Becomes(t, state+" === 'live'")
		}
	})

	t.Run("wide and narrow, light and dark", func(t *testing.T) {
		for _, width := range []int64{1280, 390} {
			for _, scheme := range []string{"light", "dark"} {
				b.Look(t, width, scheme)
				b.Do(t, chromedp.Reload())
				b.Becomes(t, state+" === 'live'")
				for _, status := range []int{0, http.StatusServiceUnavailable} {
					f.change(func(f *followed) { f.status = status })
					b.Becomes(t, fmt.Sprintf("/^%s/.test(%s)", map[int]string{0: "live", 503: "out of date"}[status], state))
					b.Picture(t, os.Getenv("PICTURES"), fmt.Sprintf("follow-%d-%s-%d.png", width, scheme, status))
					if over := b.TooWide(t); over > 0 {
						t.Errorf("at %d px the page is %d px too wide", width, over)
					}
					for _, found := range b.Violations(t) {
						t.Errorf("%d px, %s: %s", width, scheme, found)
					}
				}
				f.change(func(f *followed) { f.status = 0 })
			}
		}
	})
	for _, e := range b.Errors() {
		t.Error(e)
	}
}
