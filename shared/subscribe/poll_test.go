package subscribe

import (
	"errors"
	"fmt"
	"net/http"
	"slices"
	"testing"
	"testing/synctest"
	"time"
)

func TestPoll(t *testing.T) {
	t.Parallel()

	t.Run("a newcomer gets the whole history in pages", func(t *testing.T) {
		t.Parallel()
		s := newSource(t)
		s.put(t, 1, 35)
		c := newCopier(t, s)
		c.mustPoll(t)
		c.wantUpToDate(t, s)
		if !slices.Equal(c.applied, []int{10, 10, 10, 5}) {
			t.Errorf("batches of %v", c.applied)
		}
		asked := s.exchanges()
		if len(asked) != 4 || asked[0].query != "after=0&limit=10" {
			t.Errorf("asked %v", asked)
		}
		if at := c.stored(t); at.headPosition != 35 || at.asOf.IsZero() || at.lastSuccess.Before(at.asOf) {
			t.Errorf("progress %+v", at)
		}
	})

	t.Run("an empty feed makes an empty copy", func(t *testing.T) {
		t.Parallel()
		s := newSource(t)
		c := newCopier(t, s)
		c.mustPoll(t)
		c.wantUpToDate(t, s)
		if at := c.stored(t); at.asOf.IsZero() || c.applied != nil {
			t.Errorf("as of %v, applied %v", at.asOf, c.applied)
		}
	})

	t.Run("a page that grew since the last poll", func(t *testing.T) {
		t.Parallel()
		s := newSource(t)
		c := newCopier(t, s)
		for n := 1; n <= 25; n += 4 {
			s.put(t, n, n+3)
			c.mustPoll(t)
			c.wantUpToDate(t, s)
		}
		// Requests end on multiples of ten, wherever they start.
		if want := []int{4, 4, 2, 2, 4, 4, 4, 4}; !slices.Equal(c.applied, want) {
			t.Errorf("batches of %v, not %v", c.applied, want)
		}
	})

	t.Run("nothing new is answered 304 and costs one row", func(t *testing.T) {
		t.Parallel()
		s := newSource(t)
		s.put(t, 1, 3)
		c := newCopier(t, s)
		c.mustPoll(t) // the page
		c.mustPoll(t) // the empty page behind it, whose ETag is kept
		before, writes := c.stored(t), c.writes(t)
		s.exchanges()
		c.mustPoll(t)
		asked := s.exchanges()
		if len(asked) != 1 || asked[0].status != http.StatusNotModified || asked[0].etag != before.etag {
			t.Fatalf("asked %v with the ETag %s", asked, before.etag)
		}
		after := c.stored(t)
		if !after.asOf.After(before.asOf) || !after.lastSuccess.After(before.lastSuccess) {
			t.Errorf("as of %v, then %v; last success %v, then %v", before.asOf, after.asOf, before.lastSuccess, after.lastSuccess)
		}
		before.asOf, before.lastSuccess = after.asOf, after.lastSuccess
		if before != after {
			t.Errorf("more than the times changed: %+v, then %+v", before, after)
		}
		if got := c.writes(t) - writes; got != 1 {
			t.Errorf("%d rows written", got)
		}
		if len(c.applied) != 1 {
			t.Errorf("applied %v", c.applied)
		}
	})

	t.Run("an ETag goes with its own URL alone", func(t *testing.T) {
		t.Parallel()
		s := newSource(t)
		s.put(t, 1, 3)
		c := newCopier(t, s)
		c.mustPoll(t)
		c.mustPoll(t)
		if c.stored(t).etag == "" {
			t.Fatal("no ETag is kept")
		}
		s.exchanges()
		s.put(t, 4, 4)
		c.mustPoll(t)                      // its ETag does not match any more
		c.mustPoll(t)                      // a new URL
		c.mustPoll(t)                      // the same
		s.copier(t, c.pool, 7).mustPoll(t) // the same place in pages of another size
		var etags, statuses []any
		for _, e := range s.exchanges() {
			etags, statuses = append(etags, e.etag != ""), append(statuses, e.status)
		}
		if fmt.Sprint(etags) != "[true false true false]" || fmt.Sprint(statuses) != "[200 200 304 200]" {
			t.Errorf("conditional %v, answered %v", etags, statuses)
		}
		c.wantUpToDate(t, s)
	})

	t.Run("another page size between two runs", func(t *testing.T) {
		t.Parallel()
		s := newSource(t)
		s.put(t, 1, 23)
		c := newCopier(t, s)
		c.mustPoll(t)
		for _, size := range []int{7, 1000, 1, 10} {
			s.put(t, 20, 33)
			c = s.copier(t, c.pool, size)
			c.mustPoll(t)
			c.wantUpToDate(t, s)
		}
	})

	t.Run("two versions of one thing on one page", func(t *testing.T) {
		t.Parallel()
		s := newSource(t)
		s.put(t, 1, 2)
		s.put(t, 1, 1)
		s.put(t, 1, 1)
		c := newCopier(t, s)
		c.mustPoll(t)
		c.wantUpToDate(t, s)
		if !slices.Equal(c.applied, []int{2}) {
			t.Errorf("batches of %v", c.applied)
		}
	})

	t.Run("a thing that is deleted, on its own page and on a later one, and made again", func(t *testing.T) {
		t.Parallel()
		s := newSource(t)
		s.put(t, 1, 3)
		s.remove(t, 2)
		c := newCopier(t, s)
		c.mustPoll(t)
		c.wantUpToDate(t, s)
		s.remove(t, 3)
		c.mustPoll(t)
		c.wantUpToDate(t, s)
		s.put(t, 3, 3)
		c.mustPoll(t)
		c.wantUpToDate(t, s)
	})

	t.Run("an answer of a cache makes the copy as old as it is", func(t *testing.T) {
		t.Parallel()
		s := newSource(t)
		s.put(t, 1, 1)
		c := newCopier(t, s)
		s.setTamper(func(w http.ResponseWriter, r *http.Request, honest http.Handler) {
			w.Header().Set("Age", "3600")
			honest.ServeHTTP(w, r)
		})
		started := time.Now()
		c.mustPoll(t)
		at := c.stored(t)
		if age := started.Sub(at.asOf); age < 3599*time.Second || age > 3602*time.Second {
			t.Errorf("the copy is as of %v before", age)
		}
		if at.lastSuccess.Before(started.Truncate(time.Millisecond)) {
			t.Errorf("the last success was %v before", started.Sub(at.lastSuccess))
		}
		if got := c.status(time.Now()); got.State != Stale {
			t.Errorf("the state is %s", got.State)
		}
		s.setTamper(nil)
		c.mustPoll(t)
		if got := c.status(time.Now()); got.State != Fresh {
			t.Errorf("after another poll the state is %s", got.State)
		}
	})
}

// writes counts the rows that were written to the table subscription since the first call.
func (c *copier) writes(t testing.TB) (n int64) {
	t.Helper()
	exec(t, c.pool, `
		create table if not exists written (cursor text);
		create or replace function written() returns trigger language plpgsql as 'begin insert into written values (new.cursor); return null; end';
		create or replace trigger written after insert or update on subscription for each row execute function written()`)
	if err := c.pool.QueryRow(t.Context(), `select count(*) from written`).Scan(&n); err != nil {
		t.Fatal(err)
	}
	return n
}

// A poll that is asked for does not wait for another one that takes minutes, as of a source whose answer drips.
func TestPollBehindAnother(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		p, err := newPoller(nil, Options{Name: "test", Logger: discard}, Feed{Name: "things", URL: "http://source.example/feeds/things", Schedule: "@every 5s"})
		if err != nil {
			t.Fatal(err)
		}
		p.state.assume(rolePolling)
		began := time.Now()
		if err := p.requests.pollNow(t.Context()); !errors.Is(err, ErrBusy) {
			t.Errorf("%v", err)
		}
		if took := time.Since(began); took > 10*time.Second {
			t.Errorf("it took %v", took)
		}
		p.state.nextPoll = time.Now().Add(time.Second)
		if asked, next := p.requests.take(), p.state.due(time.Now(), time.Time{}); len(asked) > 0 || next.IsZero() {
			t.Error("what nobody waits for any more is due")
		}

		asked := make(chan error)
		go func() { asked <- p.requests.pollNow(t.Context()) }()
		synctest.Wait()
		begun := p.requests.take()
		time.Sleep(time.Minute)
		for _, outcome := range begun {
			outcome <- nil
		}
		if err := <-asked; err != nil {
			t.Errorf("a poll that has begun is not waited for: %v", err)
		}
	})
}
