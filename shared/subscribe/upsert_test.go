package subscribe

import (
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"

	"github.com/go-json-experiment/json/jsontext"
	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"pgregory.net/rapid"

	"github.com/edison-cars/data-feeds/shared/feed"
	"github.com/edison-cars/data-feeds/shared/postgres/pgtest"
	"github.com/edison-cars/data-feeds/sql"
)

// Upsert makes the rows that json_to_recordset makes, or fails where that does: by COPY as by a statement for each, of
// new rows and of those that are there.
func TestUpsert(t *testing.T) {
	t.Parallel()
	pool := pgtest.New(t, sql.Migrations("subscribe"))
	const columns = `"a text" text, n bigint, small integer, at timestamptz, b boolean, f numeric, u uuid, o json, j jsonb`
	all := []string{"a text", "n", "small", "at", "b", "u", "o", "j", "f"}
	const more = `, other int not null default 7, gone text default 'x')`
	exec(t, pool, `create table want (id uuid primary key, version bigint not null, `+columns+more)
	exec(t, pool, `create table got (id uuid primary key, version bigint not null, `+columns+more)
	conn, err := pool.Acquire(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Release()
	good := map[string][]string{ // of which COPY takes each in binary
		"a text": {`"plain"`, `""`, `"\\N"`, `"\\."`, `"tab\tline\r\nback\\slash\b\f \"é\u00e9 \ud83d\ude97/ \/"`, `12.50`, `true`, `[1, "\\n"]`, `{"x":  null}`},
		"n":      {`1`, `-9223372036854775808`, `-0`}, "small": {`2147483647`, `-1`}, "b": {`true`, `false`},
		"at": {`"2026-11-23T20:00:00.123456Z"`, `"0001-01-01T00:00:00Z"`, `"9999-12-31T23:59:59.9Z"`},
		"u":  {`"6ba7b810-9dad-11d1-80b4-00c04fd430c8"`, `"6BA7B810-9DAD-11D1-80B4-00C04FD430C8"`},
		"o":  {`{"x":  1, "x": 2}`, `"text"`, `[]`, `"a\\b\tc"`}, "j": {`{"x":  [1, "a\\\\b\n"]}`, `"1"`, `1`, `true`, `[null]`},
	}
	odd := map[string][]string{
		"n": {`"42"`, `" 7 "`}, "small": {`"-1"`}, "b": {`"yes"`, `"false"`}, "f": {`1.50`, `12345678901234567890`, `"NaN"`},
		"at": {`"2026-11-23T20:00:00+05:30"`, `"2026-11-23T20:00:00.1234567Z"`, `"2026-11-23T23:59:60Z"`, `"2026-11-23T24:00:00Z"`, `"infinity"`, `"2026-11-23"`},
		"u":  {`"{6ba7b810-9dad-11d1-80b4-00c04fd430c8}"`, `"6ba7b8109dad11d180b400c04fd430c8"`},
	}
	bad := []string{`"thing\u0000"`, `{"a":"\u0000"}`, `"12 apples"`, `99999999999999999999`, `2147483648`, `1.5`, `"\ud800"`, `{"a":"\ud800"}`, "\"\xff\"",
		`"6ba7b810-9dad-11d1-80b4-00c04fd430cg"`, `"2026-02-30T00:00:00Z"`, `"0000-01-01T00:00:00Z"`, `"2026-11-23T20:00:00+24:00"`}
	rapid.Check(t, func(rt *rapid.T) {
		var entries []feed.Entry
		values, names := maps.Clone(good), all[:len(all)-1]
		oddly := rapid.Bool().Draw(rt, "odd")
		if oddly {
			names = all
			for name, more := range odd {
				values[name] = slices.Concat(good[name], more)
			}
		}
		wrong := rapid.IntRange(0, 5).Draw(rt, "wrong") == 0
		for n := range rapid.IntRange(1, 3*copyFrom).Draw(rt, "entities") {
			members := []string{fmt.Sprintf(`"id":%q`, numbered(n)), fmt.Sprintf(`"version":%d`, n)}
			for _, name := range names {
				value := "null"
				switch kind := rapid.IntRange(0, 12).Draw(rt, "kind"); {
				case kind == 0:
					continue // it is missing
				case wrong && kind < 3:
					value = rapid.SampledFrom(bad).Draw(rt, name)
					// json and text take these, though json_to_recordset does not.
					if strings.Contains(value, `\u`) && (name == "o" || name == "a text" && value[0] == '{') {
						continue
					}
				case kind > 1:
					value = rapid.SampledFrom(values[name]).Draw(rt, name)
				}
				if name == "n" && len(value) == 1 {
					name = `\u006e` // n
				}
				members = append(members, `"`+name+`":`+value, `"more":"`+name+`"`)
			}
			entity := []byte("{" + strings.Join(rapid.Permutation(members).Draw(rt, "members"), " ,\n") + "} ")
			entries = append(entries, feed.Entry{ID: numbered(n), Version: int64(n), Entity: entity})
		}
		try := func(do func(tx pgx.Tx) error) error {
			err := pgx.BeginFunc(t.Context(), pool, do)
			if err != nil && !badData(err) {
				rt.Fatal(err)
			}
			return err
		}
		exec(rt, pool, `truncate want; truncate got`)
		wantErr := try(func(tx pgx.Tx) error {
			_, err := tx.Exec(t.Context(), `insert into want (id, version, "a text", n, small, at, b, f, u, o, j)
				select * from json_to_recordset($1) as e (id uuid, version bigint, `+columns+`)`, string(NewBatch(entries).JSON()))
			return err
		})
		upsert := func(stored map[uuid.UUID]int64, entries ...feed.Entry) error {
			batch := NewBatch(entries)
			batch.stored = stored
			return try(func(tx pgx.Tx) error { return batch.Upsert(t.Context(), tx, "got", names...) })
		}
		wantSame := func(way string, err error) {
			if (err == nil) != (wantErr == nil) {
				rt.Fatalf("%s: %v; json_to_recordset: %v", way, err, wantErr)
			}
			if n := count(t, pool, `select count(*) from (select want::text from want except all select got::text from got) as x`); n != 0 && err == nil {
				rt.Fatalf("%s: %d rows are not as json_to_recordset makes them", way, n)
			}
			if a, b := count(t, pool, `select count(*) from want`), count(t, pool, `select count(*) from got`); a != b {
				rt.Fatalf("%s: %d rows, not %d", way, b, a)
			}
		}
		if !oddly && !wrong {
			u, err := newUpsert(t.Context(), conn.Conn(), "got", names)
			if err == nil {
				_, err = u.rows(nil, entries, u.appendBinary)
			}
			if err != nil {
				rt.Fatalf("%v", err)
			}
		}
		wantSame("new", upsert(map[uuid.UUID]int64{}, entries...))
		wantSame("there", upsert(nil, entries...))
		if wantErr != nil {
			return
		}
		exec(rt, pool, `update got set other = 8, "a text" = 'was', version = 1000; update want set other = 8`)
		half := map[uuid.UUID]int64{}
		for _, e := range entries[:len(entries)/2] {
			half[e.ID] = 1000
		}
		exec(rt, pool, `delete from got where not id = any($1)`, slices.Collect(maps.Keys(half)))
		exec(rt, pool, `update want set other = 7 where not id = any($1)`, slices.Collect(maps.Keys(half)))
		wantSame("some of each", upsert(half, entries...))
		if err := upsert(nil, append(slices.Clone(entries[1:]), feed.Entry{ID: entries[0].ID, Deleted: true})...); err != nil {
			rt.Fatal(err)
		}
		exec(rt, pool, `delete from want where id = $1`, entries[0].ID)
		wantSame("deleted", nil)
	})
}

// The members of what is valid JSON are those that a decoder finds; what is not is cut somehow.
func FuzzMembers(f *testing.F) {
	for _, seed := range []string{
		`{}`, ` { "a" : 1 , "b":[{"a":"]}"}, "\\", "\\\""], "c":"\"a\":","a":-1.5e3}`, `{"\u0061":null,"b":true}`, "{\"a\":\r\n\t{}}\n", `[]`, `"a"`, ``, `{"a`, `{"a":`, `{"a":}`, `{"a":[`, `{"a":"\`, `{,}`,
	} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, entity []byte) {
		u := &upsert{members: []string{"a", "b", "c"}}
		got := make([]jsontext.Value, 3)
		err := u.read(entity, got)
		var want map[string]json.RawMessage
		if !json.Valid(entity) || json.Unmarshal(entity, &want) != nil || want == nil {
			if json.Valid(entity) && err == nil {
				t.Error("this is no object")
			}
			return
		}
		for i, c := range u.members {
			if w := string(want[c]); string(got[i]) != w && (w != "null" || got[i] != nil) || err != nil {
				t.Errorf("%s: %q, want %q (%v)", c, got[i], w, err)
			}
		}
	})
}

// Of a few entries of a pure copy, which go in by one packet: what is not newer than the copy changes nothing, and
// nothing at all where the cursor was moved by somebody else, or a walk has begun.
func TestUpsertAtOnce(t *testing.T) {
	t.Parallel()
	s := newSource(t)
	pool := newCopier(t, s).pool
	c := s.copier(t, pool, 10, "name")
	t.Cleanup(c.fetcher.client.Close)
	s.put(t, 1, 4)
	s.remove(t, 4)
	c.mustPoll(t)
	c.wantUpToDate(t, s)
	at := c.stored(t)
	entry := func(n int, version int64, name string) feed.Entry {
		if name == "" {
			return feed.Entry{ID: numbered(n), Version: version, Deleted: true}
		}
		return feed.Entry{ID: numbered(n), Version: version, Entity: fmt.Appendf(nil, `{"name":%q}`, name)}
	}
	commit := func(from progress, entries ...feed.Entry) error {
		to := from
		to.cursor.Position += int64(len(entries))
		return c.applier.commit(t.Context(), &turn{entries: entries, from: from, to: to})
	}
	exec(t, pool, `update thing set version = 5`)
	if err := commit(at, entry(1, 4, "older"), entry(2, 5, "as old"), entry(3, 4, ""), entry(5, 1, "new")); err != nil {
		t.Fatal(err)
	}
	if n := count(t, pool, `select count(*) from thing where version = 5 and name ~ '^thing [123],' or version = 1 and name = 'new'`); n != 4 {
		t.Errorf("%v", c.things(t))
	}
	moved := c.stored(t)
	if err := commit(at, entry(1, 6, "newer")); !errors.Is(err, errFenced) {
		t.Errorf("the cursor was elsewhere: %v", err)
	}
	if err := c.resyncer.begin(t.Context(), "A test.", nil); err != nil {
		t.Fatal(err)
	}
	if err := commit(moved, entry(1, 6, "newer")); !errors.Is(err, errFenced) {
		t.Errorf("a walk had begun: %v", err)
	}
	if n := count(t, pool, `select count(*) from thing where name = 'newer'`); n != 0 || c.stored(t).cursor != moved.cursor {
		t.Errorf("%v", c.things(t))
	}
	c.mustPoll(t) // the walk
	c.wantUpToDate(t, s)
}

// A pure copy keeps the rows that it has in a newer version than a page that is otherwise new.
func TestNewerRowsBeforeTheirPage(t *testing.T) {
	t.Parallel()
	s := newSource(t)
	c := s.copier(t, newCopier(t, s).pool, 2*copyFrom, "name")
	t.Cleanup(c.fetcher.client.Close)
	for _, step := range []struct {
		there []int // what the copy has before the page comes
		next  func()
		kept  int // of that
	}{
		{nil, func() { s.put(t, 1, 40) }, 0},
		{nil, func() { s.put(t, 41, 80) }, 0},
		{[]int{100, 110}, func() { s.put(t, 81, 120) }, 2},
		{nil, func() { s.put(t, 121, 160) }, 2},
		{[]int{170}, func() { s.put(t, 161, 199); s.remove(t, 170) }, 3},
	} {
		for _, n := range step.there {
			exec(t, c.pool, `insert into thing (id, version, name) values ($1, 100, 'newer')`, numbered(n))
		}
		step.next()
		c.mustPoll(t)
		if n := count(t, c.pool, `select count(*) from thing where version = 100 and name = 'newer'`); n != step.kept {
			t.Errorf("%d newer rows are left, want %d", n, step.kept)
		}
	}
	if n, bad := count(t, c.pool, `select count(*) from thing`), count(t, c.pool, `select count(*) from rejected_entry`); n != 199 || bad != 0 {
		t.Errorf("%d things, %d rejected, want 199 and none", n, bad)
	}
}
