// Package sales is the sales app: it sells cars, and publishes every order on the orders feed. It knows none of those
// who read it.
package sales

import (
	"context"
	"embed"
	"io"
	"log/slog"
	"net"
	"net/http"
	"strings"
	"time"

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
	Addr           string        `env:"ADDR" envDefault:"127.0.0.1:8080" help:"host:port to listen on"`
	PublicURL      string        `env:"PUBLIC_URL" help:"where readers reach this app, for the links in its documents; defaults to http://localhost:PORT, with TLS https"`
	FeedTokens     web.Readers   `env:"FEED_TOKENS" help:"who may read the feeds: name:hash,name:hash, as sales-feed token NAME prints them; everybody if left out"`
	FeedMaxAge     time.Duration `env:"FEED_MAX_AGE" envDefault:"0s" help:"how long caches may answer for the end of a feed without asking, such as 2s where a CDN should collapse pollers"`
	TLSCertFile    string        `env:"TLS_CERT_FILE" help:"PEM file of the certificate, for TLS; goes with TLS_KEY_FILE; read again when it changes"`
	TLSKeyFile     string        `env:"TLS_KEY_FILE" help:"PEM file of its key"`
	TrustedProxies web.Proxies   `env:"TRUSTED_PROXIES" help:"addresses and networks whose X-Forwarded-For says who a client is: 10.0.0.0/8,192.0.2.7"`
	AccessLog      bool          `env:"ACCESS_LOG" envDefault:"true" help:"true or false: a line in the log for each request"`
	DatabaseURL    string        `env:"DATABASE_URL" help:"PostgreSQL server; a private one if left out"`
	DataDir        string        `env:"DATA_DIR" envDefault:".edison" help:"folder of the private PostgreSQL"`
	PGBin          string        `env:"PGBIN" help:"folder of PostgreSQL's binaries; found by itself if left out"`
	LogLevel       string        `env:"LOG_LEVEL" envDefault:"info" help:"debug, info, warn or error"`
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
	if ln, err = web.ListenTLS(ln, settings.TLSCertFile, settings.TLSKeyFile, logger); err != nil {
		return daemon.Usagef("%w", err)
	}
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
	if settings.PublicURL == "" {
		_, port, _ := net.SplitHostPort(ln.Addr().String())
		settings.PublicURL = "http://localhost:" + port
		if settings.TLSCertFile != "" {
			settings.PublicURL = "https://localhost:" + port
		}
	}
	engine, err := Engine(settings, db.Pool, log, logger)
	if err != nil {
		return err
	}
	return web.ServeListener(ctx, ln, engine, logger)
}

// Migrations are those of the sales database.
func Migrations() []postgres.Migrations {
	return []postgres.Migrations{sql.Migrations("publish"), sql.Migrations("sales")}
}

//go:embed *.html
var pages embed.FS

var nav = []web.Link{{Text: "Cars", URL: "/"}, {Text: "Orders", URL: "/orders"}, {Text: "Feed", URL: "/feeds/orders"}}

// Engine answers the app's requests. Of the settings it takes those of HTTP: what is public, and who may read the feeds.
func Engine(settings Settings, pool *pgxpool.Pool, log *publish.Log, logger *slog.Logger) (*gin.Engine, error) {
	registry := web.NewMetrics()
	observers := []gin.HandlerFunc{web.CountRequests(registry)}
	if settings.AccessLog {
		observers = append(observers, web.AccessLog(logger))
	}
	r := web.New(logger, observers...)
	if err := settings.TrustedProxies.Trust(r); err != nil {
		return nil, err
	}
	publicURL := strings.TrimSuffix(settings.PublicURL, "/")
	h := &handler{store: store{pool, log}}
	web.GET(r, "/", web.Handle(h.storefront))
	web.GET(r, "/models", h.models)
	web.GET(r, "/orders", web.Handle(h.list))
	r.POST("/orders", web.Handle(h.place))
	web.GET(r, "/orders/:id", web.Handle(h.show))
	r.POST("/orders/:id/cancel", web.Handle(h.cancel))
	web.Health(r, pool.Ping)
	readers := r.Group("", settings.FeedTokens.Require())
	source := publish.NewSource(log, publish.Config{
		Name: "Sales", PublicURL: publicURL, Nav: nav, MaxAge: settings.FeedMaxAge, Private: !settings.FeedTokens.Everybody(),
	}, ordersFeed(publicURL))
	source.Route(readers)
	registry.MustRegister(log, source)
	web.Metrics(readers, registry)
	return r, nil
}

func (h *handler) models(c *gin.Context) {
	c.Header("Cache-Control", "no-cache")
	c.PureJSON(http.StatusOK, catalogue)
}
