package webserver

import (
	"maps"
	"sync/atomic"

	"github.com/gin-gonic/gin"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"github.com/edison-cars/data-feeds/shared/web"
)

// NewMetrics returns a registry with the metrics of the Go runtime and of the process.
func NewMetrics() *prometheus.Registry {
	registry := prometheus.NewRegistry()
	registry.MustRegister(collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	return registry
}

// Metrics routes /metrics to what the registry holds.
func Metrics(r gin.IRoutes, registry *prometheus.Registry) {
	h := promhttp.HandlerFor(registry, promhttp.HandlerOpts{Registry: registry})
	GET(r, "/metrics", func(c *gin.Context) {
		c.Header("Cache-Control", "no-store")
		h.ServeHTTP(c.Writer, c.Request)
	})
}

// CountRequests is an observer for New that counts requests by route ("" where there is none), reader ("" where
// everybody may read) and the first digit of the status: 2xx; aborted where the connection was broken off in the
// middle.
func CountRequests(registry prometheus.Registerer) gin.HandlerFunc {
	total := prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "http_requests_total", Help: "Requests answered.",
	}, []string{"route", "reader", "status"})
	registry.MustRegister(total)
	type series struct{ route, reader string }
	type counters [len(statusClasses)]prometheus.Counter
	var known atomic.Pointer[map[series]*counters] // replaced, never changed: a look-up takes no lock
	known.Store(&map[series]*counters{})
	countersOf := func(s series) *counters {
		for {
			seen := known.Load()
			if found := (*seen)[s]; found != nil {
				return found
			}
			made := new(counters)
			for i, class := range statusClasses {
				made[i] = total.WithLabelValues(s.route, s.reader, class)
			}
			more := maps.Clone(*seen)
			more[s] = made
			if known.CompareAndSwap(seen, &more) {
				return made
			}
		}
	}
	return func(c *gin.Context) {
		class := 0
		defer func() {
			countersOf(series{c.FullPath(), web.Reader(c.Request)})[class].Inc()
		}()
		c.Next()
		class = min(max(c.Writer.Status()/100-1, 1), 4)
	}
}

var statusClasses = [...]string{"aborted", "2xx", "3xx", "4xx", "5xx"}
