package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync/atomic"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	amqp "github.com/rabbitmq/amqp091-go"
	"golang.org/x/sync/errgroup"

	"github.com/edison-cars/data-feeds/shared/feed"
	"github.com/edison-cars/data-feeds/shared/order"
	"github.com/edison-cars/data-feeds/shared/subscribe"
)

const (
	prefetch     = 5000 // messages on their way to a tuned consumer
	messageBatch = 1000 // as many as a page of the feed
	batchDelay   = 20 * time.Millisecond
	consumers    = 2 // tuned, as the feed has two appliers
)

// A broker is RabbitMQ, running, with a connection for publishing and one for consuming.
type broker struct {
	server              *server
	publishes, consumes *amqp.Connection
}

func startBroker(ctx context.Context, env map[string]string, dir string) (_ *broker, err error) {
	dir = filepath.Join(dir, "rabbitmq")
	if err := os.Mkdir(dir, 0o755); err != nil {
		return nil, err
	}
	b := &broker{}
	if b.server, err = startServer(ctx, env, rabbitKind, dir); err != nil {
		return nil, err
	}
	for _, conn := range []**amqp.Connection{&b.publishes, &b.consumes} {
		if *conn, err = amqp.Dial("amqp://guest:guest@" + b.server.addr + "/"); err != nil {
			b.stop()
			return nil, fmt.Errorf("connect to RabbitMQ: %w", err)
		}
	}
	return b, nil
}

func (b *broker) stop() {
	for _, conn := range []*amqp.Connection{b.publishes, b.consumes} {
		if conn != nil {
			_ = conn.CloseDeadline(time.Now().Add(time.Second))
		}
	}
	_, _ = b.server.stop()
}

// queue makes an empty durable queue, and gives a channel that publishes to it and has what is published confirmed.
func (b *broker) queue(name string) (*amqp.Channel, error) {
	ch, err := b.publishes.Channel()
	if err != nil {
		return nil, err
	}
	if _, err = ch.QueueDelete(name, false, false, false); err == nil {
		if _, err = ch.QueueDeclare(name, true, false, false, false, nil); err == nil {
			err = ch.Confirm(false)
		}
	}
	return ch, err
}

func message(body []byte) amqp.Publishing {
	return amqp.Publishing{DeliveryMode: amqp.Persistent, ContentType: "application/json", Body: body}
}

// fill makes the queue with the first n entities of the source's feed, and returns when the broker has confirmed them all.
func (b *broker) fill(ctx context.Context, source *pgxpool.Pool, name string, n int) error {
	ch, err := b.queue(name)
	if err != nil {
		return err
	}
	defer ch.Close()
	confirmed, closed := ch.NotifyPublish(make(chan amqp.Confirmation, prefetch)), ch.NotifyClose(make(chan *amqp.Error, 1))
	both, ctx := errgroup.WithContext(ctx)
	both.Go(func() error {
		rows, err := source.Query(ctx, `select payload from feed_entry where feed = $1 and position <= $2 order by position`, feedName, n)
		if err != nil {
			return err
		}
		var payload []byte
		_, err = pgx.ForEachRow(rows, []any{&payload}, func() error {
			return ch.PublishWithContext(ctx, "", name, false, false, message(payload))
		})
		return err
	})
	both.Go(func() error {
		for range n {
			select {
			case <-ctx.Done():
				return ctx.Err()
			case err := <-closed:
				return err
			case c, ok := <-confirmed:
				if !ok || !c.Ack {
					return errors.New("RabbitMQ refused a message")
				}
			}
		}
		return nil
	})
	return both.Wait()
}

// consume gives the queue's messages; at most ahead of them are not acknowledged.
func (b *broker) consume(name string, ahead int) (*amqp.Channel, <-chan amqp.Delivery, error) {
	ch, err := b.consumes.Channel()
	if err != nil {
		return nil, nil, err
	}
	if err := ch.Qos(ahead, 0, false); err != nil {
		return nil, nil, err
	}
	messages, err := ch.Consume(name, "", false, false, false, false, nil)
	return ch, messages, err
}

// next gives up to most messages: it waits for the first, and for others only a moment. None: ctx is done.
func next(ctx context.Context, messages <-chan amqp.Delivery, most int) (batch []amqp.Delivery, err error) {
	var late <-chan time.Time
	for len(batch) < most {
		select {
		case <-ctx.Done():
			return batch, nil
		case <-late:
			return batch, nil
		case m, ok := <-messages:
			if !ok {
				return nil, errors.New("the connection to RabbitMQ was lost")
			}
			batch = append(batch, m)
			if late == nil {
				late = time.After(batchDelay)
			}
		}
	}
	return batch, nil
}

// copyInBatches copies n messages as fast as we know how: many at once, all of them acknowledged at once.
func (b *broker) copyInBatches(ctx context.Context, db *pgxpool.Pool, name string, n int) error {
	return b.copyAll(ctx, name, n, consumers, messageBatch, func(ctx context.Context, batch []amqp.Delivery) error {
		var of subscribe.Batch
		for i := range batch {
			of.Entities = append(of.Entities, feed.Entry{Entity: batch[i].Body})
		}
		var b pgx.Batch
		of.Queue(&b, upsertOrders)
		return db.SendBatch(ctx, &b).Close() // one transaction
	})
}

// copyOneByOne copies n messages as it is mostly done: look whether it is there, insert it, acknowledge it.
func (b *broker) copyOneByOne(ctx context.Context, db *pgxpool.Pool, name string, n int) error {
	insert := fmt.Sprintf(insertOrder, "orders")
	return b.copyAll(ctx, name, n, 1, 1, func(ctx context.Context, batch []amqp.Delivery) error {
		var o order.Order
		if err := json.Unmarshal(batch[0].Body, &o); err != nil {
			return err
		}
		var there bool
		if err := db.QueryRow(ctx, `select exists (select from orders where id = $1)`, o.ID).Scan(&there); err != nil || there {
			return err
		}
		_, err := db.Exec(ctx, insert, orderRow(&o)...)
		return err
	})
}

// copyAll writes n messages in batches of at most `most`, and acknowledges each batch when it is written.
func (b *broker) copyAll(ctx context.Context, name string, n, consumers, most int, write func(context.Context, []amqp.Delivery) error) error {
	ctx, done := context.WithCancel(ctx)
	defer done()
	all, ctx := errgroup.WithContext(ctx)
	var written atomic.Int64
	for range consumers {
		all.Go(func() error {
			ch, messages, err := b.consume(name, prefetch)
			if err != nil {
				return err
			}
			defer ch.Close()
			for {
				batch, err := next(ctx, messages, most)
				if err != nil || len(batch) == 0 {
					return err
				}
				if err := write(ctx, batch); err != nil {
					return err
				}
				if err := batch[len(batch)-1].Ack(true); err != nil {
					return err
				}
				if written.Add(int64(len(batch))) >= int64(n) {
					done()
				}
			}
		})
	}
	err := all.Wait()
	if err == nil && written.Load() < int64(n) {
		err = context.Cause(ctx)
	}
	return err
}
