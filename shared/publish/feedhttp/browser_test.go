package feedhttp

import (
	"context"
	"fmt"
	"net/http/httptest"
	"os"
	osexec "os/exec"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/chromedp/cdproto/cdp"
	"github.com/chromedp/cdproto/emulation"
	"github.com/chromedp/cdproto/log"
	"github.com/chromedp/chromedp"
	"github.com/chromedp/chromedp/kb"

	"github.com/edison-cars/data-feeds/shared/publish"
)

const patience = 60 * time.Second // for a step in the browser

// A tab is one of a browser without a window.
type tab struct {
	ctx context.Context

	mu     sync.Mutex
	errors []string // in the console, but for the status of answers
}

func openTab(t *testing.T) *tab {
	t.Helper()
	if testing.Short() {
		t.Skip("starts a browser")
	}
	var path string
	for _, name := range []string{"chromium", "chromium-browser", "google-chrome"} {
		if found, err := osexec.LookPath(name); err == nil {
			path = found
			break
		}
	}
	if path == "" {
		t.Skip("needs Chromium (Debian: apt-get install chromium)")
	}
	ctx, cancel := chromedp.NewExecAllocator(context.Background(), append(chromedp.DefaultExecAllocatorOptions[:],
		chromedp.ExecPath(path),
		chromedp.NoSandbox, // which root cannot have
		chromedp.WSURLReadTimeout(patience),
	)...)
	t.Cleanup(cancel)
	b := &tab{}
	b.ctx, cancel = chromedp.NewContext(ctx, chromedp.WithListener(func(event any) {
		if e, ok := event.(*log.EventEntryAdded); ok && e.Entry.Level == log.EntryLevelError && e.Entry.Source != log.EntrySourceNetwork {
			b.mu.Lock()
			defer b.mu.Unlock()
			b.errors = append(b.errors, e.Entry.Text)
		}
	}))
	t.Cleanup(cancel)
	if err := chromedp.Do(b.ctx); err != nil { // the browser lives as long as the context of the first step
		t.Fatal(err)
	}
	return b
}

func (b *tab) do(t *testing.T, steps ...chromedp.Action[chromedp.Void]) {
	t.Helper()
	ctx, cancel := context.WithTimeout(b.ctx, patience)
	defer cancel()
	if err := chromedp.Do(ctx, steps...); err != nil {
		t.Fatal(err)
	}
}

func evaluate[T any](t *testing.T, b *tab, script string) T {
	t.Helper()
	ctx, cancel := context.WithTimeout(b.ctx, patience)
	defer cancel()
	value, err := chromedp.Run(ctx, chromedp.Evaluate[T](script, chromedp.EvalAwaitPromise))
	if err != nil {
		t.Fatalf("%s: %v", script, err)
	}
	return value
}

// becomes waits until an expression holds.
func (b *tab) becomes(t *testing.T, expression string) {
	t.Helper()
	for deadline := time.Now().Add(patience); !evaluate[bool](t, b, expression); time.Sleep(20 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("never: %s\n%s", expression, evaluate[string](t, b, "location.href + document.body.innerText"))
		}
	}
}

func (b *tab) holds(t *testing.T, expressions ...string) {
	t.Helper()
	for _, e := range expressions {
		if !evaluate[bool](t, b, e) {
			t.Errorf("not so: %s", e)
		}
	}
}

func command[P, R any](c cdp.Command[P, R], params P) chromedp.Action[chromedp.Void] {
	return chromedp.Func(func(ctx context.Context, t *chromedp.Target) error {
		_, err := cdp.Call(ctx, t, c, params)
		return err
	})
}

func (b *tab) scripts(t *testing.T, run bool) {
	t.Helper()
	b.do(t, command(emulation.SetScriptExecutionDisabled, emulation.SetScriptExecutionDisabledParams{Value: !run}))
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
	b := openTab(t)
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
			b.do(t, chromedp.EmulateViewport(1280, 800), chromedp.Navigate(feed+at))
			b.becomes(t, "document.querySelectorAll('details.row:not([open])').length >= 99")
			if height := evaluate[int](t, b, "document.documentElement.scrollHeight"); height > 4*800 {
				t.Errorf("%q is %d px high", at, height)
			} else {
				t.Logf("%q is %d px high", at, height)
			}
			b.holds(t, "[...document.querySelectorAll('summary > *')].every(e => e.getClientRects().length === 1)")
		}
	})

	t.Run("without scripts, the form jumps and rows open", func(t *testing.T) {
		b.scripts(t, false)
		defer b.scripts(t, true)
		b.do(t, chromedp.Navigate(feed))
		b.holds(t, "document.getElementById('filter').hidden")
		for _, x := range []struct{ to, path, says string }{
			{"42", "/feeds/things", "entries 100 to 1"},
			{"2026-11-23", "/feeds/things", "entries 100 to 1"},
			{numbered(7).String(), "/feeds/things/" + numbered(7).String(), "Versions, newest first"},
			{"4200", "/feeds/things/jump", "the positions of this feed are 1 to 200"},
		} {
			b.do(t, chromedp.Navigate(feed), chromedp.SetValue(chromedp.CSS("#to"), x.to), chromedp.Focus(chromedp.CSS("#to")), chromedp.KeyEvent(kb.Enter))
			b.becomes(t, fmt.Sprintf("location.pathname === %q && !!document.body?.innerText.includes(%q)", x.path, x.says))
		}
		b.do(t, chromedp.Navigate(feed), chromedp.Click(chromedp.CSS("#entry-190 summary")))
		b.becomes(t, "document.querySelector('#entry-190 pre').checkVisibility() && document.querySelectorAll('details[open]').length === 1")
	})

	t.Run("a jump opens its entry", func(t *testing.T) {
		b.do(t, chromedp.Navigate(feed+"/jump?to=42"))
		b.becomes(t, "location.hash === '#entry-42' && !!document.querySelector('#entry-42 details')?.open && document.querySelectorAll('details[open]').length === 1")
		b.becomes(t, "(r => r.top >= 0 && r.top < innerHeight)(document.getElementById('entry-42').getBoundingClientRect())")
	})

	t.Run("by the keyboard", func(t *testing.T) {
		b.do(t, chromedp.Navigate(feed), chromedp.Focus(chromedp.CSS("#entry-200 summary")), chromedp.KeyEvent(kb.Tab), chromedp.KeyEvent(kb.Enter))
		b.becomes(t, "document.querySelector('#entry-199 details').open")
		b.do(t, chromedp.KeyEvent(kb.Tab))
		b.holds(t, "document.activeElement.matches('#entry-199 pre')")
		b.do(t, chromedp.KeyEvent(kb.Tab))
		b.holds(t, "document.activeElement.innerText === 'Its page'")
	})

	t.Run("the filter is over the page", func(t *testing.T) {
		b.do(t, chromedp.Navigate(feed), chromedp.SendKeys(chromedp.CSS("#text"), numbered(150).String()[10:]))
		b.becomes(t, "[...document.querySelectorAll('.entry:not([hidden])')].map(e => e.id).join() === 'entry-150'")
		b.holds(t, "document.querySelector('#filter output').value === '1 of 100'")
		more(201)
		b.becomes(t, "!!document.querySelector('#entry-201')?.hidden && document.querySelector('#filter output').value === '1 of 101'")
		b.becomes(t, "(e => { e.value = ''; return e.dispatchEvent(new Event('input')) })(document.getElementById('text'))")
		b.becomes(t, "document.querySelectorAll('.entry:not([hidden])').length === 101 && document.querySelector('#filter output').value === ''")
	})

	t.Run("an opened row stays open and where it is while entries come", func(t *testing.T) {
		b.do(t, chromedp.Navigate(feed), chromedp.WaitVisible(chromedp.CSS("#follow .badge.fresh")))
		more(202)
		b.becomes(t, "!!document.querySelector('#entry-202.arrived')")
		b.do(t, chromedp.Click(chromedp.CSS("#entry-195 summary")))
		b.becomes(t, `(document.activeElement.blur(), scrollTo(0, 0), window.opened = document.querySelector("#entry-195"), window.top195 = opened.getBoundingClientRect().top, opened.firstChild.open)`)
		more(203)
		b.becomes(t, "document.getElementById('arrivals').innerText === '1 new entry'")
		b.holds(t, "!document.getElementById('entry-203')", "opened.querySelector('pre').checkVisibility()",
			"opened.getBoundingClientRect().top === top195")
		b.do(t, chromedp.Click(chromedp.CSS("#arrivals")))
		b.becomes(t, "!!document.getElementById('entry-203') && document.getElementById('where').innerText.includes('entries 203 to 101')")
		b.holds(t, "document.getElementById('entry-195') === opened && opened.querySelector('details').open")
		b.do(t, chromedp.Click(chromedp.CSS("#entry-195 summary")))
		b.becomes(t, "(document.activeElement.blur(), !opened.querySelector('details').open)")
		more(204)
		b.becomes(t, "!!document.querySelector('#entry-204.arrived')")
	})

	t.Run("wide and narrow, light and dark", func(t *testing.T) {
		axe := ""
		if file := os.Getenv("AXE_CORE"); file != "" {
			text, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			axe = string(text)
		}
		for name, path := range map[string]string{
			"newest": "/feeds/things", "older": "/feeds/things/jump?to=97", "replay": "/feeds/things?after=0&limit=100", "entity": "/feeds/things/" + numbered(7).String(),
			"index": "/feeds", "no-position": "/feeds/things/jump?to=4200",
		} {
			for _, width := range []int64{1280, 390} {
				for _, scheme := range []string{"light", "dark"} {
					b.do(t, chromedp.EmulateViewport(width, 800), command(emulation.SetEmulatedMedia, emulation.SetEmulatedMediaParams{
						Features: []*emulation.MediaFeature{{Name: "prefers-color-scheme", Value: scheme}}}), chromedp.Navigate(url+path))
					b.becomes(t, "document.readyState === 'complete'")
					b.becomes(t, "(document.querySelectorAll('#entries details').forEach((d, i) => d.open ||= i === 1), true)")
					if over := evaluate[int](t, b, "document.documentElement.scrollWidth - document.documentElement.clientWidth"); over > 0 {
						t.Errorf("%s at %d px is %d px too wide", name, width, over)
					}
					if dir := os.Getenv("PICTURES"); dir != "" {
						png, err := chromedp.Run(b.ctx, chromedp.FullScreenshot(100))
						if err == nil {
							err = os.WriteFile(filepath.Join(dir, fmt.Sprintf("feed-%s-%d-%s.png", name, width, scheme)), png, 0o600)
						}
						if err != nil {
							t.Error(err)
						}
					}
					if axe == "" {
						continue
					}
					b.do(t, chromedp.Evaluate[chromedp.Void](axe))
					for _, found := range evaluate[[]string](t, b, `axe.run({ preload: false, resultTypes: ["violations"], runOnly: { type: "tag", values: ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa"] } })
						.then(r => r.violations.flatMap(v => v.nodes.map(n => v.id + ": " + n.html + " " + n.failureSummary)))`) {
						t.Errorf("%s, %d px, %s: %s", name, width, scheme, found)
					}
				}
			}
		}
	})
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, e := range b.errors {
		t.Error(e)
	}
}
