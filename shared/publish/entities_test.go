package publish

import (
	"context"
	"fmt"
	"math/rand/v2"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"pgregory.net/rapid"

	"github.com/edison-cars/data-feeds/shared/feed"
	"github.com/edison-cars/data-feeds/shared/postgres/pgtest"
)

// A page of the entities costs the same, however long the log is and however many versions they have, also by the plan
// that was made while the log was short.
func TestEntitiesAreIndependentOfTheLength(t *testing.T) {
	t.Parallel()
	pool := database(t)
	fill(t, openLog(t, pool), 20)
	plan := func(conn *pgx.Conn, explain string) (text string) {
		t.Helper()
		tx, err := conn.Begin(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = tx.Rollback(context.WithoutCancel(t.Context())) }()
		if _, err := tx.Exec(t.Context(), byIndex); err != nil {
			t.Fatal(err)
		}
		rows, err := tx.Query(t.Context(), explain, pgx.QueryExecModeSimpleProtocol)
		if err != nil {
			t.Fatal(err)
		}
		lines, err := pgx.CollectRows(rows, pgx.RowTo[string])
		if err != nil {
			t.Fatal(err)
		}
		return strings.Join(lines, "\n")
	}
	conn, err := pgx.ConnectConfig(t.Context(), pool.Config().ConnConfig)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close(context.WithoutCancel(t.Context()))
	for _, sql := range []string{
		`set plan_cache_mode = force_generic_plan`, `prepare near (text, uuid, int) as ` + nearSQL, `prepare first (text, uuid, int) as ` + firstSQL, `prepare walk (text, uuid, int, bigint, int) as ` + walkSQL,
		`prepare last (text, uuid[], bigint) as ` + lastSQL, `prepare newest (text, uuid[], bigint) as ` + newestSQL,
	} {
		if _, err := conn.Exec(t.Context(), sql, pgx.QueryExecModeSimpleProtocol); err != nil {
			t.Fatal(err)
		}
	}
	var ids string
	if err := conn.QueryRow(t.Context(), `select array_agg(distinct entity_id)::text from feed_entry where position < 12`).Scan(&ids); err != nil {
		t.Fatal(err)
	}
	none := uuid.Nil.String()
	pages := []string{
		`near ('` + feedName + `', '` + none + `', 11)`, `first ('` + feedName + `', '` + none + `', 11)`, `walk ('` + feedName + `', '` + none + `', 11, 9223372036854775807, 10)`,
		`last ('` + feedName + `', '` + ids + `', 9223372036854775807)`, `newest ('` + feedName + `', '` + ids + `', 9223372036854775807)`,
	}
	for _, x := range []struct{ name, sql string }{
		{"few entities", `analyze`},
		{"more entities", `insert into feed_entry select feed, position + 20 * n, kind, gen_random_uuid(), version, updated, payload, salt, payload_hash, digest
			  from feed_entry, generate_series(1, 2000) n`},
		{"more versions", `insert into feed_entry select feed, position + 1000000::bigint * n, kind, entity_id, version + n, updated, payload, salt, payload_hash, digest
			  from (select * from feed_entry order by entity_id limit 5) e, generate_series(1, 10000) n`},
		{"known statistics", `analyze`},
	} {
		exec(t, pool, x.sql)
		for _, page := range pages {
			if text := plan(conn, `explain (analyze, timing off) execute `+page); !strings.Contains(text, "(actual rows=11") ||
				regexp.MustCompile(`Seq Scan on feed_entry|Bitmap|Sort|JIT`).MatchString(text) {
				t.Errorf("%s: a page reads the whole log:\n%s", x.name, text)
			}
		}
	}
}

// The pages of a snapshot have the newest version that each entity had at its head, once, whatever the sizes of the
// pages, the versions of the entities and what came after the head.
func TestEntitiesProperty(t *testing.T) {
	t.Parallel()
	pgtest.Slow(t, "many runs")
	pool := database(t)
	l := openLog(t, pool)
	const entities, rounds = 80, 4000 // so many that the first ones have more than fewVersions
	version := map[int]int64{}
	err := l.InTx(t.Context(), func(tx *Tx) error {
		for range rounds {
			n := rand.IntN(1 + rand.IntN(entities)) // some change often, some seldom
			version[n]++
			tx.Append(feedName, thing(numbered(n), version[n]))
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	rapid.Check(t, func(t *rapid.T) {
		head, limit := rapid.Int64Range(1, rounds).Draw(t, "head"), rapid.IntRange(1, entities+5).Draw(t, "limit")
		rows, _ := pool.Query(context.Background(), `
			select format('%s %s %s %s', entity_id, version, position, (select min(position) from feed_entry f where f.entity_id = newest.entity_id))
			  from (select distinct on (entity_id) * from feed_entry where position <= $1 order by entity_id, version desc) as newest order by entity_id`, head)
		want, err := pgx.CollectRows(rows, pgx.RowTo[string])
		if err != nil {
			t.Fatal(err)
		}
		var digest []byte
		if err := pool.QueryRow(context.Background(), `select digest from feed_entry where position = $1`, head).Scan(&digest); err != nil {
			t.Fatal(err)
		}
		var got []string
		for after, more := uuid.Nil, true; more; {
			found, err := l.Entities(context.Background(), feedName, feed.At(head, feed.Digest(digest)), after, limit)
			if err != nil || len(found.Entries) > limit {
				t.Fatalf("%+v %v", found, err)
			}
			for _, e := range found.Entries {
				got = append(got, fmt.Sprintf("%s %d %d %d", e.ID, e.Version, e.Position, e.First))
			}
			after, more = found.Last, found.Last != uuid.Nil
		}
		if !slices.Equal(got, want) {
			t.Fatalf("%q, want %q", got, want)
		}
	})
}

func TestEntities(t *testing.T) {
	t.Parallel()
	pool := database(t)
	exec(t, pool, `select feed_create('others')`)
	l := openLog(t, pool)
	low, high := uuid.MustParse("00000000-0000-4000-8000-000000000001"), uuid.MustParse("ffffffff-ffff-4fff-bfff-ffffffffffff")
	err := l.InTx(t.Context(), func(tx *Tx) error {
		tx.Append("others", thing(numbered(1), 1))
		tx.Append(feedName, thing(high, 1), thing(low, 1), thing(high, 2))
		tx.Erase(feedName, low, 2, start.Add(time.Hour))
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	found, err := l.Entities(t.Context(), feedName, feed.Cursor{}, uuid.Nil, 10)
	if err != nil || !found.Known || found.Last != uuid.Nil || found.Head != l.head(t).Head || len(found.Entries) != 2 {
		t.Fatalf("%+v %v", found, err)
	}
	if e := found.Entries[0]; e.ID != low || e.Position != 4 || e.First != 2 || e.Version != 2 || !e.Deleted || !e.Erased || e.Entity != nil || e.Cursor != cursorAt(t, pool, 4) {
		t.Errorf("the erased one is %+v", e)
	}
	if e := found.Entries[1]; e.ID != high || e.Position != 3 || e.First != 1 || e.Version != 2 || e.Deleted || string(e.Entity) != string(thing(high, 2).Payload) {
		t.Errorf("the other one is %+v", e)
	}
	if found, err = l.Entities(t.Context(), feedName, cursorAt(t, pool, 2), uuid.Nil, 1); err != nil || !found.Known || found.Last == uuid.Nil || len(found.Entries) != 1 {
		t.Errorf("one of two: %+v %v", found, err)
	}
	if found, err = l.Entities(t.Context(), feedName, cursorAt(t, pool, 1), uuid.Nil, 1); err != nil || !found.Known || found.Last != uuid.Nil || len(found.Entries) != 1 ||
		found.Entries[0].ID != high || found.Entries[0].Version != 1 {
		t.Errorf("up to the first entry: %+v %v", found, err)
	}
	if found, err = l.Entities(t.Context(), feedName, cursorAt(t, pool, 2), high, 1); err != nil || !found.Known || found.Last != uuid.Nil || len(found.Entries) != 0 {
		t.Errorf("behind the last one: %+v %v", found, err)
	}
	if found, err = l.Entities(t.Context(), feedName, feed.At(2, feed.Digest{1}), uuid.Nil, 1); err != nil || found.Known || len(found.Entries) != 0 {
		t.Errorf("with a cursor of another history: %+v %v", found, err)
	}
	if _, err = l.Entities(t.Context(), "nothing", feed.Cursor{}, uuid.Nil, 1); err == nil {
		t.Error("a feed that is not there has entities")
	}
}

// A cursor that is far older than the entities costs no more than another one, and leads to all that it had: past very
// many newer entities, and through very many newer versions of one.
func TestEntitiesOfAnOldCursor(t *testing.T) {
	t.Parallel()
	pool := database(t)
	low, high := uuid.MustParse("00000000-0000-4000-8000-000000000001"), uuid.MustParse("ffffffff-ffff-4fff-bfff-ffffffffffff")
	l := openLog(t, pool)
	if err := l.InTx(t.Context(), func(tx *Tx) error { tx.Append(feedName, thing(high, 1), thing(low, 1), thing(low, 2)); return nil }); err != nil {
		t.Fatal(err)
	}
	old := cursorAt(t, pool, 3)
	exec(t, pool, `insert into feed_entry select feed, 3 + n, kind, gen_random_uuid(), 1, updated, payload, salt, payload_hash, digest
		  from feed_entry, generate_series(1, $1) n where position = 1`, maxNewer+5)
	exec(t, pool, `insert into feed_entry select feed, 100000 + n, kind, entity_id, 2 + n, updated, payload, salt, payload_hash, digest
		  from feed_entry, generate_series(1, 1000) n where position = 3`)
	l = openLog(t, pool)
	found, err := l.Entities(t.Context(), feedName, old, uuid.Nil, 2)
	if err != nil || len(found.Entries) != 1 || found.Entries[0].ID != low || found.Entries[0].Version != 2 || found.Entries[0].First != 2 ||
		found.Last == uuid.Nil || found.Last == low {
		t.Fatalf("before the newer ones: %+v, %v", found, err)
	}
	found, err = l.Entities(t.Context(), feedName, old, found.Last, 2)
	if err != nil || len(found.Entries) != 1 || found.Entries[0].ID != high || found.Entries[0].Version != 1 || found.Last != uuid.Nil {
		t.Fatalf("behind them: %+v, %v", found, err)
	}
}
