// Package subscriber is the shell of a subscriber's process: settings, database, pages and the subscriber itself.
package subscriber

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"net/url"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/edison-cars/data-feeds/shared/daemon"
	"github.com/edison-cars/data-feeds/shared/eventstream"
	"github.com/edison-cars/data-feeds/shared/feed"
	"github.com/edison-cars/data-feeds/shared/feedclient"
	"github.com/edison-cars/data-feeds/shared/postgres"
	"github.com/edison-cars/data-feeds/shared/publish"
	"github.com/edison-cars/data-feeds/shared/service"
	"github.com/edison-cars/data-feeds/shared/subscribe"
	"github.com/edison-cars/data-feeds/shared/trace"
	"github.com/edison-cars/data-feeds/shared/web"
	"github.com/edison-cars/data-feeds/sql"
)

// A Service is one subscriber. Several may share a database, where one process of each polls: their tables, migrations
// and published feeds need names of their own, else a service does not start.
type Service struct {
	Name       string // "warehouse": its database, its folder, and what it is called on the command line
	Title      string // "Warehouse"
	Text       string // one line: what it does
	Addr       string // host:port that it listens on by default
	Migrations postgres.Migrations
	Schema     string           // of the tables that the migrations make: see [postgres.Config]
	Feeds      []subscribe.Feed // their URL and Schedule hold unless FEED_URL_NAME and POLL_NAME set others
	Routes     func(*Site)      // adds its pages and JSON; nil is none

	// Trace returns what the service knows of an order; nil means nothing.
	Trace func(ctx context.Context, s *Site, id uuid.UUID) (trace.Part, error)

	// Any returns the Feed for a FEED_URL_NAME in the environment. If there are any, they replace Feeds. Nil: always
	// Feeds.
	Any func(name string) subscribe.Feed

	// Prepare is called at the start, before the feeds are subscribed to, and may change them, but for where and when
	// they are read; nil is none.
	Prepare func(ctx context.Context, db *pgxpool.Pool, feeds []subscribe.Feed) error

	// Settings points to a struct of the service's own settings, for daemon.Parse, filled first of all; nil is none.
	Settings any
	// Work does what has become due, such as a mail to be sent, and returns. It is called about once a second, one call
	// at a time, in the one process of the service that polls; nil is none. Its context ends after WorkTimeout. An
	// error is logged, and Work called again.
	Work        func(context.Context, *Site) error
	WorkTimeout time.Duration // 0: 5 minutes
	// Current is reset whenever this process begins to poll; nil is none.
	Current *subscribe.Current
	// Release is called when this process stops or another one polls, to release what Work holds; nil is none.
	Release func()

	// Publishes describes the feeds that the service publishes itself. publicURL is its address for readers; nil is
	// none. A migration of the service makes each feed by `select feed_create('NAME')`. Apply appends to them with
	// [subscribe.Publishing], all other code with Site.Log.
	Publishes func(publicURL string) []feed.Description
}

// settings are those of every subscriber, beside those of every process.
type settings struct {
	service.Settings
	Reader readerSettings
}

type readerSettings struct {
	FeedToken  string                `env:"FEED_TOKEN" help:"token that the sources of its feeds know it by; a feed whose URL has a user is asked by that"`
	PlainHosts feedclient.PlainHosts `env:"PLAIN_HOSTS" help:"hosts of a private network, sales,customers, to which FEED_TOKEN and the passwords in URLs of feeds may be sent without TLS, as they may to localhost"`
	PageSize   pageSize              `env:"PAGE_SIZE" envDefault:"1000" help:"entries to ask for at once, 1 to 1000"`
	PollWait   time.Duration         `env:"POLL_WAIT" envDefault:"0s" help:"how long a request waits at the source for something new, 0s to 30s: with 25s the copy is milliseconds behind"`
	RecordAge  service.Age           `env:"RECORD_AGE" envDefault:"2160h" help:"how long records of the past are kept, at least 1h: polls, and what a resync has read of a feed that is not copied any more"`
}

type pageSize int

// UnmarshalText reads a number of entries.
func (p *pageSize) UnmarshalText(text []byte) error {
	n, err := strconv.Atoi(string(text))
	if err != nil || n < 1 || n > feed.MaxPageSize {
		return fmt.Errorf("takes a whole number from 1 to %d", feed.MaxPageSize)
	}
	*p = pageSize(n)
	return nil
}

func (s *Service) shell() service.Service {
	return service.Service{Name: s.Name, Title: s.Title, Addr: s.Addr, Feeds: s.Publishes != nil, Migrations: s.migrations(), Schema: s.Schema}
}

// Help prints the service's settings.
func (s *Service) Help(w io.Writer) {
	fmt.Fprintf(w, "%s: %s\n\nSettings (environment):\n", s.Name, s.Text)
	daemon.Help(w, s.settings()...)
}

// settings returns those of the service, as [daemon.Help] takes them.
func (s *Service) settings() []any {
	of := []any{readerSettings{}}
	if s.Settings != nil {
		of = append(of, s.Settings)
	}
	for _, f := range s.Feeds {
		any := ""
		if s.Any != nil {
			any = ", unless others are given: FEED_URL_NAME, POLL_NAME and STREAM_NAME for the feed name"
		}
		of = append(of,
			daemon.Setting{Name: variable("FEED_URL", f.Name), Default: f.URL, Help: "the feed " + f.Name + "; of several sources with names, such as regions: eu=URL us=URL" + any},
			daemon.Setting{Name: variable("POLL", f.Name), Default: f.Schedule, Help: "when to ask it, until it is set at run time: a cron expression (UTC, seconds optional), @hourly ..., @every 5s"},
			daemon.Setting{Name: variable("STREAM", f.Name), Help: "a RabbitMQ to which a relay sends the feed, to hear at once of what is new: amqp://user:password@host:5672/vhost, amqps://... for TLS, or eu=amqp://... of each source with a name; none if left out"})
	}
	return s.shell().With(of...)
}

// WarnMisspelled logs a warning for each variable that looks like a misspelled setting of the service. Those of the
// others, which may share an environment, are known.
func (s *Service) WarnMisspelled(ctx context.Context, env map[string]string, stdout io.Writer, others ...*Service) {
	var known []string
	for _, o := range append(others, s) {
		known = append(known, daemon.Names(o.settings()...)...)
	}
	for name := range env {
		if of, ok := strings.CutPrefix(name, "FEED_URL_"); ok {
			known = append(known, "POLL_"+of, "STREAM_"+of)
			if s.Any != nil {
				known = append(known, name)
			}
		}
	}
	daemon.WarnMisspelled(ctx, env, stdout, known, "POLL_", "STREAM_")
}

// feeds are those that the service copies in this environment.
func (s *Service) feeds(env map[string]string) []subscribe.Feed {
	var given []subscribe.Feed
	for _, name := range slices.Sorted(maps.Keys(env)) {
		if of, ok := strings.CutPrefix(name, "FEED_URL_"); ok && s.Any != nil && env[name] != "" {
			given = append(given, s.Any(strings.ToLower(strings.ReplaceAll(of, "_", "-"))))
		}
	}
	if given == nil {
		return slices.Clone(s.Feeds)
	}
	return given
}

// variable returns the environment variable of one feed: POLL_ORDERS.
func variable(prefix, feed string) string {
	return prefix + "_" + strings.ToUpper(strings.ReplaceAll(feed, "-", "_"))
}

// Run runs the service until ctx ends, then finishes the page that it is applying, if that takes no more than 5 s.
func (s *Service) Run(ctx context.Context, env map[string]string, stdout io.Writer) error {
	set := settings{}
	into := []any{&set}
	if s.Settings != nil {
		into = append(into, s.Settings)
	}
	wrong := []error{daemon.Parse(env, into...), set.Check()}
	if !feedclient.IsToken(set.Reader.FeedToken) {
		wrong = append(wrong, daemon.Usagef("FEED_TOKEN takes a token: printable ASCII characters without spaces"))
	}
	if !subscribe.ValidWait(set.Reader.PollWait) {
		wrong = append(wrong, daemon.Usagef("POLL_WAIT takes whole seconds from 0s to 30s"))
	}
	logger := daemon.Logger(stdout, set.LogLevel)
	feeds := s.feeds(env)
	sources := make([][]subscribe.Feed, len(feeds))
	for i, f := range feeds {
		of, err := sourcesOf(f, env)
		for j := range of {
			err = errors.Join(err, s.configure(&of[j], env, set.Reader, logger))
		}
		sources[i], wrong = of, append(wrong, err)
	}
	if err := errors.Join(wrong...); err != nil {
		return err
	}
	process, err := service.Open(ctx, s.shell(), set.Settings, logger)
	if err != nil {
		return err
	}
	defer process.Close()
	var log *publish.Log
	closeLog := func() {}
	if s.Publishes != nil {
		if log, err = publish.Open(ctx, process.Pool, publish.Options{
			Logger: logger, Standbys: process.Standbys, CompactAfter: time.Duration(set.CompactAfter),
		}); err != nil {
			return err
		}
		closeLog = sync.OnceFunc(log.Close)
		defer closeLog()
	}
	if s.Prepare != nil {
		if err := s.Prepare(ctx, process.Pool, feeds); err != nil {
			return err
		}
	}
	var all []subscribe.Feed
	for i, f := range feeds { // as Prepare has left it
		for _, of := range sources[i] {
			f.Source, f.URL, f.Schedule, f.ScheduleSource, f.Stream = of.Source, of.URL, of.Schedule, of.ScheduleSource, of.Stream
			all = append(all, f)
		}
	}
	site := NewSite(s, process.Router, log)
	sub, err := subscribe.New(ctx, site.DB, s.options(site, set.Reader, logger), all...)
	if err != nil {
		return err
	}
	process.Metrics.MustRegister(sub)

	ctx, stop := context.WithCancel(ctx)
	var polling sync.WaitGroup
	defer func() {
		stop()
		defer time.AfterFunc(stopTimeout, closeLog).Stop() // it gives up commits that hang
		polling.Wait()
	}()
	site.Route(sub)
	polling.Go(func() { sub.Run(ctx) })
	return process.Serve(ctx)
}

const stopTimeout = 5 * time.Second // for what runs at the stop

// options returns those of the service's subscriber.
func (s *Service) options(site *Site, set readerSettings, logger *slog.Logger) subscribe.Options {
	o := subscribe.Options{
		Name: s.Name, Logger: logger, Token: set.FeedToken, PlainHosts: set.PlainHosts, Wait: set.PollWait, PageSize: int(set.PageSize),
		Log: site.Log, RecordAge: time.Duration(set.RecordAge), WorkTimeout: s.WorkTimeout, Current: s.Current, Release: s.Release,
	}
	if s.Work != nil {
		o.Work = func(ctx context.Context) error {
			if err := s.Work(ctx, site); err != nil {
				return errors.New(web.Unquoted(err)) // it goes to the log
			}
			return nil
		}
	}
	return o
}

// beginsWithName tells values of sources with names, "eu=https://eu.example/feeds/orders us=...", from a single value.
var beginsWithName = regexp.MustCompile(`^\s*[\w-]*=`)

// named returns the values by the names of their sources, and the names in their order. A single value has no name.
func named(text string) (values map[string]string, names []string, err error) {
	if !beginsWithName.MatchString(text) {
		return map[string]string{"": text}, []string{""}, nil
	}
	values = map[string]string{}
	for word := range strings.FieldsSeq(text) {
		name, value, ok := strings.Cut(word, "=")
		_, twice := values[name]
		switch err := subscribe.CheckSource(name); {
		case !ok || name == "" || value == "":
			return nil, nil, errors.New("takes a value, or values of sources with names: eu=VALUE us=VALUE")
		case err != nil:
			return nil, nil, fmt.Errorf("takes values of sources with names, eu=VALUE us=VALUE: %w", err)
		case twice:
			return nil, nil, fmt.Errorf("has the source %s twice", name)
		}
		values[name], names = value, append(names, name)
	}
	return values, names, nil
}

// sourcesOf returns the feed once for each of its sources in the environment.
func sourcesOf(f subscribe.Feed, env map[string]string) (sources []subscribe.Feed, err error) {
	values, names, err := named(env[variable("FEED_URL", f.Name)])
	if err != nil {
		return nil, daemon.Usagef("%s %w", variable("FEED_URL", f.Name), err)
	}
	streams, given, err := named(env[variable("STREAM", f.Name)])
	switch {
	case err != nil:
		return nil, daemon.Usagef("%s %w", variable("STREAM", f.Name), err)
	case names[0] != "" && given[0] == "" && streams[""] != "":
		return nil, daemon.Usagef("%s takes a stream for each source: %s=amqp://...", variable("STREAM", f.Name), names[0])
	}
	for _, name := range given {
		if _, is := values[name]; !is && streams[name] != "" {
			return nil, daemon.Usagef("%s: %s has no source %s", variable("STREAM", f.Name), variable("FEED_URL", f.Name), name)
		}
	}
	for _, name := range names {
		f.Source = name
		sources = append(sources, f)
	}
	return sources, nil
}

// value returns the value of the feed's source in the environment. named has taken it before.
func value(prefix string, f *subscribe.Feed, env map[string]string) string {
	values, _, _ := named(env[variable(prefix, f.Name)])
	return values[f.Source]
}

// configure takes the feed's URL, schedule and stream from the environment. The error names all wrong values.
func (s *Service) configure(f *subscribe.Feed, env map[string]string, set readerSettings, logger *slog.Logger) error {
	var wrong []error
	f.URL = strings.TrimSuffix(cmp.Or(value("FEED_URL", f, env), f.URL), "/")
	if err := subscribe.CheckURL(f.URL); err != nil {
		wrong = append(wrong, daemon.Usagef("%s %w", variable("FEED_URL", f.Name), err))
	} else if u, err := url.Parse(f.URL); err != nil {
		wrong = append(wrong, daemon.Usagef("%s: %w", variable("FEED_URL", f.Name), err))
	} else if err := set.PlainHosts.Check(u, set.FeedToken != "", "PLAIN_HOSTS"); err != nil {
		wrong = append(wrong, daemon.Usagef("%s: %w", variable("FEED_URL", f.Name), err))
	}
	if v := env[variable("POLL", f.Name)]; v != "" {
		f.Schedule, f.ScheduleSource = v, "environment"
	}
	if _, err := subscribe.ParseSchedule(f.Schedule, ""); err != nil {
		wrong = append(wrong, daemon.Usagef("%s: %w", variable("POLL", f.Name), err))
	}
	if v := value("STREAM", f, env); v != "" {
		queue := &eventstream.Queue{Feed: f.Name, Name: s.Name + "." + f.Name, Logger: logger}
		if f.Source != "" {
			queue.Name += "." + f.Source
		}
		if err := queue.Broker.UnmarshalText([]byte(v)); err != nil {
			wrong = append(wrong, daemon.Usagef("%s %w", variable("STREAM", f.Name), err))
		}
		f.Stream = queue
	}
	return errors.Join(wrong...)
}

func (s *Service) migrations() []postgres.Migrations {
	all := []postgres.Migrations{sql.Migrations("subscribe")}
	if s.Publishes != nil {
		all = append(all, sql.Migrations("publish"))
	}
	if s.Migrations.FS != nil {
		all = append(all, s.Migrations)
	}
	return all
}
