package feedhttp

import (
	"encoding/json"
	"encoding/xml"
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"

	"github.com/edison-cars/data-feeds/shared/feed"
	"github.com/edison-cars/data-feeds/shared/postgres/pgtest"
)

// A payload that somebody has written to the log's table, and that is no JSON, spoils no other entry: readers put it
// aside, and every representation stays well-formed. Its digest, and so the ETag, are those of what had been appended:
// no cache keeps such a page, so that everybody gets the mended one at once.
func TestPayloadThatIsNoJSON(t *testing.T) {
	t.Parallel()
	pgtest.Slow(t, "many databases")
	for _, payload := range []string{"", "Ada", `{"name":"Ada"`, `{"name":"Ada"}}`, `{"name":"Ada"},{"a":1}`, "{'name':1}", "\x00", `{"name":"a` + "\n" + `b"}`} {
		t.Run(fmt.Sprintf("%q", payload), func(t *testing.T) {
			t.Parallel()
			pool := database(t)
			fill(t, openLog(t, pool), 10)
			exec(t, pool, `update feed_entry set payload = $1 where position = 3`, []byte(payload))
			server := serve(t, openLog(t, pool))
			mended := false
			get := func(path, accept string) []byte {
				req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, server.URL+path, nil)
				if err != nil {
					t.Fatal(err)
				}
				req.Header.Set("Accept", accept)
				resp, err := server.Client().Do(req)
				if err != nil {
					t.Fatal(err)
				}
				defer resp.Body.Close()
				body, err := io.ReadAll(resp.Body)
				if err != nil || resp.StatusCode != http.StatusOK {
					t.Errorf("%s as %s: %s, %v: %.200s", path, accept, resp.Status, err, body)
				}
				if h := resp.Header; (h.Get("ETag") != "") != mended || (h.Get("Cache-Control") == "no-store") == mended || !mended && h.Get("Last-Modified") != "" {
					t.Errorf("%s as %s, mended: %t: %v", path, accept, mended, h)
				}
				return body
			}
			read := func(path string) []feed.Entry {
				page, err := feed.ParsePage(get(path, feed.TypeJSONFeed), feed.Cursor{})
				if err != nil {
					t.Fatal(err)
				}
				return page.Entries
			}
			const sealed = "/feeds/things.json?after=0&limit=5"
			for i, e := range read(sealed) {
				if (e.Malformed() != nil) != (i == 2) || e.ID != numbered(i+1) {
					t.Errorf("entry %d is read as %+v", i+1, e)
				}
			}
			entity := "/feeds/things/" + numbered(3).String()
			for _, path := range []string{"/feeds/things", entity} {
				if body := get(path, feed.TypeJSON); !json.Valid(body) {
					t.Errorf("%s: %s", path, body)
				}
				if body := get(path, feed.TypeHTML); !strings.Contains(string(body), "</html>") {
					t.Errorf("%s: %s", path, body)
				}
			}
			if err := xml.Unmarshal(get("/feeds/things", feed.TypeAtom), new(struct{})); err != nil {
				t.Error(err)
			}
			exec(t, pool, `update feed_entry set payload = '{"name":"Ada"}' where position = 3`)
			mended = true
			for i, e := range read(sealed) {
				if e.Malformed() != nil {
					t.Errorf("entry %d of the mended page is read as %+v", i+1, e)
				}
			}
			get(entity, feed.TypeHTML)
		})
	}
}
