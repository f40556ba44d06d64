package web

import (
	"errors"
	"fmt"
	"runtime"
	"strings"

	"github.com/jackc/pgx/v5/pgconn"
)

// Unquoted returns the text of an error for the log. What PostgreSQL or pgx say of a value that they do not take may
// quote it, and is left out.
func Unquoted(err error) string {
	if refused, ok := errors.AsType[*pgconn.PgError](err); ok && (strings.HasPrefix(refused.Code, "22") || refused.Routine == "exec_stmt_raise") {
		return fmt.Sprintf("refused by the database, table %q, column %q (SQLSTATE %s)", refused.TableName, refused.ColumnName, refused.Code)
	}
	before, _, encoding := strings.Cut(err.Error(), "unable to encode ")
	if encoding {
		return before + "unable to encode a value"
	}
	return err.Error()
}

// Panicked describes what a panic was called with, for the log. The value of a panic that is not Go's own may quote
// anything: only its type is told.
func Panicked(value any) string {
	if err, ok := value.(runtime.Error); ok {
		return err.Error()
	}
	return fmt.Sprintf("a value of type %T", value)
}
