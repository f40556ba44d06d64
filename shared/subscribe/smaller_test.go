package subscribe

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/edison-cars/data-feeds/shared/feed"
	"github.com/edison-cars/data-feeds/shared/postgres/pgtest"
)

// attempts polls until it succeeds, for as long as that may take, and returns how often.
func (c *copier) attempts(t *testing.T, most int) int {
	t.Helper()
	for n := 1; ; n++ {
		err := c.attempt()
		if err == nil {
			return n
		}
		if n == most {
			t.Fatal(err)
		}
	}
}

// larger has requests for more than so many entries fare so.
func larger(than int, fare tamper) tamper {
	return func(w http.ResponseWriter, r *http.Request, honest http.Handler) {
		if limit, _ := strconv.Atoi(r.URL.Query().Get("limit")); limit > than {
			fare(w, r, honest)
			return
		}
		honest.ServeHTTP(w, r)
	}
}

// A page that cannot be had is followed by a smaller one, of a walk, too; and where the larger ones can be had again,
// by larger ones.
func TestPagesThatAreTooLarge(t *testing.T) {
	t.Parallel()
	pgtest.Slow(t, "large pages")
	for name, fare := range map[string]tamper{
		"for the client":      tooLong,
		"as the source says":  answered(413, ""),
		"for its connections": resetAfter(900),
		"for the source":      answered(500, ""),
		"and are torn":        edited(func(body string) string { return body[:len(body)/2] }),
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := newSource(t)
			s.put(t, 1, 40)
			s.setTamper(larger(3, fare))
			c := newCopier(t, s)
			if n := c.attempts(t, 20); name == "as the source says" && n > 1 {
				t.Errorf("it has failed %d times", n-1)
			}
			c.wantUpToDate(t, s)
			c.resync(t)
			c.attempts(t, 20)
			c.wantWalked(t, s, 1)

			s.setTamper(larger(4, fare))
			s.put(t, 41, 90)
			c.attempts(t, 20)
			s.setTamper(nil)
			s.put(t, 91, 180)
			s.exchanges()
			c.mustPoll(t)
			c.wantUpToDate(t, s)
			if asked := s.exchanges(); len(asked) > 12 {
				t.Errorf("it asked for %v", asked)
			}
		})
	}
	t.Run("for a moment", func(t *testing.T) {
		t.Parallel()
		s := newSource(t)
		s.put(t, 1, 1200)
		s.setTamper(answered(503, ""))
		c := newCopier(t, s)
		for range 8 {
			if c.attempt() == nil {
				t.Fatal("it has polled")
			}
		}
		s.setTamper(nil)
		s.exchanges()
		c.mustPoll(t)
		c.wantUpToDate(t, s)
		asked := s.exchanges()
		last := asked[len(asked)-2]
		if !strings.HasSuffix(last.query, "limit=10") || len(asked) > 120+4*tryUnread {
			t.Errorf("it ended with %v after %d", last, len(asked))
		}
	})
}

// A feed that begins with more bad entries than a page can have.
func TestCheckBehindTheLargestPage(t *testing.T) {
	t.Parallel()
	pgtest.Slow(t, "large pages")
	s := newSource(t)
	s.put(t, 1, feed.MaxPageSize+120)
	c := newCopier(t, s)
	matches := regexp.MustCompile(`"name":"thing ([0-9]{1,3}|10[0-9]{2}), `)
	c.Check = func(e feed.Entry) error {
		if matches.Match(e.Entity) {
			return errors.New("name is no name")
		}
		return nil
	}
	c.attempts(t, 20)
	if at := c.stored(t); at.rejected != 1099 || len(c.things(t)) != 21 {
		t.Errorf("%d are rejected, and %d things are there", at.rejected, len(c.things(t)))
	}

	t.Run("and none that is good", func(t *testing.T) {
		c := s.copier(t, c.pool, 10)
		exec(t, c.pool, `truncate thing, rejected_entry; update subscription set cursor = '0'`)
		c.Check = func(feed.Entry) error { return errors.New("name is no name") }
		for range 3 * lookPages {
			if err := c.attempt(); err == nil {
				t.Fatal("it has polled")
			}
		}
		if at := c.stored(t); at.rejected > 0 || at.cursor.Position > 0 {
			t.Errorf("%d are rejected, at %s", at.rejected, at.cursor)
		}
		c.Check = nil
		c.mustPoll(t)
		c.wantUpToDate(t, s)
	})
}

// An entry may be of any time.
func TestRejectedOfAnyYear(t *testing.T) {
	t.Parallel()
	years := []string{"9999-12-31T23:59:59-05:00", "0000-01-01T00:00:00+05:00", "0001-01-01T00:00:00Z", "0002-01-01T00:00:00Z"}
	s := newSource(t)
	s.put(t, 1, 9)
	s.setTamper(edited(func(body string) string {
		modified := regexp.MustCompile(`"date_modified":"[^"]*"`).FindAllString(body, -1)
		for i, year := range years {
			body = strings.Replace(body, modified[i], `"date_modified":"`+year+`"`, 1)
		}
		return body
	}))
	c := newCopier(t, s)
	c.bans(t, "^thing [1-4], ")
	server := c.site(t, routeThings)
	c.mustPoll(t)
	var updated []string
	for _, e := range listed(t, server) {
		if e.Updated == nil {
			updated = append(updated, "")
		} else {
			updated = append(updated, e.Updated.Format(time.RFC3339))
		}
	}
	if want := []string{"9999-12-31T23:59:59Z", "", "", "0002-01-01T00:00:00Z"}; !slices.Equal(updated, want) {
		t.Error(fmt.Sprint(updated))
	}
	if resp, text := get(t, server.URL+"/subscriptions/things/rejected", "text/html"); resp.StatusCode != http.StatusOK {
		t.Errorf("%s: %s", resp.Status, text)
	}
}

// After a page that could not be applied, each page that could is followed by one twice as large; after one that could
// not be had, one of that size is asked for after some others.
func TestGrow(t *testing.T) {
	t.Parallel()
	grown := func(size, unread, pages int) (sizes []int) {
		p := pageSize{size: size, unread: unread}
		for range pages {
			p.grow(100)
			sizes = append(sizes, p.size)
		}
		return sizes
	}
	if got := grown(1, 0, 8); !slices.Equal(got, []int{2, 4, 8, 16, 32, 64, 0, 0}) {
		t.Errorf("%v", got)
	}
	if got := grown(12, 50, tryUnread+3); !slices.Equal(got, []int{24, 48, 48, 48, 48, 48, 48, 48, 48, 48, 48, 96, 0}) {
		t.Errorf("%v", got)
	}
}

// Apply may say that a batch is more than it takes at once. The poll goes on with smaller pages, and does not fail.
func TestTooMuch(t *testing.T) {
	t.Parallel()
	pgtest.Slow(t, "large pages")
	s := newSource(t)
	s.put(t, 1, 25)
	c := newCopier(t, s)
	apply := c.Apply
	c.Apply = func(ctx context.Context, tx pgx.Tx, b *Batch) error {
		if len(b.Entities) > 3 {
			return fmt.Errorf("plan them: %w", ErrTooMuch)
		}
		return apply(ctx, tx, b)
	}
	c.bans(t, "^thing 7, ")
	c.mustPoll(t)
	c.wantRejected(t, s, "banned", 7)
	c.Apply = func(context.Context, pgx.Tx, *Batch) error { return ErrTooMuch }
	s.put(t, 30, 31)
	err := c.poll(t.Context())
	if !errors.Is(err, ErrTooMuch) || !strings.Contains(err.Error(), "more than can be applied at once") || c.stored(t).rejected != 1 {
		t.Errorf("%d are rejected: %v", c.stored(t).rejected, err)
	}
}
