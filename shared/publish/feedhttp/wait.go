package feedhttp

import (
	"context"
	"errors"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/edison-cars/data-feeds/shared/feed"
	"github.com/edison-cars/data-feeds/shared/publish"
	"github.com/edison-cars/data-feeds/shared/web"
)

const (
	maxWait     = 30 * time.Second
	heartbeat   = 15 * time.Second // of an event stream on which nothing happens
	streamWrite = 30 * time.Second // for the reader of a stream to take what is sent
	streamRetry = time.Second      // until a stream asks again a database that is down
	answerTime  = time.Second      // for the answer after a wait
)

// preferredWait returns how long the fields of Prefer let the answer wait (RFC 7240 section 4.3), at most 30 s, or 0 if
// they do not.
func preferredWait(fields []string) time.Duration {
	for item := range web.SplitQuoted(joined(fields), ',') {
		preference, _, _ := strings.Cut(item, ";")
		name, value, _ := strings.Cut(preference, "=")
		if !strings.EqualFold(strings.TrimSpace(name), "wait") {
			continue
		}
		seconds, err := strconv.ParseUint(strings.Trim(strings.TrimSpace(value), `"`), 10, 31)
		if err != nil {
			return 0
		}
		return min(time.Duration(seconds)*time.Second, maxWait)
	}
	return 0
}

// mayWait returns how long the answer to a request may wait, or 0 if it may not.
func (r *resource) mayWait(h http.Header) time.Duration {
	if r.timeout > 0 || h["Prefer"] == nil {
		return r.timeout
	}
	return preferredWait(h["Prefer"])
}

// wait holds the request until there is something that its client has not seen, for at most limit. If too many requests
// wait already, it answers at once, without Preference-Applied (RFC 7240 section 2 lets a server ignore a preference):
// a reader then polls on its schedule. With a timeout, whose client would ask again at once, it returns a 429 or 503. A
// deadline of the request shortens the wait, and the write deadline of the connection is extended over it.
func (s *Source) wait(w http.ResponseWriter, r *http.Request, res *resource, a *answer, limit time.Duration) (*answer, error) {
	ctx := r.Context()
	if deadline, ok := ctx.Deadline(); ok {
		limit = min(limit, (time.Until(deadline) - answerTime).Truncate(time.Second))
	}
	if limit <= 0 {
		return a, nil
	}
	applied := []string{"wait=" + strconv.Itoa(int(limit/time.Second))}
	if res.timeout > 0 {
		applied = nil
	}
	if !nothingNew(r.Header, res, a) {
		w.Header()["Preference-Applied"] = applied
		return a, nil
	}
	release, err := s.waiting.Take(web.ClientKey(r))
	switch {
	case err != nil && res.timeout > 0:
		return nil, err
	case err != nil:
		return a, nil
	}
	defer release()
	_ = http.NewResponseController(w).SetWriteDeadline(time.Now().Add(limit + streamWrite)) // the WriteTimeout of a server may be shorter
	w.Header()["Preference-Applied"] = applied
	timer := time.NewTimer(limit)
	defer timer.Stop()
	for over := false; !over && nothingNew(r.Header, res, a); {
		s.renderAhead(res, a.snapshot)
		select {
		case <-a.snapshot.Moved():
		case <-timer.C:
			over = true
		case <-web.Stopping(ctx): // also if the client may read no longer: the answer has nothing new for it
			return a, nil
		case <-ctx.Done():
			return nil, ctx.Err()
		}
		if a, err = s.answer(ctx, res, nil); err != nil {
			return nil, err
		}
	}
	return a, nil
}

// renderAhead renders the next answer, once for all that wait for it, while the commit of its entries is under way.
func (s *Source) renderAhead(res *resource, t *publish.Snapshot) {
	if res.Personal || res.awaited.Swap(t) == t {
		return
	}
	t.Foresee(func(next *publish.Snapshot) {
		if sp := res.selection.atHand(next); sp != nil {
			_, _ = s.coded(context.Background(), nil, &res.request, s.answerAt(res, next, sp)) // found by its tag if the commit succeeds
		}
	})
}

// nothingNew reports whether the answer would be a 304 or an empty page.
func nothingNew(h http.Header, res *resource, a *answer) bool {
	return notModified(h, a) || res.view == feed.Replay && a.from == a.to
}

// serveEvents streams the entries after a cursor, or those to come, as server-sent events. If the writer cannot flush,
// it answers 501. The stream ends when the client leaves, when the server stops, and when the history is another: the
// client's next request then gets the 410.
func (s *Source) serveEvents(w http.ResponseWriter, r *http.Request, res *resource) error {
	chunk, err := s.firstChunk(r, res)
	if err != nil {
		return err
	}
	a, err := s.answer(r.Context(), chunk, r)
	if err != nil {
		return err
	}
	release, err := s.streams.Take(web.ClientKey(r))
	if err != nil {
		return err
	}
	defer release()
	h := w.Header()
	h["Vary"] = varyBoth
	h.Set("Content-Type", feed.TypeEvents)
	h.Set("Cache-Control", "no-store")
	h.Set("X-Accel-Buffering", "no") // else nginx holds the events back
	if errors.Is(http.NewResponseController(w).Flush(), http.ErrNotSupported) {
		h.Del("X-Accel-Buffering")
		return web.Errorf(http.StatusNotImplemented, "This server cannot send event streams. Prefer: wait=30 gets new entries as soon.")
	}
	res.ok.Inc()
	if r.Method != http.MethodHead {
		s.events(w, r, chunk, a)
	}
	return nil
}

// firstChunk returns the part of the stream that begins where the request says.
func (s *Source) firstChunk(r *http.Request, res *resource) (*resource, error) {
	if id := r.Header.Get("Last-Event-ID"); id != "" {
		cursor, err := feed.ParseCursor(id)
		if err != nil {
			return nil, web.Errorf(http.StatusBadRequest, "The header field Last-Event-ID: %v.", err)
		}
		return s.chunk(&res.request, cursor), nil
	}
	switch res.view {
	case feed.Older:
		return nil, web.Errorf(http.StatusBadRequest, "The parameter before does not go with an event stream, which goes forward: after=CURSOR says from where.")
	case feed.Newest:
		t, err := s.log.Snapshot(r.Context(), res.inLog)
		if err != nil {
			return nil, err
		}
		return s.chunk(&res.request, t.Cursor()), nil
	}
	return s.chunk(&res.request, res.cursor), nil
}

// chunk returns the part of a stream that begins at the cursor. All streams that have come that far share it.
func (s *Source) chunk(r *request, cursor feed.Cursor) *resource {
	req := *r
	req.selection = selection{view: feed.Replay, cursor: cursor, limit: feed.PageSize}
	req.coding = codingIdentity
	k := key{described: r.described, path: s.url(&req), chunk: true}
	if res, ok := s.resources.Get(k); ok {
		return res
	}
	return s.keep(k, &req)
}

// events sends one chunk after another. chunk is the first one, and a says where it lies.
func (s *Source) events(w http.ResponseWriter, r *http.Request, chunk *resource, a *answer) {
	ctx, out := r.Context(), http.NewResponseController(w)
	send := func(body []byte) error {
		_ = out.SetWriteDeadline(time.Now().Add(streamWrite)) // a writer without deadlines has those of its server
		if _, err := w.Write(body); err != nil {
			return err
		}
		return out.Flush()
	}
	beat := time.NewTicker(heartbeat)
	defer beat.Stop()
	err := send([]byte("retry: 2000\n\n")) // milliseconds
	for sent := err; sent == nil; a, err = s.answer(ctx, chunk, nil) {
		var doc *cached
		if err == nil && a.from < a.to {
			doc, err = s.coded(ctx, r, &chunk.request, a)
		}
		var moved <-chan struct{}
		var again <-chan time.Time
		switch {
		case err != nil && web.StatusOf(err) == http.StatusGone:
			return
		case err != nil:
			again = time.After(streamRetry)
		case doc != nil:
			if sent = send(doc.body); sent == nil {
				chunk = s.chunk(&chunk.request, a.end)
			}
			continue
		default:
			moved = a.snapshot.Moved()
		}
		select {
		case <-moved:
		case <-again:
		case <-beat.C:
			sent = send([]byte(":\n\n"))
		case <-web.Stopping(ctx):
			return
		case <-ctx.Done():
			return
		}
	}
}
