package publish

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sync/singleflight"

	"github.com/edison-cars/data-feeds/shared/feed"
)

const (
	headInterval   = time.Second     // between two readings of the heads, in addition to notifications
	maxStale       = 2 * time.Second // a head read longer ago than that is not used for answers
	refreshTimeout = 2 * time.Second // for one reading
)

// A Head is the end of a feed: the position and digest of its last entry, 0 if it has none, the number of erasures
// before it, and what was compacted when it was read.
type Head struct {
	Position   int64
	Digest     feed.Digest
	Erasures   int64
	Compaction Compaction
}

// Cursor returns the cursor of the head.
func (h Head) Cursor() feed.Cursor { return feed.At(h.Position, h.Digest) }

// A Snapshot is the end of a feed as this process knows it. It never changes; a newer one replaces it.
type Snapshot struct {
	Head
	// Recent are the entries before the head that this process has just appended, at most 100, oldest first. Most
	// readers ask for no others. They must not be changed.
	Recent []feed.Entry
	// Epoch counts how often everything made from the log had to be dropped: after an erasure, after a compaction, and
	// after the database got another history.
	Epoch int

	moved   chan struct{}
	awaited atomic.Int64 // when somebody last began to wait for the next one, in nanoseconds since 1970

	mu       sync.Mutex
	foreseen []func(next *Snapshot) // called while the next snapshot is being committed
}

// Moved returns a channel that is closed when a newer snapshot has replaced s, as after an append.
func (s *Snapshot) Moved() <-chan struct{} {
	s.awaited.Store(time.Now().UnixNano())
	return s.moved
}

// maxForeseen limits the functions that are called before a commit.
const maxForeseen = 8

// Foresee registers do, to be called with the snapshot that follows s while its commit is under way. The commit may
// still fail.
func (s *Snapshot) Foresee(do func(next *Snapshot)) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.foreseen) < maxForeseen {
		s.foreseen = append(s.foreseen, do)
	}
}

// foresee calls the functions of Foresee while the commit is under way.
func (m *memory) foresee(runs []placed) {
	for i := range runs {
		t, _ := m.remembered(runs[i].feed)
		if t == nil || t.Head != runs[i].from {
			continue
		}
		t.mu.Lock()
		todo := t.foreseen
		t.mu.Unlock()
		if len(todo) == 0 {
			continue
		}
		head := runs[i].head()
		next := &Snapshot{Head: head, Recent: runs[i].behind(slices.Clip(t.Recent)), Epoch: t.Epoch}
		go func() {
			for _, do := range todo {
				do(next)
			}
		}()
	}
}

// A memory is what this process knows about the heads.
type memory struct {
	mu        sync.Mutex
	snapshots map[string]*Snapshot // may be out of date: an append then fails
	epoch     int                  // as in Snapshot
	looked    time.Time            // when the heads were last read
	vouched   time.Time            // when a standby last had them, while the primary did not answer
	looking   singleflight.Group
	standby   bool // the database has a synchronous standby, as of the last reading
	trails    map[string]trail
	losses    map[string]Loss
}

// setSnapshot replaces the snapshot of a feed. m.mu is locked.
func (m *memory) setSnapshot(name string, head Head, recent []feed.Entry) {
	old := m.snapshots[name]
	if old != nil && (old.Erasures != head.Erasures || old.Compaction != head.Compaction) {
		m.epoch++
		recent = nil
	}
	next := &Snapshot{Head: head, Recent: recent, Epoch: m.epoch, moved: make(chan struct{})}
	m.snapshots[name] = next
	m.trails[name] = m.trails[name].add(head.Cursor())
	if old != nil {
		next.awaited.Store(old.awaited.Load()) // a reader that has its answer asks again at once
		close(old.moved)
	}
}

// remember takes over the heads that this process has just committed.
func (m *memory) remember(runs []placed) {
	m.mu.Lock()
	for i := range runs {
		head := runs[i].head()
		if t := m.snapshots[runs[i].feed]; t == nil || head.Position > t.Position { // a later commit may have been faster
			var before []feed.Entry
			if t != nil && t.Head == runs[i].from {
				before = t.Recent
			}
			m.setSnapshot(runs[i].feed, head, runs[i].behind(before))
		}
	}
	m.mu.Unlock()
}

// heads returns the heads, for an append.
func (m *memory) heads() map[string]Head {
	m.mu.Lock()
	defer m.mu.Unlock()
	heads := make(map[string]Head, len(m.snapshots))
	for name, t := range m.snapshots {
		heads[name] = t.Head
	}
	return heads
}

// Snapshot returns the end of the feed from memory, or from the database if the last reading is older than 2 s. If the
// primary does not answer, but a standby has all that this process knows, Snapshot returns that: [Log.Age] says how old
// it is.
func (l *Log) Snapshot(ctx context.Context, name string) (*Snapshot, error) {
	t, fresh := l.remembered(name)
	if t != nil && fresh {
		return t, nil
	}
	looked := l.looking.DoChan("", func() (any, error) {
		ctx := context.WithoutCancel(ctx)
		if l.away.Load() && l.vouch(ctx) { // follow finds out when the primary answers again
			return nil, nil
		}
		looking, cancel := context.WithTimeout(ctx, refreshTimeout)
		defer cancel()
		_, err := l.refresh(looking, l.pool)
		if isAway(err) && l.vouch(ctx) {
			err = nil
		}
		return nil, err
	})
	var err error
	select {
	case <-ctx.Done():
		return nil, ctx.Err()
	case r := <-looked:
		err = r.Err
	}
	switch t, fresh = l.remembered(name); {
	case err != nil && !(t != nil && fresh && errors.Is(err, errUnconfirmed)):
		return nil, fmt.Errorf("read the head of feed %s: %w", name, err)
	case t == nil:
		return nil, noFeed(name)
	}
	return t, nil
}

// Remembered returns the last snapshot of the feed without a query, or nil if there is none.
func (l *Log) Remembered(name string) *Snapshot {
	s, _ := l.remembered(name)
	return s
}

func (m *memory) remembered(name string) (t *Snapshot, fresh bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.snapshots[name], time.Since(m.looked) < maxStale || time.Since(m.vouched) < maxStale
}

// maxRecent is the number of entries of a feed that are kept in memory.
const maxRecent = feed.PageSize

// behind returns the newest entries of before and the run. before ends where the run begins.
func (p *placed) behind(before []feed.Entry) []feed.Entry {
	first := max(len(p.records)-maxRecent, 0)
	recent := before[max(len(before)+len(p.records)-first-maxRecent, 0):]
	for i := first; i < len(p.records); i++ {
		r, position := &p.records[i], p.from.Position+int64(i)+1
		recent = append(recent, feed.Entry{ // append writes only beyond the end of before, which no reader uses
			Position: position, ID: r.ID, Version: r.Version, Updated: r.Updated, Deleted: r.kind == kindDelete, Erased: r.erase, Entity: r.Payload,
			Cursor: feed.At(position, feed.Digest(p.digests[i])),
		})
	}
	return recent
}

func noFeed(name string) error {
	return fmt.Errorf("%w There is no feed %q: a migration makes it by select feed_create('%s'); after a restore, restore all tables of one dump",
		ErrIncomplete, name, name)
}

func sleep(ctx context.Context, d time.Duration) {
	select {
	case <-ctx.Done():
	case <-time.After(d):
	}
}
