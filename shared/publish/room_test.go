package publish

import (
	"strings"
	"testing"

	"github.com/google/uuid"

	"github.com/edison-cars/data-feeds/shared/postgres/pgtest"
	"github.com/edison-cars/data-feeds/sql"
)

// A server that has no transaction ids left takes no changes until somebody vacuums: the error says so, and the log has
// no room.
func TestNoTransactionIDs(t *testing.T) {
	t.Parallel()
	server := pgtest.NewServer(t)
	pool := server.Open("things", sql.Migrations("publish"))
	exec(t, pool, `select feed_create('`+feedName+`')`)
	exec(t, pool, `create table thing (id uuid primary key, version bigint not null)`)
	fill(t, openLog(t, pool), 1)
	server.SpendIDs()
	pool.Reset() // of connections to the server that was
	l := openLog(t, pool)
	for name, write := range writers {
		if err := write(t.Context(), l, thing(uuid.New(), 1)); err == nil || !strings.Contains(err.Error(), "not accepting commands") {
			t.Errorf("%s: %v", name, err)
		}
	}
	if err := l.Room(t.Context()); err == nil {
		t.Error("the log has room")
	}
	if at := l.head(t).Head.Position; at != 1 {
		t.Errorf("the head is at %d", at)
	}
}
