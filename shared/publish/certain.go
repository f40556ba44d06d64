package publish

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5/pgconn"
)

// An attempt is one packet that was sent to end a transaction.
type attempt struct {
	runs    []placed
	changes []*Change // nil if it was not a group's
}

// sent reports whether something was sent that could commit.
func (a attempt) sent() bool { return len(a.runs) > 0 }

// persist calls try until the outcome is certain, and returns the attempt that was committed. With lock, try has to
// lock the heads before it appends.
func (l *Log) persist(ctx context.Context, try func(lock bool) (attempt, error)) (attempt, error) {
	var unknown []attempt // attempts whose connection was lost
	lock, start := false, time.Now()
	for n := 1; ; n++ {
		at, err := try(lock)
		again := (n < maxAttempts || isCode(err, lockNotAvailable)) && time.Since(start) < l.patience && l.committing.Err() == nil
		switch {
		case err == nil:
			l.remember(at.runs)
			l.peers.tell()
			l.metrics.appends.Observe(time.Since(start).Seconds())
			return at, nil
		case lostSwap(err):
			lock = true
		case connectionLost(err):
			l.logger.Warn("commit outcome unknown, asking the database", "attempt", n, "error", err)
			unknown = append(unknown, at)
			lock = false // an attempt that is still under way must lose against the next one
		case isCode(err, "40P01"), isCode(err, lockNotAvailable): // a deadlock, or a head that was locked for too long
		case len(unknown) == 0:
			return attempt{}, incomplete(err)
		default: // the reason may be what an earlier attempt inserted
			again = false
		}
		won, possible, settleErr := l.settle(ctx, unknown)
		switch {
		case won != nil:
			return *won, nil
		case settleErr != nil && len(unknown) > 0:
			return attempt{}, fmt.Errorf("%w: %w; then: %w", ErrUnknown, err, settleErr)
		case settleErr != nil:
			return attempt{}, fmt.Errorf("%w; then: %w", err, settleErr)
		case !again && !possible:
			return attempt{}, err
		case !again:
			return attempt{}, fmt.Errorf("%w: %w", ErrUnknown, err)
		case possible:
			lock = false
		default:
			unknown = nil
		}
	}
}

// final wraps an error after which nothing has happened and another attempt does not help.
type final struct{ error }

func (e final) Unwrap() error { return e.error }

func (e final) orNil() error {
	if e.error == nil {
		return nil
	}
	return e
}

// lockNotAvailable is the SQLSTATE if somebody holds a lock for long, as a commit does while a synchronous standby is
// down.
const lockNotAvailable = "55P03"

// lostSwap reports whether another writer appended first.
func lostSwap(err error) bool { return isCode(err, "40001") && !errors.As(err, &final{}) }

// connectionLost reports whether the outcome of what was sent is unknown.
func connectionLost(err error) bool {
	if errors.As(err, &final{}) {
		return false
	}
	if pgErr, ok := errors.AsType[*pgconn.PgError](err); ok {
		return pgErr.SeverityUnlocalized == "FATAL" || pgErr.SeverityUnlocalized == "PANIC"
	}
	return true
}

func isCode(err error, code string) bool {
	pgErr, ok := errors.AsType[*pgconn.PgError](err)
	return ok && pgErr.Code == code
}

// incomplete wraps ErrIncomplete around the error of an append to a log that lacks an entry that it had.
func incomplete(err error) error {
	pgErr, ok := errors.AsType[*pgconn.PgError](err)
	if ok && pgErr.Code == "55000" && pgErr.TableName == "feed" {
		return fmt.Errorf("%w %w", ErrIncomplete, err)
	}
	return err
}

// guarded returns ErrGuard for an error of feed_guard, and any other error as it is.
func guarded(err error) error {
	if pgErr, ok := errors.AsType[*pgconn.PgError](err); ok && pgErr.Code == "P0002" && pgErr.TableName == "feed" {
		return ErrGuard
	}
	return err
}

// An EntryError is the log's refusal of an entry that no page can carry, that no reader can parse, or that does not
// follow the entity's last version. Its text quotes nothing of the payload.
type EntryError struct {
	Feed    string
	ID      uuid.UUID
	Version int64
	wrong   string
	err     error // the database's error; nil means that the log refused the entry itself
}

func (e *EntryError) Error() string {
	return fmt.Sprintf("version %d of %s for feed %q %s", e.Version, e.ID, e.Feed, e.wrong)
}

func (e *EntryError) Unwrap() error { return e.err }

// entryError returns an *EntryError for an error of feed_check, and any other error as it is.
func entryError(err error) error {
	pgErr, ok := errors.AsType[*pgconn.PgError](err)
	if !ok || pgErr.Code != "23000" || pgErr.ConstraintName != "feed_check" {
		return err
	}
	e := &EntryError{wrong: pgErr.Message, err: err}
	of := strings.SplitN(pgErr.Detail, " ", 3)
	if len(of) == 3 {
		e.ID, _ = uuid.Parse(of[0])
		e.Version, _ = strconv.ParseInt(of[1], 10, 64)
		e.Feed = of[2]
	}
	return e
}

// A refusal is an error of the server with a text that does not quote what was sent.
type refusal struct{ *pgconn.PgError }

func (r refusal) Error() string {
	return fmt.Sprintf("refused by the database, table %q, column %q, constraint %q (SQLSTATE %s)", r.TableName, r.ColumnName, r.ConstraintName, r.Code)
}

func (r refusal) Unwrap() error { return r.PgError }

// unquoted returns the error with a text that may be logged and shown.
func unquoted(err error) error {
	if refused, ok := errors.AsType[*EntryError](err); ok {
		return refused
	}
	if pgErr, ok := errors.AsType[*pgconn.PgError](err); ok && pgErr.SeverityUnlocalized == "ERROR" && !lacks(pgErr) {
		return refusal{pgErr}
	}
	return err
}

// settle finds out whether one of the attempts was committed (won is nil if none was), whether one is still possible,
// and where the heads are now. If the database is down it asks again, until ctx ends or the time for one write is over.
// What it finds counts only once it is confirmed.
//
// A packet that is still under way cannot land unnoticed. It appends to the head that it was made for, and so does the
// next attempt: only one of them can succeed, and the other loses the swap and is settled again. A head that has moved
// never comes back.
func (l *Log) settle(ctx context.Context, attempts []attempt) (won *attempt, possible bool, err error) {
	ctx, cancel := context.WithTimeout(ctx, l.patience)
	defer cancel()
	defer context.AfterFunc(l.committing, cancel)()
	for wait := 10 * time.Millisecond; ; wait = min(2*wait, time.Second) {
		if won, possible, err = l.find(ctx, attempts); err == nil {
			_, err = l.refresh(ctx, l.pool)
			if err == nil || won == nil && errors.Is(err, errUnconfirmed) {
				return won, possible, nil
			}
		}
		if len(attempts) == 0 && errors.Is(err, ErrIncomplete) { // a restore may take longer than a write may wait
			return nil, false, err
		}
		select {
		case <-ctx.Done():
			return nil, true, err
		case <-time.After(wait):
		}
	}
}

// find searches the log for the attempts. One run is enough to identify a transaction. It reads the heads before it
// searches: an attempt is still possible if its head has not moved by then.
func (l *Log) find(ctx context.Context, attempts []attempt) (won *attempt, possible bool, err error) {
	if !slices.ContainsFunc(attempts, attempt.sent) {
		return nil, false, nil
	}
	seen, err := l.look(ctx, l.pool)
	if err != nil {
		return nil, false, err
	}
	for i := range attempts {
		if !attempts[i].sent() {
			continue
		}
		run := &attempts[i].runs[0]
		head := run.head()
		var there bool
		err = l.pool.QueryRow(ctx, `select exists (select from feed_entry where feed = $1 and position = $2 and digest = $3)`,
			run.feed, head.Position, head.Digest[:]).Scan(&there)
		if err != nil {
			return nil, false, err
		}
		if there {
			return &attempts[i], false, nil
		}
		possible = possible || seen.heads[run.feed] == run.from
	}
	return nil, possible, nil
}
