package publish

import (
	"bytes"
	"errors"
	"fmt"
	"hash/maphash"
	"io"
	"net/url"
	"os"
	"regexp"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/google/uuid"
)

// ErrNotListed is wrapped if an erasure was refused because its id could not be written to the list of erased ids.
// Nothing has happened.
var ErrNotListed = errors.New("the list of erased ids cannot be written")

const (
	listLockTimeout = 2 * time.Second // for another process that has locked the list
	listTail        = 512             // bytes from the end in which the last line is searched first
	ofLog           = "# Of the log " // and its id, on a line
	listHead        = `# Ids that were erased from feeds: time, feed, id. They are erased again where a restored dump brings them back.
# Only ever add to this file, and never restore an older state of it.
`
)

// An erasedList is a file outside the database, with a line for each erased id. Several processes may append to it at
// once. It only grows, so its length shows whether it has something new, unless a person has changed it.
type erasedList struct {
	path string
	seen atomic.Pointer[os.FileInfo] // of the file as last applied, and with what this process has appended; nil means never

	mu          sync.Mutex        // also held while this process appends
	ids         map[erasedID]bool // without line numbers, as last read
	idsAre      os.FileInfo       // of the file that has them; nil means never read
	known       prefix            // of the list, when it was last read
	uncommitted []*uncommitted
}

// An uncommitted is what this process has appended for a transaction that is being committed. Until the commit, what
// the list says of it does not count.
type uncommitted struct {
	from    int64 // the length of the list before it
	ids     []erasedID
	unknown bool // the transaction has ended with an unknown outcome
}

// An erasedID is a line of the list.
type erasedID struct {
	feed string
	id   uuid.UUID
	line int // the line's number
}

// A prefix is what the list began with when it was read: it has only grown if it still begins so. The zero value means
// that all of it is new.
type prefix struct {
	size  int64 // of whole lines
	lines int
	seed  maphash.Seed
	sum   uint64
}

// wholeID finds a UUID in a line: as it comes last, a line that was cut off by a crash has none.
var wholeID = regexp.MustCompile(`[0-9A-Fa-f]{8}(-[0-9A-Fa-f]{4}){3}-[0-9A-Fa-f]{12}`)

// A reading of the list.
type reading struct {
	ids  []erasedID // behind the prefix, if grow is set, else all
	grow bool
	is   os.FileInfo
	next prefix // of what was read
}

// readAfter reads what is new on the list since it was as before says, or all of it if it has not only grown since. It
// ignores a last line that a crash has cut off: it was not acknowledged. A last line that a person has written without
// a newline counts.
func (l *erasedList) readAfter(before prefix) (r reading, err error) {
	f, err := l.open(os.O_RDONLY, syscall.LOCK_SH)
	if err != nil {
		return r, err
	}
	defer f.Close()
	var text []byte
	var sum maphash.Hash
	if r.is, err = f.Stat(); err == nil && 0 < before.size && before.size <= r.is.Size() {
		sum.SetSeed(before.seed)
		_, err = io.CopyN(&sum, f, before.size)
		r.grow = sum.Sum64() == before.sum
	}
	if err == nil && !r.grow {
		before = prefix{}
		sum.Reset()
		_, err = f.Seek(0, io.SeekStart)
	}
	if err == nil {
		text, err = io.ReadAll(io.LimitReader(f, r.is.Size()-before.size))
	}
	if err != nil {
		return r, fmt.Errorf("read the list of erased ids: %w", err)
	}
	r.next = before
	for line := range bytes.Lines(text) {
		e, ok, err := parseErased(string(line))
		e.line = r.next.lines + 1
		ended := line[len(line)-1] == '\n'
		switch {
		case ok:
			r.ids = append(r.ids, e)
		case err != nil && (ended || wholeID.Match(line)):
			return r, fmt.Errorf("line %d of the list of erased ids %s %w", e.line, l.path, err)
		}
		if ended {
			_, _ = sum.Write(line)
			r.next.size, r.next.lines = r.next.size+int64(len(line)), e.line
		}
	}
	if r.next.seed, r.next.sum = sum.Seed(), sum.Sum64(); r.next.size != r.is.Size() {
		r.next = prefix{} // the last line may yet be corrected
	}
	return r, nil
}

// has reports whether one of the ids is on the list, by its last known state if the file cannot be read.
func (l *erasedList) has(feed string, ids ...uuid.UUID) (bool, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if err := l.update(); err != nil {
		return false, err
	}
	return slices.ContainsFunc(ids, func(id uuid.UUID) bool {
		e := erasedID{feed: feed, id: id}
		return l.ids[e] && !l.isUncommitted(e)
	}), nil
}

// update reads what is new on the list. l.mu is locked.
func (l *erasedList) update() error {
	if is := l.stat(); l.idsAre != nil && (is == nil || same(l.idsAre, is)) {
		return nil
	}
	r, err := l.readAfter(l.known)
	if err != nil {
		return err
	}
	if !r.grow {
		l.ids = map[erasedID]bool{}
	}
	l.idsAre, l.known = r.is, r.next
	l.know(r.ids)
	return nil
}

// lacks returns those of the ids that are not on the list, not even for a transaction that is being committed.
func (l *erasedList) lacks(ids []erasedID) (lacking []erasedID, err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if err := l.update(); err != nil {
		return nil, err
	}
	return slices.DeleteFunc(ids, func(e erasedID) bool { return l.ids[e] }), nil
}

// isUncommitted reports whether only this process has listed the id, for a transaction that is being committed. l.mu is
// locked.
func (l *erasedList) isUncommitted(e erasedID) bool {
	return slices.ContainsFunc(l.uncommitted, func(u *uncommitted) bool { return slices.Contains(u.ids, e) })
}

// know adds ids to those known to be on the list. l.mu is locked.
func (l *erasedList) know(ids []erasedID) {
	for _, e := range ids {
		l.ids[erasedID{feed: strings.Clone(e.feed), id: e.id}] = true
	}
}

// parseErased reads a line: time, feed as in its URL, and id. The id comes last, so that a line that was cut off is not valid. Empty
// lines and those that begin with # are ignored.
func parseErased(line string) (e erasedID, ok bool, err error) {
	fields := strings.Fields(line)
	if len(fields) == 0 || strings.HasPrefix(fields[0], "#") {
		return e, false, nil
	}
	if len(fields) != 3 {
		return e, false, fmt.Errorf("has %d fields; it takes a time, a feed and an id", len(fields))
	}
	if _, err := time.Parse(time.RFC3339, fields[0]); err != nil {
		return e, false, errors.New("does not begin with a time such as 2026-11-28T21:04:05Z")
	}
	if e.feed, err = url.PathUnescape(fields[1]); err != nil {
		return e, false, errors.New("has a feed that is not written as in its URL")
	}
	if e.id, err = uuid.Parse(fields[2]); err != nil || len(fields[2]) != len(e.id.String()) {
		return e, false, errors.New("does not end with a UUID of 36 characters")
	}
	return e, true, nil
}

// errReplaced means that the file was replaced while it was written, as by an editor.
var errReplaced = errors.New("it was replaced in the meantime")

// add appends ids and flushes them to disk. was and is are the states of the list before and after. If the ids are those
// of a transaction that is about to be committed, add records them in its u; else u is nil. All errors wrap
// ErrNotListed.
func (l *erasedList) add(ids []erasedID, u *uncommitted) (was, is os.FileInfo, err error) {
	var lines bytes.Buffer
	now := time.Now().UTC().Format(time.RFC3339)
	for _, e := range ids {
		fmt.Fprintf(&lines, "%s %s %s\n", now, url.PathEscape(e.feed), e.id)
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	for range 3 {
		if was, is, err = l.append(lines.Bytes()); !errors.Is(err, errReplaced) {
			break
		}
	}
	if err != nil {
		return nil, nil, fmt.Errorf("%w: %w", ErrNotListed, err)
	}
	seen := l.seen.Load()
	current := seen != nil && same(*seen, was)
	if current { // else it is read again
		l.seen.Store(&is)
	}
	if same(l.idsAre, was) {
		if current && u != nil {
			l.begin(u, was.Size(), ids)
		}
		l.idsAre = is
		l.know(ids)
	}
	return was, is, nil
}

// begin records in u the ids that were not on the list. l.mu is locked.
func (l *erasedList) begin(u *uncommitted, from int64, ids []erasedID) {
	if !slices.Contains(l.uncommitted, u) {
		u.from = from
		l.uncommitted = append(l.uncommitted, u)
	}
	for _, e := range ids {
		if !l.ids[e] {
			u.ids = append(u.ids, e)
		}
	}
}

// end records the outcome of a transaction.
func (l *erasedList) end(u *uncommitted, unknown bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if u.unknown = unknown; !unknown {
		l.uncommitted = slices.DeleteFunc(l.uncommitted, func(other *uncommitted) bool { return other == u })
	}
}

// hasUnknown reports whether the outcome of a transaction of this process is unknown.
func (l *erasedList) hasUnknown() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return slices.ContainsFunc(l.uncommitted, func(u *uncommitted) bool { return u.unknown })
}

// forgetUnknown makes what was listed for transactions with an unknown outcome count.
func (l *erasedList) forgetUnknown() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.uncommitted = slices.DeleteFunc(l.uncommitted, func(u *uncommitted) bool { return u.unknown })
}

// applied records that the list was applied in this state.
func (l *erasedList) applied(is os.FileInfo) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.seen.Store(&is)
	l.uncommitted = nil
}

// isApplied reports whether the list is as it was when it was last applied, and of that length, but for what is being
// committed. If the file cannot be read, its last known state counts.
func (l *erasedList) isApplied(length int64) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	seen, is := l.seen.Load(), l.stat()
	if seen == nil || is != nil && !same(*seen, is) {
		return false
	}
	least := (*seen).Size()
	for _, u := range l.uncommitted {
		least = min(least, u.from)
	}
	return least <= length && length <= (*seen).Size()
}
