package follow

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"slices"
	"time"

	"github.com/edison-cars/data-feeds/shared/daemon"
	"github.com/edison-cars/data-feeds/shared/feed"
	"github.com/edison-cars/data-feeds/shared/feedclient"
)

const (
	maxBackoff    = 30 * time.Second
	maxRetryAfter = time.Hour // the longest Retry-After that is obeyed
	minPause      = time.Second
)

type follower struct {
	*options
	client  *feedclient.Client
	out     *printer
	checked *checker
	say     func(format string, args ...any)

	placed   bool        // at is set
	at       feed.Cursor // all entries before it are printed
	etag     string      // of the last answer for at
	upToDate bool
	news     bool // the last answer had entries
	waits    bool // the last answer says that the source supports long polls

	answered   bool   // at least once
	failures   int    // in a row
	complained string // the last failure that was reported; "" means none
	polls      bool   // it was reported that the source does not wait
}

func (f *follower) run(ctx context.Context) error {
	for {
		asked := time.Now()
		err := f.poll(ctx)
		var pause time.Duration
		switch {
		case errors.Is(err, errClosed):
			return err
		case ctx.Err() != nil:
			return f.stopped(ctx)
		case err != nil:
			if pause, err = f.failed(err); err != nil {
				return err
			}
		case !f.upToDate:
		case f.once:
			f.say("up to date at %s", f.at)
			return nil
		case f.wait > 0 && f.waits:
			if !f.news { // a source that answers a long poll early is not asked without a pause
				pause = min(minPause, f.every) - time.Since(asked)
			}
		default:
			if f.wait > 0 && !f.polls {
				f.polls = true
				f.say("the source does not wait for news: polling every %v", f.every)
			}
			pause = f.every
		}
		select {
		case <-ctx.Done():
			return f.stopped(ctx)
		case <-time.After(pause):
		}
	}
}

// stopped returns an error if --once was interrupted before the end of the feed.
func (f *follower) stopped(ctx context.Context) error {
	if f.once {
		return fmt.Errorf("stopped at %s, before it was up to date", f.at)
	}
	return ctx.Err()
}

func (f *follower) poll(ctx context.Context) error {
	if !f.placed {
		head, err := f.client.Head(ctx, f.url)
		if errors.Is(err, feed.ErrPage) {
			return noFeed(err)
		}
		if err != nil {
			return err
		}
		f.place(head)
	}
	r := feedclient.Request{URL: f.url, After: f.at, Limit: f.limit, History: f.history, ETag: f.etag, Wait: f.wait}
	back := f.failures > 0 // after failures, the first answer is reported at once
	if f.once || back {
		r.Wait = 0
	}
	answer, err := f.client.Get(ctx, r)
	if _, ok := errors.AsType[*feedclient.TypeError](err); ok {
		return noFeed(err)
	}
	if err != nil {
		return err
	}
	f.succeeded()
	f.waits = answer.Waits > 0 || back
	page := answer.Page
	if page == nil {
		f.upToDate, f.news = true, back
		return nil
	}
	if err := f.checked.check(&r, page); err != nil {
		return err
	}
	if err := f.out.print(ctx, page); err != nil {
		return err
	}
	f.at, f.upToDate, f.news, f.etag = page.Cursor, page.UpToDate, len(page.Entries) > 0 || back, ""
	if len(page.Entries) == 0 {
		f.etag = answer.ETag
	}
	return nil
}

// place sets where to begin in a feed that ends at head.
func (f *follower) place(head feed.Cursor) {
	f.placed, f.answered, f.etag = true, true, ""
	if f.after != nil {
		f.at = *f.after
		return
	}
	f.at = head
	f.say("from %s on, where %s ends; --after 0 prints the whole history", head, f.shown)
}

func (f *follower) succeeded() {
	if f.complained != "" {
		f.say("the source answers again")
	}
	f.answered, f.failures, f.complained = true, 0, ""
}

// failed reports a failure and returns the pause before the next try, or an error if another try is of no use.
func (f *follower) failed(err error) (time.Duration, error) {
	status, refused := errors.AsType[*feedclient.StatusError](err)
	switch {
	case errors.Is(err, feedclient.ErrDiverged) && f.after != nil:
		return 0, f.startAgain(status)
	case errors.Is(err, feedclient.ErrDiverged):
		f.say("%s is not in the source's history any more, as after the restore of a backup: what was printed may be gone there. "+
			"Going on from where it ends now", f.at)
		f.placed = false
		f.checked.versions.Purge() // they are of the other history
	case errors.Is(err, feed.ErrPage) && !errors.Is(err, io.ErrUnexpectedEOF): // that is a broken connection
		return 0, fmt.Errorf("%s BREAKS ITS PROMISES after %s: %w", f.shown, f.at, err)
	case refused && status.Status == http.StatusUnauthorized:
		return 0, fmt.Errorf("%s: %w The environment variable FEED_TOKEN takes the token", f.shown, err)
	case refused && !passing(status.Status), errors.Is(err, errNoFeed), errors.Is(err, errWrite), f.once && !f.answered:
		return 0, fmt.Errorf("%s: %w", f.shown, err)
	}
	f.failures++
	pause := min(time.Second<<min(f.failures-1, 5), maxBackoff)
	pause = pause/2 + rand.N(pause/2+1)
	if refused {
		pause += min(status.RetryAfter, maxRetryAfter)
	}
	if text := err.Error(); text != f.complained && !errors.Is(err, feedclient.ErrDiverged) {
		f.complained = text
		f.say("%s; trying again until it answers", text)
	}
	return pause, nil
}

// passing reports whether another try may succeed after the status.
func passing(status int) bool {
	return status >= 500 || slices.Contains([]int{http.StatusRequestTimeout, http.StatusTooEarly, http.StatusTooManyRequests}, status)
}

func (f *follower) startAgain(status *feedclient.StatusError) error {
	again := feedclient.Request{URL: f.shown, Limit: f.limit, History: status.History}
	return daemon.ExitWith(Diverged, fmt.Errorf("%s: %w\nThe source's history is not that of the cursor %s. To start again: follow '%s'", f.shown, status, f.at, again.PageURL()))
}
