package publish

import (
	"path/filepath"
	"testing"
)

// A log that does not know of the app's tables goes on after they have changed: what SQL erases is served as erased.
func TestListBesideOtherTables(t *testing.T) {
	t.Parallel()
	pool := database(t)
	exec(t, pool, `create table person (id bigint primary key, name text unique)`)
	l, err := Open(t.Context(), pool, Options{Erasures: Erasures{File: filepath.Join(t.TempDir(), "erased")}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(l.Close)
	exec(t, pool, `select feed_put('`+feedName+`', 7, '{"name":"Ada"}')`)
	exec(t, pool, `alter table person drop constraint person_name_key`)
	exec(t, pool, `select feed_erase('`+feedName+`', 7)`)
	if _, err := l.refresh(t.Context(), l.pool); err != nil {
		t.Error(err)
	}
	exec(t, pool, `alter table feed_entry drop constraint feed_entry_pkey`)
	exec(t, pool, `update feed set listed = 1`)
	if _, err := l.refresh(t.Context(), l.pool); err == nil {
		t.Error("the log is served while it is restored")
	}
}
