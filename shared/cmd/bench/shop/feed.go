package shop

import (
	"cmp"
	"context"
	"net/http"
	"os"
	"time"

	"github.com/gin-gonic/gin"
	"github.com/jackc/pgx/v5"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/edison-cars/data-feeds/shared/daemon"
	"github.com/edison-cars/data-feeds/shared/order"
	"github.com/edison-cars/data-feeds/shared/publish"
	"github.com/edison-cars/data-feeds/shared/publish/feedhttp"
	"github.com/edison-cars/data-feeds/shared/service/subscriber"
	"github.com/edison-cars/data-feeds/shared/subscribe"
	"github.com/edison-cars/data-feeds/shared/web"
	"github.com/edison-cars/data-feeds/shared/webserver"
)

// byFeed sells by the feed: order and entry are one commit, and sales knows no consumer.
func (s *sales) byFeed(log *publish.Log, env map[string]string, engine *gin.Engine,
	registry prometheus.Registerer) (seller, error) {
	var limits web.Limits
	if err := daemon.Parse(env, &limits); err != nil {
		return nil, err
	}
	source := feedhttp.New(log, feedhttp.Options{Name: "Bench", PublicURL: PublicURL, MaxAge: s.MaxAge, Limits: limits}, Description)
	webserver.GET(engine, "/feeds/*path", func(c *gin.Context) {
		if s.Replay && c.Request.URL.Query().Has("snapshot") {
			c.Status(http.StatusNotFound)
			return
		}
		source.ServeHTTP(c.Writer, c.Request)
	})
	registry.MustRegister(log, source)
	own := prometheus.NewRegistry()
	own.MustRegister(source)
	engine.GET(SentPath, number(func() int64 { return sum(own, "feed_requests_total") }))
	engine.GET(WaitingPath, number(func() int64 { return sum(own, "feed_waiting_requests") }))
	return func(ctx context.Context, o *order.Order) (committedAt time.Time, err error) {
		change, err := NewChange(o)
		if err == nil {
			err = log.Commit(ctx, change)
		}
		committedAt = time.Now()
		if err == nil {
			s.here(s.Crash)
		}
		return committedAt, err
	}, nil
}

// sum returns the sum of a metric over its labels.
func sum(registry *prometheus.Registry, name string) (n int64) {
	families, _ := registry.Gather()
	for _, family := range families {
		if family.GetName() == name {
			for _, m := range family.GetMetric() {
				n += int64(m.GetGauge().GetValue() + m.GetCounter().GetValue())
			}
		}
	}
	return n
}

// subscribeFeed is a subscriber with the engine of all subscribers, on a database that exists.
func subscribeFeed(ctx context.Context, kind string, set *settings, env map[string]string) error {
	orders := subscribe.Feed{Name: order.Feed, URL: env["FEED_URL_ORDERS"], Schedule: "@every 1s", Table: "orders"}
	if columns := Columns[2:]; kind == PureCopy {
		orders.Columns = columns
	} else {
		var at crash
		orders.Apply = func(ctx context.Context, tx pgx.Tx, batch *subscribe.Batch) error {
			if set.Slow > 0 {
				if err := work(ctx, tx, set.Slow*time.Duration(len(batch.Entities))); err != nil {
					return err
				}
			}
			err := batch.Upsert(ctx, tx, "orders", columns...)
			if err == nil && len(batch.Entities) > 0 {
				at.here(set.Crash) // written, and the cursor not yet moved
			}
			return err
		}
	}
	name := cmp.Or(set.Name, "copy") // and of its queue, where it listens to a stream
	service := &subscriber.Service{Name: name, Title: name, Migrations: Migrations(), Feeds: []subscribe.Feed{orders}}
	return service.Run(ctx, env, os.Stderr)
}
