package subscribe

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/edison-cars/data-feeds/shared/feed"
	"github.com/edison-cars/data-feeds/shared/feedclient"
)

const (
	pageTimeout = time.Second // the time for the rest of a page that has begun to arrive by the stream
	askInterval = time.Second // the shortest time between a poll and one because of the stream
)

// A Stream brings new entries of a feed as soon as they are published, such as a queue of a message broker.
type Stream interface {
	// Listen sends messages to the subscriber until ctx ends. It reconnects by itself.
	Listen(ctx context.Context, messages chan<- Message)
	// Connection returns the state of the connection.
	Connection() Connection
}

// A Message is an entry that came by a stream.
type Message struct {
	feed.Entry              // its Cursor is zero if it is not known
	After       feed.Cursor // the place where the entry's page starts
	Generation  int64       // of the stream; another one if the feed is sent again from its first entry
	Err         error       // why there is no entry; then all else but Acknowledge is zero
	Acknowledge func()      // acknowledges this message and all before it over the same connection; nil if that is not needed
}

// Ends reports whether a page ends with this entry. Then its Cursor is known.
func (m *Message) Ends() bool { return m.Cursor.Position == m.Position }

// A Connection is the state of a [Stream].
type Connection struct {
	Listening bool
	Since     time.Time // when that state began
	Err       error     // why the connection ended; nil means that it has not
}

// streamBuffer is the number of messages that wait to be applied: the most entries of a page.
const streamBuffer = feed.MaxPageSize

// A stream brings new entries by an event stream, sooner than polls do. The feed stays the truth. Messages that follow
// the copy's cursor without a gap, page by page, are applied like pages of the feed. After any other message the
// subscriber polls, and until that poll succeeds no message counts. So whatever a message says, and whether it comes at
// all, the copy is what polls alone would make it.
type stream struct {
	*target
	state   *state
	applier *applier
	fetcher *fetcher

	from    Stream
	arrived chan Message

	// Used only by the goroutine that polls:
	pending    []Message // they follow the copy's cursor without a gap
	since      time.Time // when the first of pending came
	last       *Message  // the last message taken and not acknowledged; nil means none
	generation int64     // of the last message; 0 means that there was none
	adrift     bool      // messages do not count until a poll has succeeded
	polled     time.Time // when the last poll succeeded
	askAt      time.Time // when to poll because of the stream; zero means that there is no reason to

	counts streamCounts
}

func (p *poller) newStream(from Stream) *stream {
	return &stream{target: p.target, state: p.state, applier: p.applier, fetcher: p.fetcher, from: from}
}

// streamCounts are counted since this process polls.
type streamCounts struct {
	mu   sync.Mutex
	had  int64     // messages
	at   time.Time // of the last message; zero means that there was none
	gaps int64     // how often messages did not follow the copy's cursor
}

// listen receives messages until stop is called.
func (l *stream) listen(ctx context.Context) (stop func()) {
	if l == nil {
		return func() {}
	}
	l.arrived = make(chan Message, streamBuffer)
	l.pending, l.last, l.generation, l.askAt = nil, nil, 0, time.Time{}
	l.adrift = true // history comes by the feed first
	ctx, cancel := context.WithCancel(ctx)
	var listening sync.WaitGroup
	listening.Go(func() { l.from.Listen(ctx, l.arrived) })
	return func() {
		cancel()
		listening.Wait()
	}
}

// messages returns the channel of messages, or nil if there is no stream.
func (l *stream) messages() <-chan Message {
	if l == nil {
		return nil
	}
	return l.arrived
}

// applyArrived applies the messages that have arrived, as far as they are whole pages.
func (l *stream) applyArrived(ctx context.Context) {
	if l == nil {
		return
	}
	for len(l.arrived) > 0 {
		l.receive(<-l.arrived)
	}
	var done *Message // the last message of what was applied
	at := l.state.current()
	l.trim(at)
	if n := l.whole(); n > 0 {
		if err := l.applyHeard(ctx, at, l.pending[:n]); err != nil {
			l.drift(err)
		} else {
			done, l.pending, l.since = &l.pending[n-1], l.pending[n:], time.Now()
		}
	}
	if !l.adrift {
		l.askAt = time.Time{}
	}
	if len(l.pending) > 0 {
		l.ask(l.since.Add(pageTimeout))
	} else {
		done, l.last = l.last, nil
	}
	if done != nil && done.Acknowledge != nil { // once, since a broker refuses a second acknowledgement
		done.Acknowledge()
	}
}

// receive adds a message to pending, if it continues what is there or the copy.
func (l *stream) receive(m Message) {
	at := l.state.current()
	l.last = &m
	l.count()
	l.trim(at)
	again := m.Err == nil && l.generation != 0 && m.Generation != l.generation
	if m.Err == nil {
		l.generation = m.Generation
	}
	i := int(m.Position - at.cursor.Position - 1) // its place in pending
	switch {
	case at.paused || at.resync.underWay:
		l.adrift, l.pending = true, nil
		l.ask(time.Now()) // when the poll under way has ended
	case l.adrift:
	case m.Err != nil:
		l.drift(m.Err)
	case again:
		l.drift(errors.New("the stream begins over"))
	case i < 0: // the copy has the entry
	case m.Superseded: // it does not say up to where the feed is compacted
		l.drift(errors.New("an entry is superseded"))
	case i > len(l.pending), i > 0 && !goesOn(&l.pending[i-1], &m):
		l.drift(fmt.Errorf("nothing leads to entry %d", m.Position))
	default:
		if len(l.pending) == 0 {
			l.since = time.Now()
		}
		l.pending = append(l.pending[:i], m) // the later message counts
	}
}

// goesOn reports whether the message is the next one on the page of the one before, or the first one of the next page.
func goesOn(before, m *Message) bool {
	if before.Ends() {
		return m.After == before.Cursor
	}
	return m.After == before.After
}

// trim removes from pending what the copy has.
func (l *stream) trim(at progress) {
	for len(l.pending) > 0 && l.pending[0].Position <= at.cursor.Position {
		l.pending = l.pending[1:]
	}
	if len(l.pending) > 0 && l.pending[0].Position != at.cursor.Position+1 { // the copy has changed otherwise
		l.pending = nil
	}
}

// whole returns the number of messages up to the end of the last whole page.
func (l *stream) whole() int {
	n := len(l.pending)
	for n > 0 && !l.pending[n-1].Ends() {
		n--
	}
	return n
}

// drift ignores messages until a poll has succeeded.
func (l *stream) drift(why error) {
	l.adrift, l.pending = true, nil
	l.ask(time.Now())
	l.counts.mu.Lock()
	l.counts.gaps++
	l.counts.mu.Unlock()
	l.logger.Info("the stream does not go on where the copy is: asking the feed", "feed", l.Name, "reason", why)
}

func (l *stream) ask(at time.Time) {
	if soonest := l.polled.Add(askInterval); at.Before(soonest) {
		at = soonest
	}
	if l.askAt.IsZero() || at.Before(l.askAt) {
		l.askAt = at
	}
}

// wants returns when to poll because of the stream, or zero.
func (l *stream) wants() time.Time {
	if l == nil {
		return time.Time{}
	}
	return l.askAt
}

// pollEnded notes how a poll ended.
func (l *stream) pollEnded(err error, now time.Time) {
	if l != nil {
		l.polled, l.askAt = now, time.Time{}
		if err == nil {
			l.adrift, l.pending = false, nil
		}
	}
}

// applyHeard applies messages that end where a page does, as one page.
func (l *stream) applyHeard(ctx context.Context, at progress, messages []Message) error {
	if len(l.Needs) > 0 && slices.ContainsFunc(messages, l.breaksContract) {
		return errors.New("an entry breaks the contract: the feed tells whether its source has another schema now")
	}
	last := messages[len(messages)-1]
	page := &feed.Page{Cursor: last.Cursor, UpToDate: true, Head: last.Cursor}
	for _, m := range messages {
		page.Entries = append(page.Entries, m.Entry)
	}
	if messages[0].After != at.cursor {
		if err := l.confirm(ctx, at.cursor, page.Entries[0]); err != nil {
			return err
		}
	}
	to := at
	to.place, to.etag, to.etagURL, to.headPosition = placeAfter(page), "", "", max(at.headPosition, page.Cursor.Position)
	if written := last.Updated.Truncate(time.Millisecond); written.After(believed(at.asOf, time.Now())) && written.Before(time.Now()) {
		to.asOf = written // all that the source had published by then is in the copy
	}
	l.state.endsAt(to.headPosition)
	if err := l.applier.applyPage(ctx, new(turns), page, at, to); err != nil {
		return err
	}
	l.state.copying(new(pace), page, to)
	return nil
}

func (l *stream) breaksContract(m Message) bool { return l.Check != nil && l.Check(m.Entry) != nil }

// confirm asks the source whether the entry follows the cursor. A page that starts before the cursor does not show
// that: it may be of another history that begins like the copy's.
func (l *stream) confirm(ctx context.Context, cursor feed.Cursor, e feed.Entry) error {
	answer, err := l.fetcher.client.Get(ctx, feedclient.Request{URL: l.URL, After: cursor, Limit: 1})
	if err != nil {
		return err
	}
	if of := answer.Page.Entries; len(of) != 1 || malformed(of[0]) || !sameEntry(of[0], e) {
		return fmt.Errorf("the feed has something else than the stream after %s", cursor)
	}
	return nil
}

// sameEntry reports whether a and b are the same entry. An entry is published once, so its content is the same, too.
func sameEntry(a, b feed.Entry) bool {
	return a.ID == b.ID && a.Position == b.Position && a.Version == b.Version && a.Updated.Equal(b.Updated) && a.Deleted == b.Deleted
}

func (l *stream) count() {
	l.counts.mu.Lock()
	defer l.counts.mu.Unlock()
	l.counts.had, l.counts.at = l.counts.had+1, time.Now()
}

// A StreamStatus is the state of a feed's stream. Counts begin when this process begins to poll.
type StreamStatus struct {
	State         string     `json:"state"`           // "listening", "down" or, while this process does not poll, "standby"
	Since         *time.Time `json:"since"`           // when that state began; null on standby
	LastError     *string    `json:"last_error"`      // why it is down, or null
	Messages      int64      `json:"messages"`        // that came
	LastMessageAt *time.Time `json:"last_message_at"` // null: none did
	Gaps          int64      `json:"gaps"`            // how often the feed was polled since messages did not follow the copy's cursor
}

// States of a stream.
const (
	Listening = "listening"
	Down      = "down"
	Standby   = "standby"
)

func (l *stream) status(standby bool) *StreamStatus {
	if l == nil {
		return nil
	}
	l.counts.mu.Lock()
	defer l.counts.mu.Unlock()
	s := &StreamStatus{State: Standby, Messages: l.counts.had, LastMessageAt: timeOrNull(l.counts.at.UTC().Truncate(time.Millisecond)), Gaps: l.counts.gaps}
	if standby {
		return s
	}
	q := l.from.Connection()
	s.Since = timeOrNull(q.Since.UTC().Truncate(time.Millisecond))
	if s.State = Down; q.Listening {
		s.State = Listening
	} else if q.Err != nil {
		text := q.Err.Error()
		s.LastError = &text
	}
	return s
}
