package main

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"html"
	"io"
	"log/slog"
	"net/http"
	"net/http/cookiejar"
	"net/http/httptest"
	"net/url"
	"regexp"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/uuid"
	"github.com/gorilla/securecookie"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/edison-cars/data-feeds/sales-feed/customers"
	"github.com/edison-cars/data-feeds/sales-feed/sales"
	"github.com/edison-cars/data-feeds/shared/access"
	"github.com/edison-cars/data-feeds/shared/daemon"
	"github.com/edison-cars/data-feeds/shared/postgres/pgtest"
	"github.com/edison-cars/data-feeds/shared/publish"
	"github.com/edison-cars/data-feeds/shared/service"
	"github.com/edison-cars/data-feeds/shared/web"
	"github.com/edison-cars/data-feeds/sql"
)

const buyerKey = "a-key-of-buyers-that-tests-alone-have"

// A company is both apps, with two replicas of each: the browsers know the first ones.
type company struct {
	sales, customers           *httptest.Server
	salesReplica, accountsCopy *httptest.Server
	databases                  []*pgxpool.Pool // of sales and of customers
}

func openCompany(t *testing.T, env ...string) *company {
	t.Helper()
	co := &company{}
	for _, s := range []**httptest.Server{&co.sales, &co.customers, &co.salesReplica, &co.accountsCopy} {
		*s = httptest.NewUnstartedServer(nil)
	}
	address := func(s *httptest.Server) string { return "http://" + s.Listener.Addr().String() }
	vars := map[string]string{"ACCESS": "open", "BUYER_KEY": buyerKey, "CUSTOMERS_URL": address(co.customers), "STOREFRONT_URL": address(co.sales)}
	for _, kv := range env {
		k, v, _ := strings.Cut(kv, "=")
		vars[k] = v
	}
	logger := daemon.Logger(pgtest.Output(t), slog.LevelWarn)
	serve := func(s *httptest.Server, app service.Service, pool *pgxpool.Pool, settings service.Settings, route func(*service.Router, *publish.Log) error) {
		t.Helper()
		log, err := publish.Open(t.Context(), pool, publish.Options{Logger: logger})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(log.Close)
		r, err := service.NewRouter(app, settings, pool, logger)
		if err == nil {
			err = route(r, log)
		}
		if err != nil {
			t.Fatal(err)
		}
		s.Config.Handler = http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
			open := req.Header.Get("X-Access") == "open"
			if req.Header.Del("X-Access"); !open {
				req.Header.Set("X-Forwarded-For", "192.0.2.7") // access is not open for what comes by a proxy
			}
			r.Engine.ServeHTTP(w, req)
		})
		s.Start()
		t.Cleanup(s.Close)
	}
	var shop sales.Settings
	var accounts customers.Settings
	if err := errors.Join(daemon.Parse(vars, &shop), daemon.Parse(vars, &accounts)); err != nil {
		t.Fatal(err)
	}
	shop.PublicURL, accounts.PublicURL = web.Site(address(co.sales)), web.Site(address(co.customers))
	salesDatabase, accountsDatabase := pgtest.New(t, append(sales.Migrations(), sql.Migrations("access"))...),
		pgtest.New(t, append(customers.Migrations(), sql.Migrations("access"))...)
	co.databases = []*pgxpool.Pool{salesDatabase, accountsDatabase}
	for _, s := range []*httptest.Server{co.sales, co.salesReplica} {
		serve(s, service.Service{Name: "sales", Title: "Sales"}, salesDatabase, shop.Settings, func(r *service.Router, log *publish.Log) error {
			return sales.Route(r, log, shop)
		})
	}
	for _, s := range []*httptest.Server{co.customers, co.accountsCopy} {
		serve(s, service.Service{Name: "customers", Title: "Customers"}, accountsDatabase, accounts.Settings, func(r *service.Router, log *publish.Log) error {
			return customers.Route(r, log, accounts)
		})
	}
	return co
}

// A browser keeps cookies, of all ports of a host, and follows redirects.
type browser struct {
	client *http.Client
	page   string
	at     *url.URL
	status int
	policy string // Content-Security-Policy of page
	shown  *url.URL
}

func newBrowser(t *testing.T) *browser {
	t.Helper()
	jar, err := cookiejar.New(nil)
	if err != nil {
		t.Fatal(err)
	}
	return &browser{client: &http.Client{Jar: jar}}
}

func (b *browser) send(t *testing.T, method, address string, form url.Values, header ...string) {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), method, address, strings.NewReader(form.Encode()))
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Accept", "text/html")
	if method == http.MethodPost {
		req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	}
	for i := 0; i < len(header); i += 2 {
		req.Header.Set(header[i], header[i+1])
	}
	resp, err := b.client.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	b.page, b.at, b.status = string(text), resp.Request.URL, resp.StatusCode
	b.policy, b.shown = resp.Header.Get("Content-Security-Policy"), b.at
}

func (b *browser) get(t *testing.T, address string) {
	t.Helper()
	b.send(t, http.MethodGet, address, nil)
}

// post posts a form of the page that the browser shows.
func (b *browser) post(t *testing.T, address string, form url.Values) {
	t.Helper()
	to, err := b.at.Parse(address)
	if err != nil {
		t.Fatal(err)
	}
	site := "same-site"
	if to.Host == b.at.Host {
		site = "same-origin"
	}
	if b.at == b.shown { // else the test has put the browser on a page that it does not show
		page, actions := *b.at, formActions.FindString(b.policy)
		allowed := func(u *url.URL) {
			if origin := u.Scheme + "://" + u.Host; u.Host != page.Host && !strings.Contains(actions+" ", " "+origin+" ") {
				t.Errorf("a form of %s leads to %s, which browsers refuse: %s", &page, u, b.policy)
			}
		}
		allowed(to)
		b.client.CheckRedirect = func(req *http.Request, _ []*http.Request) error {
			allowed(req.URL)
			return nil
		}
		defer func() { b.client.CheckRedirect = nil }()
	}
	b.send(t, http.MethodPost, to.String(), form, "Origin", b.at.Scheme+"://"+b.at.Host, "Sec-Fetch-Site", site)
}

var formActions = regexp.MustCompile(`form-action [^;]*`)

func (b *browser) wants(t *testing.T, status int, parts ...string) {
	t.Helper()
	for _, part := range parts {
		if !strings.Contains(b.page, part) {
			t.Errorf("no %q at %s", part, b.at)
		}
	}
	if b.status != status || t.Failed() {
		t.Fatalf("%s: %d %s", b.at, b.status, b.page)
	}
}

var handoverForm = regexp.MustCompile(`action="([^"]+/handover)" data-submit>\s*<input type="hidden" name="handover" value="([^"]+)"`)

// handover returns what the page that the browser shows would post, and where.
func (b *browser) handover(t *testing.T) (address, value string) {
	t.Helper()
	found := handoverForm.FindStringSubmatch(b.page)
	if found == nil {
		t.Fatalf("no hand-over at %s: %d %s", b.at, b.status, b.page)
	}
	return found[1], html.UnescapeString(found[2])
}

func (b *browser) handOver(t *testing.T) {
	t.Helper()
	address, value := b.handover(t)
	b.post(t, address, url.Values{"handover": {value}})
}

// signIn goes from the storefront to customers.
func (b *browser) signIn(t *testing.T, co *company) {
	t.Helper()
	b.get(t, co.sales.URL+"/")
	b.post(t, "/signin", nil)
	b.handOver(t)
}

var key = regexp.MustCompile(`name="idempotency_key" value="([^"]+)"`)

func ada(key, email string) url.Values {
	return url.Values{
		"name": {"Ada Lovelace"}, "email": {email}, "street": {"St James Square 12"}, "postal_code": {"SW1Y 4JH"}, "city": {"London"}, "country": {"GB"}, "idempotency_key": {key},
	}
}

func (b *browser) signUp(t *testing.T, email string) {
	t.Helper()
	b.post(t, "/customers", ada(key.FindStringSubmatch(b.page)[1], email))
}

var orderLink = regexp.MustCompile(`/orders/([0-9a-f-]{36})`)

func (b *browser) buy(t *testing.T, co *company) (id string) {
	t.Helper()
	b.get(t, co.sales.URL+"/")
	b.post(t, "/orders", url.Values{"model": {"ohm"}, "quantity": {"1"}})
	b.wants(t, 200, "Thank you")
	return orderLink.FindStringSubmatch(b.page)[1]
}

// A visitor buys, signs up, comes back signed in, finds the orders of before and after, signs out, and signs in again.
func TestSignInFromTheShop(t *testing.T) {
	t.Parallel()
	co := openCompany(t)
	b := newBrowser(t)
	before := b.buy(t, co)
	b.signIn(t, co)
	b.wants(t, 200, "Sign up")
	if b.at.String() != co.customers.URL+"/signup" {
		t.Errorf("at %s", b.at)
	}
	b.signUp(t, "ada@example.com")
	b.wants(t, 200, "You are signed in")
	b.handOver(t)
	b.wants(t, 200, "You are signed in as customer", "Sign out")
	account := regexp.MustCompile(`href="([^"]+/customers/[^"]+)"`).FindStringSubmatch(b.page)[1]
	after := b.buy(t, co)
	b.get(t, co.sales.URL+"/orders")
	b.wants(t, 200, before, after)
	for _, id := range []string{before, after} {
		b.post(t, "/orders/"+id+"/cancel", nil)
		b.wants(t, 200, "Cancellation requested.")
	}
	b.get(t, account)
	b.wants(t, 200, "Ada Lovelace", "Delete the account")
	b.get(t, co.customers.URL+"/account")
	b.wants(t, 200, "Ada Lovelace")

	t.Run("signed out at the shop, nothing is left", func(t *testing.T) {
		b.get(t, co.sales.URL+"/")
		b.post(t, "/signout", nil)
		b.handOver(t)
		b.wants(t, 200, "You are buying as a guest")
		if b.at.String() != co.sales.URL+"/" {
			t.Errorf("at %s", b.at)
		}
		b.get(t, account)
		b.wants(t, 401)
		for _, id := range []string{before, after} {
			b.get(t, co.sales.URL+"/orders/"+id)
			b.wants(t, 404)
		}
	})
	t.Run("signed in again under another account, and out there", func(t *testing.T) {
		b.signIn(t, co)
		b.wants(t, 200, "Sign up")
		b.signUp(t, "bob@example.com")
		b.handOver(t)
		b.wants(t, 200, "You are signed in as customer")
		if strings.Contains(b.page, account) {
			t.Error("it is the same account")
		}
		b.signIn(t, co) // goes straight on
		b.wants(t, 200, "You are signed in")
		b.handOver(t)
		b.wants(t, 200, "You are signed in as customer")
		b.get(t, co.customers.URL+"/account")
		b.post(t, "/signout", nil)
		b.handOver(t)
		b.wants(t, 200, "You are buying as a guest")
	})
	t.Run("a deleted account opens nothing", func(t *testing.T) {
		b.signIn(t, co)
		b.signUp(t, "cy@example.com")
		b.handOver(t)
		b.get(t, co.customers.URL+"/account")
		at := b.at.Path
		jar := b.client.Jar.Cookies(b.at)
		b.post(t, at+"/delete", url.Values{"confirm": {"yes"}})
		b.wants(t, 200, "This account is deleted")
		b.client.Jar.SetCookies(b.at, jar) // a browser that was copied
		b.get(t, co.customers.URL+at)
		b.wants(t, 404)
		b.signIn(t, co)
		b.wants(t, 200, "Sign up")
	})
}

// A hand-over that is not one of ours, not for this app, not of this browser, not now, or used, changes nothing.
func TestHandover(t *testing.T) {
	t.Parallel()
	co := openCompany(t)
	b := newBrowser(t)
	b.signIn(t, co)
	b.signUp(t, "ada@example.com")
	toSales, value := b.handover(t)
	atCustomers := *b.at

	type claims map[string]any
	sign := func(t *testing.T, key, audience string, c claims) string {
		t.Helper()
		signed, err := securecookie.New([]byte(key), nil).SetSerializer(securecookie.JSONEncoder{}).Encode(audience, c)
		if err != nil {
			t.Fatal(err)
		}
		return signed
	}
	decode := func(t *testing.T, audience, value string) (c claims) {
		t.Helper()
		if err := securecookie.New([]byte(buyerKey), nil).SetSerializer(securecookie.JSONEncoder{}).Decode(audience, value, &c); err != nil {
			t.Fatal(err)
		}
		return c
	}
	const forSales, forCustomers = "handover_to_sales", "handover_to_customers"
	good := decode(t, forSales, value)
	with := func(name string, value any) claims {
		c := claims{"id": uuid.New()}
		for k, v := range good {
			if k != "id" {
				c[k] = v
			}
		}
		c[name] = value
		return c
	}
	signed := make(chan string, 3)
	synctest.Test(t, func(t *testing.T) { // it is the year 2000
		signed <- sign(t, buyerKey, forSales, with("x", 1))
		signed <- sign(t, buyerKey, forCustomers, with("x", 1))
		time.Sleep(100 * 365 * 24 * time.Hour)
		signed <- sign(t, buyerKey, forSales, with("x", 1))
	})
	oldForSales, oldForCustomers, ofTheFuture := <-signed, <-signed, <-signed
	guest := func(t *testing.T) {
		t.Helper()
		b.get(t, co.sales.URL+"/")
		b.wants(t, 200, "You are buying as a guest")
	}
	refused := func(t *testing.T, who *browser, to, value string) {
		t.Helper()
		who.at = &atCustomers
		if !strings.HasPrefix(to, co.sales.URL) {
			at, _ := url.Parse(co.sales.URL + "/")
			who.at = at
		}
		jar := len(who.client.Jar.Cookies(who.at))
		who.post(t, to, url.Values{"handover": {value}})
		who.wants(t, 403, "Nothing has changed.", "try again there")
		if now := len(who.client.Jar.Cookies(who.at)); now != jar {
			t.Errorf("%d cookies, before %d", now, jar)
		}
	}
	toCustomers := co.customers.URL + "/handover"
	for name, value := range map[string]string{
		"nothing": "", "text": "x", "cut off": value[:len(value)-8], "signed by nobody": base(`{"customer":"` + uuid.NewString() + `"}`),
		"signed with another key": sign(t, buyerKey+"x", forSales, with("x", 1)), "for the other app": sign(t, buyerKey, forCustomers, with("x", 1)),
		"too old": oldForSales, "of a clock that was wrong": ofTheFuture, "a cookie": sign(t, buyerKey, "sales_buyer", with("x", 1)), "a token": sign(t, buyerKey, "buyer_token", with("x", 1)),
		"without a nonce": sign(t, buyerKey, forSales, with("nonce", nil)), "with another nonce": sign(t, buyerKey, forSales, with("nonce", []byte("12345678901234567890123456789012"))),
	} {
		t.Run("to sales: "+name, func(t *testing.T) {
			refused(t, b, toSales, value)
			guest(t)
		})
	}
	for name, value := range map[string]string{
		"nothing": "", "signed with another key": sign(t, buyerKey+"x", forCustomers, with("x", 1)), "for the other app": sign(t, buyerKey, forSales, with("x", 1)), "too old": oldForCustomers,
	} {
		t.Run("to customers: "+name, func(t *testing.T) { refused(t, newBrowser(t), toCustomers, value) })
	}
	t.Run("in another browser", func(t *testing.T) {
		for _, begun := range []bool{false, true} {
			other := newBrowser(t)
			if begun {
				other.signIn(t, co)
			}
			refused(t, other, toSales, value)
			other.get(t, co.sales.URL+"/")
			other.wants(t, 200, "You are buying as a guest")
		}
	})
	t.Run("from a page of another origin", func(t *testing.T) {
		b.send(t, http.MethodPost, toSales, url.Values{"handover": {value}}, "Origin", "https://evil.example", "Sec-Fetch-Site", "cross-site")
		b.wants(t, 403, "another origin")
		guest(t)
	})
	t.Run("by GET", func(t *testing.T) {
		b.get(t, toSales+"?handover="+url.QueryEscape(value))
		b.wants(t, 405)
		guest(t)
	})
	t.Run("it works, once, with all replicas", func(t *testing.T) {
		replica := strings.Replace(toSales, co.sales.URL, co.salesReplica.URL, 1)
		cookies := b.client.Jar.Cookies(&atCustomers)
		var all sync.WaitGroup
		var mu sync.Mutex
		statuses := map[int]int{}
		for i := range 8 {
			all.Go(func() {
				one := newBrowser(t)
				one.client.Jar.SetCookies(&atCustomers, cookies)
				one.client.CheckRedirect = func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }
				one.send(t, http.MethodPost, []string{toSales, replica}[i%2], url.Values{"handover": {value}}, "Origin", co.customers.URL, "Sec-Fetch-Site", "same-site")
				mu.Lock()
				defer mu.Unlock()
				statuses[one.status]++
			})
		}
		all.Wait()
		if statuses[303] != 1 || statuses[403] != 7 {
			t.Error(statuses)
		}
	})
	for _, from := range []string{"sales", "customers"} {
		t.Run("a sign-out from "+from+" ends the sign-in of its own browser alone", func(t *testing.T) {
			account := co.customers.URL + "/account"
			begins, ends, audience := co.sales.URL+"/", co.customers.URL, forCustomers
			if from == "customers" {
				begins, ends, audience = account, co.sales.URL, forSales
			}
			of := func() *browser {
				b := newBrowser(t)
				b.signIn(t, co)
				b.signUp(t, uuid.NewString()+"@example.com")
				b.handOver(t)
				b.wants(t, 200, "You are signed in as customer")
				return b
			}
			signedIn := func(b *browser) {
				t.Helper()
				b.get(t, account)
				b.wants(t, 200, "Ada Lovelace")
				b.get(t, co.sales.URL+"/")
				b.wants(t, 200, "You are signed in as customer")
			}
			own, other := of(), of()
			own.get(t, begins)
			own.post(t, "/signout", nil)
			to, value := own.handover(t)
			if to != ends+"/handover" {
				t.Errorf("it leads to %s", to)
			}
			page := own.at
			other.at = page
			other.post(t, to, url.Values{"handover": {value}})
			other.wants(t, 403, "another browser", "Nothing has changed.")
			signedIn(other)
			for _, nonces := range [][][]byte{{}, {nil}, {{}}, {[]byte("12345678901234567890123456789012")}} {
				other.at = page
				other.post(t, to, url.Values{"handover": {sign(t, buyerKey, audience, claims{"id": uuid.New(), "sign_out": nonces})}})
				other.wants(t, 403, "another browser")
				signedIn(other)
			}
			own.at = page
			own.post(t, to, url.Values{"handover": {value}})
			own.wants(t, 200, "You are buying as a guest")
			own.get(t, account)
			own.wants(t, 200, "Sign in")
			own.at = page
			own.post(t, to, url.Values{"handover": {value}})
			own.wants(t, 403, "Nothing has changed.")
		})
	}
	t.Run("to customers it works once, with all replicas", func(t *testing.T) {
		one := newBrowser(t)
		one.get(t, co.sales.URL+"/")
		one.post(t, "/signin", nil)
		to, value := one.handover(t)
		one.post(t, to, url.Values{"handover": {value}})
		one.wants(t, 200, "Sign up")
		refused(t, newBrowser(t), strings.Replace(to, co.customers.URL, co.accountsCopy.URL, 1), value)
	})
}

func base(s string) string { return url.QueryEscape(s) }

// What each may do with an account and an order.
func TestBuyers(t *testing.T) {
	t.Parallel()
	readers, hash := access.NewToken()
	co := openCompany(t, "TOKENS=warehouse:reader:"+hash)
	type answer struct {
		ID         string `json:"id"`
		CustomerID string `json:"customer_id"`
		Status     string `json:"status"`
		Token      string `json:"buyer_token"`
	}
	do := func(t *testing.T, method, address, body string, as ...string) (int, answer, string) {
		t.Helper()
		req, err := http.NewRequestWithContext(t.Context(), method, address, strings.NewReader(body))
		if err != nil {
			t.Fatal(err)
		}
		req.Header.Set("Content-Type", "application/json")
		for i := 0; i < len(as); i += 2 {
			req.Header.Set(as[i], as[i+1])
		}
		resp, err := http.DefaultClient.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		text, err := io.ReadAll(resp.Body)
		if err != nil {
			t.Fatal(err)
		}
		var a answer
		_ = json.Unmarshal(text, &a)
		if resp.StatusCode == 401 && (resp.Header.Get("WWW-Authenticate") == "" || !strings.Contains(string(text), "Bearer")) {
			t.Errorf("%s %s does not say what to do: %s", method, address, text)
		}
		return resp.StatusCode, a, string(text)
	}
	account := func(name string) string {
		return fmt.Sprintf(`{"name":%q,"email":"ada@example.com","address":{"street":"Road 1","postal_code":"1","city":"London","country":"GB"}}`, name)
	}
	purchase := func(customer string) string {
		if customer != "" {
			customer = fmt.Sprintf(`"customer_id":%q,`, customer)
		}
		return `{` + customer + `"lines":[{"model":"ohm","quantity":1}]}`
	}
	signUp := func(t *testing.T) answer {
		t.Helper()
		status, a, text := do(t, "POST", co.customers.URL+"/customers", account("Ada"))
		if status != 201 || !strings.HasPrefix(a.Token, "datafeed_buyer_") {
			t.Fatal(status, text)
		}
		return a
	}
	other := signUp(t)
	_, guest, _ := do(t, "POST", co.sales.URL+"/orders", purchase(""))
	operator := []string{"X-Access", "open"}
	bearer := func(token string) []string { return []string{"Authorization", "Bearer " + token} }
	cookies := func(customer string) []string {
		var pairs []string
		for _, name := range []string{"sales_buyer", "customers_buyer"} {
			value, err := securecookie.New([]byte(buyerKey), nil).SetSerializer(securecookie.JSONEncoder{}).Encode(name, map[string]string{"customer": customer})
			if err != nil {
				t.Fatal(err)
			}
			pairs = append(pairs, name+"="+value)
		}
		return []string{"Cookie", strings.Join(pairs, "; ")}
	}
	for name, who := range map[string]struct {
		as                                                     func(own answer) []string
		read, change, remove, place, order, cancel, list, sees int
	}{
		"nobody":                         {func(answer) []string { return nil }, 401, 401, 401, 401, 401, 401, 401, 0},
		"the buyer":                      {func(own answer) []string { return bearer(own.Token) }, 200, 200, 204, 201, 200, 200, 200, 1},
		"the buyer, in the browser":      {func(own answer) []string { return cookies(own.ID) }, 200, 200, 204, 201, 200, 200, 200, 1},
		"another buyer":                  {func(answer) []string { return bearer(other.Token) }, 404, 404, 404, 403, 404, 404, 200, 0},
		"a guest":                        {func(answer) []string { return bearer(guest.Token) }, 404, 404, 404, 403, 404, 404, 200, 1},
		"an operator":                    {func(answer) []string { return operator }, 200, 403, 403, 201, 200, 403, 200, 2},
		"an operator who buys":           {func(own answer) []string { return append(cookies(own.ID), operator...) }, 200, 200, 204, 201, 200, 200, 200, 2},
		"an operator, another buyer":     {func(answer) []string { return append(cookies(other.ID), operator...) }, 200, 403, 403, 201, 200, 403, 200, 2},
		"a buyer's token on open access": {func(answer) []string { return append(bearer(other.Token), operator...) }, 404, 404, 404, 403, 404, 404, 200, 0},
		"a forged token":                 {func(own answer) []string { return bearer(own.Token[:len(own.Token)-4] + "AAA=") }, 401, 401, 401, 401, 401, 401, 401, 0},
		"a reader":                       {func(answer) []string { return bearer(readers) }, 403, 403, 403, 403, 403, 403, 403, 0},
		"a buyer, by a reader's program": {func(own answer) []string { return append(cookies(own.ID), bearer(readers)...) }, 200, 200, 204, 201, 200, 200, 200, 1},
		"one who knows the id":           {func(own answer) []string { return bearer(own.ID) }, 401, 401, 401, 401, 401, 401, 401, 0},
	} {
		t.Run(name, func(t *testing.T) {
			own := signUp(t)
			_, o, _ := do(t, "POST", co.sales.URL+"/orders", purchase(own.ID), bearer(own.Token)...)
			as := who.as(own)
			for _, step := range []struct {
				what, method, address, body string
				want                        int
			}{
				{"read", "GET", co.customers.URL + "/customers/" + own.ID, "", who.read},
				{"change", "PUT", co.customers.URL + "/customers/" + own.ID, account("Bob"), who.change},
				{"change by form", "POST", co.customers.URL + "/customers/" + own.ID, account("Cy"), who.change},
				{"place", "POST", co.sales.URL + "/orders", purchase(own.ID), who.place},
				{"read the order", "GET", co.sales.URL + "/orders/" + o.ID, "", who.order},
				{"cancel", "POST", co.sales.URL + "/orders/" + o.ID + "/cancel", "", who.cancel},
				{"list", "GET", co.sales.URL + "/orders", "", who.list},
				{"delete", "DELETE", co.customers.URL + "/customers/" + own.ID, "", who.remove},
			} {
				status, _, text := do(t, step.method, step.address, step.body, as...)
				if status != step.want {
					t.Errorf("%s: %d %s, want %d", step.what, status, text, step.want)
				}
				if step.what == "list" && status == 200 {
					mine, others := strings.Contains(text, own.ID), strings.Contains(text, guest.ID)
					if want := map[int][2]bool{0: {false, false}, 1: {name != "a guest", name == "a guest"}, 2: {true, true}}[who.sees]; want != [2]bool{mine, others} {
						t.Errorf("the list: %s", text)
					}
				}
				if strings.Contains(text, "buyer_token") {
					t.Errorf("%s: %s", step.what, text)
				}
			}
			// Nothing has changed that was refused.
			_, now, _ := do(t, "GET", co.sales.URL+"/orders/"+o.ID, "", operator...)
			if cancelled := who.cancel == 200; cancelled != (now.Status == "cancelled") {
				t.Errorf("the order is %s", now.Status)
			}
			status, _, text := do(t, "GET", co.customers.URL+"/customers/"+own.ID, "", operator...)
			if gone := who.remove == 204; gone != (status == 410) || !gone && !strings.Contains(text, `"Ada"`) {
				t.Errorf("the account: %d %s", status, text)
			}
			if who.remove == 204 {
				if status, _, _ := do(t, "GET", co.customers.URL+"/customers/"+own.ID, "", bearer(own.Token)...); status != 404 {
					t.Errorf("its own token reads a deleted account: %d", status)
				}
			}
		})
	}
	t.Run("a browser with a reader's password is led to the login", func(t *testing.T) {
		password := []string{"Authorization", "Basic " + base64.StdEncoding.EncodeToString([]byte(":"+readers))}
		for accept, want := range map[string]int{"text/html": 401, "application/json": 403} {
			if status, _, text := do(t, "GET", co.sales.URL+"/orders", "", append(password, "Accept", accept)...); status != want || (want == 401) != strings.Contains(text, `href="/login?next=`) {
				t.Error(accept, status, text)
			}
		}
	})
	t.Run("what is not there is told apart for nobody", func(t *testing.T) {
		for _, address := range []string{co.customers.URL + "/customers/" + uuid.NewString(), co.customers.URL + "/customers/x", co.sales.URL + "/orders/" + uuid.NewString(), co.sales.URL + "/orders/x"} {
			if status, _, text := do(t, "GET", address, ""); status != 401 {
				t.Errorf("%s: %d %s", address, status, text)
			}
			if status, _, text := do(t, "GET", address, "", bearer(other.Token)...); status != 404 {
				t.Errorf("%s: %d %s", address, status, text)
			}
		}
	})
	t.Run("another one's credential buys in its own name", func(t *testing.T) {
		if _, o, text := do(t, "POST", co.sales.URL+"/orders", purchase(""), bearer(other.Token)...); o.CustomerID != other.ID {
			t.Error(text)
		}
	})
}

// While sessions cannot be looked up, nothing is refused, or left out, for the reason that no operator asks.
func TestOperatorsWhileSessionsAreAway(t *testing.T) {
	t.Parallel()
	pgtest.Slow(t, "timeouts")
	token, hash := access.NewToken()
	co := openCompany(t, "TOKENS=ada:operator:"+hash)
	type asking struct {
		what, method, address, body string
		header                      []string
		status                      int
	}
	ask := func(t *testing.T, x asking) (*http.Response, string) {
		t.Helper()
		req, err := http.NewRequestWithContext(t.Context(), x.method, x.address, strings.NewReader(x.body))
		if err != nil {
			t.Fatal(err)
		}
		if strings.HasPrefix(x.body, "{") {
			req.Header.Set("Content-Type", "application/json")
		}
		for i := 0; i < len(x.header); i += 2 {
			req.Header.Add(x.header[i], x.header[i+1])
		}
		resp, err := http.DefaultTransport.RoundTrip(req)
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		text, err := io.ReadAll(resp.Body)
		if err != nil {
			t.Fatal(err)
		}
		return resp, string(text)
	}
	var session []string
	for _, s := range []*httptest.Server{co.sales, co.customers} {
		resp, text := ask(t, asking{method: "POST", address: s.URL + "/login", body: "token=" + token, header: []string{"X-Access", "open", "Content-Type", "application/x-www-form-urlencoded"}})
		if len(resp.Cookies()) != 1 {
			t.Fatal(resp.Status, text)
		}
		session = append(session, "Cookie", resp.Cookies()[0].Name+"="+resp.Cookies()[0].Value)
	}
	made := func(address, body string) (id string, own []string) {
		resp, text := ask(t, asking{method: "POST", address: address, body: body})
		var a struct {
			ID    string `json:"id"`
			Token string `json:"buyer_token"`
		}
		if err := json.Unmarshal([]byte(text), &a); err != nil || resp.StatusCode != 201 {
			t.Fatal(resp.Status, text)
		}
		return a.ID, append([]string{"Authorization", "Bearer " + a.Token}, session...)
	}
	const lines = `"lines":[{"model":"ohm","quantity":1}]}`
	order, guest := made(co.sales.URL+"/orders", "{"+lines)
	customer, ada := made(co.customers.URL+"/customers", `{"name":"Ada","email":"ada@example.com","address":{"street":"Road 1","postal_code":"1","city":"London","country":"GB"}}`)
	for _, pool := range co.databases {
		lock, err := pool.Begin(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = lock.Rollback(context.Background()) }()
		if _, err := lock.Exec(t.Context(), `lock operator_session`); err != nil {
			t.Fatal(err)
		}
	}
	orders, theOrder, account := co.sales.URL+"/orders", co.sales.URL+"/orders/"+order, co.customers.URL+"/customers/"+customer
	forAda := `{"customer_id":"` + customer + `",` + lines
	t.Run("while", func(t *testing.T) {
		for _, x := range []asking{
			{"the list", "GET", orders, "", session, 503},
			{"the order", "GET", theOrder, "", session, 503},
			{"the account", "GET", account, "", session, 503},
			{"an order for a customer", "POST", orders, forAda, session, 503},
			{"the list, by a buyer", "GET", orders, "", ada, 503},
			{"the order, by another buyer", "GET", theOrder, "", ada, 503},
			{"the account, by another buyer", "GET", account, "", guest, 503},
			{"an order for a customer, by another buyer", "POST", orders, forAda, guest, 503},
			{"the list, with another token", "GET", orders, "", append([]string{"Authorization", "Bearer x"}, session...), 503},
			{"the order, by its buyer", "GET", theOrder, "", guest, 200},
			{"the account, by its buyer", "GET", account, "", ada, 200},
			{"an order for a customer, by that one", "POST", orders, forAda, ada, 201},
			{"an order", "POST", orders, "{" + lines, session, 201},
			{"the list, by nobody", "GET", orders, "", nil, 401},
			{"the shop", "GET", co.sales.URL + "/", "", session, 200},
		} {
			t.Run(x.what, func(t *testing.T) {
				t.Parallel()
				resp, text := ask(t, x)
				if resp.StatusCode != x.status || x.status == 503 && resp.Header.Get("Retry-After") == "" {
					t.Error(resp.Status, resp.Header, text)
				}
			})
		}
	})
}

var feedLink = regexp.MustCompile(`<a [^>]*href="/feeds/`)

// A page links to a feed only for clients that may read it: all others would get the browser's form for a name and a
// password.
func TestLinksToFeeds(t *testing.T) {
	t.Parallel()
	co := openCompany(t)
	b := newBrowser(t)
	order := co.sales.URL + "/orders/" + b.buy(t, co)
	for _, address := range []string{
		co.sales.URL + "/", co.sales.URL + "/orders", order, co.sales.URL + "/orders?status=cancelled",
		co.customers.URL + "/signup", co.customers.URL + "/signin",
	} {
		b.get(t, address)
		b.wants(t, 200)
		if feedLink.MatchString(b.page) {
			t.Errorf("%s leads a buyer to a feed: %s", address, b.page)
		}
		b.send(t, http.MethodGet, address, nil, "X-Access", "open")
		b.wants(t, 200)
		if !feedLink.MatchString(b.page) {
			t.Errorf("%s leads no reader to the feed: %s", address, b.page)
		}
	}
}

// The header of both apps leads operators to the map, and nobody else.
func TestLinksToTheMap(t *testing.T) {
	t.Parallel()
	co := openCompany(t, "MAP_URL=http://map.example")
	const link = `<a href="http://map.example/">Map</a>`
	b := newBrowser(t)
	order := co.sales.URL + "/orders/" + b.buy(t, co)
	for _, address := range []string{co.sales.URL + "/", co.sales.URL + "/orders", order, co.customers.URL + "/signup", co.customers.URL + "/none"} {
		b.get(t, address)
		if strings.Contains(b.page, link) {
			t.Errorf("%s leads a buyer to the map: %s", address, b.page)
		}
		b.send(t, http.MethodGet, address, nil, "X-Access", "open")
		if !strings.Contains(b.page, link) {
			t.Errorf("%s leads no operator to the map: %s", address, b.page)
		}
	}
	for _, address := range []string{co.sales.URL + "/feeds/orders", co.customers.URL + "/feeds/customers", strings.Replace(order, "/orders/", "/trace/", 1)} {
		b.send(t, http.MethodGet, address, nil, "X-Access", "open", "Accept", "text/html")
		b.wants(t, 200, link)
	}
	b.send(t, http.MethodGet, co.sales.URL+"/feeds/orders", nil, "X-Access", "open", "Accept", "text/html")
	id := order[len(order)-36:]
	b.wants(t, 200, `<a href="/trace/`+id+`"><code>`+id+`</code></a>`)
}

// A refused page links to the login of operators, which leads back to the page.
func TestLoginOnRefusals(t *testing.T) {
	t.Parallel()
	co := openCompany(t)
	b := newBrowser(t)
	for address, login := range map[string]string{
		co.sales.URL + "/feeds/orders?after=0&limit=10":     "/login?next=%2Ffeeds%2Forders%3Fafter%3D0%26limit%3D10",
		co.customers.URL + "/customers/" + uuid.NewString(): "/login?next=%2Fcustomers%2F",
	} {
		b.get(t, address)
		b.wants(t, 401, `href="`+login)
	}
	b.get(t, co.sales.URL+"/nothing")
	if b.wants(t, 404); strings.Contains(b.page, "/login") {
		t.Error(b.page)
	}
}

// A sign-out says nothing wrong, and ends what the browser has at the other app, whatever it did there meanwhile.
func TestSignOut(t *testing.T) {
	t.Parallel()
	co := openCompany(t)
	account := co.customers.URL + "/account"
	of := func(t *testing.T) *browser {
		t.Helper()
		b := newBrowser(t)
		b.signIn(t, co)
		b.signUp(t, uuid.NewString()+"@example.com")
		b.handOver(t)
		b.wants(t, 200, "You are signed in as customer")
		return b
	}
	out := func(t *testing.T, b *browser) {
		t.Helper()
		b.get(t, co.sales.URL+"/")
		b.wants(t, 200, "You are buying as a guest")
		b.get(t, account)
		b.wants(t, 200, "To sign in another browser")
	}
	pages := map[string]string{"sales": co.sales.URL + "/", "customers": account}
	t.Run("after the account was deleted", func(t *testing.T) {
		b := of(t)
		b.get(t, account)
		b.post(t, b.at.Path+"/delete", url.Values{"confirm": {"yes"}})
		b.wants(t, 200, "This account is deleted", "Back to the shop")
		b.post(t, "/signout", nil)
		b.handOver(t)
		b.wants(t, 200, "You are buying as a guest")
		out(t, b)
	})
	t.Run("of a browser that never came from the shop, and after the account was deleted", func(t *testing.T) {
		b := newBrowser(t)
		signUp := func() {
			t.Helper()
			b.get(t, co.customers.URL+"/signup")
			b.signUp(t, uuid.NewString()+"@example.com")
		}
		signUp()
		b.post(t, "/signout", nil)
		b.wants(t, 200, "To sign in another browser")
		signUp()
		b.post(t, b.at.Path+"/delete", url.Values{"confirm": {"yes"}})
		b.wants(t, 200, "This account is deleted", `<a class="button" href="`+co.sales.URL+`/">Back to the shop</a>`)
	})
	for at, page := range pages {
		t.Run("at "+at+", after later sign-ins that did not come back to the shop", func(t *testing.T) {
			b := of(t)
			for range 3 {
				b.signIn(t, co)
				b.wants(t, 200, "You are signed in")
			}
			b.get(t, page)
			b.post(t, "/signout", nil)
			b.handOver(t)
			b.wants(t, 200, "You are buying as a guest")
			out(t, b)
		})
	}
	t.Run("at customers, after the sign-in that did not come back to the shop", func(t *testing.T) {
		b := newBrowser(t)
		b.signIn(t, co)
		b.signUp(t, uuid.NewString()+"@example.com")
		b.get(t, account)
		b.post(t, "/signout", nil)
		b.handOver(t)
		b.wants(t, 200, "You are buying as a guest")
		out(t, b)
	})
	for first, page := range pages {
		t.Run("at both, first at "+first, func(t *testing.T) {
			b := of(t)
			b.get(t, page)
			b.post(t, "/signout", nil) // and the page is closed
			second := pages["sales"]
			if first == "sales" {
				second = account
			}
			b.get(t, second)
			b.post(t, "/signout", nil)
			b.handOver(t)
			b.wants(t, 200)
			out(t, b)
		})
	}
	t.Run("at the shop, and customers was signed in to alone meanwhile", func(t *testing.T) {
		b := of(t)
		b.get(t, account)
		b.post(t, "/signout", nil) // and the page is closed
		b.get(t, co.customers.URL+"/signup")
		b.signUp(t, uuid.NewString()+"@example.com")
		b.get(t, co.sales.URL+"/")
		b.post(t, "/signout", nil)
		b.handOver(t)
		b.wants(t, 200, "Ada Lovelace", "Sign out") // which is the truth
	})
}
