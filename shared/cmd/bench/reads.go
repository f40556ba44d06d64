package main

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"os"
	"path/filepath"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/edison-cars/data-feeds/shared/feed"
	"github.com/edison-cars/data-feeds/shared/publish"
)

// The kinds of servers.
const (
	feedKind    = "feed"
	nginxKind   = "nginx"
	structsKind = "structs"
	salesKind   = "sales" // the feed again, and a way to sell
)

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
}

// A page is what a case asks for.
type page struct {
	name string
	path map[string]string // by the kind of server; a kind that is missing does not take part
	gzip bool
	etag map[string]string // for a conditional request; nil: an unconditional one
}

func (p *page) request(kind string) (text string, status int) {
	text = "GET " + p.path[kind] + " HTTP/1.1\r\nHost: localhost\r\n"
	if p.gzip {
		text += "Accept-Encoding: gzip\r\n"
	}
	if p.etag == nil {
		return text + "\r\n", http.StatusOK
	}
	return text + "If-None-Match: " + p.etag[kind] + "\r\n\r\n", http.StatusNotModified
}

// requests is how many of a page one measurement sends.
func (p *page) requests(kind string) int {
	switch {
	case kind == structsKind:
		return 1000
	case p.etag != nil:
		return 40_000
	default:
		return 10_000
	}
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
	fmt.Fprintf(r.out, "\nReads: %d connections, one core for each server; CPU is that of the server's process, without PostgreSQL's\n", connections)
	if r.nginx == nil {
		fmt.Fprintln(r.out, "nginx is left out: it is not installed here (on Debian: apt-get install nginx)")
	}
	pages, err := r.prepare(ctx)
	if err != nil {
		return chart{}, err
	}
	t := r.out.table("case", "server", "requests/s", "CPU us/request", "CPU : nginx's", "structs' CPU : it", "requests : structs'")
	c := chart{title: "CPU for a request (shorter is better, logarithmic)", unit: " µs", from: 1, series: []string{"feed", "nginx, the same bytes in files", "structs marshalled per request"}}
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
				structsToIt, toStructs = ratios(structs.cpu, res.cpu), ratios(res.rates, structs.rates)
			}
			t.row(p.name, kind, number(median(res.rates)), number(median(res.cpu)), toNginx, structsToIt, toStructs)
			g.values = append(g.values, median(res.cpu))
		}
		c.groups = append(c.groups, g)
	}
	return c, t.flush()
}

// prepare fills the feed, and puts the bytes that it serves where nginx finds them.
func (r *reads) prepare(ctx context.Context) ([]page, error) {
	if err := r.fill(ctx); err != nil {
		return nil, err
	}
	s, err := startServer(ctx, r.env, feedKind, r.source(feedKind))
	if err != nil {
		return nil, err
	}
	defer func() { _, _ = s.stop() }()
	feedURL := "http://" + s.addr + "/feeds/" + feedName
	client := feed.NewClient("")
	defer client.Close()
	second, err := client.Get(ctx, feedURL, feed.Cursor{}, 2*feed.PageSize, "")
	if err != nil {
		return nil, err
	}
	sealed, tail := "?after=0&limit=100", "?after="+second.Page.Cursor.String()+"&limit=100"
	feeds := "/feeds/" + feedName
	pages := []page{
		{name: "304", path: map[string]string{feedKind: feeds + ".json" + tail, nginxKind: "/tail.json"}, etag: map[string]string{}},
		{name: "tail", path: map[string]string{feedKind: feeds + ".json" + tail, nginxKind: "/tail.json", structsKind: "/orders?after=200"}},
		{name: "sealed", path: map[string]string{feedKind: feeds + ".json" + sealed, nginxKind: "/sealed.json", structsKind: "/orders?after=0"}},
		{name: "sealed gzip", path: map[string]string{feedKind: feeds + ".json" + sealed, nginxKind: "/sealed.json", structsKind: "/orders?after=0"}, gzip: true},
		{name: "Atom", path: map[string]string{feedKind: feeds + ".atom" + sealed, nginxKind: "/sealed.atom"}},
	}
	if r.nginx == nil {
		_, pages[0].etag[feedKind], err = fetch(ctx, s.addr, &pages[0], feedKind)
		return pages, err
	}
	return pages, r.fillNginx(ctx, s.addr, pages)
}

// fillNginx writes its files, and checks that it serves the same bytes.
func (r *reads) fillNginx(ctx context.Context, feedAddr string, pages []page) error {
	if err := os.MkdirAll(filepath.Join(r.dir, "www"), 0o755); err != nil {
		return err
	}
	bodies := make([][]byte, len(pages))
	for i := range pages {
		p := &pages[i]
		body, etag, err := fetch(ctx, feedAddr, p, feedKind)
		if err != nil {
			return err
		}
		if bodies[i] = body; p.etag != nil {
			p.etag[feedKind] = etag
		}
		file := filepath.Join(r.dir, "www", p.path[nginxKind])
		if p.gzip {
			file += ".gz"
		}
		if err := os.WriteFile(file, body, 0o644); err != nil {
			return err
		}
	}
	nginx, err := startServer(ctx, r.env, nginxKind, r.dir)
	if err != nil {
		return err
	}
	defer func() { _, _ = nginx.stop() }()
	for i := range pages {
		p := &pages[i]
		body, etag, err := fetch(ctx, nginx.addr, p, nginxKind)
		if err != nil {
			return err
		}
		if !bytes.Equal(body, bodies[i]) {
			return fmt.Errorf("%s: nginx serves other bytes than the feed", p.name)
		}
		if p.etag != nil {
			p.etag[nginxKind] = etag
		}
	}
	return nil
}

// fill leaves the feed, and the orders beside it, with 299 of them.
func (r *reads) fill(ctx context.Context) error {
	_, err := r.db.Exec(ctx, `
		delete from feed_entry; delete from feed; truncate orders; select feed_create('`+feedName+`')`)
	if err != nil {
		return err
	}
	log, err := publish.Open(ctx, r.db, slog.New(slog.DiscardHandler))
	if err != nil {
		return err
	}
	defer log.Close()
	for range entries {
		change, err := newChange(newOrder())
		if err != nil {
			return err
		}
		if err := log.Commit(ctx, change); err != nil {
			return err
		}
	}
	_, err = r.db.Exec(ctx, `vacuum analyze`)
	return err
}

// fetch gives the body as it travels, in the content coding of the page.
func fetch(ctx context.Context, addr string, p *page, kind string) (body []byte, etag string, err error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+addr+p.path[kind], nil)
	if err != nil {
		return nil, "", err
	}
	coding := ""
	if p.gzip {
		coding = "gzip"
	}
	req.Header.Set("Accept-Encoding", cmp.Or(coding, "identity"))
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return nil, "", err
	}
	defer resp.Body.Close()
	body, err = io.ReadAll(resp.Body)
	if etag = resp.Header.Get("ETag"); err == nil && (resp.StatusCode != http.StatusOK || etag == "" || resp.Header.Get("Content-Encoding") != coding) {
		err = fmt.Errorf("%s: %s, ETag %q, Content-Encoding %q: %.200q", p.path[kind], resp.Status, etag, resp.Header.Get("Content-Encoding"), body)
	}
	return body, etag, err
}

// A cost is what the rounds of one server gave.
type cost struct {
	rates []float64 // requests a second, by round
	cpu   []float64 // microseconds for a request, by round
}

// compare lets the servers take turns.
func (r *reads) compare(ctx context.Context, p *page) (map[string]*cost, error) {
	results, idle := map[string]*cost{}, map[string]time.Duration{}
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
				_, _, cpu, err := r.measure(ctx, p, kind, 0)
				if err != nil {
					return nil, fmt.Errorf("%s: %w", kind, err)
				}
				idle[kind] = cpu
			}
			done, elapsed, cpu, err := r.measure(ctx, p, kind, max(p.requests(kind)/r.share, connections))
			if err != nil {
				return nil, fmt.Errorf("%s: %w", kind, err)
			}
			c := results[kind]
			c.rates = append(c.rates, float64(done)/elapsed.Seconds())
			c.cpu = append(c.cpu, float64((cpu-idle[kind]).Nanoseconds())/1e3/float64(done))
		}
	}
	return results, nil
}

// measure sends n requests to a server of their own, after some that warm it up. cpu is that of its whole life: what it
// takes without the n has to be subtracted.
func (r *reads) measure(ctx context.Context, p *page, kind string, n int) (done int, elapsed, cpu time.Duration, err error) {
	s, err := startServer(ctx, r.env, kind, r.source(kind))
	if err != nil {
		return 0, 0, 0, err
	}
	request, status := p.request(kind)
	_, _, err = drive(ctx, s.addr, request, status, warmUp, loadLimit)
	if err == nil && n > 0 {
		done, elapsed, err = drive(ctx, s.addr, request, status, n, loadLimit)
	}
	cpu, stopErr := s.stop()
	return done, elapsed, cpu, errors.Join(err, stopErr)
}
