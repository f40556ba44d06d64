package main

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"math/rand/v2"
	"net/http"
	"slices"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5/pgxpool"
	"golang.org/x/sync/errgroup"

	"github.com/edison-cars/data-feeds/shared/feed"
)

const (
	ordersPerSecond = 40
	waitSeconds     = 30 // of Prefer: wait
	// patience is for a part that has done all it can but hear from a server.
	patience = time.Minute
)

var errNoWait = errors.New("the source does not wait: its answer has no Preference-Applied")

// waits measures how long a reader takes to see what was committed, and what many that wait cost.
type waits struct {
	db       *pgxpool.Pool
	out      *output
	env      map[string]string
	duration time.Duration // of selling to one reader
	waiters  int
	rounds   int // of answering all of them
}

// A reader asks for what is new.
type reader struct {
	name  string
	addr  string
	every time.Duration // polls; 0: it waits for the source to answer
}

func (w *waits) run(ctx context.Context) (chart, error) {
	fmt.Fprintf(w.out, "\nWaiting: %d orders a second for %v, at random; from the commit's return in the source to the page's in a reader\n", ordersPerSecond, w.duration)
	writer, err := startServer(ctx, w.env, salesKind, w.db.Config().ConnString())
	if err != nil {
		return chart{}, err
	}
	defer func() { _, _ = writer.stop() }()
	replica, err := startServer(ctx, w.env, salesKind, w.db.Config().ConnString())
	if err != nil {
		return chart{}, err
	}
	defer func() { _, _ = replica.stop() }()
	t := w.out.table("reader", "orders", "p50 ms", "p99 ms", "most ms")
	c := chart{title: "From commit to reader (shorter is better, logarithmic)", unit: " ms", from: 0.1, series: []string{"p50", "p99"}}
	for _, r := range []reader{
		{name: "wait", addr: writer.addr},
		{name: "wait, replica", addr: replica.addr},
		{name: "poll every 1 s", addr: writer.addr, every: time.Second},
	} {
		delays, err := w.delays(ctx, writer, &r)
		if err != nil {
			return chart{}, fmt.Errorf("%s: %w", r.name, err)
		}
		p50, p99 := quantile(delays, 0.5), quantile(delays, 0.99)
		t.row(r.name, count(len(delays)), number(p50), number(p99), number(quantile(delays, 1)))
		c.groups = append(c.groups, group{r.name, []float64{p50, p99}})
	}
	if err := t.flush(); err != nil {
		return chart{}, err
	}
	note, err := w.crowd(ctx)
	c.note = note
	return c, err
}

// delays sells while the reader reads, and gives the milliseconds that each order took to be seen.
func (w *waits) delays(ctx context.Context, writer *server, r *reader) ([]float64, error) {
	after, err := w.head(ctx)
	if err != nil {
		return nil, err
	}
	n := int(ordersPerSecond * w.duration.Seconds())
	return delays(ctx, n, writer.sell, func(ctx context.Context) (map[uuid.UUID]time.Time, error) { return r.read(ctx, after, n) })
}

// delays sells n orders at random moments while watch gives when each was seen, and gives the milliseconds in between.
func delays(ctx context.Context, n int, sell func(context.Context) (sale, error),
	watch func(context.Context) (map[uuid.UUID]time.Time, error)) ([]float64, error) {
	ctx, cancel := context.WithTimeout(ctx, time.Duration(n)*time.Second/ordersPerSecond+patience)
	defer cancel()
	var committed, seen map[uuid.UUID]time.Time
	both, ctx := errgroup.WithContext(ctx)
	both.Go(func() (err error) {
		committed, err = sellAll(ctx, n, sell)
		return err
	})
	both.Go(func() (err error) {
		seen, err = watch(ctx)
		return err
	})
	if err := both.Wait(); err != nil {
		return nil, err
	}
	var delays []float64
	for id, at := range committed {
		if seen[id].IsZero() {
			return nil, fmt.Errorf("order %s was sold and not seen", id)
		}
		delays = append(delays, float64(seen[id].Sub(at))/float64(time.Millisecond))
	}
	return delays, nil
}

// head is where the feed ends.
func (w *waits) head(ctx context.Context) (feed.Cursor, error) {
	var position int64
	var digest []byte
	err := w.db.QueryRow(ctx, `select position, digest from feed where name = $1`, feedName).Scan(&position, &digest)
	if err != nil {
		return feed.Cursor{}, err
	}
	return feed.At(position, feed.Digest(digest)), nil
}

// sellAll sells n orders at random moments, and gives when each was committed.
func sellAll(ctx context.Context, n int, sell func(context.Context) (sale, error)) (map[uuid.UUID]time.Time, error) {
	committed := map[uuid.UUID]time.Time{}
	for next := time.Now(); len(committed) < n; next = next.Add(time.Duration(rand.ExpFloat64() * float64(time.Second) / ordersPerSecond)) {
		select {
		case <-ctx.Done():
			return nil, ctx.Err()
		case <-time.After(time.Until(next)):
		}
		s, err := sell(ctx)
		if err != nil {
			return nil, err
		}
		committed[s.ID] = s.CommittedAt
	}
	return committed, nil
}

// sell lets the server sell one.
func (s *server) sell(ctx context.Context) (sold sale, err error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, "http://"+s.addr+salesPath, http.NoBody)
	if err != nil {
		return sold, err
	}
	err = call(req, &sold)
	return sold, err
}

// call decodes the JSON of a 200.
func call(req *http.Request, answer any) error {
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err == nil && resp.StatusCode != http.StatusOK {
		err = fmt.Errorf("%s: %s: %.200q", req.URL, resp.Status, body)
	}
	return cmp.Or(err, json.NewDecoder(bytes.NewReader(body)).Decode(answer))
}

// read follows the feed until it has seen n entries, and gives when it had read each of them.
func (r *reader) read(ctx context.Context, after feed.Cursor, n int) (map[uuid.UUID]time.Time, error) {
	tick := time.NewTicker(max(r.every, 1))
	defer tick.Stop()
	seen := map[uuid.UUID]time.Time{}
	for len(seen) < n {
		page, waited, at, err := r.ask(ctx, after)
		if err != nil {
			return nil, err
		}
		if r.every == 0 && !waited {
			return nil, errNoWait
		}
		for _, e := range page.Entries {
			seen[e.ID] = at
		}
		after = page.Cursor
		if r.every > 0 && page.UpToDate {
			select {
			case <-ctx.Done():
				return nil, ctx.Err()
			case <-tick.C:
			}
		}
	}
	return seen, nil
}

// ask gives the page after the cursor, whether the source says that it waits, and when the page was read.
func (r *reader) ask(ctx context.Context, after feed.Cursor) (page *feed.Page, waited bool, at time.Time, err error) {
	ask := feed.Request{URL: "http://" + r.addr + "/feeds/" + feedName + ".json", After: after, Limit: feed.PageSize}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, ask.PageURL(), nil)
	if err != nil {
		return nil, false, at, err
	}
	if r.every == 0 {
		req.Header.Set("Prefer", fmt.Sprint("wait=", waitSeconds))
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return nil, false, at, err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	at = time.Now()
	if err == nil && resp.StatusCode != http.StatusOK {
		err = fmt.Errorf("%s: %s: %.200q", req.URL, resp.Status, body)
	}
	if err != nil {
		return nil, false, at, err
	}
	page, err = feed.ParsePage(body, after)
	return page, resp.Header.Get("Preference-Applied") != "", at, err
}

// quantile gives the value that the share q of values, more than 0 and at most 1, does not exceed; 0 for no values.
func quantile(values []float64, q float64) float64 {
	if len(values) == 0 {
		return 0
	}
	s := slices.Sorted(slices.Values(values))
	return s[max(int(math.Ceil(q*float64(len(s)))), 1)-1]
}
