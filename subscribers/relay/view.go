package relay

import (
	"context"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/edison-cars/data-feeds/shared/service/subscriber"
)

// States of a stream.
const (
	connected = "connected"
	blocked   = "blocked" // by the broker, which accepts no messages
	away      = "away"    // not connected
	standby   = "standby" // another process of the service relays, or the database does not answer
)

type overview struct {
	Broker  string `json:"broker"` // without the password
	Streams []view `json:"streams"`
}

type view struct {
	Feed         string     `json:"feed"`
	Exchange     string     `json:"exchange"`
	State        string     `json:"state"`
	Since        *time.Time `json:"since"`  // of being connected or not; null on standby
	Detail       *string    `json:"detail"` // the current problem; null: none
	Generation   int64      `json:"generation"`
	Position     int64      `json:"position"` // of the last confirmed entry
	Behind       int64      `json:"lag_entries"`
	Messages     int64      `json:"messages"`             // confirmed in all, including repetitions
	LastMinute   int        `json:"messages_last_minute"` // of those, by this process
	ConfirmedAt  *time.Time `json:"last_confirm_at"`      // null: never
	PendingSince *time.Time `json:"pending_since"`        // since when a page waits for confirmation; null: no page does
}

// StateText returns the state in words.
func (v view) StateText() string {
	return map[string]string{connected: "connected", blocked: "blocked by the broker", away: "not connected", standby: "by another process"}[v.State]
}

// Badge returns the class of the state's badge.
func (v view) Badge() string {
	return map[string]string{connected: "enough", blocked: "low", away: "low"}[v.State]
}

func (r *relay) overview(ctx context.Context, site *subscriber.Site) (o overview, err error) {
	o.Broker, o.Streams = r.set.Broker.Shown, []view{}
	rows, err := site.DB.Query(ctx, `select feed, generation, position, messages, date_trunc('milliseconds', confirmed_at) from stream`)
	if err != nil {
		return o, err
	}
	stored := map[string]view{}
	var v view
	if _, err = pgx.ForEachRow(rows, []any{&v.Feed, &v.Generation, &v.Position, &v.Messages, &v.ConfirmedAt}, func() error {
		stored[v.Feed] = v
		v.ConfirmedAt = nil
		return nil
	}); err != nil {
		return o, err
	}
	for _, sub := range site.Subscriber.Status() {
		v := stored[sub.Feed]
		v.Feed, v.Exchange, v.Behind, v.Generation = sub.Feed, sub.Feed, sub.LagEntries, max(v.Generation, 1)
		r.streams[sub.Feed].show(&v, sub.Standby, time.Now())
		o.Streams = append(o.Streams, v)
	}
	return o, nil
}

func (s *stream) show(v *view, elsewhere bool, now time.Time) {
	if v.State = standby; elsewhere {
		return
	}
	trouble := s.trouble(now)
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case s.status.conn == nil:
		v.State = away
	case s.status.blocked != "":
		v.State = blocked
	default:
		v.State = connected
	}
	if trouble != nil {
		text := trouble.Error()
		v.Detail = &text
	}
	v.LastMinute, v.Since, v.PendingSince = s.rate.lastMinute(now), timeOrNull(s.status.since), timeOrNull(s.status.pending)
}

func timeOrNull(t time.Time) *time.Time {
	if t.IsZero() {
		return nil
	}
	t = t.UTC().Truncate(time.Millisecond)
	return &t
}

func (s *stream) collectors() []prometheus.Collector {
	gauge := func(name, help string, value func(status) float64) prometheus.Collector {
		return prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: name, Help: help, ConstLabels: prometheus.Labels{"feed": s.feed}}, func() float64 {
			s.mu.Lock()
			defer s.mu.Unlock()
			return value(s.status)
		})
	}
	truth := map[bool]float64{true: 1}
	return []prometheus.Collector{
		s.sent,
		gauge("relay_connected", "1 while there is a connection to RabbitMQ.", func(at status) float64 { return truth[at.conn != nil] }),
		gauge("relay_blocked", "1 while RabbitMQ takes no message, as when it is low on memory or disk.", func(at status) float64 { return truth[at.blocked != ""] }),
		gauge("relay_unconfirmed_seconds", "How long the current page has waited for confirmation; 0 if there is none.", func(at status) float64 {
			if at.pending.IsZero() {
				return 0
			}
			return time.Since(at.pending).Seconds()
		}),
	}
}
