// Package shop is a shop of which three consumers have to hear: sales and each consumer a process and a database of its own,
// connected in one of five ways. It exists to compare the ways, each written as somebody would who has chosen it.
package shop

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"os"
	"syscall"
	"time"

	"sync/atomic"

	"github.com/edison-cars/data-feeds/shared/daemon"
	"github.com/edison-cars/data-feeds/shared/postgres"
)

// The kinds of processes.
const (
	SalesByCalls  = "sales-calls"  // asks each consumer by HTTP, then commits
	SalesByQueues = "sales-queues" // commits, then fills a queue for each consumer
	SalesByStream = "sales-stream" // commits, then publishes to a fanout exchange
	SalesByFeed   = "sales-feed"   // commits order and entry of a feed at once

	CalledConsumer = "consumer-calls"
	QueueConsumer  = "consumer-queue"
	StreamConsumer = "consumer-stream"
	FeedConsumer   = "consumer-feed"

	Relay = "relay" // from the feed to RabbitMQ
)

// The settings of the processes: environment variables.
const (
	Addr    = "ADDR"         // host:port to listen on
	Name    = "SHOP_NAME"    // of a consumer, and of its queue
	Broker  = "SHOP_BROKER"  // AMQP URL
	Told    = "SHOP_TOLD"    // those whom sales tells, separated by commas: URLs, or names of queues
	History = "SHOP_HISTORY" // queue of which a newcomer reads what was before: sales fills it, a consumer empties it
	Slow    = "SHOP_SLOW"    // what each order takes a consumer, one after the other
	Crash   = "SHOP_CRASH"   // the process kills itself when so many orders are between the two steps that should be one
)

type settings struct {
	Addr    string        `env:"ADDR"`
	Name    string        `env:"SHOP_NAME"`
	Broker  string        `env:"SHOP_BROKER"`
	Told    []string      `env:"SHOP_TOLD"`
	History string        `env:"SHOP_HISTORY"`
	Slow    time.Duration `env:"SHOP_SLOW"`
	Crash   int64         `env:"SHOP_CRASH"`
}

// patience is how long a sale waits for others before it goes on without them: a buyer waits no longer, either.
const patience = 2500 * time.Millisecond

// Serve is a process of the shop until ctx ends. Its first line of output is its address; from then on nothing that it is told is lost.
func Serve(ctx context.Context, kind, databaseURL string, env map[string]string, stdout io.Writer) error {
	var set settings
	if err := daemon.Parse(env, &set); err != nil {
		return err
	}
	switch kind {
	case FeedConsumer:
		return consumeFeed(ctx, &set, databaseURL, env, stdout)
	case Relay:
		return relayFeed(ctx, &set, databaseURL, env, stdout)
	}
	db, err := postgres.Open(ctx, postgres.Config{URL: databaseURL, Name: "shop"})
	if err != nil {
		return err
	}
	defer db.Close()
	logger := slog.New(slog.NewTextHandler(os.Stderr, nil))
	switch kind {
	case CalledConsumer:
		return serveCalls(ctx, &set, newCopy(db.Pool, &set), logger, stdout)
	case QueueConsumer:
		return consumeQueue(ctx, &set, newCopy(db.Pool, &set), logger, stdout)
	case StreamConsumer:
		return consumeStream(ctx, &set, newCopy(db.Pool, &set), logger, stdout)
	case SalesByCalls, SalesByQueues, SalesByStream, SalesByFeed:
		return serveSales(ctx, kind, &set, db.Pool, logger, stdout)
	default:
		return daemon.Usagef("there is no process %q", kind)
	}
}

// A crash is where a process is killed.
type crash struct {
	at    int64 // 0: never
	there atomic.Int64
}

// here kills the process when the last of those has come that crash.at says; the others wait here for it.
func (c *crash) here() {
	if c.at == 0 {
		return
	}
	if c.there.Add(1) >= c.at {
		_ = syscall.Kill(os.Getpid(), syscall.SIGKILL)
	}
	select {}
}

// ready says so, and where the process listens.
func ready(stdout io.Writer, addr any) { fmt.Fprintln(stdout, addr) }
