package web

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"net/http"
	"os"
	"runtime/debug"
	"sync"
	"time"

	"github.com/gin-gonic/gin"
)

// An Awaited is what parked requests wait for. All who wait for one thing pass the same pointer.
type Awaited struct {
	Happened <-chan struct{} // closed when it has
	Prepare  func()          // what is done once for all of them then, before they are answered
	prepared sync.Once
}

// Park lets the request wait until something has happened, until a time, or until [Stopping], for the price of its connection: without the goroutines,
// buffers and contexts that a handler holds. Where it gives true the handler returns at once, without an answer. It is called
// again, with the same request, when the wait is over, the client has left (its context is done then) or the server stops:
// Resumed tells that. Park calls release once that call has returned. Park gives false where the handler has to wait by itself: in
// HTTP/1.0, HTTP/2 and TLS, for other methods than GET, outside of Serve, and when it was called again.
func Park(c *gin.Context, event *Awaited, until time.Time, release func()) bool {
	req := c.Request
	l, _ := req.Context().Value(lotKey{}).(*lot)
	_, again := Resumed(req.Context())
	_, mayHijack := unwrap(c.Writer).(http.Hijacker)
	if l == nil || again || !mayHijack || req.TLS != nil || req.ProtoMajor != 1 || req.ProtoMinor != 1 || req.Close ||
		req.Method != http.MethodGet || req.ContentLength != 0 {
		return false
	}
	conn, buffered, err := c.Writer.Hijack()
	if err != nil {
		panic(http.ErrAbortHandler) // the connection is in no state to be answered on
	}
	c.Set(parkedKey{}, true)
	p := &parked{conn: conn, req: req, began: time.Now(), until: until, release: release}
	if ahead, _ := buffered.Reader.Peek(buffered.Reader.Buffered()); len(ahead) > 0 {
		p.unread = append(p.unread, ahead...)
	}
	if r, ok := conn.(*returned); ok && len(r.unread) == 0 {
		p.conn = r.Conn
	}
	l.hold(p, event, until)
	return true
}

// Resumed tells whether the request was parked, and until when it was to wait.
func Resumed(ctx context.Context) (until time.Time, ok bool) {
	p, ok := ctx.Value(resumedKey{}).(*parked)
	if ok {
		until = p.until
	}
	return until, ok
}

// began returns when the request came.
func began(req *http.Request) time.Time {
	if p, ok := req.Context().Value(resumedKey{}).(*parked); ok {
		return p.began
	}
	return time.Now()
}

type (
	lotKey     struct{} // of the context of a request: *lot
	resumedKey struct{} // of the context of a request that was parked: *parked
	parkedKey  struct{} // of a gin.Context whose request was parked, and is answered in another one
)

func isParked(c *gin.Context) bool {
	_, parked := c.Get(parkedKey{})
	return parked
}

// A lot holds the connections that a server does not serve for the time being: those of parked requests, and then, until the
// client sends the next request, these without one. To the server it is a listener, which accepts them again.
type lot struct {
	handler  http.Handler
	logger   *slog.Logger
	stopping <-chan struct{}
	addr     net.Addr
	back     chan net.Conn
	closed   chan struct{}
	close    func()

	mu     sync.Mutex
	asleep map[wakers]*sleepers
	awake  map[*parked]struct{}
}

// Wakers end a wait, whichever comes first.
type wakers struct {
	event *Awaited        // nil means without a request
	stop  <-chan struct{} // see Stopping
}

// Sleepers wait for the same.
type sleepers struct {
	wakers
	members map[*parked]struct{}
	left    chan struct{} // closed when all have left
}

// A parked connection has one goroutine, which reads in it: so it notices that the client leaves.
type parked struct {
	conn         net.Conn
	req          *http.Request // nil means none
	with         *sleepers
	began, until time.Time
	release      func() // of req
	next         [1]byte
	unread       []byte // of the request after req

	mu    sync.Mutex
	awake bool // nobody but the goroutine may set a deadline
}

func newLot(handler http.Handler, logger *slog.Logger, stopping <-chan struct{}, addr net.Addr) *lot {
	l := &lot{
		handler: handler, logger: logger, stopping: stopping, addr: addr, back: make(chan net.Conn), closed: make(chan struct{}),
		asleep: map[wakers]*sleepers{}, awake: map[*parked]struct{}{},
	}
	l.close = sync.OnceFunc(func() { close(l.closed) })
	return l
}

func (l *lot) Accept() (net.Conn, error) {
	select {
	case c := <-l.back:
		return c, nil
	case <-l.closed:
		return nil, net.ErrClosed
	}
}

func (l *lot) Close() error   { l.close(); return nil }
func (l *lot) Addr() net.Addr { return l.addr }

// hold puts p to sleep until something happens, or until a time. A stop wakes it, too.
func (l *lot) hold(p *parked, event *Awaited, until time.Time) {
	_ = p.conn.SetReadDeadline(until) // reading tells of a broken connection
	by := wakers{event, l.stopping}
	if p.req != nil {
		by.stop = Stopping(p.req.Context())
	}
	l.mu.Lock()
	if p.with = l.asleep[by]; p.with == nil {
		p.with = &sleepers{by, map[*parked]struct{}{}, make(chan struct{})}
		l.asleep[by] = p.with
		go l.watch(p.with)
	}
	p.with.members[p] = struct{}{}
	l.mu.Unlock()
	go l.sleep(p)
}

// disband wants l.mu locked. Later ones sleep with others.
func (l *lot) disband(all *sleepers) {
	if all.members != nil {
		all.members = nil
		delete(l.asleep, all.wakers)
		close(all.left)
	}
}

// watch wakes those who sleep until the event.
func (l *lot) watch(all *sleepers) {
	var happened <-chan struct{}
	if all.event != nil {
		happened = all.event.Happened
	}
	select {
	case <-happened:
		l.prepare(all.event)
	case <-all.stop:
	case <-l.closed:
	case <-all.left:
		return
	}
	l.mu.Lock()
	members := all.members
	for p := range members {
		l.awake[p] = struct{}{}
	}
	l.disband(all)
	l.mu.Unlock()
	for p := range members {
		p.mu.Lock()
		if !p.awake {
			_ = p.conn.SetReadDeadline(time.Unix(1, 0))
		}
		p.mu.Unlock()
	}
}

func (l *lot) prepare(event *Awaited) {
	defer func() {
		if v := recover(); v != nil {
			l.logger.Error("panic before an answer", "panic", Panicked(v), "stack", string(debug.Stack()))
		}
	}()
	event.prepared.Do(event.Prepare)
}

// sleep reads until p is to wake, and goes on from there. Until then it needs little stack.
func (l *lot) sleep(p *parked) {
	var err error
	if len(p.unread) == 0 {
		var n int
		n, err = p.conn.Read(p.next[:])
		p.unread = p.next[:n]
	}
	p.mu.Lock()
	p.awake = true
	p.mu.Unlock()
	l.mu.Lock()
	if delete(p.with.members, p); p.with.members != nil && len(p.with.members) == 0 {
		l.disband(p.with)
	}
	l.awake[p] = struct{}{}
	l.mu.Unlock()

	left := len(p.unread) == 0 && !errors.Is(err, os.ErrDeadlineExceeded)
	answered := p.req != nil
	if answered && !l.answer(p, left) {
		l.drop(p)
		return
	}
	switch {
	case len(p.unread) > 0:
		l.handBack(p)
	case answered:
		if conn := accepted(p.conn); conn != nil {
			conn.busy.Store(false)
		}
		l.hold(&parked{conn: p.conn}, nil, time.Now().Add(idleTimeout)) // who was to wake p may only come to it now
		l.forget(p)
	default:
		l.drop(p)
	}
}

func (l *lot) handBack(p *parked) {
	_ = p.conn.SetReadDeadline(time.Time{})
	l.forget(p)
	select {
	case l.back <- &returned{p.conn, p.unread}:
	case <-l.closed:
		_ = p.conn.Close()
	}
}

func (l *lot) drop(p *parked) {
	_ = p.conn.Close()
	l.forget(p)
}

func (l *lot) forget(p *parked) {
	l.mu.Lock()
	defer l.mu.Unlock()
	delete(l.awake, p)
}

// drain returns when the lot, which a stop empties, is empty. At the end of ctx it gives the error of that.
func (l *lot) drain(ctx context.Context) error {
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for {
		held := 0
		l.each(func(*parked) { held++ })
		if held == 0 {
			return nil
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// cut breaks the connections that are still held.
func (l *lot) cut() {
	l.close()
	l.each(func(p *parked) { _ = p.conn.Close() })
}

func (l *lot) each(do func(*parked)) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for p := range l.awake {
		do(p)
	}
	for _, g := range l.asleep {
		for p := range g.members {
			do(p)
		}
	}
}

// A returned connection gives first what was read of it already.
type returned struct {
	net.Conn
	unread []byte
}

func (c *returned) Read(p []byte) (int, error) {
	if len(c.unread) > 0 {
		n := copy(p, c.unread)
		c.unread = c.unread[n:]
		return n, nil
	}
	return c.Conn.Read(p)
}

func (c *returned) CloseWrite() error { return closeWrite(c.Conn) }
