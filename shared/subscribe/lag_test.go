package subscribe

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/edison-cars/data-feeds/shared/feed"
)

// The lag is what the source had beyond the copy when it last answered, also while a page is being applied, after one
// that could not be applied, and in the next process.
func TestLagOfPagesThatAreNotApplied(t *testing.T) {
	t.Parallel()
	s := newSource(t)
	c := newCopier(t, s)
	s.put(t, 1, 5)
	c.mustPoll(t)
	lag := func(c *copier) int64 { return c.status(time.Now()).LagEntries }
	if got := lag(c); got != 0 {
		t.Errorf("%d of an up-to-date copy", got)
	}

	s.put(t, 6, 30) // three pages, of which the last fails
	apply := c.Apply
	reached, goOn := make(chan struct{}), make(chan error)
	c.Apply = func(ctx context.Context, tx pgx.Tx, b *Batch) error {
		reached <- struct{}{}
		if err := <-goOn; err != nil {
			return err
		}
		return apply(ctx, tx, b)
	}
	polled := make(chan error)
	poll := func() { go func() { polled <- c.attempt() }() }
	poll()
	<-reached
	if got := lag(c); got != 25 {
		t.Errorf("%d while the first page is applied", got)
	}
	goOn <- nil
	<-reached
	if got := lag(c); got != 20 {
		t.Errorf("%d while the second page is applied", got)
	}
	goOn <- nil
	<-reached
	if got := lag(c); got != 10 {
		t.Errorf("%d while the third page is applied", got)
	}
	goOn <- errors.New("not now")
	for stop := false; !stop; { // the entries one by one, to find the bad ones
		select {
		case <-reached:
			goOn <- errors.New("not now")
		case err := <-polled:
			if err == nil {
				t.Error("applied")
			}
			stop = true
		}
	}
	if got := lag(c); got != 10 {
		t.Errorf("%d after the page was not applied", got)
	}
	c.row.storeFailing(t.Context())
	if next := s.copier(t, c.pool, 10); next.row.refresh(t.Context()) != nil || lag(next) != 10 {
		t.Errorf("%d in the next process", lag(next))
	}
	s.Close() // without an answer, the last one counts
	if err := c.attempt(); err == nil || lag(c) != 10 {
		t.Errorf("%d while the source is down, %v", lag(c), err)
	}
}

// A page that is passed on, as to a broker that takes nothing for now, counts as well.
func TestLagWhileAPageIsPassedOn(t *testing.T) {
	t.Parallel()
	s := newSource(t)
	l := newListener(t, s)
	s.put(t, 1, 3)
	var lag int64
	l.Entries = func(context.Context, *pgxpool.Pool, feed.Cursor, *feed.Page) error {
		lag = l.status(time.Now()).LagEntries
		return nil
	}
	if err := l.attempt(); err != nil || lag != 3 || l.status(time.Now()).LagEntries != 0 {
		t.Errorf("%d, then %d, %v", lag, l.status(time.Now()).LagEntries, err)
	}
}

// The lag grows also while a resync reads the feed.
func TestLagDuringAResync(t *testing.T) {
	t.Parallel()
	s := newSource(t)
	s.put(t, 1, 5)
	c := newCopier(t, s)
	c.mustPoll(t)
	if err := c.poller.resync(t.Context()); err != nil {
		t.Fatal(err)
	}
	s.put(t, 6, 25)
	c.Apply = func(context.Context, pgx.Tx, *Batch) error { return errors.New("not now") }
	if err := c.attempt(); err == nil || c.status(time.Now()).LagEntries != 20 {
		t.Errorf("%d, %v", c.status(time.Now()).LagEntries, err)
	}
	c.Apply = copyThings
	if err := c.attempt(); err != nil || c.status(time.Now()).LagEntries != 0 {
		t.Errorf("%d after it, %v", c.status(time.Now()).LagEntries, err)
	}
}
