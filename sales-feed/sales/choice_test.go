package sales

import (
	"html"
	"net/http"
	"regexp"
	"strings"
	"testing"
)

var hiddenFields = regexp.MustCompile(`<input type="hidden" name="([a-z_]+)" value="([^"]*)">`)

// purchaseOf returns the form of a review, as a browser sends it.
func purchaseOf(page string) string {
	_, form, _ := strings.Cut(page, `<form method="post" action="/orders">`)
	var fields []string
	for _, f := range hiddenFields.FindAllStringSubmatch(form, -1) {
		fields = append(fields, f[1]+"="+html.UnescapeString(f[2]))
	}
	return strings.Join(fields, "&")
}

// A buyer reviews the choice before the purchase, at the price of its options.
func TestReview(t *testing.T) {
	t.Parallel()
	s := open(t)
	b := &browser{s, map[string]*http.Cookie{}}
	const query = "?model=volta&options=heat_pump&options=glass_roof&quantity=3"
	has := func(page string, parts ...string) {
		t.Helper()
		for _, part := range parts {
			if !strings.Contains(page, part) {
				t.Errorf("no %s in %s", part, page)
			}
		}
	}
	resp, page := b.do(t, "GET", "/"+query, "")
	has(page, `<output class="price">€87,510.00</output>`, `value="heat_pump" data-cents="98000" checked`, `value="glass_roof" data-cents="120000" checked`,
		`<output class="price">€49,900.00</output>`, `id="quantity-volta" name="quantity" type="number" min="1" max="50" value="3" required>`)
	if resp.StatusCode != 200 || strings.Count(page, " checked") != 2 || strings.Contains(page, "aria-invalid") {
		t.Errorf("%d %s", resp.StatusCode, page)
	}
	resp, page = b.do(t, "GET", "/review"+query, "")
	has(page, "Review your order", "Glass roof, Heat pump", "€29,170.00", "Buy for €87,510.00", `href="/?model=volta&amp;options=heat_pump&amp;options=glass_roof&amp;quantity=3#volta"`,
		"You are buying as a guest.", `name="next" value="/review?model=volta&amp;options=heat_pump&amp;options=glass_roof&amp;quantity=3"`)
	if resp.StatusCode != 200 || resp.Header.Get("Cache-Control") != "no-store" {
		t.Errorf("%d %v", resp.StatusCode, resp.Header)
	}
	if n := len(s.entries(t)); n != 0 {
		t.Errorf("a review has made %d entries", n)
	}
	if resp, _ := b.do(t, "GET", "/review", ""); resp.StatusCode != 303 || resp.Header.Get("Location") != "/" {
		t.Errorf("a review of nothing: %d %v", resp.StatusCode, resp.Header)
	}
	form := purchaseOf(page)
	t.Run("at another price than was reviewed nothing is bought", func(t *testing.T) {
		resp, page := b.do(t, "POST", "/orders", strings.Replace(form, "total_cents=8751000", "total_cents=8751001", 1))
		if resp.StatusCode != 422 {
			t.Errorf("%d %s", resp.StatusCode, page)
		}
		has(page, "The price has changed.", "was €87,510.01 when you reviewed the order, and is €87,510.00 now", "Buy for €87,510.00", `role="alert"`)
		if again := purchaseOf(page); again == form || !strings.Contains(again, "total_cents=8751000") {
			t.Error(again)
		}
	})
	resp, _ = b.do(t, "POST", "/orders", form)
	at := resp.Header.Get("Location")
	if resp.StatusCode != 303 {
		t.Fatalf("%d", resp.StatusCode)
	}
	t.Run("sent twice it is one order", func(t *testing.T) {
		if again, _ := b.do(t, "POST", "/orders", form); again.StatusCode != 303 || again.Header.Get("Location") != at || len(s.entries(t)) != 1 {
			t.Errorf("%d at %s, first at %s", again.StatusCode, again.Header.Get("Location"), at)
		}
	})
	t.Run("with something else under its key it is reviewed again", func(t *testing.T) {
		resp, page := b.do(t, "POST", "/orders", strings.NewReplacer("quantity=3", "quantity=1", "total_cents=8751000", "total_cents=2917000").Replace(form))
		if resp.StatusCode != 422 {
			t.Errorf("%d", resp.StatusCode)
		}
		has(page, "You have already bought with this form.", "Buy for €29,170.00")
		if resp, _ := b.do(t, "POST", "/orders", purchaseOf(page)); resp.StatusCode != 303 || resp.Header.Get("Location") == at {
			t.Errorf("%d %v", resp.StatusCode, resp.Header)
		}
	})
	_, page = b.do(t, "GET", at, "")
	has(page, "Thank you", "€87,510.00", "What you can still do", "We do not know where to deliver it.", "Request cancellation")
	b.do(t, "POST", strings.TrimSuffix(at, "?placed")+"/cancel", "")
	_, page = b.do(t, "GET", at, "")
	has(page, "Cancellation requested.", `<span class="badge cancelled">cancellation requested</span>`, `href="/?model=volta&amp;options=glass_roof&amp;options=heat_pump&amp;quantity=3#volta"`)
	if strings.Contains(page, "Thank you") || strings.Contains(page, "Request cancellation") {
		t.Error(page)
	}
	if _, page := b.do(t, "GET", "/orders", ""); !strings.Contains(page, `<span class="badge cancelled">cancellation requested</span>`) {
		t.Error(page)
	}
}

// A wrong value is shown at its field, in the form as it was filled in.
func TestWrongChoice(t *testing.T) {
	t.Parallel()
	s := open(t)
	b := &browser{s, map[string]*http.Cookie{}}
	for query, parts := range map[string][]string{
		"model=ohm&options=tow_bar&quantity=51": {`<a href="#quantity-ohm">Quantity of Edison Ohm</a> must be 1 to 50`, `value="51" required aria-invalid="true" aria-describedby="quantity-ohm-wrong"`,
			`id="quantity-ohm-wrong"`, `value="tow_bar" data-cents="89000" checked`, `<output class="price">–</output>`},
		"model=ohm&quantity=":                                  {`aria-invalid="true" aria-describedby="quantity-ohm-wrong"`},
		"model=ohm&quantity=%3Cb%3E":                           {`value="&lt;b&gt;"`, `aria-invalid="true"`},
		"model=ohm&options=sail&quantity=2":                    {`<fieldset id="options-ohm" aria-describedby="options-ohm-wrong">`, `&#34;sail&#34; is not an option`, `value="2" required>`},
		"model=ohm&options=tow_bar&options=tow_bar&quantity=1": {"tow_bar is there twice"},
		"model=zeppelin&quantity=2":                            {"The model is not on sale"},
	} {
		for _, way := range []string{"/", "/review", "/orders"} {
			method, path, body := "GET", way+"?"+query, ""
			if way == "/orders" {
				method, path, body = "POST", way, query
			}
			resp, page := b.do(t, method, path, body)
			if resp.StatusCode != 422 || resp.Header.Get("Cache-Control") != "no-store" || strings.Count(page, `action="/review"`) != len(catalogue) {
				t.Errorf("%s: %d %v", path, resp.StatusCode, resp.Header)
			}
			for _, part := range append(parts, `role="alert"`, "Nothing was bought.") {
				if !strings.Contains(page, part) {
					t.Errorf("%s: no %s in %s", path, part, page)
				}
			}
		}
	}
	if resp, text := b.do(t, "POST", "/orders", "model=ohm&quantity=51", "Accept", "application/json"); resp.StatusCode != 422 || resp.Header.Get("Content-Type") != "application/problem+json" {
		t.Errorf("a program: %d %s", resp.StatusCode, text)
	}
	if n := len(s.entries(t)); n != 0 {
		t.Errorf("%d entries", n)
	}
}

// While the database is down, guests look at the cars, and a purchase keeps its form, with its key.
func TestPurchaseWithoutDatabase(t *testing.T) {
	t.Parallel()
	s := open(t)
	b := &browser{s, map[string]*http.Cookie{}}
	b.do(t, "GET", "/", "")
	_, page := b.do(t, "GET", "/review?model=ohm&quantity=1", "")
	form := purchaseOf(page)
	for _, table := range []string{"idempotency_key", "buyer_since"} {
		exec(t, s, `alter table `+table+` rename to away`)
		resp, page := b.do(t, "POST", "/orders", form)
		if resp.StatusCode != 503 || resp.Header.Get("Retry-After") == "" || purchaseOf(page) != form || !strings.Contains(page, "it is placed only once") {
			t.Errorf("without %s: %d %v %s", table, resp.StatusCode, resp.Header, page)
		}
		for _, path := range []string{"/", "/review?model=ohm&quantity=1"} {
			if resp, page := b.do(t, "GET", path, ""); resp.StatusCode != 200 || !strings.Contains(page, "You are buying as a guest.") {
				t.Errorf("without %s: %s: %d %s", table, path, resp.StatusCode, page)
			}
		}
		exec(t, s, `alter table away rename to `+table)
	}
	if resp, _ := b.do(t, "POST", "/orders", form); resp.StatusCode != 303 || len(s.entries(t)) != 1 {
		t.Errorf("%d %v", resp.StatusCode, resp.Header)
	}
}
