package feedhttp

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zstd"

	"github.com/edison-cars/data-feeds/shared/feed"
)

func TestCacheIsBounded(t *testing.T) {
	t.Parallel()
	c := newCache(10_000)
	for i := range 100 {
		c.keep(&cached{tag: fmt.Sprint(i), body: make([]byte, 1000)})
		if c.lookup("0") == nil {
			t.Fatalf("what is asked for all the time went after %d others", i)
		}
		if c.size > c.limit {
			t.Fatalf("it holds %d bytes", c.size)
		}
	}
	if c.lookup("99") == nil || c.lookup("50") != nil || len(c.byTag) != c.recent.Len() || len(c.byTag) != 8 {
		t.Errorf("%d documents, newest there: %t, one from the middle: %t", len(c.byTag), c.lookup("99") != nil, c.lookup("50") != nil)
	}
	c.keep(&cached{tag: "huge", body: make([]byte, 20_000)})
	if c.lookup("huge") != nil || c.lookup("99") == nil {
		t.Error("what cannot fit drove out the rest")
	}
}

// A cached document takes no more memory than the cache counts, whatever room its encoder has made.
func TestCachedBodyHasNoSpareRoom(t *testing.T) {
	t.Parallel()
	c := newCache(1 << 20)
	for _, coding := range []string{codingZstd, codingGzip, codingIdentity} {
		doc, err := c.get(t.Context(), coding, func(context.Context) (*cached, error) {
			body, err := compress(append(make([]byte, 0, 500_000), strings.Repeat("an entry like the one before ", 10_000)...), coding)
			return &cached{body: body}, err
		})
		if err != nil {
			t.Fatal(err)
		}
		if got, want := cap(doc.body), int(doc.cost())*5/4; got > want {
			t.Errorf("%s: %d bytes in %d", coding, len(doc.body), got)
		}
	}
}

func TestAcceptedCoding(t *testing.T) {
	t.Parallel()
	for fields, want := range map[string]string{
		"":                                "identity",
		"gzip":                            "gzip",
		"GZip":                            "gzip",
		"x-gzip":                          "gzip",
		"gzip, deflate, br, zstd":         "zstd",
		"gzip;q=1.0, zstd;q=0.5":          "gzip",
		"gzip; q=0.2, identity;q=0.5":     "identity",
		"*":                               "zstd",
		"*;q=0.5, zstd;q=0":               "gzip",
		"gzip;q=0":                        "identity",
		"*;q=0":                           "identity",
		"identity;q=0":                    "identity",
		"deflate, br":                     "identity",
		"gzip;q=2, zstd;q=-1, br;q=x":     "identity",
		"gzip;q=nan":                      "identity",
		";q=1, ,":                         "identity",
		"gzip;q=0.001":                    "gzip",
		"deflate;q=1, gzip;q=0.5, *;q=.1": "gzip",
	} {
		if got := acceptedCoding(joined(strings.Split(fields, "|"))); got != want {
			t.Errorf("%q: %s, want %s", fields, got, want)
		}
	}
}

func FuzzAcceptedCoding(f *testing.F) {
	f.Add("gzip;q=0.5, *;q=0")
	f.Fuzz(func(t *testing.T, field string) {
		got := acceptedCoding(field)
		if got != codingIdentity && !strings.Contains(strings.ToLower(field), got) && !strings.Contains(field, "*") {
			t.Errorf("%q gets %s", field, got)
		}
	})
}

// Each coding of each document has a strong ETag of its own and, decoded, the same bytes; and two replicas, of which
// one may have started later, give the same bytes and ETags.
func TestCodings(t *testing.T) {
	t.Parallel()
	pool := database(t)
	fill(t, openLog(t, pool), 250)
	one, two := serve(t, openLog(t, pool)), serve(t, openLog(t, pool))
	for _, path := range []string{"/feeds/things.json", "/feeds/things.atom", "/feeds/things.html", "/feeds/things?after=0&limit=100"} {
		whole, identity := get(t, one, "GET", path)
		tags := map[string]bool{whole.Header.Get("ETag"): true}
		for coding, decode := range map[string]func(io.Reader) (io.Reader, error){
			"gzip": func(r io.Reader) (io.Reader, error) { return gzip.NewReader(r) },
			"zstd": func(r io.Reader) (io.Reader, error) { return zstd.NewReader(r) },
		} {
			resp, body := get(t, one, "GET", path, "Accept-Encoding", coding)
			tag := resp.Header.Get("ETag")
			if resp.Header.Get("Content-Encoding") != coding || tags[tag] || resp.ContentLength != int64(len(body)) || !strings.Contains(resp.Header.Get("Vary"), "Accept-Encoding") {
				t.Errorf("%s in %s: %v", path, coding, resp.Header)
			}
			tags[tag] = true
			r, err := decode(strings.NewReader(body))
			if err != nil {
				t.Fatal(err)
			}
			if decoded, err := io.ReadAll(r); err != nil || string(decoded) != identity || len(body) > len(identity)/3 {
				t.Errorf("%s in %s: %d bytes for %d, %v", path, coding, len(body), len(identity), err)
			}
			if again, other := get(t, two, "GET", path, "Accept-Encoding", coding); other != body || again.Header.Get("ETag") != tag {
				t.Errorf("%s in %s: another replica gives other bytes", path, coding)
			}
			if again, _ := get(t, one, "GET", path, "Accept-Encoding", coding, "If-None-Match", tag); again.StatusCode != 304 || again.Header.Get("ETag") != tag {
				t.Errorf("%s in %s: %d with its ETag", path, coding, again.StatusCode)
			}
			if again, _ := get(t, one, "GET", path, "If-None-Match", tag); again.StatusCode != 200 {
				t.Errorf("%s: %d with the ETag of %s", path, again.StatusCode, coding)
			}
			if head, body := get(t, one, "HEAD", path, "Accept-Encoding", coding); head.ContentLength != resp.ContentLength || body != "" || head.Header.Get("ETag") != tag {
				t.Errorf("HEAD of %s in %s: %v", path, coding, head.Header)
			}
		}
	}
}

// watched serves the feed, with a Show that counts and does what it is told first.
func watched(t *testing.T, entries int, first func()) (*httptest.Server, *atomic.Int64) {
	t.Helper()
	pool := database(t)
	l := openLog(t, pool)
	fill(t, l, entries)
	shown, d := new(atomic.Int64), description
	d.Show = func(e feed.Entry) (feed.Shown, error) {
		shown.Add(1)
		first()
		return description.Show(e)
	}
	server := httptest.NewServer(sourceOf(l, Options{Name: "Test", PublicURL: publicURL}, d))
	t.Cleanup(server.Close)
	return server, shown
}

func TestColdPageIsRenderedOnce(t *testing.T) {
	t.Parallel()
	release := make(chan struct{})
	server, shown := watched(t, 3, func() { <-release })
	var all sync.WaitGroup
	for i := range 24 {
		all.Go(func() {
			coding := []string{"identity", "gzip", "zstd"}[i%3]
			if resp, body := get(t, server, "GET", "/feeds/things.json", "Accept-Encoding", coding); resp.StatusCode != 200 || len(body) == 0 {
				t.Errorf("%d", resp.StatusCode)
			}
		})
	}
	waitFor(t, "the rendering to begin", func() bool { return shown.Load() > 0 })
	close(release)
	all.Wait()
	if n := shown.Load(); n != 3 {
		t.Errorf("3 entries were put into words %d times", n)
	}
}

func TestRenderingOutlivesTheClient(t *testing.T) {
	t.Parallel()
	release := make(chan struct{})
	server, shown := watched(t, 3, func() { <-release })
	ctx, leave := context.WithCancel(t.Context())
	req, err := http.NewRequestWithContext(ctx, "GET", server.URL+"/feeds/things.json", nil)
	if err != nil {
		t.Fatal(err)
	}
	left := make(chan struct{})
	go func() {
		defer close(left)
		if resp, err := plain.RoundTrip(req); err == nil {
			_ = resp.Body.Close()
			t.Error("it was answered")
		}
	}()
	waitFor(t, "the rendering to begin", func() bool { return shown.Load() > 0 })
	leave()
	<-left
	close(release)
	waitFor(t, "the rendering to end", func() bool { return shown.Load() == 3 })
	if resp, _ := get(t, server, "GET", "/feeds/things.json"); resp.StatusCode != 200 || shown.Load() != 3 {
		t.Errorf("%d; put into words %d times", resp.StatusCode, shown.Load())
	}
}

func TestPanicWhileRendering(t *testing.T) {
	t.Parallel()
	c := newCache(1 << 20)
	for _, client := range []context.Context{t.Context(), context.Background()} {
		doc, err := c.get(client, "tag", func(context.Context) (*cached, error) { panic("Ada") })
		if doc != nil || err == nil || strings.Contains(err.Error(), "Ada") || !strings.Contains(err.Error(), "TestPanicWhileRendering") {
			t.Errorf("%v, %v", doc, err)
		}
	}
	if doc, err := c.get(t.Context(), "tag", func(context.Context) (*cached, error) { return &cached{body: []byte("page")}, nil }); err != nil || string(doc.body) != "page" {
		t.Errorf("%v, %v", doc, err)
	}
}
