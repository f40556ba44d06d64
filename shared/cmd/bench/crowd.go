package main

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/klauspost/compress/gzip"
	"golang.org/x/sync/errgroup"

	"github.com/edison-cars/data-feeds/shared/feed"
	"github.com/edison-cars/data-feeds/shared/web"
)

const (
	dialing      = 64 // connections at once
	settleEvery  = 100 * time.Millisecond
	settleTimes  = 5       // readings of memory that have to agree
	answerBuffer = 8 << 10 // bytes
)

// crowd lets many wait at once, measures what each costs the server, and how long one commit takes to reach them all. It
// says so in one sentence, too.
func (w *waits) crowd(ctx context.Context) (note string, err error) {
	ctx, cancel := context.WithTimeout(ctx, time.Duration(w.rounds+1)*patience)
	defer cancel()
	n := min(w.waiters, web.MaxConnections()*5/8)
	fmt.Fprintf(w.out, "\nWaiters: so many connections that each wait; memory of the server's process, and from the commit's return to the last answer's end\n")
	if n < w.waiters {
		fmt.Fprintf(w.out, "only %s: the limit of open files allows no more\n", count(n))
	}
	env := maps.Clone(w.env)
	env["MAX_WAITING"] = fmt.Sprintf("%d/%d", n, n) // all of them are one client
	s, err := startServer(ctx, env, salesKind, w.db.Config().ConnString())
	if err != nil {
		return "", err
	}
	defer func() { _, _ = s.stop() }()
	if _, err := s.sell(ctx); err != nil { // to have done everything once
		return "", err
	}
	empty, measured, err := settle(ctx, s, 0)
	if err != nil {
		return "", err
	}
	all, err := connect(ctx, s.addr, n)
	if err != nil {
		return "", err
	}
	defer all.close()
	defer context.AfterFunc(ctx, all.close)()
	var each, answered []float64
	for range w.rounds {
		after, err := w.head(ctx)
		if err != nil {
			return "", err
		}
		done := all.ask(after)
		full, _, err := settle(ctx, s, n)
		if err != nil {
			return "", err
		}
		sold, err := s.sell(ctx)
		if err != nil {
			return "", err
		}
		at := <-done
		if err := all.check(sold.ID.String()); err != nil {
			return "", err
		}
		each = append(each, float64(full-empty)/1000/float64(n))
		answered = append(answered, float64(at.Sub(sold.CommittedAt))/float64(time.Millisecond))
	}
	note = fmt.Sprintf("%s waiting readers: all answered %s ms after a commit", count(n), number(median(answered)))
	first, later := "-", "-" // where it is not measured
	if measured {
		first = number(each[0])
		note += fmt.Sprintf(", %s kB each", first)
	}
	if measured && w.rounds > 1 {
		later = spread(each[1:])
	}
	t := w.out.table("waiters", "kB each", "kB each that has been answered before", "ms to answer all")
	t.row(count(n), first, later, spread(answered))
	return note, t.flush()
}

// settle returns when n requests wait in the server and its memory has stopped changing, and gives that in bytes.
func settle(ctx context.Context, s *server, n int) (memory int64, measured bool, err error) {
	ctx, cancel := context.WithTimeoutCause(ctx, waitSeconds*time.Second, fmt.Errorf("the server's memory does not settle, or it does not hold %d waiting requests", n))
	defer cancel()
	for agreed, last := 0, int64(0); agreed < settleTimes; last = memory {
		select {
		case <-ctx.Done():
			return 0, false, context.Cause(ctx)
		case <-time.After(settleEvery):
		}
		req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+s.addr+waitingPath, nil)
		if err != nil {
			return 0, false, err
		}
		waiting := 0
		if err := call(req, &waiting); err != nil {
			return 0, false, err
		}
		if memory, measured, err = memoryOf(s.cmd.Process.Pid, residentMemory); err != nil {
			return 0, false, err
		}
		if agreed++; waiting != n || max(memory-last, last-memory) > last/200 {
			agreed = 0
		}
	}
	return memory, measured, nil
}

// A waiter is plain for a reason: what it costs to read the answers is measured, too.
type waiter struct {
	conn   net.Conn
	answer []byte // the last one, or what came of it
	err    error
}

type waiters []waiter

func connect(ctx context.Context, addr string, n int) (waiters, error) {
	all := make(waiters, n)
	dial, ctx := errgroup.WithContext(ctx)
	dial.SetLimit(dialing)
	for i := range all {
		dial.Go(func() (err error) {
			all[i].conn, err = new(net.Dialer).DialContext(ctx, "tcp", addr)
			all[i].answer = make([]byte, 0, answerBuffer)
			return err
		})
	}
	err := dial.Wait()
	if err != nil {
		all.close()
	}
	return all, err
}

func (all waiters) close() {
	for i := range all {
		if all[i].conn != nil {
			_ = all[i].conn.Close()
		}
	}
}

// ask sends everybody's request, and gives the moment at which the last of them has the answer.
func (all waiters) ask(after feed.Cursor) <-chan time.Time {
	request := fmt.Appendf(nil, "GET /feeds/%s.json?after=%s&limit=%d HTTP/1.1\r\nHost: localhost\r\nAccept-Encoding: gzip\r\nPrefer: wait=%d\r\n\r\n",
		feedName, after, feed.PageSize, waitSeconds)
	var answers sync.WaitGroup
	for i := range all {
		answers.Go(func() { all[i].ask(request) })
	}
	done := make(chan time.Time, 1)
	go func() {
		answers.Wait()
		done <- time.Now()
	}()
	return done
}

func (w *waiter) ask(request []byte) {
	if w.answer, w.err = w.answer[:0], w.conn.SetDeadline(time.Now().Add(patience)); w.err != nil {
		return
	}
	if _, w.err = w.conn.Write(request); w.err != nil {
		return
	}
	for w.err == nil && !whole(w.answer) {
		if len(w.answer) == cap(w.answer) {
			w.err = errors.New("the answer is too long")
			return
		}
		var n int
		n, w.err = w.conn.Read(w.answer[len(w.answer):cap(w.answer)])
		w.answer = w.answer[:len(w.answer)+n]
	}
}

var (
	endOfHeader   = []byte("\r\n\r\n")
	contentLength = []byte("\r\nContent-Length: ")
)

// whole tells whether there is all of an answer.
func whole(answer []byte) bool {
	header, body, ended := bytes.Cut(answer, endOfHeader)
	if !ended {
		return false
	}
	_, value, _ := bytes.Cut(header, contentLength)
	value, _, _ = bytes.Cut(value, endOfHeader[:2])
	length, err := strconv.Atoi(string(value))
	return err != nil || len(body) >= length // check says what is wrong with it
}

// check reports the first answer that is not a 200 with the entity id.
func (all waiters) check(id string) error {
	for i := range all {
		if err := all[i].check(id); err != nil {
			return fmt.Errorf("waiter %d of %d: %w", i+1, len(all), err)
		}
	}
	return nil
}

func (w *waiter) check(id string) error {
	if w.err != nil {
		return w.err
	}
	resp, err := http.ReadResponse(bufio.NewReader(bytes.NewReader(w.answer)), nil)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	var body io.Reader = resp.Body
	if resp.Header.Get("Content-Encoding") == "gzip" {
		if body, err = gzip.NewReader(body); err != nil {
			return err
		}
	}
	page, err := io.ReadAll(body)
	if err != nil {
		return err
	}
	if resp.StatusCode != http.StatusOK || !strings.Contains(string(page), id) {
		return fmt.Errorf("%s without the entry %s: %.200q", resp.Status, id, page)
	}
	return nil
}
