package subscribe

import (
	"context"
	"errors"
	"io"
	"maps"
	"net/http"
	"net/http/httptest"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"pgregory.net/rapid"

	"github.com/edison-cars/data-feeds/shared/feed"
	"github.com/edison-cars/data-feeds/shared/feedclient"
	"github.com/edison-cars/data-feeds/shared/postgres/pgtest"
)

// compact compacts every entry that has a newer version. restored undoes it, and what was compacted before.
func (s *source) compact(t rapid.TB) {
	t.Helper()
	exec(t, s.pool, `create table if not exists backup as select * from feed_entry`)
	if _, err := s.log.Compact(context.Background(), "things", time.Hour); err != nil {
		t.Fatal(err)
	}
}

// denying is a source that says that the entry at a position is superseded.
func denying(position int) func(w http.ResponseWriter, r *http.Request, honest http.Handler) {
	entry := regexp.MustCompile(`("position":` + strconv.Itoa(position) + `,"version":\d+),("first":\d+,)?"entity":{[^}]*}`)
	head := regexp.MustCompile(`"head":("[^"]*")`)
	return func(w http.ResponseWriter, r *http.Request, honest http.Handler) {
		rec := httptest.NewRecorder()
		honest.ServeHTTP(rec, r)
		maps.Copy(w.Header(), rec.Header())
		w.Header().Del("Content-Length")
		w.WriteHeader(rec.Code)
		body := entry.ReplaceAllString(rec.Body.String(), `$1,"superseded":true`)
		_, _ = io.WriteString(w, head.ReplaceAllString(body, `"head":$1,"compacted":$1`))
	}
}

// copiers are of each kind: with Apply and without, by replay and by snapshot.
func copiers(t *testing.T, s *source, run func(t *testing.T, c *copier)) {
	for _, columns := range [][]string{nil, {"name"}} {
		for _, snapshot := range []bool{false, true} {
			c := newWalker(t, s, columns...)
			c.replays = !snapshot
			run(t, c)
		}
	}
}

// wantConfirmed fails the test unless nothing is left to be confirmed, after so many questions whether a place is still
// in the history.
func (c *copier) wantConfirmed(t testing.TB, s *source, questions int) {
	t.Helper()
	asked := 0
	for _, e := range s.exchanges() {
		if strings.Contains(e.query, "&limit=1&history=") {
			asked++
		}
	}
	if at := c.stored(t); !at.compacted.IsStart() || asked != questions {
		t.Errorf("%s is kept, and the source was asked %d times whether it has such a place, not %d", at.compacted, asked, questions)
	}
	if n := count(t, c.pool, `select (select count(*) from resynced_entity) + (select count(*) from skipped_entity)`); n != 0 {
		t.Errorf("%d rows are left", n)
	}
}

// onReplay calls do before the source answers each of the next requests but questions, with 1 for the first.
func (s *source) onReplay(do func(page int)) {
	var mu sync.Mutex
	page := 0
	s.setTamper(func(w http.ResponseWriter, r *http.Request, honest http.Handler) {
		mu.Lock()
		if !strings.Contains(r.URL.RawQuery, "&limit=1&") {
			if page++; page < 8 {
				do(page)
			}
		}
		mu.Unlock()
		honest.ServeHTTP(w, r)
	})
}

// pollOn polls until the source knows of its restore and the copy is up to date.
func (c *copier) pollOn(t testing.TB) {
	t.Helper()
	eventually(t, "the copy is up to date", func() bool {
		err := c.poll(t.Context())
		if err != nil && !errors.Is(err, feed.ErrPage) && !errors.Is(err, feedclient.ErrDiverged) {
			t.Fatal(err)
		}
		if at := c.stored(t); err != nil && at.generation > 1 {
			t.Errorf("after %v it is %+v", err, at)
		}
		return err == nil
	})
}

// cursor returns the cursor after a position.
func (s *source) cursor(t testing.TB, position int64) string {
	t.Helper()
	var digest []byte
	if err := s.pool.QueryRow(t.Context(), `select digest from feed_entry where position = $1`, position).Scan(&digest); err != nil {
		t.Fatal(err)
	}
	return feed.At(position, feed.Digest(digest)).String()
}

func TestSuperseded(t *testing.T) {
	t.Parallel()
	pgtest.Slow(t, "many databases")

	t.Run("is skipped, by a first copy, later polls and a resync", func(t *testing.T) {
		t.Parallel()
		s := newSource(t)
		s.put(t, 1, 25)
		for range 3 {
			s.put(t, 1, 20)
		}
		s.remove(t, 3)
		s.remove(t, 4)
		s.put(t, 4, 4) // its tombstone is superseded
		s.compact(t)
		s.put(t, 30, 31)
		copiers(t, s, func(t *testing.T, c *copier) {
			c.Check = func(e feed.Entry) error {
				if !e.Deleted && e.Entity == nil {
					return errors.New("neither deleted nor an entity")
				}
				return nil
			}
			questions := 0
			if c.replays { // a snapshot has the newest versions only
				questions = 1
			}
			c.mustPoll(t)
			c.wantUpToDate(t, s)
			c.wantConfirmed(t, s, questions)
			c.resync(t)
			c.mustPoll(t)
			c.wantWalked(t, s, 1)
			c.wantConfirmed(t, s, questions)
			if n := c.state.current().rejected; n != 0 {
				t.Errorf("%d entries are rejected", n)
			}
		})
	})

	t.Run("pages of nothing else move the cursor", func(t *testing.T) {
		t.Parallel()
		s := newSource(t)
		for range 5 {
			s.put(t, 1, 10)
		}
		s.compact(t)
		for _, columns := range [][]string{nil, {"name"}} {
			c := newWalker(t, s, columns...)
			c.replays = true
			s.failFrom(3)
			if err := c.poll(t.Context()); err == nil {
				t.Fatal("no error")
			}
			s.setTamper(nil)
			if at := c.stored(t); at.cursor.Position != 20 || at.compacted.Position != 50 || len(c.things(t)) != 0 {
				t.Errorf("progress %+v", at)
			}
			s.exchanges()
			c = s.copier(t, c.pool, 10, columns...) // a restart
			s.put(t, 11, 11)
			c.mustPoll(t)
			c.wantUpToDate(t, s)
			c.wantConfirmed(t, s, 1)
		}
	})

	t.Run("a restore loses what superseded a skipped entry", func(t *testing.T) {
		t.Parallel()
		for _, sold := range []int{0, 20} { // entries of the new history: it ends before or after the compaction
			for _, columns := range [][]string{nil, {"name"}} {
				s := newSource(t)
				s.put(t, 1, 40)
				s.put(t, 1, 5)
				s.compact(t)
				c := newWalker(t, s, columns...)
				c.replays = true
				s.onReplay(func(page int) {
					if page == 4 { // all copied entries are in both histories
						s.restored(t, 38)
						s.put(t, 51, 50+sold)
					}
				})
				c.pollOn(t)
				s.setTamper(nil)
				c.wantWalked(t, s, 1)
			}
		}
	})

	t.Run("a restore loses what superseded a skipped entry of a snapshot", func(t *testing.T) {
		t.Parallel()
		for _, columns := range [][]string{nil, {"name"}} {
			s := newSource(t)
			s.put(t, 1, 40)
			c := newWalker(t, s, columns...)
			s.onReplay(func(page int) {
				switch page {
				case 2:
					s.put(t, 1, 40)
					s.compact(t)
				case 5: // the snapshot is of the moment before
					s.restored(t, 40)
				}
			})
			c.pollOn(t)
			s.setTamper(nil)
			c.wantWalked(t, s, 1)
		}
	})

	t.Run("a restore loses what superseded an entry that a resync skipped", func(t *testing.T) {
		t.Parallel()
		for _, replay := range []bool{true, false} {
			s := newSource(t)
			s.put(t, 1, 40)
			c := newWalker(t, s)
			c.replays = replay
			c.mustPoll(t)
			c.resync(t)
			s.onReplay(func(page int) {
				switch page {
				case 2:
					s.put(t, 1, 40)
					s.compact(t)
				case 5:
					s.restored(t, 40)
				}
			})
			if err := c.poll(t.Context()); err == nil {
				t.Error("the resync ended")
			}
			s.setTamper(nil)
			if things := c.things(t); len(things) != 40 {
				t.Errorf("the copy has %d things meanwhile", len(things))
			}
			c.pollOn(t)
			c.wantWalked(t, s, 1)
		}
	})

	t.Run("another history is compacted, too", func(t *testing.T) {
		t.Parallel()
		s := newSource(t)
		s.put(t, 1, 40)
		s.put(t, 1, 5)
		s.compact(t)
		c := newCopier(t, s)
		s.onReplay(func(page int) {
			if page == 3 {
				s.restored(t, 38)
				s.put(t, 20, 40)
				s.compact(t)
			}
		})
		c.pollOn(t)
		s.setTamper(nil)
		c.wantWalked(t, s, 1)
	})

	t.Run("the same history is compacted again and again", func(t *testing.T) {
		t.Parallel()
		s := newSource(t)
		s.put(t, 1, 40)
		for _, columns := range [][]string{nil, {"name"}} {
			c := newWalker(t, s, columns...)
			s.onReplay(func(page int) {
				s.put(t, 1, 40)
				s.compact(t)
			})
			c.mustPoll(t)
			s.setTamper(nil)
			c.wantUpToDate(t, s)
			if at := c.stored(t); !at.compacted.IsStart() || at.generation != 1 {
				t.Errorf("progress %+v", at)
			}
		}
	})

	t.Run("a cache has the end of the feed from before the compaction", func(t *testing.T) {
		t.Parallel()
		s := newSource(t)
		s.put(t, 1, 15)
		c := newCopier(t, s)
		tail := httptest.NewRecorder()
		s.setTamper(func(w http.ResponseWriter, r *http.Request, honest http.Handler) {
			if !strings.HasPrefix(r.URL.RawQuery, "after=10-") {
				honest.ServeHTTP(w, r)
				return
			}
			maps.Copy(w.Header(), tail.Header())
			_, _ = w.Write(tail.Body.Bytes())
		})
		r := httptest.NewRequest(http.MethodGet, "/feeds/things?after="+s.cursor(t, 10)+"&limit=10", nil)
		r.Header.Set("Accept", feed.TypeJSONFeed)
		s.engine.ServeHTTP(tail, r)
		s.put(t, 1, 5)
		s.compact(t)
		for range 2 {
			if err := c.poll(t.Context()); !errors.Is(err, feed.ErrPage) {
				t.Fatalf("the error is %v", err)
			}
			if at := c.stored(t); !at.lastSuccess.IsZero() || at.resync.underWay {
				t.Errorf("progress %+v", at)
			}
		}
		s.setTamper(nil)
		c.mustPoll(t)
		c.wantUpToDate(t, s)
		c.wantConfirmed(t, s, 2)
	})

	t.Run("a version that was rejected", func(t *testing.T) {
		t.Parallel()
		s := newSource(t)
		s.put(t, 1, 5)
		c := newCopier(t, s)
		c.bans(t, "^thing 3, 0 ")
		c.mustPoll(t)
		c.wantRejected(t, s, "banned", 3)
		s.put(t, 3, 3)
		s.put(t, 3, 3)
		s.compact(t)
		if _, refused, err := (&Subscription{c.poller}).RetryAll(t.Context()); err != nil || refused != 1 {
			t.Errorf("refused %d, %v", refused, err)
		}
		c.mustPoll(t)
		c.wantUpToDate(t, s)
		c.wantConfirmed(t, s, 0)
		if at := c.stored(t); at.rejected != 0 {
			t.Errorf("%d are rejected", at.rejected)
		}
	})

	t.Run("a source that never sends the newer version", func(t *testing.T) {
		t.Parallel()
		s := newSource(t)
		s.put(t, 1, 5)
		c := newCopier(t, s)
		c.mustPoll(t)
		s.put(t, 6, 6)
		s.setTamper(denying(3))
		c.resync(t)
		c.mustPoll(t)
		c.wantWalked(t, s, 1)
	})

	t.Run("of an erased entity it says nothing", func(t *testing.T) {
		t.Parallel()
		s := newSource(t)
		s.put(t, 1, 5)
		s.put(t, 1, 3)
		s.compact(t)
		c := newCopier(t, s)
		exec(t, c.pool, `insert into erased_entity (service, feed, id) values ('test', 'things', $1)`, numbered(1))
		c.mustPoll(t)
		if _, has := c.things(t)[numbered(1)]; has {
			t.Error("it is there again")
		}
		exec(t, c.pool, `insert into thing values ($1, 1, 'again')`, numbered(1))
		c.resync(t)
		s.failFrom(2)
		c.mustPoll(t)
		if _, has := c.things(t)[numbered(1)]; has || len(c.things(t)) != 4 {
			t.Errorf("the copy has %v", c.things(t))
		}
	})
}

// An entity of the past is of the past, though its first versions were compacted before they were copied.
func TestPastOfSuperseded(t *testing.T) {
	t.Parallel()
	pgtest.Slow(t, "many databases")
	for _, way := range []string{"replay", "snapshot", "resync", "restore", "rejected"} {
		t.Run(way, func(t *testing.T) {
			t.Parallel()
			s := newSource(t)
			s.put(t, 1, 20)
			c := newCopier(t, s)
			c.Past, c.replays = true, way != "snapshot"
			past := map[uuid.UUID]bool{}
			c.Apply = func(ctx context.Context, tx pgx.Tx, b *Batch) error {
				for _, e := range b.Entities {
					if _, had := past[e.ID]; !had { // else Apply sees the row
						past[e.ID] = b.IsPast(e)
					}
				}
				return copyThings(ctx, tx, b)
			}
			s.failFrom(2) // the past is known, and nothing is copied
			if err := c.poll(t.Context()); err == nil {
				t.Fatal("no error")
			}
			s.put(t, 31, 45)
			supersede := func() {
				s.put(t, 1, 20)
				s.put(t, 31, 35)
				s.compact(t)
			}
			if way == "snapshot" {
				s.onReplay(func(page int) {
					if page == 2 { // the first page had them as they were
						supersede()
					}
				})
			} else {
				supersede()
			}
			switch way {
			case "rejected":
				c.bans(t, "^thing 7, ")
			case "resync":
				c.resync(t)
			}
			if way != "snapshot" {
				s.setTamper(nil)
			}
			if way == "restore" {
				s.onReplay(func(page int) {
					if page == 5 {
						s.restored(t, 38)
					}
				})
			}
			c.mustPoll(t)
			s.setTamper(nil)
			if way == "rejected" {
				exec(t, c.pool, `alter table thing drop constraint banned`)
				if _, _, err := (&Subscription{c.poller}).RetryAll(t.Context()); err != nil {
					t.Fatal(err)
				}
			}
			c.wantUpToDate(t, s)
			for n := 1; n <= 45; n++ {
				if was, has := past[numbered(n)]; has && was != (n <= 20) || !has && n <= 20 {
					t.Errorf("thing %d is of the past: %t", n, was)
				}
			}
			if n := count(t, c.pool, `select (select count(*) from resynced_entity) + (select count(*) from skipped_entity)`); n != 0 {
				t.Errorf("%d rows are left", n)
			}
		})
	}
}
