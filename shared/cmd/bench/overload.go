package main

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"
	"golang.org/x/sync/errgroup"

	"github.com/edison-cars/data-feeds/shared/feed"
	"github.com/edison-cars/data-feeds/shared/publish"
)

const (
	walkers = 16
)

// overload measures how long an order takes while clients walk through the history of the feed, each in pages that nobody has
// asked for before.
type overload struct {
	db       *pgxpool.Pool
	out      *output
	env      map[string]string
	history  int // entries
	duration time.Duration
	rounds   int
}

func (o *overload) run(ctx context.Context) (chart, error) {
	fmt.Fprintf(o.out, "\nOverload: %d orders a second for %v, at random, alone and while %d clients walk through %s entries in pages of about 1,000 that are not in memory\n",
		ordersPerSecond, o.duration, walkers, count(o.history))
	if err := o.fill(ctx); err != nil {
		return chart{}, err
	}
	s, err := startServer(ctx, o.env, salesKind, o.db.Config().ConnString())
	if err != nil {
		return chart{}, err
	}
	defer func() { _, _ = s.stop() }()
	var p50, p95, pages [2][]float64
	for round := range o.rounds {
		for i, walkers := range []int{0, walkers} {
			delays, walked, err := o.sell(ctx, s, walkers, round)
			if err != nil {
				return chart{}, err
			}
			p50[i], p95[i] = append(p50[i], quantile(delays, 0.5)), append(p95[i], quantile(delays, 0.95))
			pages[i] = append(pages[i], walked)
		}
	}
	t := o.out.table("orders", "p50 ms", "p95 ms", "p95 : alone", "pages/s")
	c := chart{title: "What an order takes (shorter is better, logarithmic)", unit: " ms", from: 0.1, series: []string{"p50", "p95"}}
	for i, name := range []string{"alone", "with cold walkers"} {
		t.row(name, number(median(p50[i])), number(median(p95[i])), ratios(p95[i], p95[0]), number(median(pages[i])))
		c.groups = append(c.groups, group{name, []float64{median(p50[i]), median(p95[i])}})
	}
	return c, t.flush()
}

// fill leaves the feed with a history.
func (o *overload) fill(ctx context.Context) error {
	if _, err := o.db.Exec(ctx, `delete from feed_entry; delete from feed; truncate orders; select feed_create('`+feedName+`')`); err != nil {
		return err
	}
	log, err := publish.Open(ctx, o.db, slog.New(slog.DiscardHandler))
	if err != nil {
		return err
	}
	defer log.Close()
	for n := 0; n < o.history; n += fillBatch {
		err := log.InTx(ctx, func(tx *publish.Tx) error {
			for range fillBatch {
				e, err := newEntry(newOrder())
				if err != nil {
					return err
				}
				tx.Append(feedName, e)
			}
			return nil
		})
		if err != nil {
			return err
		}
	}
	_, err = o.db.Exec(ctx, `vacuum analyze`)
	return err
}

// sell sells while so many walk, and gives the milliseconds that each order took from the moment at which it was due, and the
// pages that were walked in a second.
func (o *overload) sell(ctx context.Context, s *server, walkers, round int) (delays []float64, pages float64, err error) {
	ctx, cancel := context.WithTimeout(ctx, o.duration+patience)
	defer cancel()
	walking, stop := context.WithCancel(ctx)
	var walked atomic.Int64
	all, walking := errgroup.WithContext(walking)
	for i := range walkers {
		all.Go(func() error { return walk(walking, s.addr, i, round, &walked) })
	}
	began := time.Now()
	delays, err = sellOnTime(ctx, s, o.duration)
	pages = float64(walked.Load()) / time.Since(began).Seconds()
	stop()
	if walkErr := all.Wait(); err == nil {
		err = walkErr
	}
	return delays, pages, err
}

// sellOnTime sells at random moments, whether the orders before are done or not.
func sellOnTime(ctx context.Context, s *server, duration time.Duration) (delays []float64, err error) {
	var mu sync.Mutex
	sales, ctx := errgroup.WithContext(ctx)
	for due := time.Now(); duration > 0 && ctx.Err() == nil; {
		gap := time.Duration(rand.ExpFloat64() * float64(time.Second) / ordersPerSecond)
		due, duration = due.Add(gap), duration-gap
		time.Sleep(time.Until(due))
		sales.Go(func() error {
			_, err := s.sell(ctx)
			took := float64(time.Since(due)) / float64(time.Millisecond)
			mu.Lock()
			defer mu.Unlock()
			delays = append(delays, took)
			return err
		})
	}
	err = sales.Wait()
	return delays, err
}

// walk reads the feed again and again until ctx ends, as a client of its own. No two walks have a page in common.
func walk(ctx context.Context, addr string, walker, round int, pages *atomic.Int64) error {
	transport := &http.Transport{}
	defer transport.CloseIdleConnections()
	for again := 0; ctx.Err() == nil; again++ {
		limit := feed.MaxPageSize - (round*1000+again*walkers+walker)%400
		next := fmt.Sprintf("/feeds/%s.json?after=0&limit=%d", feedName, limit)
		for next != "" && ctx.Err() == nil {
			req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+addr+next, nil)
			if err != nil {
				return err
			}
			req.Header.Set("Accept-Encoding", "gzip")
			req.Header.Set("X-Forwarded-For", fmt.Sprintf("192.0.2.%d", walker))
			resp, err := transport.RoundTrip(req)
			if err != nil {
				break // of ctx, or the test of the next request tells
			}
			_, _ = io.Copy(io.Discard, resp.Body)
			_ = resp.Body.Close()
			switch resp.StatusCode {
			case http.StatusOK:
				pages.Add(1)
				next = nextOf(resp.Header.Get("Link"))
			case http.StatusTooManyRequests, http.StatusServiceUnavailable: // as it was told
				select {
				case <-ctx.Done():
				case <-time.After(time.Second):
				}
			default:
				return fmt.Errorf("%s: %s", next, resp.Status)
			}
		}
	}
	return nil
}

// nextOf gives the path and query of the link to the next page.
func nextOf(link string) string {
	for part := range strings.SplitSeq(link, ", ") {
		if url, ok := strings.CutSuffix(strings.TrimPrefix(part, "<"), `>; rel="next"; type="application/feed+json"`); ok {
			return strings.TrimPrefix(url, publicURL)
		}
	}
	return ""
}
