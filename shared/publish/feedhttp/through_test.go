package feedhttp

import (
	"strings"
	"testing"

	"github.com/edison-cars/data-feeds/shared/feed"
)

// A page of an old snapshot that has passed very many newer entities says through which id, and the next one goes on
// there.
func TestSnapshotPassesNewerEntities(t *testing.T) {
	t.Parallel()
	pool := database(t)
	fill(t, openLog(t, pool), 1)
	at := cursorAt(t, pool, 1).String()
	exec(t, pool, `insert into feed_entry select feed, 1 + n, kind, ('00000000' || substr(gen_random_uuid()::text, 9))::uuid, 1, updated, payload, salt, payload_hash, digest
		  from feed_entry, generate_series(1, 10005) n where position = 1`)
	server := serve(t, openLog(t, pool))
	resp, body := get(t, server, "GET", "/feeds/things.json?snapshot="+at+"&limit=10")
	through := between(body, `"through":"`, `"`)
	next := strings.ReplaceAll(between(body, `"next":"`, `"`), `\u0026`, "&")
	if resp.StatusCode != 200 || !strings.HasPrefix(through, "00000000-") || !strings.Contains(next, "&from="+through+"&") || !strings.Contains(body, `"items":[]`) {
		t.Fatalf("%d %s", resp.StatusCode, body)
	}
	if _, atom := get(t, server, "GET", "/feeds/things.atom?snapshot="+at+"&limit=10"); !strings.Contains(atom, ` through="`+through+`"`) {
		t.Error(atom)
	}
	_, path, _ := strings.Cut(next, "/feeds/")
	if resp, body = get(t, server, "GET", "/feeds/"+path, "Accept", feed.TypeJSONFeed); resp.StatusCode != 200 || strings.Contains(body, "through") || !strings.Contains(body, numbered(1).String()) {
		t.Errorf("%d %s", resp.StatusCode, body)
	}
}

func between(text, from, to string) string {
	_, rest, _ := strings.Cut(text, from)
	found, _, _ := strings.Cut(rest, to)
	return found
}
