package subscribe

import (
	"errors"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/edison-cars/data-feeds/shared/feed"
	"github.com/edison-cars/data-feeds/shared/feedclient"
)

// pollerMetrics count what a poller does.
type pollerMetrics struct {
	polls   *prometheus.CounterVec
	apply   prometheus.Histogram
	resyncs prometheus.Counter
	// What it is, as gauges.
	lagEntries, lagSeconds, stale, failing, rejected, incomplete, polling, listening *prometheus.Desc
	// Of the stream, if there is one.
	messages, gaps *prometheus.Desc
}

func newPollerMetrics(name string) *pollerMetrics {
	labels := prometheus.Labels{"feed": name}
	gauge := func(name, help string) *prometheus.Desc { return prometheus.NewDesc(name, help, nil, labels) }
	return &pollerMetrics{
		lagEntries: gauge("subscription_lag_entries", "Entries that the source had beyond the copy when it last answered."),
		lagSeconds: gauge("subscription_lag_seconds", "Age of the copy: how long ago the source had what it holds. Absent while there is none."),
		stale:      gauge("subscription_stale", "1 while the copy is not fresh, 0 while it is."),
		failing:    gauge("subscription_failing_seconds", "How long ago the first poll failed since one succeeded; 0 while none has."),
		rejected:   gauge("subscription_rejected_entries", "Entries that could not be applied."),
		incomplete: gauge("subscription_incomplete", "1 while the copy is paused because the source does not publish all that it needs."),
		polling:    gauge("subscription_polling", "1 in the process that polls, 0 in those that stand by."),
		listening:  gauge("subscription_stream_listening", "1 while there is a connection to the stream's broker, 0 while there is none."),
		messages:   prometheus.NewDesc("subscription_stream_messages_total", "Messages that came by the stream.", nil, labels),
		gaps:       prometheus.NewDesc("subscription_stream_gaps_total", "How often the feed was asked since messages did not go on where the copy was.", nil, labels),
		polls: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "subscription_polls_total", Help: "Polls by how they ended.", ConstLabels: labels,
		}, []string{"outcome"}),
		apply: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name: "subscription_apply_seconds", Help: "Time to apply a page.", ConstLabels: labels, Buckets: prometheus.ExponentialBuckets(0.001, 2, 14),
		}),
		resyncs: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "subscription_resyncs_total", Help: "Completed resyncs of the feed.", ConstLabels: labels,
		}),
	}
}

func (m *pollerMetrics) polled(err error) {
	outcome := "failed"
	var status *feedclient.StatusError
	switch {
	case err == nil:
		outcome = "succeeded"
	case errors.Is(err, ErrIncomplete):
		outcome = "incomplete"
	case errors.Is(err, feedclient.ErrDiverged):
		outcome = "diverged"
	case errors.Is(err, feed.ErrPage):
		outcome = "bad_page"
	case errors.As(err, &status):
		outcome = "refused"
	}
	m.polls.WithLabelValues(outcome).Inc()
}

// Describe implements [prometheus.Collector] for one feed.
func (p *poller) Describe(ch chan<- *prometheus.Desc) {
	m := p.metrics
	for _, d := range []*prometheus.Desc{m.lagEntries, m.lagSeconds, m.stale, m.failing, m.rejected, m.incomplete, m.polling, m.listening, m.messages, m.gaps} {
		ch <- d
	}
	m.polls.Describe(ch)
	m.apply.Describe(ch)
	m.resyncs.Describe(ch)
}

// Collect implements [prometheus.Collector] for one feed.
func (p *poller) Collect(ch chan<- prometheus.Metric) {
	m, now := p.metrics, time.Now()
	s := p.status(now)
	set := func(d *prometheus.Desc, v float64) {
		ch <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, v)
	}
	truth := map[bool]float64{true: 1}
	set(m.lagEntries, float64(s.LagEntries))
	if s.AsOf != nil {
		set(m.lagSeconds, now.Sub(*s.AsOf).Seconds())
	}
	set(m.stale, truth[s.State != Fresh])
	failing := 0.0
	if s.FailingSince != nil {
		failing = max(now.Sub(*s.FailingSince).Seconds(), 0.001) // 0 means that no poll has failed
	}
	set(m.failing, failing)
	set(m.rejected, float64(s.RejectedEntries))
	set(m.incomplete, truth[errors.Is(s.Detail.Err, ErrIncomplete)])
	set(m.polling, truth[!s.Standby])
	if s.Stream != nil && !s.Standby {
		set(m.listening, truth[s.Stream.State == Listening])
		ch <- prometheus.MustNewConstMetric(m.messages, prometheus.CounterValue, float64(s.Stream.Messages))
		ch <- prometheus.MustNewConstMetric(m.gaps, prometheus.CounterValue, float64(s.Stream.Gaps))
	}
	m.polls.Collect(ch)
	m.apply.Collect(ch)
	m.resyncs.Collect(ch)
}
