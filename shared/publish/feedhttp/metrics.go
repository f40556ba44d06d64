package feedhttp

import (
	"strconv"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/edison-cars/data-feeds/shared/feed"
	"github.com/edison-cars/data-feeds/shared/web"
)

// sourceMetrics count what a source serves.
type sourceMetrics struct {
	requests     *prometheus.CounterVec
	bytes        prometheus.Counter
	hits, misses prometheus.Counter
	waiting      prometheus.GaugeFunc
	streams      prometheus.GaugeFunc
}

func newSourceMetrics(waiting, streams *web.Slots) *sourceMetrics {
	taken := func(name, help string, of *web.Slots) prometheus.GaugeFunc {
		return prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: name, Help: help}, func() float64 { return float64(of.Taken()) })
	}
	counter := func(name, help string) prometheus.Counter {
		return prometheus.NewCounter(prometheus.CounterOpts{Name: name, Help: help})
	}
	return &sourceMetrics{
		requests: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "feed_requests_total", Help: "Requests for a feed. Feed and format are empty where a request was refused.",
		}, []string{"feed", "format", "status"}),
		bytes:   counter("feed_sent_bytes_total", "Bytes of the bodies of feed documents, as compressed."),
		hits:    counter("feed_cache_hits_total", "Documents that were sent from memory."),
		misses:  counter("feed_cache_misses_total", "Documents that were not in memory."),
		waiting: taken("feed_waiting_requests", "Requests that are held until something is appended.", waiting),
		streams: taken("feed_streams", "Open event streams.", streams),
	}
}

var formats = map[string]string{feed.TypeJSONFeed: "json", feed.TypeJSON: "json", feed.TypeAtom: "atom", feed.TypeHTML: "html", feed.TypeEvents: "events", feed.TypeCloudEvents: "cloudevents"}

func (m *sourceMetrics) outcome(r *request, status int) prometheus.Counter {
	return m.requests.WithLabelValues(r.Name, formats[r.mediaType], strconv.Itoa(status))
}

func (m *sourceMetrics) refused(status int) {
	m.requests.WithLabelValues("", "", strconv.Itoa(status)).Inc()
}

func (m *sourceMetrics) collectors() []prometheus.Collector {
	return []prometheus.Collector{m.requests, m.bytes, m.hits, m.misses, m.waiting, m.streams}
}

// Describe implements [prometheus.Collector]. The metrics are requests by feed, format and status, bytes sent, cache
// hits and misses, waiting requests, and event streams.
func (s *Source) Describe(ch chan<- *prometheus.Desc) {
	for _, c := range s.metrics.collectors() {
		c.Describe(ch)
	}
}

// Collect implements [prometheus.Collector].
func (s *Source) Collect(ch chan<- prometheus.Metric) {
	for _, c := range s.metrics.collectors() {
		c.Collect(ch)
	}
}
