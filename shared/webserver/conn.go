package webserver

import (
	"context"
	"crypto/tls"
	"maps"
	"net"
	"net/http"
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/edison-cars/data-feeds/shared/web"
)

// A client that takes less than stallBytes of an answer within stallTimeout is cut off. Answers may still wait, and
// go on, for any time.
const (
	stallBytes   = 64 << 10
	stallTimeout = 30 * time.Second
)

// slowAfter is how long the body of a request may be awaited, or a client take for a part of an answer, until its
// connection may give way to another one.
const slowAfter = 2 * time.Second

// impatient accepts a limited number of connections, each of which cuts off a client that does not read.
type impatient struct {
	net.Listener
	open *openConns
}

func (l impatient) Accept() (net.Conn, error) {
	for {
		c, err := l.Listener.Accept()
		if err != nil {
			return nil, err
		}
		conn := &impatientConn{Conn: c, open: l.open}
		if l.open.admit(conn) {
			return conn, nil
		}
		_ = c.Close()
	}
}

type impatientConn struct {
	net.Conn
	open   *openConns
	client netip.Addr
	closed sync.Once
	busy   atomic.Bool // a request is under way

	sending  atomic.Int64 // since when the client is waited for to take what is sent, in nanoseconds since 1970; 0: it is not
	awaiting sync.Mutex
	awaited  map[any]awaited // what else the client is waited for: bodies of requests, streams of HTTP/2 to take an answer

	holding bool
	held    *[]byte // goes out with what is written next; nil means nothing
}

// An awaited says since when a client is waited for, and has the function to call at the end of that, or nil.
type awaited struct {
	since time.Time
	over  func()
}

// Close makes room for another connection.
func (c *impatientConn) Close() error {
	c.closed.Do(func() { c.open.forget(c) })
	return c.Conn.Close()
}

// waited returns how long the client has been waited for.
func (c *impatientConn) waited(now time.Time) (d time.Duration) {
	if since := c.sending.Load(); since != 0 {
		d = now.Sub(time.Unix(0, since))
	}
	c.awaiting.Lock()
	defer c.awaiting.Unlock()
	for _, a := range c.awaited {
		d = max(d, now.Sub(a.since))
	}
	return d
}

// slowly returns how many things the client has been waited for longer than slowAfter.
func (c *impatientConn) slowly(now time.Time) (n int) {
	c.awaiting.Lock()
	defer c.awaiting.Unlock()
	for _, a := range c.awaited {
		if now.Sub(a.since) > slowAfter {
			n++
		}
	}
	return n
}

// await notes that the client is waited for, until arrived is called, which calls over if it is not nil. The connection
// may be nil.
func (c *impatientConn) await(what any, over func()) {
	if c == nil {
		return
	}
	c.awaiting.Lock()
	defer c.awaiting.Unlock()
	if c.awaited == nil {
		c.awaited = map[any]awaited{}
	}
	c.awaited[what] = awaited{time.Now(), over}
}

func (c *impatientConn) arrived(what any) {
	if c == nil {
		return
	}
	c.awaiting.Lock()
	over := c.awaited[what].over
	delete(c.awaited, what)
	c.awaiting.Unlock()
	if over != nil {
		over()
	}
}

// allArrived notes that no request is under way.
func (c *impatientConn) allArrived() {
	c.awaiting.Lock()
	all := slices.Collect(maps.Keys(c.awaited))
	c.awaiting.Unlock()
	for _, what := range all {
		c.arrived(what)
	}
}

// buffers hold first writes. A connection that waits has none.
var buffers = sync.Pool{New: func() any { return new([]byte) }}

// maxHeld is the size of the buffer in which net/http writes the head of an answer and the beginning of its body.
const maxHeld = 4 << 10

func (c *impatientConn) Write(p []byte) (written int, err error) {
	defer c.sending.Store(0)
	if c.holding && c.held == nil && len(p) <= maxHeld {
		c.held = buffers.Get().(*[]byte)
		*c.held = append((*c.held)[:0], p...)
		return len(p), nil
	}
	if held := c.held; held != nil {
		defer buffers.Put(held)
		c.held = nil
		first, both := int64(len(*held)), net.Buffers{*held, p[:min(stallBytes, len(p))]}
		if err := c.beginPart(); err != nil {
			return 0, err
		}
		n, err := both.WriteTo(c.Conn)
		if written = int(max(n-first, 0)); err != nil || written == len(p) {
			return written, err
		}
	}
	for {
		part := p[written:min(written+stallBytes, len(p))]
		if err := c.beginPart(); err != nil {
			return written, err
		}
		n, err := c.Conn.Write(part)
		if written += n; err != nil || written == len(p) {
			return written, err
		}
	}
}

// beginPart sets the deadline by which the client has to take the next part of an answer.
func (c *impatientConn) beginPart() error {
	now := time.Now()
	c.sending.Store(now.UnixNano())
	return c.SetWriteDeadline(now.Add(stallTimeout))
}

// together sends the first two writes of write in one packet.
func (c *impatientConn) together(write func()) {
	c.holding = true
	write()
	c.holding = false
	if c.held != nil {
		_, _ = c.Write(nil) // the client is gone if it fails
	}
}

// acceptedKey is the key of the *impatientConn in the context of a request.
type acceptedKey struct{}

// connOf returns the request's connection, or nil if it was not accepted by [Listen].
func connOf(r *http.Request) *impatientConn {
	conn, _ := r.Context().Value(acceptedKey{}).(*impatientConn)
	return conn
}

func withConn(ctx context.Context, c net.Conn) context.Context {
	impatient := accepted(c)
	if impatient == nil {
		return ctx
	}
	ctx = context.WithValue(ctx, acceptedKey{}, impatient)
	if _, secure := c.(*tls.Conn); secure { // its packets are not those of the connection
		return ctx
	}
	return web.WithTogether(ctx, impatient.together)
}

// accepted returns the connection as it was accepted, or nil if that was not by [Listen].
func accepted(c net.Conn) *impatientConn {
	if secure, ok := c.(*tls.Conn); ok {
		c = secure.NetConn()
	}
	conn, _ := c.(*impatientConn)
	return conn
}

// CloseWrite is called by net/http before it closes a connection over which the client still sends, so that the client
// reads the answer.
func (c *impatientConn) CloseWrite() error {
	if half, ok := c.Conn.(interface{ CloseWrite() error }); ok {
		return half.CloseWrite()
	}
	return nil
}
