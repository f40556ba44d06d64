package feedhttp

import (
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/edison-cars/data-feeds/shared/feed"
	"github.com/edison-cars/data-feeds/shared/feedclient"
	"github.com/edison-cars/data-feeds/shared/postgres/pgtest"
	"github.com/edison-cars/data-feeds/shared/publish"
)

// serveMembers returns a server of a feed that is made of the members of its entities: text is a run of so many of the
// characters in each.
func serveMembers(t *testing.T, character string, lengths ...int) *httptest.Server {
	t.Helper()
	pool := database(t)
	exec(t, pool, `select feed_put($1, i::text, json_build_object('text', repeat($2, length))) from unnest($3::int[]) with ordinality as of (length, i)`, feedName, character, lengths)
	d := description
	d.Show = nil
	server := httptest.NewServer(New(openLog(t, pool), Options{PublicURL: publicURL}, d))
	t.Cleanup(server.Close)
	return server
}

// A page whose entities are too many bytes is refused, whatever its format, with how many entries to ask for. So many of
// the largest ones always are a page that readers take, and so are the newest.
func TestPageThatIsTooLarge(t *testing.T) {
	t.Parallel()
	pgtest.Slow(t, "large pages")
	lengths := make([]int, publish.MaxPageEntries+1)
	for i := range lengths {
		lengths[i] = publish.MaxPayload - len(`{"text" : ""}`)
	}
	server := serveMembers(t, "<", lengths...)
	for _, x := range []struct {
		path   string
		status int
	}{
		{".json?after=0&limit=200", 200}, {".atom?after=0&limit=200", 200}, {".html?after=0&limit=200", 200},
		{".json?snapshot=0&limit=200", 200}, {".json", 200}, {".json?limit=200", 200},
		{".json?after=0&limit=201", 413}, {".atom?after=0&limit=1000", 413}, {".html?after=0&limit=1000", 413},
		{".json?snapshot=0&limit=201", 413}, {".atom?snapshot=0&limit=1000", 413}, {"?limit=1000", 413}, {".cloudevents?limit=1000", 413},
	} {
		resp, body := get(t, server, "GET", "/feeds/things"+x.path)
		if resp.StatusCode != x.status {
			t.Errorf("%s: %s: %.300s", x.path, resp.Status, body)
		}
		if x.status == 413 && (!strings.Contains(body, publicURL+tooLargePath) || !strings.Contains(body, "limit=200") || resp.Header.Get("Content-Type") != feed.TypeProblem) {
			t.Errorf("%s: %v %s", x.path, resp.Header, body)
		}
		if x.status == 200 && strings.HasPrefix(x.path, ".json") && len(body) > feedclient.MaxBody {
			t.Errorf("%s: %d bytes", x.path, len(body))
		}
	}
}

// What is for people has long entities in part, and says so.
func TestLongEntities(t *testing.T) {
	t.Parallel()
	server := serveMembers(t, "'", 100_000, 200_000)
	for suffix, most := range map[string]int{".html": 400_000, ".json": 350_000, ".atom": 1_600_000} {
		_, body := get(t, server, "GET", "/feeds/things"+suffix)
		if len(body) > most || !strings.Contains(body, "… (198000 more characters)") {
			t.Errorf("%s has %d bytes", suffix, len(body))
		}
		if suffix == ".html" && (!strings.Contains(body, "…</code></pre>") || !strings.Contains(body, "All 200,013 bytes stand in the other formats")) {
			t.Error(body)
		}
	}
}
