package main

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/http"
	"sync"
	"time"

	"github.com/google/uuid"

	"github.com/edison-cars/data-feeds/shared/cmd/bench/shop"
)

// A fault happens to every company alike.
type fault struct {
	name string
	run  func(ctx context.Context, c *company) error
}

// A trial is what the faults are tried on.
type trial struct {
	orders int           // in good days
	few    int           // while something is wrong
	slow   time.Duration // what each order takes a slow consumer, so that the last of few waits about slowBy
}

const (
	longSale    = time.Second // a sale that takes longer has waited
	longestSale = time.Minute
	caught      = 3 // orders that sales is killed with
)

var consumerNames = []string{"warehouse", "billing", "mailer"}

// sold is an order that somebody wanted to buy.
type sold struct {
	number      int
	fault       string
	id          uuid.UUID
	took        time.Duration
	committedAt time.Time // as far as the buyer heard of it
	err         error     // what the buyer was told instead
}

const (
	before    = "a sale before anybody listens"
	goodDays  = "nothing is wrong"
	away      = "a consumer is down"
	outage    = "the broker is down"
	halfSold  = "sales is killed between its two steps"
	halfDone  = "a consumer is killed between its write and its ack"
	slowly    = "a slow consumer"
	newcomers = "two newcomers"
)

// faults happen in this order.
func (t *trial) faults() []fault {
	return []fault{
		{before, func(ctx context.Context, c *company) error {
			c.sell(ctx, before, t.few)
			if err := c.join(ctx, consumerNames...); err != nil {
				return err
			}
			return c.goOn(ctx, before)
		}},
		{goodDays, func(ctx context.Context, c *company) error { return c.measure(ctx, t.orders) }},
		{away, func(ctx context.Context, c *company) error {
			c.consumers[1].process.kill()
			c.sell(ctx, away, t.few)
			if err := c.startConsumer(ctx, c.consumers[1], nil); err != nil {
				return err
			}
			return c.goOn(ctx, away)
		}},
		{outage, func(ctx context.Context, c *company) error {
			c.sell(ctx, outage, t.few)
			return nil // it goes on when the broker is back
		}},
		{halfSold, func(ctx context.Context, c *company) error {
			if err := c.restartSales(ctx, caught); err != nil {
				return err
			}
			c.sell(ctx, halfSold, caught)
			if err := c.sales.died(ctx); err != nil {
				return fmt.Errorf("sales: %w", err)
			}
			if err := c.startSales(ctx, 0); err != nil {
				return err
			}
			return c.goOn(ctx, halfSold)
		}},
		{halfDone, func(ctx context.Context, c *company) error {
			if err := c.restart(ctx, c.consumers[1], map[string]string{shop.Crash: "1"}); err != nil {
				return err
			}
			c.sell(ctx, halfDone, t.few)
			if err := c.consumers[1].process.died(ctx); err != nil {
				return fmt.Errorf("%s: %w", c.consumers[1].name, err)
			}
			if err := c.startConsumer(ctx, c.consumers[1], nil); err != nil {
				return err
			}
			return c.goOn(ctx, halfDone)
		}},
		{slowly, func(ctx context.Context, c *company) error {
			if err := c.restart(ctx, c.consumers[1], map[string]string{shop.Slow: t.slow.String()}); err != nil {
				return err
			}
			c.sell(ctx, slowly, t.few)
			if err := c.goOn(ctx, slowly); err != nil {
				return err
			}
			return c.restart(ctx, c.consumers[1], nil)
		}},
		{newcomers, func(ctx context.Context, c *company) error {
			for _, name := range []string{"archive", "fleet"} {
				if err := c.join(ctx, name); err != nil {
					return err
				}
				if err := c.goOn(ctx, newcomers); err != nil {
					return err
				}
			}
			return nil
		}},
	}
}

// sell lets n buyers come at random moments, whatever becomes of those before them, and returns when each has an answer.
func (c *company) sell(ctx context.Context, fault string, n int) {
	var all sync.WaitGroup
	random := rand.New(rand.NewPCG(uint64(len(c.orders)), 0)) // the same moments in every run and company
	for next := time.Now(); n > 0 && ctx.Err() == nil; n-- {
		s := c.buyer(fault)
		all.Go(func() { c.buy(ctx, s) })
		next = next.Add(time.Duration(random.ExpFloat64() * float64(time.Second) / ordersPerSecond))
		select {
		case <-ctx.Done():
		case <-time.After(time.Until(next)):
		}
	}
	all.Wait()
}

// buyer gives the next one.
func (c *company) buyer(fault string) *sold {
	n := len(c.orders)
	s := &sold{number: n, fault: fault, id: shop.ID(n)}
	c.orders = append(c.orders, s)
	return s
}

func (c *company) buy(ctx context.Context, s *sold) {
	ctx, cancel := context.WithTimeout(ctx, longestSale)
	defer cancel()
	began := time.Now()
	defer func() { s.took = time.Since(began) }()
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, fmt.Sprint("http://", c.salesAddr, shop.SalesPath, s.number), http.NoBody)
	if err != nil {
		s.err = err
		return
	}
	var sale shop.Sale
	s.err = call(req, &sale)
	s.committedAt = sale.CommittedAt
}

const (
	recovery  = time.Minute      // everything may take it to be well again
	secondTry = 15 * time.Second // after which an order that has not arrived everywhere counts as lost: another one is sold
)

// goOn returns when all consumers have heard of a sale, and so of what came before, if they ever will.
func (c *company) goOn(ctx context.Context, fault string) error {
	ctx, cancel := context.WithTimeout(ctx, recovery)
	defer cancel()
	for {
		s := c.buyer(fault)
		c.buy(ctx, s)
		err := s.err
		if err == nil {
			err = c.arrival(ctx, s)
		}
		if err == nil {
			return nil
		}
		select {
		case <-ctx.Done():
			return errors.Join(err, c.sales.complaint())
		case <-time.After(watchInterval):
		}
	}
}

// arrival returns when all consumers have the order.
func (c *company) arrival(ctx context.Context, s *sold) error {
	ctx, cancel := context.WithTimeout(ctx, secondTry)
	defer cancel()
	for _, con := range c.consumers {
		if err := con.arrival(ctx, s.id); err != nil {
			return fmt.Errorf("%s: %w", con.name, err)
		}
	}
	return nil
}
