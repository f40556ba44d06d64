package main

import "github.com/edison-cars/data-feeds/shared/cmd/bench/shop"

// An architecture is how sales and those who have to hear of its orders are connected.
type architecture struct {
	name, title, bar string
	sales            string // kind of process
	consumer         string
	brokered         bool     // it takes a broker
	relayed          bool     // from the feed to the broker
	knows            []string // what sales has to know beside those whom it tells
	// told is what sales has to know of a consumer; nil: nothing.
	told func(c *consumer) string
	what string // that is
}

// architectures gives the contestants.
func architectures() []*architecture {
	return []*architecture{
		{name: "calls", title: "synchronous calls", bar: "calls", sales: shop.SalesByCalls, consumer: shop.CalledConsumer,
			told: func(c *consumer) string { return "http://" + c.addr }, what: "addresses"},
		{name: "queues", title: "queue per consumer", bar: "queues", sales: shop.SalesByQueues, consumer: shop.QueueConsumer, brokered: true,
			knows: []string{"broker"}, told: func(c *consumer) string { return c.name }, what: "queues"},
		{name: "stream", title: "event stream", bar: "stream", sales: shop.SalesByStream, consumer: shop.StreamConsumer, brokered: true,
			knows: []string{"broker", "exchange", "history queue"}},
		{name: "feed", title: "feed", bar: "feed", sales: shop.SalesByFeed, consumer: shop.FeedConsumer},
		{name: "relay", title: "feed with relay", bar: "feed with relay", sales: shop.SalesByFeed, consumer: shop.FeedConsumer, brokered: true, relayed: true},
	}
}

// hasHistory tells whether a newcomer finds what was before in a queue of which sales knows.
func (w *architecture) hasHistory() bool { return w.sales == shop.SalesByStream }
