package subscribe

import (
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
)

// A service may have several feeds.
func TestMetricsOfTwoFeeds(t *testing.T) {
	t.Parallel()
	registry := prometheus.NewPedanticRegistry()
	for _, name := range []string{"orders", "builds"} {
		p, err := newPoller(nil, Options{Name: "test", Logger: discard}, Feed{Name: name, URL: "http://source.example/feeds/" + name, Schedule: "@every 5s"})
		if err != nil {
			t.Fatal(err)
		}
		p.state.copied.asOf = time.Now()
		if err := registry.Register(p); err != nil {
			t.Fatal(err)
		}
	}
	for _, name := range []string{"subscription_lag_entries", "subscription_lag_seconds", "subscription_stale", "subscription_rejected_entries", "subscription_polling", "subscription_resyncs_total"} {
		if n, err := testutil.GatherAndCount(registry, name); err != nil || n != 2 {
			t.Errorf("%s: %d of 2 (%v)", name, n, err)
		}
	}
}

// only is one metric of a poller.
type only struct {
	p    *poller
	desc *prometheus.Desc
}

func (o only) Describe(ch chan<- *prometheus.Desc) { ch <- o.desc }

func (o only) Collect(ch chan<- prometheus.Metric) {
	all := make(chan prometheus.Metric, 100)
	o.p.Collect(all)
	close(all)
	for m := range all {
		if m.Desc() == o.desc {
			ch <- m
		}
	}
}
