package main

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"time"

	"github.com/go-json-experiment/json"
	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	amqp "github.com/rabbitmq/amqp091-go"

	"github.com/edison-cars/data-feeds/shared/order"
	"github.com/edison-cars/data-feeds/shared/postgres"
)

// freshness measures how long an order takes from its commit at the source until its commit in a copy.
type freshness struct {
	*pair
	broker   *broker // nil: there is none
	duration time.Duration
	rounds   int
}

// A transport brings orders into a copy. It gives what sells one, and what ends it.
type transport struct {
	name, bar string
	start     func(ctx context.Context, db *postgres.DB) (sell func(context.Context) (sale, error), stop func() error, err error)

	p50, p99, most []float64 // milliseconds, by round
	orders         int
}

var errDoesNotWait = errors.New("the subscriber does not wait")

func (f *freshness) run(ctx context.Context) (chart, error) {
	fmt.Fprintf(f.out, "\nFreshness: %d orders a second for %v, at random; from the commit's return in the source to another session of the copy's database that hears of its commit (NOTIFY)\n",
		ordersPerSecond, f.duration)
	push := &transport{name: "RabbitMQ push", bar: "RabbitMQ", start: f.push}
	all := []*transport{
		{name: "feed, pure copy, wait", bar: "feed, wait", start: f.waiting},
		push,
		{name: "logical replication", bar: "logical", start: f.replicating},
		{name: "feed, poll every 1 s", bar: "feed, poll 1 s", start: f.polling},
	}
	if f.broker == nil {
		fmt.Fprintln(f.out, noRabbit)
		all = slices.Delete(all, 1, 2)
	}
	for round := range f.rounds {
		for turn := range all {
			t := all[(turn+round)%len(all)]
			if err := f.measure(ctx, t); errors.Is(err, errDoesNotWait) {
				continue
			} else if err != nil {
				return chart{}, fmt.Errorf("%s: %w", t.name, err)
			}
		}
	}
	t := f.out.table("transport", "orders", "p50 ms", "p99 ms", "most ms", "p50 : RabbitMQ's", "p99 : RabbitMQ's")
	c := chart{title: "From commit to commit (shorter is better, logarithmic)", unit: " ms", from: 0.1, series: []string{"p50", "p99"}}
	for _, of := range all {
		if of.orders == 0 {
			t.row(of.name, errDoesNotWait.Error(), "-", "-", "-", "-", "-")
			continue
		}
		t.row(of.name, count(of.orders), number(median(of.p50)), number(median(of.p99)), number(median(of.most)), ratios(of.p50, push.p50), ratios(of.p99, push.p99))
		c.groups = append(c.groups, group{of.bar, []float64{median(of.p50), median(of.p99)}})
	}
	return c, t.flush()
}

// measure sells by a transport.
func (f *freshness) measure(ctx context.Context, t *transport) error {
	if err := f.empty(ctx); err != nil {
		return err
	}
	db, err := f.fresh(ctx)
	if err != nil {
		return err
	}
	defer db.Close()
	n := int(ordersPerSecond * f.duration.Seconds())
	observer, err := observe(ctx, db)
	if err != nil {
		return err
	}
	defer observer.Close(context.WithoutCancel(ctx))
	sell, stop, err := t.start(ctx, db)
	if stop != nil {
		defer func() { _ = stop() }()
	}
	if err != nil {
		return err
	}
	took, err := delays(ctx, n, sell, func(ctx context.Context) (map[uuid.UUID]time.Time, error) { return commits(ctx, observer, n) })
	if err != nil {
		return err
	}
	t.orders += len(took)
	t.p50, t.p99, t.most = append(t.p50, quantile(took, 0.5)), append(t.p99, quantile(took, 0.99)), append(t.most, quantile(took, 1))
	return f.equal(ctx, db.Pool)
}

// observe gives a session that hears of every order that is committed in the copy, whoever inserts it.
func observe(ctx context.Context, db *postgres.DB) (*pgx.Conn, error) {
	_, err := db.Exec(ctx, `
		create function copied() returns trigger language plpgsql as $$ begin perform pg_notify('copied', new.id::text); return null; end $$;
		create trigger copied after insert on orders for each row execute function copied();
		alter table orders enable always trigger copied`)
	if err != nil {
		return nil, err
	}
	conn, err := pgx.ConnectConfig(ctx, db.Config().ConnConfig)
	if err == nil {
		_, err = conn.Exec(ctx, `listen copied`)
	}
	return conn, err
}

// commits gives when the observer heard of each of n orders.
func commits(ctx context.Context, observer *pgx.Conn, n int) (map[uuid.UUID]time.Time, error) {
	seen := map[uuid.UUID]time.Time{}
	for len(seen) < n {
		heard, err := observer.WaitForNotification(ctx)
		if err != nil {
			return nil, fmt.Errorf("%d of %d orders have come: %w", len(seen), n, err)
		}
		id, err := uuid.Parse(heard.Payload)
		if err != nil {
			return nil, err
		}
		seen[id] = time.Now()
	}
	return seen, nil
}

func (f *freshness) polling(ctx context.Context, db *postgres.DB) (sell func(context.Context) (sale, error), stop func() error, err error) {
	return f.subscriber(ctx, db, oneKind, map[string]string{"POLL_ORDERS": "@every 1s"})
}

// waiting fails with errDoesNotWait unless the subscriber keeps a request waiting at the source.
func (f *freshness) waiting(ctx context.Context, db *postgres.DB) (sell func(context.Context) (sale, error), stop func() error, err error) {
	return f.subscriber(ctx, db, pureKind, map[string]string{"POLL_ORDERS": "@every 1s", "POLL_WAIT": "25s"})
}

// subscriber starts a source and a subscriber, which is up to date when it returns.
func (f *freshness) subscriber(ctx context.Context, db *postgres.DB, kind string, settings map[string]string) (sell func(context.Context) (sale, error), stop func() error, err error) {
	source, err := f.startSource(ctx)
	if err != nil {
		return nil, nil, err
	}
	subscriber, err := f.startSubscriber(ctx, kind, source.addr, db, settings)
	if err != nil {
		_, _ = source.stop()
		return nil, nil, err
	}
	stop = func() error {
		_, err := subscriber.stop()
		_, sourceErr := source.stop()
		return errors.Join(err, sourceErr)
	}
	if err = subscriber.caughtUp(ctx, 0); err == nil && settings["POLL_WAIT"] != "" {
		err = source.keepsWaiting(ctx)
	}
	return source.sell, stop, err
}

const (
	waitsFor = 2 * time.Second        // for a subscriber to begin to wait
	waitsAt  = 500 * time.Millisecond // it waits if all this time a request waited
)

// keepsWaiting returns when a request waits at the server, and fails with errDoesNotWait if none stays.
func (s *server) keepsWaiting(ctx context.Context) error {
	since := time.Now()
	for deadline := time.Now().Add(waitsFor); time.Since(since) < waitsAt; {
		req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+s.addr+waitingPath, nil)
		if err != nil {
			return err
		}
		var waiting int
		if err := call(req, &waiting); err != nil {
			return err
		}
		if waiting == 0 {
			since = time.Now()
		}
		if since.After(deadline) {
			return errDoesNotWait
		}
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-time.After(watchInterval):
		}
	}
	return nil
}

func (f *freshness) replicating(ctx context.Context, db *postgres.DB) (sell func(context.Context) (sale, error), stop func() error, err error) {
	stop, err = f.replicate(ctx, db, false)
	return func(ctx context.Context) (sale, error) {
		o := newOrder()
		_, err := f.source.Exec(ctx, fmt.Sprintf(insertOrder, "orders"), orderRow(o)...)
		return sale{o.ID, time.Now()}, err
	}, stop, err
}

// push publishes each order after its commit, and returns when the broker has confirmed it. The consumer commits, then acknowledges.
func (f *freshness) push(ctx context.Context, db *postgres.DB) (sell func(context.Context) (sale, error), stop func() error, err error) {
	const queue = "freshness"
	publisher, err := f.broker.queue(queue)
	if err != nil {
		return nil, nil, err
	}
	consumer, messages, err := f.broker.consume(queue, prefetch)
	if err != nil {
		return nil, publisher.Close, err
	}
	consumed := make(chan error, 1)
	go func() { consumed <- insertAll(ctx, db, messages) }()
	stop = func() error { return errors.Join(consumer.Close(), <-consumed, publisher.Close()) }
	return func(ctx context.Context) (sale, error) {
		o := newOrder()
		e, err := newEntry(o)
		if err != nil {
			return sale{}, err
		}
		if _, err := f.source.Exec(ctx, fmt.Sprintf(insertOrder, "orders"), orderRow(o)...); err != nil {
			return sale{}, err
		}
		sold := sale{o.ID, time.Now()}
		confirmation, err := publisher.PublishWithDeferredConfirmWithContext(ctx, "", queue, false, false, message(e.Payload))
		if err != nil {
			return sale{}, err
		}
		_, err = confirmation.WaitContext(ctx)
		return sold, err
	}, stop, nil
}

// insertAll inserts each message as it comes, until the channel is closed.
func insertAll(ctx context.Context, db *postgres.DB, messages <-chan amqp.Delivery) error {
	upsert := fmt.Sprintf(insertOrder, "orders") + unlessNewer
	for m := range messages {
		o := new(order.Order)
		err := json.Unmarshal(m.Body, o)
		if err == nil {
			_, err = db.Exec(ctx, upsert, orderRow(o)...)
		}
		if err == nil {
			err = m.Ack(false)
		}
		if err != nil {
			return err
		}
	}
	return nil
}
