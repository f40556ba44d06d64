package main

import (
	"context"
	"encoding/json"
	"fmt"
	"path"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/chromedp/chromedp"
	"github.com/chromedp/chromedp/kb"
	"github.com/google/uuid"

	"github.com/edison-cars/data-feeds/shared/dev/chromium"
	"github.com/edison-cars/data-feeds/shared/order"
)

// A visit is a purchase of a car in a browser, and the look of another person at what becomes of it.
type visit struct {
	*bench
	browser context.Context
	axe     string
	up      *process
	visitor *tab
	away    []string // services that were killed
	order   order.Order
}

// browse follows one order, bought in a browser, through the whole company.
func browse(t *testing.T, b *bench, up *process) {
	// No process in advance for each page, nor what was left kept in memory.
	lean := chromedp.Flag("disable-features", "Translate,BlinkGenPropertyTrees,SpareRendererForSitePerProcess,BackForwardCache")
	v := &visit{bench: b, up: up, browser: chromium.Start(t, lean, chromedp.WSURLReadTimeout(patience)), axe: axe(t)}
	v.visitor = v.openTab(t)
	for _, step := range []struct {
		name string
		run  func(*testing.T)
	}{
		{"a visitor signs up at customers, which is killed", v.signUp},
		{"buys a car all the same; sales is killed", v.buy},
		{"every page of the others reads, and says how old it is", v.readStale},
		{"both are started by hand", v.startAgain},
		{"the order reaches the whole company", v.follow},
		{"a schedule set by a form is in force", v.tune},
		{"an order arrives in a page that is open", v.arrive},
		{"every page is for everybody", v.lookAtAll},
		{"so are those that say no", v.lookAtProblems},
		{"another browser is signed in by a link, cancels its orders, and signs out", v.signInElsewhere},
		{"new users find their way, in few steps", v.walk},
	} {
		if !t.Run(step.name, step.run) {
			return
		}
	}
	if v.axe == "" {
		t.Run("axe-core", func(t *testing.T) {
			t.Skip("the pages were not checked by axe-core: npm pack axe-core@4.14.1, unpack it, and let AXE_CORE name its axe.min.js")
		})
	}
}

// The visitor needs no script.
func (v *visit) signUp(t *testing.T) {
	b := v.visitor
	b.scripts(t, false)
	b.open(t, v.url(sales)+"/")
	b.click(t, `form[action="/signin"] button`)
	b.click(t, `form[data-submit] button`)
	b.fill(t, "main form", "name", "Grace Hopper", "email", "grace@example.com", "street", "Harbour Street 9", "postal_code", "D02 XY45", "city", "Dublin", "country", "IE")
	b.click(t, `main form button`)
	b.click(t, `form[data-submit] button`)
	if err := b.says("You are signed in as customer"); err != nil {
		t.Fatal(err)
	}
	b.blameless(t, "signing up")
	v.kill(t, customersApp)
}

func (v *visit) buy(t *testing.T) {
	b := v.visitor
	b.open(t, v.url(sales)+"/")
	b.do(t, chromedp.Click(chromedp.CSS(`#ohm [value=third_row]`)), chromedp.Click(chromedp.CSS(`#ohm [value=tow_bar]`)))
	b.buy(t, "ohm")
	if err := b.says("Thank you", "Edison Ohm", "Third row"); err != nil {
		t.Fatal(err)
	}
	at := b.order(t)
	v.kill(t, sales)
	b.blameless(t, "buying")
	if err := v.order.ID.UnmarshalText([]byte(path.Base(at))); err != nil {
		t.Fatal(err)
	}
}

// buy sends a model's form, and then that of the review.
func (b *tab) buy(t *testing.T, model string) {
	t.Helper()
	b.click(t, chromedp.CSS("#"+model+" button"))
	b.click(t, `form[action="/orders"] button`)
}

// order returns the address of the order that the page shows.
func (b *tab) order(t *testing.T) string {
	t.Helper()
	at, err := evaluate[string](b, `document.querySelector(".facts a[href^='/orders/']").href`)
	if err != nil {
		t.Fatal(err)
	}
	return at
}

// kill kills a service, and with it its server.
func (v *visit) kill(t *testing.T, name string) {
	t.Helper()
	if err := syscall.Kill(v.pid(t, name, "lock"), syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	v.away = append(v.away, name)
	v.up.says(t, name+" has died: signal: killed. The others go on.")
}

func (v *visit) mapURL() string {
	return fmt.Sprintf("http://localhost:%d/?refresh=off", mapPort+v.offset)
}

func (v *visit) readStale(t *testing.T) {
	b := v.visitor
	b.shows(t, v.mapURL(), "sales: down", "customers: down")
	start := []string{v.mapURL()}
	for _, s := range v.services {
		if len(s.reads) > 0 {
			b.shows(t, v.url(s.name)+"/", "stale, polls fail since ", "This is the copy as of")
			start = append(start, v.url(s.name)+"/")
		}
	}
	count := v.crawl(t, start, 1, func(t *testing.T, b *tab, at stop) {
		page, err := evaluate[struct {
			Path          string
			Stale, Banner bool
		}](b, `({ Path: location.pathname, Stale: !!document.querySelector(".copies .stale"), Banner: !!document.querySelector(".banner.stale") })`)
		if err != nil || page.Stale != page.Banner {
			t.Errorf("%+v, %v", page, err)
		}
		if at.start {
			v.look(t, b, looksInTurn(at.turn))
		}
	})
	for _, s := range v.services {
		if len(s.reads) > 0 && count[s.name] < 3 {
			t.Errorf("%d pages of %s were read", count[s.name], s.name)
		}
	}
	b.blameless(t, "reading without sales and customers")
}

func (v *visit) startAgain(t *testing.T) {
	for _, name := range v.away {
		v.startAsTold(t, v.up, name)
		v.up.says(t, name+" is back: "+v.url(name))
	}
	v.away = nil
	v.visitor.shows(t, v.mapURL(), "sales up", "customers up")
}

func (v *visit) follow(t *testing.T) {
	b := v.visitor
	if err := getJSON(v.url(sales)+"/orders/"+v.order.ID.String(), &v.order); err != nil {
		t.Fatal(err)
	}
	if l := v.order.Lines; len(l) != 1 || l[0].Model != "ohm" || fmt.Sprint(l[0].Options) != "[third_row tow_bar]" {
		t.Errorf("the order is %+v", v.order)
	}
	if entries := v.replay(t); len(entries) != 1 || entries[0].Datafeed.Entity.ID != v.order.ID {
		t.Errorf("the feed has %+v", entries)
	}
	short := v.order.ID.String()[28:]
	price := regexp.MustCompile(`\B(\d{3})\b`).ReplaceAllString(fmt.Sprint(v.order.TotalCents/100), ",$1")
	b.shows(t, v.url(sales)+"/feeds/orders", "Order "+short+" placed: 1 Edison Ohm")
	b.shows(t, v.url("warehouse")+"/parts/tow-bar", short)
	b.shows(t, v.url("dashboard")+"/", price)
	b.shows(t, v.url("billing")+"/", "Grace Hopper", price)
	b.click(t, `tbody a`)
	if err := b.says("Invoice", "Harbour Street 9", "D02 XY45 Dublin", "Ireland", v.order.ID.String(), price); err != nil {
		t.Error(err)
	}
	b.shows(t, v.url("assembly")+"/", "Finished last", short)
	b.click(t, `tbody a`)
	if err := b.says("finished", v.order.ID.String()); err != nil {
		t.Error(err)
	}
	b.shows(t, v.url("shipping")+"/", "Shipped 1", "Grace Hopper, Dublin", short)
	b.click(t, `tbody a`)
	if err := b.says("shipped", "Grace Hopper", "Harbour Street 9", "Ireland", short); err != nil {
		t.Error(err)
	}
	b.shows(t, v.url("mailer")+"/", short)
	b.click(t, `tbody a`)
	at, err := evaluate[string](b, "location.href")
	if err != nil {
		t.Fatal(err)
	}
	b.shows(t, at, "<grace@example.com>", "Edison Ohm", price, "Sent ")
	b.shows(t, v.url(sink)+"/", "grace@example.com")
	b.click(t, `main ul a, tbody a`)
	if err := b.says("Hello,", v.order.ID.String(), price); err != nil {
		t.Error(err)
	}
	b.blameless(t, "following the order")
}

// press brings the focus to an element by the tabulator key, and returns the step that presses Enter.
func (b *tab) press(t *testing.T, selector string) chromedp.Action[chromedp.Void] {
	t.Helper()
	for range 300 {
		if there, err := evaluate[bool](b, fmt.Sprintf("document.activeElement.matches(%q)", selector)); err != nil || there {
			return chromedp.KeyEvent(kb.Enter)
		}
		b.do(t, chromedp.KeyEvent(kb.Tab))
	}
	t.Fatalf("the keyboard does not reach %s\n%s", selector, b.text())
	return nil
}

// signInElsewhere needs scripts: what one app hands over to the other one goes by itself. A guest's order stays in the
// browser.
func (v *visit) signInElsewhere(t *testing.T) {
	b := v.openTab(t)
	b.open(t, v.url(sales)+"/")
	b.buy(t, "volta")
	asGuest := b.order(t)
	b.open(t, v.url(sales)+"/")
	b.goes(t, `form[action="/signin"] button`, `form[action="/customers"]`)
	v.look(t, b, looks)
	b.fill(t, `form[action="/signin"]`, "email", "grace@example.com")
	b.click(t, `form[action="/signin"] button`)
	if err := b.says("we have sent it a link"); err != nil {
		t.Fatal(err)
	}
	v.look(t, b, looks)
	var link string
	eventually(t, func() error {
		var mails []struct {
			Subject, Text string
		}
		if err := getJSON(v.url(sink)+"/api/mails", &mails); err != nil {
			return err
		}
		for _, m := range mails {
			if found := regexp.MustCompile(`\S+/signin/\S+`).FindString(m.Text); found != "" && m.Subject == "Sign in at Edison Cars" {
				link = found
				return nil
			}
		}
		return fmt.Errorf("no link in %+v", mails)
	})
	b.open(t, link)
	v.look(t, b, looks)
	b.goes(t, `form[action^="/signin/"] button`, `form[action="/signout"]`)
	if err := b.says("You are signed in as customer"); err != nil {
		t.Fatal(err)
	}
	b.buy(t, "ampere")
	b.click(t, `form[action$="/cancel"] button`)
	if err := b.says("Cancellation requested"); err != nil {
		t.Error(err)
	}
	v.look(t, b, looks)
	b.open(t, asGuest)
	b.click(t, `form[action$="/cancel"] button`)
	b.open(t, v.url(sales)+"/")
	b.click(t, `.banner a`)
	if err := b.says("Grace Hopper", "Delete the account", "This browser stays signed in"); err != nil {
		t.Error(err)
	}
	v.look(t, b, looks)
	b.goes(t, `form[action="/signout"] button`, `form[action="/signin"]`)
	b.refused(t, 404, chromedp.Navigate(link))
	v.look(t, b, looks)
	b.open(t, v.url(customersApp)+"/account")
	if err := b.says("The browser in which you signed up stays signed in"); err != nil {
		t.Error(err)
	}
	v.look(t, b, looks)
	b.blameless(t, "signing in and out")
}

func (v *visit) tune(t *testing.T) {
	b := v.openTab(t)
	inForce := func(schedule, source string) {
		t.Helper()
		var list []struct {
			Feed      string
			Schedule  string
			Source    string      `json:"schedule_source"`
			NextPolls []time.Time `json:"next_polls"`
		}
		if err := getJSON(v.url("warehouse")+"/subscriptions", &list); err != nil || len(list) != 2 || list[0].Feed != "orders" {
			t.Fatalf("%+v, %v", list, err)
		}
		s := list[0]
		if s.Schedule != schedule || s.Source != source {
			t.Errorf("in force is %+v", s)
		}
		apart := s.NextPolls[1].Sub(s.NextPolls[0])
		if want := map[string]time.Duration{"@every 1s": time.Second, "@every 2s": 2 * time.Second, "0 6 * * *": 24 * time.Hour}[schedule]; apart != want {
			t.Errorf("%s: polls are %v apart", schedule, apart)
		}
	}
	b.open(t, v.url("warehouse")+"/")
	b.do(t, chromedp.Click(chromedp.CSS(".copies summary")))
	b.fill(t, ".copies form", "schedule", "@every 2s")
	b.click(t, ".copies form button")
	if err := b.says("nothing is set yet", "43,200 a day"); err != nil {
		t.Error(err)
	}
	inForce("@every 1s", "environment")
	v.look(t, b, looks)
	b.click(t, "main form[method=post] button")
	if err := b.says("@every 2s (set at run time)", "304, nothing new"); err != nil {
		t.Error(err)
	}
	v.look(t, b, looks)
	inForce("@every 2s", "runtime")

	at := v.url("warehouse") + "/subscriptions/orders/schedule"
	b.open(t, at)
	b.fill(t, "main form", "schedule", "0 6 * *")
	b.refused(t, 422, chromedp.Click(chromedp.CSS("main form button")))
	if err := b.says("schedule"); err != nil {
		t.Error(err)
	}
	v.look(t, b, looks)
	inForce("@every 2s", "runtime")
	b.fill(t, "main form", "schedule", "0 6 * * *")
	b.click(t, "main form[method=get] button")
	inForce("@every 2s", "runtime")
	b.click(t, "main form[method=post] button")
	inForce("0 6 * * *", "runtime")
	b.open(t, at)
	b.click(t, `main form button[name=reset]`)
	b.click(t, "main form[method=post] button")
	inForce("@every 1s", "environment")
	b.blameless(t, "tuning")
}

// arrive needs scripts.
func (v *visit) arrive(t *testing.T) {
	b := v.openTab(t)
	b.open(t, v.url(sales)+"/feeds/orders")
	b.do(t, chromedp.WaitVisible(chromedp.CSS("#follow .badge.fresh")), chromedp.Evaluate[chromedp.Void]("window.sameAsBefore = true"))
	bought := v.post(t, "/orders", `{"lines": [{"model": "volta", "quantity": 3}]}`)
	b.do(t, chromedp.WaitVisible(chromedp.CSS("#entry-2.arrived")))
	if err := b.says("Order "+bought[28:]+" placed: 3 Edison Volta", "entries 2 to 1"); err != nil {
		t.Error(err)
	}
	if same, err := evaluate[bool](b, "window.sameAsBefore"); err != nil || !same {
		t.Errorf("the page was loaded again: %v", err)
	}
	b.blameless(t, "an open feed page")
}

// lookAtAll looks at pages that have all that pages may show: a credit note, an order that waits for its customer, one
// that is cancelled.
func (v *visit) lookAtAll(t *testing.T) {
	b := v.visitor
	b.open(t, v.url(sales)+"/")
	b.fill(t, "#ampere", "quantity", "2")
	b.do(t, chromedp.Click(chromedp.CSS(`#ampere [value=glass_roof]`)))
	b.buy(t, "ampere")
	cancelled := path.Base(b.order(t))
	b.shows(t, v.url("billing")+"/", "Invoices 2", "Orders waiting 1")
	b.open(t, v.url(sales)+"/orders/"+cancelled)
	b.click(t, `form[action$="/cancel"] button`)
	v.invoiced(t, uuid.MustParse(cancelled), 2)
	v.visitor.shows(t, v.url("billing")+"/", "Credit notes 1")
	start := []string{v.mapURL(), v.url(customersApp) + "/customers/" + v.order.CustomerID.String(), v.url(sales) + "/orders/" + cancelled}
	for _, s := range v.services {
		start = append(start, v.url(s.name)+"/")
	}
	count := v.crawl(t, start, 2, func(t *testing.T, b *tab, at stop) {
		seen := looksInTurn(at.turn)
		if at.start {
			seen = looks
		}
		v.look(t, b, seen)
		if at.first {
			withoutScripts(t, b)
		}
	})
	for _, s := range v.services {
		if count[s.name] < 2 {
			t.Errorf("%d pages of %s were looked at", count[s.name], s.name)
		}
	}
	t.Logf("looked at %v", count)
}

func (v *visit) lookAtProblems(t *testing.T) {
	b := v.openTab(t)
	for i, s := range v.services {
		b.refused(t, 404, chromedp.Navigate(v.url(s.name)+"/nothing/here"))
		v.look(t, b, looksInTurn(i))
	}
	b.open(t, v.url(customersApp)+"/signup")
	b.fill(t, "main form", "name", "Grace", "email", "grace@example", "street", " ", "postal_code", "1", "city", "Dublin", "country", "IE")
	b.refused(t, 422, chromedp.Click(chromedp.CSS("main form button")))
	v.look(t, b, looks)
}

// post returns the id of the order that sales answers with.
func (v *visit) post(t *testing.T, path, body string) string {
	t.Helper()
	resp, err := client.Post(v.url(sales)+path, "application/json", strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	var o order.Order
	if err := json.NewDecoder(resp.Body).Decode(&o); err != nil || resp.StatusCode >= 300 {
		t.Fatalf("%s: %d, %v", path, resp.StatusCode, err)
	}
	return o.ID.String()
}
