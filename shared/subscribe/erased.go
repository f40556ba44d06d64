package subscribe

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"github.com/edison-cars/data-feeds/shared/feed"
)

// erasures are a poller's knowledge of the table erased_entity. A feed that never erased anything costs no query per
// page.
type erasures struct {
	*target
	mu    sync.Mutex
	known bool // it was read since this process polls
	any   bool

	looked time.Time // when the copy was last searched for erased entities; only the poll under way uses it
}

const lookForErased = 10 * time.Second // the shortest time between two searches

func (er *erasures) reset() {
	er.mu.Lock()
	defer er.mu.Unlock()
	er.known, er.looked = false, time.Time{}
}

// forget stores the ids of entities that the page says are erased. It returns the page with a tombstone in place of
// every entry of an erased entity. So an erased entity stays erased, whatever a restored source, an old cache or a
// stream says later. The ids stay stored even if the page is not applied: the source has erased the entities in any
// case.
func (er *erasures) forget(ctx context.Context, page *feed.Page) (*feed.Page, error) {
	if page == nil || len(page.Entries) == 0 {
		return page, nil
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), dbTimeout)
	defer cancel()
	er.mu.Lock()
	defer er.mu.Unlock()
	var all, erased []uuid.UUID
	for i := range page.Entries {
		if all = append(all, page.Entries[i].ID); page.Entries[i].Erased {
			erased = append(erased, page.Entries[i].ID)
		}
	}
	if err := er.noteErased(ctx, erased); err != nil {
		return nil, fmt.Errorf("note what is erased: %w", err)
	}
	if !er.known {
		if err := er.pool.QueryRow(ctx, `select exists (select from erased_entity where service = $1 and feed = $2)`, er.service, er.Name).Scan(&er.any); err != nil {
			return nil, fmt.Errorf("look for what is erased: %w", err)
		}
		er.known = true
	}
	if !er.any {
		return page, nil
	}
	refused, err := er.erasedOf(ctx, er.pool, all)
	if err != nil || len(refused) == 0 {
		return page, err
	}
	own, left := *page, 0
	own.Entries = slices.Clone(page.Entries)
	for i := range own.Entries {
		if e := &own.Entries[i]; refused[e.ID] && !e.Erased && !e.Superseded {
			eraseEntry(e)
			left++
		}
	}
	if left > 0 {
		er.logger.WarnContext(ctx, "the source says something of entities that it had erased, which is left out", "feed", er.Name, "entries", left, "cursor", page.Cursor.String())
	}
	return &own, nil
}

// eraseAgain applies deletions for erased entities of which the service still has something, as after the restore of a
// single table: no page will say it again.
func (a *applier) eraseAgain(ctx context.Context) error {
	if time.Since(a.erasures.looked) < lookForErased {
		return nil
	}
	ctx, stop := finishing(ctx)
	defer stop()
	ctx, cancel := context.WithTimeout(ctx, dbTimeout)
	defer cancel()
	err := InTx(ctx, a.pool, func(tx pgx.Tx) error {
		_, err := tx.Exec(ctx, `
			delete from rejected_entry r using erased_entity e
			 where e.service = $1 and e.feed = $2 and r.service = $1 and r.feed = $2 and r.entity_id = e.id and r.entity is not null`, a.service, a.Name)
		if err == nil {
			_, err = tx.Exec(ctx, emptyRejected, a.service, a.Name, nil)
		}
		if err == nil {
			err = a.forgetNoted(ctx, tx)
		}
		return err
	})
	if err != nil {
		return fmt.Errorf("drop what is erased: %w", err)
	}
	if a.Apply == nil {
		a.erasures.looked = time.Now()
		return nil
	}
	sql, args := `
		select id from erased_entity e
		 where service = $1 and feed = $2 and (exists (select from `+a.table()+` t where t.id = e.id) or `+cmp.Or(a.Kept, "false")+`)`,
		[]any{a.service, a.Name, resyncChunk}
	if a.owned {
		sql, args = sql+` and not exists (select from entity_owner o where o.service = $1 and o.feed = $4 and o.id = e.id and o.source <> $5)`,
			append(args, a.feed, a.Source)
	}
	rows, err := a.pool.Query(ctx, sql+` limit $3`, args...)
	if err != nil {
		return fmt.Errorf("look for what is erased: %w", err)
	}
	back, err := pgx.CollectRows(rows, func(row pgx.CollectableRow) (e feed.Entry, err error) {
		err = row.Scan(&e.ID)
		eraseEntry(&e)
		return e, err
	})
	var bad []rejection // they stay rejected until a later search applies them
	if err == nil && len(back) > 0 {
		err = a.inTx(ctx, func(first *pgx.Batch) {
			first.Queue(`select from subscription where service = $1 and feed = $2 for update`, a.service, a.Name)
		}, func(tx pgx.Tx) (err error) {
			if bad, err = a.quarantine.applyCarefully(ctx, tx, back, dbTimeout); err != nil {
				return err
			}
			if err := a.quarantine.clear(ctx, tx, good(back, bad)); err != nil {
				return err
			}
			return a.quarantine.reject(ctx, tx, bad)
		})
	}
	if _, ended := errors.AsType[*sessionError](err); ended { // with a witness, the next attempt may tell why
		a.quarantine.seekWitness(ctx, a.fetcher.client)
	}
	if err != nil {
		return fmt.Errorf("erase again what the copy has back: %w", err)
	}
	if len(back) > 0 {
		a.logger.WarnContext(ctx, "erased again what the copy had back, as after the restore of a table", "feed", a.Name,
			"entities", len(back)-len(bad), "refused", len(bad))
	}
	if len(back) < resyncChunk {
		a.erasures.looked = time.Now()
	}
	return nil
}

// eraseEntry makes an entry a tombstone of an erased entity.
func eraseEntry(e *feed.Entry) { e.Deleted, e.Erased, e.Entity = true, true, nil }

// noteErased stores the ids, and deletes what the engine itself keeps of the entities.
func (er *erasures) noteErased(ctx context.Context, ids []uuid.UUID) error {
	if len(ids) == 0 {
		return nil
	}
	err := InTx(ctx, er.pool, func(tx pgx.Tx) error {
		var b pgx.Batch
		b.Queue(`insert into erased_entity (service, feed, id) select distinct $1, $2, id from unnest($3::uuid[]) as id on conflict do nothing`, er.service, er.Name, ids)
		b.Queue(`delete from rejected_entry where service = $1 and feed = $2 and entity_id = any($3)`, er.service, er.Name, ids)
		b.Queue(`delete from skipped_entity where service = $1 and feed = $2 and id = any($3)`, er.service, er.Name, ids)
		b.Queue(emptyRejected, er.service, er.Name, nil)
		b.Queue(emptyNoted, er.service, er.Name)
		b.Queue(`
			update resynced_entity set entity = null, superseded = false
			 where service = $1 and feed = $2 and id = any($3) and (entity is not null or superseded)`, er.service, er.Name, ids)
		return tx.SendBatch(ctx, &b).Close()
	})
	if er.any = er.any || err == nil; err != nil {
		er.known = false // it may be committed
	}
	return err
}

// A rowsQuerier is a pool or a transaction.
type rowsQuerier interface {
	Query(ctx context.Context, sql string, args ...any) (pgx.Rows, error)
}

// erasedOf returns those of the ids that are erased.
func (t *target) erasedOf(ctx context.Context, db rowsQuerier, ids []uuid.UUID) (map[uuid.UUID]bool, error) {
	rows, err := db.Query(ctx, `select id from erased_entity where service = $1 and feed = $2 and id = any($3)`, t.service, t.Name, ids)
	if err != nil {
		return nil, fmt.Errorf("look for what is erased: %w", err)
	}
	erased := map[uuid.UUID]bool{}
	var id [16]byte
	_, err = pgx.ForEachRow(rows, []any{&id}, func() error {
		erased[id] = true
		return nil
	})
	return erased, err
}

// emptyNoted empties the notes of bad items that name an erased entity.
const emptyNoted = `
	with named as materialized (
	     select w.id as noted, found[1]::uuid as id from resynced_entity w` + uuidsIn + ` where w.service = $1 and w.feed = $2 and w.bad)
	update resynced_entity n set entity = '[]'
	  from (select distinct noted from named join erased_entity e on e.service = $1 and e.feed = $2 and e.id = named.id) as naming
	 where n.service = $1 and n.feed = $2 and n.bad and n.id = naming.noted`

// forgetNoted turns the notes of erased entities into deletions: their rows go at the end of the resync.
func (t *target) forgetNoted(ctx context.Context, tx pgx.Tx) error {
	_, err := tx.Exec(ctx, `
		update resynced_entity w set entity = null, superseded = false from erased_entity e
		 where e.service = $1 and e.feed = $2 and w.service = $1 and w.feed = $2 and w.id = e.id and (w.entity is not null or w.superseded)`, t.service, t.Name)
	return err
}
