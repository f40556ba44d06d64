package main

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"github.com/edison-cars/data-feeds/shared/cmd/bench/shop"
	"github.com/edison-cars/data-feeds/shared/postgres"
)

// The outcomes of an order. An entry is an order at one of the consumers.
const (
	failed  = "failed"  // the buyer was told that it was not sold
	waited  = "waited"  // it was sold after more than longSale
	lost    = "lost"    // an entry that sales has and the consumer has not, or not as it is
	doubled = "doubled" // an entry that took effect more than once
	phantom = "phantom" // an entry that the consumer has and sales has not
)

type outcome struct{ fault, what string }

type newcomer struct{ missing, of int }

type results struct {
	counts    map[outcome]int
	newcomers []newcomer
}

// grace is for an order that one worker still has in its hands while another worker has had a later one.
const grace = 2 * time.Second

// settled returns when no consumer can come to have more than it has.
func (c *company) settled(ctx context.Context) error {
	last, since := -1.0, time.Now()
	return eventually(ctx, func() (bool, error) {
		r, err := c.judge(ctx)
		if err != nil {
			return false, err
		}
		lost := r.sum(lost)
		if lost != last {
			last, since = lost, time.Now()
		}
		return lost == 0 || time.Since(since) > grace, nil
	})
}

type row struct {
	of      string
	effects int
}

// rows reads the orders of a database. effects is the expression that counts how often one took effect.
func rows(ctx context.Context, db *postgres.DB, effects string) (map[uuid.UUID]row, error) {
	found := map[uuid.UUID]row{}
	rows, err := db.Query(ctx, `
		select id, concat_ws(' ', version, customer_id, total_cents, placed_at), `+effects+` from orders`)
	if err != nil {
		return nil, err
	}
	var id uuid.UUID
	var r row
	_, err = pgx.ForEachRow(rows, []any{&id, &r.of, &r.effects}, func() error {
		found[id] = r
		return nil
	})
	return found, err
}

func (c *company) judge(ctx context.Context) (*results, error) {
	source, err := rows(ctx, c.db, `0`)
	copies := make([]map[uuid.UUID]row, len(c.consumers))
	for i, con := range c.consumers {
		if err == nil {
			copies[i], err = rows(ctx, con.db, `(select count(*) from effect where order_id = id)`)
		}
	}
	return judge(c.orders, source, copies), err
}

func judge(orders []*sold, source map[uuid.UUID]row, copies []map[uuid.UUID]row) *results {
	r := &results{counts: map[outcome]int{}}
	for _, s := range orders {
		switch {
		case s.err != nil:
			r.counts[outcome{s.fault, failed}]++
		case s.took > longSale:
			r.counts[outcome{s.fault, waited}]++
		}
	}
	for i, own := range copies {
		late := newcomer{of: len(source)}
		for _, s := range orders {
			want, isSold := source[s.id]
			got, has := own[s.id]
			what := ""
			switch {
			case isSold && got.of != want.of:
				what = lost
				late.missing++
			case !isSold && has:
				what = phantom
			case got.effects > 1:
				what = doubled
			}
			if i < len(consumerNames) && what != "" { // the past of a newcomer is none of the fault
				r.counts[outcome{s.fault, what}]++
			}
		}
		if i >= len(consumerNames) {
			r.newcomers = append(r.newcomers, late)
		}
	}
	return r
}

func (r *results) of(fault string) string {
	var words []string
	for _, what := range []string{failed, waited, lost, doubled, phantom} {
		if n := r.counts[outcome{fault, what}]; n > 0 {
			words = append(words, count(n)+" "+what)
		}
	}
	return cmp.Or(strings.Join(words, ", "), "-")
}

func (r *results) sum(whats ...string) (n float64) {
	for of, times := range r.counts {
		if slices.Contains(whats, of.what) {
			n += float64(times)
		}
	}
	return n
}

// measure sells n orders while nothing is wrong, and notes what that costs the source.
func (c *company) measure(ctx context.Context, n int) error {
	spent := func() (time.Duration, int, error) {
		cpu, err := c.sales.cpu()
		if err != nil || c.postmaster == 0 {
			return 0, 0, err
		}
		database, err := c.postmaster.cpu()
		if err != nil {
			return 0, 0, err
		}
		sent := 0
		err = c.sales.get(ctx, shop.SentPath, &sent)
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
	c.sent, c.cpu = sentAfter-sent, cpuAfter-cpu
	return err
}

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
