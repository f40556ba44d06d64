package feedhttp_test

import (
	"io"
	"net/http"
	"net/http/httptest"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"github.com/edison-cars/data-feeds/shared/feed"
	"github.com/edison-cars/data-feeds/shared/postgres/pgtest"
	"github.com/edison-cars/data-feeds/shared/publish"
	"github.com/edison-cars/data-feeds/shared/publish/feedhttp"
	"github.com/edison-cars/data-feeds/sql"
)

// A program that names neither its company nor its service serves a feed, and no answer has a word of ours.
func TestNoWordsOfOurs(t *testing.T) {
	t.Parallel()
	pool := pgtest.New(t, sql.Migrations("publish"))
	if _, err := pool.Exec(t.Context(), `select feed_create('notes')`); err != nil {
		t.Fatal(err)
	}
	log, err := publish.Open(t.Context(), pool, publish.Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(log.Close)
	id := uuid.NewString()
	err = log.InTx(t.Context(), func(tx *publish.Tx) error {
		tx.Append("notes", publish.Entry{ID: uuid.MustParse(id), Version: 1, Updated: time.Now(), Payload: []byte(`{"title":"Buy <milk>"}`)})
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	notes := feedhttp.New(log, feedhttp.Options{PublicURL: "https://notes.example"}, feed.Description{Name: "notes"})
	registry := prometheus.NewRegistry()
	registry.MustRegister(log, notes)
	mux := http.NewServeMux()
	mux.Handle("/", notes)
	mux.Handle("/metrics", promhttp.HandlerFor(registry, promhttp.HandlerOpts{}))
	server := httptest.NewServer(mux)
	t.Cleanup(server.Close)
	at := server.URL
	for _, x := range []struct {
		method, path, accept string
		status               int
		says                 string
	}{
		{"GET", "/feeds", "", 200, `"feed":"notes","title":"notes"`},
		{"GET", "/feeds", feed.TypeHTML, 200, "<title>Feeds · Feeds</title>"},
		{"GET", "/feeds/notes", "", 200, `"title":"Buy <milk>"`},
		{"GET", "/feeds/notes?after=0", feed.TypeJSON, 200, id},
		{"GET", "/feeds/notes.atom", "", 200, "<title>Buy &lt;milk&gt;</title>"},
		{"GET", "/feeds/notes.atom?after=0&limit=1", "", 200, "<author><name>notes</name></author>"},
		{"GET", "/feeds/notes.atom?after=0", "", 200, `<entity xmlns="https://datafeed.example/ns/entity"><title>Buy &lt;milk&gt;</title></entity>`},
		{"GET", "/feeds/notes.cloudevents", "", 200, `"type":"example.datafeed.notes","source":"https://notes.example/feeds/notes"`},
		{"GET", "/feeds/notes.html", "", 200, "<dt>title</dt><dd>Buy &lt;milk&gt;</dd>"},
		{"GET", "/feeds/notes.html?after=0", "", 200, "<title>notes, entries 1 to 1 · Feeds</title>"},
		{"HEAD", "/feeds/notes?after=0", feed.TypeEvents, 200, ""},
		{"GET", "/feeds/notes/" + id, "", 200, `"version":1`},
		{"GET", "/feeds/notes/" + id, feed.TypeHTML, 200, "Buy &lt;milk&gt;"},
		{"GET", "/feeds/notes/newer?before=0", "", 307, ""},
		{"GET", "/feeds/notes?after=1-000000000000", "", 410, "/problems/history-diverged"},
		{"GET", "/feeds/notes?after=1-000000000000", feed.TypeHTML, 410, "<title>The history diverged · Feeds</title>"},
		{"GET", "/feeds/other", "", 404, "no feed of this name"},
		{"GET", "/feeds/other", feed.TypeHTML, 404, "no feed of this name"},
		{"GET", "/feeds/notes", "image/png", 406, feed.TypeAtom},
		{"PUT", "/feeds/notes", "", 405, "takes GET, HEAD"},
		{"GET", "/nowhere", "", 404, "There is nothing at this address."},
		{"GET", "/problems/history-diverged", "", 200, "The history diverged"},
		{"GET", "/metrics", "", 200, "feed_requests_total"},
		{"GET", "/assets/style.css", "", 200, ":root"},
		{"GET", "/assets/live.js", "", 200, "EventSource"},
		{"GET", "/assets/favicon.svg", "", 200, "<svg"},
	} {
		req, err := http.NewRequestWithContext(t.Context(), x.method, at+x.path, nil)
		if err != nil {
			t.Fatal(err)
		}
		if x.accept != "" {
			req.Header.Set("Accept", x.accept)
		}
		resp, err := http.DefaultTransport.RoundTrip(req)
		if err != nil {
			t.Fatal(err)
		}
		var head strings.Builder
		_ = resp.Header.Write(&head)
		text := body(t, resp)
		if resp.StatusCode != x.status || !strings.Contains(text, x.says) {
			t.Errorf("%s %s as %q: %d %s, want %q", x.method, x.path, x.accept, resp.StatusCode, text, x.says)
		}
		if strings.Contains(strings.ToLower(head.String()+text), "edison") {
			t.Errorf("%s %s as %q names the company: %s%s", x.method, x.path, x.accept, head.String(), text)
		}
	}
}

// The handler goes into any router: it needs none of a library.
func TestNeedsNoRouter(t *testing.T) {
	t.Parallel()
	list, err := exec.CommandContext(t.Context(), "go", "list", "-deps", ".").Output()
	if err != nil {
		t.Fatal(err)
	}
	for _, unwanted := range []string{"gin-gonic", "data-feeds/shared/webserver"} {
		if strings.Contains(string(list), unwanted) {
			t.Errorf("feedhttp depends on %s", unwanted)
		}
	}
}

func body(t *testing.T, resp *http.Response) string {
	t.Helper()
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}
