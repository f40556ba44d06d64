package subscribe

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"sync"
	"time"

	"github.com/edison-cars/data-feeds/shared/feed"
	"github.com/edison-cars/data-feeds/shared/feedclient"
)

// A fetcher requests pages from the source. It adapts their size to what the source and the copy can handle.
type fetcher struct {
	*target
	state  *state
	client *feedclient.Client
	schema seenSchema

	mu   sync.Mutex
	size pageSize
	got  received
}

// A received is what the source has sent since it was last asked for: see fetcher.received.
type received struct {
	requests, pages, entries int
	bytes                    int64
}

// A fetched is a page, or the error instead of one.
type fetched struct {
	feedclient.Request
	*feedclient.Answer
	err error
}

// fetch requests page after page, each of at most size entries, while the caller applies those before. It ends when
// nothing is left, with ctx, or with an error.
func (fr *fetcher) fetch(ctx context.Context, r feedclient.Request, size func() int) <-chan fetched {
	pages := make(chan fetched, 1)
	go func() {
		defer close(pages)
		for {
			r.Limit = size()
			answer, err := fr.client.Get(ctx, r)
			fr.count(answer)
			if tooLarge(err) && r.Limit > 1 {
				fr.halve(r.Limit)
				r.ETag = ""
				continue
			}
			if err != nil && ctx.Err() == nil && r.Snapshot != nil && r.Snapshot.Head.IsStart() && fr.mayReplay(err) {
				r.Snapshot = nil
				continue
			}
			if err != nil && ctx.Err() == nil {
				fr.shrink(r, err)
			}
			if err == nil && answer.Self != "" {
				fr.state.publishedAt(answer.Self)
			}
			if err == nil {
				err = fr.meetNeeds(ctx, r, answer)
			}
			select {
			case pages <- fetched{r, answer, err}:
			case <-ctx.Done():
				return
			}
			if err != nil || answer.Page == nil || answer.Page.UpToDate {
				return
			}
			r.Snapshot, r.After, r.ETag, r.Wait = answer.Page.More, answer.Page.Cursor, "", 0
		}
	}()
	return pages
}

// mayReplay reports whether a replay is to begin instead of a snapshot: the source offers none, or it has failed to
// before.
func (fr *fetcher) mayReplay(err error) bool {
	return errors.Is(err, feed.ErrNoSnapshot) || fr.state.fails() > 0 && ofSize(err)
}

// count notes a request and its answer; nil means that it failed.
func (fr *fetcher) count(answer *feedclient.Answer) {
	fr.mu.Lock()
	defer fr.mu.Unlock()
	fr.got.requests++
	if answer == nil {
		return
	}
	fr.got.bytes += answer.Bytes
	if answer.Page != nil {
		fr.got.pages++
		fr.got.entries += len(answer.Page.Entries)
	}
}

// received returns what the source has sent since the last call.
func (fr *fetcher) received() (got received) {
	fr.mu.Lock()
	defer fr.mu.Unlock()
	got, fr.got = fr.got, received{}
	return got
}

// limit returns the number of entries that the next request asks for.
func (fr *fetcher) limit() int {
	set := fr.state.tuning().pageSize
	fr.mu.Lock()
	defer fr.mu.Unlock()
	return cmp.Or(fr.size.size, set)
}

// resize changes the size of the next page. set is the size in the settings.
func (fr *fetcher) resize(change func(size *pageSize, set int)) {
	set := fr.state.tuning().pageSize
	fr.mu.Lock()
	defer fr.mu.Unlock()
	change(&fr.size, set)
}

// grow doubles the size of the next page, up to the size in the settings.
func (fr *fetcher) grow() { fr.resize((*pageSize).grow) }

// halve makes the next request ask for half as many entries.
func (fr *fetcher) halve(entries int) {
	fr.resize(func(size *pageSize, _ int) { *size = pageSize{size: max(entries/2, 1), unread: entries} })
}

// shrink makes the next request ask for half as many entries as the one that failed, if the size may be the reason: the
// page may be larger than a client or proxy accepts, or take the source too long. An answer that is no page, or that it
// is too large, shows that at once; any other failure only if it is not the first.
func (fr *fetcher) shrink(r feedclient.Request, err error) {
	if r.Wait == 0 && (errors.Is(err, feed.ErrPage) || tooLarge(err) || fr.state.fails() > 0 && ofSize(err)) {
		fr.halve(r.Limit)
	}
}

// tooLarge reports whether the source, or a proxy, has answered that the page is too large.
func tooLarge(err error) bool {
	status, ok := errors.AsType[*feedclient.StatusError](err)
	return ok && status.Status == http.StatusRequestEntityTooLarge
}

// ofSize reports whether a smaller page may succeed.
func ofSize(err error) bool {
	if status, ok := errors.AsType[*feedclient.StatusError](err); ok {
		return status.Status >= http.StatusInternalServerError || tooLarge(err)
	}
	network, ok := errors.AsType[*net.OpError](err)
	return !ok || network.Op != "dial"
}

// confirm returns the place at or before which all lies that superseded the entries which the copy has skipped, after a
// page that ends at a cursor. While there is one, the copy lacks older versions of entities, and if the source loses
// the newer ones, as in a restore, it does not send the older ones again. So before the copy counts as up to date, and
// before a later place counts instead, confirm asks whether the source still has that place in its history. If it has
// not, the error is feedclient.ErrDiverged.
func (fr *fetcher) confirm(ctx context.Context, skipped feed.Cursor, page *feed.Page, at feed.Cursor, upToDate bool) (feed.Cursor, error) {
	if page != nil {
		at = page.Cursor // in a snapshot, its head
		if page.Compacted.Position > skipped.Position {
			if err := fr.has(ctx, skipped, at); err != nil {
				return skipped, err
			}
			skipped = page.Compacted
		}
	}
	switch {
	case !upToDate:
		return skipped, nil
	case skipped.IsStart() || skipped == at:
		return feed.Cursor{}, nil
	}
	if err := fr.has(ctx, skipped, at); err != nil {
		return skipped, err
	}
	if skipped.Position >= at.Position { // at is of a page from a cache, or of a process that does not know it yet
		return skipped, fmt.Errorf("%w: the feed ends at %s, and was compacted at %s", feed.ErrPage, at, skipped)
	}
	return feed.Cursor{}, nil
}

// has returns an error unless the source has the cursor, and entries after it, in its history. Without entries, the
// answer may be from the memory of a process that does not know yet that the history is another one. The reader's own
// cursor keeps caches from answering that have a page of another history.
func (fr *fetcher) has(ctx context.Context, cursor, own feed.Cursor) error {
	if cursor.IsStart() {
		return nil
	}
	answer, err := fr.client.Get(ctx, feedclient.Request{URL: fr.URL, After: cursor, Limit: 1, History: own})
	if err == nil && len(answer.Page.Entries) == 0 {
		err = fmt.Errorf("%w: the feed ended at %s, where it was compacted", feed.ErrPage, cursor)
	}
	if err != nil {
		err = &unconfirmedError{err}
	}
	return err
}

// An unconfirmedError means that what superseded skipped entries was not found at the source.
type unconfirmedError struct{ error }

func (e *unconfirmedError) Unwrap() error { return e.error }

// shownPage returns the URL of a page without a password.
func (fr *fetcher) shownPage(r feedclient.Request) string {
	r.URL = fr.shownURL
	return r.PageURL()
}

// behind returns the progress after a page.
func (fr *fetcher) behind(at progress, got fetched, took time.Duration, now time.Time) progress {
	to, done := at, got.Page == nil
	if page := got.Page; page != nil && got.Snapshot != nil {
		to.place, to.etag, to.etagURL = placeAfter(page), "", ""
		to.headPosition = page.Cursor.Position
	} else if page != nil {
		done = page.UpToDate
		to.place, to.etag, to.etagURL = placeAfter(page), got.Answer.ETag, fr.shownPage(got.Request)
		to.headPosition = page.Head.Position
		if page.Sealed && !page.UpToDate { // a sealed page does not say where the feed ends, but a full page follows it
			to.headPosition = max(at.headPosition, page.Cursor.Position+int64(got.Limit))
		}
	}
	if done {
		to.asOf, to.lastSuccess = got.AsOf, now.UTC().Truncate(time.Millisecond)
		if took >= got.Waits && (got.Page == nil || len(got.Page.Entries) == 0) {
			to.asOf = to.asOf.Add(got.Waits) // for that long, at least, the source had nothing new
		}
		to.asOf = since(to.asOf, now) // the clock may have been set back meanwhile
	}
	return to
}

// A pageSize is the number of entries to ask for, after a page that could not be fetched or applied.
type pageSize struct {
	size   int // 0 means as many as the settings say
	unread int // size of the last page that could not be fetched or was too much; 0 means none
	since  int // pages copied since then, or since size has grown
}

// tryUnread is the number of pages after which a page of the size that failed is tried again.
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
