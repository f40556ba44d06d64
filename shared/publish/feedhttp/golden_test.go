package feedhttp

import (
	"bytes"
	"fmt"
	"net/http/httptest"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/mmcdole/gofeed"

	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/edison-cars/data-feeds/shared/publish"
)

// goldenLog makes a log that is the same to the byte in every run: three things, the first changed, the second deleted.
func goldenLog(t testing.TB) *httptest.Server {
	t.Helper()
	entries := []publish.Entry{thing(numbered(1), 1), thing(numbered(2), 1), thing(numbered(1), 2), thing(numbered(3), 1), {ID: numbered(2), Version: 2, Updated: start.Add(1500_123_000)}}
	return serve(t, logWithSalts(t, func(tx *publish.Tx) { tx.Append(feedName, entries...) }))
}

// goldenErasure does the same with a feed of people: two things, the first of which is erased.
func goldenErasure(t testing.TB) *httptest.Server {
	t.Helper()
	l := logWithSalts(t,
		func(tx *publish.Tx) { tx.Append(feedName, thing(numbered(1), 1), thing(numbered(2), 1)) },
		func(tx *publish.Tx) { tx.Erase(feedName, numbered(1), 2, start.Add(1500_123_000)) },
	)
	server, _ := personal(t, l, false)
	return server
}

// logWithSalts returns a log with entries whose salts are not random.
func logWithSalts(t testing.TB, changes ...func(*publish.Tx)) *publish.Log {
	t.Helper()
	pool := database(t)
	for _, change := range changes {
		err := openLog(t, pool).InTx(t.Context(), func(tx *publish.Tx) error {
			change(tx)
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
		resalt(t, pool)
	}
	return openLog(t, pool)
}

// resalt sets the salt of each entry to one that follows from its position, and computes the digests again.
func resalt(t testing.TB, pool *pgxpool.Pool) {
	t.Helper()
	const salt = `decode(repeat(lpad(to_hex(position - 1), 2, '0'), 16), 'hex')`
	exec(t, pool, `update feed_entry set salt = `+salt+` where salt is not null`)
	exec(t, pool, `update feed_entry set payload_hash = sha256(`+salt+` || coalesce(payload, '')) where salt is not null or kind = 'delete'`)
	for position := 1; position <= len(logged(t, pool)); position++ {
		exec(t, pool, `
			update feed_entry e set digest = sha256(
			       coalesce((select digest from feed_entry where feed = e.feed and position = e.position - 1), sha256(convert_to(feed, 'UTF8')))
			       || convert_to(left(kind, 1), 'UTF8') || uuid_send(entity_id) || int8send(version)
			       || int8send((extract(epoch from updated) * 1000000)::bigint) || payload_hash)
			 where position = $1`, position)
	}
	exec(t, pool, `update feed f set marked_digest = e.digest from feed_entry e where e.feed = f.name and e.position = f.marked_position`)
}

func TestGolden(t *testing.T) {
	t.Parallel()
	server, erasure := goldenLog(t), goldenErasure(t)
	for name, path := range map[string]string{
		"erased.json": "/feeds/things.json", "erased.atom": "/feeds/things.atom", "erased.html": "/feeds/things.html",
		"erased.cloudevents": "/feeds/things.cloudevents", "sealed.cloudevents": "/feeds/things.cloudevents?limit=3",
		"newest.json": "/feeds/things.json", "newest.atom": "/feeds/things.atom", "newest.html": "/feeds/things.html",
		"sealed.json": "/feeds/things.json?after=0&limit=2", "sealed.atom": "/feeds/things.atom?after=0&limit=2", "sealed.html": "/feeds/things.html?after=0&limit=2",
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			from := server
			if strings.HasPrefix(name, "erased.") {
				from = erasure
			}
			resp, body := get(t, from, "GET", path)
			var got bytes.Buffer
			resp.Header.Del("Date")
			resp.Header.Del("Content-Security-Policy")
			fmt.Fprintln(&got, path, resp.Status)
			_ = resp.Header.Write(&got)
			got.WriteString("\n" + body)
			text := regexp.MustCompile(`(\?v=|Etag: ")[\w-]+`).ReplaceAllString(got.String(), "$1-") // what changes with the program and the style sheet
			got.Reset()
			got.WriteString(text)
			file := filepath.Join("testdata", name+".golden")
			if *update {
				if err := os.WriteFile(file, got.Bytes(), 0o644); err != nil {
					t.Fatal(err)
				}
			}
			want, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			if normal := bytes.ReplaceAll(got.Bytes(), []byte("\r"), nil); !bytes.Equal(normal, bytes.ReplaceAll(want, []byte("\r"), nil)) {
				t.Errorf("the answer is not that of %s (-update rewrites it):\n%s", file, normal)
			}
		})
	}
}

func TestReadersOfOthers(t *testing.T) {
	t.Parallel()
	server := goldenLog(t)
	for _, suffix := range []string{".atom", ".json"} {
		for _, query := range []string{"", "?after=0&limit=2"} {
			_, body := get(t, server, "GET", "/feeds/things"+suffix+query)
			f, err := gofeed.NewParser().ParseString(body)
			if err != nil {
				t.Fatalf("gofeed on %s%s: %v", suffix, query, err)
			}
			if f.Title != "Things" || len(f.Items) == 0 {
				t.Errorf("gofeed on %s%s: title %q, %d items", suffix, query, f.Title, len(f.Items))
			}
			for _, item := range f.Items {
				if item.GUID == "" || item.Title == "" || item.UpdatedParsed == nil || item.Content == "" && suffix == ".atom" {
					t.Errorf("gofeed on %s%s: item %+v", suffix, query, item)
				}
			}
		}
	}
}
