package publish

import (
	"context"
	"errors"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/edison-cars/data-feeds/shared/postgres/pgtest"
)

// versioned returns version n of an entity, of so many seconds after start.
func versioned(id uuid.UUID, n int64, seconds time.Duration) Entry {
	e := thing(id, n)
	e.Updated = start.Add(seconds * time.Second)
	return e
}

// The versions of one entity are 1, 2, 3 ..., and its times grow with them: what is not so, is refused as a whole.
func TestVersionsFollowEachOther(t *testing.T) {
	t.Parallel()
	pgtest.Slow(t, "many runs")
	for name, c := range map[string]struct {
		there, then []Entry // of an entity, whose id is to be filled in
		wrong       string  // "" means it is right
	}{
		"the next":                            {[]Entry{versioned(uuid.Nil, 1, 1)}, []Entry{versioned(uuid.Nil, 2, 2)}, ""},
		"a microsecond later":                 {[]Entry{versioned(uuid.Nil, 1, 1)}, []Entry{{Version: 2, Updated: start.Add(time.Second + time.Microsecond)}}, ""},
		"several at once":                     {nil, []Entry{versioned(uuid.Nil, 1, 1), versioned(uuid.Nil, 2, 2), versioned(uuid.Nil, 3, 3)}, ""},
		"a tombstone, and the entity is back": {[]Entry{versioned(uuid.Nil, 1, 1), {Version: 2, Updated: start.Add(2 * time.Second)}}, []Entry{versioned(uuid.Nil, 3, 3)}, ""},

		"the first is no 1":               {nil, []Entry{versioned(uuid.Nil, 2, 1)}, "version 2 of %s for feed \"things\" is the first of its entity: versions are 1, 2, 3 ..."},
		"a negative version":              {nil, []Entry{versioned(uuid.Nil, -1, 1)}, "version -1 of %s for feed \"things\" is the first of its entity: versions are 1, 2, 3 ..."},
		"a hole":                          {[]Entry{versioned(uuid.Nil, 1, 1)}, []Entry{versioned(uuid.Nil, 3, 3)}, "version 3 of %s for feed \"things\" comes after version 1 of its entity: versions are 1, 2, 3 ..."},
		"an older one":                    {[]Entry{versioned(uuid.Nil, 1, 1), versioned(uuid.Nil, 2, 2)}, []Entry{versioned(uuid.Nil, 1, 3)}, "version 1 of %s for feed \"things\" comes after version 2 of its entity: versions are 1, 2, 3 ..."},
		"the same again":                  {[]Entry{versioned(uuid.Nil, 1, 1)}, []Entry{versioned(uuid.Nil, 1, 2)}, "version 1 of %s for feed \"things\" comes after version 1 of its entity: versions are 1, 2, 3 ..."},
		"the same time":                   {[]Entry{versioned(uuid.Nil, 1, 1)}, []Entry{versioned(uuid.Nil, 2, 1)}, "version 2 of %s for feed \"things\" is of 2026-11-23 08:00:01, which is not later than 2026-11-23 08:00:01, the time of the version before it"},
		"within the same microsecond":     {[]Entry{versioned(uuid.Nil, 1, 1)}, []Entry{{Version: 2, Updated: start.Add(time.Second + 999)}}, "version 2 of %s for feed \"things\" is of 2026-11-23 08:00:01, which is not later than 2026-11-23 08:00:01, the time of the version before it"},
		"an earlier time":                 {[]Entry{versioned(uuid.Nil, 1, 1)}, []Entry{versioned(uuid.Nil, 2, 0)}, "version 2 of %s for feed \"things\" is of 2026-11-23 08:00:00, which is not later than 2026-11-23 08:00:01, the time of the version before it"},
		"a tombstone of an earlier time":  {[]Entry{versioned(uuid.Nil, 1, 1)}, []Entry{{Version: 2, Updated: start}}, "version 2 of %s for feed \"things\" is of 2026-11-23 08:00:00, which is not later than 2026-11-23 08:00:01, the time of the version before it"},
		"back as version 1":               {[]Entry{versioned(uuid.Nil, 1, 1), {Version: 2, Updated: start.Add(2 * time.Second)}}, []Entry{versioned(uuid.Nil, 1, 3)}, "version 1 of %s for feed \"things\" comes after version 2 of its entity: versions are 1, 2, 3 ..."},
		"a hole within a transaction":     {nil, []Entry{versioned(uuid.Nil, 1, 1), versioned(uuid.Nil, 3, 3)}, "version 3 of %s for feed \"things\" comes after version 1 of its entity: versions are 1, 2, 3 ..."},
		"twice in a transaction":          {nil, []Entry{versioned(uuid.Nil, 1, 1), versioned(uuid.Nil, 1, 2)}, "version 1 of %s for feed \"things\" comes after version 1 of its entity: versions are 1, 2, 3 ..."},
		"no version, and an earlier time": {[]Entry{versioned(uuid.Nil, 1, 1)}, []Entry{versioned(uuid.Nil, 0, 0)}, "version 2 of %s for feed \"things\" is of 2026-11-23 08:00:00, which is not later than 2026-11-23 08:00:01, the time of the version before it"},
		"no time, and a hole":             {[]Entry{versioned(uuid.Nil, 1, 1)}, []Entry{{Version: 3}}, "version 3 of %s for feed \"things\" comes after version 1 of its entity: versions are 1, 2, 3 ..."},
		"no time after the last one": {
			[]Entry{{Version: 1, Updated: time.Date(9999, 12, 31, 23, 59, 59, 999_999_000, time.UTC)}}, []Entry{{Version: 2}},
			"version 2 of %s for feed \"things\" is of 9999-12-31 23:59:59.999999, which is not later than 9999-12-31 23:59:59.999999, the time of the version before it",
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			pool := database(t)
			l := openLog(t, pool)
			appendAll(t, l, []Entry{thing(uuid.New(), 1)})
			for how, write := range map[string]func(...Entry) error{
				"Commit": func(entries ...Entry) error {
					change := NewChange()
					change.Exec(`insert into thing values (gen_random_uuid(), 1)`)
					change.Append(feedName, entries...)
					return l.Commit(t.Context(), change)
				},
				"InTx": func(entries ...Entry) error {
					return l.InTx(t.Context(), func(tx *Tx) error {
						tx.Append(feedName, entries...)
						_, err := tx.Exec(t.Context(), `insert into thing values (gen_random_uuid(), 1)`)
						return err
					})
				},
				"a log that does not know the head": func(entries ...Entry) error {
					other := deaf(t, pool)
					appendAll(t, l, []Entry{thing(uuid.New(), 1)})
					return other.InTx(t.Context(), func(tx *Tx) error { tx.Append(feedName, entries...); return nil })
				},
			} {
				id := uuid.New()
				for _, entries := range [][]Entry{c.there, c.then} {
					for i := range entries {
						entries[i].ID = id
					}
				}
				appendAll(t, l, c.there)
				before, rows := logged(t, pool), rowsOf(t, l)
				err := write(c.then...)
				if c.wrong == "" {
					if err != nil {
						t.Errorf("%s: %v", how, err)
					}
					continue
				}
				if want := strings.Replace(c.wrong, "%s", id.String(), 1); err == nil || err.Error() != want {
					t.Errorf("%s: %v\nwant: %s", how, err, want)
				}
				if refused, ok := errors.AsType[*EntryError](err); !ok || refused.ID != id || refused.Feed != feedName {
					t.Errorf("%s: the error is a %T", how, err)
				}
				after := logged(t, pool)
				if how == "a log that does not know the head" {
					after = after[:len(after)-1]
				}
				if len(after) != len(before) || rowsOf(t, l) != rows {
					t.Errorf("%s: something was written", how)
				}
			}
		})
	}
	t.Run("the UUID zero", func(t *testing.T) {
		t.Parallel()
		l := openLog(t, database(t))
		for how, write := range writers {
			want := `version 1 of 00000000-0000-0000-0000-000000000000 for feed "things" has the UUID zero, which is no entity's`
			if err := write(t.Context(), l, thing(uuid.Nil, 1)); err == nil || err.Error() != want {
				t.Errorf("%s: %v", how, err)
			}
		}
	})
}

// What is left out of an entry follows from the last version of its entity, whatever others append at the same time.
func TestLeftOut(t *testing.T) {
	t.Parallel()
	for how, write := range map[string]func(context.Context, *Log, Entry) error{
		"Commit": func(ctx context.Context, l *Log, e Entry) error {
			c := NewChange()
			c.Append(feedName, e)
			return l.Commit(ctx, c)
		},
		"InTx": func(ctx context.Context, l *Log, e Entry) error {
			return l.InTx(ctx, func(tx *Tx) error {
				tx.Append(feedName, e)
				return nil
			})
		},
	} {
		t.Run(how, func(t *testing.T) {
			t.Parallel()
			pool := database(t)
			logs := []*Log{openLog(t, pool), openLog(t, pool)}
			now, id, early := time.Now().Truncate(time.Microsecond), uuid.New(), uuid.New()
			if err := write(t.Context(), logs[0], Entry{ID: early, Payload: []byte(`{}`)}); err != nil {
				t.Fatal(err)
			}
			future := now.Add(time.Hour)
			appendAll(t, logs[0], []Entry{{ID: id, Version: 1, Updated: future, Payload: []byte(`{}`)}})
			const writes = 20
			errs := make(chan error)
			for n := range writes {
				go func() { errs <- write(t.Context(), logs[n%2], Entry{ID: id, Payload: []byte(`{}`)}) }()
			}
			for range writes {
				if err := <-errs; err != nil {
					t.Error(err)
				}
			}
			for i, row := range logged(t, pool)[1:] {
				if row.id != id || row.version != int64(i+1) {
					t.Errorf("entry %d is version %d", i+2, row.version)
				}
			}
			var first, last time.Time
			err := pool.QueryRow(t.Context(), `select min(updated), max(updated) from feed_entry`).Scan(&first, &last)
			if err != nil || first.Before(now) || first.After(time.Now()) || !last.Equal(future.Add(writes*time.Microsecond)) {
				t.Errorf("the times are %s and %s, and it is %s: %v", first, last, now, err)
			}
			appendAll(t, logs[0], []Entry{{ID: early}, {ID: early, Payload: []byte(`{}`)}})
			err = logs[1].InTx(t.Context(), func(tx *Tx) error {
				tx.Append(feedName, Entry{ID: early, Payload: []byte(`{}`)})
				tx.Erase(feedName, early, 0, time.Time{})
				return tx.Check(t.Context())
			})
			if log := logged(t, pool); err != nil || log[len(log)-1].version != 5 {
				t.Errorf("the erasure is version %d: %v", log[len(log)-1].version, err)
			}
		})
	}
}

func rowsOf(t *testing.T, l *Log) (n int) {
	t.Helper()
	if err := l.pool.QueryRow(t.Context(), `select count(*) from thing`).Scan(&n); err != nil {
		t.Fatal(err)
	}
	return n
}

// An erased entity goes on like any other, and another feed has versions of its own.
func TestVersionsAfterAnErasure(t *testing.T) {
	t.Parallel()
	pool := database(t)
	exec(t, pool, `select feed_create('others')`)
	l := openLog(t, pool)
	id := uuid.New()
	appendAll(t, l, []Entry{versioned(id, 1, 1), versioned(id, 2, 2)})
	erase := func(version int64, seconds int) error {
		change := NewChange()
		change.Erase(feedName, id, version, start.Add(time.Duration(seconds)*time.Second))
		return l.Commit(t.Context(), change)
	}
	for _, wrong := range []error{erase(2, 3), erase(4, 3), erase(3, 2)} {
		if _, ok := errors.AsType[*EntryError](wrong); !ok {
			t.Errorf("%v", wrong)
		}
	}
	if err := erase(3, 3); err != nil {
		t.Fatal(err)
	}
	for version := int64(1); version < 4; version++ {
		if err := l.Commit(t.Context(), put(versioned(id, version, 10))); err == nil {
			t.Errorf("version %d is taken after the erasure of version 3", version)
		}
	}
	if err := l.Commit(t.Context(), put(versioned(id, 4, 4))); err != nil {
		t.Error(err)
	}
	err := l.InTx(t.Context(), func(tx *Tx) error { tx.Append("others", versioned(id, 1, 0)); return nil })
	if err != nil {
		t.Error(err)
	}
}

// What comes with a bad entry in one packet is committed, and the bad one is told apart.
func TestBadVersionInAGroup(t *testing.T) {
	t.Parallel()
	pool := database(t)
	l := openLog(t, pool)
	old := uuid.New()
	appendAll(t, l, []Entry{versioned(old, 1, 1)})
	// The group waits for this one: it is sent as a whole.
	held, err := pool.Begin(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if _, err := held.Exec(t.Context(), `select from feed for update`); err != nil {
		t.Fatal(err)
	}
	const each = 20
	bad := []Entry{versioned(old, 3, 3), versioned(old, 2, 1), versioned(old, 1, 2), versioned(uuid.New(), 2, 2), versioned(uuid.Nil, 1, 1)}
	var all sync.WaitGroup
	var refused atomic.Int32
	for i := range each {
		all.Go(func() {
			if err := l.Commit(context.Background(), put(thing(numbered(i), 1))); err != nil {
				t.Errorf("a good one: %v", err)
			}
		})
		all.Go(func() {
			e := bad[i%len(bad)]
			change := NewChange()
			change.Append(feedName, e)
			err := l.Commit(context.Background(), change)
			if it, ok := errors.AsType[*EntryError](err); !ok || it.ID != e.ID || it.Version != e.Version {
				t.Errorf("version %d of %s: %v", e.Version, e.ID, err)
			}
			refused.Add(1)
		})
	}
	if err := held.Rollback(t.Context()); err != nil {
		t.Fatal(err)
	}
	all.Wait()
	if n := len(logged(t, pool)); n != 1+each || refused.Load() != each {
		t.Errorf("%d entries, want %d; %d were refused", n, 1+each, refused.Load())
	}
}

// Of several processes that make the same version, one succeeds, whatever they have read.
func TestOneVersionOfManyWriters(t *testing.T) {
	t.Parallel()
	pool := database(t)
	id := uuid.New()
	var logs []*Log
	for range 4 {
		logs = append(logs, openLog(t, pool))
	}
	for version := int64(1); version <= 10; version++ {
		var all sync.WaitGroup
		var won atomic.Int32
		for i, l := range logs {
			for _, how := range []string{"Commit", "InTx"} {
				all.Go(func() {
					e := versioned(id, version, 10*time.Duration(version)+time.Duration(i))
					change := NewChange()
					change.Append(feedName, e)
					var err error
					if how == "Commit" {
						err = l.Commit(context.Background(), change)
					} else {
						err = l.InTx(context.Background(), func(tx *Tx) error { tx.Append(feedName, e); return nil })
					}
					switch _, ok := errors.AsType[*EntryError](err); {
					case err == nil:
						won.Add(1)
					case !ok:
						t.Errorf("version %d, %s: %v", version, how, err)
					}
				})
			}
		}
		all.Wait()
		if won.Load() != 1 {
			t.Fatalf("version %d was taken %d times", version, won.Load())
		}
	}
	if n := len(logged(t, pool)); n != 10 {
		t.Errorf("%d entries", n)
	}
}

// The check goes by the index, though its plan was made when the log was short.
func TestCheckGoesByTheIndex(t *testing.T) {
	t.Parallel()
	pool := database(t)
	fill(t, openLog(t, pool), 3)
	exec(t, pool, `analyze feed_entry`)
	tx, err := pool.Begin(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = tx.Rollback(context.Background()) }()
	for range 10 { // from some time on, the plan is kept
		_, err := tx.Exec(t.Context(), `select feed_check_alone('things', array[row('things', 4, 'put', gen_random_uuid(), 1, now(), '', '', '', '')::feed_entry])`)
		if err != nil {
			t.Fatal(err)
		}
	}
	var scans, lookups int
	err = tx.QueryRow(t.Context(), `select seq_scan, idx_scan from pg_stat_xact_user_tables where relname = 'feed_entry'`).Scan(&scans, &lookups)
	if err != nil || scans > 0 || lookups < 10 {
		t.Errorf("%v; %d scans of the table, %d of an index", err, scans, lookups)
	}
}
