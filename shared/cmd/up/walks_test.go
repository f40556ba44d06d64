package main

import (
	"fmt"
	"net/http"
	"path"
	"strings"
	"testing"

	"github.com/chromedp/chromedp"
	"github.com/chromedp/chromedp/kb"
	"github.com/google/uuid"
)

// maxSteps is how many steps a walk may take. A step opens a page, fills in and sends a form, or is a click that leads on.
const maxSteps = 5

// A walker is a new user of the company, in a browser of their own.
type walker struct {
	*tab
	*visit
	keyboard bool // else by mouse
	look     look
	name     string

	walk  string
	steps int

	order string // that was bought as a guest, its id
}

// walkers use all of what a new user would: mouse and keyboard, both widths, both colour schemes.
func (v *visit) walkers(t *testing.T) (all []*walker) {
	for i, name := range []string{"Grete Hermann", "Emmy Noether", "Lise Meitner", "Hertha Ayrton"} {
		w := &walker{tab: v.openTab(t), visit: v, keyboard: i%2 == 1, look: looks[i], name: name}
		if w.look.width < 390 {
			w.look.width = 390
		}
		w.put(t, w.look)
		all = append(all, w)
	}
	return all
}

// begins starts to count the steps of a walk.
func (w *walker) begins(walk string) { w.walk, w.steps = walk, 0 }

// ends checks the number of steps, and looks at the page to which they have led.
func (w *walker) ends(t *testing.T) {
	t.Helper()
	if w.steps > maxSteps {
		t.Errorf("%s takes %d steps", w.walk, w.steps)
	}
	t.Logf("%s, %s: %d steps", w.walk, w.look.name, w.steps)
	w.visit.look(t, w.tab, []look{w.look})
	w.blameless(t, w.walk)
}

func (w *walker) opens(t *testing.T, url string) {
	t.Helper()
	w.steps++
	w.open(t, url)
}

// presses returns the step that clicks on an element, or presses Enter when the keyboard has reached it.
func (w *walker) presses(t *testing.T, selector string) chromedp.Action[chromedp.Void] {
	t.Helper()
	w.steps++
	if w.keyboard {
		return w.press(t, selector)
	}
	return chromedp.Click(chromedp.CSS(selector))
}

// leads follows a link, or sends a form.
func (w *walker) leads(t *testing.T, selector string) {
	t.Helper()
	w.load(t, 200, w.presses(t, selector))
}

// crosses goes from one app to the other.
func (w *walker) crosses(t *testing.T, selector, until string) {
	t.Helper()
	w.do(t, w.presses(t, selector), chromedp.WaitVisible(chromedp.CSS(until)))
}

// unfolds opens what stands folded on the page.
func (w *walker) unfolds(t *testing.T, details string) {
	t.Helper()
	w.do(t, w.presses(t, details+" > summary"), chromedp.WaitVisible(chromedp.CSS(details+"[open]")))
}

// types replaces the text of a field, which is no step of its own.
func (w *walker) types(t *testing.T, selector, text string) {
	t.Helper()
	if w.keyboard {
		w.press(t, selector)
	} else {
		w.do(t, chromedp.Click(chromedp.CSS(selector)))
	}
	was, err := evaluate[int](w.tab, "document.activeElement.value.length")
	if err != nil {
		t.Fatal(err)
	}
	w.do(t, chromedp.KeyEvent(kb.End+strings.Repeat(kb.Backspace, was)+text))
}

// waits waits until the page that is open says the words.
func (w *walker) waits(t *testing.T, words ...string) {
	t.Helper()
	eventually(t, func() error { return w.says(words...) })
}

// searches follows an id from the map.
func (w *walker) searches(t *testing.T, id string) {
	t.Helper()
	w.opens(t, w.theMap())
	w.types(t, "#q", id)
	w.leads(t, "form[role=search] button")
}

// theMap is the map as everybody opens it: it updates.
func (v *visit) theMap() string { return strings.TrimSuffix(v.mapURL(), "?refresh=off") }

// walk lets new users do whatever the company is for.
func (v *visit) walk(t *testing.T) {
	all := v.walkers(t)
	each := func(walk string, run func(*walker, *testing.T)) {
		t.Helper()
		for _, w := range all {
			w.begins(walk)
			run(w, t)
			w.ends(t)
		}
	}
	each("buying a car", (*walker).buys)
	v.kill(t, customersApp)
	each("learning why it waits", (*walker).learnsWhy)
	v.startAgain(t)
	each("signing up afterwards", (*walker).signsUp)
	for _, w := range all {
		w.open(t, w.theMap()+"?q="+w.order)
		w.waits(t, "car 1 has left", "confirmation sent", "built in")
	}
	for _, w := range []*walker{all[0], all[3]} { // mouse and keyboard, wide and narrow, light and dark
		w.finds(t)
	}
	each("cancelling too late", (*walker).cancelsTooLate)
	each("recording the return", (*walker).takesBack)
	each("cancelling in time", (*walker).cancelsInTime)
	each("tuning", (*walker).tunes)
	each("pausing and resuming", (*walker).pauses)
	each("resyncing", (*walker).resyncs)
	if status, body := v.ask(t, http.MethodDelete, v.url("warehouse")+"/subscriptions/orders/schedule", "", "application/json"); status != http.StatusOK {
		t.Errorf("%d %s", status, body)
	}
}

func (w *walker) buys(t *testing.T) {
	w.opens(t, w.url(sales)+"/")
	w.types(t, "#quantity-joule", "1")
	w.leads(t, "#joule button:not([formaction])")
	w.leads(t, "form[action='/orders'] button")
	w.waits(t, "Thank you for your order.", "We do not know where to deliver it.")
	w.order = path.Base(w.tab.order(t))
}

// The page of the search updates, so that it says what waits once it does.
func (w *walker) learnsWhy(t *testing.T) {
	w.searches(t, w.order)
	w.waits(t, "The part of customers is missing", "billing: the invoice: its customer is not known yet", "mailer: the confirmation: its customer is not known yet")
}

func (w *walker) signsUp(t *testing.T) {
	w.opens(t, w.url(sales)+"/orders/"+w.order)
	w.crosses(t, "form[action='/signin'] button", "form[action='/customers']")
	first := strings.ToLower(strings.Fields(w.name)[0])
	for _, f := range [][2]string{{"name", w.name}, {"email", first + "@example.com"}, {"street", "Am Wall 7"}, {"postal_code", "28195"}, {"city", "Bremen"}} {
		w.types(t, "#"+f[0], f[1])
	}
	if w.keyboard {
		w.press(t, "#country")
		w.do(t, chromedp.KeyEvent("Germany"))
	} else {
		w.do(t, chromedp.SetValue(chromedp.CSS("#country"), "DE"))
	}
	w.crosses(t, "form[action='/customers'] button", "form[action$='/cancel']")
	w.waits(t, "Order "+w.short(), "your account")
}

func (w *walker) short() string { return w.order[28:] }

// finds finds the order in each service that knows it.
func (w *walker) finds(t *testing.T) {
	for _, s := range []struct{ service, says string }{
		{sales, w.short()}, {customersApp, w.name}, {"warehouse", w.short()}, {"assembly", w.short()}, {"billing", w.name}, {"shipping", w.short()}, {"mailer", w.short()},
	} {
		w.begins("finding the order at " + s.service)
		w.searches(t, w.order)
		w.leads(t, fmt.Sprintf("#way tbody a[href^='%s/']", w.url(s.service)))
		w.waits(t, s.says)
		w.ends(t)
		w.load(t, 200, w.presses(t, fmt.Sprintf("nav a[href^='%s']", w.theMap())))
	}
}

func (w *walker) cancelsTooLate(t *testing.T) {
	w.opens(t, w.url(sales)+"/orders/"+w.order)
	w.leads(t, "form[action$='/cancel'] button")
	w.waits(t, "Cancellation requested.", "a car that has left is credited when it has come back")
	w.leads(t, fmt.Sprintf("a[href='/trace/%s']", w.order))
	w.leads(t, fmt.Sprintf("a[href^='%s']", w.theMap()+"?q="))
	w.waits(t, "cancellation requested", "car 1 has left", "shipping: car 1: to come back, since its order is cancelled")
}

func (w *walker) takesBack(t *testing.T) {
	w.searches(t, w.order)
	w.leads(t, fmt.Sprintf("#way tbody a[href^='%s/']", w.url("shipping")))
	w.waits(t, "The order was cancelled after this car had left.")
	w.leads(t, "form[action$='/return'] button")
	w.waits(t, "returned")
	w.invoiced(t, uuid.MustParse(w.order), 2)
}

func (w *walker) cancelsInTime(t *testing.T) {
	w.opens(t, w.url(sales)+"/")
	w.leads(t, "#volta button:not([formaction])")
	w.leads(t, "form[action='/orders'] button")
	w.order = path.Base(w.tab.order(t))
	w.leads(t, "form[action$='/cancel'] button")
	w.waits(t, "Cancellation requested.", "Cars that have not left stay here and are credited.")
	w.open(t, w.theMap()+"?q="+w.order)
	w.waits(t, "cancellation requested", "car 1 does not leave")
}

func (w *walker) tunes(t *testing.T) {
	seconds := "2s"
	if w.keyboard {
		seconds = "3s"
	}
	w.opens(t, w.url("warehouse")+"/")
	w.unfolds(t, "details.copy")
	w.types(t, "#copy-orders-schedule", "@every "+seconds)
	w.leads(t, ".copies details[open] form button")
	w.waits(t, "nothing is set yet")
	w.leads(t, "main form[method=post] button")
	w.waits(t, "@every "+seconds+" (set at run time)")
}

func (w *walker) pauses(t *testing.T) {
	w.opens(t, w.url("dashboard")+"/")
	w.leads(t, "nav a[href='/subscriptions']")
	w.unfolds(t, "#feed-orders")
	w.leads(t, "form[action='/subscriptions/orders/pause'] button")
	w.waits(t, "orders: paused")
	w.leads(t, "form[action='/subscriptions/orders/resume'] button")
	w.waits(t, "orders: fresh")
}

func (w *walker) resyncs(t *testing.T) {
	w.opens(t, w.theMap())
	w.leads(t, fmt.Sprintf("tbody a[href='%s/subscriptions/orders']", w.url("dashboard")))
	w.unfolds(t, "#resync-orders")
	w.leads(t, "#resync-orders button")
	w.waits(t, "which made generation")
}
