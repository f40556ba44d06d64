package subscribe

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/edison-cars/data-feeds/shared/feed"
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

// A poller keeps the copy of one feed: it has the parts do their work in the order of a poll.
type poller struct {
	*target
	state      *state
	requests   *requests
	fetcher    *fetcher
	quarantine *quarantine
	applier    *applier
	resyncer   *resyncer
	stream     *stream // nil: it listens to no stream
	metrics    *pollerMetrics
}

func newPoller(service string, f Feed, client *feed.Client, given tuning, logger *slog.Logger) *poller {
	given.source = "default"
	if f.Columns != nil {
		f.Apply = func(ctx context.Context, tx pgx.Tx, batch *Batch) error {
			return batch.Upsert(ctx, tx, f.Table, f.Columns...)
		}
	}
	t := &target{Feed: f, pure: f.Columns != nil, service: service, logger: logger, timeout: dbTimeout}
	p := &poller{target: t, requests: &requests{wake: make(chan struct{}, 1)}, quarantine: &quarantine{target: t}, metrics: newPollerMetrics(f.Name)}
	p.state = &state{target: t, requests: p.requests, metrics: p.metrics, given: given}
	p.fetcher = &fetcher{target: t, state: p.state, client: client}
	p.applier = &applier{
		target: t, state: p.state, fetcher: p.fetcher, quarantine: p.quarantine, erasures: &erasures{target: t},
		metrics: p.metrics,
	}
	p.resyncer = &resyncer{target: t, state: p.state, fetcher: p.fetcher, applier: p.applier, metrics: p.metrics}
	return p
}

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
	p.state.assume(rolePolling)
	p.applier.erasures.reset()
	defer p.state.assume(roleStandby)
	defer p.stream.listen(ctx)()
	for ctx.Err() == nil {
		select {
		case <-p.requests.wake: // for what due is about to see
		default:
		}
		p.stream.hear(ctx)
		asked, next := p.requests.take(), p.state.due(time.Now(), p.stream.wants())
		if len(asked) == 0 && !next.IsZero() {
			select {
			case <-ctx.Done():
			case <-p.requests.wake:
			case m := <-p.stream.messages():
				p.stream.receive(m)
			case <-time.After(min(time.Until(next), heartbeat)): // it does not know of a clock that is set or a machine that slept
			}
			continue
		}
		err := p.poll(ctx, len(asked) == 0)
		switch {
		case ctx.Err() != nil, errors.Is(err, errInterrupted):
		case errors.Is(err, errCut):
			p.state.afterCut()
		default:
			p.state.after(err, time.Now())
			if err != nil {
				p.state.storeFailing(ctx)
			}
			p.stream.heardOut(err, time.Now())
		}
		for _, outcome := range asked {
			outcome <- err
		}
	}
}

// poll copies until the copy is up to date. Each page is applied in a transaction of its own together with the cursor behind
// it, so that it can be broken off anywhere. Where the source has another history, a walk begins. A poll that somebody asked
// for, unlike one on schedule, does not wait at the source, and minds no pause.
func (p *poller) poll(ctx context.Context, scheduled bool) error {
	at, err := p.state.begin(ctx, scheduled)
	if err == nil {
		err = p.state.mayGoOn(ctx, scheduled) // a pause that load takes over rouses nobody
	}
	if err == nil && p.Past && at.past == nil {
		err = p.seePast(ctx)
	}
	if err == nil {
		err = p.applier.eraseAgain(ctx)
	}
	if err != nil {
		return err
	}
	if !at.resync.underWay {
		err = p.copyPages(ctx, at, scheduled)
		gone, diverged := errors.AsType[*feed.StatusError](err)
		switch {
		case diverged && errors.Is(err, feed.ErrDiverged):
			err = p.resyncer.beginWalk(ctx, "The source has another history than the copy had.", gone)
		case !errors.Is(err, errFenced):
			return err
		}
		loaded, loadErr := p.state.load(ctx)
		if loadErr != nil || !loaded.resync.underWay { // else somebody asked for a walk in the middle
			return errors.Join(err, loadErr)
		}
		at = loaded
	}
	return p.resyncer.walkOn(ctx, at, scheduled)
}

// seePast notes where the feed ends, before anything of it is copied.
func (p *poller) seePast(ctx context.Context) error {
	head, err := p.fetcher.client.Head(ctx, p.URL)
	if err == nil {
		ctx, cancel := context.WithTimeout(ctx, dbTimeout)
		defer cancel()
		_, err = p.pool.Exec(ctx, `update subscription set past = $3 where service = $1 and feed = $2 and past is null`,
			p.service, p.Name, head.Position)
	}
	return err
}

// copyPages copies. A page that is too much for Apply is followed at once by a smaller one. A page that could not be applied is followed by a smaller one; by a larger one where all was
// refused, since others on it may pass.
func (p *poller) copyPages(ctx context.Context, at progress, scheduled bool) error {
	err := p.tryPages(ctx, at, scheduled)
	if p.quarantine.seeCheck(ctx, p.fetcher, at, err) || p.quarantine.seeWitness(ctx, p.fetcher.client, err) {
		if at, err = p.state.load(ctx); err == nil {
			err = p.tryPages(ctx, at, scheduled)
		}
	}
	page, failed := errors.AsType[*pageError](err)
	for failed && page.entries > 1 && errors.Is(err, ErrTooMuch) {
		p.fetcher.halve(int(page.entries))
		if at, err = p.state.load(ctx); err == nil {
			err = p.tryPages(ctx, at, scheduled)
		}
		page, failed = errors.AsType[*pageError](err)
	}
	_, refused := errors.AsType[*refusedError](err)
	p.fetcher.resize(func(size *pageSize, set int) {
		switch {
		case err == nil:
			size.size, size.unread = 0, 0
		case refused:
			size.size = min(2*max(size.size, set), feed.MaxPageSize)
		case failed && !errors.Is(err, errFenced):
			size.size = max(int(page.entries/2), 1)
		}
	})
	return err
}

func (p *poller) tryPages(ctx context.Context, at progress, scheduled bool) error {
	r := feed.Request{URL: p.URL, After: at.cursor, Limit: p.fetcher.limit()}
	if at.etagURL == p.fetcher.shownPage(r) && p.state.fails() == 0 { // it may be the ETag at which the source fails
		r.ETag = at.etag
	}
	waiting := ctx
	if wait := p.state.mayWait(); scheduled && wait > 0 {
		r.Wait = wait
		var interrupt context.CancelCauseFunc
		waiting, interrupt = context.WithCancelCause(ctx)
		defer interrupt(nil)
		p.requests.setInterrupt(interrupt)
		defer p.requests.setInterrupt(nil)
	}
	began := time.Now()
	fetching, stop := context.WithCancel(waiting)
	defer stop()
	so := pace{began: began, said: began}
	turns := turns{most: p.applier.mostTurns()}
	defer func() { _ = turns.wait(0) }() // of which the first error is known by then
	var err error
	for f := range p.fetcher.fetch(fetching, r, p.fetcher.limit) {
		p.requests.setInterrupt(nil) // what follows is work
		if f.err != nil || p.state.mayGoOn(ctx, scheduled) != nil {
			if err = f.err; err != nil && waiting.Err() == nil {
				err = p.state.broke(f, time.Since(began), time.Now())
			}
			break
		}
		p.state.heard(f, time.Since(began))
		to := p.fetcher.behind(at, f, time.Since(began), time.Now())
		if err := p.applier.applyPage(ctx, &turns, f.Page, at, to); err != nil {
			return err
		}
		p.state.copying(&so, f.Page, to)
		at = to
		if f.Page == nil || f.Page.UpToDate {
			return nil
		}
	}
	if err := turns.wait(0); err != nil {
		return err
	}
	return cmp.Or(p.state.mayGoOn(ctx, scheduled), context.Cause(waiting), err)
}

// resync makes the feed be read anew. A walk that is under way goes on: it does the same.
func (p *poller) resync(ctx context.Context) error {
	if err := p.state.refresh(ctx); err != nil {
		return fmt.Errorf("read the subscription to %s: %w", p.Name, err)
	}
	if p.state.current().resync.underWay {
		return nil
	}
	if err := p.resyncer.beginWalk(ctx, "Asked for by hand.", nil); err != nil {
		return err
	}
	return p.state.refresh(ctx)
}
