package publish

import (
	"errors"
	"time"
)

var (
	// ErrGuard is returned for a transaction that feed_guard stopped: what it changes is not as it was read.
	ErrGuard = errors.New("changed by somebody else in the meantime")
	// ErrUnknown is wrapped if the database did not confirm a commit in time, or if the connection was lost during the
	// commit and the database stayed away. The transaction may have been committed, or may yet be, or may be lost.
	ErrUnknown = errors.New("commit outcome unknown")
	// ErrTooLarge is returned instead of entries whose payloads have more than MaxPage bytes together.
	ErrTooLarge = errors.New("the entries are too large for one page")
	// ErrClosed is returned for a change that came after Close.
	ErrClosed = errors.New("the log is closed")
)

// Unavailable errors are returned while the database cannot be read or written.
var (
	// ErrIncomplete means that the tables do not belong together, as during a restore, or after the restore of a part
	// of a dump.
	ErrIncomplete = &Unavailable{"The database is being restored, or was restored in part. Try again in a few seconds.", 5 * time.Second}
	// ErrBehind means that a hot standby, to which connections may lead in a failover, has yet to replay what the
	// primary has confirmed. Only a primary shows that the history is another one.
	ErrBehind = &Unavailable{"The database is a standby that does not have all of the feed yet. Try again in a few seconds.", 5 * time.Second}
	// ErrUnapplied means that the database has something that the list of erased ids says is erased, or may have.
	ErrUnapplied = &Unavailable{
		"What was erased is being erased again, as after the restore of a backup. Try again in a few seconds.", 2 * time.Second,
	}
	// ErrChanged means that something was erased between two reads of one page, or that the database was restored.
	ErrChanged = &Unavailable{"The feed changed while this page was read. Try again.", time.Second}
)

// An Unavailable error ends by itself. Its text is a sentence that may be shown to anybody.
type Unavailable struct {
	text  string
	after time.Duration
}

func (u *Unavailable) Error() string { return u.text }

// RetryAfter returns the time after which the caller may try again.
func (u *Unavailable) RetryAfter() time.Duration { return u.after }
