package sales

import (
	"encoding/json"
	"net/http"
	"net/url"
	"strings"
	"testing"

	"github.com/edison-cars/data-feeds/shared/order"
)

// A browser keeps cookies.
type browser struct {
	*shop
	cookies map[string]*http.Cookie
}

func (b *browser) do(t *testing.T, method, path, body string) (*http.Response, string) {
	t.Helper()
	var sent []string
	for _, c := range b.cookies {
		sent = append(sent, c.Name+"="+c.Value)
	}
	header := []string{"Accept", "text/html", "Cookie", strings.Join(sent, "; ")}
	if method == http.MethodPost {
		header = append(header, "Content-Type", "application/x-www-form-urlencoded", "Sec-Fetch-Site", "same-origin")
	}
	resp, text := b.shop.do(t, method, path, body, header...)
	for _, c := range resp.Cookies() {
		if !c.HttpOnly || c.SameSite != http.SameSiteLaxMode || c.Path != "/" {
			t.Errorf("cookie %v", c)
		}
		b.cookies[c.Name] = c
		if c.MaxAge < 0 {
			delete(b.cookies, c.Name)
		}
	}
	return resp, text
}

// buys gives as whom the browser buys by the form.
func (b *browser) buys(t *testing.T) string {
	t.Helper()
	resp, text := b.do(t, "POST", "/orders", "model=ohm&quantity=1")
	if resp.StatusCode != http.StatusCreated {
		t.Fatalf("%d %s", resp.StatusCode, text)
	}
	_, text = b.shop.do(t, "GET", resp.Header.Get("Location"), "")
	var o order.Order
	if err := json.Unmarshal([]byte(text), &o); err != nil {
		t.Fatal(text, err)
	}
	return o.CustomerID.String()
}

func TestVisitor(t *testing.T) {
	t.Parallel()
	s := openWith(t, parsed(t, map[string]string{"CUSTOMERS_URL": "https://customers.example/"})) // where nobody is
	b := &browser{s, map[string]*http.Cookie{}}
	signUp := `href="https://customers.example/signup?return=` + url.QueryEscape(s.URL+"/") + `"`
	_, page := b.do(t, "GET", "/", "")
	if !strings.Contains(page, signUp) || strings.Contains(page, "Forget me") {
		t.Errorf("no %s in %s", signUp, page)
	}
	guest := b.buys(t)
	if again := b.buys(t); again != guest {
		t.Errorf("a guest buys as %s, and then as %s", guest, again)
	}

	t.Run("one who comes back from the sign-up buys as that customer, whom sales never heard of", func(t *testing.T) {
		resp, _ := b.do(t, "GET", "/?customer_id="+customer, "")
		if resp.StatusCode != http.StatusSeeOther || resp.Header.Get("Location") != "/" || resp.Header.Get("Cache-Control") != "no-store" {
			t.Errorf("%d %v", resp.StatusCode, resp.Header)
		}
		_, page := b.do(t, "GET", "/", "")
		if !strings.Contains(page, `<a href="https://customers.example/customers/`+customer+`">`+customer[28:]+`</a>`) || strings.Contains(page, "/signup") {
			t.Error(page)
		}
		if got := b.buys(t); got != customer {
			t.Errorf("buys as %s", got)
		}
	})
	t.Run("what is no id changes nothing", func(t *testing.T) {
		for _, id := range []string{"", "42", "urn:uuid:" + customer, customer + "%00"} {
			if resp, _ := b.do(t, "GET", "/?customer_id="+id, ""); resp.StatusCode != http.StatusBadRequest || len(resp.Cookies()) > 0 {
				t.Errorf("%q: %d, %v", id, resp.StatusCode, resp.Cookies())
			}
		}
		if got := b.buys(t); got != customer {
			t.Errorf("buys as %s", got)
		}
	})
	t.Run("one who is forgotten is another guest", func(t *testing.T) {
		resp, _ := b.do(t, "POST", "/forget", "")
		if resp.StatusCode != http.StatusSeeOther || resp.Header.Get("Location") != "/" || len(b.cookies) > 0 {
			t.Errorf("%d %v, cookies %v", resp.StatusCode, resp.Header, b.cookies)
		}
		if _, page := b.do(t, "GET", "/", ""); !strings.Contains(page, signUp) {
			t.Error(page)
		}
		if got := b.buys(t); got == customer || got == guest {
			t.Errorf("buys as %s", got)
		}
	})
	t.Run("a page of another site cannot make it forget", func(t *testing.T) {
		resp, _ := s.do(t, "POST", "/forget", "", "Sec-Fetch-Site", "cross-site")
		if resp.StatusCode != http.StatusForbidden || len(resp.Cookies()) > 0 {
			t.Errorf("%d %v", resp.StatusCode, resp.Cookies())
		}
	})
}
