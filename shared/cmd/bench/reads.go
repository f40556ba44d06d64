package main

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"
)

// The kinds of servers.
const (
	feedKind    = "feed"
	nginxKind   = "nginx"
	structsKind = "structs"
	salesKind   = "sales" // the feed again, and a way to sell
	cacheKind   = "cache" // nginx as a shared cache of the server at upstreamEnv
	rabbitKind  = "rabbitmq"
)

const upstreamEnv = "BENCH_UPSTREAM"

const (
	entries   = 299 // a sealed page of 100, a full one, and a tail of 99
	warmUp    = 100 // requests
	loadLimit = 5 * time.Second
)

// reads measures requests a second, and what they cost the server.
type reads struct {
	db     *pgxpool.Pool
	out    *output
	env    map[string]string
	dir    string
	nginx  *program // nil: there is none
	rounds int
	share  int // of the requests only one in so many is sent

	postmaster *postmaster // nil: its CPU time cannot be told here
}

func (r *reads) kinds() []string {
	if r.nginx == nil {
		return []string{feedKind, structsKind}
	}
	return []string{feedKind, nginxKind, structsKind}
}

// source is what a kind of server serves.
func (r *reads) source(kind string) string {
	if kind == nginxKind {
		return r.dir
	}
	return r.db.Config().ConnString()
}

func (r *reads) run(ctx context.Context) (chart, error) {
	fmt.Fprintf(r.out, "\nReads: %d connections, one core for each server, the feed with metrics and without access log; CPU is that of the server's process, and beside it PostgreSQL's\n", connections)
	if r.nginx == nil {
		fmt.Fprintln(r.out, "nginx is left out: it is not installed here (on Debian: apt-get install nginx)")
	}
	var err error
	if r.postmaster, err = findPostmaster(ctx, r.db); err != nil {
		return chart{}, err
	}
	if r.postmaster == nil {
		fmt.Fprintln(r.out, "PostgreSQL's CPU time is left out: there is no /proc")
	}
	pages, err := r.prepare(ctx)
	if err != nil {
		return chart{}, err
	}
	t := r.out.table("case", "server", "requests/s", "CPU us/request", "PostgreSQL's", "CPU : nginx's", "both CPUs: structs' : it", "requests : structs'")
	c := chart{title: "CPU of the server for a request (shorter is better, logarithmic)", unit: " µs", from: 1, series: []string{"feed", "nginx, the same bytes in files", "structs marshalled per request"}}
	for i := range pages {
		p := &pages[i]
		results, err := r.compare(ctx, p)
		if err != nil {
			return chart{}, fmt.Errorf("%s: %w", p.name, err)
		}
		g := group{name: p.name}
		for _, kind := range []string{feedKind, nginxKind, structsKind} {
			res := results[kind]
			if res == nil {
				g.values = append(g.values, 0)
				continue
			}
			toNginx, structsToIt, toStructs := "-", "-", "-"
			if nginx := results[nginxKind]; nginx != nil {
				toNginx = ratios(res.cpu, nginx.cpu)
			}
			if structs := results[structsKind]; structs != nil {
				structsToIt, toStructs = ratios(structs.both(), res.both()), ratios(res.rates, structs.rates)
			}
			t.row(p.name, kind, number(median(res.rates)), number(median(res.cpu)), number(median(res.postgres)), toNginx, structsToIt, toStructs)
			g.values = append(g.values, median(res.cpu))
		}
		c.groups = append(c.groups, g)
	}
	return c, t.flush()
}

// A cost is what the rounds of one server gave.
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

// A load is what one server made of its requests.
type load struct {
	done     int
	elapsed  time.Duration
	cpu      time.Duration // of the server's whole life: what it takes without the requests has to be subtracted
	postgres time.Duration // of PostgreSQL, for the requests alone
}

// compare lets the servers take turns.
func (r *reads) compare(ctx context.Context, p *page) (map[string]*cost, error) {
	results, idle := map[string]*cost{}, map[string]load{}
	var kinds []string
	for _, kind := range r.kinds() {
		if p.path[kind] == "" {
			continue
		}
		kinds = append(kinds, kind)
		results[kind] = &cost{}
	}
	for round := range r.rounds {
		for turn := range kinds {
			kind := kinds[(turn+round)%len(kinds)]
			if round == 0 {
				l, err := r.measure(ctx, p, kind, 0)
				if err != nil {
					return nil, fmt.Errorf("%s: %w", kind, err)
				}
				idle[kind] = l
			}
			l, err := r.measure(ctx, p, kind, max(p.requests(kind)/r.share, connections))
			if err != nil {
				return nil, fmt.Errorf("%s: %w", kind, err)
			}
			c, each := results[kind], func(d time.Duration) float64 { return float64(d.Nanoseconds()) / 1e3 / float64(l.done) }
			c.rates = append(c.rates, float64(l.done)/l.elapsed.Seconds())
			c.cpu = append(c.cpu, each(l.cpu-idle[kind].cpu))
			c.postgres = append(c.postgres, each(l.postgres))
		}
	}
	return results, nil
}

// measure sends n requests to a server of their own, after some that warm it up.
func (r *reads) measure(ctx context.Context, p *page, kind string, n int) (l load, err error) {
	s, err := startServer(ctx, r.env, kind, r.source(kind))
	if err != nil {
		return l, err
	}
	request, status := p.request(kind)
	_, _, err = drive(ctx, s.addr, request, status, warmUp, loadLimit)
	if err == nil && n > 0 {
		var before, after time.Duration
		before, err = r.postgresCPU()
		if err == nil {
			l.done, l.elapsed, err = drive(ctx, s.addr, request, status, n, loadLimit)
		}
		if err == nil {
			after, err = r.postgresCPU()
		}
		l.postgres = after - before
	}
	var stopErr error
	l.cpu, stopErr = s.stop()
	return l, errors.Join(err, stopErr)
}

func (r *reads) postgresCPU() (time.Duration, error) {
	if r.postmaster == nil {
		return 0, nil
	}
	return r.postmaster.cpu()
}
