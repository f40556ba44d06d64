package publish

import (
	"context"
	"encoding/json"
	"encoding/xml"
	"flag"
	"fmt"
	"log/slog"
	"net/http/httptest"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/edison-cars/data-feeds/shared/feed"
	"github.com/edison-cars/data-feeds/shared/postgres/pgtest"
	"github.com/edison-cars/data-feeds/shared/web"
	"github.com/edison-cars/data-feeds/sql"
)

var update = flag.Bool("update", false, "rewrite the golden files")

func TestMain(m *testing.M) { pgtest.Main(m) }

const feedName = "things"

// database gives an own database with one empty feed.
func database(t testing.TB) *pgxpool.Pool {
	t.Helper()
	pool := pgtest.New(t, sql.Migrations("publish"))
	exec(t, pool, `select feed_create('`+feedName+`')`)
	exec(t, pool, `create table thing (id uuid primary key, version bigint not null, check (version < 1000))`)
	return pool
}

// sourceOf returns a source of a feed that calls d.Show for what it serves. What it asks Show when it is made, description answers.
func sourceOf(l *Log, config Config, d feed.Description) *Source {
	show, made := d.Show, false
	d.Show = func(e feed.Entry) (feed.Shown, error) {
		if !made {
			return description.Show(e)
		}
		return show(e)
	}
	s := NewSource(l, config, d)
	made = true
	return s
}

func exec(t testing.TB, pool *pgxpool.Pool, sql string, args ...any) {
	t.Helper()
	if _, err := pool.Exec(t.Context(), sql, args...); err != nil {
		t.Fatal(err)
	}
}

func openLog(t testing.TB, pool *pgxpool.Pool) *Log {
	t.Helper()
	l, err := Open(t.Context(), pool, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(l.Close)
	return l
}

// deaf gives a log that does not hear of what others append.
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

// serve gives a server of the feeds of a log.
func serve(t testing.TB, l *Log) *httptest.Server {
	t.Helper()
	engine := web.New(slog.New(slog.DiscardHandler))
	NewSource(l, Config{Name: "Test", PublicURL: publicURL}, description).Route(engine)
	server := httptest.NewServer(engine)
	t.Cleanup(server.Close)
	return server
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

// logged reads the log and fails the test if positions have gaps, if a digest is not the one that follows from the entry
// and the digest before it, or if the head is not at the end.
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
	if err := pool.QueryRow(ctx, `select position, digest from feed where name = $1`, feedName).Scan(&head.Position, sliceOf(&head.Digest)); err != nil {
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
