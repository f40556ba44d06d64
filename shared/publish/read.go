package publish

import (
	"context"
	"fmt"
	"net/http"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"github.com/edison-cars/data-feeds/shared/feed"
	"github.com/edison-cars/data-feeds/shared/web"
)

// readTimeout bounds the queries for one page. They do not end with the request: a client that leaves would cost the
// connection.
const readTimeout = web.RequestTimeout

// A selection is what a request asks of a feed.
type selection struct {
	view   feed.View
	cursor feed.Cursor // unused in the view Newest
	limit  int64       // of the view Replay: pages end on multiples of it
	few    bool        // of the view Newest: no more than limit
}

// A span is where a selection lies in the log as it is now: the entries after from, up to to.
type span struct {
	head     Head
	from, to int64
	end      feed.Cursor // at to
	updated  time.Time   // of the entry at to; zero at the head of the feed and at its start
	sealed   bool        // a full page, and the one after it is full too: its bytes are final
	// Archives are the full pages of 100. Each leads to the one before it, the newest view to the last sealed one before
	// its first entry.
	archive bool
	earlier *feed.Cursor // where the archive before the span starts; nil: there is none
	entries []feed.Entry // nil: they are to be read
}

// diverged is what locate gives for a cursor that the log does not contain.
type diverged struct{ lastFull feed.Cursor }

func (d *diverged) Error() string { return "the cursor is not of this history" }

// bounds places the selection in a feed of head entries. Replay pages end on multiples of limit, those of the
// view for people on multiples of 100, whatever the cursor: so all readers come to walk the same pages. The newest view
// holds what lies after the last sealed page of 100, or as few entries as are asked for.
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

// atHand gives the span of a selection at the end of the feed whose entries, if there are any, are in memory; nil for any other.
func (s selection) atHand(t *tip) *span {
	if s.view != feed.Replay {
		return nil
	}
	sp := &span{head: t.Head, end: t.cursor}
	if s.cursor == t.cursor {
		sp.from, sp.to = t.Position, t.Position
		return sp
	}
	sp.from, sp.to = s.bounds(t.Position)
	after := int64(len(t.recent)) - (t.Position - s.cursor.Position) // index of the first entry after the cursor
	if after < 1 || after > int64(len(t.recent)) || t.recent[after-1].Cursor != s.cursor || sp.to < t.Position || sp.to-sp.from == s.limit {
		return nil
	}
	sp.entries = t.recent[after:]
	return sp
}

// locate finds the selection in the log; *diverged if its cursor is of another history, errBehind if a standby may not have it yet,
// errUnapplied before what is erased is gone. ctx bounds it.
func (s *Source) locate(ctx context.Context, d feed.Description, sel selection) (*span, error) {
	full := int64(feed.PageSize)
	if sel.view == feed.Replay {
		full = sel.limit
	}
	c := sel.cursor.Position
	_, end := sel.bounds(1<<62 - 1) // where the page ends if it is full
	// One statement, one snapshot: the head, and the entries whose digests are needed.
	rows, err := s.log.pool.Query(ctx, `
		select f.position, f.digest, f.erasures, f.listed, `+isWhole+`, pg_is_in_recovery(), e.position, e.digest, e.updated
		  from feed f left join lateral (
		       select position, digest, updated from feed_entry
		        where feed = $1 and position = any (array[$2, $3, $2::bigint - $4, f.position / $4 * $4, (f.position / $4 - 2) * $4])) e on true
		 where f.name = $1`, d.Name, c, end, full)
	if err != nil {
		return nil, err
	}
	head, listed, recovering, places, err := collectPlaces(rows)
	switch {
	case err != nil:
		return nil, err
	case !s.log.follows(listed):
		return nil, errUnapplied
	}
	at, known := places[c]
	known = c == 0 || known && c <= head.Position && sel.cursor.Matches(at.digest)
	if t, _ := s.log.remembered(d.Name); recovering && (!known || t != nil && head.Position < t.Position) {
		return nil, errBehind
	}
	if !known {
		last := head.Position / full * full
		return nil, &diverged{feed.At(last, places[last].digest)}
	}
	sp := &span{head: *head}
	sp.from, sp.to = sel.bounds(head.Position)
	switch at := places[sp.to]; {
	case sp.to == head.Position:
		sp.end = head.Cursor()
	default:
		sp.end, sp.updated = feed.At(sp.to, at.digest), at.updated
	}
	if d.Personal { // nothing of it is ever final
		return sp, nil
	}
	isFull := sel.view == feed.Replay && sp.from%full == 0 && sp.to == sp.from+full
	sp.sealed = isFull && head.Position >= sp.to+full
	sp.archive = isFull && full == feed.PageSize
	if at := sp.from - feed.PageSize; at >= 0 && (sp.archive || sel.view == feed.Newest && !sel.few) {
		earlier := feed.At(at, places[at].digest)
		sp.earlier = &earlier
	}
	return sp, nil
}

type place struct {
	digest  feed.Digest
	updated time.Time
}

func collectPlaces(rows pgx.Rows) (head *Head, listed int64, recovering bool, places map[int64]place, err error) {
	places = map[int64]place{}
	var end, erasures, position *int64
	var whole bool
	var endDigest, digest []byte
	var updated *time.Time
	_, err = pgx.ForEachRow(rows, []any{&end, &endDigest, &erasures, &listed, &whole, &recovering, &position, &digest, &updated}, func() error {
		if !whole {
			return fmt.Errorf("%w Its log does not end at position %d: restore all tables of one dump", errIncomplete, *end)
		}
		head = &Head{*end, feed.Digest(endDigest), *erasures}
		if position != nil {
			places[*position] = place{feed.Digest(digest), updated.UTC()}
		}
		return nil
	})
	if err == nil && head == nil {
		err = fmt.Errorf("%w There is no such feed in it", errIncomplete)
	}
	return head, listed, recovering, places, err
}

// errChanged: between two looks at the log something was erased, or the database was restored.
var errChanged = &web.Problem{
	Status: http.StatusServiceUnavailable, Detail: "The feed changed while this page was read. Try again.", Header: http.Header{"Retry-After": {"1"}},
}

// entries reads the span, oldest first; errChanged if it is not any more what was located.
func (s *Source) entries(ctx context.Context, name string, sp *span) (entries []feed.Entry, err error) {
	if sp.entries != nil {
		return sp.entries, nil
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), readTimeout)
	defer cancel()
	err = s.log.erased(ctx, func() (err error) {
		entries, err = s.readEntries(ctx, name, sp)
		return err
	})
	return entries, err
}

func (s *Source) readEntries(ctx context.Context, name string, sp *span) (entries []feed.Entry, err error) {
	rows, err := s.log.pool.Query(ctx, `
		select position, kind, entity_id, version, updated, payload, digest, salt is null, (select erasures from feed where name = $1)
		  from feed_entry where feed = $1 and position > $2 and position <= $3 order by position`, name, sp.from, sp.to)
	if err != nil {
		return nil, err
	}
	var e feed.Entry
	var kind string
	var id uuid.UUID
	var payload, digest []byte
	var erasures *int64
	var found []uuid.UUID
	_, err = pgx.ForEachRow(rows, []any{&e.Position, &kind, &id, &e.Version, &e.Updated, &payload, &digest, &e.Erased, &erasures}, func() error {
		e.Cursor = feed.At(e.Position, feed.Digest(digest))
		// An erased payload is served as the tombstone that took it away.
		e.ID, e.Updated, e.Entity, e.Deleted = id, e.Updated.UTC(), payload, kind == kindDelete || payload == nil
		if !e.Deleted {
			found = append(found, id)
		}
		entries = append(entries, e)
		return nil
	})
	if err == nil && int64(len(entries)) != sp.to-sp.from {
		err = fmt.Errorf("the log has %d of them", len(entries))
	}
	if err == nil {
		err = s.log.notErased(name, found...)
	}
	if n := len(entries); err == nil && n > 0 && (erasures == nil || *erasures != sp.head.Erasures || entries[n-1].Cursor != sp.end) {
		err = errChanged
	}
	return entries, err
}
