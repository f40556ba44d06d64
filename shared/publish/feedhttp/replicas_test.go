package feedhttp

import (
	"context"
	"fmt"
	"net/http/httptest"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/edison-cars/data-feeds/shared/feed"
	"github.com/edison-cars/data-feeds/shared/feedclient"
	"github.com/edison-cars/data-feeds/shared/postgres/pgtest"
	"github.com/edison-cars/data-feeds/shared/publish"
)

// ownPool returns another pool on the same database, as another process has it.
func ownPool(t *testing.T, pool *pgxpool.Pool) *pgxpool.Pool {
	t.Helper()
	own, err := pgxpool.NewWithConfig(t.Context(), pool.Config())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(own.Close)
	return own
}

// Two replicas write and serve one feed at once: one log without a gap; a reader that asks now the one and now the
// other misses nothing and sees nothing twice; and both give the same bytes and header fields.
func TestReplicas(t *testing.T) {
	t.Parallel()
	pgtest.Slow(t, "processes")
	pool := database(t)
	var logs [2]*publish.Log
	var servers [2]*httptest.Server
	for i := range logs {
		logs[i] = openLog(t, ownPool(t, pool))
		servers[i] = serve(t, logs[i])
	}
	const each = 160
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	var writing, reading sync.WaitGroup
	failed := make(chan error, 4*each+4)
	for w := range 4 {
		l := logs[w%2]
		writing.Go(func() {
			for i, e := range lives(each) {
				e.ID[0], e.ID[1] = byte(w), 0x7e // things of its own
				var err error
				if (w/2+i)%3 > 0 {
					err = l.Commit(ctx, put(e))
				} else {
					err = l.InTx(ctx, func(tx *publish.Tx) error { tx.Append(feedName, e); return nil })
				}
				if err != nil {
					failed <- fmt.Errorf("writer %d, entry %d: %w", w, i, err)
				}
			}
		})
	}
	var readers [4]*alternating
	for i := range readers {
		r := &alternating{urls: []string{servers[i%2].URL, servers[(i+1)%2].URL}, limit: []int{100, 7, 1000, 30}[i]}
		readers[i] = r
		reading.Go(func() {
			for len(r.seen) < 4*each {
				if err := r.next(ctx); err != nil {
					failed <- fmt.Errorf("a reader of %d entries: %w", len(r.seen), err)
					return
				}
			}
		})
	}
	writing.Wait()
	reading.Wait()
	close(failed)
	for err := range failed {
		t.Error(err)
	}
	log := logged(t, pool)
	if len(log) != 4*each {
		t.Fatalf("the log has %d entries, want %d", len(log), 4*each)
	}
	for i, r := range readers {
		if !slices.Equal(r.seen, log) {
			t.Errorf("reader %d has %d entries, not the %d of the log", i, len(r.seen), len(log))
		}
	}

	waitFor(t, "both to know the same head", func() bool {
		return head(t, logs[0]).Head == head(t, logs[1]).Head && head(t, logs[0]).Position == 4*each
	})
	queries := append(pageQueries(t, servers[0], pool), "?after=0&limit=7", "?after=0&limit=1000", "?after="+cursorAt(t, pool, 42).String(),
		"?after=0&history="+cursorAt(t, pool, 600).String(), "?after=7", "?after=9999-9f3c1a2b7d04", "?limit=1")
	same := 0
	for _, query := range queries {
		for _, path := range []string{"/feeds/things", "/feeds/things.json", "/feeds/things.atom", "/feeds/things.html"} {
			for _, coding := range []string{"identity", "gzip", "zstd"} {
				one, body := get(t, servers[0], "GET", path+query, "Accept-Encoding", coding)
				two, other := get(t, servers[1], "GET", path+query, "Accept-Encoding", coding)
				one.Header.Del("Date")
				two.Header.Del("Date")
				if one.StatusCode != two.StatusCode || body != other || fmt.Sprint(one.Header) != fmt.Sprint(two.Header) {
					t.Errorf("%s%s in %s: one answers\n%d %v\nthe other\n%d %v", path, query, coding, one.StatusCode, one.Header, two.StatusCode, two.Header)
				}
				if one.StatusCode == 200 {
					same++
				}
				if tag := one.Header.Get("ETag"); one.StatusCode == 200 {
					if again, _ := get(t, servers[1], "GET", path+query, "Accept-Encoding", coding, "If-None-Match", tag); again.StatusCode != 304 {
						t.Errorf("%s%s in %s: %d from the other with the one's ETag", path, query, coding, again.StatusCode)
					}
				}
			}
		}
	}
	if want := 12 * (len(queries) - 2); same != want {
		t.Errorf("%d documents were compared, want %d", same, want)
	}
}

// An alternating reader asks another replica each time.
type alternating struct {
	urls   []string
	limit  int
	asked  int
	cursor feed.Cursor
	seen   []row
}

// next reads a page.
func (r *alternating) next(ctx context.Context) error {
	client := feedclient.New("")
	defer client.Close()
	r.asked++
	answer, err := client.Get(ctx, feedclient.Request{URL: r.urls[r.asked%len(r.urls)] + "/feeds/" + feedName, After: r.cursor, Limit: r.limit})
	if err != nil {
		return err
	}
	for _, e := range answer.Page.Entries {
		r.seen = append(r.seen, row{e.Position, e.ID, e.Version})
	}
	r.cursor = answer.Page.Cursor
	return nil
}
