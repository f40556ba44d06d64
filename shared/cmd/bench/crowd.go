package main

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"net"
	"net/http"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/edison-cars/data-feeds/shared/cmd/bench/shop"
	"github.com/edison-cars/data-feeds/shared/feed"
	"github.com/edison-cars/data-feeds/shared/order"
	"github.com/edison-cars/data-feeds/shared/web"
)

const (
	dialing      = 64 // connections at once
	settleEvery  = 100 * time.Millisecond
	settleTimes  = 5       // readings of memory that have to agree
	answerBuffer = 4 << 10 // bytes
)

// crowd lets many wait at once, measures what each costs the server, and how long one commit takes to reach them all.
// It says so in one sentence, too.
func (w *waits) crowd(ctx context.Context) (note string, err error) {
	ctx, cancel := context.WithTimeout(ctx, time.Duration(w.rounds+1)*patience)
	defer cancel()
	n := min(w.waiters, web.MaxConnections()*5/8)
	fmt.Fprintf(w.out, "\nWaiters: so many connections that each wait; memory of the server's process, and from the "+
		"commit's return to the last answer's end\n")
	if n < w.waiters {
		fmt.Fprintf(w.out, "only %s: the limit of open files allows no more\n", count(n))
	}
	allOne := map[string]string{"MAX_WAITING": fmt.Sprintf("%d/%d", n, n)} // all of them are one client
	s, err := w.startSource(ctx, allOne)
	if err != nil {
		return "", err
	}
	defer s.stop()
	if _, err := s.sell(ctx, shop.NewID()); err != nil { // to have done everything once
		return "", err
	}
	empty, err := settle(ctx, s, 0)
	if err != nil {
		return "", err
	}
	all := make(waiters, n)
	defer context.AfterFunc(ctx, all.close)()
	defer all.close()
	if err := all.connect(ctx, s.addr); err != nil {
		return "", err
	}
	var each, answered []float64
	for range w.rounds {
		after, err := w.head(ctx)
		if err != nil {
			return "", err
		}
		done := all.ask(after)
		full, err := settle(ctx, s, n)
		if err != nil {
			return "", err
		}
		id := shop.NewID()
		committedAt, err := s.sell(ctx, id)
		if err != nil {
			return "", err
		}
		at := <-done
		if err := all.check(id.String()); err != nil {
			return "", err
		}
		each = append(each, float64(full-empty)/1000/float64(n))
		answered = append(answered, milliseconds(at.Sub(committedAt)))
	}
	note = fmt.Sprintf("%s waiting readers: all answered %s ms after a commit", count(n), number(median(answered)))
	first, later := "-", "-" // where it is not measured
	if empty > 0 {
		first = number(each[0])
		note += fmt.Sprintf(", %s kB each", first)
		if w.rounds > 1 {
			later = spread(each[1:])
		}
	}
	t := w.out.table("waiters", "kB each", "kB each that has been answered before", "ms to answer all")
	t.row(count(n), first, later, spread(answered))
	return note, t.flush()
}

// settle returns when n requests wait in the server and its memory has stopped changing, and returns that in bytes.
func settle(ctx context.Context, s *process, n int) (memory int64, err error) {
	ctx, cancel := context.WithTimeoutCause(ctx, waitSeconds*time.Second,
		fmt.Errorf("the server's memory does not settle, or it does not hold %d waiting requests", n))
	defer cancel()
	for agreed, last := 0, int64(0); agreed < settleTimes; last = memory {
		select {
		case <-ctx.Done():
			return 0, context.Cause(ctx)
		case <-time.After(settleEvery):
		}
		waiting := 0
		if err := s.get(ctx, shop.WaitingPath, &waiting); err != nil {
			return 0, err
		}
		if memory, _, err = s.memory(); err != nil {
			return 0, err
		}
		if agreed++; waiting != n || max(memory-last, last-memory) > last/200 {
			agreed = 0
		}
	}
	return memory, nil
}

// A waiter is a plain connection, since the cost of reading the answers is measured, too.
type waiter struct {
	conn   net.Conn
	reader *bufio.Reader
	answer []byte // the body of the last one
	err    error
}

type waiters []waiter

func (all waiters) connect(ctx context.Context, addr string) error {
	dial, ctx := errgroup.WithContext(ctx)
	dial.SetLimit(dialing)
	for i := range all {
		dial.Go(func() (err error) {
			if all[i].conn, err = new(net.Dialer).DialContext(ctx, "tcp", addr); err == nil {
				all[i].reader, all[i].answer = bufio.NewReaderSize(all[i].conn, answerBuffer), []byte{}
			}
			return err
		})
	}
	return dial.Wait()
}

func (all waiters) close() {
	for i := range all {
		if all[i].conn != nil {
			_ = all[i].conn.Close()
		}
	}
}

// ask sends the request of each, and returns the moment at which the last of them has the answer.
func (all waiters) ask(after feed.Cursor) <-chan time.Time {
	request := fmt.Appendf(nil, "GET /feeds/%s.json?after=%s&limit=%d HTTP/1.1\r\n"+
		"Host: localhost\r\nPrefer: wait=%d\r\n\r\n",
		order.Feed, after, feed.PageSize, waitSeconds)
	var answers sync.WaitGroup
	for i := range all {
		answers.Go(func() {
			w := &all[i]
			_ = w.conn.SetDeadline(time.Now().Add(patience))
			if _, w.err = w.conn.Write(request); w.err == nil {
				w.answer, w.err = readAnswer(w.reader, http.StatusOK, w.answer[:0])
			}
		})
	}
	done := make(chan time.Time, 1)
	go func() {
		answers.Wait()
		done <- time.Now()
	}()
	return done
}

func (all waiters) check(id string) error {
	for i := range all {
		err := all[i].err
		if err == nil && !bytes.Contains(all[i].answer, []byte(id)) {
			err = fmt.Errorf("the answer is without the entry %s: %.200q", id, all[i].answer)
		}
		if err != nil {
			return fmt.Errorf("waiter %d of %d: %w", i+1, len(all), err)
		}
	}
	return nil
}
