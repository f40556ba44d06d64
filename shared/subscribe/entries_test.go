package subscribe

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/edison-cars/data-feeds/shared/feed"
	"github.com/edison-cars/data-feeds/shared/postgres/pgtest"
	"github.com/edison-cars/data-feeds/sql"
)

// A listener takes down every entry that it gets, in a database without a table for them.
type listener struct {
	*copier
	heard []string // "from: position of thing, version", and what else happened
	fail  error    // what it answers to the next page
}

func newListener(t *testing.T, s *source) *listener {
	t.Helper()
	l := &listener{copier: s.copier(t, pgtest.New(t, sql.Migrations("subscribe")), 4)}
	t.Cleanup(l.fetcher.client.Close)
	l.Apply, l.Table = nil, ""
	exec(t, l.pool, `update subscription set table_name = ''`)
	l.Entries = func(_ context.Context, _ *pgxpool.Pool, from feed.Cursor, page *feed.Page) error {
		if page.Entries[0].Position != from.Position+1 || page.Cursor.Position != from.Position+int64(len(page.Entries)) {
			t.Errorf("a page from %s to %s with %d entries", from, page.Cursor, len(page.Entries))
		}
		for _, e := range page.Entries {
			l.heard = append(l.heard, fmt.Sprintf("%d v%d deleted=%t", e.Position, e.Version, e.Deleted))
		}
		err := l.fail
		if l.fail = nil; err != nil {
			l.heard = append(l.heard, "failed")
		}
		return err
	}
	return l
}

// history is all that the source has published, as a listener hears it.
func (s *source) heard() (all []string) {
	for i, e := range s.history {
		all = append(all, fmt.Sprintf("%d v%d deleted=%t", i+1, e.Version, e.Payload == nil))
	}
	return all
}

func TestEntries(t *testing.T) {
	t.Parallel()

	t.Run("every version, in order, and nothing when there is nothing", func(t *testing.T) {
		t.Parallel()
		s := newSource(t)
		s.put(t, 1, 3)
		s.put(t, 1, 3)
		s.remove(t, 2)
		l := newListener(t, s)
		l.mustPoll(t)
		s.put(t, 1, 1)
		l.mustPoll(t)
		l.mustPoll(t)
		if want := s.heard(); !slices.Equal(l.heard, want) || l.stored(t).cursor != s.head(t).Cursor() {
			t.Errorf("heard %q, not %q; the cursor is %s", l.heard, want, l.stored(t).cursor)
		}
	})

	t.Run("after an error and a panic the page comes again", func(t *testing.T) {
		t.Parallel()
		s := newSource(t)
		s.put(t, 1, 6)
		l := newListener(t, s)
		l.fail = errors.New("the broker is down")
		err := l.poll(t.Context())
		if err == nil || !strings.Contains(err.Error(), "pass on the page after 0: the broker is down") || !strings.Contains(Outside.Trouble(err), "could not be passed on") || !l.stored(t).cursor.IsStart() {
			t.Errorf("%v, at %s", err, l.stored(t).cursor)
		}
		hear := l.Entries
		l.Entries = func(context.Context, *pgxpool.Pool, feed.Cursor, *feed.Page) error { panic("a bug") }
		if err := l.poll(t.Context()); err == nil || !strings.Contains(err.Error(), "entries panicked: a value of type string") {
			t.Error(err)
		}
		l.Entries = hear
		l.mustPoll(t)
		all := s.heard()
		if want := slices.Concat(all[:4], []string{"failed"}, all); !slices.Equal(l.heard, want) {
			t.Errorf("heard %q, not %q", l.heard, want)
		}
	})

	t.Run("another history begins at the first entry, and goes on where it was broken off", func(t *testing.T) {
		t.Parallel()
		s := newSource(t)
		s.put(t, 1, 6)
		l := newListener(t, s)
		l.mustPoll(t)
		s.restored(t, 3)
		s.put(t, 7, 9)
		l.heard = nil
		hear := l.Entries
		l.Entries = func(ctx context.Context, db *pgxpool.Pool, from feed.Cursor, page *feed.Page) error {
			if from.Position == 4 {
				l.fail, l.Entries = errors.New("not now"), hear
			}
			return hear(ctx, db, from, page)
		}
		if err := l.poll(t.Context()); err == nil || l.stored(t).resync.cursor.Position != 4 {
			t.Errorf("%v; the walk is at %s", err, l.stored(t).resync.cursor)
		}
		l.mustPoll(t)
		all := s.heard()
		if want := slices.Concat(all, []string{"failed"}, all[4:]); !slices.Equal(l.heard, want) {
			t.Errorf("heard %q, not %q", l.heard, want)
		}
		if at := l.stored(t); at.resync.underWay || at.generation != 2 || at.cursor != s.head(t).Cursor() {
			t.Errorf("in the end it is %+v", at)
		}
		l.resync(t)
		l.heard = nil
		l.mustPoll(t)
		if !slices.Equal(l.heard, all) || l.stored(t).generation != 3 {
			t.Errorf("heard %q", l.heard)
		}
	})
}
