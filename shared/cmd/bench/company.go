package main

import (
	"context"
	"fmt"
	"maps"
	"net/http"
	"strings"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/edison-cars/data-feeds/shared/cmd/bench/shop"
	"github.com/edison-cars/data-feeds/shared/dev/freeport"
	"github.com/edison-cars/data-feeds/shared/postgres"
)

// An architecture is a way in which sales is connected with the consumers of its orders.
type architecture struct {
	name, title, bar string
	sales            string // kind of process
	consumer         string
	brokered         bool     // it takes a broker
	relayed          bool     // from the feed to the broker
	captured         bool     // from PostgreSQL's write-ahead log to the broker
	knows            []string // what sales has to know beside the consumers
	// told returns what sales has to know of a consumer. It is nil if that is nothing.
	told func(c *consumer) string
	what string // that is
}

func architectures() []*architecture {
	return []*architecture{
		{name: "calls", title: "synchronous calls", bar: "calls", sales: shop.SalesByCalls, consumer: shop.CalledConsumer,
			told: func(c *consumer) string { return "http://" + c.addr }, what: "addresses"},
		{name: "queues", title: "queue per consumer", bar: "queues", sales: shop.SalesByQueues,
			consumer: shop.QueueConsumer, brokered: true, knows: []string{"broker"},
			told: func(c *consumer) string { return c.name }, what: "queues"},
		{name: "stream", title: "event stream", bar: "stream", sales: shop.SalesByStream,
			consumer: shop.StreamConsumer, brokered: true, knows: []string{"broker", "exchange", "history queue"}},
		{name: "outbox", title: "outbox and stream", bar: "outbox", sales: shop.SalesByOutbox,
			consumer: shop.StreamConsumer, brokered: true, knows: []string{"broker", "exchange", "history queue"}},
		{name: "capture", title: "change data capture", bar: "capture", sales: shop.SalesAlone,
			consumer: shop.StreamConsumer, brokered: true, captured: true},
		{name: "feed", title: "feed", bar: "feed", sales: shop.SalesByFeed, consumer: shop.FeedConsumer},
		{name: "relay", title: "feed with relay", bar: "feed with relay", sales: shop.SalesByFeed,
			consumer: shop.FeedConsumer, brokered: true, relayed: true},
	}
}

// hasHistory reports whether sales fills a queue with the orders that came before a newcomer.
func (w *architecture) hasHistory() bool { return w.consumer == shop.StreamConsumer }

type company struct {
	*architecture
	*comparison
	db        *postgres.DB // of sales
	copies    *cluster     // for the consumers' databases
	salesAddr string
	sales     *process
	capture   *process    // or nil
	consumers []*consumer // the three, then newcomers
	history   string      // queue that sales fills for newcomers, or empty as long as there is none
	changes   int         // how often sales had to be changed and started again because of them
	orders    []*sold
	sent      int           // requests and messages by which others heard of the orders of good days
	cpu       time.Duration // of sales and its PostgreSQL for them
}

type consumer struct {
	name, addr string
	db         *postgres.DB
	process    *process
	*witness
}

// database makes one that is closed in the end.
func (c *company) database(ctx context.Context, of *cluster, name string) (*postgres.DB, error) {
	db, err := of.create(ctx, name)
	if err == nil {
		c.atEnd(db.Close)
	}
	return db, err
}

func (c *company) open(ctx context.Context) (err error) {
	if c.db, err = c.database(ctx, c.server, c.name); err == nil {
		c.salesAddr, err = freeport.Addr(ctx)
	}
	if err == nil {
		err = c.startSales(ctx, 0)
	}
	if err == nil && c.captured {
		err = c.startCapture(ctx)
	}
	if err != nil || !c.relayed {
		return err
	}
	db, err := c.database(ctx, c.copies, c.name+"_relay")
	if err == nil {
		_, err = c.startSubscriber(ctx, shop.Relay, c.salesAddr, db, c.settings())
	}
	return err
}

// startCapture starts the capture with what it knows.
func (c *company) startCapture(ctx context.Context) (err error) {
	set := c.settings()
	set[shop.History] = c.history
	c.capture, err = c.start(ctx, shop.Capture, c.db.Config().ConnString(), set)
	return err
}

func (c *company) settings() map[string]string {
	set := map[string]string{"POLL_ORDERS": "@every 1s", "POLL_WAIT": "25s"}
	if c.brokered {
		set[shop.Broker], set[shop.Exchange] = c.broker.URL, c.name
	}
	return set
}

// startSales starts sales with what it knows; crash is how many orders it takes between its two steps until it is
// killed there, 0: none.
func (c *company) startSales(ctx context.Context, crash int) (err error) {
	http.DefaultClient.CloseIdleConnections() // to the one before
	var told []string
	for _, con := range c.consumers {
		if c.told != nil {
			told = append(told, c.told(con))
		}
	}
	set := c.settings()
	set[shop.Addr], set[shop.Told] = c.salesAddr, strings.Join(told, ",")
	set[shop.History], set[shop.Crash] = c.history, fmt.Sprint(crash)
	c.sales, err = c.start(ctx, c.architecture.sales, c.db.Config().ConnString(), set)
	return err
}

func (c *company) restartSales(ctx context.Context, crash int) error {
	if _, err := c.sales.stop(); err != nil {
		return err
	}
	return c.startSales(ctx, crash)
}

func (c *company) startConsumer(ctx context.Context, con *consumer, settings map[string]string) (err error) {
	set := c.settings()
	set[shop.Addr], set[shop.Name] = con.addr, con.name
	if c.relayed { // listens, and need not wait
		set["STREAM_ORDERS"], set["POLL_ORDERS"], set["POLL_WAIT"] = c.broker.URL, "@every 2s", "0s"
	}
	maps.Copy(set, settings)
	con.process, err = c.startSubscriber(ctx, c.architecture.consumer, c.salesAddr, con.db, set)
	return err
}

// restart starts it again, in good order, with other settings; nil is none.
func (c *company) restart(ctx context.Context, con *consumer, settings map[string]string) error {
	if _, err := con.process.stop(); err != nil {
		return err
	}
	return c.startConsumer(ctx, con, settings)
}

// join adds consumers, and lets sales know of them where it must.
func (c *company) join(ctx context.Context, names ...string) error {
	var all errgroup.Group
	added := make([]*consumer, len(names))
	settings := map[string]string{}
	if len(c.consumers) > 0 && c.hasHistory() {
		settings[shop.History] = c.history
	}
	for i, name := range names {
		all.Go(func() (err error) {
			con := &consumer{name: c.name + "_" + name}
			if con.db, err = c.database(ctx, c.copies, con.name); err != nil {
				return err
			}
			if con.witness, err = c.listen(ctx, con.db); err != nil {
				return err
			}
			if con.addr, err = freeport.Addr(ctx); err != nil {
				return err
			}
			added[i] = con
			return c.startConsumer(ctx, con, settings)
		})
	}
	if err := all.Wait(); err != nil {
		return err
	}
	c.consumers = append(c.consumers, added...)
	switch {
	case c.told != nil:
	case c.hasHistory() && c.history == "":
		c.history = c.name + "_history"
	default:
		return nil
	}
	if c.captured { // sales stays as it is
		if _, err := c.capture.stop(); err != nil {
			return err
		}
		return c.startCapture(ctx)
	}
	c.changes++
	return c.restartSales(ctx, 0)
}
