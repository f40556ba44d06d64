package main

import (
	"context"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/chromedp/cdproto/cdp"
	"github.com/chromedp/cdproto/emulation"
	"github.com/chromedp/cdproto/log"
	"github.com/chromedp/chromedp"
	"github.com/chromedp/chromedp/kb"

	"github.com/edison-cars/data-feeds/shared/postgres/pgtest"
)

var pictures = flag.String("pictures", "", "folder for pictures of the shop's pages")

const patience = 60 * time.Second // for a step in the browser

// A person uses the shop in a browser without a window.
type person struct {
	ctx      context.Context
	name     string
	keyboard bool // else by mouse
	scripts  bool
	axe      string // the script, or ""
	seen     int    // pages that were looked at

	mu     sync.Mutex
	errors []string // in the console, but for the status of pages
}

func startChromium(t *testing.T) context.Context {
	t.Helper()
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
	ctx, cancel := chromedp.NewExecAllocator(context.Background(), append(chromedp.DefaultExecAllocatorOptions[:],
		chromedp.ExecPath(path),
		chromedp.NoSandbox, // which root cannot have
		chromedp.WSURLReadTimeout(patience),
	)...)
	t.Cleanup(cancel)
	ctx, cancel = chromedp.NewContext(ctx)
	t.Cleanup(cancel)
	if err := chromedp.Do(ctx); err != nil {
		t.Fatal(err)
	}
	return ctx
}

func newPerson(t *testing.T, chromium context.Context, name string, width int64, keyboard, scripts bool) *person {
	t.Helper()
	p := &person{name: name, keyboard: keyboard, scripts: scripts}
	if file := os.Getenv("AXE_CORE"); file != "" {
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		p.axe = string(text)
	}
	ctx, cancel := chromedp.NewContext(chromium, chromedp.WithNewBrowserContext(), chromedp.WithListener(func(event any) {
		if e, ok := event.(*log.EventEntryAdded); ok && e.Entry.Level == log.EntryLevelError && e.Entry.Source != log.EntrySourceNetwork {
			p.mu.Lock()
			defer p.mu.Unlock()
			p.errors = append(p.errors, e.Entry.Text)
		}
	}))
	t.Cleanup(cancel)
	p.ctx = ctx
	if err := chromedp.Do(ctx); err != nil { // the tab lives as long as the context of the first step
		t.Fatal(err)
	}
	p.do(t, chromedp.EmulateViewport(width, 800), runScripts(scripts))
	return p
}

// runScripts says whether pages may run scripts.
func runScripts(may bool) chromedp.Action[chromedp.Void] {
	return chromedp.Func(func(ctx context.Context, target *chromedp.Target) error {
		_, err := cdp.Call(ctx, target, emulation.SetScriptExecutionDisabled, emulation.SetScriptExecutionDisabledParams{Value: !may})
		return err
	})
}

func (p *person) do(t *testing.T, steps ...chromedp.Action[chromedp.Void]) {
	t.Helper()
	ctx, cancel := context.WithTimeout(p.ctx, patience)
	defer cancel()
	if err := chromedp.Do(ctx, steps...); err != nil {
		t.Fatalf("%v\n%s", err, evaluate[string](t, p, "location.href + document.body.innerText"))
	}
}

func evaluate[T any](t *testing.T, p *person, script string) T {
	t.Helper()
	ctx, cancel := context.WithTimeout(p.ctx, patience)
	defer cancel()
	value, err := chromedp.Run(ctx, chromedp.Evaluate[T](script, chromedp.EvalAwaitPromise))
	if err != nil {
		t.Errorf("%s: %v", script, err)
	}
	return value
}

// reach brings the focus to an element, as the tabulator key does.
func (p *person) reach(t *testing.T, selector string) {
	t.Helper()
	for range 200 {
		if evaluate[bool](t, p, fmt.Sprintf("document.activeElement.matches(%q)", selector)) {
			return
		}
		p.do(t, chromedp.KeyEvent(kb.Tab))
	}
	t.Fatalf("the keyboard does not reach %s", selector)
}

// press clicks an element, or presses the key for it: Enter, or the space bar for a box.
func (p *person) press(t *testing.T, selector string) chromedp.Action[chromedp.Void] {
	t.Helper()
	if !p.keyboard {
		return chromedp.Click(chromedp.CSS(selector))
	}
	p.reach(t, selector)
	if strings.Contains(selector, "[value=") {
		return chromedp.KeyEvent(" ")
	}
	return chromedp.KeyEvent(kb.Enter)
}

// leads follows a link or sends a form, and wants a page of the status that says the words.
func (p *person) leads(t *testing.T, selector string, status int64, words ...string) {
	t.Helper()
	p.load(t, p.press(t, selector), status, words...)
}

func (p *person) load(t *testing.T, step chromedp.Action[chromedp.Void], status int64, words ...string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(p.ctx, patience)
	defer cancel()
	resp, err := chromedp.RunResponse(ctx, step)
	if err != nil {
		t.Fatal(err)
	}
	if resp.Status != status {
		t.Errorf("%s: %d, want %d", resp.URL, resp.Status, status)
	}
	p.says(t, words...)
}

// crosses goes from one app to the other. Without scripts a button does the last step.
func (p *person) crosses(t *testing.T, selector, until string) {
	t.Helper()
	step := p.press(t, selector)
	if !p.scripts {
		p.load(t, step, 200)
		p.look(t)
		step = p.press(t, "form[data-submit] button")
	}
	p.do(t, step, chromedp.WaitVisible(chromedp.CSS(until)))
}

// types replaces the text of a field.
func (p *person) types(t *testing.T, selector, text string) {
	t.Helper()
	if p.keyboard {
		p.reach(t, selector)
	} else {
		p.do(t, chromedp.Click(chromedp.CSS(selector)))
	}
	was := evaluate[int](t, p, fmt.Sprintf("document.querySelector(%q).value.length", selector))
	p.do(t, chromedp.KeyEvent(kb.End+strings.Repeat(kb.Backspace, was)+text))
}

func (p *person) says(t *testing.T, words ...string) {
	t.Helper()
	text := evaluate[string](t, p, "document.body.innerText")
	for _, w := range words {
		if !strings.Contains(strings.Join(strings.Fields(text), " "), w) {
			t.Fatalf("%s does not say %q: %s", evaluate[string](t, p, "location.href"), w, text)
		}
	}
}

// look checks what a page may not have: anything wider than the window, errors, or what axe-core finds.
func (p *person) look(t *testing.T) {
	t.Helper()
	where := p.name + " " + evaluate[string](t, p, "location.pathname")
	if over := evaluate[int](t, p, "document.documentElement.scrollWidth - document.documentElement.clientWidth"); over > 0 {
		t.Errorf("%s is %d px too wide", where, over)
	}
	if p.axe != "" && !p.keyboard { // to which the pages are the same
		p.do(t, runScripts(true), chromedp.Evaluate[chromedp.Void](p.axe))
		for _, found := range evaluate[[]string](t, p, `axe.run({ preload: false, resultTypes: ["violations"], runOnly: { type: "tag", values: ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa"] } })
			.then(r => r.violations.flatMap(v => v.nodes.map(n => v.id + ": " + n.html + " " + n.failureSummary)))`) {
			t.Errorf("%s: %s", where, found)
		}
		p.do(t, runScripts(p.scripts))
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, e := range p.errors {
		t.Errorf("%s: %s", where, e)
	}
	p.errors = nil
	if *pictures != "" {
		p.seen++
		png, err := chromedp.Run(p.ctx, chromedp.FullScreenshot(100))
		if err == nil {
			err = os.WriteFile(filepath.Join(*pictures, fmt.Sprintf("%s %02d.png", p.name, p.seen)), png, 0o644)
		}
		if err != nil {
			t.Error(err)
		}
	}
}

// A guest chooses, corrects, reviews and buys a car, signs up for it, and requests its cancellation.
func TestShopInABrowser(t *testing.T) {
	pgtest.Slow(t, "a browser")
	t.Parallel()
	co := openCompany(t)
	chromium := startChromium(t)
	for i := range 4 {
		width, scripts, keyboard := []int64{1280, 390}[i&1], i&2 != 0, (i+1)&2 != 0 // each pair of values once
		name := fmt.Sprintf("%d px, keyboard %t, scripts %t", width, keyboard, scripts)
		t.Run(name, func(t *testing.T) {
			p := newPerson(t, chromium, name, width, keyboard, scripts)
			total := func(want string) {
				t.Helper()
				if got := evaluate[string](t, p, "document.querySelector('#volta output').innerText"); got != want {
					t.Errorf("the total is %s, want %s", got, want)
				}
			}
			update := func() { // which scripts do at once
				t.Helper()
				if !scripts {
					p.leads(t, "#volta button[formaction]", 200)
				}
			}
			p.load(t, chromedp.Navigate(co.sales.URL+"/"), 200, "You are buying as a guest.")
			p.look(t)
			total("€26,990.00")
			p.do(t, p.press(t, "#volta [value=heat_pump]"))
			update()
			total("€27,970.00")
			p.types(t, "#quantity-volta", "2")
			update()
			total("€55,940.00")
			if scripts {
				p.do(t, p.press(t, "#volta [value=heat_pump]"))
				total("€53,980.00")
				p.do(t, p.press(t, "#volta [value=heat_pump]"))
				p.types(t, "#quantity-volta", "51")
				total("–")
				p.types(t, "#quantity-volta", "2")
			}
			p.leads(t, "#volta button:not([formaction])", 200, "Review your order", "Heat pump", "€55,940.00")
			p.look(t)
			p.leads(t, "main a[href*='#volta']", 200)
			total("€55,940.00")
			if !evaluate[bool](t, p, "document.querySelector('#volta [value=heat_pump]').checked && document.querySelector('#quantity-volta').value === '2'") {
				t.Error("the form has not what was filled in")
			}

			p.load(t, chromedp.Navigate(co.sales.URL+"/review?model=volta&options=heat_pump&quantity=51"), 422, "Nothing was bought.", "Quantity must be 1 to 50")
			p.look(t)
			p.do(t, p.press(t, ".banner a[href='#quantity-volta']"))
			if !keyboard || evaluate[bool](t, p, "document.activeElement.id === 'quantity-volta'") {
				p.types(t, "#quantity-volta", "1")
			} else {
				t.Error("the link does not lead to the field")
			}
			p.leads(t, "#volta button:not([formaction])", 200, "Heat pump", "€27,970.00")
			p.leads(t, "form[action='/orders'] button", 200, "Thank you for your order.", "What you can still do", "We do not know where to deliver it.")
			p.look(t)

			p.crosses(t, "form[action='/signin'] button", "form[action='/customers']")
			p.says(t, "becomes the account's")
			p.look(t)
			for _, f := range [][2]string{{"name", "Ada Lovelace"}, {"email", "ada@example.com"}, {"street", "St James Square 12"}, {"postal_code", "SW1Y 4JH"}, {"city", "London"}} {
				p.types(t, "#"+f[0], f[1])
			}
			if keyboard {
				p.reach(t, "#country")
				p.do(t, chromedp.KeyEvent("United K"))
			} else {
				p.do(t, chromedp.SetValue(chromedp.CSS("#country"), "GB"))
			}
			p.crosses(t, "form[action='/customers'] button", "form[action$='/cancel']")
			p.says(t, "your account", "Request cancellation")
			p.look(t)
			p.leads(t, "form[action$='/cancel'] button", 200, "Cancellation requested.", "Order the same again")
			p.look(t)
			p.leads(t, "main a[href*='#volta']", 200, "You are signed in as customer")
			total("€27,970.00")
			p.leads(t, "nav a[href='/orders']", 200, "cancellation requested")
			p.look(t)
		})
	}
	if os.Getenv("AXE_CORE") == "" {
		t.Log("the pages were not checked by axe-core: npm pack axe-core@4.14.1, unpack it, and let AXE_CORE name its axe.min.js")
	}
}
