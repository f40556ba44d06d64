package subscribe

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"runtime"
	"slices"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/edison-cars/data-feeds/shared/publish"
)

// serverSources are the source files of PostgreSQL that read and write table files and give out transaction ids.
// PostgreSQL has no SQLSTATE of its own for most of their errors, such as an exhausted quota, a volume that became
// read-only, or ids that have run out.
var serverSources = []string{"md.c", "fd.c", "buffile.c", "varsup.c", "multixact.c"}

// databaseAtFault reports whether the database failed, whatever the entry: it is down, full or read-only.
func databaseAtFault(err error) bool {
	pgErr, ok := errors.AsType[*pgconn.PgError](err)
	if !ok {
		return errors.Is(err, publish.ErrUnknown)
	}
	if raised(pgErr) {
		return false
	}
	switch pgErr.Code[:min(2, len(pgErr.Code))] {
	case "08", "53", "58": // connection; out of disk, memory or connections; I/O
		return pgErr.Code != "53400" // a limit that is set per session
	}
	switch pgErr.Code {
	case "25006", "XX001", "XX002": // read-only, damaged data and index
		return true
	}
	return pgErr.SeverityUnlocalized == "FATAL" || pgErr.SeverityUnlocalized == "PANIC" || slices.Contains(serverSources, pgErr.File)
}

// raised reports whether a function in PL/pgSQL raised the error, such as that of a trigger. It may say anything, under
// any code.
func raised(err *pgconn.PgError) bool { return err.Routine == "exec_stmt_raise" }

// passing reports whether the error may pass, whatever the entry: another transaction was in the way, or the database
// was slow, or the session ended.
func passing(err error) bool {
	if _, ended := errors.AsType[*sessionError](err); ended {
		return true
	}
	if pgErr, ok := errors.AsType[*pgconn.PgError](err); ok {
		return strings.HasPrefix(pgErr.Code, "40") || pgErr.Code == lockNotAvailable || pgErr.Code == "57014" || pgErr.Code == "53400" // deadlocks and the like, locks, timeouts, temporary files
	}
	_, slow := errors.AsType[*slowError](err)
	return slow
}

// badData reports whether the error is one of the entry's data, as far as the error alone shows: of the check, of
// decoding, of what Apply publishes, or of SQLSTATE classes 22 and 23.
func badData(err error) bool {
	if pgErr, ok := errors.AsType[*pgconn.PgError](err); ok {
		return strings.HasPrefix(pgErr.Code, "22") || strings.HasPrefix(pgErr.Code, "23")
	}
	_, check := errors.AsType[*checkError](err)
	_, syntax := errors.AsType[*json.SyntaxError](err)
	_, wrongType := errors.AsType[*json.UnmarshalTypeError](err)
	_, entity := errors.AsType[*entityError](err)
	_, appended := errors.AsType[*publish.EntryError](err)
	return check || syntax || wrongType || entity || appended
}

// ofOthers reports whether the database refused a row because of other rows, which may change.
func ofOthers(err error) bool {
	pgErr, ok := errors.AsType[*pgconn.PgError](err)
	return ok && slices.Contains([]string{"23001", "23503", "23505", "23P01"}, pgErr.Code) // restrict, foreign key, unique, exclusion
}

// publishedBefore reports whether the service's log refused what Apply published, as it does when an entry is applied
// again: Apply itself has taken the entry.
func publishedBefore(failed error) bool {
	pgErr, ok := errors.AsType[*pgconn.PgError](failed)
	return ok && pgErr.ConstraintName == "feed_check"
}

const answerTimeout = 5 * time.Second

// limitSteps sets timeouts in tx: a slow statement then fails, which shows that the database answers. A statement that
// waits for a lock fails sooner, since no entry is at fault. restore resets the timeouts.
func limitSteps(ctx context.Context, tx pgx.Tx, limit time.Duration) (restore func() error, err error) {
	var statement, lock string
	err = tx.QueryRow(ctx, `
		with given as materialized (
			select (select setting::int from pg_settings where name = 'statement_timeout') as statement,
			       (select setting::int from pg_settings where name = 'lock_timeout') as lock
		), step as materialized (
			select statement, lock, least(nullif(statement, 0), $1::int) as ms from given
		)
		select statement::text, lock::text from step
		 where set_config('statement_timeout', ms::text, true) <> ''
		   and set_config('lock_timeout', greatest(least(nullif(lock, 0), ms / 2), 1)::text, true) <> ''`,
		limit.Milliseconds()).Scan(&statement, &lock)
	return func() error {
		_, err := tx.Exec(ctx, `select set_config('statement_timeout', $1, true), set_config('lock_timeout', $2, true)`, statement, lock)
		return err
	}, err
}

// limitAttempt ends an attempt that takes too long as a whole. It cancels a running statement by a cancel request,
// after which the transaction can continue, and an Apply that waits for something else by the context. end returns the
// outcome of the attempt.
func limitAttempt(ctx context.Context, tx pgx.Tx, step time.Duration) (_ context.Context, end func(failed error) error) {
	limited, cancel := context.WithTimeout(ctx, step+step/2)
	began, ended := time.Now(), make(chan struct{})
	timer := time.AfterFunc(step+step/4, func() {
		defer close(ended)
		_ = tx.Conn().PgConn().CancelRequest(publish.MayCancel(limited))
	})
	return limited, func(failed error) error {
		defer cancel()
		late := !timer.Stop()
		if late {
			<-ended // else the request may cancel a later statement
		}
		switch {
		case databaseAtFault(failed):
		case late && failed == nil, limited.Err() != nil, passing(failed) && time.Since(began) >= step:
			return &slowError{step}
		}
		return failed
	}
}

// A slowError is an attempt that took too long.
type slowError struct{ limit time.Duration }

// tookLonger begins the reason of an entry that took too long.
const tookLonger = "took longer than "

func (e *slowError) Error() string { return tookLonger + e.limit.String() }

// A sessionError means that the session with the database ended while a page was applied: the database crashed, or only
// its process for the session, which an entry may cause.
type sessionError struct {
	cause error
	noted bool // by quarantine.ended
}

// sessionEnded begins the reason of an entry that ends it.
const sessionEnded = "the session with the database ended while it was applied"

func (e *sessionError) Error() string { return sessionEnded + ": " + unquoted(e.cause) }
func (e *sessionError) Unwrap() error { return e.cause }

// An applyError is an error of Apply. Its text quotes no entry, since it is logged and shown as last_error. The text of
// its cause may quote one.
type applyError struct{ cause error }

func (e *applyError) Error() string { return unquoted(e.cause) }
func (e *applyError) Unwrap() error { return e.cause }

// whole returns the text of the reason, which may quote the entry.
func whole(reason error) string {
	if apply, ok := reason.(*applyError); ok { //nolint:errorlint // the error that call returned, not one that it wraps
		reason = apply.cause
	}
	return reason.Error()
}

// A pageError is the error of a page that could not be applied. Its text quotes no entry.
type pageError struct {
	what    string
	entries int64 // on the page
	err     error
}

func (e *pageError) Error() string {
	if _, ok := errors.AsType[*refusedError](e.err); ok {
		return e.what + ": " + e.err.Error()
	}
	if _, ok := errors.AsType[*pgconn.PgError](e.err); ok {
		return e.what + ": " + unquoted(e.err)
	}
	return e.what + ": " + e.err.Error()
}

func (e *pageError) Unwrap() error        { return e.err }
func (e *pageError) Is(target error) bool { return target == ErrApply }

// A panicError is a panic of a function of the service.
type panicError struct {
	in    string
	value any
}

func (e *panicError) Error() string { return fmt.Sprintf("%s panicked: %v", e.in, e.value) }

// unquoted describes a panic of Go itself. Of another panic it names only the type of the value, which may quote
// anything.
func (e *panicError) unquoted() string {
	if err, ok := e.value.(runtime.Error); ok {
		return e.in + " panicked: " + err.Error()
	}
	return fmt.Sprintf("%s panicked: a value of type %T", e.in, e.value)
}

// unquoted says what is wrong with an entry without quoting it: log lines stay when the entity is erased. The whole
// reason is in rejected_entry, which goes with the entry.
func unquoted(err error) string {
	if ended, ok := errors.AsType[*sessionError](err); ok {
		return ended.Error()
	}
	if check, ok := errors.AsType[*checkError](err); ok {
		return check.Error()
	}
	if slow, ok := errors.AsType[*slowError](err); ok {
		return slow.Error()
	}
	if appended, ok := errors.AsType[*publish.EntryError](err); ok {
		return appended.Error()
	}
	if pgErr, ok := errors.AsType[*pgconn.PgError](err); ok {
		switch class := pgErr.Code[:min(2, len(pgErr.Code))]; {
		case raised(pgErr):
		case class == "42" && pgErr.Position == 0 && pgErr.Code != "42501" && pgErr.Code != "42P10": // a value may be a name, as of type regclass
		case databaseAtFault(err), class == "40", class == "55", class == "42", class == "54", class == "57": // these are not about data
			return pgErr.Error()
		}
		return fmt.Sprintf("refused by the database, table %q, column %q, constraint %q (SQLSTATE %s)",
			pgErr.TableName, pgErr.ColumnName, pgErr.ConstraintName, pgErr.Code)
	}
	if wrong, ok := errors.AsType[*json.UnmarshalTypeError](err); ok {
		return fmt.Sprintf("field %q is no %v", wrong.Field, wrong.Type)
	}
	if panicked, ok := errors.AsType[*panicError](err); ok {
		return panicked.unquoted()
	}
	if timeout, ok := errors.AsType[net.Error](err); ok { // also of a context
		return timeout.Error()
	}
	for _, known := range []error{errNoFeed, ErrTooMuch, context.Canceled} {
		if errors.Is(err, known) {
			return known.Error()
		}
	}
	if badData(err) {
		return "no JSON of the kind that is expected"
	}
	return fmt.Sprintf("an error of type %T, whose text may quote an entry", innermost(err))
}

func innermost(err error) error {
	for {
		switch e := err.(type) { //nolint:errorlint // it unwraps
		case interface{ Unwrap() error }:
			if e.Unwrap() == nil {
				return err
			}
			err = e.Unwrap()
		default:
			return err
		}
	}
}
