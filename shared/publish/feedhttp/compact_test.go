package feedhttp

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"pgregory.net/rapid"

	"github.com/edison-cars/data-feeds/shared/feed"
	"github.com/edison-cars/data-feeds/shared/postgres/pgtest"
	"github.com/edison-cars/data-feeds/shared/publish"
)

// compactAll compacts all that is superseded.
func compactAll(t testing.TB, l *publish.Log) publish.Freed {
	t.Helper()
	freed, err := l.Compact(t.Context(), feedName, 0)
	if err != nil {
		t.Fatal(err)
	}
	return freed
}

// What is compacted is superseded in every format, and neither a tombstone nor an entity. Its pages are as final as they
// were, and say up to where the feed is compacted.
func TestCompacted(t *testing.T) {
	t.Parallel()
	pool := database(t)
	l := openLog(t, pool)
	fill(t, l, 250)
	changed := numbered(3)
	appendAll(t, l, []publish.Entry{thing(changed, 2), thing(numbered(4), 2), {ID: numbered(5), Version: 2, Updated: start.Add(2 * time.Second)}})
	upTo := cursorAt(t, pool, 253).String()
	server := serve(t, l)
	const page = "/feeds/things?after=0&limit=100"
	before, body := get(t, server, "GET", page)
	if strings.Contains(body, "compacted") {
		t.Errorf("before a compaction: %s", body)
	}
	snapshot := "/feeds/things.json?snapshot=" + cursorAt(t, pool, 10).String()
	if freed := compactAll(t, l); freed.Entries != 3 {
		t.Fatalf("%+v", freed)
	}
	waitFor(t, "the source to know it", func() bool {
		resp, _ := get(t, server, "GET", page)
		return resp.Header.Get("ETag") != before.Header.Get("ETag")
	})
	for path, want := range map[string][]string{
		page:                                         {`"position":3,"version":1,"superseded":true}`, `"compacted":"` + upTo + `"`, `"sealed":true`, `"title":"Superseded"`},
		"/feeds/things.atom?after=0&limit=100":       {`<datafeed:entry position="3" version="1" superseded="true">`, ` compacted="` + upTo + `"`, "<fh:archive>", "<title>Superseded</title>"},
		"/feeds/things.html?after=0&limit=100":       {`<span class="kind superseded">superseded</span>`},
		"/feeds/things.cloudevents?lastEventId=null": {`"type":"example.datafeed.things.superseded"`, `"superseded":true,"compacted":"` + upTo + `"}`},
		snapshot: {`"position":3,"version":1,"first":3,"superseded":true}`, `"compacted":"` + upTo + `"`},
		"/feeds/things/" + changed.String() + "?":               {`"version":1,"updated":"2026-11-23T08:00:01.000000Z","deleted":false,"superseded":true,"entity":null}`, `"version":2,"updated":"2026-11-23T08:00:02.000000Z","deleted":false,"entity":{`},
		"/feeds/things/" + changed.String() + "?" + "text/html": {`<span class="kind superseded">superseded</span>`, `what this one said is not kept`},
	} {
		accept := "*/*"
		if p, html := strings.CutSuffix(path, "?text/html"); html {
			path, accept = p, "text/html"
		}
		resp, body := get(t, server, "GET", strings.TrimSuffix(path, "?"), "Accept", accept)
		for _, part := range want {
			if resp.StatusCode != 200 || !strings.Contains(body, part) {
				t.Errorf("%s: %d without %s:\n%.2000s", path, resp.StatusCode, part, body)
			}
		}
		if strings.Contains(body, changed.String()[:4]+" <&> 1") || strings.Contains(body, `<&> 1"`) && strings.Contains(body, `"entity":null`) {
			t.Errorf("%s still has it:\n%s", path, body)
		}
	}
	after, body := get(t, server, "GET", page)
	if after.Header.Get("Cache-Control") != before.Header.Get("Cache-Control") || strings.Contains(body, "deleted") || strings.Count(body, "superseded") != 3 {
		t.Errorf("%v\n%s", after.Header, body)
	}
	if resp, body := get(t, server, "GET", "/feeds/things?after="+cursorAt(t, pool, 200).String()+"&limit=100"); strings.Contains(body, "compacted") || resp.StatusCode != 200 {
		t.Errorf("a page without superseded entries: %s", body)
	}
	if _, body := get(t, server, "GET", "/feeds"); !strings.Contains(body, `"retention":{"superseded":"0s"}`) {
		t.Errorf("the list of feeds: %s", body)
	}
}

// The list of feeds says how long what is superseded is kept, before the first entry is compacted.
func TestRetention(t *testing.T) {
	t.Parallel()
	pool := database(t)
	if _, body := get(t, serve(t, openLog(t, pool)), "GET", "/feeds"); !strings.Contains(body, `"retention":null`) {
		t.Errorf("a feed that keeps everything: %s", body)
	}
	l, err := publish.Open(t.Context(), pool, publish.Options{CompactAfter: 720 * time.Hour})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(l.Close)
	server := serve(t, l)
	if _, body := get(t, server, "GET", "/feeds"); !strings.Contains(body, `"retention":{"superseded":"720h0m0s"}`) {
		t.Errorf("a feed that is compacted: %s", body)
	}
	if _, body := get(t, server, "GET", "/feeds", "Accept", "text/html"); !strings.Contains(body, "content for 720h0m0s") {
		t.Errorf("a feed that is compacted: %s", body)
	}
	l.Close()
	l = openLog(t, pool) // which does not compact by itself
	now := time.Now()
	year := now.Sub(now.AddDate(-1, 0, 0)) // as the calendar has it
	thingAt := func(n int, version int64, ago time.Duration) publish.Entry {
		e := thing(numbered(n), version)
		e.Updated = now.Add(-ago)
		return e
	}
	appendAll(t, l, []publish.Entry{thingAt(1, 1, 2*year), thingAt(1, 2, year+time.Hour), thingAt(2, 1, 48*time.Hour), thingAt(2, 2, 24*time.Hour)})
	for _, step := range []struct {
		olderThan string
		want      time.Duration
	}{{"1 year", year}, {"23 hours", 23 * time.Hour}} {
		exec(t, pool, `call feed_compact('things', '`+step.olderThan+`')`)
		wantRetention(t, pool, step.want)
	}
	appendAll(t, l, []publish.Entry{thingAt(3, 1, 2*year), thingAt(3, 2, year+time.Hour)})
	exec(t, pool, `call feed_compact('things', '1 year')`) // what it takes is older than what was taken before
	wantRetention(t, pool, 23*time.Hour)
}

// wantRetention fails the test if /feeds of a new process does not promise the age.
func wantRetention(t *testing.T, pool *pgxpool.Pool, want time.Duration) {
	t.Helper()
	if _, body := get(t, serve(t, openLog(t, pool)), "GET", "/feeds"); !strings.Contains(body, `"retention":{"superseded":"`+want.String()+`"}`) {
		t.Errorf("want %v: %s", want, body)
	}
}

// saved are the tables of the log, as a backup has them.
var saved = []string{"feed", "feed_entry", "feed_compaction"}

func backUp(t interface{ Fatal(...any) }, pool *pgxpool.Pool) {
	for _, table := range saved {
		if _, err := pool.Exec(context.Background(), fmt.Sprintf(`drop table if exists saved_%[1]s; create table saved_%[1]s as table %[1]s`, table)); err != nil {
			t.Fatal(err)
		}
	}
}

func takeBack(t interface{ Fatal(...any) }, pool *pgxpool.Pool) {
	err := pgx.BeginFunc(context.Background(), pool, func(tx pgx.Tx) error {
		for _, table := range saved {
			if _, err := tx.Exec(context.Background(), fmt.Sprintf(`delete from %[1]s; insert into %[1]s select * from saved_%[1]s`, table)); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}

// A strong entity tag stands for the same bytes, whatever is compacted: also at a source that has yet to hear of it, and
// after a restore to before a compaction and another one.
func TestETagsOfCompactedPages(t *testing.T) {
	t.Parallel()
	pgtest.Slow(t, "many pages")
	pool := database(t)
	l := openLog(t, pool)
	appendAll(t, l, lives(330))
	warm := serve(t, openLog(t, pool)) // keeps what it has rendered, and the newest entries
	bodies := map[string]string{}
	look := func() {
		t.Helper()
		cold := serve(t, openLog(t, pool))
		for _, format := range []string{"", ".json", ".atom", ".html", ".cloudevents"} {
			for _, query := range []string{"", "?before=" + cursorAt(t, pool, 42).String(), "?after=0", "?after=0&limit=10", "?after=" + cursorAt(t, pool, 100).String(),
				"?after=" + cursorAt(t, pool, 330).String(), "?snapshot=0", "?snapshot=" + cursorAt(t, pool, 300).String() + "&from=" + numbered(3).String()} {
				if format == ".cloudevents" && (query == "" || strings.Contains(query, "before")) {
					continue
				}
				if format == ".cloudevents" {
					query = strings.Replace(query, "after=", "lastEventId=", 1)
				}
				for _, server := range []*httptest.Server{warm, cold} {
					resp, body := get(t, server, "GET", "/feeds/things"+format+query)
					body = resp.Header.Get("Link") + "\n" + body
					key := format + query + " " + resp.Header.Get("ETag")
					if before, seen := bodies[key]; seen && before != body || resp.StatusCode != 200 {
						t.Fatalf("%s: %d, stands for\n%s\nand for\n%s", key, resp.StatusCode, before, body)
					}
					bodies[key] = body
				}
			}
		}
		for _, id := range []int{1, 5, 9} {
			for _, server := range []*httptest.Server{warm, cold} {
				path := "/feeds/things/" + numbered(id).String()
				resp, body := get(t, server, "GET", path)
				key := path + " " + resp.Header.Get("ETag")
				if before, seen := bodies[key]; seen && before != body || resp.StatusCode != 200 {
					t.Fatalf("%s: %d, stands for\n%s\nand for\n%s", key, resp.StatusCode, before, body)
				}
				bodies[key] = body
			}
		}
	}
	step := func(entries int) {
		t.Helper()
		exec(t, pool, `select feed_compact_step($1, '0', $2)`, feedName, entries)
	}
	look()
	backUp(t, pool)
	step(50)
	look()
	step(1000)
	look()
	appendAll(t, l, []publish.Entry{{ID: numbered(1), Payload: []byte(`{"name":"again"}`)}})
	step(1000)
	look()
	takeBack(t, pool)
	look()
	step(150) // other ones than at the first time
	look()
	step(1000)
	look()
	if len(bodies) < 200 {
		t.Errorf("only %d documents were looked at", len(bodies))
	}
}

// A skipper copies a feed as PROTOCOL.md says of readers.
type skipper struct {
	source    func() http.Handler
	limit     int
	bySnaps   bool // it resyncs by a snapshot
	cursor    feed.Cursor
	at        *feed.SnapshotPlace // the next page of a snapshot
	compacted feed.Cursor
	erased    map[uuid.UUID]bool
	rows      map[uuid.UUID]string // the finished copy
	coming    map[uuid.UUID]string // that of a resync; nil means that there is none
}

func newSkipper(source func() http.Handler, limit int, bySnaps bool) *skipper {
	c := &skipper{source: source, limit: limit, bySnaps: bySnaps, erased: map[uuid.UUID]bool{}, rows: map[uuid.UUID]string{}}
	c.resync()
	return c
}

func (c *skipper) resync() {
	c.cursor, c.compacted, c.coming, c.at = feed.Cursor{}, feed.Cursor{}, map[uuid.UUID]string{}, nil
	if c.bySnaps {
		c.at = &feed.SnapshotPlace{}
	}
}

// get returns nil if the history is another one.
func (c *skipper) get(t interface{ Fatal(...any) }, query url.Values) []byte {
	w := httptest.NewRecorder()
	c.source().ServeHTTP(w, httptest.NewRequest("GET", "/feeds/"+feedName+".json?"+query.Encode(), nil))
	switch w.Code {
	case 200:
		return w.Body.Bytes()
	case 410:
		return nil
	}
	t.Fatal(query, w.Code, w.Body.String())
	return nil
}

// has reports whether the source still has the place.
func (c *skipper) has(t interface{ Fatal(...any) }, place feed.Cursor) bool {
	return place.IsStart() || c.get(t, url.Values{"after": {place.String()}, "limit": {"1"}}) != nil
}

// step takes one page, and reports whether the copy is complete.
func (c *skipper) step(t interface{ Fatal(...any) }) bool {
	var page *feed.Page
	var err error
	query := url.Values{"limit": {fmt.Sprint(c.limit)}}
	if c.at != nil {
		query.Set("snapshot", c.at.Head.String())
		if c.at.From != uuid.Nil {
			query.Set("from", c.at.From.String())
		}
	} else {
		query.Set("after", c.cursor.String())
	}
	body := c.get(t, query)
	if body == nil {
		c.resync()
		return false
	}
	if c.at != nil {
		page, err = feed.ParseSnapshot(body, *c.at)
	} else {
		page, err = feed.ParsePage(body, c.cursor)
	}
	if err != nil {
		t.Fatal(err)
	}
	if page.Compacted != c.compacted && !page.Compacted.IsStart() {
		if !c.has(t, c.compacted) { // the new one does not stand for it
			c.resync()
			return false
		}
		c.compacted = page.Compacted
	}
	rows := c.rows
	if c.coming != nil {
		rows = c.coming
	}
	for _, e := range page.Entries {
		switch {
		case e.Malformed() != nil:
			t.Fatal(e.Malformed())
		case e.Erased:
			c.erased[e.ID] = true
			delete(c.rows, e.ID)
			delete(rows, e.ID)
		case c.erased[e.ID] || e.Superseded:
		case e.Deleted:
			delete(rows, e.ID)
		default:
			rows[e.ID] = string(e.Entity)
		}
	}
	if c.cursor = page.Cursor; c.at != nil {
		c.at = page.More
		return false
	}
	if !page.UpToDate {
		return false
	}
	if c.cursor.Position < c.compacted.Position || !c.has(t, c.compacted) {
		c.resync()
		return false
	}
	c.compacted = feed.Cursor{}
	if c.coming != nil {
		c.rows, c.coming = c.coming, nil
	}
	return true
}

// Whatever is appended, deleted, erased, put by SQL, compacted and restored, and wherever the readers are meanwhile: each
// ends with the newest state of each entity.
func TestCompactProperty(t *testing.T) {
	t.Parallel()
	pgtest.Slow(t, "many runs")
	pool := database(t)
	exec(t, pool, `create table item (id bigint primary key, n bigint); select feed_attach('things', 'item', 'id', mode => 'staged')`)
	d := description
	d.Personal = true
	ctx := context.Background()
	rapid.Check(t, func(t *rapid.T) {
		for _, sql := range []string{`delete from item`, `truncate feed_entry, feed_compaction, feed_staged`, `update feed set erasures = 0, marked_position = 0, marked_at = '-infinity'`} {
			if _, err := pool.Exec(ctx, sql); err != nil {
				t.Fatal(err)
			}
		}
		var l *publish.Log
		var source http.Handler
		reopen := func() { // a process that knows nothing of the history before
			if l != nil {
				l.Close()
			}
			var err error
			if l, err = publish.Open(ctx, pool, publish.Options{}); err != nil {
				t.Fatal(err)
			}
			source = New(l, Options{PublicURL: publicURL}, d)
		}
		reopen()
		defer func() { l.Close() }()
		backUp(t, pool)
		now := func() http.Handler { return source }
		begin := func(t *rapid.T) *skipper {
			return newSkipper(now, rapid.SampledFrom([]int{1, 2, 5, 100}).Draw(t, "limit"), rapid.Bool().Draw(t, "by snapshots"))
		}
		skippers := []*skipper{begin(t), begin(t)}
		sql := func(t *rapid.T, statement string, args ...any) {
			if _, err := pool.Exec(ctx, statement, args...); err != nil {
				t.Fatal(err)
			}
		}
		n := 0
		change := func(t *rapid.T, write func(tx *publish.Tx, id uuid.UUID)) {
			id := numbered(rapid.IntRange(1, 4).Draw(t, "entity"))
			err := l.InTx(ctx, func(tx *publish.Tx) error { write(tx, id); return nil })
			if err != nil {
				t.Fatal(err)
			}
		}
		put := func(t *rapid.T) {
			n++
			change(t, func(tx *publish.Tx, id uuid.UUID) {
				tx.Append(feedName, publish.Entry{ID: id, Payload: fmt.Appendf(nil, `{"n":%d}`, n)})
			})
		}
		page := func(t *rapid.T) { rapid.SampledFrom(skippers).Draw(t, "copy").step(t) }
		t.Repeat(map[string]func(*rapid.T){
			"put": put,
			"delete": func(t *rapid.T) {
				change(t, func(tx *publish.Tx, id uuid.UUID) { tx.Append(feedName, publish.Entry{ID: id}) })
			},
			"erase": func(t *rapid.T) {
				if rapid.IntRange(0, 3).Draw(t, "seldom") > 0 {
					t.Skip()
				}
				sql(t, `select feed_erase('things', $1::bigint)`, rapid.IntRange(5, 7).Draw(t, "key"))
			},
			"put by SQL": func(t *rapid.T) {
				n++
				key := rapid.IntRange(5, 7).Draw(t, "key")
				_, _ = pool.Exec(ctx, `select feed_put('things', $1::bigint, json_build_object('n', $2::bigint / 3))`, key, n) // it may be erased
			},
			"stage": func(t *rapid.T) {
				n++
				sql(t, `insert into item values ($1, $2) on conflict (id) do update set n = excluded.n`, rapid.IntRange(8, 10).Draw(t, "key"), n)
			},
			"move": func(t *rapid.T) { sql(t, `select feed_move('things', 2)`) },
			"compact some": func(t *rapid.T) {
				sql(t, `select feed_compact_step('things', '0', $1)`, rapid.IntRange(1, 5).Draw(t, "entries"))
			},
			"compact": func(t *rapid.T) { sql(t, `call feed_compact('things', '0')`) },
			"back up": func(*rapid.T) { backUp(t, pool) },
			"restore": func(*rapid.T) {
				takeBack(t, pool)
				reopen()
			},
			"lose what was compacted": func(t *rapid.T) { // where a copy has skipped what it superseded
				backUp(t, pool)
				for range rapid.IntRange(1, 5).Draw(t, "puts") {
					put(t)
				}
				sql(t, `call feed_compact('things', '0')`)
				for range rapid.IntRange(1, 5).Draw(t, "pages") {
					page(t)
				}
				takeBack(t, pool)
				reopen()
			},
			"take a page":  page,
			"begin a copy": func(t *rapid.T) { skippers = append(skippers, begin(t)) },
		})
		rows, err := pool.Query(ctx, `
			select distinct on (entity_id) entity_id, convert_from(payload, 'UTF8') from feed_entry where feed = 'things' order by entity_id, version desc`)
		if err != nil {
			t.Fatal(err)
		}
		want := map[uuid.UUID]string{}
		var id uuid.UUID
		var text *string
		if _, err := pgx.ForEachRow(rows, []any{&id, &text}, func() error {
			if text != nil {
				want[id] = *text
			}
			return nil
		}); err != nil {
			t.Fatal(err)
		}
		reopen() // knows the head
		for i, c := range append(skippers, begin(t)) {
			for pages := 0; !c.step(t); pages++ {
				if pages > 1000 {
					t.Fatalf("skipper %d comes to no end", i)
				}
			}
			theirs := maps.Clone(want)
			for id := range c.erased { // it has heard of it before a restore
				delete(theirs, id)
			}
			if !maps.Equal(c.rows, theirs) {
				t.Fatalf("skipper %d, by snapshots %t, has\n%v\nwant\n%v", i, c.bySnaps, c.rows, theirs)
			}
		}
	})
}

// A log whose table of compactions is older than its entries, as after the restore of that table alone, is not served
// where a reader could miss something, and one whose entries are older is served as what it is.
func TestCompactionsRestoredAlone(t *testing.T) {
	t.Parallel()
	pool := database(t)
	l := openLog(t, pool)
	fill(t, l, 4)
	appendAll(t, l, []publish.Entry{thing(numbered(1), 2)})
	exec(t, pool, `create table older as table feed_entry`)
	appendAll(t, l, []publish.Entry{thing(numbered(1), 3), thing(numbered(1), 4)})
	compactAll(t, l)
	exec(t, pool, `create table newer as table feed_compaction; delete from feed_compaction`)
	if resp, body := get(t, serve(t, openLog(t, pool)), "GET", "/feeds/things?after=0"); resp.StatusCode != 503 {
		t.Errorf("without the table: %d %s", resp.StatusCode, body)
	}
	// The table of a moment when only 1 was superseded: 3 lies before that, and what has superseded it does not.
	exec(t, pool, `insert into feed_compaction table newer`)
	appendAll(t, l, []publish.Entry{thing(numbered(3), 2)})
	compactAll(t, l)
	exec(t, pool, `delete from feed_compaction; insert into feed_compaction table newer`)
	server := serve(t, openLog(t, pool))
	for _, query := range []string{"after=0", "after=0&limit=3", "snapshot=" + cursorAt(t, pool, 7).String()} {
		if resp, body := get(t, server, "GET", "/feeds/things?"+query); resp.StatusCode != 503 {
			t.Errorf("%s, with an older table: %d %s", query, resp.StatusCode, body)
		}
	}
	if resp, body := get(t, server, "GET", "/feeds/things?after=0&limit=2"); resp.StatusCode != 200 {
		t.Errorf("a page that the older table knows all about: %d %s", resp.StatusCode, body)
	}
	exec(t, pool, `delete from feed_entry; insert into feed_entry table older;
		update feed_entry set payload = null, salt = '' where position = 1; update feed set marked_position = 0`)
	resp, body := get(t, serve(t, openLog(t, pool)), "GET", "/feeds/things?after=0")
	if resp.StatusCode != 200 || !strings.Contains(body, `"compacted":"`+cursorAt(t, pool, 5).String()+`"`) || !json.Valid([]byte(body)) {
		t.Errorf("with an older log: %d %s", resp.StatusCode, body)
	}
}
