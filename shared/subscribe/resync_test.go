package subscribe

import (
	"context"
	"errors"
	"maps"
	"net"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/edison-cars/data-feeds/shared/feedclient"
	"github.com/edison-cars/data-feeds/shared/postgres/pgtest"
)

// resync asks for a walk, as a user does.
func (c *copier) resync(t testing.TB) {
	t.Helper()
	_, err := c.pool.Exec(context.Background(), `
		update subscription set resync_cursor = '0', resync_history = '0', resync_since = now(), resync_reason = 'by hand' where service = $1 and feed = $2`,
		c.service, c.Name)
	if err == nil {
		err = c.row.refresh(context.Background())
	}
	if err != nil {
		t.Fatal(err)
	}
}

// forgetPages makes the copy one that does not know the end of its feed, as if more were lost than it knows: see
// copiedPages.
func (c *copier) forgetPages(t testing.TB) { exec(t, c.pool, `delete from copied_page`) }

// wantWalked fails the test unless the copy is what the source has, after so many walks, of which nothing is left.
func (c *copier) wantWalked(t testing.TB, s *source, walks int) {
	t.Helper()
	c.wantUpToDate(t, s)
	at := c.stored(t)
	if at.resync.underWay || at.generation != 1+walks || at.resyncedAt.IsZero() || at.asOf.IsZero() {
		t.Errorf("in the end it is %+v", at)
	}
	if n := count(t, c.pool, `select count(*) from resynced_entity`); n > 0 {
		t.Errorf("%d rows of the walk are left", n)
	}
}

func TestWalk(t *testing.T) {
	t.Parallel()
	pgtest.Slow(t, "many databases")

	t.Run("what is deleted before the copy has it reaches Apply as a deletion", func(t *testing.T) {
		t.Parallel()
		s := newSource(t)
		s.put(t, 1, 5)
		c := newCopier(t, s)
		c.mustPoll(t)
		s.put(t, 6, 6)
		s.remove(t, 6)
		c.resync(t)
		var deleted []uuid.UUID
		c.Apply = func(ctx context.Context, tx pgx.Tx, b *Batch) error {
			deleted = append(deleted, b.Deleted...)
			return copyThings(ctx, tx, b)
		}
		c.mustPoll(t)
		c.wantWalked(t, s, 1)
		if !slices.Equal(deleted, []uuid.UUID{numbered(6)}) {
			t.Errorf("deleted: %v", deleted)
		}
	})

	t.Run("what the source no longer has reaches Apply as deletions, and all else again, in the order of the feed", func(t *testing.T) {
		t.Parallel()
		s := newSource(t)
		s.put(t, 1, 25)
		c := newCopier(t, s)
		c.mustPoll(t)
		c.forgetPages(t)
		s.restored(t, 20)
		s.put(t, 30, 32)
		s.remove(t, 7)
		var deleted []uuid.UUID
		var positions []int64
		c.Apply = func(ctx context.Context, tx pgx.Tx, b *Batch) error {
			deleted = append(deleted, b.Deleted...)
			for _, e := range b.Entities {
				positions = append(positions, e.Position)
				if e.Updated.IsZero() || e.Version < 1 {
					t.Errorf("an entry without time or version: %+v", e)
				}
			}
			return copyThings(ctx, tx, b)
		}
		c.mustPoll(t)
		c.wantWalked(t, s, 1)
		var gone []uuid.UUID
		for _, n := range []int{7, 21, 22, 23, 24, 25} {
			gone = append(gone, numbered(n))
		}
		byID := func(a, b uuid.UUID) int { return slices.Compare(a[:], b[:]) }
		slices.SortFunc(gone, byID)
		slices.SortFunc(deleted, byID)
		if !slices.Equal(deleted, gone) || len(positions) != 22 || !slices.IsSorted(positions) {
			t.Errorf("deleted %v, applied %v", deleted, positions)
		}
	})

	t.Run("a copy that is ahead of the source, in versions too", func(t *testing.T) {
		t.Parallel()
		s := newSource(t)
		s.put(t, 1, 10)
		s.put(t, 1, 10)
		s.put(t, 1, 10)
		c := newCopier(t, s)
		c.mustPoll(t)
		s.restored(t, 10)
		s.put(t, 5, 6)
		c.mustPoll(t)
		c.wantWalked(t, s, 1)
		if v := c.things(t)[numbered(5)].Version; v != 2 {
			t.Errorf("version %d", v)
		}
	})

	t.Run("a source that has lost everything", func(t *testing.T) {
		t.Parallel()
		s := newSource(t)
		s.put(t, 1, 25)
		c := newCopier(t, s)
		c.mustPoll(t)
		exec(t, s.pool, `with gone as (delete from feed_entry) update feed set marked_position = 0`)
		s.history = nil
		clear(s.versions)
		s.open(t)
		c.mustPoll(t)
		c.wantWalked(t, s, 1)
		s.put(t, 1, 12)
		c.mustPoll(t)
		c.wantUpToDate(t, s)
	})

	t.Run("by hand, while pages come", func(t *testing.T) {
		t.Parallel()
		s := newSource(t)
		s.put(t, 1, 60)
		c := newCopier(t, s)
		asked, grown := false, false
		s.setTamper(func(w http.ResponseWriter, r *http.Request, honest http.Handler) {
			if strings.HasPrefix(r.URL.Query().Get("after"), "40-") {
				if !asked {
					asked = true
					c.resync(t)
				} else if !grown {
					grown = true
					s.put(t, 50, 75)
				}
			}
			honest.ServeHTTP(w, r)
		})
		c.mustPoll(t)
		c.wantWalked(t, s, 1)
		if at := c.stored(t); !grown || at.resyncReason != "by hand" {
			t.Errorf("grown %t, reason %q", grown, at.resyncReason)
		}
		c.resync(t) // with nothing new
		c.mustPoll(t)
		c.wantWalked(t, s, 2)
	})

	t.Run("after a 410 that does not say where to start", func(t *testing.T) {
		t.Parallel()
		s := newSource(t)
		s.put(t, 1, 25)
		c := newCopier(t, s)
		c.mustPoll(t)
		c.forgetPages(t)
		s.restored(t, 20)
		s.put(t, 30, 45)
		s.setTamper(func(w http.ResponseWriter, r *http.Request, honest http.Handler) {
			answer := httptest.NewRecorder()
			honest.ServeHTTP(answer, r)
			if answer.Code == http.StatusGone {
				w.WriteHeader(http.StatusGone)
				return
			}
			maps.Copy(w.Header(), answer.Header())
			w.WriteHeader(answer.Code)
			_, _ = w.Write(answer.Body.Bytes())
		})
		s.exchanges()
		c.mustPoll(t)
		c.wantWalked(t, s, 1)
		if asked := s.exchanges(); asked[1].query != "after=0&limit=10" {
			t.Errorf("asked %v", asked)
		}
	})

	// Each breaks the end of the walk off: then all is as before, and the next poll ends it without reading again.
	for name, breakOff := range map[string]func(t *testing.T, c *copier) (mend func()){
		"the connection is lost in the commit": func(t *testing.T, c *copier) func() {
			exec(t, c.pool, `
				create function die() returns trigger language plpgsql as 'begin perform pg_terminate_backend(pg_backend_pid()); return null; end';
				create constraint trigger die after update on subscription deferrable initially deferred
					for each row when (new.generation > old.generation) execute function die()`)
			return func() { exec(t, c.pool, `drop trigger die on subscription`) }
		},
		"the connection is lost before": func(_ *testing.T, c *copier) func() {
			apply := c.Apply
			c.Apply = func(ctx context.Context, tx pgx.Tx, b *Batch) error {
				_, err := tx.Exec(ctx, `select pg_terminate_backend(pg_backend_pid())`)
				return errors.Join(err, apply(ctx, tx, b))
			}
			return func() { c.Apply = apply }
		},
		"every entry is refused": func(t *testing.T, c *copier) func() {
			exec(t, c.pool, `alter table thing add constraint banned check (version < 0) not valid`)
			return func() { exec(t, c.pool, `alter table thing drop constraint banned`) }
		},
	} {
		breaksOff := func(t *testing.T, whole bool) {
			t.Parallel()
			s := newSource(t)
			s.put(t, 1, 25)
			c := newCopier(t, s)
			c.mustPoll(t)
			copied, at := c.things(t), c.stored(t)
			if whole {
				c.forgetPages(t)
			}
			s.restored(t, 20)
			s.put(t, 30, 45)
			mend := breakOff(t, c)
			if err := c.poll(t.Context()); err == nil {
				t.Fatal("nothing failed")
			}
			if now := c.stored(t); !now.resync.underWay || now.cursor != at.cursor || now.generation != 1 || now.rejected > 0 || !maps.Equal(c.things(t), copied) {
				t.Errorf("it moved to %+v", now)
			}
			mend()
			s.exchanges()
			c.mustPoll(t)
			c.wantWalked(t, s, 1)
			if asked := s.exchanges(); len(asked) != 1 {
				t.Errorf("it asked again for %v", asked)
			}
		}
		t.Run(name, func(t *testing.T) { breaksOff(t, true) })
		t.Run(name+", of a lost end", func(t *testing.T) { breaksOff(t, false) })
	}

	t.Run("the answer to the commit is lost", func(t *testing.T) {
		t.Parallel()
		s := newSource(t)
		s.put(t, 1, 25)
		honest := newCopier(t, s)
		honest.mustPoll(t)
		var lose atomic.Bool
		config := honest.pool.Config()
		config.ConnConfig.DialFunc = func(ctx context.Context, network, addr string) (net.Conn, error) {
			conn, err := new(net.Dialer).DialContext(ctx, network, addr)
			return &lossyConn{conn, &lose}, err
		}
		pool, err := pgxpool.NewWithConfig(t.Context(), config)
		if err != nil {
			t.Fatal(err)
		}
		defer pool.Close()
		c := s.copier(t, pool, 10)
		defer c.fetcher.client.Close()
		s.restored(t, 20)
		s.put(t, 30, 45)
		times := 0
		c.Apply = func(ctx context.Context, tx pgx.Tx, b *Batch) error { // in a walk, only its end applies
			if times++; times == 1 {
				lose.Store(true)
			}
			return copyThings(ctx, tx, b)
		}
		if err := c.poll(t.Context()); err == nil {
			t.Fatal("it did not notice")
		}
		eventually(t, "it is there", func() bool { return honest.stored(t).generation == 2 })
		before := times
		c.mustPoll(t)
		c.wantWalked(t, s, 1)
		if times != before {
			t.Error("it was applied twice")
		}
	})

	t.Run("the stop breaks it off", func(t *testing.T) {
		t.Parallel()
		s := newSource(t)
		s.put(t, 1, 25)
		c := newCopier(t, s)
		c.mustPoll(t)
		c.resync(t)
		ctx, stop := context.WithCancel(t.Context())
		c.Apply = func(ctx context.Context, tx pgx.Tx, _ *Batch) error {
			stop()
			_, err := tx.Exec(ctx, `select pg_sleep(3600)`)
			return err
		}
		if err := c.poll(ctx); !errors.Is(err, context.Canceled) {
			t.Errorf("%v", err)
		}
		c = s.copier(t, c.pool, 10)
		c.mustPoll(t)
		c.wantWalked(t, s, 1)
	})

	t.Run("bad entries and bad deletions are taken down, the rest is as the source", func(t *testing.T) {
		t.Parallel()
		s := newSource(t)
		s.put(t, 1, 25)
		c := newCopier(t, s)
		c.mustPoll(t)
		c.forgetPages(t)
		s.restored(t, 20)
		s.put(t, 30, 45)
		c.bans(t, "^thing 3[12], ")
		exec(t, c.pool, `create table kept (thing uuid references thing)`)
		exec(t, c.pool, `insert into kept values ($1), ($2)`, numbered(24), numbered(25))
		exec(t, c.pool, `insert into rejected_entry (service, feed, entity_id, version, position, updated, entity, reason)
			values ('test', 'things', $1, 1, 1, now(), '{}', 'long ago')`, numbered(99)) // which there is no longer
		s.remove(t, 40)
		c.mustPoll(t)
		c.wantRejected(t, s, "violates ", 24, 25, 31, 32)
		if n := count(t, c.pool, `select count(*) from rejected_entry where entity is null`); n != 2 {
			t.Errorf("%d deletions are rejected", n)
		}
		exec(t, c.pool, `alter table thing drop constraint banned`)
		s.put(t, 24, 45) // things 24 and 25 begin over, with the version that the copy has of the lost ones
		c.mustPoll(t)
		c.wantUpToDate(t, s)
		c.wantRejected(t, s, "")
	})

	t.Run("its source goes away in the middle", func(t *testing.T) {
		t.Parallel()
		s := newSource(t)
		s.put(t, 1, 45)
		c := newCopier(t, s)
		c.mustPoll(t)
		copied := c.things(t)
		c.resync(t)
		s.setTamper(func(w http.ResponseWriter, r *http.Request, honest http.Handler) {
			if strings.HasPrefix(r.URL.Query().Get("after"), "20-") {
				resetAfter(1500)(w, r, honest)
				return
			}
			honest.ServeHTTP(w, r)
		})
		if err := c.poll(t.Context()); err == nil || errors.Is(err, feedclient.ErrDiverged) {
			t.Fatalf("%v", err)
		}
		if at := c.stored(t); at.resync.cursor.Position != 20 || !maps.Equal(c.things(t), copied) {
			t.Errorf("the walk is at %s", at.resync.cursor)
		}
		s.setTamper(nil)
		s.exchanges()
		c.mustPoll(t)
		c.wantWalked(t, s, 1)
		if asked := s.exchanges(); len(asked) != 3 {
			t.Errorf("it asked for %v", asked)
		}
	})
}
