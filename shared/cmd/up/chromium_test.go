package main

import (
	"context"
	"fmt"
	"net/url"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/chromedp/cdproto/emulation"
	"github.com/chromedp/cdproto/log"
	"github.com/chromedp/cdproto/network"
	"github.com/chromedp/cdproto/runtime"
	"github.com/chromedp/chromedp"

	"github.com/edison-cars/data-feeds/shared/dev/chromium"
)

// A tab is one of the browser that notes what no page may do.
type tab struct {
	ctx   context.Context
	hosts []string // of the company

	address string // of what the tab shows, where it was taken from there

	mu      sync.Mutex
	errors  []string
	refusal bool // is what the next page is to be
}

// openTab opens a tab in which cookies are those of nobody else.
func (v *visit) openTab(t *testing.T) *tab {
	t.Helper()
	b := &tab{hosts: []string{fmt.Sprintf("localhost:%d", mapPort+v.offset)}}
	for _, s := range v.services {
		b.hosts = append(b.hosts, strings.TrimPrefix(v.url(s.name), "http://"))
	}
	ctx, cancel := chromedp.NewContext(v.browser, chromedp.WithNewBrowserContext(), chromedp.WithListener(b.note))
	t.Cleanup(cancel)
	b.ctx = ctx
	if err := chromedp.Do(ctx); err != nil {
		t.Fatal(err)
	}
	return b
}

// note notes errors in the console, and requests that leave the company.
func (b *tab) note(event any) {
	b.mu.Lock()
	defer b.mu.Unlock()
	switch e := event.(type) {
	case *network.EventRequestWillBeSent:
		if u, err := url.Parse(e.Request.URL); err != nil || u.Scheme != "data" && !slices.Contains(b.hosts, u.Host) {
			b.errors = append(b.errors, "it asks for "+e.Request.URL)
		}
	case *runtime.EventExceptionThrown:
		b.errors = append(b.errors, "exception: "+(&chromedp.ExceptionError{ExceptionDetails: e.ExceptionDetails}).Error())
	case *runtime.EventConsoleAPICalled:
		if e.Type == runtime.ConsoleAPICalledTypeError || e.Type == runtime.ConsoleAPICalledTypeAssert {
			b.errors = append(b.errors, fmt.Sprintf("console: %v", e.Args))
		}
	case *log.EventEntryAdded:
		if e.Entry.Level == log.EntryLevelError && !(b.refusal && e.Entry.Source == log.EntrySourceNetwork) {
			b.errors = append(b.errors, fmt.Sprintf("console: %s %s", e.Entry.Text, e.Entry.URL))
		}
	}
}

// blameless checks that no page in the tab has done what none may do since the last check.
func (b *tab) blameless(t *testing.T, where string) {
	t.Helper()
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, e := range b.errors {
		t.Errorf("%s: %s", where, e)
	}
	b.errors = nil
}

// do runs the steps and fails the test if one fails, or takes longer than anybody waits.
func (b *tab) do(t *testing.T, steps ...chromedp.Action[chromedp.Void]) {
	t.Helper()
	ctx, cancel := context.WithTimeout(b.ctx, patience)
	defer cancel()
	if err := chromedp.Do(ctx, steps...); err != nil {
		t.Fatalf("%v\n%s", err, b.text())
	}
}

// load runs steps of which the last one leads to another page, and wants its status.
func (b *tab) load(t *testing.T, status int64, steps ...chromedp.Action[chromedp.Void]) {
	t.Helper()
	ctx, cancel := context.WithTimeout(b.ctx, patience)
	defer cancel()
	resp, err := chromedp.RunResponse(ctx, steps...)
	if err != nil {
		t.Fatalf("%v\n%s", err, b.text())
	}
	if resp.Status != status {
		t.Fatalf("%s: %d\n%s", resp.URL, resp.Status, b.text())
	}
}

// open loads a page that is there.
func (b *tab) open(t *testing.T, url string) {
	t.Helper()
	b.load(t, 200, chromedp.Navigate(url))
}

// refused runs a step that leads to a page which says no.
func (b *tab) refused(t *testing.T, status int64, step chromedp.Action[chromedp.Void]) {
	t.Helper()
	b.mu.Lock()
	b.refusal = true // of which the browser tells the console
	b.mu.Unlock()
	b.load(t, status, step)
	b.mu.Lock()
	b.refusal = false
	b.mu.Unlock()
}

// click follows a link, or sends a form.
func (b *tab) click(t *testing.T, selector chromedp.CSS) {
	t.Helper()
	b.load(t, 200, chromedp.Click(selector))
}

// goes sends a form, and waits until a page is there that has what the other selector finds.
func (b *tab) goes(t *testing.T, form, until chromedp.CSS) {
	t.Helper()
	b.do(t, chromedp.Click(form), chromedp.WaitVisible(until))
}

// fill fills fields in, by their names.
func (b *tab) fill(t *testing.T, form string, fields ...string) {
	t.Helper()
	for i := 0; i < len(fields); i += 2 {
		b.do(t, chromedp.SetValue(chromedp.CSS(fmt.Sprintf("%s [name=%s]", form, fields[i])), fields[i+1]))
	}
}

// text is what the page says.
func (b *tab) text() string {
	text, err := evaluate[string](b, "document.body.innerText")
	if err != nil {
		return err.Error()
	}
	return text
}

// shows loads the page until it says all of that.
func (b *tab) shows(t *testing.T, url string, words ...string) {
	t.Helper()
	eventually(t, func() error {
		b.open(t, url)
		return b.says(words...)
	})
}

func (b *tab) says(words ...string) error {
	text := strings.Join(strings.Fields(b.text()), " ")
	for _, w := range words {
		if !strings.Contains(strings.ToLower(text), strings.ToLower(w)) { // style may change the case
			return fmt.Errorf("the page does not say %q: %s", w, text)
		}
	}
	return nil
}

// evaluate returns what a script makes of the page, whatever its Content-Security-Policy.
func evaluate[T any](b *tab, script string) (T, error) {
	ctx, cancel := context.WithTimeout(b.ctx, patience)
	defer cancel()
	return chromedp.Run(ctx, chromedp.Evaluate[T](script, chromedp.EvalAwaitPromise))
}

// scripts says whether pages may run scripts of theirs.
func (b *tab) scripts(t *testing.T, on bool) {
	t.Helper()
	b.do(t, chromium.Command(emulation.SetScriptExecutionDisabled, emulation.SetScriptExecutionDisabledParams{Value: !on}))
}

// A look is one of those in which each page is looked at.
type look struct {
	name   string
	width  int64
	scheme string
}

var looks = []look{{"wide-light", 1280, "light"}, {"wide-dark", 1280, "dark"}, {"narrow-light", 360, "light"}, {"narrow-dark", 360, "dark"}}

// looksInTurn returns both widths and both schemes at half the price: each two of four that have nothing in common. All
// pages have one style sheet.
func looksInTurn(n int) []look {
	return []look{looks[n%2], looks[3-n%2]}
}

func (b *tab) put(t *testing.T, l look) {
	t.Helper()
	b.do(t,
		chromedp.EmulateViewport(l.width, 800),
		chromium.Command(emulation.SetEmulatedMedia, emulation.SetEmulatedMediaParams{Features: []*emulation.MediaFeature{
			{Name: "prefers-color-scheme", Value: l.scheme},
			{Name: "prefers-reduced-motion", Value: "reduce"}, // no colour halfway between two
		}}),
	)
}
