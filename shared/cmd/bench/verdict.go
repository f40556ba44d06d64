package main

import (
	"context"
	"fmt"
	"net/http"
	"strings"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/edison-cars/data-feeds/shared/cmd/bench/shop"
)

// A verdict is what a fault came to. An entry is an order at one of the consumers.
type verdict struct {
	sales    int
	failed   int // sales
	waited   int // sales that succeeded after more than longSale
	lost     int // entries that sales has and the consumer has not, or not as they are
	doubled  int // entries that took effect more than once
	phantoms int // entries that the consumer has and sales has not
}

// A newcomer is how much a consumer that came late has.
type newcomer struct{ missing, of int }

// results are what became of a company.
type results struct {
	faults    map[string]*verdict
	newcomers []newcomer
}

// An expense is what good days cost.
type expense struct {
	sent int           // requests and messages by which others heard of the orders
	cpu  time.Duration // of sales and its PostgreSQL
}

// grace is for what a worker may still have in its hands while another one was given what came later.
const grace = 2 * time.Second

// settled returns when no consumer can come to have more than it has.
func (c *company) settled(ctx context.Context) error {
	last, since := -1, time.Now()
	for time.Since(since) < grace {
		r, err := c.judge(ctx)
		if err != nil {
			return err
		}
		lost := 0
		for _, v := range r.faults {
			lost += v.lost
		}
		if lost == 0 {
			return nil
		}
		if lost != last {
			last, since = lost, time.Now()
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(watchInterval):
		}
	}
	return nil
}

// rows gives the orders of a database, and of each all that a consumer has of it.
func rows(ctx context.Context, db *pgxpool.Pool) (map[uuid.UUID]string, error) {
	return collect[string](ctx, db, `select id, concat_ws(' ', version, customer_id, total_cents, placed_at) from orders`)
}

// effects gives how often each order took effect.
func effects(ctx context.Context, db *pgxpool.Pool) (map[uuid.UUID]int, error) {
	return collect[int](ctx, db, `select order_id, count(*) from effect group by 1`)
}

func collect[T any](ctx context.Context, db *pgxpool.Pool, query string) (map[uuid.UUID]T, error) {
	found := map[uuid.UUID]T{}
	rows, err := db.Query(ctx, query)
	if err != nil {
		return nil, err
	}
	var id uuid.UUID
	var value T
	_, err = pgx.ForEachRow(rows, []any{&id, &value}, func() error {
		found[id] = value
		return nil
	})
	return found, err
}

// judge compares the copies with what sales has.
func (c *company) judge(ctx context.Context) (*results, error) {
	source, err := rows(ctx, c.db)
	if err != nil {
		return nil, err
	}
	r := &results{faults: map[string]*verdict{}}
	for _, s := range c.orders {
		v := r.of(s.fault)
		v.sales++
		switch {
		case s.err != nil:
			v.failed++
		case s.took > longSale:
			v.waited++
		}
	}
	for i, con := range c.consumers {
		own, err := rows(ctx, con.db)
		if err != nil {
			return nil, err
		}
		times, err := effects(ctx, con.db)
		if err != nil {
			return nil, err
		}
		late := newcomer{of: len(source)}
		for _, s := range c.orders {
			v := r.of(s.fault)
			if i >= len(consumerNames) {
				v = new(verdict) // the past of a newcomer is none of the fault
			}
			want, isSold := source[s.id]
			got, has := own[s.id]
			switch {
			case isSold && got != want:
				v.lost++
				late.missing++
			case !isSold && has:
				v.phantoms++
			}
			if times[s.id] > 1 {
				v.doubled++
			}
		}
		if i >= len(consumerNames) {
			r.newcomers = append(r.newcomers, late)
		}
	}
	return r, nil
}

func (r *results) of(fault string) *verdict {
	v := r.faults[fault]
	if v == nil {
		v = new(verdict)
		r.faults[fault] = v
	}
	return v
}

// String says what went wrong, in a few words.
func (v *verdict) String() string {
	var words []string
	for _, of := range []struct {
		n    int
		what string
	}{{v.failed, "failed"}, {v.waited, "waited"}, {v.lost, "lost"}, {v.doubled, "doubled"}, {v.phantoms, "phantom"}} {
		if of.n > 0 {
			words = append(words, count(of.n)+" "+of.what)
		}
	}
	if len(words) == 0 {
		return "-"
	}
	return strings.Join(words, ", ")
}

// measure sells n orders while nothing is wrong, and notes what that costs the source.
func (c *company) measure(ctx context.Context, n int) error {
	spent := func() (time.Duration, int, error) {
		cpu, err := c.sales.cpu()
		if err != nil || c.postmaster == nil {
			return 0, 0, err
		}
		database, err := c.postmaster.cpu()
		if err != nil {
			return 0, 0, err
		}
		sent, err := c.sales.sent(ctx)
		return cpu + database, sent, err
	}
	cpu, sent, err := spent()
	if err != nil {
		return err
	}
	c.sell(ctx, goodDays, n)
	if err := c.goOn(ctx, goodDays); err != nil {
		return err
	}
	cpuAfter, sentAfter, err := spent()
	c.normal = expense{sentAfter - sent, cpuAfter - cpu}
	return err
}

// sent gives how many requests and messages it took until now to tell of the orders.
func (s *server) sent(ctx context.Context) (n int, err error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+s.addr+shop.SentPath, nil)
	if err != nil {
		return 0, err
	}
	err = call(req, &n)
	return n, err
}

// latencies are what the sales of a fault took, in milliseconds.
func (c *company) latencies(fault string) (all []float64) {
	for _, s := range c.orders {
		if s.fault == fault && s.err == nil {
			all = append(all, milliseconds(s.took))
		}
	}
	return all
}

// delays are the milliseconds from a commit at sales to that at the consumers: less than 0 where sales asks first.
func (c *company) delays(fault string, consumers ...*consumer) (all []float64, err error) {
	for _, con := range consumers {
		for _, s := range c.orders {
			at, err := con.at(s.id)
			if err != nil {
				return nil, fmt.Errorf("watch %s: %w", con.name, err)
			}
			if s.fault == fault && s.err == nil && !at.IsZero() {
				all = append(all, milliseconds(at.Sub(s.committedAt)))
			}
		}
	}
	return all, nil
}

func milliseconds(d time.Duration) float64 { return float64(d) / float64(time.Millisecond) }
