package subscribe

import (
	"context"
	"fmt"
	"regexp"
	"strings"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"github.com/edison-cars/data-feeds/shared/feed"
)

// A feed may have several sources: see Feed.Source. Each has a subscription of its own, and Table is the union of what
// they publish. Each entity has one owner: the source that was the first to publish it, until its tombstone is applied.
// What another source publishes of the entity meanwhile is rejected, whatever its version, and is tried again after that
// tombstone. A tombstone of another source changes nothing: it takes back what was rejected.

// sourceName is what the name of a source looks like: it is part of paths, of names of queues, and of a header.
var sourceName = regexp.MustCompile(`^[a-z][a-z0-9-]{0,31}$`)

// CheckSource returns an error unless name may be a Feed.Source.
func CheckSource(name string) error {
	if name != "" && !sourceName.MatchString(name) {
		return fmt.Errorf("a source has a name of up to 32 characters a-z, 0-9 and -, which begins with a letter, not %q", name)
	}
	return nil
}

// Of returns the feed and the source, which may be empty, that the name of a subscription has: "orders@eu".
func Of(subscription string) (feed, source string) {
	feed, source, _ = strings.Cut(subscription, "@")
	return feed, source
}

// subscriptionName is the reverse of [Of].
func subscriptionName(feed, source string) string {
	if source == "" {
		return feed
	}
	return feed + "@" + source
}

// hasOwners reports whether the feed had sources with names before.
func (t *target) hasOwners(ctx context.Context) (has bool, err error) {
	ctx, cancel := context.WithTimeout(ctx, readTimeout)
	defer cancel()
	err = t.pool.QueryRow(ctx, `select exists (select from entity_owner where service = $1 and feed = $2)`, t.service, t.feed).Scan(&has)
	return has, err
}

// An ownedError says that the entity is of another source.
type ownedError struct{ owner string }

func (e *ownedError) Error() string {
	by := "the source " + e.owner
	if e.owner == "" {
		by = "the source without a name"
	}
	return "the entity is of " + by + ", which has published it: two sources must not publish the same entity; this version is tried again when that source has deleted the entity"
}

// claim queues the statements that make this source the owner of those of the entities that have none, and look up the
// owners of the others. They wait for other sources that claim or release the same entities, and belong before the
// statements that look up rows.
func (t *target) claim(b *pgx.Batch, entries []feed.Entry, owners map[uuid.UUID]string) {
	if !t.owned || len(entries) == 0 {
		return
	}
	var all, published []uuid.UUID
	for _, e := range entries {
		if malformed(e) {
			continue
		}
		if all = append(all, e.ID); !e.Deleted {
			published = append(published, e.ID)
		}
	}
	if len(published) > 0 {
		b.Queue(`
			insert into entity_owner (service, feed, id, source) select $1, $2, id, $3 from unnest($4::uuid[]) as id order by id
			on conflict do nothing`, t.service, t.feed, t.Source, published)
	}
	b.Queue(`select id, source from entity_owner where service = $1 and feed = $2 and source <> $3 and id = any($4)`,
		t.service, t.feed, t.Source, all).Query(func(rows pgx.Rows) error {
		var id [16]byte
		var source string
		_, err := pgx.ForEachRow(rows, []any{&id, &source}, func() error {
			owners[id] = source
			return nil
		})
		return err
	})
}

// split returns the entries that this source may have applied, the tombstones that change nothing, since another source
// has the entity, and the other entries of such entities.
func split(entries []feed.Entry, owners map[uuid.UUID]string) (own, idle []feed.Entry, refused []rejection) {
	if len(owners) == 0 {
		return entries, nil, nil
	}
	for _, e := range entries {
		switch owner, is := owners[e.ID]; {
		case !is || malformed(e):
			own = append(own, e)
		case e.Deleted:
			idle = append(idle, e)
		default:
			refused = append(refused, rejection{Entry: e, reason: &ownedError{owner}})
		}
	}
	return own, idle, refused
}

// splitIn claims the entries in tx, and returns those that this source may have applied, and those that are refused.
func (t *target) splitIn(ctx context.Context, tx pgx.Tx, entries []feed.Entry) (own []feed.Entry, refused []rejection, err error) {
	if !t.owned || len(entries) == 0 {
		return entries, nil, nil
	}
	var b pgx.Batch
	owners := map[uuid.UUID]string{}
	t.claim(&b, entries, owners)
	err = tx.SendBatch(ctx, &b).Close()
	own, _, refused = split(entries, owners)
	return own, refused, err
}

// release notes that the entities have no owner any more. Their deletion was applied in tx.
func (t *target) release(ctx context.Context, tx pgx.Tx, deleted []uuid.UUID) error {
	if !t.owned || len(deleted) == 0 {
		return nil
	}
	_, err := tx.Exec(ctx, `delete from entity_owner where service = $1 and feed = $2 and source = $3 and id = any($4)`,
		t.service, t.feed, t.Source, deleted)
	return err
}

// mayOwn is a condition on the column, an id: the entity is of this source. A source without a name has the entities
// without an owner, too, which were copied before others had names.
func (t *target) mayOwn(column string, service, feed, source int) string {
	owner := fmt.Sprintf(`exists (select from entity_owner o where o.service = $%d and o.feed = $%d and o.id = %s and o.source`, service, feed, column)
	if t.Source == "" {
		return fmt.Sprintf(`not %s <> $%d)`, owner, source)
	}
	return fmt.Sprintf(`%s = $%d)`, owner, source)
}

// freed tries again what the other sources of the feed have published of entities that this one has deleted. What fails
// is tried again later, as all rejected entries are.
func (a *applier) freed(ctx context.Context, entries []feed.Entry, bad []rejection) {
	if len(a.siblings) == 0 {
		return
	}
	var ids []uuid.UUID
	for _, e := range good(entries, bad) {
		if e.Deleted {
			ids = append(ids, e.ID)
		}
	}
	a.tryAgain(ctx, ids)
}

func (a *applier) tryAgain(ctx context.Context, ids []uuid.UUID) {
	for _, s := range a.siblings {
		if len(ids) == 0 || !s.state.hasRejected() {
			continue
		}
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), readTimeout)
		applied, _, err := s.quarantine.reapply(ctx, ids, readTimeout/2)
		if err == nil && applied > 0 {
			err = s.row.refresh(ctx)
			s.logger.InfoContext(ctx, "rejected entries were applied", "feed", s.Name, "applied", applied)
		}
		cancel()
		if err != nil {
			s.logger.DebugContext(ctx, "entries that another source has given up were not tried again", "feed", s.Name, "error", err)
		}
	}
}
