package main

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"time"

	"github.com/gin-gonic/gin"
	"github.com/google/uuid"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/edison-cars/data-feeds/shared/cmd/bench/shop"
	"github.com/edison-cars/data-feeds/shared/daemon"
	"github.com/edison-cars/data-feeds/shared/postgres"
	"github.com/edison-cars/data-feeds/shared/publish"
	"github.com/edison-cars/data-feeds/shared/publish/feedhttp"
	"github.com/edison-cars/data-feeds/shared/web"
)

// serveArg makes the program one of the servers that it measures: serve KIND DATABASE_URL, or serve nginx|rabbitmq FOLDER.
const serveArg = "serve"

const stopTimeout = 15 * time.Second

// serve serves until ctx ends. Its first line of output is its address.
func serve(ctx context.Context, kind, of string, env map[string]string, stdout io.Writer) error {
	switch kind {
	case nginxKind, cacheKind:
		return serveNginx(ctx, of, env[upstreamEnv], stdout)
	case rabbitKind:
		return serveRabbit(ctx, of, stdout)
	case shop.SalesByCalls, shop.SalesByQueues, shop.SalesByStream, shop.SalesByFeed, shop.Relay,
		shop.CalledConsumer, shop.QueueConsumer, shop.StreamConsumer, shop.FeedConsumer:
		return shop.Serve(ctx, kind, of, env, stdout)
	case oneKind, pureKind:
		return serveSubscriber(ctx, kind, of, env, stdout)
	}
	logger := slog.New(slog.DiscardHandler)
	db, err := postgres.Open(ctx, postgres.Config{URL: of, Name: "bench"})
	if err != nil {
		return err
	}
	defer db.Close()
	var handler http.Handler
	switch kind {
	case feedKind, salesKind:
		log, err := publish.Open(ctx, db.Pool, logger)
		if err != nil {
			return err
		}
		defer log.Close()
		var limits web.Limits
		if err := daemon.Parse(env, &limits); err != nil {
			return err
		}
		registry := web.NewMetrics() // on, as in a real one
		engine := web.New(logger, web.CountRequests(registry))
		if err := (web.Proxies{"127.0.0.1"}).Trust(engine); err != nil { // for clients of their own
			return err
		}
		source := feedhttp.NewSource(log, feedhttp.Config{Name: "Bench", PublicURL: publicURL, Limits: limits}, description)
		source.Route(engine)
		registry.MustRegister(log, source)
		if kind == salesKind {
			sales(engine, log, source)
		}
		handler = engine
	case structsKind:
		gin.SetMode(gin.ReleaseMode)
		engine := gin.New()
		engine.GET("/orders", marshalOrders(db.Pool))
		handler = engine
	default:
		return daemon.Usagef("%s takes no %q", serveArg, kind)
	}
	ln, err := web.Listen(ctx, "127.0.0.1:0")
	if err != nil {
		return err
	}
	fmt.Fprintln(stdout, ln.Addr())
	return web.ServeListener(ctx, ln, handler, logger)
}

// The routes of a server that sells.
const (
	salesPath   = "/sales"   // POST sells an order
	waitingPath = "/waiting" // the number of requests that wait for a feed to go on
	askedPath   = "/asked"   // the number of requests to feeds that were answered
)

// A sale is the answer to POST of salesPath.
type sale struct {
	ID          uuid.UUID `json:"id"`
	CommittedAt time.Time `json:"committed_at"` // when the commit returned, by the clock of the machine
}

// sales adds its routes to those of the feed.
func sales(engine *gin.Engine, log *publish.Log, source *feedhttp.Source) {
	metrics := prometheus.NewRegistry()
	metrics.MustRegister(source)
	sum := func(name string) gin.HandlerFunc {
		return web.Handle(func(c *gin.Context) error {
			families, err := metrics.Gather()
			total := 0.0
			for _, family := range families {
				if family.GetName() == name {
					for _, m := range family.GetMetric() {
						total += m.GetGauge().GetValue() + m.GetCounter().GetValue()
					}
				}
			}
			c.JSON(http.StatusOK, int64(total))
			return err
		})
	}
	engine.GET(waitingPath, sum("feed_waiting_requests"))
	engine.GET(askedPath, sum("feed_requests_total"))
	engine.POST(salesPath, web.Handle(func(c *gin.Context) error {
		o := newOrder()
		change, err := newChange(o)
		if err == nil {
			err = log.Commit(c.Request.Context(), change)
		}
		at := time.Now()
		if err == nil {
			c.JSON(http.StatusOK, sale{o.ID, at})
		}
		return err
	}))
}
