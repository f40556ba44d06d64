// Package source is what the source apps share: the settings of a server that publishes feeds, its life, and how it reads
// requests.
package source

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"time"

	"github.com/gin-gonic/gin"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/edison-cars/data-feeds/shared/daemon"
	"github.com/edison-cars/data-feeds/shared/feed"
	"github.com/edison-cars/data-feeds/shared/postgres"
	"github.com/edison-cars/data-feeds/shared/publish"
	"github.com/edison-cars/data-feeds/shared/web"
	"github.com/edison-cars/data-feeds/sql"
)

// Settings that every source app has beside its own.
type Settings struct {
	PublicURL      string        `env:"PUBLIC_URL" help:"where readers reach this app, for the links in its documents; defaults to http://localhost:PORT, with TLS https"`
	FeedTokens     web.Readers   `env:"FEED_TOKENS" help:"who may read the feeds: name:hash,name:hash, as sales-feed token NAME prints them; everybody if left out, but a feed of people only on this machine"`
	FeedMaxAge     time.Duration `env:"FEED_MAX_AGE" envDefault:"0s" help:"how long caches may answer for the end of a feed without asking, such as 2s where a CDN should collapse pollers"`
	TLSCertFile    string        `env:"TLS_CERT_FILE" help:"PEM file of the certificate, for TLS; goes with TLS_KEY_FILE; read again when it changes"`
	TLSKeyFile     string        `env:"TLS_KEY_FILE" help:"PEM file of its key"`
	TrustedProxies web.Proxies   `env:"TRUSTED_PROXIES" help:"addresses and networks whose X-Forwarded-For says who a client is: 10.0.0.0/8,192.0.2.7"`
	web.Limits
	AccessLog   bool   `env:"ACCESS_LOG" envDefault:"true" help:"true or false: a line in the log for each request"`
	DatabaseURL string `env:"DATABASE_URL" help:"PostgreSQL server, or PgBouncer with pool_mode=session; a private one if left out"`
	DataDir     string `env:"DATA_DIR" help:"folder of the private PostgreSQL; .edison if left out"`
	PGBin       string `env:"PGBIN" help:"folder of PostgreSQL's binaries; found by itself if left out"`
	LogLevel    string `env:"LOG_LEVEL" envDefault:"info" help:"debug, info, warn or error"`
}

// An App is a source app that can run.
type App struct {
	Name     string // of its database and of its migrations
	Addr     string // host:port
	Settings Settings
	Erasures publish.Erasures // where feeds say something of people; else zero
	// Engine answers its requests. The settings that it gets have a PublicURL.
	Engine func(Settings, *pgxpool.Pool, *publish.Log, *slog.Logger) (*gin.Engine, error)
}

// Migrations are those of the database of the app with this name.
func Migrations(name string) []postgres.Migrations {
	return []postgres.Migrations{sql.Migrations("publish"), sql.Migrations(name)}
}

// Run serves the app until ctx ends.
func (a App) Run(ctx context.Context, stdout io.Writer) error {
	s := a.Settings
	logger, err := daemon.Logger(stdout, s.LogLevel)
	if err != nil {
		return err
	}
	if _, err := s.Limits.Complete(); err != nil {
		return daemon.Usagef("%w", err)
	}
	ln, err := web.Listen(ctx, a.Addr)
	if err != nil {
		return err
	}
	defer ln.Close()
	if ln, err = web.ListenTLS(ln, s.TLSCertFile, s.TLSKeyFile, logger); err != nil {
		return daemon.Usagef("%w", err)
	}
	db, err := postgres.Open(ctx, postgres.Config{
		URL: s.DatabaseURL, Name: a.Name, Dir: s.DataDir, Bin: s.PGBin, Logger: logger,
	}, Migrations(a.Name)...)
	if err != nil {
		return err
	}
	defer db.Close()
	log, err := a.open(ctx, db.Pool, logger)
	if err != nil {
		return err
	}
	defer log.Close()
	if s.PublicURL == "" {
		_, port, _ := net.SplitHostPort(ln.Addr().String())
		s.PublicURL = "http://localhost:" + port
		if s.TLSCertFile != "" {
			s.PublicURL = "https://localhost:" + port
		}
	}
	engine, err := a.Engine(s, db.Pool, log, logger)
	if err != nil {
		return err
	}
	background, stop := context.WithCancel(ctx)
	var removing sync.WaitGroup
	removing.Go(func() { removeOldKeys(background, db.Pool, logger) })
	defer removing.Wait()
	defer stop()
	return web.ServeListener(ctx, ln, engine, logger)
}

func (a App) open(ctx context.Context, pool *pgxpool.Pool, logger *slog.Logger) (*publish.Log, error) {
	if a.Erasures.File == "" {
		return publish.Open(ctx, pool, logger)
	}
	return publish.OpenPersonal(ctx, pool, logger, a.Erasures)
}

// NewEngine gives an engine with what every app answers: its feeds, its metrics and its health. Of the settings it takes
// those of HTTP: what is public, and who may read the feeds. title and nav are those of the pages.
func NewEngine(s Settings, title string, nav []web.Link, pool *pgxpool.Pool, log *publish.Log, logger *slog.Logger, feeds ...feed.Description) (*gin.Engine, error) {
	registry := web.NewMetrics()
	observers := []gin.HandlerFunc{web.CountRequests(registry)}
	if s.AccessLog {
		observers = append(observers, web.AccessLog(logger))
	}
	r := web.New(logger, observers...)
	if err := s.TrustedProxies.Trust(r); err != nil {
		return nil, err
	}
	web.Health(r, func(ctx context.Context) error { return ready(ctx, pool, log) })
	readers := r.Group("", s.FeedTokens.Require())
	source := publish.NewSource(log, publish.Config{
		Name: title, PublicURL: s.PublicURL, Nav: nav, MaxAge: s.FeedMaxAge, Private: !s.FeedTokens.Everybody(), Limits: s.Limits,
	}, feeds...)
	source.Route(readers)
	registry.MustRegister(log, source, postgres.NewMetrics(pool))
	web.Metrics(readers, registry)
	return r, nil
}

const standbyTimeout = time.Second // for the synchronous standby to confirm a commit, until the app is not ready

// ready returns nil if the app can write its tables, and publish, now, and the synchronous standby, if there is one, confirms it.
func ready(ctx context.Context, pool *pgxpool.Pool, log *publish.Log) error {
	err := postgres.Writable(ctx, pool)
	if errors.Is(err, postgres.ErrReadOnly) {
		return web.Errorf(http.StatusServiceUnavailable, "Not ready: the database is read-only.")
	}
	if err == nil {
		err = postgres.Unlocked(ctx, pool, postgres.Write)
	}
	if err == nil { // the row that each publication takes, of a table that is missing while a backup is restored
		_, err = pool.Exec(ctx, `begin; select from feed order by name for share; rollback`)
	}
	if err == nil { // nothing is served of a database that has to be erased again, and cannot be
		err = log.View(ctx, func(pgx.Tx) error { return nil })
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
		return web.Errorf(http.StatusServiceUnavailable, "Not ready: the synchronous standby does not confirm what is written.")
	}
	return nil
}

// A Site is where another app is found: http or https, without a slash at the end.
type Site string

// UnmarshalText reads a URL such as http://localhost:8080.
func (s *Site) UnmarshalText(text []byte) error {
	u, err := url.Parse(string(text))
	if err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Host == "" || u.User != nil || u.RawQuery != "" || u.Fragment != "" {
		return errors.New("takes a URL such as http://localhost:8080")
	}
	*s = Site(strings.TrimSuffix(u.String(), "/"))
	return nil
}

// Origin is its scheme, host and port (RFC 6454).
func (s Site) Origin() string {
	scheme, rest, _ := strings.Cut(string(s), "://")
	host, _, _ := strings.Cut(rest, "/")
	return scheme + "://" + host
}
