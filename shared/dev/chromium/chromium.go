// Package chromium opens pages in Chromium, without a window, for tests.
package chromium

import (
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/chromedp/cdproto/cdp"
	"github.com/chromedp/cdproto/emulation"
	"github.com/chromedp/cdproto/log"
	"github.com/chromedp/chromedp"

	"github.com/edison-cars/data-feeds/shared/postgres/pgtest"
)

// Patience bounds a step in the browser.
const Patience = 60 * time.Second

// Start starts a browser that ends with the test, and returns the context of its first tab. It skips the test under
// -short, and on a machine without Chromium.
func Start(t testing.TB, options ...chromedp.ExecAllocatorOption) context.Context {
	t.Helper()
	pgtest.Slow(t, "a browser")
	var path string
	for _, name := range []string{"chromium", "chromium-browser", "google-chrome"} {
		if found, err := exec.LookPath(name); err == nil {
			path = found
			break
		}
	}
	if path == "" {
		t.Skip("needs Chromium (Debian: apt-get install chromium)")
	}
	options = append([]chromedp.ExecAllocatorOption{
		chromedp.ExecPath(path),
		chromedp.NoSandbox, // which root cannot have
		chromedp.WSURLReadTimeout(Patience),
	}, options...)
	ctx, cancel := chromedp.NewExecAllocator(context.Background(), append(chromedp.DefaultExecAllocatorOptions[:], options...)...)
	t.Cleanup(cancel)
	ctx, cancel = chromedp.NewContext(ctx)
	t.Cleanup(cancel)
	if err := chromedp.Do(ctx); err != nil { // the browser lives as long as the context of the first step
		t.Fatal(err)
	}
	return ctx
}

// A Tab is a tab of a browser.
type Tab struct {
	Context context.Context

	mu     sync.Mutex
	errors []string
}

// Open starts a browser and returns a tab of it.
func Open(t testing.TB) *Tab {
	t.Helper()
	return NewTab(t, Start(t))
}

// NewTab opens a tab of the browser, with cookies of its own.
func NewTab(t testing.TB, browser context.Context) *Tab {
	t.Helper()
	b := &Tab{}
	ctx, cancel := chromedp.NewContext(browser, chromedp.WithNewBrowserContext(), chromedp.WithListener(b.note))
	t.Cleanup(cancel)
	b.Context = ctx
	if err := chromedp.Do(ctx); err != nil { // the tab lives as long as the context of the first step
		t.Fatal(err)
	}
	return b
}

func (b *Tab) note(event any) {
	if e, ok := event.(*log.EventEntryAdded); ok && e.Entry.Level == log.EntryLevelError && e.Entry.Source != log.EntrySourceNetwork {
		b.mu.Lock()
		defer b.mu.Unlock()
		b.errors = append(b.errors, e.Entry.Text)
	}
}

// Errors returns the errors of the console since the last call, without those about the statuses of answers.
func (b *Tab) Errors() (errors []string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	errors, b.errors = b.errors, nil
	return errors
}

// Do runs the steps.
func (b *Tab) Do(t testing.TB, steps ...chromedp.Action[chromedp.Void]) {
	t.Helper()
	ctx, cancel := context.WithTimeout(b.Context, Patience)
	defer cancel()
	if err := chromedp.Do(ctx, steps...); err != nil {
		t.Fatalf("%v\n%s", err, Evaluate[string](t, b, "location.href + document.body.innerText"))
	}
}

// Load runs a step that leads to a page, and returns the page's URL, status and text.
func (b *Tab) Load(t testing.TB, step chromedp.Action[chromedp.Void]) (url string, status int64, text string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(b.Context, Patience)
	defer cancel()
	resp, err := chromedp.RunResponse(ctx, step)
	if err != nil {
		t.Fatal(err)
	}
	return resp.URL, resp.Status, Evaluate[string](t, b, "document.body.innerText")
}

// Becomes waits until the expression holds.
func (b *Tab) Becomes(t testing.TB, expression string) {
	t.Helper()
	for deadline := time.Now().Add(Patience); !Evaluate[bool](t, b, expression); time.Sleep(20 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("never: %s\n%s", expression, Evaluate[string](t, b, "location.href + document.body.outerHTML"))
		}
	}
}

// Scripts sets whether pages may run scripts.
func (b *Tab) Scripts(t testing.TB, may bool) {
	t.Helper()
	b.Do(t, Command(emulation.SetScriptExecutionDisabled, emulation.SetScriptExecutionDisabledParams{Value: !may}))
}

// Evaluate returns the value of a script in the page, or of the promise that it returns.
func Evaluate[T any](t testing.TB, b *Tab, script string) T {
	t.Helper()
	ctx, cancel := context.WithTimeout(b.Context, Patience)
	defer cancel()
	value, err := chromedp.Run(ctx, chromedp.Evaluate[T](script, chromedp.EvalAwaitPromise))
	if err != nil {
		t.Fatalf("%s: %v", script, err)
	}
	return value
}

// Look makes the window that wide, and pages "light" or "dark".
func (b *Tab) Look(t testing.TB, width int64, scheme string) {
	t.Helper()
	b.Do(t, chromedp.EmulateViewport(width, 800), Command(emulation.SetEmulatedMedia, emulation.SetEmulatedMediaParams{
		Features: []*emulation.MediaFeature{{Name: "prefers-color-scheme", Value: scheme}}}))
}

// TooWide returns by how many pixels the page is wider than the window.
func (b *Tab) TooWide(t testing.TB) int {
	t.Helper()
	return Evaluate[int](t, b, "document.documentElement.scrollWidth - document.documentElement.clientWidth")
}

// Violations returns what axe-core finds in the page, which has to run scripts for that, or nothing if AXE_CORE does
// not name axe-core's script.
func (b *Tab) Violations(t testing.TB) []string {
	t.Helper()
	file := os.Getenv("AXE_CORE")
	if file == "" {
		return nil
	}
	axe, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	b.Do(t, chromedp.Evaluate[chromedp.Void](string(axe)))
	return Evaluate[[]string](t, b, `axe.run({ preload: false, resultTypes: ["violations"], runOnly: { type: "tag", values: ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa"] } })
		.then(r => r.violations.flatMap(v => v.nodes.map(n => v.id + ": " + n.html + " " + n.failureSummary)))`)
}

// Picture writes a picture of the page to a file of the folder, or does nothing if that is "".
func (b *Tab) Picture(t testing.TB, folder, file string) {
	t.Helper()
	if folder == "" {
		return
	}
	png, err := chromedp.Run(b.Context, chromedp.FullScreenshot(100))
	if err == nil {
		err = os.WriteFile(filepath.Join(folder, file), png, 0o644)
	}
	if err != nil {
		t.Error(err)
	}
}

// Command is the step that sends a command of the DevTools protocol.
func Command[P, R any](c cdp.Command[P, R], params P) chromedp.Action[chromedp.Void] {
	return chromedp.Func(func(ctx context.Context, target *chromedp.Target) error {
		_, err := cdp.Call(ctx, target, c, params)
		return err
	})
}
