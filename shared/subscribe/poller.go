package subscribe

import (
	"context"
	"errors"
	"log/slog"
	"math/rand/v2"
	"net/http"
	"regexp"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/edison-cars/data-feeds/shared/feed"
	"github.com/edison-cars/data-feeds/shared/publish"
	"github.com/edison-cars/data-feeds/shared/web"
)

const (
	dbTimeout     = time.Minute        // for one transaction
	stopTimeout   = 5 * time.Second    // for that which runs at the stop
	readTimeout   = web.RequestTimeout // for the row of a subscription: those who answer a request wait for it
	maxRetryAfter = time.Hour          // the longest that a source can keep a reader away
	maxWait       = 30 * time.Second
	progressEvery = 5 * time.Second // of the log while much is copied
)

// States of a copy.
const (
	Fresh     = "fresh"
	Stale     = "stale"     // two polls that were due have not succeeded: see Schedule.Stale
	Resyncing = "resyncing" // the feed is read anew, while the copy serves as it is
	Diverged  = "diverged"  // the source has another history than the copy, and reading it anew failed
	Paused    = "paused"
)

// A poller keeps the copy of one feed.
type poller struct {
	Feed
	pure     bool // it has Columns: see there
	pool     *pgxpool.Pool
	log      *publish.Log // nil: the service publishes nothing
	client   *feed.Client
	logger   *slog.Logger
	service  string
	shownURL string        // URL without its password
	stream   *stream       // nil: it listens to no stream
	timeout  time.Duration // for a page to be applied, as a whole or in parts
	given    tuning        // by the environment, or the defaults
	metrics  *pollerMetrics
	erasures erasures
	acting   *Current // by which the service acts; nil is none

	passed  atomic.Bool                // the feed's Check has passed an entry
	looked  feed.Cursor                // as far as seeCheck has looked
	witness atomic.Pointer[feed.Entry] // the last one that was applied; nil: none was, since the start

	wake chan struct{} // something is to be done, or to be done otherwise

	reading sync.Mutex // held from when the row is read until it is taken over: an older reading must not come later

	mu          sync.Mutex
	copied      progress // as the database has it
	rejecting   bool     // entries may be rejected: some were when it was read, or since
	allNew      bool     // the copy knew nothing of what was on the last page
	tuned       tuning
	standby     bool               // another process polls
	undecided   bool               // which of them does: this one has just started
	succeeded   bool               // the last poll did
	waits       bool               // the source holds requests that wait, as it did with the last of them
	tried       bool               // there was such a one since the last failure
	failures    int                // in a row
	size        int                // entries that the next request asks for, after a page that could not be had or applied; 0: as many as is set
	unread      int                // entries that the last page was to have that could not be had, or was too much; 0: none is remembered
	sinceUnread int                // pages that were copied since then, or since size has grown
	doubts      map[doubtful]doubt // of pages that were not applied
	lastError   error
	nextPoll    time.Time    // past while one runs
	asked       []chan error // by whom a poll was asked for, each with room for its outcome
	cuts        cuts
	interrupt   context.CancelCauseFunc // of a request that waits; nil: none does
	pace        pace                    // of the poll under way
}

func newPoller(service string, f Feed, client *feed.Client, given tuning, logger *slog.Logger) *poller {
	given.source = "default"
	if f.Columns != nil {
		f.Apply = func(ctx context.Context, tx pgx.Tx, batch *Batch) error {
			return batch.Upsert(ctx, tx, f.Table, f.Columns...)
		}
	}
	return &poller{
		Feed: f, pure: f.Columns != nil, service: service, timeout: dbTimeout, client: client, given: given,
		logger: logger, metrics: newPollerMetrics(f.Name),
		wake: make(chan struct{}, 1), standby: true, undecided: true,
	}
}

// errInterrupted ends a request that waits, when there is something else to do.
var errInterrupted = errors.New("interrupted")

// finishing returns a context for what is to be finished when ctx ends, if that takes no longer than stopTimeout: a commit
// may wait for a synchronous standby that is away.
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

// run polls at once and then on schedule, one poll at a time, until ctx ends.
func (p *poller) run(ctx context.Context) {
	p.setStandby(false)
	p.erasures.reset()
	defer p.setStandby(true)
	defer p.listen(ctx)()
	for ctx.Err() == nil {
		select {
		case <-p.wake: // for what due is about to see
		default:
		}
		p.hear(ctx)
		asked, next := p.due(time.Now())
		if len(asked) == 0 && !next.IsZero() {
			select {
			case <-ctx.Done():
			case <-p.wake:
			case m := <-p.messages():
				p.receive(m)
			case <-time.After(min(time.Until(next), heartbeat)): // it does not know of a clock that is set or a machine that slept
			}
			continue
		}
		err := p.poll(ctx, len(asked) == 0)
		switch {
		case ctx.Err() != nil, errors.Is(err, errInterrupted):
		case errors.Is(err, errCut):
			p.afterCut()
		default:
			p.after(err, time.Now())
			if err != nil {
				p.storeFailing(ctx)
			}
			p.heardOut(err, time.Now())
		}
		for _, outcome := range asked {
			outcome <- err
		}
	}
}

// due gives those who ask for a poll, and when the next is due if nobody does; zero is now. Where the clock was set back,
// what was planned by it as it was before does not count.
func (p *poller) due(now time.Time) (asked []chan error, next time.Time) {
	p.mu.Lock()
	defer p.mu.Unlock()
	asked, p.asked = p.asked, nil
	if soonest := p.tuned.schedule.Next(now); p.failures == 0 && p.nextPoll.After(soonest) {
		p.nextPoll = soonest
	}
	switch {
	case len(asked) > 0:
	case p.copied.paused:
		next = now.Add(time.Hour)
	case p.setBack(now):
	case p.sooner(p.nextPoll).After(now):
		next = p.sooner(p.nextPoll)
	}
	return asked, next
}

func (p *poller) setStandby(standby bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.standby, p.undecided = standby, false
	if standby {
		for _, outcome := range p.asked {
			outcome <- errStandby
		}
		p.asked = nil
		p.lastError, p.failures, p.nextPoll, p.pace = nil, 0, time.Time{}, pace{}
		p.succeeded, p.waits, p.tried, p.cuts = false, false, false, cuts{}
	}
}

var errStandby = errors.New("another process of this service polls")

// pollNow polls at once, and returns how that ended; or errBusy if another poll takes so long that this one has not begun.
func (p *poller) pollNow(ctx context.Context) error {
	outcome := make(chan error, 1)
	p.mu.Lock()
	if p.standby && !p.undecided {
		p.mu.Unlock()
		return errStandby
	}
	p.asked = append(p.asked, outcome)
	p.mu.Unlock()
	p.rouse()
	busy := time.NewTimer(readTimeout)
	defer busy.Stop()
	for {
		select {
		case err := <-outcome:
			return err
		case <-busy.C:
			if p.takeBack(outcome) {
				return errBusy
			}
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

var errBusy = &web.Problem{
	Status: http.StatusServiceUnavailable,
	Detail: "Another poll of this feed is under way. Try again in 5 s.",
	Header: http.Header{"Retry-After": {"5"}},
}

// takeBack reports whether the poll that was asked for has not begun; then it is not asked for any more.
func (p *poller) takeBack(outcome chan error) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	i := slices.Index(p.asked, outcome)
	if i >= 0 {
		p.asked = slices.Delete(p.asked, i, i+1)
	}
	return i >= 0
}

// rouse makes run look what is to be done.
func (p *poller) rouse() {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.interrupt != nil {
		p.interrupt(errInterrupted)
	}
	select {
	case p.wake <- struct{}{}:
	default:
	}
}

// after notes how a poll ended, and when the next is due.
func (p *poller) after(err error, now time.Time) time.Time {
	p.mu.Lock()
	defer p.mu.Unlock()
	was := p.lastError
	p.lastError, p.pace = err, pace{}
	p.metrics.polled(err)
	if err == nil {
		if was != nil {
			p.logger.Info("source answers again", "feed", p.Name, "failures", p.failures)
		}
		p.failures, p.succeeded = 0, true
		p.nextPoll = p.tuned.schedule.Next(now)
		switch forget := p.cuts.last.Add(forgetCuts); {
		case p.wait(now) > 0 && (p.waits || !p.tried):
			p.nextPoll = now
		case p.wait(now) < p.tuned.wait && forget.Before(p.nextPoll):
			p.nextPoll = forget
		}
		return p.nextPoll
	}
	p.failures++
	p.failed(now)
	p.succeeded, p.waits, p.tried = false, false, false
	wait := p.tuned.schedule.backoff(p.failures, now)
	wait = wait/2 + rand.N(wait/2+1)
	if status := new(feed.StatusError); errors.As(err, &status) {
		wait += min(status.RetryAfter, maxRetryAfter) // and not all readers at the same instant
	}
	p.nextPoll = now.Add(wait)
	if was == nil || constant(was) != constant(err) {
		p.logger.Warn("poll failed", "feed", p.Name, "error", err, "next_poll_in", wait.Round(time.Millisecond))
	} else {
		p.logger.Debug("poll failed again", "feed", p.Name, "failures", p.failures, "next_poll_in", wait.Round(time.Millisecond))
	}
	return p.nextPoll
}

// ofRequest matches what the text of an error says of one request alone: the address of this side of the connection, the
// number of the stream, how many entries it asked for.
var ofRequest = regexp.MustCompile(`\S+->|(?:stream ID |LastStreamID=|limit=)\d+`)

// constant returns the text of an error without that, so that an error that comes again is logged once.
func constant(err error) string { return ofRequest.ReplaceAllString(err.Error(), "") }
