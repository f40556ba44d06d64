package feedhttp

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"
	"pgregory.net/rapid"

	"github.com/edison-cars/data-feeds/shared/feed"
	"github.com/edison-cars/data-feeds/shared/postgres/pgtest"
	"github.com/edison-cars/data-feeds/shared/publish"
	"github.com/edison-cars/data-feeds/shared/web"
)

// A snapshotPage is a page of a snapshot.
type snapshotPage struct {
	Next     string `json:"next_url"`
	Datafeed struct {
		Snapshot, Cursor, Next, Head *string
		Sealed                       *bool
		UpToDate                     *bool `json:"up_to_date"`
	} `json:"_datafeed"`
	Items []struct {
		ID       string
		Datafeed struct {
			Position, Version, First int64
			Deleted, Erased          bool
			Entity                   json.RawMessage
		} `json:"_datafeed"`
	}
}

// snapshotAt asks for a page of a snapshot.
func snapshotAt(t testing.TB, server *httptest.Server, url string, header ...string) (p snapshotPage) {
	t.Helper()
	resp, body := get(t, server, "GET", strings.TrimPrefix(url, publicURL), header...)
	if err := json.Unmarshal([]byte(body), &p); err != nil || resp.StatusCode != 200 {
		t.Fatal(url, resp.StatusCode, err, body)
	}
	return p
}

func TestSnapshot(t *testing.T) {
	t.Parallel()
	pool := database(t)
	l := openLog(t, pool)
	entries := lives(230)
	appendAll(t, l, entries)
	server := serve(t, l)
	type state struct {
		position, version, first int64
		deleted                  bool
	}
	want := map[uuid.UUID]*state{}
	for i, e := range entries {
		if want[e.ID] == nil {
			want[e.ID] = &state{first: int64(i + 1)}
		}
		s := want[e.ID]
		s.position, s.version, s.deleted = int64(i+1), e.Version, e.Payload == nil
	}
	head := cursorAt(t, pool, 230).String()
	var ids []string
	pages := 0
	for url := "/feeds/things?snapshot=0&limit=50"; strings.Contains(url, "snapshot="); pages++ {
		p := snapshotAt(t, server, url)
		if d := p.Datafeed; d.Snapshot == nil || *d.Snapshot != head || d.Cursor != nil || d.Sealed != nil || d.UpToDate != nil || d.Head != nil || p.Next != "" {
			t.Fatalf("%s has %+v", url, d)
		}
		for _, item := range p.Items {
			id := strings.TrimPrefix(item.ID, "urn:uuid:")
			d := item.Datafeed
			if got := (state{d.Position, d.Version, d.First, d.Deleted}); want[uuid.MustParse(id)] == nil || got != *want[uuid.MustParse(id)] {
				t.Errorf("%s is %+v, not %+v", id, got, want[uuid.MustParse(id)])
			}
			ids = append(ids, id)
		}
		if url = *p.Datafeed.Next; pages == 0 && url != publicURL+"/feeds/things?snapshot="+head+"&from="+ids[49]+"&limit=50" {
			t.Errorf("the first page is followed by %s", url)
		}
		if !strings.Contains(url, "snapshot=") && url != publicURL+"/feeds/things?after="+head+"&limit=50" {
			t.Errorf("the last page is followed by %s", url)
		}
	}
	if n := len(want); len(ids) != n || pages != (n+49)/50 || !slices.IsSorted(ids) {
		t.Errorf("%d entities of %d on %d pages, sorted: %t", len(ids), n, pages, slices.IsSorted(ids))
	}
}

// A page that is full and has no entity behind it is the last one.
func TestSnapshotOfFullPages(t *testing.T) {
	t.Parallel()
	pool := database(t)
	l := openLog(t, pool)
	server := serve(t, l)
	if p := snapshotAt(t, server, "/feeds/things?snapshot=0"); *p.Datafeed.Snapshot != "0" || *p.Datafeed.Next != publicURL+"/feeds/things?after=0&limit=100" || len(p.Items) > 0 {
		t.Errorf("of an empty feed: %+v", p)
	}
	appendAll(t, l, []publish.Entry{thing(numbered(1), 1), thing(numbered(2), 1)})
	for limit, want := range map[string]bool{"1": true, "2": false, "3": false} {
		p := snapshotAt(t, server, "/feeds/things?snapshot=0&limit="+limit)
		if more := strings.Contains(*p.Datafeed.Next, "snapshot="); more != want {
			t.Errorf("limit %s: %s", limit, *p.Datafeed.Next)
		}
	}
}

// Readers that begin while nothing is appended share the pages that one of them has caused to be rendered, and a page
// counts for its length. An append, or an erasure, makes another page.
func TestSnapshotIsCached(t *testing.T) {
	t.Parallel()
	l := openLog(t, database(t))
	fill(t, l, 20)
	shown := 0
	d := description
	d.Show = func(e feed.Entry) (feed.Shown, error) { shown++; return description.Show(e) }
	source := sourceOf(l, Options{PublicURL: publicURL}, d)
	source.cold = web.NewLimiter(1, 25)
	server := httptest.NewServer(source)
	t.Cleanup(server.Close)
	const path = "/feeds/things?snapshot=0&limit=1000"
	first, body := get(t, server, "GET", path)
	second, again := get(t, server, "GET", path)
	if tag := first.Header.Get("ETag"); shown != 20 || tag == "" || second.Header.Get("ETag") != tag || again != body {
		t.Errorf("%d were shown, for the tags %s and %s", shown, tag, second.Header.Get("ETag"))
	}
	if resp, _ := get(t, server, "GET", path, "If-None-Match", first.Header.Get("ETag")); resp.StatusCode != 304 || resp.Header.Get("Cache-Control") != "no-cache" {
		t.Errorf("with its tag: %d %v", resp.StatusCode, resp.Header)
	}
	appendAll(t, l, []publish.Entry{thing(numbered(3), 2)})
	resp, body := get(t, server, "GET", path, "If-None-Match", first.Header.Get("ETag"), "Accept-Encoding", "gzip")
	if resp.StatusCode != 200 || resp.Header.Get("Content-Encoding") != "gzip" || strings.Contains(body, "version") {
		t.Errorf("after an append: %d %v", resp.StatusCode, resp.Header)
	}
	appendAll(t, l, []publish.Entry{thing(numbered(3), 3)})
	if resp, _ := get(t, server, "GET", path); resp.StatusCode != 429 {
		t.Errorf("the third page that has to be read: %d", resp.StatusCode)
	}
}

// A page of a snapshot tells the truth about its moment, also if its source has not heard of the last entries.
func TestSnapshotOfASourceThatIsBehind(t *testing.T) {
	t.Parallel()
	pool := database(t)
	l, other := openLog(t, pool), openLog(t, pool)
	fill(t, l, 5)
	server := serve(t, other)
	waitFor(t, "the other log to know the feed", func() bool { return head(t, other).Position == 5 })
	for n := range int64(20) {
		appendAll(t, l, []publish.Entry{thing(numbered(1), n+2)})
		p := snapshotAt(t, server, "/feeds/things?snapshot=0&limit=2")
		at, err := feed.ParseCursor(*p.Datafeed.Snapshot)
		if err != nil || at.Position < 5 {
			t.Fatal(at, err)
		}
		for _, item := range p.Items {
			if item.ID == numbered(1).URN() && item.Datafeed.Version != at.Position-4 {
				t.Errorf("the snapshot as of %s has version %d", at, item.Datafeed.Version)
			}
		}
	}
}

// A walker copies a feed by a snapshot: all its pages, and then the replay after it.
type walker struct {
	source *Source
	url    string // of the next page
	rows   map[uuid.UUID]walked
}

// A walked is a row of a walker's copy.
type walked struct {
	version         int64
	deleted, erased bool
	entity          string
}

// step takes the next page, which at the end of the feed may wait for more, and reports whether the copy is up to date.
func (c *walker) step(t interface{ Fatal(...any) }, wait bool) bool {
	w, r := httptest.NewRecorder(), httptest.NewRequest("GET", c.url, nil)
	if wait {
		r.Header.Set("Prefer", "wait=1")
	}
	c.source.ServeHTTP(w, r)
	var p snapshotPage
	if err := json.Unmarshal(w.Body.Bytes(), &p); err != nil || w.Code != 200 {
		t.Fatal(c.url, w.Code, err)
	}
	for _, item := range p.Items {
		id, d := uuid.MustParse(strings.TrimPrefix(item.ID, "urn:uuid:")), item.Datafeed
		if d.Version > c.rows[id].version || d.Erased {
			c.rows[id] = walked{max(d.Version, c.rows[id].version), d.Deleted, d.Erased, string(d.Entity)}
		}
	}
	c.url = strings.TrimPrefix(*p.Datafeed.Next, publicURL)
	return p.Datafeed.UpToDate != nil && *p.Datafeed.UpToDate
}

// Whatever two processes append, change, delete and erase between the pages of a snapshot: the snapshot and the replay
// after it are the newest state of each entity.
func TestSnapshotProperty(t *testing.T) {
	t.Parallel()
	pgtest.Slow(t, "many runs")
	pool := database(t)
	logs, runs := []*publish.Log{openLog(t, pool), openLog(t, pool)}, 0
	rapid.Check(t, func(t *rapid.T) {
		runs++
		d := description
		d.Name, d.Personal = fmt.Sprint(feedName, runs), true // a feed of its own
		if _, err := pool.Exec(context.Background(), `select feed_create($1)`, d.Name); err != nil {
			t.Fatal(err)
		}
		var sources []*Source
		for _, l := range logs {
			sources = append(sources, New(l, Options{PublicURL: publicURL}, d))
		}
		begin := func(t *rapid.T) *walker {
			limit := rapid.SampledFrom([]int{1, 2, 5, 1000}).Draw(t, "limit")
			return &walker{rapid.SampledFrom(sources).Draw(t, "source"), fmt.Sprintf("/feeds/%s?snapshot=0&limit=%d", d.Name, limit), map[uuid.UUID]walked{}}
		}
		walkers := []*walker{begin(t)}
		want := map[uuid.UUID]walked{}
		var ids []uuid.UUID
		change := func(t *rapid.T, write func(tx *publish.Tx)) {
			err := rapid.SampledFrom(logs).Draw(t, "log").InTx(context.Background(), func(tx *publish.Tx) error {
				write(tx)
				return nil
			})
			if err != nil {
				t.Fatal(err)
			}
		}
		next := func(t *rapid.T) publish.Entry {
			if len(ids) == 0 {
				t.Skip()
			}
			id := rapid.SampledFrom(ids).Draw(t, "entity")
			if want[id].erased {
				t.Skip()
			}
			return thing(id, want[id].version+1)
		}
		t.Repeat(map[string]func(*rapid.T){
			"append": func(t *rapid.T) {
				var more []publish.Entry
				for range rapid.IntRange(1, 5).Draw(t, "entries") {
					e := thing(numbered(len(ids)+1), 1)
					more, ids, want[e.ID] = append(more, e), append(ids, e.ID), walked{version: 1, entity: string(e.Payload)}
				}
				change(t, func(tx *publish.Tx) { tx.Append(d.Name, more...) })
			},
			"change": func(t *rapid.T) {
				e := next(t)
				want[e.ID] = walked{version: e.Version, entity: string(e.Payload)}
				change(t, func(tx *publish.Tx) { tx.Append(d.Name, e) })
			},
			"delete": func(t *rapid.T) {
				e := next(t)
				e.Payload = nil
				want[e.ID] = walked{version: e.Version, deleted: true}
				change(t, func(tx *publish.Tx) { tx.Append(d.Name, e) })
			},
			"erase": func(t *rapid.T) {
				e := next(t)
				want[e.ID] = walked{version: e.Version, deleted: true, erased: true}
				change(t, func(tx *publish.Tx) { tx.Erase(d.Name, e.ID, e.Version, e.Updated) })
			},
			"begin a copy": func(t *rapid.T) { walkers = append(walkers, begin(t)) },
			"take a page":  func(t *rapid.T) { rapid.SampledFrom(walkers).Draw(t, "walker").step(t, false) },
		})
		for i, w := range append(walkers, begin(t)) {
			for deadline := time.Now().Add(time.Minute); !w.step(t, !maps.Equal(w.rows, want)) || !maps.Equal(w.rows, want); {
				if time.Now().After(deadline) {
					t.Fatalf("copy %d has\n%v\nwant\n%v", i, w.rows, want)
				}
			}
		}
	})
}

// A snapshot whose history is lost ends in a 410, and the walk that begins again keeps the parameter that tells its
// pages, and those of the replay after it, from what caches have of the lost history.
func TestSnapshotOfAnotherHistory(t *testing.T) {
	t.Parallel()
	pool := database(t)
	l := openLog(t, pool)
	fill(t, l, 30)
	first := snapshotAt(t, serve(t, l), "/feeds/things?snapshot=0&limit=10")
	restore(t, pool, 20, 15)
	server := serve(t, openLog(t, pool))
	resp, body := get(t, server, "GET", strings.TrimPrefix(*first.Datafeed.Next, publicURL))
	history := "&history=" + cursorAt(t, pool, 30).String()
	if start := "<" + publicURL + "/feeds/things?after=0&limit=10" + history + ">"; resp.StatusCode != 410 || !strings.HasPrefix(resp.Header.Get("Link"), start) {
		t.Fatalf("%d %v %s", resp.StatusCode, resp.Header, body)
	}
	pages := 0
	for url := "/feeds/things?snapshot=0&limit=10" + history; strings.Contains(url, "snapshot="); pages++ {
		if url = *snapshotAt(t, server, url).Datafeed.Next; !strings.HasSuffix(url, history) {
			t.Errorf("a link without the history: %s", url)
		}
	}
	if pages != 4 {
		t.Errorf("the snapshot of 35 entities has %d pages", pages)
	}
}
