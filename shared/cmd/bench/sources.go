package main

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"time"

	"github.com/edison-cars/data-feeds/shared/cmd/bench/shop"
	"github.com/edison-cars/data-feeds/shared/postgres"
	"github.com/edison-cars/data-feeds/sql"
)

// sources measures what the same writers sell over one source, and over several.
type sources struct {
	*bench
	rounds   int
	duration time.Duration // of one number of sources in one round
}

var sourceCounts = []int{1, 2, 4}

// A shard is a source on a PostgreSQL server of its own.
type shard struct {
	*postgres.DB
	app *process
}

func (s *sources) run(ctx context.Context) (chart, error) {
	fmt.Fprintf(s.out, "\nSources: orders a second of %d writers, %d rounds of %v; each source is a process of sales with a "+
		"PostgreSQL server of its own, all on the same cores\n", connections, s.rounds, s.duration)
	shards := make([]shard, sourceCounts[len(sourceCounts)-1])
	for i := range shards {
		server, err := s.openCluster(ctx, fmt.Sprint("shard", i), 0, sql.Migrations("publish"), sql.Migrations("sales"))
		if err != nil {
			return chart{}, err
		}
		if shards[i].DB, err = server.create(ctx, "bench"); err != nil {
			return chart{}, err
		}
		s.atEnd(shards[i].Close)
		if shards[i].app, err = s.start(ctx, shop.SalesByFeed, shards[i].Config().ConnString(), nil); err != nil {
			return chart{}, err
		}
	}
	rates := make([][]float64, len(sourceCounts))
	for round := -1; round < s.rounds; round++ { // the first one warms up
		for turn := range sourceCounts {
			i := (turn + max(round, 0)) % len(sourceCounts)
			rate, err := s.round(ctx, shards[:sourceCounts[i]])
			if err != nil {
				return chart{}, fmt.Errorf("%d sources: %w", sourceCounts[i], err)
			}
			if round >= 0 {
				rates[i] = append(rates[i], rate)
			}
		}
	}
	t := s.out.table("sources", "orders/s", "it : one source")
	c := chart{title: "Orders a second over several sources (longer is better)", unit: "/s",
		series: []string{fmt.Sprint(connections, " writers")}}
	for i, n := range sourceCounts {
		t.row(fmt.Sprint(n), number(median(rates[i])), ratios(rates[i], rates[0]))
		c.groups = append(c.groups, group{fmt.Sprint(n, " sources"), []float64{median(rates[i])}})
	}
	c.groups[0].name = "1 source"
	return c, t.flush()
}

// round lets the writers sell, the same number at each of the sources, and checks that all is on their feeds.
func (s *sources) round(ctx context.Context, shards []shard) (rate float64, err error) {
	var addrs []string
	var before, after int
	entries := func(sum *int) error {
		for _, shard := range shards {
			var n int
			if err := shard.QueryRow(ctx, `select count(*) from feed_entry`).Scan(&n); err != nil {
				return err
			}
			*sum += n
		}
		return nil
	}
	if err := entries(&before); err != nil {
		return 0, err
	}
	for _, shard := range shards {
		addrs = append(addrs, shard.app.addr)
		if _, err := shard.Exec(ctx, `checkpoint`); err != nil { // no round pays for another's
			return 0, err
		}
	}
	sold, took, err := driveAll(ctx, addrs, func() string {
		return "POST " + shop.SalesPath + shop.NewID().String() + " HTTP/1.1\r\nHost: localhost\r\nContent-Length: 0\r\n\r\n"
	}, http.StatusOK, maxOrders, s.duration)
	if err == nil {
		err = entries(&after)
	}
	if err == nil && after-before != sold {
		err = errors.New("the entries there are not those that were written")
	}
	return float64(sold) / took.Seconds(), err
}
