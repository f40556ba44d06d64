package main

import (
	"context"
	"fmt"
	"time"

	"github.com/edison-cars/data-feeds/shared/cmd/bench/shop"
	"github.com/edison-cars/data-feeds/shared/postgres"
)

// idle measures the cost of a poll that brings nothing new.
type idle struct {
	*pair
	duration time.Duration
}

func (i *idle) run(ctx context.Context) (chart, error) {
	fmt.Fprintf(i.out, "\nIdle polls: a subscriber polls every second for %v and gets a 304; the subscriber's CPU is "+
		"all that it takes, of others what nobody's polling costs is subtracted\n", i.duration)
	if err := i.fill(ctx, 0); err != nil {
		return chart{}, err
	}
	db, err := i.fresh(ctx)
	if err != nil {
		return chart{}, err
	}
	defer db.Close()
	source, err := i.startSource(ctx, nil)
	if err != nil {
		return chart{}, err
	}
	defer source.stop()
	if _, err := source.sell(ctx, shop.NewID()); err != nil {
		return chart{}, err
	}
	spenders := []spender{{"source", source.cpu}}
	for k, db := range []*postgres.DB{i.source, i.copies.DB} {
		p, err := findPostmaster(ctx, db.Pool)
		if err != nil {
			return chart{}, err
		}
		if p == 0 {
			fmt.Fprintln(i.out, "CPU time is left out: there is no /proc")
			return chart{}, nil
		}
		spenders = append(spenders, spender{[]string{"source's DB", "subscriber's DB"}[k], p.cpu})
	}
	_, anyway, err := i.spend(ctx, source, spenders)
	if err != nil {
		return chart{}, err
	}
	subscriber, err := i.startSubscriber(ctx, shop.FeedConsumer, source.addr, db, nil)
	if err != nil {
		return chart{}, err
	}
	defer subscriber.stop()
	if err := subscriber.caughtUp(ctx, 1); err != nil {
		return chart{}, err
	}
	spenders = append(spenders, spender{"subscriber", subscriber.cpu})
	polls, spent, err := i.spend(ctx, source, spenders)
	if err == nil && polls == 0 {
		err = fmt.Errorf("nobody polled in %v", i.duration)
	}
	if err != nil {
		return chart{}, err
	}
	anyway = append(anyway, 0)
	t := i.out.table("process", "polls", "CPU us/poll")
	c := chart{title: "CPU of a poll that brings nothing new (shorter is better)", unit: " µs", series: []string{"a 304"}}
	for k, s := range spenders {
		each := max(0, float64((spent[k]-anyway[k]).Nanoseconds())/1e3/float64(polls))
		t.row(s.name, count(polls), number(each))
		c.groups = append(c.groups, group{s.name, []float64{each}})
	}
	return c, t.flush()
}

// A spender is a process, or a PostgreSQL server with its processes. Its cpu returns the CPU time of its life.
type spender struct {
	name string
	cpu  func() (time.Duration, error)
}

// spend returns how often the source is asked in the duration, and what each spends.
func (i *idle) spend(ctx context.Context, source *process, spenders []spender) (polls int, spent []time.Duration, err error) {
	spent = make([]time.Duration, len(spenders))
	look := func(sign int) error {
		asked := 0
		if err := source.get(ctx, shop.SentPath, &asked); err != nil {
			return err
		}
		polls += sign * asked
		for k, s := range spenders {
			cpu, err := s.cpu()
			if err != nil {
				return err
			}
			spent[k] += time.Duration(sign) * cpu
		}
		return nil
	}
	if err := look(-1); err != nil {
		return 0, nil, err
	}
	select {
	case <-ctx.Done():
		return 0, nil, ctx.Err()
	case <-time.After(i.duration):
	}
	err = look(1)
	return polls, spent, err
}
