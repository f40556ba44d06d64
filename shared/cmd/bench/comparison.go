package main

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/edison-cars/data-feeds/shared/dev/rabbitmq"
)

// A comparison is the same shop in several ways, over the same faults.
type comparison struct {
	*bench
	orders     int           // in good days
	few        int           // while something is wrong
	slow       time.Duration // a slow consumer takes it for each order, so that the last of few waits about slowBy
	ways       []*architecture
	atOnce     int // companies to which a fault happens at the same time
	server     *cluster
	postmaster postmaster // of server
	copies     []*cluster // one for waysEach companies
	broker     *rabbitmq.Server
	companies  []*company
}

func (b *bench) architectures(ctx context.Context) (machine string, charts []chart, err error) {
	n := cmp.Or(b.orders, 400)
	c := &comparison{bench: b, ways: architectures(), atOnce: 1, orders: n, few: max(minFew, n/10)}
	if b.quick {
		c.atOnce, c.orders, c.few = len(c.ways), minSales, minFew
	}
	c.slow = time.Second/ordersPerSecond + slowBy/time.Duration(c.few)
	c.ways = slices.DeleteFunc(c.ways, func(w *architecture) bool { return b.only != "" && w.name != b.only })
	found, err := rabbitmq.Find()
	if err != nil {
		fmt.Fprintln(b.out, noRabbit)
		c.ways = slices.DeleteFunc(c.ways, func(w *architecture) bool { return w.brokered })
	}
	if len(c.ways) == 0 {
		return "", nil, err
	}
	began := time.Now()
	if err := c.open(ctx); err != nil {
		return "", nil, err
	}
	if machine, err = b.describeMachine(ctx, c.server.DB, found); err != nil {
		return "", nil, err
	}
	fmt.Fprintf(b.out, "started in %.1f s\n", time.Since(began).Seconds())
	if err := c.run(ctx); err != nil {
		return "", nil, err
	}
	charts, err = c.report(ctx)
	return machine, charts, err
}

const (
	minFew    = 8
	connsEach = 6                       // of a process to a database: many are in a cluster
	waysEach  = 2                       // companies whose consumers share a PostgreSQL server, which has 60 connections
	slowBy    = 1800 * time.Millisecond // the last order, at a slow consumer
)

func (c *comparison) open(ctx context.Context) (err error) {
	var starts errgroup.Group
	c.copies = make([]*cluster, (len(c.ways)+waysEach-1)/waysEach)
	starts.Go(func() (err error) {
		c.server, err = c.openLogicalSource(ctx, connsEach)
		return err
	})
	for i := range c.copies {
		starts.Go(func() (err error) {
			c.copies[i], err = c.openCopies(ctx, fmt.Sprint("copies", i), connsEach)
			return err
		})
	}
	if slices.ContainsFunc(c.ways, func(w *architecture) bool { return w.brokered }) {
		starts.Go(func() (err error) {
			c.broker, err = c.startBroker(ctx, "")
			return err
		})
	}
	if err := starts.Wait(); err != nil {
		return err
	}
	if c.postmaster, err = findPostmaster(ctx, c.server.Pool); err != nil {
		return err
	}
	for i, w := range c.ways {
		c.companies = append(c.companies, &company{architecture: w, comparison: c, copies: c.copies[i/waysEach]})
	}
	return c.each(ctx, len(c.companies), (*company).open)
}

// each calls do for all companies. The processes that they start go on.
func (c *comparison) each(ctx context.Context, atOnce int, do func(*company, context.Context) error) error {
	var all errgroup.Group
	all.SetLimit(max(1, atOnce))
	for _, company := range c.companies {
		all.Go(func() error {
			if err := do(company, ctx); err != nil {
				return fmt.Errorf("%s: %w", company.title, err)
			}
			return nil
		})
	}
	return all.Wait()
}

// run lets one fault after the other happen; after each, sales go on.
func (c *comparison) run(ctx context.Context) error {
	for _, f := range c.faults() {
		atOnce := c.atOnce
		if f.name == goodDays {
			atOnce = 1 // it is measured
		}
		began := time.Now()
		down := f.name == outage && c.broker != nil
		if down {
			c.broker.Kill()
		}
		err := c.each(ctx, atOnce, func(company *company, ctx context.Context) error { return f.run(ctx, company) })
		if down && err == nil {
			c.broker, err = c.startBroker(ctx, c.broker.Addr)
		}
		if err == nil {
			err = c.each(ctx, atOnce, func(company *company, ctx context.Context) error { return company.goOn(ctx, f.name) })
		}
		if err != nil {
			return fmt.Errorf("%s: %w", f.name, err)
		}
		fmt.Fprintf(c.out, "%s: %.1f s\n", f.name, time.Since(began).Seconds())
	}
	return c.each(ctx, len(c.companies), func(company *company, ctx context.Context) error { return company.settled(ctx) })
}
