package main

import (
	"cmp"
	"context"
	"fmt"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/edison-cars/data-feeds/shared/cmd/bench/shop"
	"github.com/edison-cars/data-feeds/shared/rabbitmq"
	"github.com/edison-cars/data-feeds/sql"
)

// A comparison is the same shop in several ways, over the same faults.
type comparison struct {
	trial
	out        *output
	env        map[string]string
	dir        string
	ways       []*architecture
	atOnce     int // companies to which a fault happens at the same time
	source     cluster
	postmaster *postmaster // of source; nil: the system has no /proc
	copies     []cluster   // one for waysEach companies
	broker     *rabbitmq.Server
	companies  []*company
}

func (b *bench) architectures(ctx context.Context) (machine string, charts []chart, err error) {
	n := cmp.Or(b.opts.orders, 400)
	c := &comparison{out: b.out, env: b.env, dir: b.dir, ways: architectures(), atOnce: 1, trial: trial{orders: n, few: max(minFew, n/10)}}
	if b.opts.quick {
		c.atOnce, c.orders, c.few = len(c.ways), 20, minFew
	}
	c.slow = time.Second/ordersPerSecond + slowBy/time.Duration(c.few)
	rabbit := findRabbit()
	c.ways = slices.DeleteFunc(c.ways, func(w *architecture) bool { return b.opts.only != "" && w.name != b.opts.only })
	if rabbit == nil {
		fmt.Fprintln(b.out, noRabbit)
		c.ways = slices.DeleteFunc(c.ways, func(w *architecture) bool { return w.brokered })
	}
	if len(c.ways) == 0 {
		return "", nil, rabbitmq.ErrMissing
	}
	defer c.close()
	began := time.Now()
	if err := c.open(ctx); err != nil {
		return "", nil, err
	}
	if machine, err = describeMachine(ctx, c.source.DB, rabbit); err != nil {
		return "", nil, err
	}
	fmt.Fprintf(b.out, "%s\nstarted in %.1f s\n", machine, time.Since(began).Seconds())
	if err := c.run(ctx); err != nil {
		return "", nil, err
	}
	charts, err = c.report(ctx)
	return machine, charts, err
}

const (
	minFew   = 8
	waysEach = 2                       // the consumers of so many companies share a PostgreSQL server, as far as its connections go
	slowBy   = 1800 * time.Millisecond // the last order, at a slow consumer
)

// open starts the servers, and sales of every company.
func (c *comparison) open(ctx context.Context) (err error) {
	var starts errgroup.Group
	c.copies = make([]cluster, (len(c.ways)+waysEach-1)/waysEach)
	starts.Go(func() (err error) {
		c.source, err = openCluster(ctx, filepath.Join(c.dir, "source"), sql.Migrations("publish"), sql.Migrations("sales"))
		return err
	})
	for i := range c.copies {
		starts.Go(func() (err error) {
			c.copies[i], err = openCluster(ctx, filepath.Join(c.dir, fmt.Sprint("copies", i)), sql.Migrations("subscribe"), shop.Migrations())
			return err
		})
	}
	if slices.ContainsFunc(c.ways, func(w *architecture) bool { return w.brokered }) {
		starts.Go(func() error {
			if err := c.startBroker(ctx, ""); err != nil {
				return err
			}
			if _, err := c.broker.Ctl(ctx, "add_vhost", relayHost); err != nil {
				return err
			}
			_, err := c.broker.Ctl(ctx, "set_permissions", "-p", relayHost, "guest", ".*", ".*", ".*")
			return err
		})
	}
	if err := starts.Wait(); err != nil {
		return err
	}
	if c.postmaster, err = findPostmaster(ctx, c.source.Pool); err != nil {
		return err
	}
	for i, w := range c.ways {
		c.companies = append(c.companies, &company{architecture: w, comparison: c, copies: c.copies[i/waysEach]})
	}
	return c.each(ctx, len(c.companies), (*company).open)
}

func (c *comparison) startBroker(ctx context.Context, addr string) (err error) {
	c.broker, err = rabbitmq.Start(ctx, rabbitmq.Config{Dir: filepath.Join(c.dir, "rabbitmq"), Addr: addr})
	return err
}

// relayHost is a virtual host: the stream and the relay have an exchange of the same name.
const relayHost = "relay"

func (c *company) brokerURL() string {
	if c.relayed {
		return c.broker.URL + relayHost
	}
	return c.broker.URL
}

func (c *comparison) close() {
	_ = c.each(context.Background(), len(c.companies), func(company *company, _ context.Context) error {
		company.close()
		return nil
	})
	if c.broker != nil {
		c.broker.Kill()
	}
	var all sync.WaitGroup
	for _, cluster := range append(c.copies, c.source) {
		all.Go(cluster.close)
	}
	all.Wait()
}

// each does it to all companies. What they start goes on.
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

// run lets one fault after the other happen.
func (c *comparison) run(ctx context.Context) error {
	for _, f := range c.faults() {
		atOnce := c.atOnce
		if f.name == goodDays {
			atOnce = 1 // it is measured
		}
		began := time.Now()
		if f.name == outage && c.broker != nil {
			c.broker.Kill()
		}
		err := c.each(ctx, atOnce, func(company *company, ctx context.Context) error { return f.run(ctx, company) })
		if f.name == outage && c.broker != nil && err == nil {
			err = c.startBroker(ctx, c.broker.Addr)
		}
		if f.name == outage && err == nil {
			err = c.each(ctx, atOnce, func(company *company, ctx context.Context) error { return company.goOn(ctx, outage) })
		}
		if err != nil {
			return fmt.Errorf("%s: %w", f.name, err)
		}
		fmt.Fprintf(c.out, "%s: %.1f s\n", f.name, time.Since(began).Seconds())
	}
	return c.each(ctx, len(c.companies), func(company *company, ctx context.Context) error { return company.settled(ctx) })
}
