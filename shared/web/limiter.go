package web

import (
	"container/list"
	"math"
	"net/http"
	"net/netip"
	"strconv"
	"sync"
	"time"

	"github.com/gin-gonic/gin"
	"golang.org/x/time/rate"
)

// maxClients is how many clients a Limiter remembers: the one not seen for the longest is forgotten first.
const maxClients = 10_000

// A Limiter bounds the work that each client can cause, by a token bucket for each.
type Limiter struct {
	perSecond rate.Limit
	burst     int

	mu     sync.Mutex
	byKey  map[string]*list.Element
	recent list.List // of *client, the last one seen in front
}

type client struct {
	key    string
	bucket *rate.Limiter
}

// NewLimiter returns a limiter that lets each client take perSecond units of work, and burst of them at once.
// Its caller decides what a unit is.
func NewLimiter(perSecond, burst int) *Limiter {
	return &Limiter{perSecond: rate.Limit(perSecond), burst: burst, byKey: map[string]*list.Element{}}
}

// Allow takes units from what the client has. If they are not there it takes none, and says after which time they will
// be. More than a burst counts as a burst.
func (l *Limiter) Allow(key string, units int) (retryAfter time.Duration, ok bool) {
	now := time.Now()
	r := l.bucket(key).ReserveN(now, min(units, l.burst))
	if retryAfter = r.DelayFrom(now); retryAfter > 0 {
		r.CancelAt(now)
		return retryAfter, false
	}
	return 0, true
}

func (l *Limiter) bucket(key string) *rate.Limiter {
	l.mu.Lock()
	defer l.mu.Unlock()
	if e, ok := l.byKey[key]; ok {
		l.recent.MoveToFront(e)
		return e.Value.(*client).bucket
	}
	if len(l.byKey) >= maxClients {
		delete(l.byKey, l.recent.Remove(l.recent.Back()).(*client).key)
	}
	c := &client{key, rate.NewLimiter(l.perSecond, l.burst)}
	l.byKey[key] = l.recent.PushFront(c)
	return c.bucket
}

// Check is Allow for the client that asks; where it may not, the error is a 429 with Retry-After.
func (l *Limiter) Check(c *gin.Context, units int) error {
	return l.check(ClientKey(c), units)
}

// CheckAll is Check of what all clients have together.
func (l *Limiter) CheckAll(units int) error { return l.check("", units) }

func (l *Limiter) check(key string, units int) error {
	retryAfter, ok := l.Allow(key, units)
	if ok {
		return nil
	}
	seconds := strconv.Itoa(int(math.Ceil(retryAfter.Seconds())))
	p := Errorf(http.StatusTooManyRequests, "Rate limit exceeded. Try again in %s s.", seconds)
	p.Header = http.Header{"Retry-After": {seconds}}
	return p
}

// ClientKey is the reader's name, or else the address: of IPv6 the /64, since a client has all of one.
func ClientKey(c *gin.Context) string {
	if name := Reader(c); name != "" {
		return name
	}
	addr, err := netip.ParseAddr(c.ClientIP())
	if err != nil {
		return ""
	}
	return clientAddr(addr).String()
}

// clientAddr stands for all addresses that one client may have.
func clientAddr(addr netip.Addr) netip.Addr {
	if addr = addr.Unmap(); addr.Is6() {
		network, _ := addr.Prefix(64)
		addr = network.Addr()
	}
	return addr
}
