package subscribe

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/edison-cars/data-feeds/shared/feed"
	"github.com/edison-cars/data-feeds/shared/feedclient"
	"github.com/edison-cars/data-feeds/shared/publish"
)

// Options are those of a [Subscriber]. Only Name must be set.
type Options struct {
	// Name tells the subscriber from others in the same database. Each keeps the cursors, settings and rejected entries
	// of its feeds under its name.
	Name   string
	Logger *slog.Logger // nil means that nothing is logged

	Token string // sent to the sources; a feed whose URL has a user is requested with that user instead
	// PlainHosts are hosts to which Token, and a password in a feed's URL, may be sent without TLS, as they may to
	// localhost.
	PlainHosts feedclient.PlainHosts
	Wait       time.Duration // how long a request waits at the source for something new: whole seconds, 0 to 30 s
	PageSize   int           // entries to ask for at once, 1 to 1000; 0 means 1000

	// RecordAge is how long polls are kept, of which there are up to 100 of each feed, and what a resync has read of a
	// feed that the subscriber does not have any more. 0 means 90 days.
	RecordAge time.Duration

	// Log is the log, in the same database, to which Apply appends by way of [Publishing]. The entries commit with the
	// rows and the cursor. Nil means that the subscriber publishes nothing.
	Log *publish.Log

	// Work does what has become due, such as sending a mail, and returns. The process that polls calls it about once a
	// second, one call at a time; nil means none. Its context ends after WorkTimeout. If Work returns an error, the
	// error is logged and Work is called again.
	Work        func(context.Context) error
	WorkTimeout time.Duration // 0 means 5 minutes
	// Current is reset whenever this process begins or ceases to poll; nil means none.
	Current *Current
	// Release gives back what Work and Entries hold, such as connections. It is called after they have ended, when the
	// subscriber stops or another process polls. Nil means none.
	Release func()
}

// A Subscriber keeps the copies of some feeds in a database. It is a [prometheus.Collector]; a program that registers
// several whose feeds have the same names tells them apart by [prometheus.WrapRegistererWith].
type Subscriber struct {
	options Options
	pool    *pgxpool.Pool
	pollers []*poller
}

var _ prometheus.Collector = (*Subscriber)(nil)

// New returns a subscriber to the feeds, whose copies it keeps in the database of pool. It needs the tables of
// [Migrate] and those of the feeds in the schema that connections of pool make tables in. The pool stays the caller's.
// It must have room for at least two connections in addition to those that the caller uses. New sends no request to a
// source: see [Subscriber.Run].
//
// A table holds the copy of one feed: New fails if another subscription has it. It refuses a pool whose mode of
// executing queries is exec or simple_protocol.
func New(ctx context.Context, pool *pgxpool.Pool, options Options, feeds ...Feed) (*Subscriber, error) {
	options.Logger = cmp.Or(options.Logger, slog.New(slog.DiscardHandler))
	options.RecordAge = cmp.Or(options.RecordAge, 90*day)
	options.PageSize = cmp.Or(options.PageSize, feed.MaxPageSize)
	switch {
	case pool.Config().ConnConfig.DefaultQueryExecMode >= pgx.QueryExecModeExec:
		return nil, fmt.Errorf("the pool has default_query_exec_mode=%v, in which types of arguments are not known: leave it out, or take describe_exec",
			pool.Config().ConnConfig.DefaultQueryExecMode)
	case options.Name == "":
		return nil, errors.New("a subscriber needs a name: see Options.Name")
	case options.PageSize < 1 || options.PageSize > feed.MaxPageSize:
		return nil, fmt.Errorf("Options.PageSize is %d; it takes 1 to %d", options.PageSize, feed.MaxPageSize)
	case !ValidWait(options.Wait):
		return nil, fmt.Errorf("Options.Wait is %v; it takes whole seconds from 0 to %v", options.Wait, maxWait)
	}
	s := &Subscriber{options: options, pool: pool}
	for _, f := range feeds {
		p, err := newPoller(pool, options, f)
		if err == nil {
			err = p.create(ctx)
		}
		if err == nil {
			_, err = p.row.load(ctx)
		}
		if err == nil && f.Source == "" && p.Apply != nil {
			p.owned, err = p.hasOwners(ctx)
		}
		if err != nil {
			return nil, fmt.Errorf("subscribe to %s: %w", subscriptionName(f.Name, f.Source), err)
		}
		s.pollers = append(s.pollers, p)
	}
	for _, p := range s.pollers {
		for _, other := range s.pollers {
			if other != p && other.feed == p.feed {
				p.applier.siblings = append(p.applier.siblings, other)
			}
		}
	}
	if options.Current != nil {
		options.Current.follow(s.pollers)
	}
	return s, nil
}

// CheckURL returns an error unless text is the http or https URL of a feed.
func CheckURL(text string) error {
	u, err := url.Parse(text)
	if err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Host == "" || strings.ContainsAny(text, "?#") {
		return errors.New("takes the http or https URL of a feed without query, such as http://localhost:8080/feeds/orders")
	}
	return nil
}

// Run keeps the copies up to date until ctx ends. It polls at once and then on schedule, unless another process runs a
// subscriber of the same name in the same database. Then it stands by, and takes over within seconds of the end of that
// process. When ctx ends, Run finishes the page that it is applying, if that takes no more than 5 s. Run retries what
// fails and returns no error: while a source is down, its copy gets older. Do not call Run twice at a time.
func (s *Subscriber) Run(ctx context.Context) {
	for _, p := range s.pollers {
		defer p.fetcher.client.Close()
	}
	(&lease{s}).run(ctx)
}

// CaughtUp waits until every copy, except those of optional feeds, has caught up while Run runs. In the process that
// polls, a copy has caught up if the last poll succeeded; in another process, if it is fresh by what is stored in the
// database. A paused copy never catches up. CaughtUp returns an error if ctx ends first.
func (s *Subscriber) CaughtUp(ctx context.Context) error {
	for _, p := range s.pollers {
		if p.Optional {
			continue
		}
		if err := p.state.awaitCaughtUp(ctx); err != nil {
			return fmt.Errorf("wait for the copy of %s: %w", p.Name, err)
		}
	}
	return nil
}

// Status returns how the copies are, in the order of the feeds.
func (s *Subscriber) Status() []Status {
	now, list := time.Now().UTC(), make([]Status, len(s.pollers))
	for i, p := range s.pollers {
		list[i] = p.status(now)
	}
	return list
}

// Subscription returns the subscription to the named feed, or to a source of it, as in "orders@eu". It returns nil if
// there is none.
func (s *Subscriber) Subscription(feed string) *Subscription {
	i := slices.IndexFunc(s.pollers, func(p *poller) bool { return p.Name == feed })
	if i < 0 {
		return nil
	}
	return &Subscription{s.pollers[i]}
}

// Describe implements [prometheus.Collector].
func (s *Subscriber) Describe(ch chan<- *prometheus.Desc) {
	for _, p := range s.pollers {
		p.Describe(ch)
	}
}

// Collect implements [prometheus.Collector].
func (s *Subscriber) Collect(ch chan<- prometheus.Metric) {
	for _, p := range s.pollers {
		p.Collect(ch)
	}
}
