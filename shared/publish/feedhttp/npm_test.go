package feedhttp

import (
	"bytes"
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"os"
	osexec "os/exec" // exec is SQL here
	"slices"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/edison-cars/data-feeds/shared/feed"
	"github.com/edison-cars/data-feeds/shared/postgres/pgtest"
)

// node runs a script that reads the URL as its argument and writes JSON.
func node(t *testing.T, script, url string, into any) {
	t.Helper()
	pgtest.Slow(t, "other programs")
	modules := os.Getenv("FEED_CLIENTS")
	if modules == "" {
		t.Skip("needs clients from npm: npm install rss-parser@3.13.0 eventsource@4.1.0 cloudevents@10.0.0, and let FEED_CLIENTS name the folder node_modules")
	}
	cmd := osexec.CommandContext(t.Context(), "node", "-e", "(async () => {"+script+"})().catch(e => { console.error(e); process.exit(1) })", url)
	var said bytes.Buffer
	cmd.Env, cmd.Stderr = append(os.Environ(), "NODE_PATH="+modules), &said
	out, err := cmd.Output()
	if err == nil {
		err = json.Unmarshal(out, into)
	}
	if err != nil {
		t.Fatalf("%v: %s %.300s", err, said.String(), out)
	}
}

// rss-parser accepts only RSS, and other feed readers RSS and XML. They read Atom.
func TestRSSParser(t *testing.T) {
	t.Parallel()
	l := openLog(t, database(t))
	appendAll(t, l, lives(350))
	server := serve(t, l)
	for _, options := range []string{"", `{headers: {Accept: "application/rss+xml, application/xml"}}`} {
		var read struct {
			Title, FeedURL string
			Items          []struct{ ID, Title, Link, ISODate, Content string }
		}
		node(t, `
			const Parser = require("rss-parser")
			console.log(JSON.stringify(await new Parser(`+options+`).parseURL(process.argv[1])))`, server.URL+"/feeds/things", &read)
		want := readAtom(t, server, "/feeds/things.atom")
		if read.Title != description.Title || read.FeedURL != publicURL+"/feeds/things" || len(read.Items) != len(want.Entries) {
			t.Fatalf("%s: title %q, URL %q and %d items, want %d", options, read.Title, read.FeedURL, len(read.Items), len(want.Entries))
		}
		for i, item := range read.Items {
			w := want.Entries[i]
			if item.ID != w.IDs[0] || item.Title != w.Titles[0] || item.Content != w.Content[0].Text || !strings.HasPrefix(item.Link, publicURL) || item.ISODate != w.Updated[0].Format("2006-01-02T15:04:05.000Z") {
				t.Errorf("%s: item %+v, want %+v", options, item, w)
			}
		}
	}
}

// eventsource reads the stream of a source that breaks off, and goes on from its last event.
func TestEventSource(t *testing.T) {
	t.Parallel()
	pool := database(t)
	l := openLog(t, pool)
	appendAll(t, l, lives(350))
	source := New(l, Options{PublicURL: publicURL}, description)
	var streams, resumed atomic.Int32
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("Last-Event-ID") != "" {
			resumed.Add(1)
		}
		if streams.Add(1) == 1 {
			w = &breakingWriter{w, 3}
		}
		source.ServeHTTP(w, r)
	}))
	t.Cleanup(server.Close)
	var events []struct {
		ID   string
		Item struct {
			ID       string
			Datafeed struct{ Position int64 } `json:"_datafeed"`
		}
	}
	node(t, `
		const { EventSource } = require("eventsource")
		const events = [], source = new EventSource(process.argv[1])
		await new Promise(done => source.onmessage = e => events.push({ ID: e.lastEventId, Item: JSON.parse(e.data) }) === 350 && done())
		source.close()
		console.log(JSON.stringify(events))`, server.URL+"/feeds/things?after=0", &events)
	if streams.Load() != 2 || resumed.Load() != 1 {
		t.Errorf("%d streams, %d of them resumed", streams.Load(), resumed.Load())
	}
	for i, r := range logged(t, pool) {
		if e := events[i]; e.ID != cursorAt(t, pool, r.position).String() || e.Item.Datafeed.Position != r.position || e.Item.ID != r.id.URN() {
			t.Fatalf("event %d is %+v, want %+v", i, e, r)
		}
	}
}

// A breakingWriter breaks the connection off after some writes.
type breakingWriter struct {
	http.ResponseWriter
	left int
}

func (b *breakingWriter) Unwrap() http.ResponseWriter { return b.ResponseWriter }

func (b *breakingWriter) Write(p []byte) (int, error) {
	if b.left--; b.left < 0 {
		panic(http.ErrAbortHandler)
	}
	return b.ResponseWriter.Write(p)
}

// The SDK of CloudEvents takes every batch, also the empty one, and finds all events valid.
func TestCloudEventsSDK(t *testing.T) {
	t.Parallel()
	pool := database(t)
	l := openLog(t, pool)
	appendAll(t, l, lives(350))
	server := serve(t, l)
	var events []cloudEvent
	node(t, `
		const { HTTP } = require("cloudevents")
		let events = []
		for (let last = null, batch; !batch || batch.length > 0; last = events.at(-1).id) {
			const answer = await fetch(process.argv[1] + "?lastEventId=" + last + "&timeout=10", { headers: { accept: "`+feed.TypeCloudEvents+`" } })
			batch = HTTP.toEvent({ headers: Object.fromEntries(answer.headers), body: await answer.text() })
			batch.forEach(e => e.validate())
			events = events.concat(batch)
		}
		console.log(JSON.stringify(events))`, server.URL+"/feeds/things", &events)
	want := readEvents(t, server, "/feeds/things.cloudevents", "0")
	same := slices.EqualFunc(events, want, func(a, b cloudEvent) bool {
		return a.ID == b.ID && a.Type == b.Type && a.Source == b.Source && a.Subject == b.Subject && a.Method == b.Method && a.DataContentType == b.DataContentType && string(a.Data) == string(b.Data)
	})
	if !same || !sameSubjects(events, logged(t, pool)) {
		t.Errorf("it read %d events, want %d", len(events), len(want))
	}
}
