package pgtest_test

import (
	"fmt"
	"testing"
	"testing/fstest"
	"time"

	"github.com/edison-cars/data-feeds/shared/postgres"
	"github.com/edison-cars/data-feeds/shared/postgres/pgtest"
)

func TestMain(m *testing.M) { pgtest.Main(m) }

var parts = postgres.Migrations{Name: "parts", FS: fstest.MapFS{
	"00001_part.sql": {Data: []byte("-- +goose Up\nCREATE TABLE part (name text PRIMARY KEY);\n")},
}}

func TestNew(t *testing.T) {
	for i := range 12 {
		t.Run(fmt.Sprintf("database %d holds its own rows alone", i), func(t *testing.T) {
			t.Parallel()
			start := time.Now()
			pool := pgtest.New(t, parts)
			t.Log(time.Since(start))
			if _, err := pool.Exec(t.Context(), "INSERT INTO part VALUES ('wheel')"); err != nil {
				t.Fatal(err)
			}
			var n int
			if err := pool.QueryRow(t.Context(), "SELECT count(*) FROM part").Scan(&n); err != nil || n != 1 {
				t.Fatalf("%d rows, error %v", n, err)
			}
		})
	}
}

// What initdb makes is kept for the next server, which is a copy.
func TestServersAreCopies(t *testing.T) {
	dir := t.TempDir()
	t.Setenv("HOME", dir)
	t.Setenv("XDG_CACHE_HOME", dir)
	made := map[int64]bool{}
	for range 2 {
		var id int64
		if err := pgtest.NewServer(t).Open("copy").QueryRow(t.Context(), "SELECT system_identifier FROM pg_control_system()").Scan(&id); err != nil {
			t.Fatal(err)
		}
		made[id] = true
	}
	if len(made) != 1 {
		t.Errorf("initdb ran for each server: %v", made)
	}
}
