package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"

	"github.com/google/uuid"

	"github.com/edison-cars/data-feeds/shared/cmd/bench/shop"
	"github.com/edison-cars/data-feeds/shared/feed"
	"github.com/edison-cars/data-feeds/shared/order"
)

const feedPath = "/feeds/" + order.Feed

// A request is prepared and then measured. n is another one each time.
type request struct {
	name    string
	times   int // in a round
	prepare func(ctx context.Context, s *grownSource, n int) (do func() error, err error)
}

// A grownSource serves a feed.
type grownSource struct {
	*grown
	*process
}

func (g *growth) requests(ctx context.Context) (chart, error) {
	var sizes []size
	for _, entries := range g.sizes {
		sizes = append(sizes, size{entries, 1}, size{entries, manyVersions})
	}
	fmt.Fprintf(g.out, "\nRequests: feeds of %s to %s entries on one server, each with a source of its own; %d rounds by turns; no commit waits for a disk. "+
		"CPU is that of the source and PostgreSQL. A cold page has about %s entries and was not asked for before\n",
		count(g.shortest()), count(g.longest()), g.rounds, count(g.page))
	if err := g.open(ctx, sizes...); err != nil {
		return chart{}, err
	}
	var sources []*grownSource
	for _, s := range sizes {
		p, err := g.start(ctx, feedKind, g.grown[s].db.Config().ConnString(), nil)
		if err != nil {
			return chart{}, err
		}
		defer p.stop()
		sources = append(sources, &grownSource{g.grown[s], p})
	}
	requests := []request{
		{"append", 10, prepareAppend},
		{"304", 1, prepare304},
		{"cold page, start", 3, g.preparePage(0)},
		{"cold page, middle", 3, g.preparePage(0.5)},
		{"cold page, end", 3, g.preparePage(1)},
		{"newest page", 10, prepareNewest},
		{"one entity", 10, prepareEntity},
		{"start", 1, g.prepareStart},
	}
	sums := make([][]spent, len(requests))
	for i, r := range requests {
		var err error
		sums[i], err = g.alternate(len(sources), r.times, func(contestant, again int) (took, error) {
			s := *sources[contestant]
			do, err := r.prepare(ctx, &s, again)
			if err != nil {
				return took{}, err
			}
			t, err := g.spend(&s.process, do)
			if s.process != sources[contestant].process { // it was started
				_, stopErr := s.stop()
				err = errors.Join(err, stopErr)
			}
			if r.name == "304" {
				t.time, t.cpu = t.time/polls, t.cpu/polls
			}
			return t, err
		})
		if err != nil {
			return chart{}, fmt.Errorf("%s: %w", r.name, err)
		}
	}
	return g.reportRequests(requests, sources, sums)
}

func (g *growth) reportRequests(requests []request, sources []*grownSource, sums [][]spent) (chart, error) {
	columns := []string{"entries", "versions"}
	for _, r := range requests {
		columns = append(columns, r.name+" ms")
	}
	t := g.out.table(append(columns, "most MB", "bytes/entry")...)
	for i, s := range sources {
		row := []string{count(s.entries), count(s.versions)}
		for k := range requests {
			row = append(row, number(median(sums[k][i].time)))
		}
		_, most, err := s.memory()
		if err != nil {
			return chart{}, err
		}
		t.row(append(row, number(float64(most)/1e6), number(s.bytes))...)
	}
	if err := t.flush(); err != nil {
		return chart{}, err
	}
	fmt.Fprintln(g.out)
	columns = []string{"request", "versions"}
	for _, entries := range g.sizes[1:] {
		over := count(entries) + " : " + count(g.shortest())
		columns = append(columns, "CPU at "+over, "time at "+over)
	}
	t = g.out.table(columns...)
	c := chart{title: "What a request takes, one version per entity (shorter is better, logarithmic)", unit: " ms", from: 0.01,
		series: []string{count(g.shortest()) + " entries", count(g.longest()) + " entries"}}
	for k, r := range requests {
		for versions := range 2 { // sources are by size, and of one size those with one version come first
			least := sums[k][versions]
			row := []string{r.name, count(sources[versions].versions)}
			for i := versions + 2; i < len(sources); i += 2 {
				row = append(row, ratios(sums[k][i].cpu, least.cpu), ratios(sums[k][i].time, least.time))
			}
			t.row(row...)
		}
		c.groups = append(c.groups, group{r.name, []float64{median(sums[k][0].time), median(sums[k][len(sources)-2].time)}})
	}
	return c, t.flush()
}

func prepareAppend(ctx context.Context, s *grownSource, _ int) (func() error, error) {
	return func() error {
		_, err := s.sell(ctx, shop.NewID())
		return err
	}, nil
}

// polls are made at a time, since a 304 is too short to measure.
const polls = 320

func prepare304(ctx context.Context, s *grownSource, _ int) (func() error, error) {
	at, err := s.cursor(ctx, 0)
	if err != nil {
		return nil, err
	}
	p := page{path: map[string]string{feedKind: feedPath + ".json?after=" + at.String() + "&limit=100"}, etag: map[string]string{}}
	if _, p.etag[feedKind], err = fetch(ctx, s.addr, &p, feedKind); err != nil {
		return nil, err
	}
	request, status := p.request(feedKind)
	return func() error {
		done, _, err := drive(ctx, s.addr, request, status, polls, loadLimit)
		if err == nil && done < polls {
			err = fmt.Errorf("%d of %d polls in %v", done, polls, loadLimit)
		}
		return err
	}, nil
}

// preparePage prepares a page that is so far into the feed, from 0 to 1, and of another length each time.
func (g *growth) preparePage(where float64) func(ctx context.Context, s *grownSource, n int) (func() error, error) {
	return func(ctx context.Context, s *grownSource, n int) (func() error, error) {
		limit := g.page - n
		pages := s.entries/limit - 1 // before the last full one
		after := "0"
		if skipped := int(where*float64(pages)) * limit; skipped > 0 {
			at, err := s.cursor(ctx, skipped)
			if err != nil {
				return nil, err
			}
			after = at.String()
		}
		return s.reading(ctx, fmt.Sprintf("%s.json?after=%s&limit=%d", feedPath, after, limit)), nil
	}
}

func prepareNewest(ctx context.Context, s *grownSource, _ int) (func() error, error) {
	_, err := s.sell(ctx, shop.NewID()) // else the page is in memory
	return s.reading(ctx, feedPath+".json"), err
}

func prepareEntity(ctx context.Context, s *grownSource, _ int) (func() error, error) {
	var id uuid.UUID
	err := s.db.QueryRow(ctx, `select entity_id from feed_entry where feed = $1 and position = $2`, order.Feed, 1+rand.IntN(s.entries)).Scan(&id)
	return s.reading(ctx, feedPath+"/"+id.String()), err
}

// prepareStart prepares the start of another source of the feed, until it answers a poll.
func (g *growth) prepareStart(ctx context.Context, s *grownSource, _ int) (func() error, error) {
	s.process = nil
	return func() (err error) {
		if s.process, err = g.start(ctx, feedKind, s.db.Config().ConnString(), nil); err != nil {
			return err
		}
		return s.reading(ctx, feedPath+".json?after=0&limit=1")()
	}, nil
}

// cursor returns that of the entry at a position, or of the last entry if that is 0.
func (f *grown) cursor(ctx context.Context, position int) (feed.Cursor, error) {
	var at int64
	var digest []byte
	err := f.db.QueryRow(ctx, `
		select position, digest from feed_entry where feed = $1 and (position = $2 or $2 = 0) order by position desc limit 1`,
		order.Feed, position).Scan(&at, &digest)
	if err != nil {
		return feed.Cursor{}, err
	}
	return feed.At(at, feed.Digest(digest)), nil
}

func (p *process) reading(ctx context.Context, path string) func() error {
	return func() error { return p.read(ctx, path, "*/*") }
}

// read reads a page to its end.
func (p *process) read(ctx context.Context, path, accept string) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+p.addr+path, nil)
	if err != nil {
		return err
	}
	req.Header.Set("Accept", accept)
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err == nil && resp.StatusCode != http.StatusOK {
		err = fmt.Errorf("%s: %s: %.200q", req.URL, resp.Status, text)
	}
	return err
}
