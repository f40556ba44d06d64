package shop

import (
	"context"
	"io"
	"log/slog"
	"os"
	"time"

	"github.com/gin-gonic/gin"
	"github.com/go-json-experiment/json"
	"github.com/jackc/pgx/v5"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/edison-cars/data-feeds/shared/order"
	"github.com/edison-cars/data-feeds/shared/publish"
	"github.com/edison-cars/data-feeds/shared/publish/feedhttp"
	"github.com/edison-cars/data-feeds/shared/subscribe"
	"github.com/edison-cars/data-feeds/subscribers/relay"
)

// The feed: order and entry are one commit, and sales knows of nobody.
type feedSeller struct {
	*base
	log     *publish.Log
	metrics *prometheus.Registry
}

func newFeed(ctx context.Context, b *base, set *settings, engine *gin.Engine, logger *slog.Logger) (*feedSeller, error) {
	log, err := publish.Open(ctx, b.db, logger)
	if err != nil {
		return nil, err
	}
	publicURL := "http://" + set.Addr
	source := feedhttp.NewSource(log, feedhttp.Config{Name: "Shop", PublicURL: publicURL}, describe(publicURL))
	source.Route(engine)
	s := &feedSeller{b, log, prometheus.NewRegistry()}
	s.metrics.MustRegister(source)
	return s, nil
}

func (s *feedSeller) sell(ctx context.Context, o *order.Order) (committedAt time.Time, err error) {
	payload, err := json.Marshal(o)
	if err != nil {
		return committedAt, err
	}
	change := publish.NewChange()
	change.Exec(insertOrder, row(o)...)
	change.Append(order.Feed, publish.Entry{ID: o.ID, Version: o.Version, Updated: o.UpdatedAt.Time, Payload: payload})
	err = s.log.Commit(ctx, change)
	committedAt = time.Now()
	if err == nil {
		s.crash.here()
	}
	return committedAt, err
}

// sent counts the requests to the feed.
func (s *feedSeller) sent() (n int64) {
	families, _ := s.metrics.Gather()
	for _, family := range families {
		if family.GetName() == "feed_requests_total" {
			for _, m := range family.GetMetric() {
				n += int64(m.GetCounter().GetValue())
			}
		}
	}
	return n
}

// consumeFeed is a subscriber with the engine of all subscribers.
func consumeFeed(ctx context.Context, set *settings, databaseURL string, env map[string]string, stdout io.Writer) error {
	env["DATABASE_URL"] = databaseURL
	at := crash{at: set.Crash}
	orders := subscribe.Feed{
		Name: order.Feed, URL: env["FEED_URL_ORDERS"], Schedule: "@every 1s", Table: "orders",
		Apply: func(ctx context.Context, tx pgx.Tx, batch *subscribe.Batch) error {
			if set.Slow > 0 {
				if err := work(ctx, tx, set.Slow*time.Duration(len(batch.Entities))); err != nil {
					return err
				}
			}
			if _, err := tx.Exec(ctx, upsert, batch.JSON()); err != nil {
				return err
			}
			if len(batch.Entities) > 0 {
				at.here() // written, and the cursor not yet moved
			}
			_, err := tx.Exec(ctx, `delete from orders where id = any($1)`, batch.Deleted)
			return err
		},
	}
	service := &subscribe.Service{
		Name: set.Name, Title: set.Name, Feeds: []subscribe.Feed{orders}, Migrations: Migrations(), Routes: func(*subscribe.Site) {},
	}
	ready(stdout, set.Addr)
	return service.Run(ctx, env, os.Stderr)
}

// relayFeed is the relay as it is.
func relayFeed(ctx context.Context, set *settings, databaseURL string, env map[string]string, stdout io.Writer) error {
	env["DATABASE_URL"], env["AMQP_URL"] = databaseURL, set.Broker
	ready(stdout, set.Addr)
	return relay.Service().Run(ctx, env, os.Stderr)
}
