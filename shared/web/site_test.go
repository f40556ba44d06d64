package web

import "testing"

func TestSite(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]struct{ site, origin string }{
		"http://localhost:8080":            {"http://localhost:8080", "http://localhost:8080"},
		"http://localhost:8080/":           {"http://localhost:8080", "http://localhost:8080"},
		"HTTPS://Customers.Example/Shop/":  {"https://customers.example/Shop", "https://customers.example"},
		"https://customers.example:443":    {"https://customers.example", "https://customers.example"},
		"https://customers.example:80/":    {"https://customers.example:80", "https://customers.example:80"},
		"http://customers.example:80/shop": {"http://customers.example/shop", "http://customers.example"},
		"http://customers.example:443":     {"http://customers.example:443", "http://customers.example:443"},
		"https://customers.example:":       {"https://customers.example", "https://customers.example"},
		"https://bücher.example":           {"https://xn--bcher-kva.example", "https://xn--bcher-kva.example"},
		"https://BÜCHER.example:8443/":     {"https://xn--bcher-kva.example:8443", "https://xn--bcher-kva.example:8443"},
		"http://my_shop:80":                {"http://my_shop", "http://my_shop"},
		"http://10.0.0.7:8080":             {"http://10.0.0.7:8080", "http://10.0.0.7:8080"},
		"https://[2001:DB8:0::7]:443":      {"https://[2001:db8::7]", "https://[2001:db8::7]"},
		"https://[2001:DB8:0::7]:8443/a":   {"https://[2001:db8::7]:8443/a", "https://[2001:db8::7]:8443"},
	} {
		var s Site
		if err := s.UnmarshalText([]byte(text)); err != nil || string(s) != want.site || s.Origin() != want.origin {
			t.Errorf("%q: %q %q %v", text, s, s.Origin(), err)
		}
	}
	for _, text := range []string{"", "customers.example", "ftp://customers.example", "https://", "https://:443", "https://a@b", "localhost:8080", "/shop", "javascript:alert(1)", "http://", "http://u:hunter2@h", "https://a?b", "https://a#b", "https://ü ü", "//h", "http://h:65536"} {
		var s Site
		if err := s.UnmarshalText([]byte(text)); err == nil || s != "" {
			t.Errorf("%q is taken as %q", text, s)
		}
	}
}
