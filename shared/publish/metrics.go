package publish

import "github.com/prometheus/client_golang/prometheus"

// logMetrics measure what a log appends.
type logMetrics struct {
	appends          prometheus.Histogram
	group            prometheus.Histogram
	staged           prometheus.Gauge
	compacted, freed *prometheus.CounterVec
	reads            *prometheus.CounterVec
	standbyMisses    *prometheus.CounterVec
	head, lost       *prometheus.Desc
}

func newLogMetrics() logMetrics {
	return logMetrics{
		appends: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name: "feed_append_seconds", Help: "From the moment a packet of changes is sent to its being committed, retries included.",
			Buckets: prometheus.ExponentialBuckets(0.0005, 2, 14),
		}),
		group: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name: "feed_group_changes", Help: "Changes that shared a packet.", Buckets: prometheus.ExponentialBuckets(1, 2, 10),
		}),
		staged: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "feed_staged_age_seconds", Help: "Age of the oldest change that an attached table has staged and that is not on its feed yet.",
		}),
		compacted: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "feed_compacted_entries_total", Help: "Superseded entries whose content this process has taken away.",
		}, []string{"feed"}),
		freed: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "feed_compacted_bytes_total", Help: "Bytes of that content, as it was stored.",
		}, []string{"feed"}),
		reads: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "feed_reads_total", Help: "Reads of pages, snapshots and versions that were not in memory, by the database that was asked last.",
		}, []string{"from"}),
		standbyMisses: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "feed_standby_misses_total",
			Help: "Reads that a standby did not answer: it was behind, failed, or did not know what was asked for.",
		}, []string{"reason"}),
		head: prometheus.NewDesc("feed_head_position", "Position of the last entry.", []string{"feed"}, nil),
		lost: prometheus.NewDesc("feed_lost_entries_total",
			"Entries, at least, that this process knew and that its database lost, as in a failover without its last commits or by the restore of a backup.",
			[]string{"feed"}, nil),
	}
}

// Describe implements [prometheus.Collector]. The metrics are the time of appends, the changes per group, the
// age of the oldest staged change, what was compacted, reads from the primary and from standbys, the positions of the
// heads, and the entries that were lost.
func (l *Log) Describe(ch chan<- *prometheus.Desc) {
	l.metrics.appends.Describe(ch)
	l.metrics.group.Describe(ch)
	l.metrics.staged.Describe(ch)
	l.metrics.compacted.Describe(ch)
	l.metrics.freed.Describe(ch)
	l.metrics.reads.Describe(ch)
	l.metrics.standbyMisses.Describe(ch)
	ch <- l.metrics.head
	ch <- l.metrics.lost
}

// Collect implements [prometheus.Collector].
func (l *Log) Collect(ch chan<- prometheus.Metric) {
	l.metrics.appends.Collect(ch)
	l.metrics.group.Collect(ch)
	l.metrics.staged.Collect(ch)
	l.metrics.compacted.Collect(ch)
	l.metrics.freed.Collect(ch)
	l.metrics.reads.Collect(ch)
	l.metrics.standbyMisses.Collect(ch)
	for name, head := range l.heads() {
		ch <- prometheus.MustNewConstMetric(l.metrics.head, prometheus.GaugeValue, float64(head.Position), name)
		ch <- prometheus.MustNewConstMetric(l.metrics.lost, prometheus.CounterValue, float64(l.Lost(name).All), name)
	}
}
