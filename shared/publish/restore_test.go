package publish

import (
	"context"
	"net/http"
	osexec "os/exec"
	"path/filepath"
	"testing"

	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/edison-cars/data-feeds/shared/postgres"
	"github.com/edison-cars/data-feeds/shared/postgres/pgtest"
	"github.com/edison-cars/data-feeds/sql"
)

// The tables are made anew under a log that runs: what its connections remember of types and statements holds no write
// up for longer than one failure.
func TestTablesMadeAnew(t *testing.T) {
	t.Parallel()
	server := pgtest.NewServer(t)
	for name, renew := range map[string]func(t *testing.T, pool *pgxpool.Pool, dump string){
		"restored": func(t *testing.T, pool *pgxpool.Pool, dump string) {
			runProgram(t, server.Program("pg_restore"), "--clean", "--dbname="+pgtest.URL(pool), dump)
		},
		"emptied": func(t *testing.T, pool *pgxpool.Pool, _ string) {
			exec(t, pool, `drop schema public cascade; create schema public`)
			if err := postgres.Migrate(t.Context(), pool, sql.Migrations("publish")); err != nil {
				t.Fatal(err)
			}
			exec(t, pool, `select feed_create('`+feedName+`')`)
			exec(t, pool, `create table thing (id uuid primary key, version bigint not null, check (version < 1000))`)
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			admin := server.Open(name, sql.Migrations("publish"))
			exec(t, admin, `select feed_create('`+feedName+`')`)
			exec(t, admin, `create table thing (id uuid primary key, version bigint not null, check (version < 1000))`)
			own := ownPool(t, admin)
			l := openLog(t, own)
			source := serve(t, l)
			n := 0
			write := func(by func(context.Context, *Log, Entry) error) error {
				n++
				return by(t.Context(), l, thing(numbered(n), 1))
			}
			for range 3 {
				for how, by := range writers {
					if err := write(by); err != nil {
						t.Fatal(how, ": ", err)
					}
				}
			}
			dump := filepath.Join(t.TempDir(), "dump")
			runProgram(t, server.Program("pg_dump"), "--format=custom", "--file="+dump, pgtest.URL(admin))
			before := len(logged(t, admin))
			for how, by := range writers {
				if err := write(by); err != nil {
					t.Fatal(how, ": ", err)
				}
			}
			renew(t, admin, dump)
			if name == "emptied" {
				before = 0
			}
			for how, by := range writers {
				failures := 0
				for range 5 {
					if err := write(by); err != nil {
						failures++
						t.Log(how, ": ", err)
					}
				}
				if before += 5 - failures; failures > 1 {
					t.Errorf("%s: %d failures, want one at most", how, failures)
				}
			}
			admin.Reset()
			if got := len(logged(t, admin)); got != before {
				t.Errorf("the log has %d entries, want %d", got, before)
			}
			waitFor(t, "the feed to be served", func() bool {
				resp, _ := get(t, source, "GET", "/feeds/things.json?after=0&limit=100")
				return resp.StatusCode == http.StatusOK
			})
		})
	}
}

func runProgram(t *testing.T, program string, args ...string) {
	t.Helper()
	if out, err := osexec.CommandContext(t.Context(), program, args...).CombinedOutput(); err != nil {
		t.Fatalf("%s: %v\n%s", program, err, out)
	}
}
