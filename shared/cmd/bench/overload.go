package main

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"path/filepath"
	"strings"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/edison-cars/data-feeds/shared/access"
	"github.com/edison-cars/data-feeds/shared/cmd/bench/shop"
	"github.com/edison-cars/data-feeds/shared/feed"
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
	reader, hash := access.NewToken()
	s, err := o.startApp(ctx, hash)
	if err != nil {
		return chart{}, err
	}
	defer s.stop()
	var p50, p95, pages [2][]float64
	for round := range o.rounds {
		for i, walkers := range []int{0, walkers} {
			delays, walked, err := o.sell(ctx, s, reader, walkers, round)
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

// startApp starts the sales app on the source. It takes clients of their own from X-Forwarded-For, and a reader whose
// token has the hash.
func (o *overload) startApp(ctx context.Context, hash string) (*process, error) {
	addr, err := freeAddr(ctx)
	if err != nil {
		return nil, err
	}
	s, err := o.start(ctx, salesKind, o.source.Config().ConnString(), map[string]string{"ADDR": addr, "PUBLIC_URL": shop.PublicURL, "HOSTS": "127.0.0.1",
		"DATA_DIR": filepath.Join(o.dir, "app"), "TRUSTED_PROXIES": "127.0.0.1", "TOKENS": "walker:reader:" + hash, "LOG_LEVEL": "warn", "ACCESS_LOG": "false"})
	if err != nil {
		return nil, err
	}
	return s, eventually(ctx, func() (bool, error) {
		select {
		case <-s.ended:
			return false, s.complaint()
		default:
		}
		resp, err := http.Get("http://" + addr + "/readyz") //nolint:noctx // it ends by itself
		if err != nil {
			return false, nil //nolint:nilerr // it may not have started yet
		}
		return resp.StatusCode == http.StatusOK, resp.Body.Close()
	})
}

func (p *process) order(ctx context.Context) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, "http://"+p.addr+"/orders", strings.NewReader(`{"lines": [{"model": "ohm", "quantity": 1}]}`))
	if err != nil {
		return err
	}
	req.Header.Set("Content-Type", "application/json")
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err == nil && resp.StatusCode != http.StatusCreated {
		err = fmt.Errorf("an order: %s: %.200q", resp.Status, body)
	}
	return err
}

// sell returns the milliseconds that each order took from the moment at which it was due, and the pages that were walked
// in a second.
func (o *overload) sell(ctx context.Context, s *process, reader string,
	walkers, round int) (delays []float64, pages float64, err error) {
	ctx, cancel := context.WithTimeout(ctx, o.duration+patience)
	defer cancel()
	walking, stop := context.WithCancel(ctx)
	defer stop()
	var walked atomic.Int64
	all, walking := errgroup.WithContext(walking)
	for i := range walkers {
		all.Go(func() error { return walk(walking, s.addr, reader, i, round, &walked) })
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

// walk reads the feed again and again until ctx ends, as a client of its own.
func walk(ctx context.Context, addr, reader string, walker, round int, pages *atomic.Int64) error {
	transport := &http.Transport{}
	defer transport.CloseIdleConnections()
	for again := 0; ctx.Err() == nil; again++ {
		next := fmt.Sprintf("/feeds/%s.json?after=0&limit=%d", order.Feed, walkLimit(walker, round, again))
		for next != "" && ctx.Err() == nil {
			req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+addr+next, nil)
			if err != nil {
				return err
			}
			req.Header.Set("Authorization", "Bearer "+reader)
			req.Header.Set("Accept-Encoding", "gzip")
			req.Header.Set("X-Forwarded-For", fmt.Sprintf("192.0.2.%d", walker))
			resp, err := transport.RoundTrip(req)
			if err != nil {
				break // ctx has ended, or the next request fails, too
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

func nextOf(link string) string {
	for part := range strings.SplitSeq(link, ", ") {
		if url, ok := strings.CutSuffix(strings.TrimPrefix(part, "<"), `>; rel="next"; type="application/feed+json"`); ok {
			return strings.TrimPrefix(url, shop.PublicURL)
		}
	}
	return ""
}
