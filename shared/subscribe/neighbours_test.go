package subscribe

import (
	"fmt"
	"testing"

	"github.com/edison-cars/data-feeds/shared/postgres/pgtest"
	"github.com/edison-cars/data-feeds/shared/publish"
)

// named returns the next version of the thing, under a name.
func (s *source) named(n int, name string) publish.Entry {
	e := s.version(n)
	e.Payload = fmt.Appendf(nil, `{"id":%q,"version":%d,"name":%q}`, e.ID, e.Version, name)
	return e
}

// Where the database refuses an entry for other ones, which are about to change, the entry is good.
func TestEntriesThatDependOnEachOther(t *testing.T) {
	t.Parallel()
	pgtest.Slow(t, "many databases")
	for name, columns := range map[string][]string{"by Apply": nil, "a pure copy": {"name"}} {
		for _, x := range []struct {
			name   string
			sql    string
			before []string // names of things 1, 2, ...
			after  func(s *source) []publish.Entry
			bad    []int
		}{
			{"a name that is given up by a later version, which is all that the page is read for", `alter table thing add unique (name)`, []string{"x", "z"},
				func(s *source) []publish.Entry {
					return []publish.Entry{s.named(1, "y"), s.named(3, "x"), s.named(1, "yy"), s.named(2, "zz")}
				}, nil},
			{"a chain of such names, and a bad one", `alter table thing add unique (name), add check (name <> 'bad')`, []string{"a", "b", "c"},
				func(s *source) []publish.Entry {
					return []publish.Entry{
						s.named(1, "1"), s.named(2, "2"), s.named(3, "3"), s.named(9, "bad"),
						s.named(4, "a"), s.named(1, "b"), s.named(2, "c"), s.named(3, "d"),
					}
				}, []int{9}},
			{"a row that refers to a later one, and a bad one", `
				alter table thing add unique (name), add check (name <> 'bad'), add of text generated always as (substring(name, 'of (.*)')) stored;
				alter table thing add foreign key (of) references thing (name) deferrable initially deferred`, []string{"x"},
				func(s *source) []publish.Entry {
					return []publish.Entry{s.named(2, "part of car"), s.named(3, "y"), s.named(9, "bad"), s.named(4, "car")}
				}, []int{9}},
			{"rows that exclude each other in order", `create extension if not exists btree_gist; alter table thing add exclude using gist (name with =)`, []string{"x"},
				func(s *source) []publish.Entry {
					return []publish.Entry{s.named(1, "y"), s.named(2, "x"), s.named(1, "yy")}
				}, nil},
		} {
			t.Run(x.name+", "+name, func(t *testing.T) {
				t.Parallel()
				s := newSource(t)
				c := s.copier(t, newCopier(t, s).pool, 10, columns...)
				t.Cleanup(c.fetcher.client.Close)
				exec(t, c.pool, x.sql)
				for i, name := range x.before {
					s.publish(t, s.named(i+1, name))
				}
				c.mustPoll(t)
				s.publish(t, x.after(s)...)
				c.mustPoll(t)
				c.wantRejected(t, s, "violates check constraint", x.bad...)
			})
		}
	}

	t.Run("when the feed is read again from its start, a name of what the source no longer has", func(t *testing.T) {
		t.Parallel()
		s := newSource(t)
		s.put(t, 1, 20)
		c := newCopier(t, s)
		exec(t, c.pool, `alter table thing add unique (name)`)
		c.mustPoll(t)
		s.publish(t, s.named(21, "x"), s.named(22, "y"))
		c.mustPoll(t)
		s.restored(t, 20)
		s.publish(t, s.named(31, "y"), s.named(32, "x"))
		c.mustPoll(t)
		c.wantWalked(t, s, 1)
		c.wantRejected(t, s, "")
	})

	t.Run("when the feed is read again from its start, all under other ids", func(t *testing.T) {
		t.Parallel()
		s := newSource(t)
		s.publish(t, s.named(1, "x"), s.named(2, "y"), s.named(3, "z"))
		c := newCopier(t, s)
		exec(t, c.pool, `alter table thing add unique (name)`)
		c.mustPoll(t)
		s.begin(t)
		s.publish(t, s.named(11, "x"), s.named(12, "y"), s.named(13, "z"))
		c.mustPoll(t)
		c.wantWalked(t, s, 1)
		c.wantRejected(t, s, "")
	})

	t.Run("when the feed is read again from its start, a deletion that waits for what follows", func(t *testing.T) {
		t.Parallel()
		s := newSource(t)
		s.publish(t, s.named(1, "a"), s.named(2, "b"), s.named(3, "part of b"))
		c := newCopier(t, s)
		exec(t, c.pool, `
			alter table thing add unique (name), add of text generated always as (substring(name, 'of (.*)')) stored;
			alter table thing add foreign key (of) references thing (name)`)
		c.mustPoll(t)
		s.begin(t)
		s.publish(t, s.named(1, "a"), s.named(3, "part of a"))
		c.mustPoll(t)
		c.wantWalked(t, s, 1)
		c.wantRejected(t, s, "")
	})
}
