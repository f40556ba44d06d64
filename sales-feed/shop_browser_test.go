package main

import (
	"context"
	"flag"
	"fmt"
	"os"
	"strings"
	"testing"

	"github.com/chromedp/chromedp"
	"github.com/chromedp/chromedp/kb"

	"github.com/edison-cars/data-feeds/shared/dev/chromium"
)

var pictures = flag.String("pictures", "", "folder for pictures of the shop's pages")

// A person uses the shop in a browser without a window.
type person struct {
	*chromium.Tab
	name     string
	keyboard bool // else by mouse
	scripts  bool
	seen     int // pages that were looked at
}

func newPerson(t *testing.T, browser context.Context, name string, width int64, keyboard, scripts bool) *person {
	t.Helper()
	p := &person{Tab: chromium.NewTab(t, browser), name: name, keyboard: keyboard, scripts: scripts}
	p.Do(t, chromedp.EmulateViewport(width, 800))
	p.Scripts(t, scripts)
	return p
}

// reach brings the focus to an element, as the tabulator key does.
func (p *person) reach(t *testing.T, selector string) {
	t.Helper()
	for range 200 {
		if chromium.Evaluate[bool](t, p.Tab, fmt.Sprintf("document.activeElement.matches(%q)", selector)) {
			return
		}
		p.Do(t, chromedp.KeyEvent(kb.Tab))
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
	url, got, _ := p.Load(t, step)
	if got != status {
		t.Errorf("%s: %d, want %d", url, got, status)
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
	p.Do(t, step, chromedp.WaitVisible(chromedp.CSS(until)))
}

// types replaces the text of a field.
func (p *person) types(t *testing.T, selector, text string) {
	t.Helper()
	if p.keyboard {
		p.reach(t, selector)
	} else {
		p.Do(t, chromedp.Click(chromedp.CSS(selector)))
	}
	was := chromium.Evaluate[int](t, p.Tab, fmt.Sprintf("document.querySelector(%q).value.length", selector))
	p.Do(t, chromedp.KeyEvent(kb.End+strings.Repeat(kb.Backspace, was)+text))
}

func (p *person) says(t *testing.T, words ...string) {
	t.Helper()
	text := chromium.Evaluate[string](t, p.Tab, "document.body.innerText")
	for _, w := range words {
		if !strings.Contains(strings.Join(strings.Fields(text), " "), w) {
			t.Fatalf("%s does not say %q: %s", chromium.Evaluate[string](t, p.Tab, "location.href"), w, text)
		}
	}
}

// look checks what a page may not have: anything wider than the window, errors, or what axe-core finds.
func (p *person) look(t *testing.T) {
	t.Helper()
	where := p.name + " " + chromium.Evaluate[string](t, p.Tab, "location.pathname")
	if over := p.TooWide(t); over > 0 {
		t.Errorf("%s is %d px too wide", where, over)
	}
	if !p.keyboard { // to which the pages are the same
		p.Scripts(t, true)
		for _, found := range p.Violations(t) {
			t.Errorf("%s: %s", where, found)
		}
		p.Scripts(t, p.scripts)
	}
	for _, e := range p.Errors() {
		t.Errorf("%s: %s", where, e)
	}
	p.seen++
	p.Picture(t, *pictures, fmt.Sprintf("%s %02d.png", p.name, p.seen))
}

// A guest chooses, corrects, reviews and buys a car, signs up for it, and requests its cancellation.
func TestShopInABrowser(t *testing.T) {
	t.Parallel()
	browser := chromium.Start(t)
	co := openCompany(t)
	for i := range 4 {
		width, scripts, keyboard := []int64{1280, 390}[i&1], i&2 != 0, (i+1)&2 != 0 // each pair of values once
		name := fmt.Sprintf("%d px, keyboard %t, scripts %t", width, keyboard, scripts)
		t.Run(name, func(t *testing.T) {
			p := newPerson(t, browser, name, width, keyboard, scripts)
			total := func(want string) {
				t.Helper()
				if got := chromium.Evaluate[string](t, p.Tab, "document.querySelector('#volta output').innerText"); got != want {
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
			p.Do(t, p.press(t, "#volta [value=heat_pump]"))
			update()
			total("€27,970.00")
			p.types(t, "#quantity-volta", "2")
			update()
			total("€55,940.00")
			if scripts {
				p.Do(t, p.press(t, "#volta [value=heat_pump]"))
				total("€53,980.00")
				p.Do(t, p.press(t, "#volta [value=heat_pump]"))
				p.types(t, "#quantity-volta", "51")
				total("–")
				p.types(t, "#quantity-volta", "2")
			}
			p.leads(t, "#volta button:not([formaction])", 200, "Review your order", "Heat pump", "€55,940.00")
			p.look(t)
			p.leads(t, "main a[href*='#volta']", 200)
			total("€55,940.00")
			if !chromium.Evaluate[bool](t, p.Tab, "document.querySelector('#volta [value=heat_pump]').checked && document.querySelector('#quantity-volta').value === '2'") {
				t.Error("the form has not what was filled in")
			}

			p.load(t, chromedp.Navigate(co.sales.URL+"/review?model=volta&options=heat_pump&quantity=51"), 422, "Nothing was bought.", "Quantity must be 1 to 50")
			p.look(t)
			p.Do(t, p.press(t, ".banner a[href='#quantity-volta']"))
			if !keyboard || chromium.Evaluate[bool](t, p.Tab, "document.activeElement.id === 'quantity-volta'") {
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
				p.Do(t, chromedp.KeyEvent("United K"))
			} else {
				p.Do(t, chromedp.SetValue(chromedp.CSS("#country"), "GB"))
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
