// Package service is the shell of every process of the company: its settings, log, listener, access, database, metrics and
// health, and its orderly end. What is common to all processes is written here, and nowhere else.
package service

import (
	"cmp"
	"context"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"net"
	"slices"
	"sync"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/edison-cars/data-feeds/shared/access"
	"github.com/edison-cars/data-feeds/shared/daemon"
	"github.com/edison-cars/data-feeds/shared/postgres"
	"github.com/edison-cars/data-feeds/shared/web"
	"github.com/edison-cars/data-feeds/shared/webserver"
	"github.com/edison-cars/data-feeds/sql"
)

// A Service describes a process before it runs.
type Service struct {
	Name  string // on the command line, of its database, its data folder and its cookies: "sales"
	Title string // on its pages: "Sales"
	Addr  string // host:port that it listens on, unless ADDR sets another one
	Feeds bool   // it publishes feeds

	// Migrations are those of its database, in order. A service without any has no database.
	Migrations []postgres.Migrations
}

// Settings are those that every process reads from its environment. [Service.Help] leaves out the ones that a service has no use for.
type Settings struct {
	HTTPSettings
	FeedSettings
	DatabaseSettings
}

// HTTPSettings say where and for whom a process answers, and what it logs.
type HTTPSettings struct {
	Addr      string   `env:"ADDR"` // "" means that of the service
	PublicURL web.Site `env:"PUBLIC_URL" help:"where clients reach this service, for the links in its documents; defaults to http://localhost:PORT, with TLS https"`
	access.Settings
	TLSCertFile    string            `env:"TLS_CERT_FILE" help:"PEM file of the certificate, for TLS; goes with TLS_KEY_FILE; read again when it changes"`
	TLSKeyFile     string            `env:"TLS_KEY_FILE" help:"PEM file of its key"`
	TrustedProxies webserver.Proxies `env:"TRUSTED_PROXIES" help:"addresses and networks whose X-Forwarded-For and X-Forwarded-Proto are believed: 10.0.0.0/8,192.0.2.7"`
	AccessLog      bool              `env:"ACCESS_LOG" envDefault:"true" help:"true or false: a line in the log for each request"`
	LogLevel       string            `env:"LOG_LEVEL" envDefault:"info" help:"debug, info, warn or error"`
}

// FeedSettings are those of a service that publishes feeds.
type FeedSettings struct {
	FeedMaxAge time.Duration `env:"FEED_MAX_AGE" envDefault:"0s" help:"how long caches may answer for the end of a feed without asking, such as 2s where a CDN should collapse pollers"`
	web.Limits
}

// DatabaseSettings are those of a service with a database.
type DatabaseSettings struct {
	DatabaseURL string `env:"DATABASE_URL" help:"PostgreSQL server, or PgBouncer with pool_mode=session; a private one if left out"`
	DataDir     string `env:"DATA_DIR" help:"folder of the private PostgreSQL; .edison if left out"`
	PGBin       string `env:"PGBIN" help:"folder of PostgreSQL's binaries; found by itself if left out"`
}

// Help prints the settings of the service and the given ones of its own, in the forms that [daemon.Help] takes.
func (s Service) Help(w io.Writer, own ...any) {
	all := append([]any{daemon.Setting{Name: "ADDR", Default: s.Addr, Help: "host:port to listen on"}, HTTPSettings{}}, own...)
	if s.Feeds {
		all = append(all, FeedSettings{})
	}
	if s.Migrations != nil {
		all = append(all, DatabaseSettings{})
	}
	daemon.Help(w, all...)
}

// Arguments refuses arguments of the command NAME, which takes none. For --help it calls help and returns [flag.ErrHelp].
func Arguments(name string, args []string, stdout io.Writer, help func()) error {
	flags := flag.NewFlagSet(name, flag.ContinueOnError)
	flags.SetOutput(stdout)
	flags.Usage = help
	if err := flags.Parse(args); err != nil {
		return daemon.Usagef("%w", err)
	}
	if flags.NArg() > 0 {
		return daemon.Usagef("%s takes no argument %q; see --help", name, flags.Arg(0))
	}
	return nil
}

// A Process is a service that is about to answer requests.
type Process struct {
	*Router

	listener   net.Listener
	database   *postgres.DB
	stop       func()
	background sync.WaitGroup
}

// Open listens, opens the database and migrates it. What the process answers is added to its [Router], before [Process.Serve].
func Open(ctx context.Context, s Service, set Settings, logger *slog.Logger) (_ *Process, err error) {
	p := &Process{stop: func() {}}
	defer func() {
		if err != nil {
			p.Close()
		}
	}()
	if _, err := set.Complete(); err != nil {
		return nil, daemon.Usagef("%w", err)
	}
	if set.FeedMaxAge < 0 || set.FeedMaxAge%time.Second != 0 {
		return nil, daemon.Usagef("FEED_MAX_AGE takes whole seconds from 0s")
	}
	if p.listener, err = webserver.Listen(ctx, cmp.Or(set.Addr, s.Addr)); err != nil {
		return nil, err
	}
	secured, err := webserver.ListenTLS(p.listener, set.TLSCertFile, set.TLSKeyFile, logger)
	if err != nil {
		return nil, daemon.Usagef("%w", err)
	}
	p.listener = secured
	set.PublicURL = publicURL(set, p.listener.Addr())
	var pool *pgxpool.Pool
	if s.Migrations != nil {
		p.database, err = postgres.Open(ctx, postgres.Config{
			URL: set.DatabaseURL, Name: s.Name, Dir: set.DataDir, Bin: set.PGBin, Logger: logger,
		}, s.migrations()...)
		if err != nil {
			return nil, err
		}
		pool = p.database.Pool
	}
	if p.Router, err = NewRouter(s, set, pool, logger); err != nil {
		return nil, daemon.Usagef("%w", err)
	}
	if p.access.Shut() {
		logger.WarnContext(ctx, "access is closed and no token is listed; set TOKENS or TOKENS_FILE, or on this machine ACCESS=open")
	}
	background, stop := context.WithCancel(ctx)
	p.stop = stop
	p.background.Go(func() { p.access.Run(background) })
	return p, nil
}

// migrations returns the migrations of access and of the service, in this order.
func (s Service) migrations() []postgres.Migrations {
	return slices.Insert(slices.Clone(s.Migrations), len(s.Migrations)-1, sql.Migrations("access"))
}

func publicURL(set Settings, at net.Addr) web.Site {
	if set.PublicURL != "" {
		return set.PublicURL
	}
	scheme := "http"
	if set.TLSCertFile != "" {
		scheme = "https"
	}
	_, port, _ := net.SplitHostPort(at.String())
	return web.Site(fmt.Sprintf("%s://localhost:%s", scheme, port))
}

// Serve answers requests until ctx ends, then lets running ones end for up to 10 s. At level debug it logs each route first.
func (p *Process) Serve(ctx context.Context) error {
	for _, route := range p.Engine.Routes() {
		p.Logger.DebugContext(ctx, "route", "method", route.Method, "path", route.Path)
	}
	return webserver.ServeListener(ctx, p.listener, p.Engine, p.Logger)
}

// Close closes what Open has opened.
func (p *Process) Close() {
	p.stop()
	p.background.Wait()
	if p.database != nil {
		p.database.Close()
	}
	if p.listener != nil {
		p.listener.Close()
	}
}
