// Package source is the base of the source apps: how they start, and how they read requests.
package source

import (
	"context"
	"errors"
	"io"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/gin-gonic/gin"
	"github.com/google/uuid"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/edison-cars/data-feeds/shared/access"
	"github.com/edison-cars/data-feeds/shared/daemon"
	"github.com/edison-cars/data-feeds/shared/feed"
	"github.com/edison-cars/data-feeds/shared/migrate"
	"github.com/edison-cars/data-feeds/shared/postgres"
	"github.com/edison-cars/data-feeds/shared/publish"
	"github.com/edison-cars/data-feeds/shared/service"
	"github.com/edison-cars/data-feeds/shared/trace"
	"github.com/edison-cars/data-feeds/shared/web"
	"github.com/edison-cars/data-feeds/sql"
)

// An App is a source app.
type App struct {
	service.Service
	Erasures publish.Erasures // of personal feeds; else zero
	Keys     KeySettings
	Sweep    string // an SQL statement that deletes expired rows, every minute; empty means none
	// Route adds the app's routes. The settings of the router are complete.
	Route func(*service.Router, *publish.Log) error
}

// Migrations returns the migrations of the database of the named app.
func Migrations(name string) []postgres.Migrations {
	return []postgres.Migrations{sql.Migrations("publish"), sql.Migrations(name)}
}

// Run serves the app until ctx ends.
func (a App) Run(ctx context.Context, settings service.Settings, stdout io.Writer) error {
	logger := daemon.Logger(stdout, settings.LogLevel)
	p, err := service.Open(ctx, a.Service, settings, logger)
	if err != nil {
		return err
	}
	defer p.Close()
	if err := migrate.Complete(ctx, p.Pool, a.Migrations...); err != nil { // without keys, a repeated request is done twice
		return err
	}
	log, err := publish.Open(ctx, p.Pool, publish.Options{
		Logger: logger, Standbys: p.Standbys, Erasures: a.Erasures, CompactAfter: time.Duration(settings.CompactAfter),
	})
	if err != nil {
		return err
	}
	defer log.Close()
	if err := a.Route(p.Router, log); err != nil {
		return err
	}
	p.Go(func(ctx context.Context) { removeOld(ctx, p.Pool, a.Keys.Age, a.Sweep, logger) })
	return p.Serve(ctx)
}

// Links returns the links of all pages of the app, with that to the map, which is for operators.
func Links(r *service.Router, links ...web.Link) []web.Link {
	if r.MapURL != "" {
		links = append(links, web.Link{Text: "Map", URL: r.MapURL + "/", Operators: true})
	}
	return links
}

// Nav returns the links of a page that the client may follow, with the current page marked.
func Nav(c *gin.Context, links []web.Link) []web.Link {
	links = slices.DeleteFunc(slices.Clone(links), func(l web.Link) bool {
		return strings.HasPrefix(l.URL, "/feeds/") && !MayRead(c) || l.Operators && access.Of(c).Role < access.Operator
	})
	for i := range links {
		links[i].Current = links[i].URL == c.Request.URL.Path && c.Request.Method != http.MethodPost // the form again, with its errors
	}
	return links
}

// MayRead reports whether the client may read feeds.
func MayRead(c *gin.Context) bool { return access.Of(c).Role >= access.Reader }

// Route adds the routes of every source app: its feeds and its health. nav are the links on its pages.
func Route(r *service.Router, log *publish.Log, nav []web.Link, feeds ...feed.Description) {
	var names []string
	for _, d := range feeds {
		names = append(names, d.Name)
	}
	r.Health(func(ctx context.Context) error { return Ready(ctx, r.Pool, log, names, r.Tables) })
	r.Nav = func(c *gin.Context) []web.Link { return Nav(c, nav) }
	r.Publish(log, nav, feeds...)
}

// Trace adds what the app tells of an order or customer. nav are the links on its pages.
func Trace(r *service.Router, title string, nav []web.Link, ask func(context.Context, uuid.UUID) (trace.Part, error)) {
	layout := func(_ *http.Request, page string, data any) web.Page {
		return web.Page{Service: title, Title: page, Nav: nav, Data: data}
	}
	r.Trace(layout, func(req *http.Request, id uuid.UUID) (trace.Part, error) { return ask(req.Context(), id) })
}

const standbyTimeout = time.Second // for the synchronous standby to confirm a commit; the app is not ready after it

// Ready returns nil if the process can write its tables and publish on the feeds, and the synchronous standby, if any,
// confirms commits.
func Ready(ctx context.Context, pool *pgxpool.Pool, log *publish.Log, feeds, tables []string) error {
	err := postgres.Writable(ctx, pool)
	if errors.Is(err, postgres.ErrReadOnly) {
		return web.Errorf(http.StatusServiceUnavailable, "Not ready: the database is read-only.")
	}
	if err == nil {
		err = postgres.Unlocked(ctx, pool, postgres.Write, tables)
	}
	if err == nil {
		err = log.Appendable(ctx, feeds...)
	}
	if err == nil {
		err = log.Room(ctx)
	}
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, standbyTimeout)
	defer cancel()
	if log.Ready(ctx) != nil {
		return web.Errorf(http.StatusServiceUnavailable, "Not ready: the synchronous standby does not confirm commits.")
	}
	return nil
}
