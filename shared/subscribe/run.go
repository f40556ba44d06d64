package subscribe

import (
	"context"
	"fmt"
	"io"
	"maps"
	"net/url"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/edison-cars/data-feeds/shared/daemon"
	"github.com/edison-cars/data-feeds/shared/eventstream"
	"github.com/edison-cars/data-feeds/shared/feed"
	"github.com/edison-cars/data-feeds/shared/publish"
	"github.com/edison-cars/data-feeds/shared/service"
)

// settings are those of every subscriber, beside those of every process.
type settings struct {
	service.Settings
	Reader readerSettings
}

type readerSettings struct {
	FeedToken  string          `env:"FEED_TOKEN" help:"token that the sources of its feeds know it by; a feed whose URL has a user is asked by that"`
	PlainHosts feed.PlainHosts `env:"PLAIN_HOSTS" help:"hosts of a private network, sales,customers, to which FEED_TOKEN and the passwords in URLs of feeds may be sent without TLS, as they may to localhost"`
	PageSize   int             `env:"PAGE_SIZE" envDefault:"1000" help:"entries to ask for at once, 1 to 1000"`
	PollWait   time.Duration   `env:"POLL_WAIT" envDefault:"0s" help:"how long a request waits at the source for something new, 0s to 30s: with 25s the copy is milliseconds behind"`
}

// shell describes the service's process.
func (s *Service) shell() service.Service {
	return service.Service{Name: s.Name, Title: s.Title, Addr: s.Addr, Feeds: s.Publishes != nil, Migrations: s.migrations()}
}

// Help prints the service's settings.
func (s *Service) Help(w io.Writer) {
	fmt.Fprintf(w, "%s: %s\n\nSettings (environment):\n", s.Name, s.Text)
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
			daemon.Setting{Name: f.variable("FEED_URL"), Default: f.URL, Help: "the feed " + f.Name + any},
			daemon.Setting{Name: f.variable("POLL"), Default: f.Schedule, Help: "when to ask it, until it is set at run time: a cron expression (UTC, seconds optional), @hourly ..., @every 5s"},
			daemon.Setting{Name: f.variable("STREAM"), Help: "a RabbitMQ to which a relay sends the feed, to hear at once of what is new: amqp://user:password@host:5672/vhost, amqps://... for TLS; none if left out"})
	}
	s.shell().Help(w, of...)
}

// feeds are those that the service copies in this environment.
func (s *Service) feeds(env map[string]string) []Feed {
	var given []Feed
	for _, name := range slices.Sorted(maps.Keys(env)) {
		if of, ok := strings.CutPrefix(name, "FEED_URL_"); ok && s.Any != nil && env[name] != "" {
			given = append(given, s.Any(strings.ToLower(strings.ReplaceAll(of, "_", "-"))))
		}
	}
	if given == nil {
		return s.Feeds
	}
	return given
}

// variable returns the environment variable of one feed: POLL_ORDERS.
func (f *Feed) variable(prefix string) string {
	return prefix + "_" + strings.ToUpper(strings.ReplaceAll(f.Name, "-", "_"))
}

// Run runs the service until ctx ends: then it finishes the page that it is applying, if that takes no more than 5 s,
// and stops.
func (s *Service) Run(ctx context.Context, env map[string]string, stdout io.Writer) error {
	set := settings{}
	if err := daemon.Parse(env, &set); err != nil {
		return err
	}
	if s.Settings != nil {
		if err := daemon.Parse(env, s.Settings); err != nil {
			return err
		}
	}
	if set.Reader.PageSize < 1 || set.Reader.PageSize > feed.MaxPageSize {
		return daemon.Usagef("PAGE_SIZE takes a whole number from 1 to %d", feed.MaxPageSize)
	}
	if strings.ContainsFunc(set.Reader.FeedToken, func(r rune) bool { return r <= ' ' || r > '~' }) {
		return daemon.Usagef("FEED_TOKEN takes a token: printable ASCII characters without spaces")
	}
	logger, err := daemon.Logger(stdout, set.LogLevel)
	if err != nil {
		return err
	}
	if !validWait(set.Reader.PollWait) {
		return daemon.Usagef("POLL_WAIT takes whole seconds from 0s to %v", maxWait)
	}
	site := &Site{service: s}
	for _, f := range s.feeds(env) {
		p := newPoller(s.Name, f, feed.NewClient(set.Reader.FeedToken), tuning{wait: set.Reader.PollWait, pageSize: set.Reader.PageSize}, logger)
		p.acting = s.Current
		if err := p.configure(env); err != nil {
			return err
		}
		if err := p.checkSecret(set); err != nil {
			return err
		}
		site.pollers = append(site.pollers, p)
	}
	process, err := service.Open(ctx, s.shell(), set.Settings, logger)
	if err != nil {
		return err
	}
	defer process.Close()
	site.router, site.DB = process.Router, process.Pool
	closeLog := func() {}
	if s.Publishes != nil {
		if site.Log, err = publish.Open(ctx, site.DB, publish.Options{Logger: logger}); err != nil {
			return err
		}
		closeLog = sync.OnceFunc(site.Log.Close)
		defer closeLog()
	}

	ctx, stop := context.WithCancel(ctx)
	var polling sync.WaitGroup
	defer func() {
		stop()
		defer time.AfterFunc(stopTimeout, closeLog).Stop() // it gives up commits that hang
		polling.Wait()
	}()
	for _, p := range site.pollers {
		process.Metrics.MustRegister(p)
		p.pool, p.log = site.DB, site.Log
		if err := p.takeOver(ctx, s.Migrations.Name); err != nil {
			return fmt.Errorf("take over the subscription to %s from an older version: %w", p.Name, err)
		}
		if err := p.create(ctx); err != nil {
			return fmt.Errorf("subscribe to %s: %w", p.Name, err)
		}
		if _, err := p.row.load(ctx); err != nil {
			return err
		}
		defer p.fetcher.client.Close()
	}
	polling.Go(func() { (&lease{site, logger}).run(ctx) })
	site.route()
	return process.Serve(ctx)
}

// configure takes the feed's URL, schedule and stream from the environment.
func (p *poller) configure(env map[string]string) (err error) {
	if v := env[p.variable("FEED_URL")]; v != "" {
		p.URL = strings.TrimSuffix(v, "/")
	}
	u, err := url.Parse(p.URL)
	if err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Host == "" || strings.ContainsAny(p.URL, "?#") {
		return daemon.Usagef("%s takes the http or https URL of a feed without query, such as http://localhost:8080/feeds/%s", p.variable("FEED_URL"), p.Name)
	}
	p.shownURL = u.Redacted()
	text := p.Feed.Schedule
	if v := env[p.variable("POLL")]; v != "" {
		text, p.state.given.source = v, "environment"
	}
	if p.state.given.schedule, err = ParseSchedule(text, p.key()); err != nil {
		return daemon.Usagef("%s: %w", p.variable("POLL"), err)
	}
	p.state.tuned = p.state.given
	if v := env[p.variable("STREAM")]; v != "" {
		queue := &eventstream.Queue{Feed: p.Name, Name: p.service + "." + p.Name, Logger: p.logger}
		if err := queue.Broker.UnmarshalText([]byte(v)); err != nil {
			return daemon.Usagef("%s %w", p.variable("STREAM"), err)
		}
		p.stream = p.newStream(queue)
	}
	return nil
}

// checkSecret refuses a source that would get a token or password which others may read on the way.
func (p *poller) checkSecret(set settings) error {
	u, err := url.Parse(p.URL)
	if err == nil {
		err = set.Reader.PlainHosts.Check(u, set.Reader.FeedToken != "", "PLAIN_HOSTS")
	}
	if err != nil {
		return daemon.Usagef("%s: %w", p.variable("FEED_URL"), err)
	}
	return nil
}
