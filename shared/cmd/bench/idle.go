package main

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"time"

	"github.com/edison-cars/data-feeds/shared/postgres"
)

// idle measures what a poll costs that brings nothing new.
type idle struct {
	*pair
	duration time.Duration
}

func (i *idle) run(ctx context.Context) (chart, error) {
	fmt.Fprintf(i.out, "\nIdle polls: %d copies of one feed in one subscriber, each polls once a second for %v and gets a 304; CPU with all that the processes do besides\n", idleFeeds, i.duration)
	if err := i.empty(ctx); err != nil {
		return chart{}, err
	}
	db, err := i.fresh(ctx)
	if err != nil {
		return chart{}, err
	}
	defer db.Close()
	source, err := i.startSource(ctx)
	if err != nil {
		return chart{}, err
	}
	defer func() { _, _ = source.stop() }()
	if _, err := source.sell(ctx); err != nil {
		return chart{}, err
	}
	subscriber, err := i.startSubscriber(ctx, idleKind, source.addr, db, nil)
	if err != nil {
		return chart{}, err
	}
	defer func() { _, _ = subscriber.stop() }()
	if err := subscriber.caughtUp(ctx, 1); err != nil {
		return chart{}, err
	}
	return i.measure(ctx, source, subscriber)
}

// A spender is a process, or a PostgreSQL server with its processes, that takes CPU time.
type spender struct {
	name          string
	cpu           func() (time.Duration, error)
	before, after time.Duration
}

func (i *idle) measure(ctx context.Context, source, subscriber *server) (c chart, err error) {
	spenders := []*spender{source.spender("source"), subscriber.spender("subscriber")}
	for k, db := range []*postgres.DB{i.source, i.server} {
		p, err := findPostmaster(ctx, db.Pool)
		if err != nil {
			return c, err
		}
		if p == nil {
			fmt.Fprintln(i.out, "CPU time is left out: there is no /proc")
			return c, nil
		}
		spenders = append(spenders, &spender{name: spenders[k].name + "'s DB", cpu: p.cpu})
	}
	before, err := source.asked(ctx)
	for _, s := range spenders {
		var spentErr error
		s.before, spentErr = s.cpu()
		err = errors.Join(err, spentErr)
	}
	if err != nil {
		return c, err
	}
	select {
	case <-ctx.Done():
		return c, ctx.Err()
	case <-time.After(i.duration):
	}
	for _, s := range spenders {
		var spentErr error
		s.after, spentErr = s.cpu()
		err = errors.Join(err, spentErr)
	}
	after, askErr := source.asked(ctx)
	if err = errors.Join(err, askErr); err != nil {
		return c, err
	}
	if after == before {
		return c, fmt.Errorf("nobody polled in %v", i.duration)
	}
	t := i.out.table("process", "polls", "CPU us/poll")
	c = chart{title: "CPU of a poll that brings nothing new (shorter is better)", unit: " µs", series: []string{"a 304"}}
	for _, s := range spenders {
		each := float64((s.after - s.before).Nanoseconds()) / 1e3 / float64(after-before)
		t.row(s.name, count(after-before), number(each))
		c.groups = append(c.groups, group{s.name, []float64{each}})
	}
	return c, t.flush()
}

func (s *server) spender(name string) *spender {
	return &spender{name: name, cpu: func() (time.Duration, error) { return threadsCPU(s.cmd.Process.Pid) }}
}

// asked gives how often the feeds of a server that sells were asked for.
func (s *server) asked(ctx context.Context) (n int, err error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+s.addr+askedPath, nil)
	if err != nil {
		return 0, err
	}
	err = call(req, &n)
	return n, err
}
