package main

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/google/uuid"

	"github.com/edison-cars/data-feeds/shared/cmd/bench/shop"
)

type fault struct {
	name string
	run  func(ctx context.Context, c *company) error
}

const (
	longSale    = time.Second // a sale that takes longer has waited
	longestSale = time.Minute
	caught      = 3 // orders that sales is killed with
)

var consumerNames = []string{"warehouse", "billing", "mailer"}

type sold struct {
	fault       string
	id          uuid.UUID
	took        time.Duration
	committedAt time.Time // as far as the buyer heard of it
	err         error     // the answer to the buyer otherwise
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

func (all *comparison) faults() []fault {
	return []fault{
		{before, func(ctx context.Context, c *company) error {
			c.sell(ctx, before, all.few)
			return c.join(ctx, consumerNames...)
		}},
		{goodDays, func(ctx context.Context, c *company) error { return c.measure(ctx, all.orders) }},
		{away, func(ctx context.Context, c *company) error {
			c.consumers[1].process.kill()
			c.sell(ctx, away, all.few)
			return c.startConsumer(ctx, c.consumers[1], nil)
		}},
		{outage, func(ctx context.Context, c *company) error {
			c.sell(ctx, outage, all.few)
			return nil
		}},
		{halfSold, func(ctx context.Context, c *company) error {
			if err := c.restartSales(ctx, caught); err != nil {
				return err
			}
			c.sell(ctx, halfSold, caught)
			if err := c.sales.died(ctx); err != nil {
				return fmt.Errorf("sales: %w", err)
			}
			return c.startSales(ctx, 0)
		}},
		{halfDone, func(ctx context.Context, c *company) error {
			if err := c.restart(ctx, c.consumers[1], map[string]string{shop.Crash: "1"}); err != nil {
				return err
			}
			c.sell(ctx, halfDone, all.few)
			if err := c.consumers[1].process.died(ctx); err != nil {
				return fmt.Errorf("%s: %w", c.consumers[1].name, err)
			}
			return c.startConsumer(ctx, c.consumers[1], nil)
		}},
		{slowly, func(ctx context.Context, c *company) error {
			if err := c.restart(ctx, c.consumers[1], map[string]string{shop.Slow: all.slow.String()}); err != nil {
				return err
			}
			c.sell(ctx, slowly, all.few)
			return nil
		}},
		{newcomers, func(ctx context.Context, c *company) error {
			err := c.join(ctx, "archive")
			if err == nil {
				err = c.goOn(ctx, newcomers)
			}
			if err == nil {
				err = c.join(ctx, "fleet")
			}
			return err
		}},
	}
}

// sell lets n buyers come at random moments, and returns when each has an answer.
func (c *company) sell(ctx context.Context, fault string, n int) {
	buyers := make([]*sold, n)
	for i := range buyers {
		buyers[i] = c.buyer(fault)
	}
	_ = atRandom(ctx, n, func(ctx context.Context, i int, _ time.Time) error {
		c.buy(ctx, buyers[i])
		return nil
	})
}

func (c *company) buyer(fault string) *sold {
	s := &sold{fault: fault, id: shop.NewID()}
	c.orders = append(c.orders, s)
	return s
}

func (c *company) buy(ctx context.Context, s *sold) {
	ctx, cancel := context.WithTimeout(ctx, longestSale)
	defer cancel()
	began := time.Now()
	s.committedAt, s.err = c.sales.sell(ctx, s.id)
	s.took = time.Since(began)
}

const (
	recovery  = time.Minute      // everything may take it to be well again
	secondTry = 15 * time.Second // then an order that has not arrived everywhere counts as lost, and another one is sold
)

// goOn returns when all consumers have heard of a sale, and so of what came before, if they ever will.
func (c *company) goOn(ctx context.Context, fault string) error {
	ctx, cancel := context.WithTimeout(ctx, recovery)
	defer cancel()
	var last error
	err := eventually(ctx, func() (bool, error) {
		s := c.buyer(fault)
		c.buy(ctx, s)
		if last = s.err; last == nil {
			last = c.arrival(ctx, s)
		}
		return last == nil, nil
	})
	if err != nil {
		err = errors.Join(last, c.sales.complaint())
		for _, con := range c.consumers {
			err = errors.Join(err, con.process.complaint())
		}
	}
	return err
}

func (c *company) arrival(ctx context.Context, s *sold) error {
	ctx, cancel := context.WithTimeout(ctx, secondTry)
	defer cancel()
	for _, con := range c.consumers {
		if _, err := con.arrival(ctx, s.id); err != nil {
			return fmt.Errorf("%s: %w", con.name, err)
		}
	}
	return nil
}
