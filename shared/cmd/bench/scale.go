package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"maps"
	"net"
	"net/http"
	"path/filepath"
	"slices"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/edison-cars/data-feeds/shared/cmd/bench/shop"
	"github.com/edison-cars/data-feeds/shared/deploy/cache"
	"github.com/edison-cars/data-feeds/shared/feed"
	"github.com/edison-cars/data-feeds/shared/order"
	"github.com/edison-cars/data-feeds/shared/web"
)

// scale measures what a source carries alone, and behind a cache tier.
type scale struct {
	*bench
	rounds   int
	duration time.Duration // of polls, in a round
	waiters  int
	entries  int // that readers catch up
	readers  int // that do so at once
	page     int // entries of a page
}

// A front is what readers ask: the source itself, or a cache before it.
type front struct {
	name   string
	addr   string
	source *process
	cache  *process // or nil
}

func (f *front) stop() {
	_, _ = f.source.stop()
	if f.cache != nil {
		_, _ = f.cache.stop()
	}
}

// sent returns how many requests the source has answered.
func (f *front) sent(ctx context.Context) (n int, err error) {
	err = f.source.get(ctx, shop.SentPath, &n)
	return n, err
}

const directly = "directly"

func noCache(kind cache.Kind) string { return string(kind) + " is left out: it is not installed here" }

// fronts starts a source for each of them.
func (s *scale) fronts(ctx context.Context, direct bool) (all []*front, err error) {
	n := fmt.Sprint(s.waiters)
	settings := map[string]string{shop.MaxAge: "1s", "MAX_WAITING": n + "/" + n} // all of them are one client
	add := func(kind cache.Kind) error {
		f := &front{name: directly}
		if f.source, err = s.startSource(ctx, settings); err != nil {
			return err
		}
		all, f.addr = append(all, f), f.source.addr
		if kind == "" {
			return nil
		}
		f.name = "behind " + string(kind)
		dir := filepath.Join(s.dir, fmt.Sprint(kind, time.Now().UnixNano()))
		if f.cache, err = s.start(ctx, cacheKind+string(kind), dir, map[string]string{upstreamEnv: f.source.addr}); err == nil {
			f.addr = f.cache.addr
		}
		return err
	}
	if direct {
		err = add("")
	}
	for _, kind := range []cache.Kind{cache.Nginx, cache.Varnish} {
		if kind.Find() == "" {
			fmt.Fprintln(s.out, noCache(kind))
		} else if err == nil {
			err = add(kind)
		}
	}
	return all, err
}

// stopAll stops the fronts, also those of a start that failed.
func stopAll(all []*front) {
	for _, f := range all {
		f.stop()
	}
}

func pagePath(after feed.Cursor, limit int) string {
	return fmt.Sprintf("%s.json?after=%s&limit=%d", feedPath, after, limit)
}

// polls lets many poll a feed that does not grow.
func (s *scale) polls(ctx context.Context) (chart, error) {
	fmt.Fprintf(s.out, "\nPolls that bring nothing new, over %d connections for %v; %d rounds by turns\n", connections, s.duration, s.rounds)
	if err := s.fill(ctx, 150); err != nil {
		return chart{}, err
	}
	all, err := s.fronts(ctx, true)
	defer stopAll(all)
	if err != nil {
		return chart{}, err
	}
	at, err := s.head(ctx)
	if err != nil {
		return chart{}, err
	}
	path := pagePath(at, feed.PageSize)
	rates, cpu, asked := make([][]float64, len(all)), make([][]float64, len(all)), make([][]float64, len(all))
	for round := range s.rounds {
		for turn := range all {
			k := (turn + round) % len(all)
			f := all[k]
			_, etag, err := fetch(ctx, f.addr, &page{path: map[string]string{feedKind: path}}, feedKind)
			if err != nil {
				return chart{}, err
			}
			request := "GET " + path + " HTTP/1.1\r\nHost: localhost\r\nIf-None-Match: " + etag + "\r\n\r\n"
			sent, err := f.sent(ctx)
			if err != nil {
				return chart{}, err
			}
			before, err := f.source.cpu()
			if err != nil {
				return chart{}, err
			}
			done, took, err := drive(ctx, f.addr, request, http.StatusNotModified, 1<<30, s.duration)
			if err != nil {
				return chart{}, fmt.Errorf("%s: %w", f.name, err)
			}
			after, err := f.source.cpu()
			if err != nil {
				return chart{}, err
			}
			now, err := f.sent(ctx)
			if err != nil {
				return chart{}, err
			}
			rates[k] = append(rates[k], float64(done)/took.Seconds())
			cpu[k] = append(cpu[k], float64((after-before).Nanoseconds())/1e3/float64(done))
			asked[k] = append(asked[k], 1000*float64(now-sent)/float64(done))
		}
	}
	t := s.out.table("polls", "polls/s", "at the source per 1,000", "source's CPU us/poll", "CPU directly : it")
	c := chart{title: "CPU of the source per poll (shorter is better, logarithmic)", unit: " µs", from: 0.001, series: []string{"a 304"}}
	for k, f := range all {
		t.row(f.name, number(median(rates[k])), number(median(asked[k])), number(median(cpu[k])), ratios(cpu[0], cpu[k]))
		c.groups = append(c.groups, group{f.name, []float64{median(cpu[k])}})
	}
	return c, t.flush()
}

// waits lets many wait for an entry at once.
func (s *scale) waits(ctx context.Context) (chart, error) {
	n := min(s.waiters, web.MaxConnections()*5/8)
	fmt.Fprintf(s.out, "\n%s requests that wait, %d times; from the commit's return to the last answer's end\n", count(n), s.rounds)
	if err := s.fill(ctx, 150); err != nil {
		return chart{}, err
	}
	t := s.out.table("waiters", "requests at the source per entry", "most", "source's CPU ms per entry", "CPU directly : it", "ms to answer all")
	c := chart{title: "Requests at the source per entry (shorter is better, logarithmic)", from: 0.5, counts: true,
		series: []string{count(n) + " waiters"}}
	all, err := s.fronts(ctx, true)
	defer stopAll(all)
	if err != nil {
		return chart{}, err
	}
	var first []float64
	for _, f := range all {
		asked, cpu, took, err := s.waitsAt(ctx, f, n)
		if err != nil {
			return chart{}, fmt.Errorf("%s: %w", f.name, err)
		}
		if first == nil {
			first = cpu
		}
		t.row(f.name, number(median(asked)), number(slices.Max(asked)), number(median(cpu)), ratios(first, cpu), spread(took))
		c.groups = append(c.groups, group{f.name, []float64{median(asked)}})
	}
	return c, t.flush()
}

func (s *scale) waitsAt(ctx context.Context, f *front, n int) (asked, cpu, took []float64, err error) {
	ctx, cancel := context.WithTimeout(ctx, time.Duration(s.rounds+1)*patience)
	defer cancel()
	all := make(waiters, n)
	defer context.AfterFunc(ctx, all.close)()
	defer all.close()
	if err := all.connect(ctx, f.addr); err != nil {
		return nil, nil, nil, err
	}
	for range s.rounds {
		after, err := s.head(ctx)
		if err != nil {
			return nil, nil, nil, err
		}
		sent, err := f.sent(ctx)
		if err != nil {
			return nil, nil, nil, err
		}
		before, err := f.source.cpu()
		if err != nil {
			return nil, nil, nil, err
		}
		done := all.ask(after)
		select { // the cache does not tell how many wait
		case <-ctx.Done():
			return nil, nil, nil, ctx.Err()
		case <-time.After(max(time.Duration(n)*time.Second/2000, time.Second)):
		}
		id := shop.NewID()
		committedAt, err := f.source.sell(ctx, id)
		if err != nil {
			return nil, nil, nil, err
		}
		at := <-done
		if err := all.check(id.String()); err != nil {
			return nil, nil, nil, err
		}
		end, err := f.source.cpu()
		if err != nil {
			return nil, nil, nil, err
		}
		now, err := f.sent(ctx)
		if err != nil {
			return nil, nil, nil, err
		}
		asked = append(asked, float64(now-sent))
		cpu = append(cpu, milliseconds(end-before))
		took = append(took, milliseconds(at.Sub(committedAt)))
	}
	return asked, cpu, took, nil
}

// sealed lets many readers catch up at once.
func (s *scale) sealed(ctx context.Context) (chart, error) {
	fmt.Fprintf(s.out, "\n%s readers, each of which catches up %s entries by pages of %s in gzip, all at once\n",
		count(s.readers), count(s.entries), count(s.page))
	if err := s.fill(ctx, s.entries); err != nil {
		return chart{}, err
	}
	paths, err := s.pagePaths(ctx)
	if err != nil {
		return chart{}, err
	}
	t := s.out.table("readers", "sealed pages", "requests at the source", "per sealed page", "pages/s")
	c := chart{title: "Requests at the source per sealed page (shorter is better)", series: []string{count(s.readers) + " readers"}}
	all, err := s.fronts(ctx, false)
	defer stopAll(all)
	if err != nil {
		return chart{}, err
	}
	for _, f := range all {
		began := time.Now()
		if err := s.catchUp(ctx, f.addr, paths); err != nil {
			return chart{}, fmt.Errorf("%s: %w", f.name, err)
		}
		rate := float64(s.readers*len(paths)) / time.Since(began).Seconds()
		asked, err := f.sent(ctx)
		if err != nil {
			return chart{}, err
		}
		each := float64(asked) / float64(len(paths))
		t.row(f.name, count(len(paths)), count(asked), number(each), number(rate))
		c.groups = append(c.groups, group{f.name, []float64{each}})
	}
	return c, t.flush()
}

// pagePaths returns the URLs of all sealed pages, in their order.
func (s *scale) pagePaths(ctx context.Context) (paths []string, err error) {
	digests := map[int64][]byte{}
	rows, err := s.source.Query(ctx, `select position, digest from feed_entry where feed = $1 and position % $2 = 0`, order.Feed, s.page)
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	for rows.Next() {
		var position int64
		var digest []byte
		if err := rows.Scan(&position, &digest); err != nil {
			return nil, err
		}
		digests[position] = digest
	}
	paths = append(paths, pagePath(feed.Cursor{}, s.page))
	ends := slices.Sorted(maps.Keys(digests))
	if len(ends) < 3 {
		return nil, errors.Join(errors.New("too few pages"), rows.Err())
	}
	for _, position := range ends[:len(ends)-2] { // the last full page has no full one behind it
		paths = append(paths, pagePath(feed.At(position, feed.Digest(digests[position])), s.page))
	}
	return paths, rows.Err()
}

// catchUp lets each reader ask for one page after the other.
func (s *scale) catchUp(ctx context.Context, addr string, paths []string) error {
	all, ctx := errgroup.WithContext(ctx)
	for range s.readers {
		all.Go(func() error {
			conn, err := new(net.Dialer).DialContext(ctx, "tcp", addr)
			if err != nil {
				return err
			}
			defer conn.Close()
			defer context.AfterFunc(ctx, func() { _ = conn.Close() })()
			r := bufio.NewReaderSize(conn, 16<<10)
			for _, path := range paths {
				_ = conn.SetDeadline(time.Now().Add(patience))
				if _, err = conn.Write([]byte("GET " + path + " HTTP/1.1\r\nHost: localhost\r\nAccept-Encoding: gzip\r\n\r\n")); err == nil {
					_, err = readAnswer(r, http.StatusOK, nil)
				}
				if err != nil {
					return fmt.Errorf("%s: %w", path, err)
				}
			}
			return nil
		})
	}
	return all.Wait()
}
