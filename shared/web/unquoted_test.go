package web

import (
	"errors"
	"fmt"
	"testing"

	"github.com/jackc/pgx/v5/pgconn"
)

func TestUnquoted(t *testing.T) {
	t.Parallel()
	for _, x := range []struct {
		err  error
		want string
	}{
		{errors.New("dial tcp: refused"), "dial tcp: refused"},
		{fmt.Errorf("place: %w", &pgconn.PgError{Severity: "ERROR", Code: "23505", Message: "duplicate key"}), "place: ERROR: duplicate key (SQLSTATE 23505)"},
		{
			fmt.Errorf("place: %w", &pgconn.PgError{Severity: "ERROR", Code: "22P02", Message: `invalid input syntax for type uuid: "hunter2"`}),
			`refused by the database, table "", column "" (SQLSTATE 22P02)`,
		},
		{
			&pgconn.PgError{Severity: "ERROR", Code: "P0001", Message: "hunter2", Routine: "exec_stmt_raise", TableName: "orders"},
			`refused by the database, table "orders", column "" (SQLSTATE P0001)`,
		},
		{
			errors.New(`failed to encode args[1]: unable to encode "hunter2" into binary format for int4 (OID 23)`),
			"failed to encode args[1]: unable to encode a value",
		},
	} {
		if got := Unquoted(x.err); got != x.want {
			t.Errorf("%v: %s", x.err, got)
		}
	}
}

func TestPanicked(t *testing.T) {
	t.Parallel()
	if got := Panicked("hunter2"); got != "a value of type string" {
		t.Error(got)
	}
	defer func() {
		if got := Panicked(recover()); got != "runtime error: index out of range [3] with length 0" {
			t.Error(got)
		}
	}()
	_ = []int{}[len("xyz")]
}
