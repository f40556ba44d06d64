package subscribe

import (
	"cmp"
	"context"
	"fmt"
	"net/url"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/edison-cars/data-feeds/shared/feedclient"
)

const (
	dbTimeout     = time.Minute     // of one transaction
	stopTimeout   = 5 * time.Second // for what still runs when the subscriber stops
	readTimeout   = 8 * time.Second // to read the row of a subscription, for which requests wait
	maxRetryAfter = time.Hour       // the longest time for which a source can keep this reader away
	maxWait       = 30 * time.Second
	progressEvery = 5 * time.Second // between log lines while much is copied
)

// A poller keeps the copy of one feed. It calls its parts in the order of a poll.
type poller struct {
	*target
	row        *row
	state      *state
	requests   *requests
	fetcher    *fetcher
	quarantine *quarantine
	applier    *applier
	resyncer   *resyncer
	stream     *stream // nil means that no stream is configured
	metrics    *pollerMetrics
	history    *history
}

func newPoller(pool *pgxpool.Pool, options Options, f Feed) (*poller, error) {
	f.URL = strings.TrimSuffix(f.URL, "/")
	if err := CheckURL(f.URL); err != nil {
		return nil, fmt.Errorf("its URL %w", err)
	}
	if err := CheckSource(f.Source); err != nil {
		return nil, err
	}
	name := subscriptionName(f.Name, f.Source)
	u, _ := url.Parse(f.URL) // CheckURL has checked it
	if err := options.PlainHosts.Check(u, options.Token != "", "PlainHosts"); err != nil {
		return nil, err
	}
	pure := f.Columns != nil && f.Apply == nil
	if pure {
		f.Apply = func(ctx context.Context, tx pgx.Tx, batch *Batch) error {
			return batch.Upsert(ctx, tx, f.Table, f.Columns...)
		}
	}
	t := &target{
		Feed: f, feed: f.Name, owned: f.Source != "" && f.Apply != nil, pure: pure, replays: f.Entries != nil, service: options.Name,
		shownURL: feedclient.ShownURL(u), pool: pool, log: options.Log,
		logger: options.Logger, timeout: dbTimeout, acting: options.Current,
	}
	t.Name = name
	given := tuning{wait: options.Wait, pageSize: options.PageSize, source: cmp.Or(f.ScheduleSource, "default")}
	var err error
	if given.schedule, err = ParseSchedule(f.Schedule, t.key()); err != nil {
		return nil, err
	}
	p := &poller{target: t, requests: &requests{wake: make(chan struct{}, 1)}, quarantine: &quarantine{target: t}, metrics: newPollerMetrics(t.Name), history: &history{target: t}}
	p.state = &state{target: t, requests: p.requests, metrics: p.metrics, given: given, tuned: given, changed: make(chan struct{})}
	p.row = &row{target: t, state: p.state}
	p.fetcher = &fetcher{target: t, state: p.state, client: feedclient.New(options.Token)}
	p.applier = &applier{
		target: t, state: p.state, fetcher: p.fetcher, quarantine: p.quarantine, erasures: &erasures{target: t},
		metrics: p.metrics,
	}
	p.resyncer = &resyncer{target: t, row: p.row, state: p.state, fetcher: p.fetcher, applier: p.applier, metrics: p.metrics}
	if f.Stream != nil {
		p.stream = p.newStream(f.Stream)
	}
	return p, nil
}

// finishing returns a context that ends stopTimeout after ctx. A commit may wait longer than that for a synchronous
// standby that is down.
func finishing(ctx context.Context) (context.Context, context.CancelFunc) {
	going, cancel := context.WithCancel(context.WithoutCancel(ctx))
	forget := context.AfterFunc(ctx, func() {
		select {
		case <-going.Done():
		case <-time.After(stopTimeout):
			cancel()
		}
	})
	return going, func() {
		forget()
		cancel()
	}
}

// seePast stores where the feed ends, before any of it is copied.
func (p *poller) seePast(ctx context.Context) error {
	head, err := p.fetcher.client.Head(ctx, p.URL)
	if err == nil {
		ctx, cancel := context.WithTimeout(ctx, dbTimeout)
		defer cancel()
		err = p.exec(ctx, `update subscription set past = $3 where service = $1 and feed = $2 and past is null`,
			p.service, p.Name, head.Position)
	}
	return err
}

// resync begins a resync of the whole feed, unless one is under way.
func (p *poller) resync(ctx context.Context) error {
	if err := p.row.refresh(ctx); err != nil {
		return fmt.Errorf("read the subscription to %s: %w", p.Name, err)
	}
	if under := p.state.current().resync; under.underWay && under.lost.IsStart() {
		return nil
	}
	if err := p.resyncer.begin(ctx, "Asked for by hand.", nil); err != nil {
		return err
	}
	return p.row.refresh(ctx)
}
