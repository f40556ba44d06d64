package subscribe

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"github.com/edison-cars/data-feeds/shared/feed"
)

// Errors of [Subscriber.Forget].
var (
	ErrSubscribed = errors.New("the subscriber has this source: take it out of the settings first")
	ErrNoSource   = errors.New("the subscriber has nothing of a source of this name")
)

// A RemovedSource is one of a feed that the subscriber does not have any more, and of which there may still be a copy.
type RemovedSource struct {
	Feed string     `json:"feed"`  // the name of its subscription: "orders@eu"
	AsOf *time.Time `json:"as_of"` // the copy is what the source had then; null: there is none
}

// Removed returns those sources of the subscriber's feeds that it does not have any more. What they have published stays
// until [Subscriber.Forget].
func (s *Subscriber) Removed(ctx context.Context) (removed []RemovedSource, err error) {
	var names, feeds []string
	for _, p := range s.pollers {
		names, feeds = append(names, p.Name), append(feeds, p.feed)
	}
	ctx, cancel := context.WithTimeout(ctx, readTimeout)
	defer cancel()
	rows, err := s.pool.Query(ctx, `
		select feed, as_of from subscription where service = $1 and feed <> all($2) and split_part(feed, '@', 1) = any($3) order by feed`,
		s.options.Name, names, feeds)
	if err == nil {
		removed, err = pgx.CollectRows(rows, func(row pgx.CollectableRow) (r RemovedSource, err error) {
			var asOf *time.Time
			err = row.Scan(&r.Feed, &asOf)
			r.AsOf = timeOrNull(timeOrZero(asOf))
			return r, err
		})
	}
	if err != nil {
		return nil, fmt.Errorf("read which sources were removed: %w", err)
	}
	return removed, nil
}

// Forget deletes what the copy has of a source that the subscriber does not have any more, such as "orders@eu", by Apply,
// as if the source had deleted it, and then the subscription. What is erased stays erased. Forget returns
// [ErrSubscribed] or [ErrNoSource], or a [*RetryError] if Apply refuses a deletion. It works in steps: after another
// error, or the end of ctx, the next call goes on.
func (s *Subscriber) Forget(ctx context.Context, name string) error {
	if s.Subscription(name) != nil {
		return ErrSubscribed
	}
	feedName, source := Of(name)
	i := slices.IndexFunc(s.pollers, func(p *poller) bool { return p.feed == feedName })
	if i < 0 || CheckSource(source) != nil {
		return ErrNoSource
	}
	of := s.pollers[i].Feed
	of.Name, of.Source = feedName, source
	p, err := newPoller(s.pool, s.options, of)
	if err != nil {
		return err
	}
	defer p.fetcher.client.Close()
	p.owned, p.applier.siblings = p.Apply != nil, append([]*poller{s.pollers[i]}, s.pollers[i].applier.siblings...)
	for n := resyncChunk; n == resyncChunk; {
		ids, err := p.forget(ctx)
		if err != nil {
			return fmt.Errorf("forget %s: %w", name, err)
		}
		n = len(ids)
		p.applier.tryAgain(ctx, ids)
	}
	s.options.Logger.InfoContext(ctx, "source forgotten", "feed", name)
	return nil
}

// forget deletes the next entities of a source, or at the end the subscription.
func (p *poller) forget(ctx context.Context) (ids []uuid.UUID, err error) {
	limited, cancel := context.WithTimeout(ctx, dbTimeout)
	defer cancel()
	var found bool
	err = p.inTx(limited, func(first *pgx.Batch) {
		first.Queue(`select exists (select from subscription where service = $1 and feed = $2 for update)`, p.service, p.Name).
			QueryRow(func(row pgx.Row) error { return row.Scan(&found) })
	}, func(tx pgx.Tx) error {
		if !found {
			return ErrNoSource
		}
		ids = nil
		if p.Apply != nil {
			if ids, err = p.ownedIDs(limited, tx); err != nil {
				return err
			}
		}
		var entries []feed.Entry
		for _, id := range ids {
			entries = append(entries, feed.Entry{ID: id, Deleted: true})
		}
		if len(entries) > 0 {
			bad, err := p.quarantine.applyCarefully(limited, tx, entries, readTimeout)
			if err == nil && len(bad) > 0 {
				err = &RetryError{whole(bad[0].reason)}
			}
			if err != nil {
				return err
			}
		}
		if len(ids) < resyncChunk {
			_, err = tx.Exec(limited, `delete from subscription where service = $1 and feed = $2`, p.service, p.Name)
		}
		return err
	})
	return ids, err
}

// ownedIDs returns up to resyncChunk of the source's entities.
func (p *poller) ownedIDs(ctx context.Context, tx pgx.Tx) ([]uuid.UUID, error) {
	sql := `select id from entity_owner where service = $1 and feed = $2 and source = $3`
	if p.Source == "" {
		sql += ` union select id from ` + p.table() + ` t where ` + p.mayOwn("t.id", 1, 2, 3)
	}
	rows, err := tx.Query(ctx, sql+fmt.Sprintf(` limit %d`, resyncChunk), p.service, p.feed, p.Source)
	if err != nil {
		return nil, err
	}
	return pgx.CollectRows(rows, pgx.RowTo[uuid.UUID])
}
