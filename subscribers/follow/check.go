package follow

import (
	"fmt"
	"time"

	"github.com/google/uuid"
	lru "github.com/hashicorp/golang-lru/v2"

	"github.com/edison-cars/data-feeds/shared/feed"
	"github.com/edison-cars/data-feeds/shared/feedclient"
)

type checker struct {
	versions *lru.Cache[uuid.UUID, version] // the newest versions of recently seen entities
}

type version struct {
	number  int64
	updated time.Time
}

const maxVersions = 100_000

func newChecker() *checker {
	versions, err := lru.New[uuid.UUID, version](maxVersions)
	if err != nil {
		panic(err) // the size is positive
	}
	return &checker{versions}
}

// check returns which promise the answer to r breaks, or nil, in either format. All errors wrap feed.ErrPage.
func (c *checker) check(r *feedclient.Request, p *feed.Page) error {
	broken := func(format string, args ...any) error {
		return fmt.Errorf("%w: %s", feed.ErrPage, fmt.Sprintf(format, args...))
	}
	position := r.After.Position
	for _, e := range p.Entries {
		position++
		if e.Position != position {
			return broken("expected position %d, got %d", position, e.Position)
		}
		if err := e.Malformed(); err != nil {
			return broken("the entry at position %d: %v", position, err)
		}
		before, seen := c.versions.Get(e.ID)
		switch {
		case e.Version < 1:
			return broken("the entry at position %d has version %d", position, e.Version)
		case seen && e.Version != before.number+1:
			return broken("at position %d version %d of %s follows version %d", position, e.Version, e.ID, before.number)
		case seen && !e.Updated.After(before.updated):
			return broken("at position %d version %d of %s is of %s, and the version before of %s", position, e.Version, e.ID,
				e.Updated.Format(time.RFC3339Nano), before.updated.Format(time.RFC3339Nano))
		}
		c.versions.Add(e.ID, version{e.Version, e.Updated})
	}
	switch n := len(p.Entries); {
	case n > r.Limit:
		return broken("%d entries where %d were asked for", n, r.Limit)
	case n == 0 && (p.Cursor != r.After || !p.UpToDate):
		return broken("it has no entries, ends at cursor %s, and is up to date: %t", p.Cursor, p.UpToDate)
	case p.Cursor.Position != position:
		return broken("it ends at cursor %s, its last entry is at position %d", p.Cursor, position)
	case !p.UpToDate && position%int64(r.Limit) != 0:
		return broken("it ends at cursor %s, more follows, and %d is not a multiple of %d", p.Cursor, position, r.Limit)
	case !p.Sealed && (p.Head.Position < position || p.UpToDate != (p.Head == p.Cursor)):
		return broken("it ends at cursor %s, up to date: %t, while the feed ends at %s", p.Cursor, p.UpToDate, p.Head)
	}
	return nil
}
