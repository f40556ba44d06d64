// Package sales is the sales app: it sells cars, and publishes every order on the orders feed. It knows none of those
// who read it.
package sales

import (
	"context"
	"embed"
	"io"
	"net"
	"net/http"
	"strings"

	"github.com/gin-gonic/gin"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/edison-cars/data-feeds/shared/daemon"
	"github.com/edison-cars/data-feeds/shared/postgres"
	"github.com/edison-cars/data-feeds/shared/publish"
	"github.com/edison-cars/data-feeds/shared/web"
	"github.com/edison-cars/data-feeds/sql"
)

// Settings of the sales app.
type Settings struct {
	Addr        string `env:"ADDR" envDefault:"127.0.0.1:8080" help:"host:port to listen on"`
	PublicURL   string `env:"PUBLIC_URL" help:"where readers reach this app, for the links in its documents; defaults to http://localhost:PORT"`
	DatabaseURL string `env:"DATABASE_URL" help:"PostgreSQL server; a private one if left out"`
	DataDir     string `env:"DATA_DIR" envDefault:".edison" help:"folder of the private PostgreSQL"`
	PGBin       string `env:"PGBIN" help:"folder of PostgreSQL's binaries; found by itself if left out"`
	LogLevel    string `env:"LOG_LEVEL" envDefault:"info" help:"debug, info, warn or error"`
}

// Run serves the sales app until ctx ends.
func Run(ctx context.Context, settings Settings, stdout io.Writer) error {
	logger, err := daemon.Logger(stdout, settings.LogLevel)
	if err != nil {
		return err
	}
	ln, err := web.Listen(ctx, settings.Addr)
	if err != nil {
		return err
	}
	defer ln.Close()
	db, err := postgres.Open(ctx, postgres.Config{
		URL: settings.DatabaseURL, Name: "sales", Dir: settings.DataDir, Bin: settings.PGBin, Logger: logger,
	}, Migrations()...)
	if err != nil {
		return err
	}
	defer db.Close()
	log, err := publish.Open(ctx, db.Pool, logger)
	if err != nil {
		return err
	}
	defer log.Close()
	publicURL := strings.TrimSuffix(settings.PublicURL, "/")
	if publicURL == "" {
		_, port, _ := net.SplitHostPort(ln.Addr().String())
		publicURL = "http://localhost:" + port
	}
	engine := web.New(logger)
	Route(engine, db.Pool, log, publicURL)
	return web.ServeListener(ctx, ln, engine, logger)
}

// Migrations are those of the sales database.
func Migrations() []postgres.Migrations {
	return []postgres.Migrations{sql.Migrations("publish"), sql.Migrations("sales")}
}

//go:embed *.html
var pages embed.FS

var nav = []web.Link{{Text: "Cars", URL: "/"}, {Text: "Orders", URL: "/orders"}, {Text: "Feed", URL: "/feeds/orders"}}

// Route adds the app's routes.
func Route(r gin.IRoutes, pool *pgxpool.Pool, log *publish.Log, publicURL string) {
	h := &handler{store: store{pool, log}}
	web.GET(r, "/", web.Handle(h.storefront))
	web.GET(r, "/models", h.models)
	web.GET(r, "/orders", web.Handle(h.list))
	r.POST("/orders", web.Handle(h.place))
	web.GET(r, "/orders/:id", web.Handle(h.show))
	r.POST("/orders/:id/cancel", web.Handle(h.cancel))
	publish.NewSource(log, publish.Config{Name: "Sales", PublicURL: publicURL, Nav: nav}, ordersFeed(publicURL)).Route(r)
	web.Health(r, pool.Ping)
}

func (h *handler) models(c *gin.Context) {
	c.Header("Cache-Control", "no-cache")
	c.PureJSON(http.StatusOK, catalogue)
}
