package follow

import (
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/edison-cars/data-feeds/shared/feed"
	"github.com/edison-cars/data-feeds/shared/feedclient"
	"github.com/edison-cars/data-feeds/shared/postgres/pgtest"
)

func TestNoFeed(t *testing.T) {
	t.Parallel()
	pgtest.Slow(t, "processes")
	o := newOrigin(t, 1, everybody)
	down := newOrigin(t, 1, everybody)
	down.kill()
	for _, x := range []struct {
		url, flag string
		says      string
	}{
		{o.URL + "/", "--wait", `not a feed of this protocol: expected application/feed+json, got "text/plain; charset=utf-8"`},
		{o.URL + "/news", "--wait", "not a feed of this protocol: it does not say where the feed ends"},
		{o.feedURL() + ".atom", "--wait", `"application/atom+xml; charset=utf-8"; --atom reads that`},
		{o.feedURL() + ".json", "--atom", "; without --atom it can be read"},
		{o.URL + "/feeds/nothing", "--wait", "answered 404 Not Found: There is no feed of this name here."},
		{down.feedURL(), "--once", "connection refused"},
	} {
		p := start(t, nil, "", x.flag, x.url)
		p.wantExit(t, 1, x.says)
		if p.out.String() != "" {
			t.Errorf("%s: it prints %s", x.url, &p.out)
		}
	}
}

// Something on the way changes what the source says.
func TestBrokenPromises(t *testing.T) {
	t.Parallel()
	pgtest.Slow(t, "processes")
	o, changing := newOrigin(t, 2, everybody), uuid.New()
	o.publish(t, put(changing, 1), put(changing, 2), remove(changing, 3), put(uuid.New(), 1))
	for _, x := range []struct{ atom, old, new, says string }{
		{"false", `"position":4`, `"position":5`, "expected position 4, got 5"},
		{"false", `"version":2`, `"version":1`, "at position 4 version 1 of " + changing.String() + " follows version 1"},
		{"false", `08:00:02.000123Z`, `08:00:01.000123Z`, "is of 2026-11-23T08:00:01.000123Z"},
		{"false", `"cursor":"4-`, `"cursor":"3-`, "ends at cursor 3-"},
		{"false", `"version":2`, `"version":"2"`, "the entry at position 4: its version is no whole number from 1 on"},
		{"false", `urn:uuid:` + changing.String(), `urn:x`, "the entry at position 3: its id is no UUID"},
		{"false", `"items":[`, `"items":[,`, "invalid character"},
		{"true", `position="4"`, `position="5"`, "expected position 4, got 5"},
		{"true", `version="2"`, `version="3"`, "at position 4 version 3 of " + changing.String() + " follows version 1"},
		{"true", `08:00:02.000123Z</updated><id>`, `08:00:01.000123Z</updated><id>`, "is of 2026-11-23T08:00:01.000123Z"},
		{"true", `cursor="4-`, `cursor="3-`, "ends at cursor 3-"},
		{"true", `datafeed:page`, `datafeed:side`, "without the extension"},
		{"true", `urn:uuid:` + changing.String() + `</id>`, `urn:x</id>`, "lacks a UUID"},
		{"true", `</feed>`, ``, "unexpected EOF"},
	} {
		t.Run(x.atom+" "+x.new, func(t *testing.T) {
			t.Parallel()
			way := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				r.Header.Del("Accept-Encoding")
				answer := httptest.NewRecorder()
				o.handler.ServeHTTP(answer, r)
				body := answer.Body.String()
				if strings.HasPrefix(r.URL.RawQuery, "after=2-") {
					if !strings.Contains(body, x.old) {
						t.Errorf("the source does not say %s:\n%s", x.old, body)
					}
					body = strings.ReplaceAll(body, x.old, x.new)
				}
				w.Header().Set("Content-Type", answer.Header().Get("Content-Type"))
				_, _ = io.WriteString(w, body)
			}))
			defer way.Close()
			p := start(t, nil, "", "--atom="+x.atom, "--after=0", "--limit=2", way.URL+"/feeds/things")
			p.wantExit(t, 1, "BREAKS ITS PROMISES after 2-", x.says)
			good := &origin{entries: o.entries[:2]}
			good.wantPrinted(t, p.out.String(), 1, x.atom == "true")
		})
	}
}

func TestCheck(t *testing.T) {
	t.Parallel()
	cursor := func(n int64) feed.Cursor { return feed.At(n, feed.Digest{1}) }
	page := func(from, to int64) feed.Page {
		p := feed.Page{Cursor: cursor(to), Head: cursor(to), UpToDate: true}
		for n := from + 1; n <= to; n++ {
			p.Entries = append(p.Entries, feed.Entry{Position: n, ID: uuid.New(), Version: n, Updated: time.Unix(n, 0)})
		}
		return p
	}
	for _, x := range []struct {
		name   string
		change func(*feed.Page)
		says   string // "" means it is right
	}{
		{"whole", func(*feed.Page) {}, ""},
		{"sealed", func(p *feed.Page) { p.Sealed, p.UpToDate, p.Head = true, false, feed.Cursor{} }, ""},
		{"nothing new", func(p *feed.Page) { *p = page(10, 10) }, ""},
		{"a gap", func(p *feed.Page) { p.Entries = append(p.Entries[:3], p.Entries[4:]...) }, "expected position 14, got 15"},
		{"an entry twice", func(p *feed.Page) { p.Entries[1] = p.Entries[0] }, "expected position 12, got 11"},
		{"a version 0", func(p *feed.Page) { p.Entries[1].Version = 0 }, "has version 0"},
		{"a version again", func(p *feed.Page) { p.Entries[1].ID, p.Entries[1].Version = p.Entries[0].ID, 11 }, "version 11 of"},
		{"a version left out", func(p *feed.Page) { p.Entries[2].ID = p.Entries[0].ID }, "follows version 11"},
		{"a time that goes back", func(p *feed.Page) { p.Entries[1].ID, p.Entries[1].Updated = p.Entries[0].ID, time.Unix(11, 0) }, "the version before of"},
		{"the next page, too", func(p *feed.Page) { *p = page(10, 22) }, "12 entries where 10 were asked for"},
		{"short of its cursor", func(p *feed.Page) { p.Entries = p.Entries[:8] }, "its last entry is at position 18"},
		{"nothing, elsewhere", func(p *feed.Page) { p.Entries = nil }, "it has no entries"},
		{"nothing, but more follows", func(p *feed.Page) { *p = page(10, 10); p.UpToDate = false }, "it has no entries"},
		{"an end in the middle", func(p *feed.Page) { *p = page(10, 15); p.UpToDate, p.Head = false, cursor(16) }, "not a multiple of 10"},
		{"a head behind it", func(p *feed.Page) { p.Head = cursor(19) }, "the feed ends at 19"},
		{"more follows, it says", func(p *feed.Page) { p.UpToDate = false }, "up to date: false"},
	} {
		p := page(10, 20)
		x.change(&p)
		err := newChecker().check(&feedclient.Request{After: cursor(10), Limit: 10}, &p)
		if x.says == "" && err != nil || x.says != "" && (!errors.Is(err, feed.ErrPage) || !strings.Contains(err.Error(), x.says)) {
			t.Errorf("%s: %v", x.name, err)
		}
	}
}
