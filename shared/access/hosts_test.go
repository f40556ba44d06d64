package access

import (
	"bufio"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
)

func TestHosts(t *testing.T) {
	t.Parallel()
	s, made := settings(t, list...)
	if err := s.Hosts.UnmarshalText([]byte("Feeds.example,10.0.0.7 2001:db8::7,\n[2001:db8::8]:443, bücher.example straße.example:8443")); err != nil {
		t.Fatal(err)
	}
	site := start(t, s, Options{PublicURL: "https://cars.example:8443/shop"}, made)
	if _, err := New(Settings{}, Options{PublicURL: "https://bücher.example:8443"}); err != nil {
		t.Error(err)
	}
	for host, ours := range map[string]bool{
		"localhost": true, "localhost:8080": true, "localhost:": true, "LOCALHOST": true, "localhost.": true, "localhost.:8080": true, "a.b.localhost": true,
		"127.0.0.1": true, "127.0.0.1:8080": true, "127.8.9.10": true, "127.0.0.1.": true, "[::1]": true, "[::1]:8080": true, "[0:0:0:0:0:0:0:1]": true,
		"[::ffff:127.0.0.1]": true,
		"cars.example":       true, "cars.example:8443": true, "cars.example:1": true, "CARS.example.": true,
		"feeds.example": true, "10.0.0.7": true, "10.0.0.7:80": true, "[::ffff:10.0.0.7]": true, "[2001:db8::7]": true, "[2001:DB8:0::7]:1": true, "[2001:db8::8]": true,
		"xn--bcher-kva.example": true, "xn--strae-oqa.example:8443": true,

		"evil.example": false, "localhost.evil.example": false, "evillocalhost": false, "localhost..": false, ".localhost": false, ".": false, ":8080": false,
		"localhost:http": false, "localhost:80:80": false, "localhost:-1": false, "user@localhost": false, "localhost@evil.example": false, "user:pw@localhost": false,
		"127.0.0.1.evil.example": false, "127.0.0.1.nip.io": false, "10.0.0.8": false, "127.1": false, "2130706433": false, "0x7f.0.0.1": false, "0177.0.0.1": false, "0.0.0.0": false,
		"::1": false, "[::1": false, "[::1]8080": false, "[::1]]": false, "[::1%25lo]": false, "[::1%lo]": false, "[127.0.0.1]": false, "[localhost]": false, "[]": false, "[::]": false,
		"[2001:db8::9]": false, "www.cars.example": false, "example": false, "cars.example/": false, "cars,example": false, "feeds.example,cars.example": false,
	} {
		if got := site.ours(host); got != ours {
			t.Errorf("%q: ours is %t", host, got)
		}
		if !ours && strings.ContainsAny(host, "/ %") { // what no client can send
			continue
		}
		r := site.ask(t, "GET", "/open", "", "Host", host)
		if ours && r.status != http.StatusOK {
			t.Errorf("%q: %d %s", host, r.status, r.body)
		}
		if !ours && r.status != http.StatusBadRequest { // net/http refuses some
			r.wantProblem(t, http.StatusMisdirectedRequest, "HOSTS")
		}
	}
	t.Run("on every path but health", func(t *testing.T) {
		t.Parallel()
		for path, status := range map[string]int{
			"/feeds": 421, "/people": 421, "/login": 421, "/nothing": 421, "/livez": 200, "/readyz": 200,
		} {
			if r := site.ask(t, "GET", path, "", "Host", "evil.example", "Authorization", "Bearer "+site.tokens["ada:operator"]); r.status != status {
				t.Errorf("%s: %d %s", path, r.status, r.body)
			}
		}
		site.ask(t, "POST", "/login", "token="+site.tokens["ada:operator"], "Host", "evil.example").wantProblem(t, 421)
		if r := site.ask(t, "GET", "/open", "", "Host", "evil.example", "Accept", browser); r.status != 421 || !strings.Contains(r.body, "<h1>Misdirected Request</h1>") {
			t.Error(r)
		}
	})
	t.Run("no Host", func(t *testing.T) {
		t.Parallel()
		for text, status := range map[string]int{
			"GET /open HTTP/1.0\r\n\r\n": 421, "GET /livez HTTP/1.0\r\n\r\n": 200, "GET /open HTTP/1.1\r\nHost:\r\n\r\n": 421, "GET /open HTTP/1.1\r\n\r\n": 400,
			"GET http://evil.example/open HTTP/1.1\r\nHost: localhost\r\n\r\n": 421, "GET http://user@localhost/open HTTP/1.1\r\nHost: evil.example\r\n\r\n": 200,
			"GET /open HTTP/1.1\r\nHost: localhost\r\nHost: evil.example\r\n\r\n": 400,
		} {
			conn, err := new(net.Dialer).DialContext(t.Context(), "tcp", strings.TrimPrefix(site.url, "http://"))
			if err != nil {
				t.Fatal(err)
			}
			if _, err := io.WriteString(conn, text); err != nil {
				t.Fatal(err)
			}
			resp, err := http.ReadResponse(bufio.NewReader(conn), nil)
			if err != nil {
				t.Fatal(err)
			}
			if resp.StatusCode != status {
				t.Errorf("%q: %s", text, resp.Status)
			}
			_ = resp.Body.Close()
			_ = conn.Close()
		}
	})
}

func TestHostsAreRefused(t *testing.T) {
	t.Parallel()
	for _, list := range []string{"", ",", "*", "*.example", "http://feeds.example", "feeds.example/", "user@feeds.example", "feeds..example", "feeds.example:http", "[::1", "::1%lo", "a,*"} {
		if err := new(Hosts).UnmarshalText([]byte(list)); err == nil {
			t.Errorf("%q is taken", list)
		}
		if list != "" && list != "," {
			if _, err := New(Settings{Hosts: Hosts{list}}, Options{}); err == nil {
				t.Errorf("%q is taken from a program", list)
			}
		}
	}
	for _, public := range []string{"feeds.example", "http://", "/feeds", "http://*/", "http://[::1", ":"} {
		if _, err := New(Settings{}, Options{PublicURL: public}); err == nil || !strings.Contains(err.Error(), "PUBLIC_URL") {
			t.Errorf("%q: %v", public, err)
		}
	}
}

func TestOpenAccess(t *testing.T) {
	t.Parallel()
	a, err := New(Settings{Access: Open, Hosts: Hosts{"feeds.example"}}, Options{Service: "warehouse", Title: "Warehouse", Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	e := engine(t, a)
	for _, x := range []struct {
		name   string
		change func(*http.Request)
		open   bool
	}{
		{"this machine", func(*http.Request) {}, true},
		{"by IPv6", func(r *http.Request) { r.RemoteAddr = "[::1]:1234" }, true},
		{"by another address of loopback", func(r *http.Request) { r.RemoteAddr = "127.9.9.9:1234" }, true},
		{"by IPv4 in IPv6", func(r *http.Request) { r.RemoteAddr = "[::ffff:127.0.0.1]:1234" }, true},
		{"by another name of loopback", func(r *http.Request) { r.Host = "[::1]:8080" }, true},
		{"by a proxy that tells nothing but the world's name of ours", func(r *http.Request) { r.Host = "feeds.example" }, false},
		{"HTTP/2", func(r *http.Request) { r.Proto, r.ProtoMajor, r.ProtoMinor = "HTTP/2.0", 2, 0 }, true},
		{"a whole URL, as clients send it to a proxy", func(r *http.Request) { r.URL.Scheme, r.URL.Host = "http", "localhost:8080" }, false},
		{"another machine", func(r *http.Request) { r.RemoteAddr = "192.0.2.7:1234" }, false},
		{"another machine by IPv6", func(r *http.Request) { r.RemoteAddr = "[2001:db8::1]:1234" }, false},
		{"docker's gateway", func(r *http.Request) { r.RemoteAddr = "172.17.0.1:1234" }, false},
		{"a peer without an address", func(r *http.Request) { r.RemoteAddr = "@" }, false},
		{"HTTP/1.0", func(r *http.Request) { r.Proto, r.ProtoMajor, r.ProtoMinor = "HTTP/1.0", 1, 0 }, false},
		{"a bad token", func(r *http.Request) { r.Header.Set("Authorization", "Bearer datafeed_x") }, false},
		{"an empty token", func(r *http.Request) { r.Header.Set("Authorization", "") }, false},
		{"fields of clients", func(r *http.Request) {
			for _, field := range []string{"X-Requested-With", "X-Prometheus-Scrape-Timeout-Seconds", "Traceparent", "HTTP2-Settings", "Client_Hints", "Idempotency-Key", "Prefer", "Sec-Fetch-Site", "Dnt", "Referer"} {
				r.Header.Set(field, "1")
			}
		}, true},
		{"a session that is not there", func(r *http.Request) { r.Header.Set("Cookie", "warehouse_session=x") }, true},
	} {
		t.Run(x.name, func(t *testing.T) {
			t.Parallel()
			wantOpen(t, e, x.change, x.open)
		})
	}
	for _, field := range []string{
		"Forwarded", "X-Forwarded-For", "X-Forwarded-Proto", "X-Forwarded-Host", "X-Forwarded-Server", "x-forwarded-anything", "X-Real-IP", "Via", "X-Client-IP", "True-Client-IP",
		"CF-Connecting-IP", "X-Original-Forwarded-For", "X-Envoy-External-Address", "X-Amzn-Trace-Id", "Fastly-Client-IP", "X-Cluster-Client-IP", "Client-IP", "CDN-Loop",
		"Forwarded-For", "X-Host", "X-Remote-IP", "X-Remote-Addr", "X-Rewrite-URL", "X-Scheme", "X-ARR-SSL", "X-Azure-ClientIP", "X-Appengine-User-IP", "X-Nginx-Proxy", "X-Varnish",
		"Fly-Client-IP", "Front-End-Https", "Remote-User", "Tailscale-User-Login", "Ali-CDN-Real-IP", "Incap-Client-IP", "Proxy-Authorization", "Max-Forwards",
		"x_real_ip", "X_Forwarded_For", "proxy_connection", "HTTP_X_FORWARDED_FOR", "Early-Data", "Client-Cert", "Client-Cert-Chain", "SSL-Client-Verify", "WL-Proxy-Client-IP",
		"Surrogate-Capability", "CloudFront-Viewer-Address", "Real-IP", "ClientIP", "Cluster-Client-IP", "Sozu-Id",
	} {
		t.Run(field, func(t *testing.T) {
			t.Parallel()
			wantOpen(t, e, func(r *http.Request) { r.Header.Set(field, "127.0.0.1") }, false)
			wantOpen(t, e, func(r *http.Request) { r.Header.Set(field, "") }, false)
		})
	}
}

func wantOpen(t *testing.T, e http.Handler, change func(*http.Request), open bool) {
	t.Helper()
	for _, path := range []string{"/feeds/orders", "/people", "/open"} {
		r := httptest.NewRequestWithContext(t.Context(), "GET", path, nil)
		r.Host, r.RemoteAddr = "localhost:8080", "127.0.0.1:1234"
		change(r)
		w := httptest.NewRecorder()
		e.ServeHTTP(w, r)
		want := http.StatusUnauthorized
		if open || path == "/open" {
			want = http.StatusOK
		}
		if w.Code != want || open != strings.Contains(w.Body.String(), "< operator>") {
			t.Errorf("%s: %d %s", path, w.Code, w.Body)
		}
	}
}
