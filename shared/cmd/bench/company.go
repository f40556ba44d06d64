package main

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"
	"golang.org/x/sync/errgroup"

	"github.com/edison-cars/data-feeds/shared/cmd/bench/shop"
)

// A company is sales and its consumers, connected in one way: a process and a database each.
type company struct {
	*architecture
	*comparison
	db        *pgxpool.Pool // of sales
	copies    cluster       // for the consumers' databases
	salesAddr string
	sales     *server // nil: it is down
	relay     *server
	consumers []*consumer // the three, then newcomers
	told      []*consumer // of whom sales knows
	history   string      // queue that sales fills for newcomers; empty: there is none yet
	changes   int         // how often sales had to be changed and started again because of them
	orders    []*sold
	normal    expense
}

// A consumer has to hear of every order.
type consumer struct {
	name, addr string
	db         *pgxpool.Pool
	process    *server // nil: it is down
	*witness
}

const history = "history"

// open makes the database of sales.
func (c *company) open(ctx context.Context) (err error) {
	if c.db, err = c.source.create(ctx, c.name); err == nil {
		c.salesAddr, err = freeAddr(ctx)
	}
	if err == nil {
		err = c.startSales(ctx, 0)
	}
	if err != nil || !c.relayed {
		return err
	}
	db, err := c.copies.create(ctx, c.name+"_relay")
	if err != nil {
		return err
	}
	defer db.Close()
	addr, err := freeAddr(ctx)
	if err == nil {
		c.relay, err = c.start(ctx, shop.Relay, db, map[string]string{shop.Addr: addr})
	}
	return err
}

// close leaves nothing running.
func (c *company) close() {
	var all errgroup.Group
	stop := func(s *server) {
		if s != nil {
			all.Go(func() error { s.kill(); return nil })
		}
	}
	stop(c.sales)
	stop(c.relay)
	for _, con := range c.consumers {
		stop(con.process)
	}
	_ = all.Wait()
	for _, con := range c.consumers {
		if con.witness != nil {
			con.witness.close()
		}
		con.db.Close()
	}
	if c.db != nil {
		c.db.Close()
	}
}

// start starts a process of the company.
func (c *company) start(ctx context.Context, kind string, db *pgxpool.Pool, settings map[string]string) (*server, error) {
	env := maps.Clone(c.env)
	for _, name := range []string{"DATABASE_URL", "PAGE_SIZE", "FEED_TOKEN", "FEED_URL_ORDERS", "STREAM_ORDERS"} {
		delete(env, name) // which whoever runs this may have set for another
	}
	env["LOG_LEVEL"], env["FEED_URL_ORDERS"], env["POLL_ORDERS"], env["POLL_WAIT"] = "error", "http://"+c.salesAddr+"/feeds/"+feedName, "@every 1s", "25s"
	if c.brokered {
		env[shop.Broker] = c.brokerURL()
	}
	if c.relayed && kind == shop.FeedConsumer {
		env["STREAM_ORDERS"], env["POLL_ORDERS"], env["POLL_WAIT"] = c.brokerURL(), "@every 2s", "0s" // listens, and need not wait
	}
	maps.Copy(env, settings)
	return startServer(ctx, env, kind, db.Config().ConnString())
}

// startSales starts sales with what it knows; crash is how many orders it takes between its two steps until it is killed there, 0: none.
func (c *company) startSales(ctx context.Context, crash int) (err error) {
	http.DefaultClient.CloseIdleConnections() // to the one before
	var told []string
	for _, con := range c.told {
		told = append(told, c.architecture.told(con))
	}
	c.sales, err = c.start(ctx, c.architecture.sales, c.db, map[string]string{
		shop.Addr: c.salesAddr, shop.Told: strings.Join(told, ","), shop.History: c.history, shop.Crash: fmt.Sprint(crash),
	})
	return err
}

// restartSales starts sales again, in good order.
func (c *company) restartSales(ctx context.Context, crash int) error {
	if _, err := c.sales.stop(); err != nil {
		return err
	}
	return c.startSales(ctx, crash)
}

// startConsumer starts it; settings may be nil.
func (c *company) startConsumer(ctx context.Context, con *consumer, settings map[string]string) (err error) {
	env := map[string]string{shop.Addr: con.addr, shop.Name: con.name}
	maps.Copy(env, settings)
	con.process, err = c.start(ctx, c.architecture.consumer, con.db, env)
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
			if con.db, err = c.copies.create(ctx, con.name); err != nil {
				return err
			}
			added[i] = con
			if con.witness, err = testify(ctx, con.db); err != nil {
				return err
			}
			if con.addr, err = freeAddr(ctx); err != nil {
				return err
			}
			return c.startConsumer(ctx, con, settings)
		})
	}
	err := all.Wait()
	added = slices.DeleteFunc(added, func(con *consumer) bool { return con == nil })
	c.consumers = append(c.consumers, added...)
	switch {
	case err != nil:
		return err
	case c.architecture.told != nil:
		c.told = append(c.told, added...)
	case c.hasHistory() && c.history == "":
		c.history = history
	default:
		return nil
	}
	c.changes++
	return c.restartSales(ctx, 0)
}

// kill is SIGKILL.
func (s *server) kill() {
	_ = s.cmd.Process.Kill()
	<-s.ended
	s.cancel()
}

// complaint is what a process that is given up said.
func (s *server) complaint() error {
	s.kill()
	return fmt.Errorf("it said: %q", s.stderr.Bytes())
}

// died returns when the process has ended by itself.
func (s *server) died(ctx context.Context) error {
	select {
	case <-s.ended:
		return nil
	case <-time.After(patience):
		return errors.New("the process does not crash where it should")
	case <-ctx.Done():
		return ctx.Err()
	}
}
