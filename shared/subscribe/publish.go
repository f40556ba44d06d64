package subscribe

import (
	"context"
	"errors"
	"net"
	"strings"
	"time"

	"github.com/gin-gonic/gin"
	"github.com/jackc/pgx/v5"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/edison-cars/data-feeds/shared/postgres"
	"github.com/edison-cars/data-feeds/shared/publish"
	"github.com/edison-cars/data-feeds/shared/web"
	"github.com/edison-cars/data-feeds/sql"
)

// sourceSettings are those of a service that also publishes.
type sourceSettings struct {
	PublicURL  string        `env:"PUBLIC_URL" help:"where readers reach this service, for the links in its feeds; defaults to http://localhost:PORT"`
	FeedTokens web.Readers   `env:"FEED_TOKENS" help:"who may read its feeds: name:hash,name:hash, as sales-feed token NAME prints them; everybody if left out"`
	FeedMaxAge time.Duration `env:"FEED_MAX_AGE" envDefault:"0s" help:"how long caches may answer for the end of a feed without asking, such as 2s where a CDN should collapse pollers"`
	web.Limits
}

func (s *sourceSettings) publicURL(listening net.Addr) string {
	if s.PublicURL != "" {
		return strings.TrimSuffix(s.PublicURL, "/")
	}
	_, port, _ := net.SplitHostPort(listening.String())
	return "http://localhost:" + port
}

var errNoFeed = errors.New("the service has no feed to append to: see Service.Publishes")

// Publishing gives the Apply of a service that also publishes: what it appends to the service's feeds commits with the cursor and the
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
func (s *Site) publish(engine *gin.Engine, publicURL string, set sourceSettings, registry *prometheus.Registry) {
	feeds := s.service.Publishes(publicURL)
	if len(feeds) == 1 {
		s.feeds = []web.Link{{Text: "Feed", URL: "/feeds/" + feeds[0].Name}}
	} else {
		s.feeds = []web.Link{{Text: "Feeds", URL: "/feeds"}}
	}
	source := publish.NewSource(s.Log, publish.Config{
		Name: s.service.Title, PublicURL: publicURL, Nav: s.nav(), MaxAge: set.FeedMaxAge, Private: !set.FeedTokens.Everybody(), Limits: set.Limits,
	}, feeds...)
	source.Route(engine.Group("", set.FeedTokens.Require()))
	registry.MustRegister(s.Log, source)
}
