// Package shop is a shop to measure: sales and each consumer a process and a database of its own, connected in one of
// seven ways, each written as an engineer would who has chosen it.
package shop

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"os"
	"time"

	"github.com/edison-cars/data-feeds/shared/daemon"
	"github.com/edison-cars/data-feeds/shared/postgres"
	"github.com/edison-cars/data-feeds/subscribers/relay"
)

// The kinds of processes.
const (
	SalesByCalls  = "sales-calls"  // asks each consumer by HTTP, then commits
	SalesByQueues = "sales-queues" // commits, then fills a queue for each consumer
	SalesByStream = "sales-stream" // commits, then publishes to a fanout exchange
	SalesByOutbox = "sales-outbox" // commits order and message at once, and publishes its messages until they are confirmed
	SalesAlone    = "sales-alone"  // commits, and tells nobody
	SalesByFeed   = "feed"         // commits order and entry of a feed at once, and serves the feed

	CalledConsumer = "consumer-calls"
	QueueConsumer  = "consumer-queue"
	StreamConsumer = "consumer-stream"
	FeedConsumer   = "consumer-feed"
	PureCopy       = "consumer-pure" // FeedConsumer with declared columns: it has two appliers

	Relay   = "relay"   // from the feed to RabbitMQ
	Capture = "capture" // from PostgreSQL's write-ahead log to a fanout exchange
)

// The settings of the processes, environment variables, beside those of a subscriber.
const (
	Addr     = "ADDR"          // host:port to listen on; sales take any free one by default
	Name     = "SHOP_NAME"     // of a consumer, and of its queue
	Broker   = "SHOP_BROKER"   // AMQP URL
	Told     = "SHOP_TOLD"     // the consumers that sales tells, separated by commas: URLs, or names of queues
	Exchange = "SHOP_EXCHANGE" // of the event stream
	History  = "SHOP_HISTORY"  // queue of the orders that came before a newcomer: sales fills it, a consumer empties it
	Slow     = "SHOP_SLOW"     // a consumer takes it for each order, one after the other
	Replay   = "SHOP_REPLAY"   // true: sales that publish a feed offer no snapshot of it
	MaxAge   = "FEED_MAX_AGE"  // of sales that publish a feed
	Crash    = "SHOP_CRASH"    // the process kills itself when so many orders are between the two steps that should be one
)

type settings struct {
	Addr     string        `env:"ADDR"`
	Name     string        `env:"SHOP_NAME"`
	Broker   string        `env:"SHOP_BROKER"`
	Told     []string      `env:"SHOP_TOLD"`
	Exchange string        `env:"SHOP_EXCHANGE" envDefault:"shop"`
	History  string        `env:"SHOP_HISTORY"`
	Slow     time.Duration `env:"SHOP_SLOW"`
	Replay   bool          `env:"SHOP_REPLAY"`
	MaxAge   time.Duration `env:"FEED_MAX_AGE"`
	Crash    int64         `env:"SHOP_CRASH"`
}

// patience is how long a sale waits for others before it goes on without them: a buyer waits no longer, either.
const patience = 2500 * time.Millisecond

// Serve is a process of the shop until ctx ends. When it writes its address, nothing that it is told is lost any more.
func Serve(ctx context.Context, kind, databaseURL string, env map[string]string, stdout io.Writer) error {
	set := new(settings)
	if err := daemon.Parse(env, set); err != nil {
		return err
	}
	ready := func(addr any) { fmt.Fprintln(stdout, addr) }
	switch kind {
	case FeedConsumer, PureCopy, Relay:
		env["DATABASE_URL"], env["ACCESS"] = databaseURL, "open"
		ready(set.Addr)
		if kind == Relay {
			env["AMQP_URL"] = set.Broker
			return relay.Service().Run(ctx, env, os.Stderr)
		}
		return subscribeFeed(ctx, kind, set, env)
	}
	db, err := postgres.Open(ctx, postgres.Config{URL: databaseURL, Name: "shop"})
	if err != nil {
		return err
	}
	defer db.Close()
	logger := slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelWarn}))
	own := &consumer{settings: set, db: db.Pool, logger: logger}
	switch kind {
	case CalledConsumer:
		return own.serveCalls(ctx, ready)
	case QueueConsumer:
		return own.serveQueue(ctx, ready)
	case StreamConsumer:
		return own.serveStream(ctx, ready)
	case SalesByCalls, SalesByQueues, SalesByStream, SalesByOutbox, SalesAlone, SalesByFeed:
		s := &sales{settings: set, db: db.Pool, link: NewLink(set.Broker, 0), logger: logger}
		return s.serve(ctx, kind, env, ready)
	}
	if kind == Capture {
		s := &sales{settings: set, db: db.Pool, link: NewLink(set.Broker, 0), logger: logger}
		defer s.link.Close()
		return (&capture{sales: s, url: databaseURL}).run(ctx, ready)
	}
	return daemon.Usagef("there is no process %q", kind)
}
