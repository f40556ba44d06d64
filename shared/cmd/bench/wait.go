package main

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/google/uuid"

	"github.com/edison-cars/data-feeds/shared/feed"
	"github.com/edison-cars/data-feeds/shared/feedclient"
	"github.com/edison-cars/data-feeds/shared/order"
)

const (
	waitSeconds = 30 // of Prefer: wait
	// patience is for the last answers of a server when all requests are sent.
	patience = time.Minute
)

// waits measures how long a reader takes to see what was committed, and what many that wait cost.
type waits struct {
	*bench
	duration time.Duration // of selling to one reader
	waiters  int
	rounds   int // of answering all of them
}

type reader struct {
	name  string
	addr  string
	feed  string
	token string        // or empty
	every time.Duration // between polls, or 0 if it waits for the source to answer
}

func (w *waits) run(ctx context.Context) (chart, error) {
	fmt.Fprintf(w.out, "\nWaiting: %d orders a second for %v, at random; from the commit's return in the source to the "+
		"page's in a reader\n",
		ordersPerSecond, w.duration)
	if err := w.fill(ctx, 0); err != nil {
		return chart{}, err
	}
	writer, err := w.startSource(ctx, nil)
	if err != nil {
		return chart{}, err
	}
	defer writer.stop()
	replica, err := w.startSource(ctx, nil)
	if err != nil {
		return chart{}, err
	}
	defer replica.stop()
	t := w.out.table("reader", "orders", "p50 ms", "p99 ms", "most ms")
	c := chart{title: "From commit to reader (shorter is better, logarithmic)", unit: " ms", from: 0.1,
		series: []string{"p50", "p99"}}
	for _, r := range []reader{
		{name: "wait", addr: writer.addr, feed: order.Feed},
		{name: "wait, replica", addr: replica.addr, feed: order.Feed},
		{name: "poll every 1 s", addr: writer.addr, feed: order.Feed, every: time.Second},
	} {
		delays, err := w.delays(ctx, writer, &r)
		if err != nil {
			return chart{}, fmt.Errorf("%s: %w", r.name, err)
		}
		p50, p99 := quantile(delays, 0.5), quantile(delays, 0.99)
		t.row(r.name, count(len(delays)), number(p50), number(p99), number(quantile(delays, 1)))
		c.groups = append(c.groups, group{r.name, []float64{p50, p99}})
	}
	if err := t.flush(); err != nil {
		return chart{}, err
	}
	c.note, err = w.crowd(ctx)
	return c, err
}

// delays sells while the reader reads, and returns the milliseconds that each order took to be seen.
func (w *waits) delays(ctx context.Context, writer *process, r *reader) ([]float64, error) {
	after, err := w.head(ctx)
	if err != nil {
		return nil, err
	}
	witness := w.watch(ctx, func(ctx context.Context, saw func(uuid.UUID)) error { return r.follow(ctx, after, saw) })
	defer witness.stop()
	return delays(ctx, int(ordersPerSecond*w.duration.Seconds()), writer.sell, witness)
}

func (b *bench) head(ctx context.Context) (feed.Cursor, error) {
	var position int64
	var digest []byte
	err := b.source.QueryRow(ctx, `select position, digest from feed_head where name = $1`, order.Feed).Scan(&position, &digest)
	if err != nil {
		return feed.Cursor{}, err
	}
	return feed.At(position, feed.Digest(digest)), nil
}

func (r *reader) url() string { return "http://" + r.addr + "/feeds/" + r.feed }

func (r *reader) follow(ctx context.Context, after feed.Cursor, saw func(uuid.UUID)) error {
	return r.read(ctx, after, func(e *feed.Entry) error { saw(e.ID); return nil })
}

func (r *reader) read(ctx context.Context, after feed.Cursor, saw func(*feed.Entry) error) error {
	tick := time.NewTicker(max(r.every, 1))
	defer tick.Stop()
	client := feedclient.New(r.token)
	defer client.Close()
	next := feedclient.Request{URL: r.url(), After: after, Limit: feed.PageSize}
	if r.every == 0 {
		next.Wait = waitSeconds * time.Second
	}
	for {
		answer, err := client.Get(ctx, next)
		if err != nil {
			return err
		}
		if r.every == 0 && answer.Waits == 0 {
			return errors.New("the source does not wait")
		}
		for i := range answer.Page.Entries {
			if err := saw(&answer.Page.Entries[i]); err != nil {
				return err
			}
		}
		next.After = answer.Page.Cursor
		if r.every > 0 && answer.Page.UpToDate {
			select {
			case <-ctx.Done():
				return ctx.Err()
			case <-tick.C:
			}
		}
	}
}
