package cache

import (
	"bufio"
	"context"
	"errors"
	"net/http"
	"net/http/httptrace"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/edison-cars/data-feeds/shared/feed"
	"github.com/edison-cars/data-feeds/shared/feedclient"
	"github.com/edison-cars/data-feeds/shared/publish/feedhttp"
)

func read(t *testing.T, file string) []byte {
	t.Helper()
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	return text
}

// An answered is how a request that waited was answered.
type answered struct {
	*feedclient.Answer
	err error
	at  time.Time
}

// wait lets n subscribers' clients wait after the cursor, and returns when they do.
func (tr *tier) wait(t *testing.T, n int, after feed.Cursor, wait time.Duration) <-chan answered {
	t.Helper()
	all := make(chan answered, n)
	var sent sync.WaitGroup
	sent.Add(n)
	var slots = make(chan struct{}, 64) // connections that are being opened
	for range n {
		slots <- struct{}{}
		go func() {
			once := sync.OnceFunc(func() { <-slots; sent.Done() })
			ctx := httptrace.WithClientTrace(context.Background(), &httptrace.ClientTrace{WroteRequest: func(httptrace.WroteRequestInfo) { once() }})
			client := feedclient.New("")
			defer client.Close()
			answer, err := client.Get(ctx, feedclient.Request{URL: tr.url + "/feeds/" + feedName, After: after, Limit: 100, Wait: wait})
			all <- answered{answer, err, time.Now()}
			once()
		}()
	}
	sent.Wait()
	waitFor(t, "a request waits at the source", func() bool {
		tr.mu.Lock()
		defer tr.mu.Unlock()
		return len(tr.asked) > 0
	})
	time.Sleep(time.Second) // for the cache to read the last ones
	return all
}

// 2,000 readers wait behind the cache: the source is asked a few times, and a commit reaches them all.
func TestWaiting(t *testing.T) {
	each(t, func(t *testing.T, kind Kind) {
		tr := open(t, kind, 150, feedhttp.Options{})
		const waiters = 2000
		for range 2 {
			all := tr.wait(t, waiters, tr.head(t), 25*time.Second)
			committed := time.Now()
			tr.append(t, 1)
			var last time.Time
			for range waiters {
				a := <-all
				if a.err != nil || a.Page == nil || len(a.Page.Entries) != 1 {
					t.Fatalf("%+v, %v", a.Answer, a.err)
				}
				last = a.at
			}
			asked, of := tr.take()
			t.Logf("%d requests at the source, all answered after %v", asked, last.Sub(committed))
			if took := last.Sub(committed); asked > 10 || took > 20*time.Second {
				t.Errorf("%d requests at the source, all answered after %v: %v", asked, took, of)
			}
		}
	})
}

// When the source is restored while 2,000 readers wait, they all learn of it.
func TestRestored(t *testing.T) {
	each(t, func(t *testing.T, kind Kind) {
		tr := open(t, kind, 150, feedhttp.Options{})
		const waiters = 2000
		all := tr.wait(t, waiters, tr.head(t), 25*time.Second)
		restored := time.Now()
		tr.restored(t, 10)
		var last time.Time
		for range waiters {
			a := <-all
			if !errors.Is(a.err, feedclient.ErrDiverged) {
				t.Fatalf("%+v, %v", a.Answer, a.err)
			}
			last = a.at
		}
		asked, of := tr.take()
		t.Logf("%d requests at the source, all have their 410 after %v", asked, last.Sub(restored))
		if took := last.Sub(restored); asked > 10 || took > 20*time.Second {
			t.Errorf("%d requests at the source, all have their 410 after %v: %v", asked, took, of)
		}
	})
}

// A wait that is over is over for all that shared it, and the source is not asked once for each.
func TestWaitIsOver(t *testing.T) {
	each(t, func(t *testing.T, kind Kind) {
		t.Parallel()
		tr := open(t, kind, 150, feedhttp.Options{})
		const waiters = 50
		for range 2 { // that the cache has an old answer changes nothing
			all := tr.wait(t, waiters, tr.head(t), 10*time.Second)
			for range waiters {
				if a := <-all; a.err != nil || a.Page == nil || len(a.Page.Entries) != 0 || !a.Page.UpToDate {
					t.Fatalf("%+v, %v", a.Answer, a.err)
				}
			}
			if asked, of := tr.take(); asked > 3 {
				t.Errorf("%d requests at the source: %v", asked, of)
			}
			time.Sleep(2 * time.Second) // FEED_MAX_AGE, in whole seconds
		}
	})
}

// Each sealed page is fetched once, and the end of the feed once per FEED_MAX_AGE.
func TestPages(t *testing.T) {
	each(t, func(t *testing.T, kind Kind) {
		t.Parallel()
		tr := open(t, kind, 1050, feedhttp.Options{})
		var all sync.WaitGroup
		var wrong atomic.Int64
		for range 50 {
			all.Go(func() {
				client := feedclient.New("")
				defer client.Close()
				n, next := 0, feedclient.Request{URL: tr.url + "/feeds/" + feedName, Limit: 100}
				for upToDate := false; !upToDate; {
					answer, err := client.Get(context.Background(), next)
					if err != nil {
						t.Error(err)
						break
					}
					n += len(answer.Page.Entries)
					next.After, upToDate = answer.Page.Cursor, answer.Page.UpToDate
				}
				if n != 1050 {
					wrong.Add(1)
				}
			})
		}
		all.Wait()
		asked, of := tr.take()
		for path, n := range of {
			after, _, _ := strings.Cut(strings.TrimPrefix(path, "/feeds/"+feedName+"?after="), "&")
			if c, err := feed.ParseCursor(after); err != nil || c.Position < 900 && n > 1 { // the page after 900 is not sealed yet
				t.Errorf("%s was asked for %d times; %v", path, n, err)
			}
		}
		if len(of) != 11 || wrong.Load() > 0 {
			t.Errorf("%d readers are wrong; %d requests at the source: %v", wrong.Load(), asked, of)
		}
		const span = 3 * time.Second
		atOnce := 50
		if kind == Nginx { // which lets all pass that come while it asks for what it has, but is too old
			atOnce = 1
		}
		for began := time.Now(); time.Since(began) < span; {
			for range atOnce {
				all.Go(func() { _, _ = tr.get(t, feedPath(tr.head(t)), "Accept", feed.TypeJSONFeed) })
			}
			all.Wait()
		}
		if asked, of := tr.take(); asked > 1+int(span/time.Second) {
			t.Errorf("within %v the end was asked for %d times: %v", span, asked, of)
		}
	})
}

// Two streams of the same entries pass at the same time, entry by entry.
func TestEventStreams(t *testing.T) {
	each(t, func(t *testing.T, kind Kind) {
		t.Parallel()
		tr := open(t, kind, 3, feedhttp.Options{})
		var streams []*bufio.Scanner
		for range 2 {
			req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, tr.url+feedPath(tr.head(t)), nil)
			if err != nil {
				t.Fatal(err)
			}
			req.Header.Set("Accept", feed.TypeEvents)
			resp, err := http.DefaultClient.Do(req)
			if err != nil {
				t.Fatal(err)
			}
			defer resp.Body.Close()
			streams = append(streams, bufio.NewScanner(resp.Body))
		}
		for range 3 {
			tr.append(t, 1)
			committed, id := time.Now(), "id: "+tr.head(t).String()
			for _, s := range streams {
				for s.Scan() && s.Text() != id {
				}
				if took := time.Since(committed); s.Err() != nil || took > time.Second {
					t.Fatalf("%s came after %v, %v", id, took, s.Err())
				}
			}
		}
	})
}

// What needs a token is kept for nobody: neither the answer to a request with one, nor an answer that is private.
func TestTokens(t *testing.T) {
	each(t, func(t *testing.T, kind Kind) {
		t.Parallel()
		tr := open(t, kind, 350, feedhttp.Options{Private: true})
		for _, path := range []string{feedPath(feed.Cursor{}), feedPath(tr.head(t)), "/feeds/" + feedName} {
			for i := range 3 {
				header := []string{"Accept", feed.TypeJSONFeed}
				if i > 0 {
					header = append(header, "Authorization", "Bearer datafeed_A")
				}
				resp, _ := tr.get(t, path, header...)
				if resp.StatusCode != 200 || !strings.HasPrefix(resp.Header.Get("Cache-Control"), "private") {
					t.Errorf("%s: %d %q", path, resp.StatusCode, resp.Header.Get("Cache-Control"))
				}
			}
			for range 2 {
				tr.get(t, path, "Accept", feed.TypeJSONFeed)
			}
			if asked, of := tr.take(); asked != 5 {
				t.Errorf("%s: of 5 requests %d reached the source: %v", path, asked, of)
			}
		}
	})
	t.Run("of an open feed", func(t *testing.T) {
		each(t, func(t *testing.T, kind Kind) {
			t.Parallel()
			tr := open(t, kind, 350, feedhttp.Options{})
			for _, name := range []string{"Authorization", "Cookie"} {
				tr.get(t, feedPath(feed.Cursor{}), "Accept", feed.TypeJSONFeed)
				tr.take()
				for range 2 {
					tr.get(t, feedPath(feed.Cursor{}), "Accept", feed.TypeJSONFeed, name, "x")
				}
				if asked, of := tr.take(); asked != 2 {
					t.Errorf("%s: of 2 requests %d reached the source: %v", name, asked, of)
				}
			}
		})
	})
}

// While the source is down, pages for people are stale, as it allows, and say how old they are. A replay fails, and goes
// on when the source is back.
func TestSourceDown(t *testing.T) {
	each(t, func(t *testing.T, kind Kind) {
		t.Parallel()
		tr := open(t, kind, 350, feedhttp.Options{})
		newest, sealed, end := "/feeds/"+feedName, feedPath(feed.Cursor{}), feedPath(tr.head(t))
		for _, path := range []string{newest, sealed, end} {
			tr.get(t, path, "Accept", feed.TypeJSONFeed)
		}
		tr.down.Store(true)
		time.Sleep(3 * time.Second) // longer than FEED_MAX_AGE
		began := time.Now()
		for path, want := range map[string]bool{newest: true, sealed: true, end: false} {
			resp, _ := tr.get(t, path, "Accept", feed.TypeJSONFeed)
			if (resp.StatusCode == 200) != want || !want && resp.StatusCode < 500 {
				t.Errorf("%s: %d", path, resp.StatusCode)
			}
			date, err := http.ParseTime(resp.Header.Get("Date"))
			if want && (err != nil || date.After(began.Add(-time.Second)) || resp.Header.Get("Age") == "" && !strings.HasPrefix(resp.Header.Get("Cache-Status"), "nginx; hit")) {
				t.Errorf("%s does not say how old it is: %v", path, resp.Header)
			}
		}
		tr.down.Store(false)
		waitFor(t, "the replay goes on", func() bool {
			resp, _ := tr.get(t, end, "Accept", feed.TypeJSONFeed)
			return resp.StatusCode == 200
		})
	})
}
