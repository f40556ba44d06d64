package sales

import (
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/edison-cars/data-feeds/shared/order"
)

// A browser keeps cookies.
type browser struct {
	*shop
	cookies map[string]*http.Cookie
}

func (b *browser) do(t *testing.T, method, path, body string, more ...string) (*http.Response, string) {
	t.Helper()
	var sent []string
	for _, c := range b.cookies {
		sent = append(sent, c.Name+"="+c.Value)
	}
	header := []string{"Accept", "text/html", "Cookie", strings.Join(sent, "; ")}
	if method == http.MethodPost {
		header = append(header, "Content-Type", "application/x-www-form-urlencoded", "Sec-Fetch-Site", "same-origin")
	}
	resp, text := b.shop.do(t, method, path, body, append(header, more...)...)
	for _, c := range resp.Cookies() {
		if !c.HttpOnly || c.SameSite != http.SameSiteLaxMode || c.Path != "/" || c.Secure {
			t.Errorf("cookie %v", c)
		}
		b.cookies[c.Name] = c
		if c.MaxAge < 0 {
			delete(b.cookies, c.Name)
		}
	}
	return resp, text
}

// buys returns the order that the browser places by the form.
func (b *browser) buys(t *testing.T) (o order.Order) {
	t.Helper()
	resp, text := b.do(t, "POST", "/orders", "model=ohm&quantity=1")
	if resp.StatusCode != http.StatusSeeOther {
		t.Fatalf("%d %s", resp.StatusCode, text)
	}
	at := resp.Header.Get("Location")
	if _, text := b.do(t, "GET", at, ""); !strings.Contains(text, "Thank you") || !strings.Contains(text, "/cancel") {
		t.Fatal(text)
	}
	_, text = b.do(t, "GET", at, "", "Accept", "application/json")
	if err := json.Unmarshal([]byte(text), &o); err != nil {
		t.Fatal(text, err)
	}
	return o
}

// A visitor needs no account, and finds again what the same browser has bought, and nobody else does. See TestHandover
// for the others.
func TestVisitor(t *testing.T) {
	t.Parallel()
	s := openWith(t, parsed(t, map[string]string{"CUSTOMERS_URL": "https://customers.example/"})) // where nobody is
	b, other := &browser{s, map[string]*http.Cookie{}}, &browser{s, map[string]*http.Cookie{}}
	if resp, _ := b.do(t, "GET", "/orders", ""); resp.StatusCode != http.StatusUnauthorized || resp.Header.Get("WWW-Authenticate") == "" {
		t.Errorf("%d %v", resp.StatusCode, resp.Header)
	}
	if _, page := b.do(t, "GET", "/", ""); !strings.Contains(page, `action="/signin"`) || strings.Contains(page, "Sign out") {
		t.Error(page)
	}
	first, second := b.buys(t), b.buys(t)
	if first.CustomerID != second.CustomerID {
		t.Errorf("a guest buys as %s, and then as %s", first.CustomerID, second.CustomerID)
	}
	at := "/orders/" + first.ID.String()
	if theirs := other.buys(t); theirs.CustomerID == first.CustomerID {
		t.Error("two browsers are one guest")
	}
	if _, page := b.do(t, "GET", "/orders", ""); strings.Count(page, `href="/orders/`) != 2 || !strings.Contains(page, "Your orders") {
		t.Error(page)
	}
	for method, path := range map[string]string{"GET": at, "POST": at + "/cancel"} {
		if resp, page := other.do(t, method, path, ""); resp.StatusCode != http.StatusNotFound {
			t.Errorf("another browser: %s: %d %s", path, resp.StatusCode, page)
		}
	}
	if resp, _ := b.do(t, "POST", at+"/cancel", ""); resp.StatusCode != http.StatusSeeOther || resp.Header.Get("Location") != at {
		t.Errorf("%d %v", resp.StatusCode, resp.Header)
	}
	if _, page := b.do(t, "GET", at, ""); !strings.Contains(page, "Cancellation requested.") || strings.Contains(page, "/cancel") {
		t.Error(page)
	}
	t.Run("without cookies the purchase by the form makes a visitor, twice the same one", func(t *testing.T) {
		form := []string{"Content-Type", "application/x-www-form-urlencoded", "Accept", "text/html", "Cookie", ""}
		resp, _ := s.do(t, "POST", "/orders", "model=ohm&quantity=1&idempotency_key=f", form...)
		again, _ := s.do(t, "POST", "/orders", "model=ohm&quantity=1&idempotency_key=f", form...)
		if len(resp.Cookies()) != 1 || len(again.Cookies()) != 1 || resp.Header.Get("Location") != again.Header.Get("Location") {
			t.Errorf("%v, %v", resp.Header, again.Header)
		}
	})
	t.Run("a form takes its key from the header, too, and one key", func(t *testing.T) {
		form := []string{"Content-Type", "application/x-www-form-urlencoded", "Accept", "text/html", "Cookie", "", "Idempotency-Key", "g"}
		resp, _ := s.do(t, "POST", "/orders", "model=ohm&quantity=1", form...)
		again, _ := s.do(t, "POST", "/orders", "model=ohm&quantity=1", form...)
		if at := resp.Header.Get("Location"); at == "" || again.Header.Get("Location") != at {
			t.Errorf("%v, %v", resp.Header, again.Header)
		}
		for body, header := range map[string][]string{"model=ohm&quantity=1&idempotency_key=h": form, "model=ohm&quantity=1&idempotency_key=h&idempotency_key=i": form[:6]} {
			if resp, page := s.do(t, "POST", "/orders", body, header...); resp.StatusCode != http.StatusBadRequest {
				t.Errorf("%s, %q: %d %s", body, header, resp.StatusCode, page)
			}
		}
	})
	t.Run("a cookie that nobody signed is none", func(t *testing.T) {
		forged := &browser{s, map[string]*http.Cookie{}}
		for name, value := range map[string]string{
			"sales_buyer": `{"visitor":"` + first.CustomerID.String() + `"}`, "visitor_id": first.CustomerID.String(), "customer_id": first.CustomerID.String(),
			"customers_buyer": b.cookies["sales_buyer"].Value,
		} {
			forged.cookies = map[string]*http.Cookie{name: {Name: name, Value: value}}
			if resp, _ := forged.do(t, "GET", at, ""); resp.StatusCode != http.StatusUnauthorized {
				t.Errorf("%s: %d", name, resp.StatusCode)
			}
			if o := forged.buys(t); o.CustomerID == first.CustomerID {
				t.Errorf("%s: buys as the guest", name)
			}
		}
		forged.cookies = map[string]*http.Cookie{}
		for _, query := range []string{"?customer_id=", "?customer=", "?visitor="} {
			forged.do(t, "GET", "/"+query+customer, "")
			if o := forged.buys(t); o.CustomerID.String() == customer {
				t.Errorf("%s signs in", query)
			}
		}
	})
	t.Run("one who signs out is another guest", func(t *testing.T) {
		if resp, _ := b.do(t, "POST", "/signout", ""); resp.StatusCode != http.StatusSeeOther || len(b.cookies) > 0 {
			t.Errorf("%d %v, cookies %v", resp.StatusCode, resp.Header, b.cookies)
		}
		if o := b.buys(t); o.CustomerID == first.CustomerID {
			t.Errorf("buys as %s", o.CustomerID)
		}
	})
	t.Run("a page of another site signs nobody in or out", func(t *testing.T) {
		for _, path := range []string{"/signin", "/signout", "/handover"} {
			for _, origin := range []string{"https://evil.example", "https://customers.example.evil.example", "http://customers.example", "https://customers.example:8443", "null"} {
				resp, _ := s.do(t, "POST", path, "handover=x", "Sec-Fetch-Site", "cross-site", "Origin", origin, "Content-Type", "application/x-www-form-urlencoded")
				if resp.StatusCode != http.StatusForbidden || len(resp.Cookies()) > 0 {
					t.Errorf("%s from %s: %d %v", path, origin, resp.StatusCode, resp.Cookies())
				}
			}
		}
		if resp, page := s.do(t, "POST", "/signout", "", "Sec-Fetch-Site", "cross-site", "Origin", "https://customers.example"); resp.StatusCode != http.StatusForbidden || !strings.Contains(page, "another origin") {
			t.Errorf("%d %s", resp.StatusCode, page)
		}
	})
}

// By https, cookies are sent by https alone; that of a sign-in comes along with the POST of the customers app, which is
// of another site.
func TestCookiesByHTTPS(t *testing.T) {
	t.Parallel()
	s := open(t)
	secure := httptest.NewTLSServer(s.Config.Handler)
	t.Cleanup(secure.Close)
	client := secure.Client()
	for path, want := range map[string]http.Cookie{
		"/":       {Name: "__Host-sales_buyer", SameSite: http.SameSiteLaxMode, MaxAge: 365 * 24 * 3600},
		"/signin": {Name: "__Host-sales_handover", SameSite: http.SameSiteNoneMode, MaxAge: 31 * 60},
	} {
		method := map[bool]string{true: http.MethodGet, false: http.MethodPost}[path == "/"]
		req, err := http.NewRequestWithContext(t.Context(), method, secure.URL+path, nil)
		if err != nil {
			t.Fatal(err)
		}
		resp, err := client.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		_ = resp.Body.Close()
		cookies := resp.Cookies()
		if len(cookies) != 1 || cookies[0].Name != want.Name || cookies[0].SameSite != want.SameSite || cookies[0].MaxAge != want.MaxAge || !cookies[0].Secure || !cookies[0].HttpOnly {
			t.Errorf("%s: %d %v", path, resp.StatusCode, cookies)
		}
		if path != "/" || len(cookies) != 1 {
			continue
		}
		// Another host of the domain can set a cookie without the prefix, to let others buy as its buyer.
		for name, known := range map[string]bool{"__Host-sales_buyer": true, "sales_buyer": false} {
			req.Header.Set("Cookie", name+"="+cookies[0].Value)
			resp, err := client.Do(req)
			if err != nil {
				t.Fatal(err)
			}
			_ = resp.Body.Close()
			if got := resp.Cookies(); known != (len(got) == 0) {
				t.Errorf("%s: %v", name, got)
			}
		}
	}
}

// A guest of the API gets a token with the first order, once and soon.
func TestTokenOfAGuest(t *testing.T) {
	t.Parallel()
	s := open(t)
	const ohm = `{"lines":[{"model":"ohm","quantity":1}]}`
	buy := func(want int, header ...string) (o order.Order, token string) {
		t.Helper()
		resp, text := s.do(t, "POST", "/orders", ohm, append([]string{"Content-Type", "application/json"}, header...)...)
		var answer struct {
			order.Order
			BuyerToken string `json:"buyer_token"`
		}
		if err := json.Unmarshal([]byte(text), &answer); resp.StatusCode != want || want == 201 && err != nil {
			t.Errorf("%d %s", resp.StatusCode, text)
		}
		if answer.BuyerToken != "" && resp.Header.Get("Cache-Control") != "no-store" {
			t.Errorf("%v", resp.Header)
		}
		return answer.Order, answer.BuyerToken
	}
	o, token := buy(201, append(nobody, "Idempotency-Key", "g")...)
	if !strings.HasPrefix(token, "datafeed_buyer_") {
		t.Fatal(token)
	}
	again, repeated := buy(201, append(nobody, "Idempotency-Key", "g")...)
	if again.ID != o.ID || again.CustomerID != o.CustomerID || repeated == "" {
		t.Errorf("%+v, %+v", again, o)
	}
	if second, none := buy(201, "Authorization", "Bearer "+token); second.CustomerID != o.CustomerID || none != "" {
		t.Errorf("%+v %s", second, none)
	}
	if resp, text := s.do(t, "GET", "/orders/"+o.ID.String(), "", "Authorization", "bearer "+token); resp.StatusCode != 200 || strings.Contains(text, "datafeed_") {
		t.Errorf("%d %s", resp.StatusCode, text)
	}
	for _, wrong := range []string{token[:len(token)-6] + "AAAA==", strings.Replace(token, "datafeed_buyer_", "datafeed_", 1), "datafeed_buyer_", o.CustomerID.String(), "x"} {
		buy(401, "Authorization", "Bearer "+wrong)
	}
	for _, millennium := range []string{"1", "3"} { // the clock was wrong in the last case
		exec(t, s, `update idempotency_key set answer = convert_to(regexp_replace(convert_from(answer, 'UTF8'), '"placed_at":"\d', '"placed_at":"`+millennium+`'), 'UTF8') where key = encode(sha256('g'), 'hex')`)
		if old, late := buy(201, append(nobody, "Idempotency-Key", "g")...); old.ID != o.ID || late != "" {
			t.Errorf("an answer of the millennium %s brings the token again: %+v", millennium, old)
		}
	}
	if log := s.stop(); strings.Contains(log, token) {
		t.Error("the token is in the log")
	}
}
