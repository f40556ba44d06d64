package customers

import (
	"html"
	"net/http"
	"regexp"
	"strings"
	"testing"
)

var hiddenFields = regexp.MustCompile(`name="(idempotency_key|return|version)" value="([^"]*)"`)

// hiddenField returns a hidden field of a page.
func hiddenField(page, name string) string {
	for _, found := range hiddenFields.FindAllStringSubmatch(page, -1) {
		if found[1] == name {
			return html.UnescapeString(found[2])
		}
	}
	return ""
}

func TestSignUpByForm(t *testing.T) {
	t.Parallel()
	a := open(t)
	for _, path := range []string{"/", "/signup"} {
		resp, page := a.do(t, "GET", path, "", "Accept", "text/html")
		if resp.StatusCode != 200 || resp.Header.Get("Cache-Control") != "no-store" || hiddenField(page, "idempotency_key") == "" || strings.Contains(page, "aria-invalid") {
			t.Errorf("%s: %d %s", path, resp.StatusCode, page)
		}
	}
	_, page := a.do(t, "GET", "/signup?return=https%3A%2F%2Fevil.example", "", "Accept", "text/html")
	key := hiddenField(page, "idempotency_key")
	const hostile = `"><script>`
	resp, page := a.form(t, "/customers", adaForm("idempotency_key", key, "email", "ada", "street", hostile, "country", "UK"))
	if resp.StatusCode != 422 || hiddenField(page, "idempotency_key") != key || strings.Count(page, "aria-invalid") != 2 ||
		!strings.Contains(page, `value="ada"`) || !strings.Contains(page, `aria-describedby="email-wrong"`) || !strings.Contains(page, html.EscapeString(hostile)) || strings.Contains(page, hostile) {
		t.Errorf("%d %s", resp.StatusCode, page)
	}
	resp, _ = a.form(t, "/customers", adaForm("idempotency_key", key, "return", "https://evil.example"))
	to := resp.Header.Get("Location")
	if resp.StatusCode != http.StatusSeeOther || !strings.HasPrefix(to, "/customers/") || len(resp.Cookies()) != 1 {
		t.Fatalf("%d %v", resp.StatusCode, resp.Header)
	}
	if c := resp.Cookies()[0]; c.Name != "customers_buyer" || !c.HttpOnly || c.Secure || c.SameSite != http.SameSiteLaxMode || c.Path != "/" || c.MaxAge != 365*24*3600 {
		t.Errorf("%v", c)
	}
	if resp, page := a.do(t, "GET", to, "", "Accept", "text/html", "Cookie", resp.Cookies()[0].Name+"="+resp.Cookies()[0].Value); resp.StatusCode != 200 || !strings.Contains(page, "Ada Lovelace") {
		t.Errorf("%d %s", resp.StatusCode, page)
	}
	t.Run("sent twice it is one account", func(t *testing.T) {
		if again, _ := a.form(t, "/customers", adaForm("idempotency_key", key)); again.StatusCode != http.StatusSeeOther || again.Header.Get("Location") != to || len(again.Cookies()) != 1 {
			t.Errorf("%d to %s", again.StatusCode, again.Header.Get("Location"))
		}
	})
	t.Run("with two keys it is no account", func(t *testing.T) {
		resp, page := a.do(t, "POST", "/customers", adaForm("idempotency_key", "other").Encode(), "Content-Type", "application/x-www-form-urlencoded", "Idempotency-Key", "another")
		if resp.StatusCode != http.StatusBadRequest {
			t.Errorf("%d %s", resp.StatusCode, page)
		}
	})
	t.Run("sent again with something else it is a new form", func(t *testing.T) {
		resp, page := a.form(t, "/customers", adaForm("idempotency_key", key, "city", "Paris"))
		fresh := hiddenField(page, "idempotency_key")
		if resp.StatusCode != 422 || fresh == key || fresh == "" || !strings.Contains(page, `value="Paris"`) {
			t.Fatalf("%d %s", resp.StatusCode, page)
		}
		if resp, _ := a.form(t, "/customers", adaForm("idempotency_key", fresh, "city", "Paris")); resp.StatusCode != http.StatusSeeOther || !strings.HasPrefix(resp.Header.Get("Location"), "/customers/") {
			t.Errorf("%d to %s", resp.StatusCode, resp.Header.Get("Location"))
		}
	})
	for when, year := range map[string]string{"much later": "2001", "after the clock, which was wrong, was set back": "3001"} {
		t.Run("sent again "+when+" it signs nobody in", func(t *testing.T) {
			const other = `update idempotency_key set answer = convert_to(regexp_replace(convert_from(answer, 'UTF8'), '"created_at":"\d+', '"created_at":"' || $2), 'UTF8') where key = encode(sha256($1::bytea), 'hex')`
			if _, err := a.pool.Exec(t.Context(), other, key, year); err != nil {
				t.Fatal(err)
			}
			resp, page := a.form(t, "/customers", adaForm("idempotency_key", key))
			if resp.StatusCode != 422 || len(resp.Cookies()) > 0 || hiddenField(page, "idempotency_key") == key {
				t.Errorf("%d %v %s", resp.StatusCode, resp.Cookies(), page)
			}
			if resp, text := a.do(t, "POST", "/customers", ada, "Content-Type", "application/json", "Idempotency-Key", key); resp.StatusCode != 201 || strings.Contains(text, "buyer_token") {
				t.Errorf("%d %s", resp.StatusCode, text)
			}
		})
	}
	if n := len(a.entries(t)); n != 2 {
		t.Errorf("%d entries", n)
	}
}

func TestAccountByForms(t *testing.T) {
	t.Parallel()
	a := open(t)
	_, p := a.json(t, "POST", "/customers", ada, 201)
	at := path(p.ID)
	resp, page := a.do(t, "GET", at, "", "Accept", "text/html")
	for _, part := range []string{`value="Ada Lovelace"`, `<option value="GB" selected>United Kingdom</option>`, `href="https://shop.example/"`, `action="` + at + `/delete"`} {
		if !strings.Contains(page, part) {
			t.Errorf("no %s in the page (%d)", part, resp.StatusCode)
		}
	}
	if resp.Header.Get("Cache-Control") != "no-store" {
		t.Errorf("%v", resp.Header)
	}
	way := `<a href="/trace/` + p.ID.String() + `">`
	if _, operators := a.do(t, "GET", at, "", "Accept", "text/html", "X-Access", "open", "Cookie", ""); strings.Contains(page, way) || !strings.Contains(operators, way) {
		t.Errorf("the page of an operator has no %s, or the customer's has: %s", way, operators)
	}
	version := hiddenField(page, "version")
	if resp, page := a.form(t, at, adaForm("version", version, "city", "")); resp.StatusCode != 422 || hiddenField(page, "version") != version || strings.Count(page, "aria-invalid") != 1 {
		t.Errorf("%d %s", resp.StatusCode, page)
	}
	resp, _ = a.form(t, at, adaForm("version", version, "city", "Paris"))
	if resp.StatusCode != http.StatusSeeOther || resp.Header.Get("Location") != at+"?saved" {
		t.Fatalf("%d to %s", resp.StatusCode, resp.Header.Get("Location"))
	}
	if _, page := a.do(t, "GET", at+"?saved", "", "Accept", "text/html"); !strings.Contains(page, "Saved.") || !strings.Contains(page, `value="Paris"`) || hiddenField(page, "version") != "2" {
		t.Error(page)
	}
	t.Run("of two who saw the same the second hears of the first", func(t *testing.T) {
		resp, page := a.form(t, at, adaForm("version", version, "city", "Rome"))
		if resp.StatusCode != 412 || hiddenField(page, "version") != "2" || !strings.Contains(page, `value="Rome"`) || !strings.Contains(page, "Save again") {
			t.Fatalf("%d %s", resp.StatusCode, page)
		}
		if resp, _ := a.form(t, at, adaForm("version", "2", "city", "Rome")); resp.StatusCode != http.StatusSeeOther {
			t.Errorf("saved again: %d", resp.StatusCode)
		}
	})
	t.Run("without a version nothing changes", func(t *testing.T) {
		if resp, _ := a.form(t, at, adaForm("city", "Oslo")); resp.StatusCode != 412 {
			t.Errorf("%d", resp.StatusCode)
		}
	})
	t.Run("a page of another origin changes nothing", func(t *testing.T) {
		for _, path := range []string{at, at + "/delete"} {
			resp, _ := a.do(t, "POST", path, adaForm("version", "3", "city", "Oslo", "confirm", "yes").Encode(), "Content-Type", "application/x-www-form-urlencoded", "Sec-Fetch-Site", "same-site")
			if resp.StatusCode != 403 {
				t.Errorf("%s: %d", path, resp.StatusCode)
			}
		}
	})
	t.Run("a deletion has to be confirmed", func(t *testing.T) {
		if resp, page := a.form(t, at+"/delete", nil); resp.StatusCode != 422 || !strings.Contains(page, `aria-describedby="confirm-wrong"`) {
			t.Errorf("%d %s", resp.StatusCode, page)
		}
		if resp, text := a.do(t, "POST", at+"/delete", `{"confirm":false}`, "Content-Type", "application/json"); resp.StatusCode != 422 || !strings.Contains(text, `"field":"confirm"`) {
			t.Errorf("%d %s", resp.StatusCode, text)
		}
	})
	if _, p := a.json(t, "GET", at, "", 200); p.Version != 3 || p.Address.City != "Rome" {
		t.Errorf("%+v", p)
	}
	resp, _ = a.form(t, at+"/delete", adaForm("confirm", "yes"))
	if resp.StatusCode != http.StatusSeeOther || resp.Header.Get("Location") != "/deleted" || len(resp.Cookies()) == 0 || resp.Cookies()[0].MaxAge >= 0 {
		t.Errorf("%d %v", resp.StatusCode, resp.Header)
	}
	if _, page := a.do(t, "GET", "/deleted", "", "Accept", "text/html"); !strings.Contains(page, "This account is deleted") {
		t.Error(page)
	}
	for path, form := range map[string]bool{at: true, at + "/delete": true, at + "?": false} {
		method := map[bool]string{true: "POST", false: "GET"}[form]
		resp, page := a.do(t, method, path, adaForm("version", "4", "confirm", "yes").Encode(), "Content-Type", "application/x-www-form-urlencoded", "Accept", "text/html")
		if resp.StatusCode != 404 || strings.Contains(page, "Ada") {
			t.Errorf("%s %s: %d %s", method, path, resp.StatusCode, page)
		}
	}
}
