package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/google/uuid"
	amqp "github.com/rabbitmq/amqp091-go"

	"github.com/edison-cars/data-feeds/shared/cmd/bench/shop"
	"github.com/edison-cars/data-feeds/shared/dev/rabbitmq"
	"github.com/edison-cars/data-feeds/shared/postgres"
)

// freshness measures how long an order takes from its commit at the source until its commit in a copy.
type freshness struct {
	*pair
	broker   *rabbitmq.Server // or nil
	duration time.Duration
	rounds   int
}

// A transport brings orders into a copy. Its start returns the function that sells one, and the one that ends it.
type transport struct {
	name, bar string
	start     func(ctx context.Context, db *postgres.DB) (sell seller, stop func() error, err error)

	p50, p99, most []float64 // milliseconds, by round
	orders         int
}

func (f *freshness) run(ctx context.Context) (chart, error) {
	fmt.Fprintf(f.out, "\nFreshness: %d orders a second for %v, at random; from the commit's return in the source to "+
		"another session of the copy's database that hears of its commit (NOTIFY)\n",
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
			if err := f.measure(ctx, t); err != nil {
				return chart{}, fmt.Errorf("%s: %w", t.name, err)
			}
		}
	}
	t := f.out.table("transport", "orders", "p50 ms", "p99 ms", "most ms", "p50 : RabbitMQ's", "p99 : RabbitMQ's")
	c := chart{title: "From commit to commit (shorter is better, logarithmic)", unit: " ms", from: 0.1,
		series: []string{"p50", "p99"}}
	for _, of := range all {
		t.row(of.name, count(of.orders), number(median(of.p50)), number(median(of.p99)), number(median(of.most)),
			ratios(of.p50, push.p50), ratios(of.p99, push.p99))
		c.groups = append(c.groups, group{of.bar, []float64{median(of.p50), median(of.p99)}})
	}
	return c, t.flush()
}

func (f *freshness) measure(ctx context.Context, t *transport) error {
	if err := f.fill(ctx, 0); err != nil {
		return err
	}
	db, err := f.fresh(ctx)
	if err != nil {
		return err
	}
	defer db.Close()
	observer, err := f.listen(ctx, db)
	if err != nil {
		return err
	}
	defer observer.stop()
	sell, stop, err := t.start(ctx, db)
	if stop != nil {
		defer func() { _ = stop() }()
	}
	if err != nil {
		return err
	}
	took, err := delays(ctx, int(ordersPerSecond*f.duration.Seconds()), sell, observer)
	if err != nil {
		return err
	}
	t.orders += len(took)
	t.p50, t.p99, t.most = append(t.p50, quantile(took, 0.5)), append(t.p99, quantile(took, 0.99)),
		append(t.most, quantile(took, 1))
	want, err := ordersOf(ctx, f.source.Pool, 0)
	if err != nil {
		return err
	}
	return equal(ctx, db.Pool, want)
}

func (f *freshness) polling(ctx context.Context, db *postgres.DB) (seller, func() error, error) {
	return f.subscriber(ctx, db, shop.FeedConsumer, nil)
}

// waiting fails unless the subscriber keeps a request waiting at the source.
func (f *freshness) waiting(ctx context.Context, db *postgres.DB) (seller, func() error, error) {
	return f.subscriber(ctx, db, shop.PureCopy, map[string]string{"POLL_WAIT": "25s"})
}

func (f *freshness) subscriber(ctx context.Context, db *postgres.DB, kind string,
	settings map[string]string) (seller, func() error, error) {
	source, err := f.startSource(ctx, nil)
	if err != nil {
		return nil, nil, err
	}
	subscriber, err := f.startSubscriber(ctx, kind, source.addr, db, settings)
	if err == nil {
		err = subscriber.caughtUp(ctx, 0)
	}
	if err == nil && settings["POLL_WAIT"] != "" {
		err = keepsWaiting(ctx, source)
	}
	return source.sell, func() error {
		if subscriber != nil {
			_, _ = subscriber.stop()
		}
		_, err := source.stop()
		return err
	}, err
}

// waitsAt is how long a request has to wait at the source without a pause.
const waitsAt = 500 * time.Millisecond

// keepsWaiting returns when a request waits at the source, and fails if none stays.
func keepsWaiting(ctx context.Context, source *process) error {
	since := time.Now()
	deadline := since.Add(patience)
	return eventually(ctx, func() (bool, error) {
		var waiting int
		if err := source.get(ctx, shop.WaitingPath, &waiting); err != nil {
			return false, err
		}
		if waiting == 0 {
			since = time.Now()
		}
		if since.After(deadline) {
			return false, errors.New("the subscriber does not wait")
		}
		return time.Since(since) >= waitsAt, nil
	})
}

func (f *freshness) insert(ctx context.Context, id uuid.UUID) (payload []byte, committedAt time.Time, err error) {
	o := shop.NewOrder(id)
	e, err := shop.NewEntry(o)
	if err == nil {
		_, err = f.source.Exec(ctx, shop.Insert("orders"), shop.Row(o)...)
	}
	return e.Payload, time.Now(), err
}

func (f *freshness) replicating(ctx context.Context, db *postgres.DB) (seller, func() error, error) {
	stop, err := f.replicate(ctx, db, false)
	return func(ctx context.Context, id uuid.UUID) (time.Time, error) {
		_, committedAt, err := f.insert(ctx, id)
		return committedAt, err
	}, stop, err
}

// push publishes each order after its commit, and returns when the broker has confirmed it. The consumer commits, then
// acknowledges.
func (f *freshness) push(ctx context.Context, db *postgres.DB) (seller, func() error, error) {
	const queue = "freshness"
	publisher := shop.NewLink(f.broker.URL, 0)
	ch, err := publisher.Channel(ctx)
	if err == nil {
		err = emptyQueue(ch, queue)
	}
	if err != nil {
		return nil, nil, err
	}
	ctx, cancel := context.WithCancel(ctx)
	consumed, ready := make(chan error, 1), make(chan struct{})
	go func() {
		consumer := shop.NewLink(f.broker.URL, prefetch)
		consumed <- consumer.Consume(ctx, queue, 1, nil, func() { close(ready) }, func(batch []amqp.Delivery) error {
			err := shop.Put(ctx, db, batch[0].Body)
			if err == nil {
				err = batch[0].Ack(false)
			}
			return err
		})
	}()
	stop := func() error {
		cancel()
		publisher.Close()
		return <-consumed
	}
	select {
	case <-ready:
	case err := <-consumed:
		consumed <- err
		return nil, stop, cmp.Or(err, ctx.Err())
	}
	return func(ctx context.Context, id uuid.UUID) (time.Time, error) {
		payload, committedAt, err := f.insert(ctx, id)
		if err == nil {
			err = publisher.Deliver(ctx, "", queue, payload)
		}
		return committedAt, err
	}, stop, nil
}
