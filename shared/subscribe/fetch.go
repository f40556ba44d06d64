package subscribe

import (
	"cmp"
	"context"
	"errors"
	"net"
	"net/http"
	"sync"
	"time"

	"github.com/edison-cars/data-feeds/shared/feed"
	"github.com/edison-cars/data-feeds/shared/feedclient"
)

// A fetcher asks the source for pages, each as large as the source and the copy bear.
type fetcher struct {
	*target
	state  *state
	client *feedclient.Client

	mu   sync.Mutex
	size pageSize
}

// A fetched page, or what came instead.
type fetched struct {
	feedclient.Request
	*feedclient.Answer
	err error
}

// fetch asks for page after page, each of size entries at most, until nothing is left, while those before are
// applied. It ends with ctx, and with an error.
func (fr *fetcher) fetch(ctx context.Context, r feedclient.Request, size func() int) <-chan fetched {
	pages := make(chan fetched, 1)
	go func() {
		defer close(pages)
		for {
			r.Limit = size()
			answer, err := fr.client.Get(ctx, r)
			if err != nil && ctx.Err() == nil {
				fr.shrink(r, err)
			}
			select {
			case pages <- fetched{r, answer, err}:
			case <-ctx.Done():
				return
			}
			if err != nil || answer.Page == nil || answer.Page.UpToDate {
				return
			}
			r.After, r.ETag, r.Wait = answer.Page.Cursor, "", 0
		}
	}()
	return pages
}

// limit is how many entries the next request asks for.
func (fr *fetcher) limit() int {
	set := fr.state.tuning().pageSize
	fr.mu.Lock()
	defer fr.mu.Unlock()
	return cmp.Or(fr.size.size, set)
}

// resize has the size of the next page follow from what became of the last one, given how many entries are set.
func (fr *fetcher) resize(change func(size *pageSize, set int)) {
	set := fr.state.tuning().pageSize
	fr.mu.Lock()
	defer fr.mu.Unlock()
	change(&fr.size, set)
}

// grow makes the next page up to twice as large, as far as is set.
func (fr *fetcher) grow() { fr.resize((*pageSize).grow) }

// halve makes the next request ask for half of so many entries.
func (fr *fetcher) halve(entries int) {
	fr.resize(func(size *pageSize, _ int) { *size = pageSize{size: max(entries/2, 1), unread: entries} })
}

// shrink makes the next request ask for half as much as the one that failed, where it may be for its size: the page may
// be larger than what a client or a proxy takes, or take the source too long. A failure that is no page tells that at
// once, any other one when it is not the first.
func (fr *fetcher) shrink(r feedclient.Request, err error) {
	if r.Wait == 0 && (errors.Is(err, feed.ErrPage) || fr.state.fails() > 0 && ofSize(err)) {
		fr.halve(r.Limit)
	}
}

// ofSize reports whether a request that asks for less may fare better.
func ofSize(err error) bool {
	if status, ok := errors.AsType[*feedclient.StatusError](err); ok {
		return status.Status >= http.StatusInternalServerError || status.Status == http.StatusRequestEntityTooLarge
	}
	network, ok := errors.AsType[*net.OpError](err)
	return !ok || network.Op != "dial"
}

// shownPage is the URL of a page without a password.
func (fr *fetcher) shownPage(r feedclient.Request) string {
	r.URL = fr.shownURL
	return r.PageURL()
}

// behind returns the progress behind a page.
func (fr *fetcher) behind(at progress, got fetched, took time.Duration, now time.Time) progress {
	to, done := at, got.Page == nil
	if page := got.Page; page != nil {
		done = page.UpToDate
		to.cursor, to.etag, to.etagURL = page.Cursor, got.Answer.ETag, fr.shownPage(got.Request)
		to.headPosition = page.Head.Position
		if page.Sealed && !page.UpToDate { // which does not tell, but that a full page follows
			to.headPosition = max(at.headPosition, page.Cursor.Position+int64(got.Limit))
		}
	}
	if done {
		to.asOf, to.lastSuccess = got.AsOf, now.UTC().Truncate(time.Millisecond)
		if got.Waits && took >= got.Wait && (got.Page == nil || len(got.Page.Entries) == 0) {
			to.asOf = to.asOf.Add(got.Wait) // for so long there was nothing new, at least
		}
		to.asOf = since(to.asOf, now) // the clock may have been set back meanwhile
	}
	return to
}

// A pageSize is how many entries to ask for, after a page that could not be had or applied.
type pageSize struct {
	size   int // 0: as many as is set
	unread int // entries that the last page was to have that could not be had, or was too much; 0: none is remembered
	since  int // pages that were copied since then, or since size has grown
}

// tryUnread is how many pages are copied before one as large as the last that could not be had is asked for again.
const tryUnread = 10

func (s *pageSize) grow(set int) {
	if s.since++; s.unread > 0 && 2*s.size >= s.unread {
		if s.since < tryUnread {
			return
		}
		s.unread = 0
	}
	s.since = 0
	if s.size *= 2; s.size >= set {
		s.size = 0
	}
}
