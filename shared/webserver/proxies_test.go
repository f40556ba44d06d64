package webserver

import (
	"crypto/tls"
	"net/http"
	"net/http/httptest"
	"testing"

	"github.com/gin-gonic/gin"
)

func TestProxies(t *testing.T) {
	t.Parallel()
	for _, x := range []struct{ name, trusted, peer, forwarded, client string }{
		{"nobody is trusted", "", "192.0.2.7:1", "198.51.100.1", "192.0.2.7"},
		{"a client that is no proxy", "10.0.0.0/8", "192.0.2.7:1", "198.51.100.1", "192.0.2.7"},
		{"a proxy", "10.0.0.0/8, 192.0.2.7", "192.0.2.7:1", "198.51.100.1", "198.51.100.1"},
		{"a proxy behind a proxy", "10.0.0.0/8,192.0.2.7", "10.1.2.3:1", "198.51.100.1, 192.0.2.7", "198.51.100.1"},
		{"what a client put before what the proxy says", "10.0.0.0/8", "10.1.2.3:1", "203.0.113.9, 198.51.100.1", "198.51.100.1"},
		{"a proxy that says nothing", "10.0.0.0/8", "10.1.2.3:1", "", "10.1.2.3"},
		{"a proxy that says nonsense", "10.0.0.0/8", "10.1.2.3:1", "unknown", "10.1.2.3"},
		{"by IPv6", "2001:db8::/32", "[2001:db8::1]:1", "2001:db8:0:ffff::2, 2a00::1", "2a00::1"},
	} {
		t.Run(x.name, func(t *testing.T) {
			t.Parallel()
			var proxies Proxies
			if x.trusted != "" {
				if err := proxies.UnmarshalText([]byte(x.trusted)); err != nil {
					t.Fatal(err)
				}
			}
			r := gin.New()
			if err := proxies.Trust(r); err != nil {
				t.Fatal(err)
			}
			r.GET("/", func(c *gin.Context) { c.String(http.StatusOK, "%s", c.ClientIP()) })
			req := httptest.NewRequest("GET", "/", nil)
			req.RemoteAddr = x.peer
			req.Header.Set("X-Real-Ip", "203.0.113.80")
			if x.forwarded != "" {
				req.Header.Set("X-Forwarded-For", x.forwarded)
			}
			w := httptest.NewRecorder()
			r.ServeHTTP(w, req)
			if got := w.Body.String(); got != x.client {
				t.Errorf("the client is %s, want %s", got, x.client)
			}
		})
	}
	for _, list := range []string{"", ",", "10.0.0.0/33", "proxy.example", "10.0.0.1,", "fe80::1%eth0", "10.0.0.1:80", "*"} {
		if err := new(Proxies).UnmarshalText([]byte(list)); err == nil {
			t.Errorf("%q is taken", list)
		}
	}
}

func TestHTTPS(t *testing.T) {
	t.Parallel()
	for _, x := range []struct {
		name, trusted, peer string
		said                []string
		tls, https          bool
	}{
		{name: "nobody is trusted", peer: "127.0.0.1:1", said: []string{"https"}},
		{name: "a client that is no proxy", trusted: "10.0.0.0/8", peer: "192.0.2.7:1", said: []string{"https"}},
		{name: "a proxy", trusted: "10.0.0.0/8,192.0.2.7", peer: "192.0.2.7:1", said: []string{"https"}, https: true},
		{name: "a proxy of a network", trusted: "10.0.0.0/8,192.0.2.7", peer: "10.1.2.3:1", said: []string{"HTTPS"}, https: true},
		{name: "a proxy by IPv6", trusted: "2001:db8::/32", peer: "[2001:db8::1]:1", said: []string{"https"}, https: true},
		{name: "a proxy that is mapped to IPv6", trusted: "10.0.0.1", peer: "[::ffff:10.0.0.1]:1", said: []string{"https"}, https: true},
		{name: "a proxy that says http", trusted: "10.0.0.1", peer: "10.0.0.1:1", said: []string{"http"}},
		{name: "a proxy that says nothing", trusted: "10.0.0.1", peer: "10.0.0.1:1"},
		{name: "a proxy that says an empty word", trusted: "10.0.0.1", peer: "10.0.0.1:1", said: []string{""}},
		{name: "two proxies", trusted: "10.0.0.1", peer: "10.0.0.1:1", said: []string{"https, https"}, https: true},
		{name: "a client's word before the proxy's", trusted: "10.0.0.1", peer: "10.0.0.1:1", said: []string{"https, http"}},
		{name: "a client's field before the proxy's", trusted: "10.0.0.1", peer: "10.0.0.1:1", said: []string{"https", "http"}},
		{name: "a peer without an address", trusted: "10.0.0.1", peer: "@", said: []string{"https"}},
		{name: "TLS of the server's own", peer: "192.0.2.7:1", tls: true, https: true},
	} {
		t.Run(x.name, func(t *testing.T) {
			t.Parallel()
			var proxies Proxies
			if x.trusted != "" {
				if err := proxies.UnmarshalText([]byte(x.trusted)); err != nil {
					t.Fatal(err)
				}
			}
			r := gin.New()
			if err := proxies.Trust(r); err != nil {
				t.Fatal(err)
			}
			r.GET("/", func(c *gin.Context) { c.String(http.StatusOK, "%t", HTTPS(c)) })
			req := httptest.NewRequest("GET", "/", nil)
			req.RemoteAddr = x.peer
			if x.said != nil {
				req.Header["X-Forwarded-Proto"] = x.said
			}
			if x.tls {
				req.TLS = new(tls.ConnectionState)
			}
			w := httptest.NewRecorder()
			r.ServeHTTP(w, req)
			if got := w.Body.String() == "true"; got != x.https {
				t.Errorf("https: %t", got)
			}
		})
	}
}
