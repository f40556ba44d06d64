package subscribe

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"

	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/edison-cars/data-feeds/shared/feed"
	"github.com/edison-cars/data-feeds/shared/postgres/pgtest"
	"github.com/edison-cars/data-feeds/sql"
)

// newColumns is a process of the service that copies these columns of the source into a table with a schema.
func newColumns(t *testing.T, s *source, pool *pgxpool.Pool, columns ...string) *poller {
	t.Helper()
	p, err := newPoller(pool, Options{Name: "test", PageSize: 10, Logger: discard}, Feed{
		Name: "things", URL: s.feedURL(), Schedule: "@every 5s", Table: "shop.select", Columns: columns,
		Complete: func(e feed.Entry) error {
			if !bytes.Contains(e.Entity, []byte(`"color"`)) && strings.Contains(fmt.Sprint(columns), "color") {
				return errors.New(`lacks "color"`)
			}
			return nil
		},
	})
	if err == nil {
		err = p.create(t.Context())
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(p.fetcher.client.Close)
	return p
}

func TestColumns(t *testing.T) {
	t.Parallel()
	s := newSource(t)
	database := func(t *testing.T) *pgxpool.Pool {
		pool := pgtest.New(t, sql.Migrations("subscribe"))
		exec(t, pool, `create schema shop`)
		exec(t, pool, `create table shop.select (id uuid primary key, version bigint not null, title text, again text, color text)`)
		return pool
	}
	shown := func(t *testing.T, pool *pgxpool.Pool) string {
		t.Helper()
		var text string
		if err := pool.QueryRow(t.Context(), `
			select concat(count(*), ' ', count(title), ' ', count(again), ' ', count(color), ' ', (select generation from subscription)) from shop.select`).Scan(&text); err != nil {
			t.Fatal(err)
		}
		return text
	}
	painted := func(t *testing.T, from, to int) {
		t.Helper()
		for n := from; n <= to; n++ {
			e := s.version(n)
			e.Payload = []byte(`{"name": "a thing", "color": null}`)
			s.publish(t, e)
		}
	}
	want := func(t *testing.T, p *poller, rows string) {
		t.Helper()
		if err := p.poll(t.Context(), false); err != nil {
			t.Fatal(err)
		}
		if got := shown(t, p.pool); got != rows {
			t.Errorf("rows, titles, again, colors and generation are %s; want %s", got, rows)
		}
	}
	s.put(t, 1, 25)
	pool, fresh := database(t), database(t)

	first := newColumns(t, s, pool, "title=name")
	want(t, first, "25 25 0 0 1")
	want(t, newColumns(t, s, pool, "title=name"), "25 25 0 0 1")

	second := newColumns(t, s, pool, "again=name", "title=name")
	s.put(t, 1, 1)
	for range 2 { // it still runs, and holds the lease
		if err := first.poll(t.Context(), false); !errors.Is(err, errFenced) {
			t.Errorf("a process that does not know the new column: %v", err)
		}
	}
	want(t, second, "25 25 25 0 2")
	s.put(t, 2, 2)
	if err := first.poll(t.Context(), false); !errors.Is(err, errFenced) {
		t.Errorf("a process that does not know the new column, after the resync: %v", err)
	}
	want(t, newColumns(t, s, pool, "title=name"), "25 25 25 0 2")
	s.put(t, 2, 2)
	if err := second.poll(t.Context(), false); !errors.Is(err, errFenced) {
		t.Errorf("a process with other columns than the one that was started last: %v", err)
	}

	incomplete := func(t *testing.T, p *poller, at string) {
		t.Helper()
		before, rows := cursorOf(t, p), shown(t, p.pool)
		for range 2 {
			err := p.poll(context.Background(), false)
			if err == nil || !strings.Contains(err.Error(), at) || !strings.HasPrefix(err.Error(), "the copy pauses before the ") {
				t.Errorf("an entity lacks a member: %v", err)
			}
		}
		if cursorOf(t, p) != before || shown(t, p.pool) != rows {
			t.Error("the copy has moved")
		}
	}
	third := newColumns(t, s, pool, "title=name", "color")
	incomplete(t, third, `version 1 of the entity `+numbered(3).String()+`, at position 3, lacks "color"`)
	empty := newColumns(t, s, fresh, "title=name", "color")
	incomplete(t, empty, `at position 3, lacks "color"`)
	painted(t, 1, 25)
	s.remove(t, 4)
	want(t, third, "24 24 24 0 3") // null is a value
	want(t, empty, "24 24 0 0 2")
	s.put(t, 5, 5)
	incomplete(t, third, `version 3 of the entity `+numbered(5).String())
	want(t, newColumns(t, s, pool, "title=name"), "24 24 24 0 3")
}

func cursorOf(t *testing.T, p *poller) (cursor string) {
	t.Helper()
	if err := p.pool.QueryRow(t.Context(), `select cursor from subscription`).Scan(&cursor); err != nil {
		t.Fatal(err)
	}
	return cursor
}

// A process that was started later with another table gets all rows of it, though an earlier one still runs and holds
// the lease until it ends.
func TestAnotherTableWhileItRuns(t *testing.T) {
	t.Parallel()
	s := newSource(t)
	s.put(t, 1, 25)
	pool := pgtest.New(t, sql.Migrations("subscribe"))
	exec(t, pool, `create table one (id uuid primary key, version bigint not null); create table two (like one including all)`)
	begin := func(table string) *poller {
		p, err := newPoller(pool, Options{Name: "test", PageSize: 10, Logger: discard}, Feed{
			Name: "things", URL: s.feedURL(), Schedule: "@every 5s", Table: table, Columns: []string{},
		})
		if err == nil {
			err = p.create(t.Context())
		}
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(p.fetcher.client.Close)
		return p
	}
	rows := func(table string) int { return count(t, pool, `select count(*) from `+table) }
	first := begin("one")
	if err := first.poll(t.Context(), false); err != nil {
		t.Fatal(err)
	}
	second := begin("two")
	s.put(t, 26, 26)
	for range 3 {
		if err := first.poll(t.Context(), false); !errors.Is(err, errFenced) || rows("one") != 25 {
			t.Errorf("the process with the old table has %d rows: %v", rows("one"), err)
		}
	}
	if err := second.poll(t.Context(), false); err != nil || rows("two") != 26 {
		t.Errorf("the new table has %d rows: %v", rows("two"), err)
	}
	s.put(t, 27, 27)
	if err := first.poll(t.Context(), false); !errors.Is(err, errFenced) || rows("one") != 25 {
		t.Errorf("the process with the old table has %d rows: %v", rows("one"), err)
	}
	if err := second.poll(t.Context(), false); err != nil || rows("two") != 27 {
		t.Errorf("the new table has %d rows: %v", rows("two"), err)
	}
}

// A process with a new table takes over from one that still runs.
func TestTableChangesWhileItRuns(t *testing.T) {
	t.Parallel()
	s := newSource(t)
	s.put(t, 1, 25)
	pool := pgtest.New(t, sql.Migrations("subscribe"))
	exec(t, pool, `create table one (id uuid primary key, version bigint not null); create table two (like one including all)`)
	run := func(table string, columns ...string) *Subscriber {
		sub, err := New(t.Context(), pool, Options{Name: "test", PageSize: 10, Logger: discard}, Feed{
			Name: "things", URL: s.feedURL(), Schedule: "@every 1s", Table: table, Columns: append([]string{}, columns...),
		})
		if err != nil {
			t.Fatal(err)
		}
		ctx, stop := context.WithCancel(context.Background())
		var running sync.WaitGroup
		running.Go(func() { sub.Run(ctx) })
		t.Cleanup(func() {
			stop()
			running.Wait()
		})
		return sub
	}
	rows := func(table string) int { return count(t, pool, `select count(*) from `+table) }
	first := run("one")
	eventually(t, "the first table is filled", func() bool { return rows("one") == 25 })
	run("two")
	s.put(t, 26, 30)
	eventually(t, "the second table is filled", func() bool { return rows("two") == 30 })
	eventually(t, "the first process says that it does not copy", func() bool {
		st := first.Status()[0]
		return st.State == Stale && st.LastError != nil && strings.Contains(*st.LastError, "started later") && st.FailingSince != nil
	})
	exec(t, pool, `alter table two add name text`)
	run("two", "name")
	eventually(t, "the new column is filled", func() bool {
		return count(t, pool, `select count(name) from two`) == 30
	})
	s.put(t, 31, 31)
	eventually(t, "it goes on", func() bool { return rows("two") == 31 })
	// A dump of before the last one began is restored.
	exec(t, pool, `update subscription set columns = '{}', claims = claims - 1; update two set name = null`)
	s.put(t, 32, 32)
	eventually(t, "it goes on after a restore", func() bool {
		return count(t, pool, `select count(name) from two`) == 32
	})
	if n := rows("one"); n != 25 {
		t.Errorf("the first process has copied on, %d rows", n)
	}
}
