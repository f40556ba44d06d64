package subscribe

import (
	"context"
	"errors"

	"github.com/jackc/pgx/v5"

	"github.com/edison-cars/data-feeds/shared/postgres"
	"github.com/edison-cars/data-feeds/shared/publish"
	"github.com/edison-cars/data-feeds/shared/web"
	"github.com/edison-cars/data-feeds/sql"
)

var errNoFeed = errors.New("the service has no feed to append to: see Service.Publishes")

// Publishing returns the Apply of a service that also publishes: what it appends to the service's feeds commits with the cursor and the
// rows, or not at all. An entry that the engine rejects leaves nothing in the feeds.
func Publishing(apply func(ctx context.Context, tx *publish.Tx, batch *Batch) error) func(context.Context, pgx.Tx, *Batch) error {
	return func(ctx context.Context, tx pgx.Tx, batch *Batch) error {
		to, ok := tx.(*publish.Tx)
		if !ok {
			return errNoFeed
		}
		return apply(ctx, to, batch)
	}
}

func (s *Service) migrations() []postgres.Migrations {
	all := []postgres.Migrations{sql.Migrations("subscribe")}
	if s.Publishes != nil {
		all = append(all, sql.Migrations("publish"))
	}
	return append(all, s.Migrations)
}

// publish serves the service's own feeds.
func (s *Site) publish() {
	feeds := s.service.Publishes(s.router.PublicURL)
	if len(feeds) == 1 {
		s.feeds = []web.Link{{Text: "Feed", URL: "/feeds/" + feeds[0].Name}}
	} else {
		s.feeds = []web.Link{{Text: "Feeds", URL: "/feeds"}}
	}
	s.router.Publish(s.Log, s.nav(), feeds...)
}
