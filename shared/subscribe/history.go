package subscribe

import (
	"context"
	"errors"
	"slices"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"
)

// PollsKept is the number of polls of a feed that are kept.
const PollsKept = 100

// Outcomes of a poll.
const (
	PollNotModified = "not_modified" // the source had nothing new (304)
	PollEntries     = "entries"      // the source sent a page; it may be empty
	PollFailed      = "failed"
	PollCut         = "cut" // something on the way cut the request off while it waited
)

// A Poll is how one poll of a feed went. It has nothing of the entries.
type Poll struct {
	StartedAt time.Time `json:"started_at"`
	Seconds   float64   `json:"seconds"` // with the time for which the request waited at the source
	Outcome   string    `json:"outcome"`
	Requests  int       `json:"requests"`
	Entries   int       `json:"entries"` // that the source sent
	Bytes     int64     `json:"bytes"`   // of its answers, compressed
	Error     *string   `json:"error"`   // in words; null: it succeeded
}

// saveEvery is how often the polls are stored: one statement for all since then, however many there are.
const saveEvery = 10 * time.Second

// A history has the last polls of a feed. The process that polls keeps them in memory, so that they are known while the
// database is down, and stores them for the next process, without waiting for the disk.
type history struct {
	*target

	mu      sync.Mutex
	polls   []Poll // the oldest first
	unsaved int    // so many of the last are not stored
	saved   time.Time
}

// note adds a poll that began at the given time. It leaves out one that was interrupted before the source answered.
func (h *history) note(began, now time.Time, got received, err error) {
	p := Poll{
		StartedAt: began.UTC().Truncate(time.Millisecond), Seconds: max(now.Sub(began), 0).Round(time.Millisecond).Seconds(),
		Outcome: PollNotModified, Requests: got.requests, Entries: got.entries, Bytes: got.bytes,
	}
	if got.pages > 0 {
		p.Outcome = PollEntries
	}
	interrupted := errors.Is(err, errInterrupted) || errors.Is(err, context.Canceled)
	switch {
	case interrupted && got.entries == 0:
		return
	case errors.Is(err, errCut):
		p.Outcome = PollCut
	case err != nil && !interrupted:
		words := InWords(err)
		p.Outcome, p.Error = PollFailed, &words
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	h.polls = append(h.polls, p)
	h.polls = h.polls[max(len(h.polls)-PollsKept, 0):]
	h.unsaved = min(h.unsaved+1, PollsKept)
}

// list returns the polls that are in memory, the newest first.
func (h *history) list() []Poll {
	h.mu.Lock()
	defer h.mu.Unlock()
	list := append([]Poll{}, h.polls...) // in JSON, an empty list
	slices.Reverse(list)
	return list
}

// stored returns the polls that are in the database, the newest first.
func (h *history) stored(ctx context.Context) ([]Poll, error) {
	ctx, cancel := context.WithTimeout(ctx, heartbeatWait)
	defer cancel()
	rows, err := h.pool.Query(ctx, `
		select started_at, seconds, outcome, requests, entries, bytes, error from poll
		 where service = $1 and feed = $2 order by id desc limit $3`, h.service, h.Name, PollsKept)
	if err != nil {
		return nil, err
	}
	return pgx.CollectRows(rows, func(row pgx.CollectableRow) (p Poll, err error) {
		err = row.Scan(&p.StartedAt, &p.Seconds, &p.Outcome, &p.Requests, &p.Entries, &p.Bytes, &p.Error)
		p.StartedAt = p.StartedAt.UTC()
		return p, err
	})
}

// load takes over the polls of the process that polled before.
func (h *history) load(ctx context.Context) {
	stored, err := h.stored(ctx)
	if err != nil {
		h.logger.DebugContext(ctx, "last polls not read", "feed", h.Name, "error", err)
		return
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	fresh := h.polls[len(h.polls)-h.unsaved:]
	stored = stored[:min(len(stored), PollsKept-len(fresh))]
	slices.Reverse(stored)
	h.polls = slices.Concat(stored, fresh)
}

// save stores the polls that are not, and removes older ones. It does nothing if it did so a moment ago, unless it is
// the end. Only the goroutine that calls note may call it.
func (h *history) save(ctx context.Context, now time.Time, end bool) {
	h.mu.Lock()
	n := h.unsaved
	if n == 0 || !end && now.Sub(h.saved).Abs() < saveEvery {
		h.mu.Unlock()
		return
	}
	polls := slices.Clone(h.polls[len(h.polls)-n:])
	h.saved = now
	h.mu.Unlock()
	if err := h.store(ctx, polls); err != nil {
		h.logger.DebugContext(ctx, "last polls not stored", "feed", h.Name, "error", err)
		return // the next save has them, too
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	h.unsaved -= n
}

func (h *history) store(ctx context.Context, polls []Poll) error {
	ctx, cancel := context.WithTimeout(ctx, time.Second)
	defer cancel()
	return inTx(ctx, h.pool, func(b *pgx.Batch) {
		b.Queue(`set local synchronous_commit to off`)
		b.Queue(`
			delete from poll where service = $1 and feed = $2
			   and id <= (select id from poll where service = $1 and feed = $2 order by id desc offset $3 limit 1)`,
			h.service, h.Name, PollsKept-len(polls))
		for _, p := range polls {
			b.Queue(`
				insert into poll (service, feed, started_at, seconds, outcome, requests, entries, bytes, error)
				values ($1, $2, $3, $4, $5, $6, $7, $8, $9)`,
				h.service, h.Name, p.StartedAt, p.Seconds, p.Outcome, p.Requests, p.Entries, p.Bytes, p.Error)
		}
	}, func(pgx.Tx) error { return nil })
}
