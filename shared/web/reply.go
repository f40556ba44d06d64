package web

import (
	"bufio"
	"context"
	"errors"
	"net"
	"net/http"
	"runtime/debug"
	"strconv"
	"sync"
	"time"
)

// answer calls the handler for a parked request, and tells whether its connection may be used for another one.
func (l *lot) answer(p *parked, left bool) (reusable bool) {
	ctx := context.WithValue(context.WithoutCancel(p.req.Context()), resumedKey{}, p)
	if left {
		gone, cancel := context.WithCancel(ctx)
		cancel()
		ctx = gone
	}
	w := &reply{conn: p.conn, header: make(http.Header, 16)}
	defer p.release()
	defer func() {
		if v := recover(); v != nil {
			reusable = false
			if err, ok := v.(error); !ok || !errors.Is(err, http.ErrAbortHandler) {
				l.logger.ErrorContext(ctx, "panic after a wait", "panic", Panicked(v), "stack", string(debug.Stack()))
			}
		}
		if w.out != nil {
			w.out.Reset(nil)
			replyBuffers.Put(w.out)
		}
	}()
	select {
	case <-l.stopping:
		w.close = true
	default:
	}
	l.handler.ServeHTTP(w, p.req.WithContext(ctx))
	w.WriteHeader(http.StatusOK)
	return w.out.Flush() == nil && !w.close && w.missing == 0 && !left
}

var replyBuffers = sync.Pool{New: func() any { return bufio.NewWriterSize(nil, 4<<10) }}

// A reply is the answer to a parked request: a response of HTTP/1.1 to GET (RFC 9112). Where its header does not say how long
// it is, the end of the connection is its end.
type reply struct {
	conn    net.Conn
	out     *bufio.Writer // to conn; nil before the header
	header  http.Header
	close   bool  // after this answer
	missing int64 // bytes of the body
}

func (w *reply) Header() http.Header { return w.header }

func (w *reply) WriteHeader(status int) {
	if w.out != nil || status < http.StatusOK { // nobody waits for an interim response
		return
	}
	w.out = replyBuffers.Get().(*bufio.Writer)
	w.out.Reset(w.conn)
	h := w.header
	if h["Date"] == nil {
		h["Date"] = []string{time.Now().UTC().Format(http.TimeFormat)}
	}
	if status != http.StatusNotModified && status != http.StatusNoContent {
		var err error
		if w.missing, err = strconv.ParseInt(h.Get("Content-Length"), 10, 64); err != nil {
			w.missing, w.close = 1<<62, true
		}
	}
	if w.close = w.close || h.Get("Connection") == "close"; w.close {
		h["Connection"] = []string{"close"}
	}
	// The buffer keeps its first error for Flush.
	_, _ = w.out.WriteString("HTTP/1.1 " + strconv.Itoa(status) + " " + http.StatusText(status) + "\r\n")
	_ = h.Write(w.out)
	_, _ = w.out.WriteString("\r\n")
}

func (w *reply) Write(p []byte) (int, error) {
	w.WriteHeader(http.StatusOK)
	if int64(len(p)) > w.missing {
		return 0, http.ErrContentLength
	}
	w.missing -= int64(len(p))
	return w.out.Write(p)
}
