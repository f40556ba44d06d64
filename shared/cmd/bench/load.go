package main

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"time"
)

const (
	connections = 32
	loadGrace   = 10 * time.Second // for answers that are under way when the time is over
)

// drive sends n requests of the same bytes over keep-alive connections, or as many as it can within the limit. It does not
// use net/http's client, which costs more than the servers that it would measure.
func drive(ctx context.Context, addr, request string, status, n int,
	limit time.Duration) (done int, elapsed time.Duration, err error) {
	return driveAll(ctx, []string{addr}, func() string { return request }, status, n, limit)
}

// driveAll sends requests to several servers, each of which gets as many of the connections.
func driveAll(ctx context.Context, addrs []string, request func() string, status, n int,
	limit time.Duration) (done int, elapsed time.Duration, err error) {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	conns := make([]net.Conn, connections)
	for i := range conns {
		var dialer net.Dialer
		if conns[i], err = dialer.DialContext(ctx, "tcp", addrs[i%len(addrs)]); err != nil {
			return 0, 0, err
		}
		defer conns[i].Close()
		defer context.AfterFunc(ctx, func() { _ = conns[i].Close() })()
	}
	var all sync.WaitGroup
	var taken, answered atomic.Int64
	began := time.Now()
	for _, conn := range conns {
		_ = conn.SetDeadline(began.Add(limit + loadGrace))
		all.Go(func() {
			r := bufio.NewReaderSize(conn, 64<<10)
			for taken.Add(1) <= int64(n) && time.Since(began) < limit {
				_, err := conn.Write([]byte(request()))
				if err == nil {
					_, err = readAnswer(r, status, nil)
				}
				if err != nil {
					cancel(err)
					return
				}
				answered.Add(1)
			}
		})
	}
	all.Wait()
	return int(answered.Load()), time.Since(began), context.Cause(ctx)
}

// readAnswer reads an HTTP/1.1 answer that has a Content-Length, or is a 304. It appends the body to a buffer, if that
// is not nil.
func readAnswer(r *bufio.Reader, status int, to []byte) (body []byte, err error) {
	line, err := r.ReadSlice('\n')
	if err != nil {
		return nil, err
	}
	if want := fmt.Appendf(nil, "HTTP/1.1 %d ", status); !bytes.HasPrefix(line, want) {
		return nil, fmt.Errorf("the answer is %q, want %d", bytes.TrimSpace(line), status)
	}
	length := -1
	for {
		if line, err = r.ReadSlice('\n'); err != nil {
			return nil, err
		}
		name, value, ok := bytes.Cut(bytes.TrimRight(line, "\r\n"), []byte(":"))
		if !ok {
			break
		}
		if len(name) == len("Content-Length") && bytes.EqualFold(name, []byte("Content-Length")) {
			if length, err = strconv.Atoi(string(bytes.TrimSpace(value))); err != nil {
				return nil, err
			}
		}
	}
	switch {
	case status == http.StatusNotModified:
		return nil, nil
	case length <= 0:
		return nil, errors.New("the answer has no Content-Length")
	case to == nil:
		_, err = r.Discard(length)
		return nil, err
	}
	body = slices.Grow(to, length)[:length]
	_, err = io.ReadFull(r, body)
	return body, err
}
