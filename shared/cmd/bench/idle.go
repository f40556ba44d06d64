package main

import (
	"context"
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
	fmt.Fprintf(i.out, "\nIdle polls: a subscriber polls every second for %v and gets a 304; the subscriber's CPU is all that it takes, of others what nobody's polling costs is subtracted\n", i.duration)
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
	spenders := []*spender{{name: "source", cpu: source.cpu}}
	for k, db := range []*postgres.DB{i.source, i.server} {
		p, err := findPostmaster(ctx, db.Pool)
		if err != nil {
			return chart{}, err
		}
		if p == nil {
			fmt.Fprintln(i.out, "CPU time is left out: there is no /proc")
			return chart{}, nil
		}
		spenders = append(spenders, &spender{name: []string{"source's DB", "subscriber's DB"}[k], cpu: p.cpu})
	}
	if _, err = i.spend(ctx, source, spenders); err != nil {
		return chart{}, err
	}
	for _, s := range spenders {
		s.unasked, s.spent = s.spent, 0
	}
	subscriber, err := i.startSubscriber(ctx, oneKind, source.addr, db, nil)
	if err != nil {
		return chart{}, err
	}
	defer func() { _, _ = subscriber.stop() }()
	if err := subscriber.caughtUp(ctx, 1); err != nil {
		return chart{}, err
	}
	spenders = append(spenders, &spender{name: "subscriber", cpu: subscriber.cpu})
	polls, err := i.spend(ctx, source, spenders)
	if err != nil {
		return chart{}, err
	}
	if polls == 0 {
		return chart{}, fmt.Errorf("nobody polled in %v", i.duration)
	}
	t := i.out.table("process", "polls", "CPU us/poll")
	c := chart{title: "CPU of a poll that brings nothing new (shorter is better)", unit: " µs", series: []string{"a 304"}}
	for _, s := range spenders {
		each := max(0, float64((s.spent-s.unasked).Nanoseconds())/1e3/float64(polls))
		t.row(s.name, count(polls), number(each))
		c.groups = append(c.groups, group{s.name, []float64{each}})
	}
	return c, t.flush()
}

// A spender is a process, or a PostgreSQL server with its processes, that takes CPU time.
type spender struct {
	name           string
	cpu            func() (time.Duration, error) // of its life
	spent, unasked time.Duration                 // in one duration, and in one before anybody polled
}

// spend lets the duration pass, and notes what it cost. It gives how often the source was asked.
func (i *idle) spend(ctx context.Context, source *server, spenders []*spender) (polls int, err error) {
	before, err := source.asked(ctx)
	if err != nil {
		return 0, err
	}
	for _, s := range spenders {
		if s.spent, err = s.cpu(); err != nil {
			return 0, err
		}
	}
	select {
	case <-ctx.Done():
		return 0, ctx.Err()
	case <-time.After(i.duration):
	}
	for _, s := range spenders {
		after, err := s.cpu()
		if err != nil {
			return 0, err
		}
		s.spent = after - s.spent
	}
	polls, err = source.asked(ctx)
	return polls - before, err
}

// cpu is what the server's process has taken until now.
func (s *server) cpu() (time.Duration, error) { return threadsCPU(s.cmd.Process.Pid) }

// asked gives how often the feeds of a server that sells were asked for.
func (s *server) asked(ctx context.Context) (n int, err error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+s.addr+askedPath, nil)
	if err != nil {
		return 0, err
	}
	err = call(req, &n)
	return n, err
}
