package feedhttp

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/edison-cars/data-feeds/shared/feed"
	"github.com/edison-cars/data-feeds/shared/feedclient"
	"github.com/edison-cars/data-feeds/shared/postgres/pgtest"
	"github.com/edison-cars/data-feeds/shared/publish"
)

// A copier keeps a copy of a feed, and starts again where the source tells it that the history diverged.
type copier struct {
	url     string // of the next page
	cursor  feed.Cursor
	copied  []row
	started int // how often it had to start again
}

// poll follows the pages to the end of the feed.
func (c *copier) poll(ctx context.Context, client *http.Client) error {
	for {
		req, err := http.NewRequestWithContext(ctx, http.MethodGet, c.url, nil)
		if err != nil {
			return err
		}
		req.Header.Set("Accept", feed.TypeJSONFeed) // the transport asks for gzip
		resp, err := client.Do(req)
		if err != nil {
			return err
		}
		body, err := io.ReadAll(resp.Body)
		resp.Body.Close()
		switch {
		case err != nil:
			return err
		case resp.StatusCode == http.StatusGone && strings.Contains(string(body), divergedPath):
			again, ok := strings.CutSuffix(resp.Header.Get("Link"), `>; rel="start"`)
			if !ok {
				return fmt.Errorf("%s: 410 with the link %q", c.url, resp.Header.Get("Link"))
			}
			if c.started++; c.started > 3 {
				return errors.New("it has to start again and again")
			}
			c.url, c.cursor, c.copied = strings.TrimPrefix(again, "<"), feed.Cursor{}, nil
			continue
		case resp.StatusCode != http.StatusOK:
			return fmt.Errorf("%s: %s", c.url, resp.Status)
		case !resp.Uncompressed:
			return fmt.Errorf("%s did not come in gzip", c.url)
		}
		page, err := feed.ParsePage(body, c.cursor)
		if err != nil {
			return fmt.Errorf("%s: %w", c.url, err)
		}
		var links pageJSON
		if err := json.Unmarshal(body, &links); err != nil {
			return err
		}
		for _, e := range page.Entries {
			c.copied = append(c.copied, row{e.Position, e.ID, e.Version})
		}
		c.url, c.cursor = links.Datafeed.Next, page.Cursor
		if page.UpToDate {
			return nil
		}
	}
}

// copyOf returns what a subscriber's client copies, which starts again once.
func copyOf(ctx context.Context, r feedclient.Request) (copied []row, err error) {
	client := feedclient.New("")
	defer client.Close()
	for again := false; ; {
		answer, err := client.Get(ctx, r)
		if status, ok := errors.AsType[*feedclient.StatusError](err); ok && errors.Is(err, feedclient.ErrDiverged) && !again {
			r.After, r.History, copied, again = feed.Cursor{}, status.History, nil, true
			continue
		} else if err != nil {
			return copied, err
		}
		for _, e := range answer.Page.Entries {
			copied = append(copied, row{e.Position, e.ID, e.Version})
		}
		if r.After = answer.Page.Cursor; answer.Page.UpToDate {
			return copied, nil
		}
	}
}

// Behind a shared cache 100 readers cost the source what one does; and when the source is replaced by a restored
// backup, while the cache still holds pages of the lost history, each of them ends with the restored one.
func TestSharedCache(t *testing.T) {
	t.Parallel()
	pool := database(t)
	origin := listen(t, "127.0.0.1:0")
	origin.Close()
	source := &process{addr: origin.Addr().String(), pool: pool, asked: asked{n: map[string]int{}}}
	cacheURL := startCache(t, source.addr)
	config := Options{Name: "Test", PublicURL: cacheURL}
	l := source.start(t, config)
	grow := func(l *publish.Log, from, to int) {
		t.Helper()
		err := l.InTx(t.Context(), func(tx *publish.Tx) error {
			for i := from; i < to; i++ {
				tx.Append(feedName, thing(numbered(i), 1))
			}
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	grow(l, 0, 650)
	lost := logged(t, pool)
	at := func(position int64) string { return cursorAt(t, pool, position).String() }
	replay := func(after string) string { return "/feeds/things?after=" + after + "&limit=100" }
	sealed := []string{replay("0")}
	for position := int64(100); position <= 400; position += 100 {
		sealed = append(sealed, replay(at(position)))
	}

	var readers [100]*copier
	transport := http.DefaultTransport.(*http.Transport).Clone()
	transport.MaxIdleConnsPerHost = len(readers)
	client := &http.Client{Transport: transport, Timeout: time.Minute}
	t.Cleanup(client.CloseIdleConnections)
	pollAll := func(t *testing.T, want []row) {
		t.Helper()
		var all sync.WaitGroup
		for i, c := range readers {
			all.Go(func() {
				if err := c.poll(t.Context(), client); err != nil {
					t.Errorf("reader %d: %v", i, err)
				} else if !slices.Equal(c.copied, want) {
					t.Errorf("reader %d ends with %d entries, not with the %d of the source", i, len(c.copied), len(want))
				}
			})
		}
		all.Wait()
	}
	ofSealed := func(n map[string]int) map[string]int {
		maps.DeleteFunc(n, func(request string, _ int) bool {
			_, path, _ := strings.Cut(request, " ")
			return !slices.Contains(sealed, path)
		})
		return n
	}
	once := map[string]int{}
	for _, path := range sealed {
		once["200 "+path] = 1
	}

	ok := t.Run("each sealed page costs the source one request", func(t *testing.T) {
		for i := range readers {
			readers[i] = &copier{url: cacheURL + replay("0")}
		}
		pollAll(t, lost)
		if got := ofSealed(source.asked.take()); !maps.Equal(got, once) {
			t.Errorf("the source was asked\n%v, want\n%v", got, once)
		}
	})
	ok = t.Run("subscribers' clients, which accept other codings, cost it one more", func(t *testing.T) {
		for _, want := range []map[string]int{once, {}} {
			reader := &poller{url: cacheURL + "/feeds/things", limit: 100}
			reader.poll(t)
			if !slices.Equal(reader.seen, lost) {
				t.Errorf("it ends with %d entries", len(reader.seen))
			}
			if got := ofSealed(source.asked.take()); !maps.Equal(got, want) {
				t.Errorf("the source was asked\n%v, want\n%v", got, want)
			}
		}
	}) && ok
	ok = t.Run("the cache tells codings and formats apart", func(t *testing.T) {
		through, direct := &httptest.Server{URL: cacheURL}, &httptest.Server{URL: "http://" + source.addr}
		for range 2 { // first by the source, then from the cache
			for _, accept := range []string{"*/*", feed.TypeJSONFeed, feed.TypeJSON, feed.TypeAtom, feed.TypeHTML} {
				for _, coding := range []string{"identity", "gzip", "zstd", "zstd;q=0, gzip", ""} {
					got, body := get(t, through, "GET", sealed[3], "Accept", accept, "Accept-Encoding", coding)
					want, wanted := get(t, direct, "GET", sealed[3], "Accept", accept, "Accept-Encoding", coding)
					for _, name := range []string{"Etag", "Content-Type", "Content-Encoding", "Vary", "Cache-Control", "Last-Modified", "Link"} {
						if !slices.Equal(got.Header[name], want.Header[name]) {
							t.Errorf("%s in %q: %s is %q, at the source %q", accept, coding, name, got.Header[name], want.Header[name])
						}
					}
					if got.StatusCode != 200 || body != wanted {
						t.Errorf("%s in %q: %d, and not the bytes of the source", accept, coding, got.StatusCode)
					}
				}
			}
		}
	}) && ok
	ok = t.Run("a client of CloudEvents reads through it", func(t *testing.T) {
		if events := readEvents(t, &httptest.Server{URL: cacheURL}, "/feeds/things.cloudevents", ""); !sameSubjects(events, lost) {
			t.Errorf("it ends with %d events", len(events))
		}
	}) && ok
	if !ok {
		return
	}

	// Some readers are behind, where both histories agree and where they do not.
	for i, c := range readers {
		if stop := []int64{650, 650, 600, 500, 400, 350, 300, 0}[i%8]; stop == 0 {
			c.url, c.cursor, c.copied = cacheURL+replay("0"), feed.Cursor{}, nil
		} else {
			c.cursor, c.copied = cursorAt(t, pool, stop), c.copied[:stop]
			c.url = cacheURL + replay(c.cursor.String())
		}
	}
	atTheEnd := cursorAt(t, pool, 650)
	source.stop()
	restore(t, pool, 400, 0)
	l = source.start(t, config)
	grow(l, 2000, 2330)
	restored := logged(t, pool)
	history := "&history=" + at(700)
	clear(once)
	sealed = nil
	for position := int64(0); position <= 500; position += 100 {
		after := "0"
		if position > 0 {
			after = at(position)
		}
		sealed = append(sealed, replay(after)+history)
		once["200 "+sealed[len(sealed)-1]] = 1
	}
	source.asked.take()
	t.Run("after the restore of a backup each reader ends with the restored history", func(t *testing.T) {
		_, body := get(t, &httptest.Server{URL: cacheURL}, "GET", replay(at(400)), "Accept", feed.TypeJSONFeed, "Accept-Encoding", "gzip")
		if got := source.asked.take(); len(got) > 0 || body == "" {
			t.Fatalf("the cache has lost the page of the lost history that is to lead astray: %v", got)
		}
		pollAll(t, restored)
		for i, c := range readers {
			if c.started != 1 {
				t.Errorf("reader %d started again %d times", i, c.started)
			}
		}
		if got := ofSealed(source.asked.take()); !maps.Equal(got, once) {
			t.Errorf("the source was asked\n%v, want\n%v", got, once)
		}
	})
	t.Run("so does a subscriber's client", func(t *testing.T) {
		for _, from := range []feed.Cursor{{}, atTheEnd} {
			if got, err := copyOf(t.Context(), feedclient.Request{URL: cacheURL + "/feeds/things", After: from, Limit: 100}); err != nil || !slices.Equal(got, restored) {
				t.Errorf("from %s it ends with %d entries, not with the %d of the source: %v", from, len(got), len(restored), err)
			}
		}
		for page, n := range ofSealed(source.asked.take()) { // in zstd, which nobody asked for before
			if n > 1 {
				t.Errorf("the source was asked for %s %d times", page, n)
			}
		}
	})
	t.Run("so does a client of CloudEvents, which knows of no link and starts again at the same URL", func(t *testing.T) {
		cache := &httptest.Server{URL: cacheURL}
		if resp, _ := get(t, cache, "GET", "/feeds/things.cloudevents?lastEventId="+atTheEnd.String()); resp.StatusCode != 410 {
			t.Errorf("%d", resp.StatusCode)
		}
		if events := readEvents(t, cache, "/feeds/things.cloudevents", ""); !sameSubjects(events, restored) {
			t.Errorf("it ends with %d events, not with the %d of the source", len(events), len(restored))
		}
	})
	t.Run("and goes on from there", func(t *testing.T) {
		grow(l, 2330, 2420)
		pollAll(t, logged(t, pool))
	})
}

// Where the source lets caches keep what can still change, they ask whether it did.
func TestSharedCacheRevalidates(t *testing.T) {
	t.Parallel()
	pgtest.Slow(t, "other programs")
	origin := listen(t, "127.0.0.1:0")
	origin.Close()
	source := &process{addr: origin.Addr().String(), pool: database(t), asked: asked{n: map[string]int{}}}
	cacheURL := startCache(t, source.addr)
	l := source.start(t, Options{Name: "Test", PublicURL: cacheURL, MaxAge: time.Second})
	fill(t, l, 130)
	cache := &httptest.Server{URL: cacheURL}
	for _, path := range []string{"/feeds/things", "/feeds/things?after=" + cursorAt(t, source.pool, 100).String() + "&limit=100"} {
		_, first := get(t, cache, "GET", path, "Accept-Encoding", "gzip")
		waitFor(t, "a 304 to the cache", func() bool {
			resp, body := get(t, cache, "GET", path, "Accept-Encoding", "gzip")
			if resp.StatusCode != 200 || body != first {
				t.Fatalf("%s: %d, and not the bytes from before", path, resp.StatusCode)
			}
			return source.asked.take()["304 "+path] > 0
		})
	}
	sold := thing(numbered(131), 1)
	if err := l.Commit(t.Context(), put(sold)); err != nil {
		t.Fatal(err)
	}
	waitFor(t, "the new entry to come through the cache", func() bool {
		_, body := get(t, cache, "GET", "/feeds/things")
		return strings.Contains(body, sold.ID.URN())
	})
}
