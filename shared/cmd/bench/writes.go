package main

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/edison-cars/data-feeds/shared/cmd/bench/shop"
	"github.com/edison-cars/data-feeds/shared/order"
	"github.com/edison-cars/data-feeds/shared/publish"
)

const (
	maxConns     = 48      // of a peer, a connection for each writer up to here: the private server takes 60
	maxOrders    = 200_000 // in one round
	pollInterval = 2 * time.Millisecond
	pollLimit    = 1000
)

var writerCounts = []int{1, 8, 32, 128}

// writes measures orders a second, and what a concurrent reader misses of them.
type writes struct {
	*bench
	rounds   int
	duration time.Duration // of one contestant in one round
}

type contestant struct {
	name  string
	write func(ctx context.Context, o *order.Order) error
	// log is where the entries are: a table expression of number and payload, numbers ascending by the contestant's
	// idea of order.
	log string
}

func (w *writes) run(ctx context.Context) (chart, error) {
	fmt.Fprintf(w.out, "\nWrites: orders a second, %d rounds of %v; peers have a connection for each writer, up to %d\n",
		w.rounds, w.duration, maxConns)
	for _, peer := range []string{"plain", "single"} {
		_, err := w.source.Exec(ctx, fmt.Sprintf(`
			create table %[1]s_orders (like orders including all);
			create table %[1]s_entry (id bigserial primary key, entity_id uuid not null, version bigint not null,
			                          updated timestamptz not null, payload bytea not null)`, peer))
		if err != nil {
			return chart{}, err
		}
	}
	log, err := publish.Open(ctx, w.source.Pool, publish.Options{})
	if err != nil {
		return chart{}, err
	}
	defer log.Close()
	t := w.out.table("writers", "feed", "plain", "one statement", "feed : plain", "feed : one statement",
		"feed missed", "plain missed", "one statement missed")
	c := chart{title: "Orders a second (longer is better), and what a reader missed of them", unit: "/s"}
	total := make([]tally, 3)
	for _, writers := range writerCounts {
		all, err := w.compare(ctx, log, writers)
		if err != nil {
			return chart{}, fmt.Errorf("%d writers: %w", writers, err)
		}
		for i := range all {
			total[i].missed += all[i].missed
			total[i].written += all[i].written
		}
		feed, plain, single := all[0], all[1], all[2]
		t.row(fmt.Sprint(writers), number(median(feed.rates)), number(median(plain.rates)), number(median(single.rates)),
			ratios(feed.rates, plain.rates), ratios(feed.rates, single.rates), feed.lost(), plain.lost(), single.lost())
		c.groups = append(c.groups, group{fmt.Sprintf("%d writers", writers),
			[]float64{median(feed.rates), median(plain.rates), median(single.rates)}})
	}
	c.groups[0].name = "1 writer"
	for i, name := range []string{"feed", "plain transaction", "one statement"} {
		c.series = append(c.series, fmt.Sprintf("%s, %.1f %% missed", name,
			100*float64(total[i].missed)/float64(max(1, total[i].written))))
	}
	return c, t.flush()
}

type tally struct {
	rates           []float64 // orders a second, by round
	written, missed int
}

func (t *tally) lost() string { return fmt.Sprintf("%s of %s", count(t.missed), count(t.written)) }

func (w *writes) compare(ctx context.Context, log *publish.Log, writers int) ([]tally, error) {
	config := w.source.Config()
	config.MinConns, config.MaxConns = 0, int32(min(writers, maxConns))
	peers, err := pgxpool.NewWithConfig(ctx, config)
	if err != nil {
		return nil, err
	}
	defer peers.Close()
	all := contestants(log, peers)
	tallies := make([]tally, len(all))
	for round := -1; round < w.rounds; round++ { // the first one warms up
		for turn := range all {
			i := (turn + max(round, 0)) % len(all)
			duration := w.duration
			if round < 0 {
				duration /= 5
			}
			rate, written, missed, err := w.round(ctx, &all[i], writers, duration)
			if err != nil {
				return nil, fmt.Errorf("%s: %w", all[i].name, err)
			}
			if round >= 0 {
				t := &tallies[i]
				t.rates, t.written, t.missed = append(t.rates, rate), t.written+written, t.missed+missed
			}
		}
	}
	return tallies, nil
}

func contestants(log *publish.Log, peers *pgxpool.Pool) []contestant {
	insertEntry := `insert into %s_entry (entity_id, version, updated, payload) `
	plainOrder, plainEntry := shop.Insert("plain_orders"), fmt.Sprintf(insertEntry, "plain")+`values ($1, $2, $3, $4)`
	single := `with placed as (` + shop.Insert("single_orders") + `) ` + fmt.Sprintf(insertEntry,
		"single") + `values ($1, $2, $9, $10)`
	return []contestant{
		{"feed", func(ctx context.Context, o *order.Order) error {
			change, err := shop.NewChange(o)
			if err != nil {
				return err
			}
			return log.Commit(ctx, change)
		}, `(select position as number, payload from feed_entry where feed = '` + order.Feed + `')`},
		{"plain", func(ctx context.Context, o *order.Order) error {
			e, err := shop.NewEntry(o)
			if err != nil {
				return err
			}
			return pgx.BeginFunc(ctx, peers, func(tx pgx.Tx) error {
				if _, err := tx.Exec(ctx, plainOrder, shop.Row(o)...); err != nil {
					return err
				}
				_, err := tx.Exec(ctx, plainEntry, e.ID, e.Version, e.Updated, e.Payload)
				return err
			})
		}, `(select id as number, payload from plain_entry)`},
		{"one statement", func(ctx context.Context, o *order.Order) error {
			e, err := shop.NewEntry(o)
			if err != nil {
				return err
			}
			_, err = peers.Exec(ctx, single, append(shop.Row(o), e.Payload)...)
			return err
		}, `(select id as number, payload from single_entry)`},
	}
}

// round lets the writers write for the duration, while a reader follows.
func (w *writes) round(ctx context.Context, c *contestant, writers int, duration time.Duration) (rate float64, written,
	missed int, err error) {
	var start int64
	if _, err := w.source.Exec(ctx, `checkpoint`); err != nil { // no round pays for another's
		return 0, 0, 0, err
	}
	if err := w.source.QueryRow(ctx, `select coalesce(max(number), 0) from `+c.log+` as log`).Scan(&start); err != nil {
		return 0, 0, 0, err
	}
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	var writing, reading sync.WaitGroup
	var orders atomic.Int64
	done, seen := make(chan struct{}), 0
	reading.Go(func() {
		var err error
		if seen, err = w.follow(ctx, c, start, done); err != nil {
			cancel(fmt.Errorf("read: %w", err))
		}
	})
	began := time.Now()
	for range writers {
		writing.Go(func() {
			for time.Since(began) < duration && orders.Load() < maxOrders && ctx.Err() == nil {
				if err := c.write(ctx, shop.NewOrder(shop.NewID())); err != nil {
					cancel(fmt.Errorf("write: %w", err))
					return
				}
				orders.Add(1)
			}
		})
	}
	writing.Wait()
	elapsed := time.Since(began)
	close(done)
	reading.Wait()
	if err := context.Cause(ctx); err != nil {
		return 0, 0, 0, err
	}
	if err := w.source.QueryRow(ctx, `select count(*) from `+c.log+` as log where number > $1`,
		start).Scan(&written); err != nil {
		return 0, 0, 0, err
	}
	if int64(written) != orders.Load() {
		return 0, 0, 0, errors.New("the entries there are not those that were written")
	}
	return float64(written) / elapsed.Seconds(), written, written - seen, nil
}

// follow polls from start on, counts the entries that it sees, and polls once more when the writers are done.
func (w *writes) follow(ctx context.Context, c *contestant, start int64, done <-chan struct{}) (seen int, err error) {
	tick := time.NewTicker(pollInterval)
	defer tick.Stop()
	for last, ended := start, false; !ended; {
		select {
		case <-done:
			ended = true
		case <-tick.C:
		}
		for n := pollLimit; n == pollLimit; seen += n {
			rows, err := w.source.Query(ctx,
				`select number, payload from `+c.log+` as log where number > $1 order by number limit $2`, last, pollLimit)
			if err != nil {
				return 0, err
			}
			var payload []byte
			n = 0
			if _, err = pgx.ForEachRow(rows, []any{&last, &payload}, func() error { n++; return nil }); err != nil {
				return 0, err
			}
		}
	}
	return seen, nil
}
