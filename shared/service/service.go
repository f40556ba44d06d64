// Package service is the shell of every process of the company: settings, log, listener, access, database, metrics,
// health and clean stop. Code that all processes share belongs here.
package service

import (
	"cmp"
	"context"
	"errors"
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

// A Service describes a process.
type Service struct {
	Name  string // on the command line, of its database, its data folder and its cookies: "sales"
	Title string // on its pages: "Sales"
	Addr  string // host:port that it listens on, unless ADDR sets another one
	Feeds bool   // it publishes feeds

	// Foreign means that its database is another program's: see [postgres.Config].
	Foreign bool

	// Migrations are those of its database, in order; without any, it has no database.
	Migrations []postgres.Migrations
	Schema     string // of its tables: see [postgres.Config]
}

// Settings are those of every process. [Service.Help] leaves out those that a service does not use.
type Settings struct {
	HTTPSettings
	FeedSettings
	ReadSettings
	DatabaseSettings
}

// An Age is how old something becomes before it is removed.
type Age time.Duration

// UnmarshalText reads a duration of at least an hour.
func (a *Age) UnmarshalText(text []byte) error {
	d, err := time.ParseDuration(string(text))
	if err != nil || d < time.Hour {
		return errors.New("takes a duration of at least 1h, such as 168h")
	}
	*a = Age(d)
	return nil
}

// HTTPSettings configure the server and the log.
type HTTPSettings struct {
	Addr      string   `env:"ADDR"` // "" means the service's default
	PublicURL web.Site `env:"PUBLIC_URL" help:"where clients reach this service, for the links in its documents; defaults to http://localhost:PORT, with TLS https"`
	MapURL    web.Site `env:"MAP_URL" help:"address of the map, http://localhost:8079, to which operators' pages lead; none by default"`
	access.Settings
	TLSCertFile    string            `env:"TLS_CERT_FILE" help:"PEM file of the certificate, for TLS; requires TLS_KEY_FILE; reread when it changes"`
	TLSKeyFile     string            `env:"TLS_KEY_FILE" help:"PEM file of its key"`
	TrustedProxies webserver.Proxies `env:"TRUSTED_PROXIES" help:"addresses and networks of proxies whose X-Forwarded-For and X-Forwarded-Proto are trusted: 10.0.0.0/8,192.0.2.7"`
	AccessLog      bool              `env:"ACCESS_LOG" envDefault:"true" help:"true or false: log each request"`
	LogLevel       daemon.Level      `env:"LOG_LEVEL" envDefault:"info" help:"debug, info, warn or error"`
}

// FeedSettings configure a service that publishes feeds.
type FeedSettings struct {
	FeedMaxAge   time.Duration `env:"FEED_MAX_AGE" envDefault:"0s" help:"how long caches may reuse the end of a feed without revalidation, such as 2s for a CDN that collapses polls"`
	CompactAfter Age           `env:"COMPACT_AFTER" help:"how long entries of feeds keep their content after the time of a newer version, at least 1h, such as 720h; for ever by default"`
	web.Limits
}

// ReadSettings configure a service that publishes feeds of a database.
type ReadSettings struct {
	DatabaseReadURL string `env:"DATABASE_READ_URL" help:"hot standbys of DATABASE_URL, from which pages of feeds are read: postgres://db2,db3/sales; none by default"`
}

// DatabaseSettings configure a service with a database.
type DatabaseSettings struct {
	DatabaseURL string `env:"DATABASE_URL" help:"PostgreSQL server, or PgBouncer with pool_mode=session; a private server by default"`
	DataDir     string `env:"DATA_DIR" help:"folder of the private PostgreSQL; .edison by default"`
	PGBin       string `env:"PGBIN" help:"folder of PostgreSQL's binaries; searched for by default"`
}

// Help prints the settings of the service, and own settings in the forms that [daemon.Help] takes.
func (s Service) Help(w io.Writer, own ...any) { daemon.Help(w, s.With(own...)...) }

// With returns the settings of the service with its own ones, as [daemon.Help] and [daemon.Names] take them.
func (s Service) With(own ...any) []any {
	all := append([]any{daemon.Setting{Name: "ADDR", Default: s.Addr, Help: "host:port to listen on"}, HTTPSettings{}}, own...)
	if s.Feeds {
		all = append(all, FeedSettings{})
	}
	switch {
	case s.Foreign:
		all = append(all, daemon.Setting{Name: "DATABASE_URL", Help: "the PostgreSQL database, or PgBouncer with pool_mode=session; required. " +
			"?search_path=SCHEMA leads to the tables of the feeds if the role's search_path does not"})
	case s.Migrations != nil:
		all = append(all, DatabaseSettings{})
	}
	if s.Feeds && s.Migrations != nil {
		all = append(all, ReadSettings{})
	}
	return all
}

// Arguments returns an error if the command NAME was given arguments, which it does not take. For --help it calls help
// and returns [flag.ErrHelp].
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

// Check returns an error for each wrong value that [daemon.Parse] has accepted.
func (s Settings) Check() error {
	var wrong []error
	if err := s.HTTPSettings.Settings.Check(); err != nil {
		wrong = append(wrong, daemon.Usagef("%w", err))
	}
	if _, _, err := net.SplitHostPort(s.Addr); err != nil && s.Addr != "" {
		wrong = append(wrong, daemon.Usagef("ADDR=%q: takes host:port, such as 127.0.0.1:8080 or :8080", s.Addr))
	}
	if _, err := s.Complete(); err != nil {
		wrong = append(wrong, daemon.Usagef("%w", err))
	}
	if s.DatabaseReadURL != "" && s.DatabaseURL == "" {
		wrong = append(wrong, daemon.Usagef("DATABASE_READ_URL names standbys of DATABASE_URL, which must be set, too"))
	}
	if s.FeedMaxAge < 0 || s.FeedMaxAge%time.Second != 0 {
		wrong = append(wrong, daemon.Usagef("FEED_MAX_AGE takes whole seconds from 0s"))
	}
	return errors.Join(wrong...)
}

// Configure reads the settings of a command from the environment into the struct that set points to, after [Arguments].
// The error names all wrong values.
func Configure(name string, args []string, env map[string]string, set any, stdout io.Writer, help func()) error {
	if err := Arguments(name, args, stdout, help); err != nil {
		return err
	}
	err := daemon.Parse(env, set)
	if all, ok := set.(interface{ Check() error }); ok {
		err = errors.Join(err, all.Check())
	}
	return err
}

// A Process is a service that is ready to serve.
type Process struct {
	*Router
	Standbys []*pgxpool.Pool // of the database, for [publish.Options]

	listener   net.Listener
	database   *postgres.DB
	life       context.Context // until Close
	stop       func()
	background sync.WaitGroup
}

// Open opens the listener and the database, and migrates it. Add routes to its [Router] before [Process.Serve].
func Open(ctx context.Context, s Service, set Settings, logger *slog.Logger) (_ *Process, err error) {
	p := new(Process)
	p.life, p.stop = context.WithCancel(ctx)
	defer func() {
		if err != nil {
			p.Close()
		}
	}()
	if err := set.Check(); err != nil {
		return nil, err
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
	if n := len(s.Migrations); n > 0 {
		p.database, err = postgres.Open(ctx, postgres.Config{
			URL: set.DatabaseURL, ReadURL: set.DatabaseReadURL, Name: s.Name, Schema: s.Schema, Foreign: s.Foreign, Dir: set.DataDir, Bin: set.PGBin, Logger: logger,
		}, slices.Insert(slices.Clone(s.Migrations), n-1, sql.Migrations("access"))...) // the service's own are the last
		if err != nil {
			return nil, err
		}
		pool, p.Standbys = p.database.Pool, p.database.Standbys
	}
	if p.Router, err = NewRouter(s, set, pool, logger); err != nil {
		return nil, daemon.Usagef("%w", err)
	}
	if p.access.Shut() {
		logger.WarnContext(ctx, "access is closed and no token is listed; set TOKENS or TOKENS_FILE, or on this machine ACCESS=open")
	}
	p.Go(p.access.Run)
	return p, nil
}

// Go runs f in the background until [Process.Close], which ends the context of f and waits for it.
func (p *Process) Go(f func(context.Context)) { p.background.Go(func() { f(p.life) }) }

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

// Serve answers requests until ctx ends, then gives running ones and their tasks 10 s to end.
func (p *Process) Serve(ctx context.Context) error {
	for _, route := range p.Engine.Routes() {
		p.Logger.DebugContext(ctx, "route", "method", route.Method, "path", route.Path)
	}
	return webserver.ServeListener(ctx, p.listener, p.Engine, p.Logger)
}

// Close closes what Open opened.
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
