package main

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"
)

const (
	entries   = 299 // a sealed page of 100, a full one, and a tail of 99
	warmUp    = 100 // requests
	loadLimit = 5 * time.Second
)

type reads struct {
	*bench
	rounds int
	share  int // of the requests only one in so many is sent

	postmaster postmaster
}

var readKinds = []string{feedKind, nginxKind, structsKind}

func (r *reads) run(ctx context.Context) (chart, error) {
	fmt.Fprintf(r.out, "\nReads: %d connections, one core for each server, the feed with metrics and without access "+
		"log; CPU is that of the server's process, and beside it PostgreSQL's\n", connections)
	if r.nginx == nil {
		fmt.Fprintln(r.out, noNginx)
	}
	var err error
	if r.postmaster, err = findPostmaster(ctx, r.source.Pool); err != nil {
		return chart{}, err
	}
	if r.postmaster == 0 {
		fmt.Fprintln(r.out, "PostgreSQL's CPU time is left out: there is no /proc")
	}
	pages, err := r.prepare(ctx)
	if err != nil {
		return chart{}, err
	}
	t := r.out.table("case", "server", "requests/s", "CPU us/request", "PostgreSQL's", "CPU : nginx's",
		"both CPUs: structs' : it", "requests : structs'")
	c := chart{title: "CPU of the server for a request (shorter is better, logarithmic)", unit: " µs", from: 1,
		series: []string{"feed", "nginx, the same bytes in files", "structs marshalled per request"}}
	for i := range pages {
		p := &pages[i]
		results, err := r.compare(ctx, p)
		if err != nil {
			return chart{}, fmt.Errorf("%s: %w", p.name, err)
		}
		g := group{name: p.name}
		nginx, structs := results[nginxKind], results[structsKind]
		for _, kind := range readKinds {
			res := results[kind]
			if g.values = append(g.values, median(res.cpu)); len(res.rates) > 0 {
				t.row(p.name, kind, number(median(res.rates)), number(median(res.cpu)), number(median(res.postgres)),
					ratios(res.cpu, nginx.cpu), ratios(structs.both(), res.both()), ratios(res.rates, structs.rates))
			}
		}
		c.groups = append(c.groups, g)
	}
	return c, t.flush()
}

type cost struct {
	rates    []float64 // requests a second, by round
	cpu      []float64 // microseconds for a request, by round
	postgres []float64 // the same of PostgreSQL
}

// both is the CPU time of the server and of PostgreSQL for a request, by round.
func (c *cost) both() []float64 {
	sum := slices.Clone(c.cpu)
	for i := range sum {
		sum[i] += c.postgres[i]
	}
	return sum
}

type load struct {
	done     int
	elapsed  time.Duration
	cpu      time.Duration // of the server's whole life, that without requests included
	postgres time.Duration // of PostgreSQL, for the requests alone
}

// compare lets the servers take turns. The cost of one that does not serve the page is empty.
func (r *reads) compare(ctx context.Context, p *page) (map[string]*cost, error) {
	results, idle := map[string]*cost{}, map[string]time.Duration{}
	var kinds []string
	for _, kind := range readKinds {
		results[kind] = &cost{}
		if p.path[kind] == "" || kind == nginxKind && r.nginx == nil {
			continue
		}
		kinds = append(kinds, kind)
		l, err := r.measure(ctx, p, kind, 0)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", kind, err)
		}
		idle[kind] = l.cpu
	}
	for round := range r.rounds {
		for turn := range kinds {
			kind := kinds[(turn+round)%len(kinds)]
			l, err := r.measure(ctx, p, kind, max(p.requests(kind)/r.share, connections))
			if err != nil {
				return nil, fmt.Errorf("%s: %w", kind, err)
			}
			c, each := results[kind], func(d time.Duration) float64 { return float64(d.Nanoseconds()) / 1e3 / float64(l.done) }
			c.rates = append(c.rates, float64(l.done)/l.elapsed.Seconds())
			c.cpu = append(c.cpu, each(l.cpu-idle[kind]))
			c.postgres = append(c.postgres, each(l.postgres))
		}
	}
	return results, nil
}

// measure sends n requests to a server of their own, after some that warm it up.
func (r *reads) measure(ctx context.Context, p *page, kind string, n int) (l load, err error) {
	of := r.source.Config().ConnString()
	if kind == nginxKind {
		of = r.dir
	}
	s, err := r.start(ctx, kind, of, map[string]string{"GOMAXPROCS": "1"})
	if err != nil {
		return l, err
	}
	request, status := p.request(kind)
	_, _, err = drive(ctx, s.addr, request, status, warmUp, loadLimit)
	if err == nil && n > 0 {
		var before, after time.Duration
		before, err = r.postmaster.cpu()
		if err == nil {
			l.done, l.elapsed, err = drive(ctx, s.addr, request, status, n, loadLimit)
		}
		if err == nil {
			after, err = r.postmaster.cpu()
		}
		l.postgres = after - before
	}
	var stopErr error
	l.cpu, stopErr = s.stop()
	return l, errors.Join(err, stopErr)
}
