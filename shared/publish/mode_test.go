package publish

import (
	"bytes"
	"context"
	"fmt"
	"log/slog"
	"net/http"
	"strings"
	"testing"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/edison-cars/data-feeds/shared/postgres/pgtest"
)

// inMode returns a log on a pool with the parameter default_query_exec_mode, and what it logs.
func inMode(t *testing.T, pool *pgxpool.Pool, mode string) (*Log, *bytes.Buffer) {
	t.Helper()
	config, err := pgxpool.ParseConfig(pgtest.URL(pool) + "&default_query_exec_mode=" + mode)
	if err != nil {
		t.Fatal(err)
	}
	own, err := pgxpool.NewWithConfig(t.Context(), config)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(own.Close)
	text := new(bytes.Buffer)
	l, err := Open(t.Context(), own, Options{Logger: slog.New(slog.NewTextHandler(text, nil))})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(l.Close)
	return l, text
}

var modes = []string{"cache_statement", "cache_describe", "describe_exec", "exec", "simple_protocol"}

// The log works on a pool of any mode, and takes nothing for a lost connection.
func TestQueryExecModes(t *testing.T) {
	t.Parallel()
	for _, mode := range modes {
		t.Run(mode, func(t *testing.T) {
			t.Parallel()
			pool := database(t)
			l, text := inMode(t, pool, mode)
			n := 0
			for round := range 3 {
				for how, write := range writers {
					n++
					if err := write(t.Context(), l, thing(numbered(n), 1)); err != nil {
						t.Fatalf("%s, round %d: %v", how, round, err)
					}
				}
			}
			err := l.InTx(t.Context(), func(tx *Tx) error {
				tx.Erase(feedName, numbered(1), 2, thing(numbered(1), 2).Updated)
				return nil
			})
			if err != nil {
				t.Fatal("Erase: ", err)
			}
			if got := len(logged(t, pool)); got != n+1 {
				t.Errorf("the log has %d entries, want %d", got, n+1)
			}
			later, _ := inMode(t, pool, mode)
			server := serve(t, later)
			for _, path := range []string{"?after=0&limit=3", "?after=0&limit=100", "", "/" + numbered(2).String()} {
				if resp, body := get(t, server, "GET", "/feeds/things"+path, "Accept", "application/json"); resp.StatusCode != http.StatusOK {
					t.Errorf("%s: %d %s", path, resp.StatusCode, body)
				}
			}
			if text.Len() > 0 {
				t.Errorf("the log says %s", text)
			}
		})
	}
}

// An argument that cannot be encoded, or that the database refuses, fails its own transaction at once, and neither an
// error nor a log line quotes it.
func TestErrorsQuoteNoArgument(t *testing.T) {
	t.Parallel()
	pgtest.Slow(t, "many databases")
	const secret = "hunter2"
	statements := map[string]struct {
		sql string
		arg any
	}{
		"no number":             {`insert into thing (id, version) values (gen_random_uuid(), $1)`, secret},
		"no text":               {`select $1::text`, struct{ Name string }{secret}},
		"no uuid":               {`insert into thing (id, version) values ($1, 1)`, secret},
		"refused by the server": {`insert into thing (id, version) values ($1::text::uuid, 1)`, secret},
		"no json":               {`select $1::text::jsonb`, `{"` + secret},
	}
	for _, mode := range modes {
		t.Run(mode, func(t *testing.T) {
			t.Parallel()
			pool := database(t)
			l, text := inMode(t, pool, mode)
			for name, s := range statements {
				bad, good := put(thing(uuid.New(), 1)), put(thing(uuid.New(), 1))
				bad.Exec(s.sql, s.arg)
				l.commitGroup(context.Background(), []*Change{good, bad}, nil)
				if err := <-good.done; err != nil {
					t.Errorf("%s: the other one in the group: %v", name, err)
				}
				err := <-bad.done
				if err == nil || strings.Contains(err.Error(), secret) {
					t.Errorf("%s: %v, want an error that does not quote the argument", name, err)
				}
			}
			if text.Len() > 0 {
				t.Errorf("the log says %s", text)
			}
			if n := len(logged(t, pool)); n != len(statements) {
				t.Errorf("the log has %d entries, want %d", n, len(statements))
			}
		})
	}
}

// Writers take turns whatever isolation level is the default of the database.
func TestDefaultIsolation(t *testing.T) {
	t.Parallel()
	for _, level := range []string{"repeatable read", "serializable"} {
		t.Run(level, func(t *testing.T) {
			t.Parallel()
			pool := database(t)
			exec(t, pool, `alter database `+pool.Config().ConnConfig.Database+` set default_transaction_isolation = '`+level+`'`)
			failed, running := make(chan error), 0
			for n := range 4 {
				l, _ := inMode(t, pool, "cache_statement")
				for how, write := range writers {
					running++
					go func() {
						for i := range 25 {
							id := uuid.NewSHA1(numbered(100*n+i), []byte(how))
							if err := write(t.Context(), l, thing(id, 1)); err != nil {
								failed <- fmt.Errorf("%s: %w", how, err)
								return
							}
						}
						failed <- nil
					}()
				}
			}
			for range running {
				if err := <-failed; err != nil {
					t.Error(err)
				}
			}
		})
	}
}

// InTx runs again, like a writer that was slower, where fn chose an isolation level whose snapshot is too old.
func TestIsolationOfATransaction(t *testing.T) {
	t.Parallel()
	for _, level := range []string{"repeatable read", "serializable"} {
		for _, before := range []int{0, 3} {
			t.Run(fmt.Sprint(level, ", ", before, " entries"), func(t *testing.T) {
				t.Parallel()
				pool := database(t)
				l, other := deaf(t, pool), deaf(t, pool)
				if before > 0 {
					fill(t, l, before)
				}
				runs := 0
				err := l.InTx(t.Context(), func(tx *Tx) error {
					if _, err := tx.Exec(t.Context(), `set transaction isolation level `+level); err != nil {
						return err
					}
					if _, err := tx.Exec(t.Context(), `select from thing`); err != nil { // takes the snapshot
						return err
					}
					if runs++; runs < 3 {
						appendAll(t, other, []Entry{thing(uuid.New(), 1)})
					}
					tx.Append(feedName, thing(uuid.New(), 1))
					return nil
				})
				if n := len(logged(t, pool)); err != nil || runs != 3 || n != before+3 {
					t.Errorf("%d runs, %d entries, %v", runs, n, err)
				}
			})
		}
	}
}
