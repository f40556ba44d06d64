package main

import (
	"net/http"
	"net/url"
	"regexp"
	"strings"
	"testing"

	"github.com/google/uuid"
)

// customerOf returns the customer of an order, as operators see it.
func customerOf(t *testing.T, co *company, id string) string {
	t.Helper()
	status, _, _, text := asAPI(t, http.MethodGet, co.sales.URL+"/orders/"+id, "", "", "X-Access", "open")
	found := regexp.MustCompile(`"customer_id":"([^"]+)"`).FindStringSubmatch(text)
	if status != http.StatusOK || found == nil {
		t.Fatal(status, text)
	}
	return found[1]
}

// copyOf returns a browser with the cookies of another one, as they are now.
func (b *browser) copyOf(t *testing.T, co *company) *browser {
	t.Helper()
	other := newBrowser(t)
	at, err := url.Parse(co.sales.URL)
	if err != nil {
		t.Fatal(err)
	}
	other.client.Jar.SetCookies(at, b.client.Jar.Cookies(at))
	return other
}

// A guest who signs up becomes the customer that the guest's orders name. No second account gets the id.
func TestGuestSignsUp(t *testing.T) {
	t.Parallel()
	co := openCompany(t)
	b := newBrowser(t)
	id := b.buy(t, co)
	guest := customerOf(t, co, id)
	b.wants(t, 200, "We do not know where to deliver it.", `name="next" value="/orders/`+id+`"`)
	asGuest := b.copyOf(t, co)
	b.post(t, "/signin", url.Values{"next": {"/orders/" + id}})
	b.handOver(t)
	b.wants(t, 200, "becomes the account's", "stays the guest's")
	undecided := b.copyOf(t, co) // has the sign-up in front of it, too
	undecided.at, undecided.shown, undecided.page, undecided.status = b.at, b.shown, b.page, b.status
	b.signUp(t, "ada@example.com")
	b.wants(t, 200, "is your account&#39;s now")
	b.handOver(t)
	b.wants(t, 200, "What you can still do", "/customers/"+guest, "Request cancellation")
	if b.at.Path != "/orders/"+id || strings.Contains(b.page, "as a guest") || strings.Contains(b.page, "deliver it") {
		t.Errorf("%s: %s", b.at, b.page)
	}
	if at, _ := accountOf(t, co, b); at != "/customers/"+guest {
		t.Errorf("the account is %s, the order is of %s", at, guest)
	}
	b.get(t, co.sales.URL+"/orders")
	b.wants(t, 200, id)
	after := b.buy(t, co)
	if got := customerOf(t, co, after); got != guest {
		t.Errorf("the customer buys as %s", got)
	}

	t.Run("a copy of the guest's browser is signed out", func(t *testing.T) {
		for _, at := range []string{"/orders", "/orders/" + id, "/orders/" + after} {
			asGuest.get(t, co.sales.URL+at)
			asGuest.wants(t, 401)
			asGuest.get(t, co.salesReplica.URL+at)
			asGuest.wants(t, 401)
		}
		asGuest.post(t, "/orders", url.Values{"model": {"ohm"}, "quantity": {"1"}})
		asGuest.wants(t, 401, "Nothing was changed or bought.")
		asGuest.get(t, co.sales.URL+"/")
		if got := customerOf(t, co, asGuest.buy(t, co)); got == guest {
			t.Error("it buys as the customer")
		}
	})
	t.Run("a second sign-up gets another id", func(t *testing.T) {
		undecided.get(t, co.customers.URL+"/signup")
		undecided.wants(t, 200, "Sign up")
		if strings.Contains(undecided.page, "becomes the account's") {
			t.Error("it promises the guest's orders")
		}
		undecided.signUp(t, "bob@example.com")
		undecided.wants(t, 200, "stays the guest&#39;s")
		undecided.handOver(t)
		if at, _ := accountOf(t, co, undecided); at == "/customers/"+guest {
			t.Error("it is the same account")
		}
	})
	t.Run("so does one after the deletion", func(t *testing.T) {
		c := newBrowser(t)
		guest := customerOf(t, co, c.buy(t, co))
		c.signIn(t, co)
		late := c.copyOf(t, co)
		c.signUp(t, "cy@example.com")
		c.handOver(t)
		at, _ := accountOf(t, co, c)
		if at != "/customers/"+guest {
			t.Fatal(at)
		}
		c.post(t, at+"/delete", url.Values{"confirm": {"yes"}})
		c.wants(t, 200, "This account is deleted")
		late.get(t, co.customers.URL+"/signup")
		late.signUp(t, "dee@example.com")
		late.handOver(t)
		if at, _ := accountOf(t, co, late); at == "/customers/"+guest {
			t.Error("the erased id has an account again")
		}
	})
	t.Run("one who signs in to another account keeps what the guest has ordered", func(t *testing.T) {
		c := newBrowser(t)
		c.get(t, co.customers.URL+"/signup")
		c.signUp(t, "eve@example.com")
		order := c.buy(t, co)
		c.post(t, "/signin", url.Values{"next": {"/orders/" + order}})
		c.handOver(t)
		c.wants(t, 200, "You are signed in", "stays the guest&#39;s")
		c.handOver(t)
		c.wants(t, 200, "You placed it as a guest.", "is not delivered or invoiced to your account", "/cancel")
		c.get(t, co.sales.URL+"/")
		c.wants(t, 200, "orders that you placed as a guest", "You are signed in as customer")
		c.post(t, "/orders/"+order+"/cancel", nil)
		c.wants(t, 200, "Cancellation requested.")
		c.get(t, co.sales.URL+"/")
		c.wants(t, 200, "You are signed in as customer")
		if strings.Contains(c.page, "as a guest") {
			t.Error("an order that is cancelled is none to tell of")
		}
	})
}

// A sign-in returns to the page where it began, if it is one of those that lead to it.
func TestSignInReturns(t *testing.T) {
	t.Parallel()
	co := openCompany(t)
	b := newBrowser(t)
	b.get(t, co.customers.URL+"/signup")
	b.signUp(t, "ada@example.com")
	b.get(t, co.sales.URL+"/")
	order := uuid.NewString()
	for next, want := range map[string]string{
		"": "/", "/review?model=ohm&options=tow_bar&quantity=2&x=1": "/review?model=ohm&options=tow_bar&quantity=2", "/review?model=ohm&quantity=51": "/", "/review": "/",
		"/orders/" + order: "/orders/" + order, "/orders/" + order + "/cancel": "/", "/orders/x": "/", "https://evil.example/orders/" + order: "/orders/" + order,
		"//evil.example/": "/", "/logout": "/", "\x00": "/", strings.Repeat("/", 10000): "/",
	} {
		at, err := url.Parse(co.sales.URL + "/")
		if err != nil {
			t.Fatal(err)
		}
		b.at, b.shown = at, nil
		b.post(t, "/signin", url.Values{"next": {next}})
		if next == "\x00" {
			b.wants(t, 400)
			continue
		}
		b.handOver(t)
		b.handOver(t)
		if got := b.at.RequestURI(); got != want {
			t.Errorf("%.80q leads to %s, want %s", next, got, want)
		}
	}
}

// A page of a problem has the links of its app, and those of its text.
func TestPagesOfProblems(t *testing.T) {
	t.Parallel()
	co := openCompany(t)
	b := newBrowser(t)
	for address, links := range map[string][]string{
		co.sales.URL + "/none":                              {`href="/orders"`, `href="/"`},
		co.sales.URL + "/orders":                            {`<a href="/orders" aria-current="page">Orders</a>`, `Operators log in at <a href="/login">/login</a>.`},
		co.customers.URL + "/signin/none":                   {`href="/account"`, `href="/signup"`},
		co.customers.URL + "/customers/" + uuid.NewString(): {`href="/account"`, `href="` + co.sales.URL + `/"`},
	} {
		b.get(t, address)
		b.wants(t, b.status, append(links, `<nav aria-label="Main">`)...)
		if b.status < 400 || strings.Contains(b.page, "/feeds/") {
			t.Errorf("%s: %d %s", address, b.status, b.page)
		}
	}
	at, err := url.Parse(co.sales.URL + "/")
	if err != nil {
		t.Fatal(err)
	}
	b.at = at
	b.post(t, co.customers.URL+"/handover", url.Values{"handover": {"x"}})
	b.wants(t, 403, `the shop, <a href="`+co.sales.URL+`/">`, `href="/account"`)
}
