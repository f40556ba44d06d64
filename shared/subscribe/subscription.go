package subscribe

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/google/uuid"

	"github.com/edison-cars/data-feeds/shared/publish"
)

// A Subscription shows and controls at run time how one feed is copied. Every process of the subscriber may use it.
type Subscription struct{ p *poller }

// Status returns how the copy is.
func (s *Subscription) Status() Status { return s.p.status(time.Now().UTC()) }

// Errors of [Subscription].
var (
	ErrStandby     = errors.New("another process of this service polls")
	ErrBusy        = errors.New("another poll of this feed is under way")
	ErrNotRejected = errors.New("no version of this entity is rejected")
	ErrApplying    = errors.New("entries of this feed are being applied")
	ErrUnknown     = publish.ErrUnknown // the database did not confirm a change in time: it may still take effect
)

// Causes of a [PollError], by [errors.Is], beside what a source does.
var (
	ErrApply = errors.New("a page cannot be applied")
	// ErrIncomplete means that the source's schema lacks one of Feed.Needs, or that Feed.Complete has refused an entry.
	ErrIncomplete = errors.New("the source has not published all that the copy needs")
	ErrEntries    = errors.New("a page cannot be passed on") // by Feed.Entries
)

// A PollError is the error of a poll that began and failed, unlike the error of a poll that did not begin.
type PollError struct{ Err error }

func (e *PollError) Error() string { return e.Err.Error() }
func (e *PollError) Unwrap() error { return e.Err }

// Poll polls now until the copy is up to date, even if the subscription is paused or the source is failing. It returns
// a [*PollError] if the poll fails, [ErrBusy] if another poll takes longer than 8 s, [ErrStandby] if another process
// polls, and [context.Canceled] if this process stopped polling.
func (s *Subscription) Poll(ctx context.Context) error {
	if err := s.p.row.refresh(ctx); err != nil { // else it would wait for a database that is down
		return err
	}
	if err := s.p.requests.pollNow(ctx); err != nil {
		return err
	}
	return s.p.row.refresh(ctx) // it may have rejected entries
}

// Polls returns the last polls of the feed, the newest first, at most [PollsKept]. A process that does not poll reads them
// from the database, where they are some seconds late.
func (s *Subscription) Polls(ctx context.Context) ([]Poll, error) {
	if s.p.requests.polls() {
		return s.p.history.list(), nil
	}
	list, err := s.p.history.stored(ctx)
	if err != nil {
		return nil, fmt.Errorf("read the last polls of %s: %w", s.p.Name, err)
	}
	return list, nil
}

// Preview returns what settings would cost and bring, and changes nothing. It returns a [*TuneError] if the request is
// not valid.
func (s *Subscription) Preview(to TuneRequest, polls []Poll) (Preview, error) {
	setting, err := s.p.row.parse(to)
	if err != nil {
		return Preview{}, err
	}
	return s.p.state.preview(setting, polls, time.Now()), nil
}

// PreviewReset returns what the settings of [Options] and [Feed] would cost and bring.
func (s *Subscription) PreviewReset(polls []Poll) Preview {
	return s.p.state.preview(setting{}, polls, time.Now())
}

// Pause stops polling, also in other processes and after a restart. The copy serves on.
func (s *Subscription) Pause(ctx context.Context) error { return s.p.row.set(ctx, `paused = true`) }

// Resume ends a pause.
func (s *Subscription) Resume(ctx context.Context) error { return s.p.row.set(ctx, `paused = false`) }

// Resync begins to read the feed again from its start, while the copy serves as it is. A resync that is under way goes
// on.
func (s *Subscription) Resync(ctx context.Context) error { return s.p.resync(ctx) }

// Tune changes the settings by which the feed is polled. They apply at once in all processes, and after a restart. Tune
// returns a [*TuneError], and changes nothing, if the request is not valid.
func (s *Subscription) Tune(ctx context.Context, to TuneRequest) error {
	return s.p.row.tune(ctx, to, time.Now())
}

// ResetTuning has the feed polled again as [Options] and [Feed] say.
func (s *Subscription) ResetTuning(ctx context.Context) error {
	return s.p.row.untune(ctx, time.Now())
}

// Rejected returns at most limit rejected entries, in the order of the feed, that come after the given position and
// entity, and fewer if they have more than 4 MiB together. Position -1 is before the first one.
func (s *Subscription) Rejected(ctx context.Context, position int64, entity uuid.UUID, limit int) ([]RejectedEntry, error) {
	list, err := s.p.quarantine.rejectedEntries(ctx, position, entity, limit)
	if err != nil {
		return nil, fmt.Errorf("read the rejected entries of %s: %w", s.p.Name, err)
	}
	return list, nil
}

// RejectedEntity returns the rejected entries of an entity, in the order of the feed: two at most.
func (s *Subscription) RejectedEntity(ctx context.Context, entity uuid.UUID) ([]RejectedEntry, error) {
	list, err := s.p.quarantine.rejectedEntry(ctx, entity)
	if err != nil {
		return nil, fmt.Errorf("read the rejected entries of %s: %w", entity, err)
	}
	return list, nil
}

// Retry applies the rejected entries of an entity again, and returns how many were applied and how many were refused
// again. It returns [ErrNotRejected], [ErrApplying] or, if none is applied, a [*RetryError].
func (s *Subscription) Retry(ctx context.Context, entity uuid.UUID) (applied, refused int, err error) {
	applied, bad, err := s.p.quarantine.retry(ctx, entity)
	if err == nil && applied == 0 {
		err = &RetryError{whole(bad[0].reason)}
	}
	return applied, len(bad), errors.Join(err, s.p.row.refresh(ctx))
}

// RetryAll applies all rejected entries again, those of each entity in a transaction, in the order of the feed. It returns
// how many were applied and how many were refused again. It stops at any other error, such as [ErrApplying].
func (s *Subscription) RetryAll(ctx context.Context) (applied, refused int, err error) {
	tried := map[uuid.UUID]bool{}
	for last := (RejectedEntry{Position: -1}); ; {
		list, err := s.Rejected(ctx, last.Position, last.EntityID, 1)
		if err != nil {
			return 0, 0, err
		}
		if len(list) == 0 {
			return applied, refused, s.p.row.refresh(ctx)
		}
		if last = list[0]; tried[last.EntityID] {
			continue
		}
		tried[last.EntityID] = true
		n, bad, err := s.p.quarantine.retry(ctx, last.EntityID)
		_, ended := errors.AsType[*sessionError](err)
		switch {
		case errors.Is(err, ErrNotRejected): // applied or dropped in the meantime
		case ended:
			refused++
		case err != nil:
			return 0, 0, err
		}
		applied, refused = applied+n, refused+len(bad)
	}
}

// Drop forgets a rejected version of an entity, or all of them if version is 0. The next version is applied; if the row of the copy would keep it out,
// as a later version of a lost history, that is deleted. Drop returns [ErrNotRejected], [ErrApplying] or, if the
// deletion is refused, a [*RetryError].
func (s *Subscription) Drop(ctx context.Context, entity uuid.UUID, version int64) error {
	if err := s.p.quarantine.drop(ctx, entity, version); err != nil {
		return err
	}
	return s.p.row.refresh(ctx)
}
