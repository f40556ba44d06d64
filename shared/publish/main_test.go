package publish

import (
	"context"
	"encoding/json"
	"encoding/xml"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/edison-cars/data-feeds/shared/feed"
	"github.com/edison-cars/data-feeds/shared/postgres/pgtest"
	"github.com/edison-cars/data-feeds/sql"
)

const feedName = "things"

// database returns an own database with one empty feed.
func database(t testing.TB) *pgxpool.Pool {
	t.Helper()
	pool := pgtest.New(t, sql.Migrations("publish"))
	exec(t, pool, `select feed_create('`+feedName+`')`)
	exec(t, pool, `create table thing (id uuid primary key, version bigint not null, check (version < 1000))`)
	return pool
}

func exec(t testing.TB, pool *pgxpool.Pool, sql string, args ...any) {
	t.Helper()
	if _, err := pool.Exec(t.Context(), sql, args...); err != nil {
		t.Fatal(err)
	}
}

func openLog(t testing.TB, pool *pgxpool.Pool) *Log {
	t.Helper()
	l, err := Open(t.Context(), pool, Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(l.Close)
	return l
}

// openSQL returns a log that serves what SQL publishes.
func openSQL(t testing.TB, pool *pgxpool.Pool) *Log {
	t.Helper()
	l, err := Open(t.Context(), pool, Options{FromSQL: true, Logger: slog.New(slog.NewTextHandler(t.Output(), nil))})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(l.Close)
	return l
}

// deaf returns a log that does not hear of what others append.
func deaf(t testing.TB, pool *pgxpool.Pool) *Log {
	t.Helper()
	l := openLog(t, pool)
	l.stop()
	l.watching.Wait()
	return l
}

var description = feed.Description{
	Name: feedName, Title: "Things", Text: "Everything that is a thing.", ID: "tag:edison-cars.example,2026:things",
	Show: func(e feed.Entry) (feed.Shown, error) {
		v := struct {
			XMLName xml.Name `json:"-"`
			Name    string   `xml:"name" json:"name"`
		}{XMLName: xml.Name{Space: "https://edison-cars.example/ns/thing", Local: "thing"}}
		err := json.Unmarshal(e.Entity, &v)
		return feed.Shown{
			Title: "Thing " + v.Name, HTML: fmt.Sprintf("<p>A thing, version %d</p>", e.Version),
			URL: publicURL + "/things/" + e.ID.String(), XML: v,
		}, err
	},
}

const publicURL = "http://source.example"

// Handler returns the handler of a log's feeds. What makes it imports this package, so a file of the external test
// package sets it.
var Handler func(l *Log, private bool, feeds ...feed.Description) http.Handler

// serve returns a server of the feeds of a log.
func serve(t testing.TB, l *Log) *httptest.Server {
	t.Helper()
	server := httptest.NewServer(Handler(l, false, description))
	t.Cleanup(server.Close)
	return server
}

// plain asks for no coding of its own accord.
var plain = &http.Transport{DisableCompression: true}

// get asks for a path of the server with headers given as name, value, name, value ...
func get(t testing.TB, server *httptest.Server, method, path string, header ...string) (*http.Response, string) {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), method, server.URL+path, nil)
	if err != nil {
		t.Fatal(err)
	}
	for i := 0; i < len(header); i += 2 {
		req.Header.Add(header[i], header[i+1])
	}
	resp, err := plain.RoundTrip(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return resp, string(body)
}

// cursorAt returns the cursor at a position of the log.
func cursorAt(t testing.TB, pool *pgxpool.Pool, position int64) feed.Cursor {
	t.Helper()
	var d feed.Digest
	if err := pool.QueryRow(t.Context(), `select digest from feed_entry where feed = $1 and position = $2`, feedName, position).Scan(sliceOf(&d)); err != nil {
		t.Fatal(err)
	}
	return feed.At(position, d)
}

// lives returns n entries of things that change and go: of ten or so one is a second version and one is the end of a
// thing.
func lives(n int) (entries []Entry) {
	for i := range n {
		e := thing(numbered(i), 1)
		if i > 0 && entries[i-1].Payload != nil {
			last := entries[i-1]
			switch {
			case i%11 == 10:
				e = Entry{ID: last.ID, Version: last.Version + 1, Updated: last.Updated.Add(1500 * time.Microsecond)}
			case i%7 == 6:
				e = thing(last.ID, last.Version+1)
			}
		}
		entries = append(entries, e)
	}
	return entries
}

func appendAll(t testing.TB, l *Log, entries []Entry) {
	t.Helper()
	if len(entries) == 0 {
		return
	}
	err := l.InTx(t.Context(), func(tx *Tx) error {
		tx.Append(feedName, entries...)
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}

// personal returns a server of the same feed, of people.
func personal(t testing.TB, l *Log, private bool) *httptest.Server {
	t.Helper()
	d := description
	d.Personal = true
	server := httptest.NewServer(Handler(l, private, d))
	t.Cleanup(server.Close)
	return server
}

type pageJSON struct {
	Next     string `json:"next_url"`
	Datafeed struct {
		Cursor, Next, Head string
		Sealed             bool
		UpToDate           *bool `json:"up_to_date"`
	} `json:"_datafeed"`
	Items []struct {
		Datafeed struct{ Position int64 } `json:"_datafeed"`
	}
}

func readJSON(t testing.TB, server *httptest.Server, url string, header ...string) (p pageJSON) {
	t.Helper()
	resp, body := get(t, server, "GET", strings.TrimPrefix(url, publicURL), header...)
	if err := json.Unmarshal([]byte(body), &p); err != nil || resp.StatusCode != 200 {
		t.Fatal(url, resp.StatusCode, err)
	}
	return p
}

var start = time.Date(2026, 11, 23, 8, 0, 0, 0, time.UTC)

func thing(id uuid.UUID, version int64) Entry {
	return Entry{ID: id, Version: version, Updated: start.Add(time.Duration(version) * time.Second), Payload: fmt.Appendf(nil, `{"name":"%s <&> %d"}`, id.String()[:4], version)}
}

// put is a change that appends the entry and writes a row beside it.
func put(e Entry) *Change {
	c := NewChange()
	c.Exec(`insert into thing (id, version) values ($1, $2) on conflict (id) do update set version = excluded.version`, e.ID, e.Version)
	c.Append(feedName, e)
	return c
}

// fill appends n entries of n entities, the ids being the same in every run.
func fill(t testing.TB, l *Log, n int) {
	t.Helper()
	err := l.InTx(t.Context(), func(tx *Tx) error {
		for i := range n {
			tx.Append(feedName, thing(numbered(i+1), 1))
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}

func numbered(n int) (id uuid.UUID) {
	return uuid.NewSHA1(uuid.NameSpaceOID, fmt.Appendf(nil, "thing %d", n))
}

// A row is an entry of the log, as the database has it.
type row struct {
	position int64
	id       uuid.UUID
	version  int64
}

// logged reads the log and fails the test if positions have gaps, if a digest is not the one that follows from the
// entry and the digest before it, or if the head is not at the end.
func logged(t testing.TB, pool *pgxpool.Pool) (log []row) {
	t.Helper()
	ctx := context.Background()
	rows, err := pool.Query(ctx, `select position, kind, entity_id, version, updated, payload_hash, digest from feed_entry where feed = $1 order by position`, feedName)
	if err != nil {
		t.Fatal(err)
	}
	defer rows.Close()
	var digest feed.Digest
	if err := pool.QueryRow(ctx, `select sha256(convert_to($1, 'UTF8'))`, feedName).Scan(sliceOf(&digest)); err != nil {
		t.Fatal(err)
	}
	for rows.Next() {
		var r record
		var position int64
		var hash, stored []byte
		if err := rows.Scan(&position, &r.kind, &r.ID, &r.Version, &r.Updated, &hash, &stored); err != nil {
			t.Fatal(err)
		}
		r.hash = [32]byte(hash)
		digest = r.digest(digest)
		if position != int64(len(log)+1) || digest != feed.Digest(stored) {
			t.Fatalf("entry %d of the log is at position %d, digest right: %t", len(log)+1, position, digest == feed.Digest(stored))
		}
		log = append(log, row{position, r.ID, r.Version})
	}
	if rows.Err() != nil {
		t.Fatal(rows.Err())
	}
	var head Head
	if err := pool.QueryRow(ctx, `select position, digest from feed_head where name = $1`, feedName).Scan(&head.Position, sliceOf(&head.Digest)); err != nil {
		t.Fatal(err)
	}
	if head.Position != int64(len(log)) || head.Digest != digest {
		t.Fatalf("the head is at %s, the log has %d entries", head.Cursor(), len(log))
	}
	return log
}

// sliceOf lets a bytea be scanned into a digest.
func sliceOf(d *feed.Digest) interface{ ScanBytes([]byte) error } { return (*digestScanner)(d) }

type digestScanner feed.Digest

func (d *digestScanner) ScanBytes(b []byte) error {
	*d = digestScanner(b)
	return nil
}

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
