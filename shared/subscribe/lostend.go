package subscribe

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"github.com/edison-cars/data-feeds/shared/feed"
	"github.com/edison-cars/data-feeds/shared/feedclient"
)

// A source that was restored, or failed over, may have lost the end of its feed and nothing else. Then a resync reads
// only what is behind the newest cursor of the copy that the source still has, and looks up those entities of the lost
// end that do not come again there. All else of the copy is what the source has.

// keptEntries is the number of a copy's last entries whose entities are known. If more are lost, a resync reads the whole
// feed.
const keptEntries = 10_000

// A copiedPage is a page that was applied: where it starts and ends, and the entities that its entries are of.
type copiedPage struct {
	after, cursor feed.Cursor
	ids           []uuid.UUID // in the order of the entries; uuid.Nil for one that does not say whose it is
}

// entityIDs returns the ids as copiedPage has them.
func entityIDs(entries []feed.Entry) []uuid.UUID {
	ids := make([]uuid.UUID, len(entries))
	for i := range entries {
		if e := &entries[i]; !e.Nameless() {
			ids[i] = e.ID
		}
	}
	return ids
}

// keep queues the statements that note a page that is applied, and forget those that are too old. The page from the
// start of the feed, or a snapshot, is left out: a resync from there reads the whole feed.
func (t *target) keep(b *pgx.Batch, page copiedPage) {
	if len(page.ids) == 0 || page.after.IsStart() {
		return
	}
	b.Queue(`
		insert into copied_page (service, feed, position, cursor, page_after, ids) values ($1, $2, $3, $4, $5, $6)
		on conflict (service, feed, position, cursor) do update set page_after = excluded.page_after, ids = excluded.ids`,
		t.service, t.Name, page.cursor.Position, page.cursor.String(), page.after.String(), page.ids)
	const seldom = keptEntries / 10
	if page.after.Position/seldom != page.cursor.Position/seldom {
		b.Queue(`delete from copied_page where service = $1 and feed = $2 and position <= $3`, t.service, t.Name, page.cursor.Position-keptEntries)
	}
}

// copiedPages returns the last pages that were applied, the newest first. Each starts where the next one ends. Positions
// up to past must stay known as they are.
func (t *target) copiedPages(ctx context.Context, end feed.Cursor, past int64) (pages []copiedPage, err error) {
	ctx, cancel := context.WithTimeout(ctx, readTimeout)
	defer cancel()
	rows, err := t.pool.Query(ctx, `
		select cursor, page_after, ids from copied_page where service = $1 and feed = $2 and position between $3 and $4`,
		t.service, t.Name, end.Position-keptEntries+1, end.Position)
	if err != nil {
		return nil, err
	}
	byEnd := map[feed.Cursor]copiedPage{}
	var cursor, after string
	var ids []uuid.UUID
	_, err = pgx.ForEachRow(rows, []any{&cursor, &after, &ids}, func() (err error) {
		page := copiedPage{ids: ids}
		ids = nil
		if page.cursor, err = feed.ParseCursor(cursor); err == nil {
			page.after, err = feed.ParseCursor(after)
		}
		byEnd[page.cursor] = page
		return err
	})
	for err == nil {
		page, has := byEnd[end]
		if !has || page.after.Position >= end.Position || page.after.Position < past {
			break
		}
		pages, end = append(pages, page), page.after
	}
	return pages, err
}

// A lostEnd is what the copy has and the source has lost.
type lostEnd struct {
	after, end feed.Cursor // the newest cursor of the copy that the source has, and that of the copy
	history    feed.Cursor // for the links of the resync
	ids        []uuid.UUID // of the entities that the copy has read of since
	entries    int64       // that are lost, as far as can be told: at least one
	entities   int         // that they are of
}

func (l *lostEnd) String() string {
	entries, entities := fmt.Sprintf("last %d entries", l.entries), fmt.Sprintf("%d entities are", l.entities)
	if l.entries == 1 {
		entries = "last entry"
	}
	if l.entities == 1 {
		entities = "1 entity is"
	}
	return "The source has lost the " + entries + " of the feed: " + entities + " set to what it has."
}

// seekLostEnd asks the source which cursors of the copy it still has: first those of one page ago, 2, 4, 8 and so on,
// then by halves. It returns nil if the source has none, or nothing is known of what came after it.
func (r *resyncer) seekLostEnd(ctx context.Context, at progress) (*lostEnd, error) {
	var past int64
	if at.past != nil {
		past = *at.past
	}
	pages, err := r.copiedPages(ctx, at.cursor, past)
	if err != nil {
		return nil, fmt.Errorf("read which pages the copy has: %w", err)
	}
	// No cache has a page of this parameter, since the cursor is lost: none answers with a page of the lost end.
	history := at.cursor
	if at.resync.underWay {
		history = at.resync.cursor // what was read since is lost, too
	}
	var shown *feed.Page             // what the source has after the newest cursor that it is known to have
	missing, known := -1, len(pages) // indexes of pages: the source has not, or has, the cursor before the page
	for known-missing > 1 {
		i := (missing + known) / 2
		if shown == nil {
			i = min(2*missing+2, len(pages)-1)
		}
		page, err := r.pageAfter(ctx, pages[i], history)
		switch {
		case err != nil:
			return nil, err
		case page == nil:
			missing = i
		default:
			known, shown = i, page
		}
	}
	if shown == nil {
		return nil, nil
	}
	first := pages[known] // some of its entries are lost, or all
	l := &lostEnd{after: first.after, end: at.cursor, history: history}
	same := 0
	for i, id := range entityIDs(shown.Entries) {
		if i == len(first.ids)-1 || id != first.ids[i] { // not all are the same, since the source has not the cursor after them
			break
		}
		same++
	}
	l.entries = at.cursor.Position - first.after.Position - int64(same)
	lost := map[uuid.UUID]bool{}
	for i, page := range pages[:known+1] {
		l.ids = append(l.ids, page.ids...)
		if i == known {
			page.ids = page.ids[same:]
		}
		for _, id := range page.ids {
			lost[id] = true
		}
	}
	delete(lost, uuid.Nil)
	l.entities = len(lost)
	return l, nil
}

// pageAfter returns what the source has in place of a page of the copy, or nil if it does not know where that starts.
func (r *resyncer) pageAfter(ctx context.Context, page copiedPage, history feed.Cursor) (*feed.Page, error) {
	limit := r.fetcher.limit() // by which pages end on the same multiples
	if len(page.ids) == 1 {
		limit = 1
	}
	request := feedclient.Request{URL: r.URL, After: page.after, Limit: limit, History: history}
	answer, err := r.fetcher.client.Get(ctx, request)
	r.fetcher.count(answer)
	switch {
	case errors.Is(err, feedclient.ErrDiverged):
		return nil, nil
	case err != nil:
		if ctx.Err() == nil {
			r.fetcher.shrink(request, err)
		}
		return nil, err
	}
	return answer.Page, nil
}

// diverged begins a resync after the source's answer gone, that its history is another one: of the lost end, if that is
// known, or else of the whole feed. err is the error that wraps gone.
func (r *resyncer) diverged(ctx context.Context, reason string, gone *feedclient.StatusError, err error) error {
	at, loadErr := r.row.load(ctx)
	if loadErr != nil {
		return loadErr
	}
	_, skipped := errors.AsType[*unconfirmedError](err)
	whole := r.Apply == nil || skipped || !at.compacted.IsStart() // it is not known of which entities the copy has skipped entries
	if at.resync.underWay {
		whole = at.resync.lost.IsStart()
	}
	var lost *lostEnd
	if !whole {
		if lost, err = r.seekLostEnd(ctx, at); err != nil {
			return err
		}
	}
	if lost == nil {
		return r.begin(ctx, reason, gone)
	}
	return r.beginLostEnd(ctx, lost)
}

// beginLostEnd begins a resync of the lost end.
func (r *resyncer) beginLostEnd(ctx context.Context, lost *lostEnd) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), dbTimeout)
	defer cancel()
	err := r.inTx(ctx, func(first *pgx.Batch) {
		first.Queue(`
			update subscription set resync_cursor = $4, snapshot = null, compacted = null, resync_history = $5, resync_reason = $6, resync_since = now(),
			       lost_after = $4, lost_since = now()
			 where service = $1 and feed = $2 and cursor = $3 and (resync_cursor is null or `+currentLost+` is not null)`,
			r.service, r.Name, lost.end.String(), lost.after.String(), lost.history.String(), lost.String()).Exec(fenced)
		first.Queue(`delete from resynced_entity where service = $1 and feed = $2`, r.service, r.Name)
		first.Queue(`
			insert into resynced_entity (service, feed, id, version, position, updated, lost)
			select distinct $1, $2, id, 0, 0, now(), true from unnest($3::uuid[]) as id where id <> $4`, r.service, r.Name, lost.ids, uuid.Nil)
	}, func(pgx.Tx) error { return nil })
	if err != nil {
		return fmt.Errorf("begin a resync of the lost end: %w", err)
	}
	r.logger.WarnContext(ctx, "the source has lost the end of the feed", "feed", r.Name, "after", lost.after.String(), "entries", lost.entries, "entities", lost.entities)
	return nil
}

// keepResynced queues the statements by which the known pages become those of the source's history, at the end of a
// resync. After one of the lost end, the entries since are as one page.
func (r *resyncer) keepResynced(b *pgx.Batch, lost, end feed.Cursor) {
	b.Queue(`delete from copied_page where service = $1 and feed = $2 and ($3 = 0 or position > $3)`, r.service, r.Name, lost.Position)
	if !lost.IsStart() && end != lost {
		b.Queue(`
			insert into copied_page (service, feed, position, cursor, page_after, ids)
			select $1, $2, $3, $4, $5, array_agg(id order by position) from resynced_entity where service = $1 and feed = $2
			having count(*) between 1 and $6`, r.service, r.Name, end.Position, end.String(), lost.String(), keptEntries)
	}
}

// knowFirsts notes which of the entities existed before, though the lost end and what came after it do not show it: the
// copy has nothing of them yet.
func (r *resyncer) knowFirsts(ctx context.Context, tx pgx.Tx) error {
	_, err := tx.Exec(ctx, `
		update resynced_entity w set first_position = least(w.first_position, nullif(w.position, 0), o.first)
		  from (select id, min(first) as first from (
		               select id, first_position as first from skipped_entity where service = $1 and feed = $2 union all
		               select entity_id, coalesce(first_position, position) from rejected_entry where service = $1 and feed = $2) as one
		         group by id) as o
		 where w.service = $1 and w.feed = $2 and w.id = o.id and not w.bad`, r.service, r.Name)
	return err
}

// lookUpLost notes what the source had, at the cursor that it still knows, of the entities of the lost end that have not
// come again since. It reads the snapshot of that cursor from each of them on, and more of it each time, so that many
// cost no more requests than the whole snapshot. What is not found there, the source does not have.
func (r *resyncer) lookUpLost(ctx context.Context, at progress, scheduled bool) error {
	ids, err := r.lostIDs(ctx)
	for size := 1; len(ids) > 0 && err == nil; size = min(2*size, feed.MaxPageSize) {
		if stop := r.state.mayGoOn(ctx, scheduled); stop != nil {
			return stop
		}
		request := feedclient.Request{
			URL: r.URL, Limit: min(size, r.fetcher.limit()), History: at.resync.history,
			Snapshot: &feed.SnapshotPlace{Head: at.resync.lost, From: idBefore(ids[0])},
		}
		answer, failed := r.fetcher.client.Get(ctx, request)
		if r.fetcher.count(answer); failed != nil {
			if ctx.Err() == nil {
				r.fetcher.shrink(request, failed)
			}
			return failed
		}
		n := len(ids) // of them, the page tells about so many
		if more := answer.Page.More; more != nil {
			n = 0
			for n < len(ids) && bytes.Compare(ids[n][:], more.From[:]) <= 0 {
				n++
			}
		}
		err = r.noteFound(ctx, answer.Page, ids[:n], at)
		ids = ids[n:]
	}
	return err
}

// lostIDs returns the entities of the lost end that have not come again, in the order of their ids.
func (r *resyncer) lostIDs(ctx context.Context) ([]uuid.UUID, error) {
	ctx, cancel := context.WithTimeout(ctx, readTimeout)
	defer cancel()
	rows, err := r.pool.Query(ctx, `select id from resynced_entity where service = $1 and feed = $2 and lost order by id`, r.service, r.Name)
	if err != nil {
		return nil, err
	}
	return pgx.CollectRows(rows, pgx.RowTo[uuid.UUID])
}

// errRefusedAgain says that the copy refuses entities of the lost end that have come again. As their rows are of the lost
// end, their older versions are looked up before the resync ends.
var errRefusedAgain = errors.New("an entity of the lost end has come again and is refused")

// cameAgain returns the positions of the entities of the lost end that have come again, so that they were not looked up.
func (r *resyncer) cameAgain(ctx context.Context, lost feed.Cursor) (map[uuid.UUID]int64, error) {
	if lost.IsStart() {
		return nil, nil
	}
	ctx, cancel := context.WithTimeout(ctx, readTimeout)
	defer cancel()
	rows, err := r.pool.Query(ctx, `
		select id, position from resynced_entity
		 where service = $1 and feed = $2 and not bad and entity is not null and position > $3
		       and id in (select unnest(ids) from copied_page where service = $1 and feed = $2 and position > $3)`, r.service, r.Name, lost.Position)
	if err != nil {
		return nil, err
	}
	again := map[uuid.UUID]int64{}
	var id uuid.UUID
	var position int64
	_, err = pgx.ForEachRow(rows, []any{&id, &position}, func() error { again[id] = position; return nil })
	return again, err
}

// loseAgain notes that the newest versions of these entities are bad, and that what the source had of them is to be
// looked up.
func (r *resyncer) loseAgain(ctx context.Context, at progress, ids []uuid.UUID) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), dbTimeout)
	defer cancel()
	return r.inTx(ctx, func(first *pgx.Batch) {
		first.Queue(`
			update subscription set resync_cursor = resync_cursor
			 where service = $1 and feed = $2 and resync_cursor = $3 and coalesce(`+currentLost+`, '0') = $4`,
			r.service, r.Name, at.resync.cursor.String(), at.resync.lost.String()).Exec(fenced)
		first.Queue(`
			insert into resynced_entity (service, feed, id, version, position, updated, entity, bad, first_position)
			select service, feed, id, version, position, updated, entity, true, first_position
			  from resynced_entity where service = $1 and feed = $2 and id = any($3) and not bad
			on conflict do nothing`, r.service, r.Name, ids) // one that is there is newer
		first.Queue(`
			update resynced_entity set version = 0, position = 0, entity = null, first_position = null, lost = true
			 where service = $1 and feed = $2 and id = any($3) and not bad`, r.service, r.Name, ids)
		first.Queue(emptyNoted, r.service, r.Name)
	}, func(pgx.Tx) error { return nil })
}

// noteFound notes what a page of the snapshot has of the entities, which are in the order of their ids.
func (r *resyncer) noteFound(ctx context.Context, page *feed.Page, lost []uuid.UUID, at progress) error {
	page, err := r.applier.erasures.forget(ctx, page)
	if err != nil {
		return err
	}
	var ids []uuid.UUID
	var versions, positions, firsts []int64
	var updated []time.Time
	var entities [][]byte
	var bad, stays []bool
	for _, e := range page.Entries {
		if _, is := slices.BinarySearchFunc(lost, e.ID, func(a, b uuid.UUID) int { return bytes.Compare(a[:], b[:]) }); !is {
			continue
		}
		if e.Superseded && page.Compacted.Position > at.resync.cursor.Position {
			return errNewer
		}
		isBad := !e.Superseded && r.applier.quarantine.isBad(e)
		ids, versions, positions, firsts = append(ids, e.ID), append(versions, e.Version), append(positions, e.Position), append(firsts, e.First)
		updated, entities = append(updated, e.Updated), append(entities, storable(e))
		bad, stays = append(bad, isBad), append(stays, isBad || e.Superseded) // the newer version is bad
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), dbTimeout)
	defer cancel()
	args := []any{r.service, r.Name, ids, versions, positions, updated, entities, firsts, bad, stays}
	const found = ` unnest($3::uuid[], $4::bigint[], $5::bigint[], $6::timestamptz[], $7::bytea[], $8::bigint[], $9::boolean[], $10::boolean[])
		                as e (id, version, position, updated, entity, first, bad, stays) `
	return r.inTx(ctx, func(first *pgx.Batch) {
		first.Queue(`
			insert into resynced_entity (service, feed, id, version, position, updated, entity, bad, first_position)
			select $1, $2, id, version, position, updated, entity, true, nullif(first, 0) from`+found+`where bad
			on conflict do nothing`, args...)
		first.Queue(`
			update resynced_entity w set version = e.version, position = e.position, updated = e.updated, entity = case when not stays then e.entity end,
			       superseded = stays, first_position = nullif(first, 0)
			  from`+found+`where w.service = $1 and w.feed = $2 and w.id = e.id and w.lost`, args...)
		first.Queue(`update resynced_entity set lost = false where service = $1 and feed = $2 and id = any($3) and lost`, r.service, r.Name, lost)
		if slices.Contains(bad, true) {
			first.Queue(emptyNoted, r.service, r.Name)
		}
	}, func(pgx.Tx) error { return nil })
}

var errNewer = errors.New("an entity of the lost end has a newer version by now, which the next poll reads")

// idBefore returns the id before an id, which is not zero.
func idBefore(id uuid.UUID) uuid.UUID {
	high, low := binary.BigEndian.Uint64(id[:8]), binary.BigEndian.Uint64(id[8:])
	if low == 0 {
		high--
	}
	binary.BigEndian.PutUint64(id[:8], high)
	binary.BigEndian.PutUint64(id[8:], low-1)
	return id
}
