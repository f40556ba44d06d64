package main

import (
	"context"
	"errors"
	"sync/atomic"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	amqp "github.com/rabbitmq/amqp091-go"
	"golang.org/x/sync/errgroup"

	"github.com/edison-cars/data-feeds/shared/cmd/bench/shop"
	"github.com/edison-cars/data-feeds/shared/feed"
	"github.com/edison-cars/data-feeds/shared/order"
	"github.com/edison-cars/data-feeds/shared/subscribe"
)

const (
	prefetch     = 5000 // messages on their way to a tuned consumer
	messageBatch = 1000 // as many as a page of the feed
	tuned        = 2    // consumers, as the feed has two appliers
)

func emptyQueue(ch *amqp.Channel, name string) error {
	_, err := ch.QueueDelete(name, false, false, false)
	if err == nil {
		_, err = ch.QueueDeclare(name, true, false, false, false, nil)
	}
	return err
}

// fillQueue makes the queue with the first n entities of the source's feed, and returns when the broker has confirmed
// them all.
func (c *catchup) fillQueue(ctx context.Context, name string, n int) error {
	link := shop.NewLink(c.broker.URL, 0)
	defer link.Close()
	ch, err := link.Channel(ctx)
	if err == nil {
		err = emptyQueue(ch, name)
	}
	if err != nil {
		return err
	}
	published := make(chan *amqp.DeferredConfirmation, prefetch)
	both, ctx := errgroup.WithContext(ctx)
	both.Go(func() error {
		defer close(published)
		rows, err := c.source.Query(ctx, `
			select payload from feed_entry where feed = $1 and position <= $2 order by position`, order.Feed, n)
		if err != nil {
			return err
		}
		var payload []byte
		_, err = pgx.ForEachRow(rows, []any{&payload}, func() error {
			p, err := ch.PublishWithDeferredConfirmWithContext(ctx, "", name, false, false, shop.Persistent(payload))
			if err != nil {
				return err
			}
			select {
			case published <- p:
				return nil
			case <-ctx.Done():
				return ctx.Err()
			}
		})
		return err
	})
	both.Go(func() error {
		for p := range published {
			if ok, err := p.WaitContext(ctx); err != nil || !ok {
				return errors.Join(err, shop.ErrRefused)
			}
		}
		return nil
	})
	return both.Wait()
}

// copyInBatches copies n messages as fast as we know how: many at once, all of them acknowledged at once.
func (c *catchup) copyInBatches(ctx context.Context, db *pgxpool.Pool, name string, n int) error {
	return c.copyQueue(ctx, name, n, tuned, messageBatch, func(ctx context.Context, batch []amqp.Delivery) error {
		var of subscribe.Batch
		for i := range batch {
			of.Entities = append(of.Entities, feed.Entry{Entity: batch[i].Body})
		}
		var b pgx.Batch
		of.Queue(&b, shop.Upsert)
		return db.SendBatch(ctx, &b).Close() // one transaction
	})
}

// copyOneByOne copies n messages as it is mostly done: look whether it is there, insert it, acknowledge it.
func (c *catchup) copyOneByOne(ctx context.Context, db *pgxpool.Pool, name string, n int) error {
	return c.copyQueue(ctx, name, n, 1, 1, func(ctx context.Context, batch []amqp.Delivery) error {
		return shop.Take(ctx, db, batch[0].Body)
	})
}

// copyQueue writes n messages in batches of at most `most`, and acknowledges each batch when it is written.
func (c *catchup) copyQueue(ctx context.Context, name string, n, consumers, most int,
	write func(context.Context, []amqp.Delivery) error) error {
	ctx, done := context.WithCancelCause(ctx)
	defer done(nil)
	var all errgroup.Group
	var written atomic.Int64
	for range consumers {
		all.Go(func() error {
			return shop.NewLink(c.broker.URL, prefetch).Consume(ctx, name, most, nil, func() {},
				func(batch []amqp.Delivery) error {
					err := write(ctx, batch)
					if err == nil {
						err = batch[len(batch)-1].Ack(true)
					}
					if err != nil || written.Add(int64(len(batch))) >= int64(n) {
						done(err)
					}
					return err
				})
		})
	}
	err := all.Wait()
	if err == nil && written.Load() < int64(n) {
		err = context.Cause(ctx)
	}
	return err
}
