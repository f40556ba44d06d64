package web

import (
	"net/http"
	"slices"
	"strings"
	"testing"
)

func TestPrefersHTML(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct {
		name   string
		accept []string
		want   bool
	}{
		{"nothing said", nil, false},
		{"a blank field", []string{""}, false},
		{"curl", []string{"*/*"}, false},
		{"a browser", []string{"text/html,application/xhtml+xml,application/xml;q=0.9,image/avif,*/*;q=0.8"}, true},
		{"all texts", []string{"text/*"}, true},
		{"JSON only", []string{"application/json"}, false},
		{"both alike", []string{"text/html, application/json"}, false},
		{"JSON rather", []string{"text/html;q=0.8, application/json;q=0.9"}, false},
		{"HTML rather", []string{"application/json;q=0.899, text/html;q=0.9"}, true},
		{"a problem rather", []string{"application/problem+json, text/html;q=0.9"}, false},
		{"anything but HTML", []string{"text/html;q=0, */*"}, false},
		{"the specific range wins", []string{"text/*;q=0.1, text/html;q=0.9, application/*;q=0.5"}, true},
		{"the specific range wins, the other way", []string{"text/*, text/html;q=0.1, */*;q=0.5"}, false},
		{"another level of HTML", []string{"text/html;level=1, application/json;q=0.4"}, false},
		{"our own charset", []string{`text/html; charset="UTF-8"; q=0.9, application/json;q=0.4`}, true},
		{"two fields", []string{"application/json;q=0.4", "text/html"}, true},
		{"capitals", []string{"TEXT/HTML;Q=0.9, application/json;q=0.4"}, true},
		{"a comma in quotes", []string{`text/plain;x="a,text/html", application/json;q=0.1`}, false},
		{"a weight out of range", []string{"text/html;q=2, application/json;q=0.1"}, false},
		{"a weight that is none", []string{"text/html;q=high, application/json;q=0.1"}, false},
		{"Internet Explorer and Edge", []string{"text/html, application/xhtml+xml, image/jxr, */*"}, true},
		{"w3m", []string{"text/html, text/*;q=0.5, image/*, application/*"}, true},
		{"axios", []string{"application/json, text/plain, */*"}, false},
		{"jQuery for JSON", []string{"application/json, text/javascript, */*; q=0.01"}, false},
		{"jQuery for HTML", []string{"text/html, */*; q=0.01"}, true},
		{"JSON by name, HTML by a wildcard", []string{"text/*, application/json"}, false},
		{"a weight without a zero", []string{"text/html;q=.9, application/json;q=.4"}, true},
		{"a weight without decimals", []string{"text/html;q=., application/json;q=.4"}, false},
		{"rubbish", []string{";;,/,q=1,*/html, =\""}, false},
	} {
		r := &http.Request{Header: http.Header{"Accept": tc.accept}}
		if got := PrefersHTML(r); got != tc.want {
			t.Errorf("%s: %q: %v", tc.name, tc.accept, got)
		}
	}
}

func TestNegotiate(t *testing.T) {
	t.Parallel()
	for accept, want := range map[string]string{
		"":                                "application/json",
		"image/png":                       "",
		"*/*;q=0":                         "",
		"text/html;q=0":                   "",
		"text/html;q=0, */*":              "application/json",
		"text/html, */*;q=0.001":          "text/html",
		"text/html, */*":                  "text/html",
		"*/*, text/html":                  "text/html",
		"text/*, */*":                     "text/html",
		"text/html;q=0.9, */*":            "application/json",
		"application/atom+xml;type=feed":  "application/atom+xml",
		"application/atom+xml;type=entry": "",
		"application/atom+xml":            "application/atom+xml",
	} {
		if got := Negotiate(accept, "application/json", "application/atom+xml", "text/html"); got != want {
			t.Errorf("%q takes %q, want %q", accept, got, want)
		}
	}
}

func FuzzNegotiate(f *testing.F) {
	for _, accept := range []string{"", "*/*", "text/html;q=0.5,*/*;q=0.1", `a/b;c="d,\"e"`, "text/html;level=1", "q=1,;;/"} {
		f.Add(accept)
	}
	offers := []string{"application/atom+xml", "application/json", "text/html"}
	f.Fuzz(func(t *testing.T, accept string) {
		got := Negotiate(accept, offers...)
		if got != "" && !slices.Contains(offers, got) {
			t.Errorf("%q takes %q, which is not offered", accept, got)
		}
		if again := Negotiate(" "+accept+" ", offers...); again != got {
			t.Errorf("%q takes %q, with blanks around %q", accept, got, again)
		}
		if strings.TrimSpace(accept) == "" || strings.Contains(accept, `"`) {
			return
		}
		if twice := Negotiate(accept+","+accept, offers...); twice != got {
			t.Errorf("%q takes %q, said twice %q", accept, got, twice)
		}
	})
}
