package shop

import (
	"context"
	"errors"
	"log/slog"
	"strings"
	"sync/atomic"
	"time"

	"github.com/jackc/pgx/v5/pgconn"
	amqp "github.com/rabbitmq/amqp091-go"
	"golang.org/x/sync/errgroup"

	"github.com/edison-cars/data-feeds/shared/order"
)

// byQueues sells by work queues: sales commits, then puts the order into a queue for each consumer. What the broker has
// not confirmed when patience ends is sold and unknown to the consumers; an outbox would prevent that.
func (s *sales) byQueues(ctx context.Context) (seller, error) {
	ch, err := s.link.Channel(ctx)
	if err != nil {
		return nil, err
	}
	for _, name := range s.Told {
		if err := declareQueue(ch, name); err != nil {
			return nil, err
		}
	}
	return s.sellByQueues, nil
}

func (s *sales) sellByQueues(ctx context.Context, o *order.Order) (committedAt time.Time, err error) {
	ctx = context.WithoutCancel(ctx)
	body, committedAt, err := s.commit(ctx, o)
	if err != nil {
		return committedAt, err
	}
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	var all errgroup.Group
	for _, name := range s.Told {
		all.Go(func() error {
			s.count.Add(1)
			return s.link.Deliver(ctx, "", name, body)
		})
	}
	if err := all.Wait(); err != nil { // the car is sold all the same
		s.logger.ErrorContext(ctx, "not everybody was told of an order", "order_id", o.ID, "error", err)
	}
	return committedAt, nil
}

const (
	workers  = 3 // that share a queue
	maxTries = 5 // a crash with the message in hand is one, too
)

// dead is the queue for messages that a consumer refuses, for a person to look at.
func dead(queue string) string { return queue + ".dead" }

// declareQueue makes a durable queue that hands a message out up to maxTries times; then it goes to the dead letters.
func declareQueue(ch *amqp.Channel, name string) error {
	kind := amqp.Table{"x-queue-type": "quorum"}
	if _, err := ch.QueueDeclare(dead(name), true, false, false, false, kind); err != nil {
		return err
	}
	_, err := ch.QueueDeclare(name, true, false, false, false, amqp.Table{
		"x-queue-type": "quorum", "x-delivery-limit": maxTries - 1,
		"x-dead-letter-exchange": "", "x-dead-letter-routing-key": dead(name), "x-dead-letter-strategy": "at-least-once",
		"x-overflow": "reject-publish",
	})
	return err
}

func (c *consumer) serveQueue(ctx context.Context, ready func(any)) error {
	l := NewLink(c.Broker, 0)
	ch, err := l.Channel(ctx)
	if err == nil {
		err = declareQueue(ch, c.Name) // by one: the broker fails where several make the same new queue at once
	}
	l.Close()
	if err != nil {
		return err
	}
	var started atomic.Int32
	all, ctx := errgroup.WithContext(ctx)
	for range workers {
		all.Go(func() error {
			return workOff(ctx, c.Broker, c.Name, func() {
				if started.Add(1) == workers {
					ready(c.Name)
				}
			}, func(body []byte) error { return c.write(ctx, body, Put) }, c.logger)
		})
	}
	return all.Wait()
}

// workOff is one worker. handle returning nil acknowledges a message; what is wrong with it gives it back, for maxTries
// in all; any other error is a reason to try the same again later.
func workOff(ctx context.Context, url, queue string, ready func(), handle func(body []byte) error,
	logger *slog.Logger) error {
	declare := func(ch *amqp.Channel) error { return declareQueue(ch, queue) }
	return NewLink(url, 1).Consume(ctx, queue, 1, declare, ready, func(batch []amqp.Delivery) error {
		m := batch[0]
		for {
			err := handle(m.Body)
			switch {
			case err == nil:
				return m.Ack(false)
			case isBad(err):
				logger.WarnContext(ctx, "a message was refused", "queue", queue, "error", err)
				return m.Nack(false, true)
			}
			select {
			case <-ctx.Done():
				return ctx.Err()
			case <-time.After(redialPause):
			}
		}
	})
}

// isBad reports whether trying again does not help: SQLSTATE 22 and 23.
func isBad(err error) bool {
	server, ok := errors.AsType[*pgconn.PgError](err)
	return ok && (strings.HasPrefix(server.Code, "22") || strings.HasPrefix(server.Code, "23"))
}
