package feedhttp

import (
	"fmt"
	"net/http/httptest"
	"os"
	"testing"

	"github.com/chromedp/chromedp"
	"github.com/chromedp/chromedp/kb"

	"github.com/edison-cars/data-feeds/shared/dev/chromium"
	"github.com/edison-cars/data-feeds/shared/publish"
)

// A tab has the checks of this package.
type tab struct{ *chromium.Tab }

func (b tab) holds(t *testing.T, expressions ...string) {
	t.Helper()
	for _, e := range expressions {
		if !chromium.Evaluate[bool](t, b.Tab, e) {
			t.Errorf("not so: %s", e)
		}
	}
}

// browsable serves the log at the address that its pages link to.
func browsable(t *testing.T, l *publish.Log) string {
	t.Helper()
	server := httptest.NewUnstartedServer(nil)
	url := "http://" + server.Listener.Addr().String()
	server.Config.Handler = New(l, Options{Brand: "Edison", Name: "Test", PublicURL: url}, description)
	server.Start()
	t.Cleanup(server.Close)
	t.Cleanup(server.CloseClientConnections) // a stream does not end by itself
	return url
}

func TestFeedPageInABrowser(t *testing.T) {
	t.Parallel()
	b := tab{chromium.Open(t)}
	l := openLog(t, database(t))
	fill(t, l, 200)
	url := browsable(t, l)
	feed := url + "/feeds/things"
	more := func(n int) {
		t.Helper()
		if err := l.Commit(t.Context(), put(thing(numbered(n), 1))); err != nil {
			t.Fatal(err)
		}
	}

	t.Run("100 entries fit in four screens", func(t *testing.T) {
		for _, at := range []string{"", "?before=" + head(t, l).Cursor().String(), "?after=0&limit=100"} {
			b.Do(t, chromedp.EmulateViewport(1280, 800), chromedp.Navigate(feed+at))
			b.Becomes(t, "document.querySelectorAll('details.row:not([open])').length >= 99")
			if height := chromium.Evaluate[int](t, b.Tab, "document.documentElement.scrollHeight"); height > 4*800 {
				t.Errorf("%q is %d px high", at, height)
			} else {
				t.Logf("%q is %d px high", at, height)
			}
			b.holds(t, "[...document.querySelectorAll('summary > *')].every(e => e.getClientRects().length === 1)")
		}
	})

	t.Run("without scripts, the form jumps and rows open", func(t *testing.T) {
		b.Scripts(t, false)
		defer b.Scripts(t, true)
		b.Do(t, chromedp.Navigate(feed))
		b.holds(t, "document.getElementById('filter').hidden")
		for _, x := range []struct{ to, path, says string }{
			{"42", "/feeds/things", "entries 100 to 1"},
			{"2026-11-23", "/feeds/things", "entries 100 to 1"},
			{numbered(7).String(), "/feeds/things/" + numbered(7).String(), "Versions, newest first"},
			{"4200", "/feeds/things/jump", "the positions of this feed are 1 to 200"},
		} {
			b.Do(t, chromedp.Navigate(feed), chromedp.SetValue(chromedp.CSS("#to"), x.to), chromedp.Focus(chromedp.CSS("#to")), chromedp.KeyEvent(kb.Enter))
			b.Becomes(t, fmt.Sprintf("location.pathname === %q && !!document.body?.innerText.includes(%q)", x.path, x.says))
		}
		b.Do(t, chromedp.Navigate(feed), chromedp.Click(chromedp.CSS("#entry-190 summary")))
		b.Becomes(t, "document.querySelector('#entry-190 pre').checkVisibility() && document.querySelectorAll('details[open]').length === 1")
	})

	t.Run("a jump opens its entry", func(t *testing.T) {
		b.Do(t, chromedp.Navigate(feed+"/jump?to=42"))
		b.Becomes(t, "location.hash === '#entry-42' && !!document.querySelector('#entry-42 details')?.open && document.querySelectorAll('details[open]').length === 1")
		b.Becomes(t, "(r => r.top >= 0 && r.top < innerHeight)(document.getElementById('entry-42').getBoundingClientRect())")
	})

	t.Run("by the keyboard", func(t *testing.T) {
		b.Do(t, chromedp.Navigate(feed), chromedp.Focus(chromedp.CSS("#entry-200 summary")), chromedp.KeyEvent(kb.Tab), chromedp.KeyEvent(kb.Enter))
		b.Becomes(t, "document.querySelector('#entry-199 details').open")
		b.Do(t, chromedp.KeyEvent(kb.Tab))
		b.holds(t, "document.activeElement.matches('#entry-199 pre')")
		b.Do(t, chromedp.KeyEvent(kb.Tab))
		b.holds(t, "document.activeElement.innerText === 'Its page'")
	})

	t.Run("the filter is over the page", func(t *testing.T) {
		b.Do(t, chromedp.Navigate(feed), chromedp.SendKeys(chromedp.CSS("#text"), numbered(150).String()[10:]))
		b.Becomes(t, "[...document.querySelectorAll('.entry:not([hidden])')].map(e => e.id).join() === 'entry-150'")
		b.holds(t, "document.querySelector('#filter output').value === '1 of 100'")
		more(201)
		b.Becomes(t, "!!document.querySelector('#entry-201')?.hidden && document.querySelector('#filter output').value === '1 of 101'")
		b.Becomes(t, "(e => { e.value = ''; return e.dispatchEvent(new Event('input')) })(document.getElementById('text'))")
		b.Becomes(t, "document.querySelectorAll('.entry:not([hidden])').length === 101 && document.querySelector('#filter output').value === ''")
	})

	t.Run("an opened row stays open and where it is while entries come", func(t *testing.T) {
		b.Do(t, chromedp.Navigate(feed), chromedp.WaitVisible(chromedp.CSS("#follow .badge.fresh")))
		more(202)
		b.Becomes(t, "!!document.querySelector('#entry-202.arrived')")
		b.Do(t, chromedp.Click(chromedp.CSS("#entry-195 summary")))
		b.Becomes(t, `(document.activeElement.blur(), scrollTo(0, 0), window.opened = document.querySelector("#entry-195"), window.top195 = opened.getBoundingClientRect().top, opened.firstChild.open)`)
		more(203)
		b.Becomes(t, "document.getElementById('arrivals').innerText === '1 new entry'")
		b.holds(t, "!document.getElementById('entry-203')", "opened.querySelector('pre').checkVisibility()",
			"opened.getBoundingClientRect().top === top195")
		b.Do(t, chromedp.Click(chromedp.CSS("#arrivals")))
		b.Becomes(t, "!!document.getElementById('entry-203') && document.getElementById('where').innerText.includes('entries 203 to 101')")
		b.holds(t, "document.getElementById('entry-195') === opened && opened.querySelector('details').open")
		b.Do(t, chromedp.Click(chromedp.CSS("#entry-195 summary")))
		b.Becomes(t, "(document.activeElement.blur(), !opened.querySelector('details').open)")
		more(204)
		b.Becomes(t, "!!document.querySelector('#entry-204.arrived')")
	})

	t.Run("wide and narrow, light and dark, with superseded rows", func(t *testing.T) {
		snapshot := "/feeds/things?snapshot=" + head(t, l).Cursor().String() + "&limit=100"
		appendAll(t, l, []publish.Entry{thing(numbered(7), 2), thing(numbered(97), 2), thing(numbered(204), 2)})
		compactAll(t, l)
		b.Do(t, chromedp.Navigate(feed))
		b.Becomes(t, "!!document.querySelector('#entry-204 .superseded') || (location.reload(), false)") // once the source knows it
		superseded := map[string]int{"newest": 1, "older": 2, "replay": 2, "snapshot": 2, "entity": 1}
		for name, path := range map[string]string{
			"newest": "/feeds/things", "older": "/feeds/things/jump?to=97", "replay": "/feeds/things?after=0&limit=99", "entity": "/feeds/things/" + numbered(7).String(),
			"index": "/feeds", "no-position": "/feeds/things/jump?to=4200", "snapshot": snapshot,
		} {
			for _, width := range []int64{1280, 390} {
				for _, scheme := range []string{"light", "dark"} {
					b.Look(t, width, scheme)
					b.Do(t, chromedp.Navigate(url+path))
					b.Becomes(t, "document.readyState === 'complete'")
					b.Becomes(t, "(document.querySelectorAll('#entries details').forEach((d, i) => d.open ||= i === 1 || !!d.querySelector('.superseded')), true)")
					b.holds(t, fmt.Sprintf("[...document.querySelectorAll('.entry:has(.superseded) p')].filter(p => p.checkVisibility() && p.innerText.includes('is not kept')).length === %d", superseded[name]),
						"[...document.querySelectorAll('summary > :has(.superseded)')].every(e => e.scrollWidth <= e.clientWidth)")
					b.Picture(t, os.Getenv("PICTURES"), fmt.Sprintf("feed-%s-%d-%s.png", name, width, scheme))
					if over := b.TooWide(t); over > 0 {
						t.Errorf("%s at %d px is %d px too wide", name, width, over)
					}
					for _, found := range b.Violations(t) {
						t.Errorf("%s, %d px, %s: %s", name, width, scheme, found)
					}
				}
			}
		}
	})
	for _, e := range b.Errors() {
		t.Error(e)
	}
}
