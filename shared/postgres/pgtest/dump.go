package pgtest

import (
	"context"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5/pgxpool"
)

// DumpFile dumps the pool's database for [RestoreFile], and returns the path of the file.
func DumpFile(t testing.TB, pool *pgxpool.Pool) string {
	t.Helper()
	file := filepath.Join(t.TempDir(), "dump")
	if said, err := run(t, pool, "pg_dump", "--format=custom", "--file="+file, "--dbname="+URL(pool)); err != nil {
		t.Fatalf("pg_dump: %v\n%s", err, said)
	}
	return file
}

// RestoreFile restores the dump in a file over the pool's database, with further arguments for pg_restore.
func RestoreFile(t testing.TB, pool *pgxpool.Pool, file string, args ...string) {
	t.Helper()
	for {
		said, err := run(t, pool, "pg_restore", append([]string{"--clean", "--if-exists", "--exit-on-error", "--dbname=" + URL(pool), file}, args...)...)
		if err == nil {
			return
		}
		if t.Context().Err() != nil || !strings.Contains(said, "deadlock detected") { // with a query: the restore is tried again
			t.Fatalf("pg_restore: %v\n%s", err, said)
		}
	}
}

// run runs a program of the server's version.
func run(t testing.TB, pool *pgxpool.Pool, name string, args ...string) (said string, err error) {
	t.Helper()
	var folder string
	if err := pool.QueryRow(context.Background(), `select setting from pg_config where name = 'BINDIR'`).Scan(&folder); err != nil {
		t.Fatal(err)
	}
	out, err := exec.Command(filepath.Join(folder, name), args...).CombinedOutput()
	return string(out), err
}
