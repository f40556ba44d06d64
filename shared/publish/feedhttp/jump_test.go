package feedhttp

import (
	"fmt"
	"html"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/edison-cars/data-feeds/shared/feed"
	"github.com/edison-cars/data-feeds/shared/publish"
	"github.com/edison-cars/data-feeds/shared/web"
)

func TestJump(t *testing.T) {
	t.Parallel()
	pool := database(t)
	l := openLog(t, pool)
	server := serve(t, l)
	problem := func(t *testing.T, path string, status int, says string) {
		t.Helper()
		resp, body := get(t, server, "GET", path)
		if resp.StatusCode != status || resp.Header.Get("Content-Type") != feed.TypeProblem || resp.Header.Get("Location") != "" || !strings.Contains(body, says) {
			t.Errorf("%s: %d %s, want %d and %q", path, resp.StatusCode, body, status, says)
		}
	}
	for _, to := range []string{"1", "2026-11-23"} {
		problem(t, "/feeds/things/jump?to="+to, 404, "Nothing has been published yet")
	}
	// 250 entries: the 23rd has 120, the 24th none, the 25th 130.
	err := l.InTx(t.Context(), func(tx *publish.Tx) error {
		for i := range 250 {
			e := thing(numbered(i+1), 1)
			e.Updated = start.Add(time.Duration(i) * time.Second)
			if i >= 120 {
				e.Updated = e.Updated.Add(48 * time.Hour)
			}
			tx.Append(feedName, e)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	older := func(position int64) string { return "?before=" + cursorAt(t, pool, position).String() }
	replay := "?after=" + cursorAt(t, pool, 200).String() + "&limit=100"
	for _, x := range []struct {
		to, page string
		position int
	}{
		{"1", older(101), 1}, {"100", older(101), 100}, {"101", older(201), 101}, {" 142 ", older(201), 142}, {"200", older(201), 200},
		{"201", replay, 201}, {"250", replay, 250}, {"0,250", replay, 250},
		{"2026-11-23", older(101), 1}, {"2026-11-25", older(201), 121},
	} {
		for _, feed := range []string{"/feeds/things", "/feeds/things.html"} {
			path := feed + "/jump?to=" + url.QueryEscape(x.to)
			resp, _ := get(t, server, "GET", path)
			at := resp.Header.Get("Location")
			if want := fmt.Sprintf("%s%s#entry-%d", feed, x.page, x.position); resp.StatusCode != 303 || at != want || resp.Header.Get("Cache-Control") != "no-cache" {
				t.Errorf("%s: %d to %s, want %s; %v", path, resp.StatusCode, at, want, resp.Header)
			}
			at, _, _ = strings.Cut(at, "#")
			if resp, page := get(t, server, "GET", at, "Accept", browser); resp.StatusCode != 200 || !strings.Contains(page, fmt.Sprintf(`id="entry-%d"`, x.position)) {
				t.Errorf("%s has no entry %d", at, x.position)
			}
		}
	}
	id := numbered(7).String()
	for _, to := range []string{id, strings.ToUpper(id), "urn:uuid:" + id} {
		if resp, _ := get(t, server, "GET", "/feeds/things.html/jump?to="+to); resp.StatusCode != 303 || resp.Header.Get("Location") != "/feeds/things/"+id {
			t.Errorf("%s: %d to %s", to, resp.StatusCode, resp.Header.Get("Location"))
		}
	}
	if resp, body := get(t, server, "HEAD", "/feeds/things/jump?to=1"); resp.StatusCode != 303 || body != "" {
		t.Errorf("HEAD: %d %s", resp.StatusCode, body)
	}
	for to, says := range map[string]string{
		"0":                                    "the positions of this feed are 1 to 250",
		"251":                                  "There is no entry at position 251: the positions of this feed are 1 to 250.",
		"9223372036854775807":                  "1 to 250",
		"18446744073709551615":                 "1 to 250",
		"2026-11-22":                           "No entry is of 2026-11-22 (UTC): the first one is of 2026-11-23.",
		"2026-11-24":                           "No entry is of 2026-11-24 (UTC): entry 120 is of 2026-11-23, and the next one is of 2026-11-25. See /feeds/things/jump?to=121.",
		"2026-11-26":                           "No entry is of 2026-11-26 (UTC): the last one, 250, is of 2026-11-25.",
		"0001-01-01":                           "the first one is of 2026-11-23",
		numbered(1000).String():                "This feed has no entity with the id " + numbered(1000).String(),
		"00000000-0000-0000-0000-000000000000": "no entity with the id",
	} {
		problem(t, "/feeds/things/jump?to="+to, 404, says)
	}
	for _, query := range []string{
		"", "?to=", "?to=1&to=2", "?position=1", "?to=%zz", "?to=-1", "?to=1.5", "?to=x", "?to=2026-13-01", "?to=2026-02-30", "?to=99999999999999999999", "?to=" + id[:8], "?to=" + strings.Repeat("9", 900),
		"?to=%00", "?to=%3Cscript%3E",
	} {
		problem(t, "/feeds/things/jump"+query, 400, "day")
	}
	problem(t, "/feeds/nothing/jump?to=1", 404, "no feed of this name")
	t.Run("a browser gets the form again, with what was typed and why it leads nowhere", func(t *testing.T) {
		for to, says := range map[string]string{
			"251":                  `There is no entry at position 251: the positions of this feed are 1 to 250. The feed: <a href="/feeds/things.html">`,
			"2026-11-24":           `See <a href="/feeds/things.html/jump?to=121">`,
			numbered(900).String(): "This feed has no entity with the id",
			"<x>":                  "This is no position such as 4200",
		} {
			resp, page := get(t, server, "GET", "/feeds/things.html/jump?to="+url.QueryEscape(to), "Accept", browser)
			want := 404
			if to == "<x>" {
				want = 400
			}
			if resp.StatusCode != want || resp.Header.Get("Content-Type") != web.HTMLType || resp.Header.Get("Cache-Control") != "no-store" {
				t.Errorf("%s: %d %v", to, resp.StatusCode, resp.Header)
			}
			for _, part := range []string{says, `action="/feeds/things.html/jump"`, `value="` + html.EscapeString(to) + `"`, `aria-invalid="true" aria-describedby="to-wrong"`, `<ul class="errors" id="to-wrong">`} {
				if !strings.Contains(page, part) {
					t.Errorf("%s: no %s in %s", to, part, page)
				}
			}
		}
	})
	t.Run("the parameter is unknown elsewhere", func(t *testing.T) {
		plain, _ := get(t, server, "GET", "/feeds/things.html")
		if resp, _ := get(t, server, "GET", "/feeds/things.html?to=1"); resp.StatusCode != 200 || resp.Header.Get("ETag") != plain.Header.Get("ETag") {
			t.Errorf("%d %v", resp.StatusCode, resp.Header)
		}
	})
	t.Run("a page says how to jump, and a replay leads to what is older", func(t *testing.T) {
		_, page := get(t, server, "GET", "/feeds/things"+replay, "Accept", browser)
		for _, part := range []string{`action="/feeds/things/jump"`, `<a rel="prev" href="` + publicURL + "/feeds/things" + older(201) + `">Older</a>`} {
			if !strings.Contains(page, part) {
				t.Errorf("no %s in %s", part, page)
			}
		}
	})
}

// Times of different entities need not be in the order of positions. Then a day leads to a place at which the feed passes
// to it.
func TestJumpToADayOfTimesInDisorder(t *testing.T) {
	t.Parallel()
	pool := database(t)
	l := openLog(t, pool)
	server := serve(t, l)
	midnight := time.Date(2026, 11, 24, 0, 0, 0, 0, time.UTC)
	var times []time.Time
	err := l.InTx(t.Context(), func(tx *publish.Tx) error {
		for i := range 5000 {
			e := thing(numbered(i+1), 1)
			e.Updated = midnight.Add(time.Duration(i-3000)*time.Second + time.Duration(i*7919%20)*time.Second)
			times = append(times, e.Updated)
			tx.Append(feedName, e)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	resp, _ := get(t, server, "GET", "/feeds/things/jump?to=2026-11-24")
	_, entry, _ := strings.Cut(resp.Header.Get("Location"), "#entry-")
	var at int
	if _, err := fmt.Sscan(entry, &at); err != nil || times[at-1].Before(midnight) || !times[at-2].Before(midnight) || at < 2980 || at > 3001 {
		t.Errorf("%d %v", resp.StatusCode, resp.Header)
	}
}

func TestJumpIsPrivateWhereTheFeedIs(t *testing.T) {
	t.Parallel()
	l := openLog(t, database(t))
	fill(t, l, 1)
	server, _ := personal(t, l, false)
	if resp, _ := get(t, server, "GET", "/feeds/things/jump?to=1"); resp.StatusCode != 303 || resp.Header.Get("Cache-Control") != "private, no-cache" {
		t.Errorf("%d %v", resp.StatusCode, resp.Header)
	}
}
