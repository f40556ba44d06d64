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
	spenders := []*spender{{name: "source", cpu: source.cpu}}
	for k, db := range []*postgres.DB{i.source, i.copies.DB} {
		p, err := findPostmaster(ctx, db.Pool)
		if err != nil {
			return chart{}, err
		}
		if p == 0 {
			fmt.Fprintln(i.out, "CPU time is left out: there is no /proc")
			return chart{}, nil
		}
		spenders = append(spenders, &spender{name: []string{"source's DB", "subscriber's DB"}[k], cpu: p.cpu})
	}
	if _, err := i.spend(ctx, source, spenders); err != nil { // what goes on anyway
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
	spenders = append(spenders, &spender{name: "subscriber", cpu: subscriber.cpu})
	polls, err := i.spend(ctx, source, spenders)
	if err == nil && polls == 0 {
		err = fmt.Errorf("nobody polled in %v", i.duration)
	}
	if err != nil {
		return chart{}, err
	}
	t := i.out.table("process", "polls", "CPU us/poll")
	c := chart{title: "CPU of a poll that brings nothing new (shorter is better)", unit: " µs", series: []string{"a 304"}}
	for _, s := range spenders {
		each := max(0, float64((s.spent-s.before).Nanoseconds())/1e3/float64(polls))
		t.row(s.name, count(polls), number(each))
		c.groups = append(c.groups, group{s.name, []float64{each}})
	}
	return c, t.flush()
}

// A spender is a process, or a PostgreSQL server with its processes, that takes CPU time.
type spender struct {
	name          string
	cpu           func() (time.Duration, error) // of its life
	spent, before time.Duration                 // in the last duration, and in the one before
}

// spend lets the duration pass, and notes what it cost. It returns how often the source was asked.
func (i *idle) spend(ctx context.Context, source *process, spenders []*spender) (polls int, err error) {
	var asked [2]int
	var cpu [2][]time.Duration
	for k := range cpu {
		if err := source.get(ctx, shop.SentPath, &asked[k]); err != nil {
			return 0, err
		}
		for _, s := range spenders {
			spent, err := s.cpu()
			if err != nil {
				return 0, err
			}
			cpu[k] = append(cpu[k], spent)
		}
		if k == 0 {
			select {
			case <-ctx.Done():
				return 0, ctx.Err()
			case <-time.After(i.duration):
			}
		}
	}
	for j, s := range spenders {
		s.before, s.spent = s.spent, cpu[1][j]-cpu[0][j]
	}
	return asked[1] - asked[0], nil
}
