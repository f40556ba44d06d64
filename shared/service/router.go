package service

import (
	"context"
	"log/slog"

	"github.com/gin-gonic/gin"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/edison-cars/data-feeds/shared/access"
	"github.com/edison-cars/data-feeds/shared/feed"
	"github.com/edison-cars/data-feeds/shared/migrate"
	"github.com/edison-cars/data-feeds/shared/postgres"
	"github.com/edison-cars/data-feeds/shared/publish"
	"github.com/edison-cars/data-feeds/shared/publish/feedhttp"
	"github.com/edison-cars/data-feeds/shared/web"
	"github.com/edison-cars/data-feeds/shared/webserver"
)

// A Router takes the routes of a process, grouped by the role that they require.
type Router struct {
	Anybody   gin.IRoutes // no role; the handlers of a buyer's routes check the buyer's credential themselves
	Readers   gin.IRoutes // a reader's or an operator's token
	Operators gin.IRoutes // an operator's token or session

	Engine  *gin.Engine // the handler of all requests
	Metrics *prometheus.Registry
	Pool    *pgxpool.Pool // nil if the process has no database
	Tables  []string      // of the process in its database
	Logger  *slog.Logger

	// Nav returns the links on pages of problems; nil means none.
	Nav func(*gin.Context) []web.Link

	// PublicURL is the address of the process for clients, without a slash at the end.
	PublicURL string
	// MapURL is the address of the map for browsers, without a slash at the end, or empty.
	MapURL string

	title  string
	traces bool // the process has the pages of Trace
	feeds  FeedSettings
	access *access.Access
}

// NewRouter returns a router with /login, /logout and /metrics. The settings must have a PublicURL.
func NewRouter(s Service, set Settings, pool *pgxpool.Pool, logger *slog.Logger) (*Router, error) {
	rules, err := access.New(set.HTTPSettings.Settings, access.Options{
		Service: s.Name, Title: s.Title, PublicURL: string(set.PublicURL), Pool: pool, Logger: logger,
	})
	if err != nil {
		return nil, err
	}
	tables, err := migrate.Tables(s.Migrations...)
	if err != nil {
		return nil, err
	}
	registry := webserver.NewMetrics()
	r := &Router{
		Metrics: registry, Pool: pool, Tables: tables, Logger: logger, PublicURL: string(set.PublicURL), MapURL: string(set.MapURL),
		title: s.Title, feeds: set.FeedSettings, access: rules,
	}
	observers := []gin.HandlerFunc{webserver.CountRequests(registry), webserver.Look(r.look)}
	if set.AccessLog {
		observers = append(observers, webserver.AccessLog(logger))
	}
	engine := webserver.New(logger, observers...)
	if err := set.TrustedProxies.Trust(engine); err != nil {
		return nil, err
	}
	engine.Use(rules.Identify())
	if pool != nil {
		registry.MustRegister(postgres.NewMetrics(pool))
	}
	r.Engine = engine
	r.Anybody, r.Readers, r.Operators = engine.Group(""), engine.Group("", rules.Reader()), engine.Group("", rules.Operator())
	rules.Route(r.Anybody)
	webserver.Metrics(r.Readers, registry)
	return r, nil
}

func (r *Router) look(c *gin.Context) web.Page {
	page := web.Page{Service: r.title}
	if r.Nav != nil {
		page.Nav = r.Nav(c)
	}
	return page
}

// Health adds /livez and /readyz, which are open to everybody; see [webserver.Health].
func (r *Router) Health(ready func(context.Context) error) { webserver.Health(r.Anybody, ready) }

// Publish adds the feeds of the log, and returns their source. nav are the links on their pages. After [Router.Trace],
// the ids on their pages are links, too.
func (r *Router) Publish(log *publish.Log, nav []web.Link, feeds ...feed.Description) *feedhttp.Source {
	way := ""
	if r.traces {
		way = "/trace/"
	}
	source := feedhttp.New(log, feedhttp.Options{
		Trace: way, PublicURL: r.PublicURL, Author: "Edison Cars", Brand: webserver.Brand, Name: r.title, Nav: nav,
		MaxAge: r.feeds.FeedMaxAge, Private: !r.access.Open(), Limits: r.feeds.Limits, Logger: r.Logger,
	}, feeds...)
	paths := []string{"/feeds", "/problems/history-diverged", "/problems/page-too-large"}
	for _, of := range []string{"/feeds/:feed", "/feeds/:feed/views/:view"} {
		paths = append(paths, of, of+"/newer", of+"/jump", of+"/:id")
	}
	for _, path := range paths {
		webserver.GET(r.Readers, path, gin.WrapH(source))
	}
	r.Metrics.MustRegister(log, source)
	return source
}
