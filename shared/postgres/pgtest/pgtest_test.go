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
