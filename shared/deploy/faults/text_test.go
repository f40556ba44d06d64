package faults_test

import (
	"net/http"
	"net/url"
	"strings"
	"testing"

	"github.com/edison-cars/data-feeds/shared/postgres/pgtest"
)

// TestMalformedText sends every service text that no database takes, wherever a request holds text.
func TestMalformedText(t *testing.T) {
	t.Parallel()
	server := pgtest.NewServer(t)
	p := newInProcess(server.URL)
	for _, name := range all {
		p.start(t, name)
	}
	malformed := []string{"%00", "a%00b", "%ff", "%ed%a0%80"}
	const id = "00000000-0000-4000-8000-000000000001"
	for _, name := range all {
		check := func(status int, text string, err error, want int, what ...string) {
			t.Helper()
			if err != nil || status < 400 || status >= 500 || want > 0 && status != want {
				t.Errorf("%s %v: %d %s %v", name, what, status, text, err)
			}
		}
		for _, bad := range malformed {
			for _, path := range routes(t, name) {
				address, _, _ := strings.Cut(p.urls[name]+path, "?")
				for _, query := range []string{"part=", "before=", "after=", "q=", "status="} {
					status, _, text, err := ask(http.MethodGet, address+"?"+query+bad, "", nil)
					check(status, text, err, http.StatusBadRequest, path, query, bad)
				}
				status, _, text, err := ask(http.MethodGet, address+"?"+bad+"=x", "", nil)
				check(status, text, err, http.StatusBadRequest, path, bad)
				folder := address[:strings.LastIndex(address, "/")]
				status, _, text, err = ask(http.MethodGet, folder+"/"+bad, "text/html", nil)
				check(status, text, err, http.StatusNotFound, path, bad)
			}
			value, _ := url.QueryUnescape(bad)
			posts := []string{"/subscriptions/orders/schedule", "/subscriptions/" + bad + "/pause", "/subscriptions/orders/rejected/" + bad + "/drop"}
			switch name {
			case "sales":
				posts = []string{"/orders", "/orders/" + bad + "/cancel", "/orders/" + id + "/cancel"}
			case "customers":
				posts = []string{"/customers", "/customers/" + bad, "/customers/" + id, "/customers/" + id + "/delete"}
			}
			for _, path := range posts {
				for _, field := range []string{"schedule", "wait", "model", "name", "city", "idempotency_key", "version", value} {
					status, _, text, err := ask(http.MethodPost, p.urls[name]+path, "text/html", url.Values{field: {value}, "x": {value}})
					check(status, text, err, 0, path, field, bad)
				}
			}
			header(t, p.urls[name], name, value, id)
		}
	}
}

// header sends malformed text in the fields that reach a database.
func header(t *testing.T, at, name, value, id string) {
	t.Helper()
	value = strings.ReplaceAll(value, "\x00", "\x01") // Go's client, and its server, refuse a NUL
	for field, path := range map[string]string{
		"Idempotency-Key": map[string]string{"sales": "/orders", "customers": "/customers"}[name],
		"If-Match":        map[string]string{"sales": "/orders/" + id + "/cancel", "customers": "/customers/" + id}[name],
		"Cookie":          "/", "If-None-Match": "/", "Last-Event-ID": "/feeds/orders", "Accept": "/feeds/orders", "Prefer": "/feeds/orders",
	} {
		method := http.MethodGet
		if field == "Idempotency-Key" || field == "If-Match" {
			method = http.MethodPost
		}
		req, err := http.NewRequestWithContext(t.Context(), method, at+path, strings.NewReader("{}"))
		if err != nil {
			t.Fatal(err)
		}
		req.Header.Set("Content-Type", "application/json")
		req.Header[field] = []string{"customer=" + value}
		resp, err := client.Do(req)
		if err != nil {
			if strings.Contains(err.Error(), "invalid header") {
				continue
			}
			t.Fatal(err)
		}
		_ = resp.Body.Close()
		if resp.StatusCode >= 500 {
			t.Errorf("%s%s %s %q: %s", name, path, field, value, resp.Status)
		}
	}
}
