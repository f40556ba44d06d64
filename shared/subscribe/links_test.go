package subscribe

import (
	"bytes"
	"io"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"strings"
	"testing"

	"github.com/edison-cars/data-feeds/shared/feedclient"
	"github.com/edison-cars/data-feeds/shared/postgres/pgtest"
)

// A reader takes its own way: of links it takes cursors alone. So it reads a source whose links lead to where it cannot
// go, by a proxy that serves it under a prefix, and no source sends it, and its token, to another origin.
func TestLinksLeadNowhereElse(t *testing.T) {
	t.Parallel()
	pgtest.Slow(t, "many databases")
	thief := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) { t.Errorf("%s is asked for, of another origin", r.URL) }))
	t.Cleanup(thief.Close)
	for name, base := range map[string]string{
		"an address that leads nowhere": "http://127.0.0.1:1", "another origin": thief.URL, "no scheme": strings.TrimPrefix(thief.URL, "http:"),
		"a user": strings.Replace(thief.URL, "//", "//reader:secret@", 1), "another scheme": "ftp://source.example", "another prefix": "/elsewhere", "relative links": "",
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := newSource(t)
			s.put(t, 1, 25)
			to, err := url.Parse(s.URL)
			if err != nil {
				t.Fatal(err)
			}
			linked := func(text string) string { return strings.ReplaceAll(text, "http://source.example", base) }
			proxy := httptest.NewServer(http.StripPrefix("/of/cars", &httputil.ReverseProxy{
				Rewrite: func(r *httputil.ProxyRequest) {
					if got := r.In.Header.Get("Authorization"); got != "Bearer datafeed_A" {
						t.Errorf("it asks with %q", got)
					}
					r.SetURL(to)
					r.Out.Header.Del("Accept-Encoding")
				},
				ModifyResponse: func(r *http.Response) error {
					body, err := io.ReadAll(r.Body)
					body = []byte(linked(string(body)))
					r.Body, r.ContentLength = io.NopCloser(bytes.NewReader(body)), int64(len(body))
					r.Header.Del("Content-Length")
					if link := r.Header.Get("Link"); link != "" {
						r.Header.Set("Link", linked(link))
					}
					return err
				},
			}))
			defer proxy.Close()
			c := newCopier(t, s)
			c.URL, c.fetcher.client = proxy.URL+"/of/cars/feeds/things", feedclient.New("datafeed_A")
			t.Cleanup(c.fetcher.client.Close)
			c.mustPoll(t)
			c.mustPoll(t)
			c.wantUpToDate(t, s)
			c.forgetPages(t)
			s.restored(t, 20) // and the way to start again is a link, too
			s.open(t)
			s.put(t, 30, 35)
			s.exchanges()
			c.mustPoll(t)
			c.wantWalked(t, s, 1)
			walked := false
			for _, asked := range s.exchanges() {
				walked = walked || strings.Contains(asked.query, "after=0&limit=10&history=20-")
			}
			if !walked {
				t.Error("the walk does not carry the history of the link")
			}
		})
	}
}
