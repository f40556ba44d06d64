package shop

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"strings"
	"time"

	"github.com/jackc/pgx/v5/pgconn"
	amqp "github.com/rabbitmq/amqp091-go"
	"golang.org/x/sync/errgroup"

	"github.com/edison-cars/data-feeds/shared/order"
)

// Work queues. Sales commits, then puts the order into a queue for each consumer, and waits until the broker has confirmed all of
// them. What is between the two, and what the broker has not taken when patience ends, is sold and known to nobody: who cannot
// have that writes the messages into the order's transaction, and lets a process of its own send them (an outbox).
type queues struct {
	*base
	link   *link
	names  []string
	logger *slog.Logger
}

func newQueues(ctx context.Context, b *base, l *link, names []string, logger *slog.Logger) (*queues, error) {
	ch, err := l.channel(ctx)
	if err != nil {
		return nil, err
	}
	for _, name := range names {
		if err := declareQueue(ch, name); err != nil {
			return nil, err
		}
	}
	return &queues{b, l, names, logger}, nil
}

func (s *queues) sell(ctx context.Context, o *order.Order) (committedAt time.Time, err error) {
	ctx = context.WithoutCancel(ctx)
	body, err := message(o)
	if err == nil {
		committedAt, err = s.insert(ctx, o)
	}
	if err != nil {
		return committedAt, err
	}
	s.crash.here()
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	var all errgroup.Group
	for _, name := range s.names {
		all.Go(func() error {
			s.count.Add(1)
			return s.link.deliver(ctx, "", name, body)
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

// dead is the queue for what a consumer refuses, for a person to look at.
func dead(queue string) string { return queue + ".dead" }

// declareQueue makes a durable queue that hands a message out up to maxTries times; then it goes to the dead letters.
func declareQueue(ch *amqp.Channel, name string) error {
	kind := amqp.Table{"x-queue-type": "quorum"}
	if _, err := ch.QueueDeclare(dead(name), true, false, false, false, kind); err != nil {
		return err
	}
	_, err := ch.QueueDeclare(name, true, false, false, false, amqp.Table{
		"x-queue-type": "quorum", "x-delivery-limit": maxTries - 1,
		"x-dead-letter-exchange": "", "x-dead-letter-routing-key": dead(name), "x-dead-letter-strategy": "at-least-once", "x-overflow": "reject-publish",
	})
	return err
}

// consumeQueue is a consumer with several workers.
func consumeQueue(ctx context.Context, set *settings, own *ownCopy, logger *slog.Logger, stdout io.Writer) error {
	l := newLink(set.Broker, 0)
	ch, err := l.channel(ctx)
	if err == nil {
		err = declareQueue(ch, set.Name) // by one: the broker fails where several make the same new queue at once
	}
	l.close()
	if err != nil {
		return err
	}
	started := make(chan struct{}, workers)
	all, ctx := errgroup.WithContext(ctx)
	for range workers {
		all.Go(func() error {
			return workOff(ctx, set.Broker, set.Name, func() { started <- struct{}{} }, func(body []byte) error {
				err := own.put(ctx, body)
				if err == nil {
					own.crash.here()
				}
				return err
			}, logger)
		})
	}
	for range workers {
		select {
		case <-started:
		case <-ctx.Done():
			return all.Wait()
		}
	}
	ready(stdout, set.Name)
	return all.Wait()
}

// workOff is one worker. handle returning nil acknowledges a message; what is wrong with it gives it back, for maxTries in all; any
// other error is a reason to try the same again later.
func workOff(ctx context.Context, url, queue string, ready func(), handle func(body []byte) error, logger *slog.Logger) error {
	declare := func(ch *amqp.Channel) error { return declareQueue(ch, queue) }
	return newLink(url, 1).consume(ctx, queue, declare, ready, func(m amqp.Delivery) error {
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

// isBad tells what trying again does not cure: SQLSTATE 22 and 23.
func isBad(err error) bool {
	server, ok := errors.AsType[*pgconn.PgError](err)
	return ok && (strings.HasPrefix(server.Code, "22") || strings.HasPrefix(server.Code, "23"))
}
