package main

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"path/filepath"
	"strings"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/edison-cars/data-feeds/shared/access"
	"github.com/edison-cars/data-feeds/shared/cmd/bench/shop"
	"github.com/edison-cars/data-feeds/shared/dev/freeport"
	"github.com/edison-cars/data-feeds/shared/feed"
	"github.com/edison-cars/data-feeds/shared/feedclient"
	"github.com/edison-cars/data-feeds/shared/order"
)

const walkers = 16

// overload measures how long an order at the sales app takes while clients walk through the history of the feed, each
// in pages that nobody has asked for before.
type overload struct {
	*bench
	history  int // entries
	duration time.Duration
	rounds   int
}

func (o *overload) run(ctx context.Context) (chart, error) {
	fmt.Fprintf(o.out, "\nOverload: %d orders a second for %v, at random, alone and while %d clients walk through %s "+
		"entries in pages of about 1,000 that are not in memory\n",
		ordersPerSecond, o.duration, walkers, count(o.history))
	if err := o.fill(ctx, o.history); err != nil {
		return chart{}, err
	}
	tokens, entries := make([]string, walkers), make([]string, walkers) // a client of its own each
	for i := range tokens {
		token, hash := access.NewToken()
		tokens[i], entries[i] = token, fmt.Sprintf("walker%d:reader:%s", i, hash)
	}
	s, err := o.startApp(ctx, map[string]string{"TOKENS": strings.Join(entries, ",")})
	if err != nil {
		return chart{}, err
	}
	defer s.stop()
	var p50, p95, pages [2][]float64
	for round := range o.rounds {
		for i, walking := range [][]string{nil, tokens} {
			delays, walked, err := o.sell(ctx, s, walking, round)
			if err != nil {
				return chart{}, err
			}
			p50[i], p95[i] = append(p50[i], quantile(delays, 0.5)), append(p95[i], quantile(delays, 0.95))
			pages[i] = append(pages[i], walked)
		}
	}
	t := o.out.table("orders", "p50 ms", "p95 ms", "p95 : alone", "pages/s")
	c := chart{title: "What an order takes (shorter is better, logarithmic)", unit: " ms", from: 0.1,
		series: []string{"p50", "p95"}}
	for i, name := range []string{"alone", "with cold walkers"} {
		t.row(name, number(median(p50[i])), number(median(p95[i])), ratios(p95[i], p95[0]), number(median(pages[i])))
		c.groups = append(c.groups, group{name, []float64{median(p50[i]), median(p95[i])}})
	}
	return c, t.flush()
}

// startApp starts the sales app on the source.
func (b *bench) startApp(ctx context.Context, settings map[string]string) (*process, error) {
	addr, err := freeport.Addr(ctx)
	if err != nil {
		return nil, err
	}
	all := map[string]string{
		"ADDR": addr, "PUBLIC_URL": shop.PublicURL, "DATA_DIR": filepath.Join(b.dir, "app"), "LOG_LEVEL": "warn", "ACCESS_LOG": "false",
	}
	maps.Copy(all, settings)
	s, err := b.start(ctx, salesKind, b.source.Config().ConnString(), all)
	if err != nil {
		return nil, err
	}
	return s, eventually(ctx, func() (bool, error) {
		select {
		case <-s.ended:
			return false, s.complaint()
		default:
			return s.get(ctx, "/models", new(any)) == nil, nil // which it answers when it is ready
		}
	})
}

// order buys as a guest, by the API.
func (p *process) order(ctx context.Context) error {
	return p.call(ctx, http.MethodPost, "/orders", `{"lines": [{"model": "ohm", "quantity": 1}]}`, new(any))
}

// sell returns the milliseconds that each order took from the moment at which it was due, and the pages that were walked
// in a second.
func (o *overload) sell(ctx context.Context, s *process, tokens []string,
	round int) (delays []float64, pages float64, err error) {
	ctx, cancel := context.WithTimeout(ctx, o.duration+patience)
	defer cancel()
	walking, stop := context.WithCancel(ctx)
	defer stop()
	var walked atomic.Int64
	all, walking := errgroup.WithContext(walking)
	for i, token := range tokens {
		all.Go(func() error { return walk(walking, s.addr, token, i, round, &walked) })
	}
	began := time.Now()
	delays = make([]float64, int(ordersPerSecond*o.duration.Seconds()))
	err = atRandom(ctx, len(delays), func(ctx context.Context, i int, due time.Time) error {
		err := s.order(ctx)
		delays[i] = milliseconds(time.Since(due))
		return err
	})
	pages = float64(walked.Load()) / time.Since(began).Seconds()
	stop()
	if walkErr := all.Wait(); err == nil {
		err = walkErr
	}
	return delays, pages, err
}

// walkLimit returns the size of a walk's pages. No two walks of three rounds have one in common if a walker walks at
// most 8 times in a round.
func walkLimit(walker, round, again int) int {
	return feed.MaxPageSize - ((round*8+again)*walkers+walker)%400
}

// walk reads the feed again and again until ctx ends.
func walk(ctx context.Context, addr, token string, walker, round int, pages *atomic.Int64) error {
	client := feedclient.New(token)
	defer client.Close()
	for again := 0; ; again++ {
		next := feedclient.Request{URL: "http://" + addr + "/feeds/" + order.Feed, Limit: walkLimit(walker, round, again)}
		for upToDate := false; !upToDate; {
			answer, err := client.Get(ctx, next)
			if ctx.Err() != nil {
				return nil
			}
			busy, refused := errors.AsType[*feedclient.StatusError](err)
			switch {
			case err == nil:
				pages.Add(1)
				next.After, upToDate = answer.Page.Cursor, answer.Page.UpToDate
			case refused && (busy.Status == http.StatusTooManyRequests || busy.Status == http.StatusServiceUnavailable):
				select {
				case <-ctx.Done():
				case <-time.After(time.Second):
				}
			default:
				return err
			}
		}
	}
}
