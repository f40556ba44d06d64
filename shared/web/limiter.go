package web

import (
	"math"
	"net/http"
	"time"

	lru "github.com/hashicorp/golang-lru/v2"
	"golang.org/x/time/rate"
)

// maxClients is how many clients a Limiter remembers: the one not seen for the longest is forgotten first.
const maxClients = 10_000

// A Limiter bounds the work that each client can cause, by a token bucket for each.
type Limiter struct {
	perSecond rate.Limit
	burst     int
	buckets   *lru.Cache[string, *rate.Limiter]
}

// NewLimiter returns a limiter that lets each client take perSecond units of work a second, and burst of them at once.
// The caller decides what a unit is.
func NewLimiter(perSecond, burst int) *Limiter {
	buckets, err := lru.New[string, *rate.Limiter](maxClients)
	if err != nil {
		panic(err) // the size is positive
	}
	return &Limiter{rate.Limit(perSecond), burst, buckets}
}

// Allow takes units from the client's bucket. If the bucket has too few, Allow takes none, and returns the time until
// it has enough. More units than a burst count as a burst.
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
	if known, ok := l.buckets.Get(key); ok {
		return known
	}
	fresh := rate.NewLimiter(l.perSecond, l.burst)
	if other, ok, _ := l.buckets.PeekOrAdd(key, fresh); ok {
		return other
	}
	return fresh
}

// Check is [Limiter.Allow] for the client of the request. Its error is a 429 with Retry-After.
func (l *Limiter) Check(r *http.Request, units int) error {
	return l.check(ClientKey(r), units)
}

// CheckAll is [Limiter.Check] of a bucket that all clients share.
func (l *Limiter) CheckAll(units int) error { return l.check("", units) }

func (l *Limiter) check(key string, units int) error {
	retryAfter, ok := l.Allow(key, units)
	if ok {
		return nil
	}
	seconds := int(math.Ceil(retryAfter.Seconds()))
	return TryAgain(http.StatusTooManyRequests, seconds, "Rate limit exceeded. Try again in %d s.", seconds)
}
