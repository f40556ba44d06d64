package feedhttp

import (
	"context"
	"time"

	"github.com/google/uuid"

	"github.com/edison-cars/data-feeds/shared/feed"
	"github.com/edison-cars/data-feeds/shared/publish"
	"github.com/edison-cars/data-feeds/shared/web"
)

// readTimeout limits the queries for one page. They do not end with the request, since cancelling them would cost the
// connection.
const readTimeout = web.RequestTimeout

// A selection is the part of a feed that a request asks for.
type selection struct {
	view   feed.View
	cursor feed.Cursor // unused in the view Newest; of a snapshot: where the replay after it begins, or 0 on its first page
	from   uuid.UUID   // of a snapshot: the last entity before the page
	limit  int64       // in the view Replay: pages end on multiples of it
	few    bool        // in the view Newest: no more than limit
}

// A span is the place of a selection in the log as it is now: the entries after from, up to to.
type span struct {
	head     publish.Head
	from, to int64
	end      feed.Cursor // at to
	updated  time.Time   // of the entry at to; zero at the head of the feed and at its start
	sealed   bool        // the page and the one after it are full, so its bytes are final
	// archive says that the span is a full page of 100. Each archive links to the one before it, and the newest view to
	// the last sealed one before its first entry.
	archive bool
	earlier *feed.Cursor // where the archive before the span starts; nil means that there is none
	entries []feed.Entry // nil means that they have to be read
}

// A diverged is the error of locate for a cursor that the log does not contain.
type diverged struct{ lastFull feed.Cursor }

func (d *diverged) Error() string { return "the cursor is not of this history" }

// bounds returns the positions of the selection in a feed of head entries. Replay pages end on multiples of limit, and
// pages of the view for people on multiples of 100, whatever the cursor, so that all readers come to request the same
// pages. The newest view has the entries after the last sealed page of 100, or as few as are asked for.
func (s selection) bounds(head int64) (from, to int64) {
	switch {
	case s.view == feed.Replay:
		from = s.cursor.Position
		return from, min((from/s.limit+1)*s.limit, head)
	case s.view == feed.Older:
		to = max(s.cursor.Position-1, 0)
		return max(to-1, 0) / feed.PageSize * feed.PageSize, to
	case s.few:
		return max(head-s.limit, 0), head
	default:
		return max(head/feed.PageSize-1, 0) * feed.PageSize, head
	}
}

// atHand returns the span of a selection at the end of the feed whose entries are in memory, or nil for any other
// selection.
func (s selection) atHand(t *publish.Snapshot) *span {
	if s.view != feed.Replay {
		return nil
	}
	sp := &span{head: t.Head, end: t.Cursor()}
	if s.cursor == sp.end {
		sp.from, sp.to = t.Position, t.Position
		return sp
	}
	sp.from, sp.to = s.bounds(t.Position)
	after := int64(len(t.Recent)) - (t.Position - s.cursor.Position) // index of the first entry after the cursor
	if after < 1 || after > int64(len(t.Recent)) || t.Recent[after-1].Cursor != s.cursor || sp.to < t.Position || sp.to-sp.from == s.limit {
		return nil
	}
	sp.entries = t.Recent[after:]
	return sp
}

// locate finds the selection in the log. It returns *diverged if the cursor is of another history. ctx limits it.
func (s *Source) locate(ctx context.Context, d served, sel selection) (*span, error) {
	full := int64(feed.PageSize)
	if sel.view == feed.Replay {
		full = sel.limit
	}
	c := sel.cursor.Position
	_, end := sel.bounds(1<<62 - 1) // the end of the page if it is full
	at, err := s.log.Locate(ctx, d.inLog, sel.cursor, full, end, c-full)
	if err != nil {
		return nil, err
	}
	head, places := at.Head, at.Places
	if !at.Known {
		last := head.Position / full * full
		return nil, &diverged{feed.At(last, places[last].Digest)}
	}
	sp := &span{head: head}
	sp.from, sp.to = sel.bounds(head.Position)
	switch at := places[sp.to]; {
	case sp.to == head.Position:
		sp.end = head.Cursor()
	default:
		sp.end, sp.updated = feed.At(sp.to, at.Digest), at.Updated
	}
	if d.Personal { // no page of a personal feed is final
		return sp, nil
	}
	isFull := sel.view == feed.Replay && sp.from%full == 0 && sp.to == sp.from+full
	sp.sealed = isFull && head.Position >= sp.to+full
	sp.archive = isFull && full == feed.PageSize
	if at := sp.from - feed.PageSize; at >= 0 && (sp.archive || sel.view == feed.Newest && !sel.few) {
		earlier := feed.At(at, places[at].Digest)
		sp.earlier = &earlier
	}
	return sp, nil
}

// read returns the span with its entries, oldest first, and with what was compacted when they were read. It returns
// [publish.ErrChanged] if the span is no longer what was located.
func (s *Source) read(ctx context.Context, name string, sp *span) (_ *span, err error) {
	if sp.entries != nil {
		return sp, nil
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), readTimeout)
	defer cancel()
	full := *sp
	full.entries, full.head.Compaction, err = s.log.Entries(ctx, name, sp.from, sp.end, sp.head.Erasures)
	return &full, err
}
