package postgres_test

import (
	"context"
	"fmt"
	"log/slog"
	"net/url"
	"strings"
	"sync"
	"testing"
	"testing/fstest"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/edison-cars/data-feeds/shared/migrate"
	"github.com/edison-cars/data-feeds/shared/postgres"
	"github.com/edison-cars/data-feeds/shared/postgres/pgtest"
)

// stock is a set of migrations whose table every service has.
func stock(name string) postgres.Migrations {
	return postgres.Migrations{Name: name, FS: fstest.MapFS{
		"00001_stock.sql": {Data: []byte("-- +goose Up\nCREATE TABLE stock (service text);\n")},
	}}
}

// wantSchema opens the service's database, and checks where its tables are and that nobody else has written to them.
func wantSchema(t *testing.T, url, service, set, want string) {
	t.Helper()
	db, err := postgres.Open(t.Context(), postgres.Config{URL: url, Name: service}, parts, stock(set))
	if err != nil {
		t.Error(err)
		return
	}
	defer db.Close()
	var schema string
	var others int
	err = db.QueryRow(t.Context(), `
		with mine as (insert into stock values ($1))
		select current_schema(), (select count(*) from stock where service <> $1)`, service).Scan(&schema, &others)
	if err != nil || want != "" && schema != want || others > 0 {
		t.Errorf("%s has the schema %s, want %s, and %d rows of others: %v", service, schema, want, others, err)
	}
}

func change(t *testing.T, pool *pgxpool.Pool, statement string) {
	t.Helper()
	if _, err := pool.Exec(t.Context(), statement); err != nil {
		t.Fatal(err)
	}
}

// newRole makes a role of its own for the test, whose name begins with the prefix.
func newRole(t *testing.T, pool *pgxpool.Pool, prefix string) string {
	t.Helper()
	role := prefix + "r" + strings.ReplaceAll(uuid.NewString(), "-", "_")
	change(t, pool, fmt.Sprintf(`create role %q login`, role))
	t.Cleanup(func() {
		_, err := pool.Exec(context.Background(), fmt.Sprintf(`drop owned by %q cascade; drop role %[1]q`, role))
		if err != nil {
			t.Error(err)
		}
	})
	return role
}

// as is the URL of the pool's database for another role.
func as(t *testing.T, pool *pgxpool.Pool, role string) string {
	t.Helper()
	u, err := url.Parse(pgtest.URL(pool))
	if err != nil {
		t.Fatal(err)
	}
	u.User = url.User(role)
	return u.String()
}

func TestServicesThatShareADatabase(t *testing.T) {
	t.Parallel()
	t.Run("have a schema each", func(t *testing.T) {
		t.Parallel()
		url := database(t, "shared")
		for range 2 {
			wantSchema(t, url, "sales", "sales", "public")
			wantSchema(t, url, "warehouse", "warehouse", "warehouse")
			wantSchema(t, url, "dash-board", "dashboard", "dash-board")
		}
	})
	t.Run("start at once", func(t *testing.T) {
		t.Parallel()
		url := database(t, "at once")
		var all sync.WaitGroup
		for _, name := range []string{"a", "b", "c", "a", "b", "c"} {
			all.Go(func() { wantSchema(t, url, name, name, "") })
		}
		all.Wait()
	})
	t.Run("the same under another name", func(t *testing.T) {
		t.Parallel()
		url := database(t, "renamed")
		wantSchema(t, url, "dashboard", "dashboard", "public")
		wantSchema(t, url, "second", "dashboard", "second")
		wantSchema(t, url, "dashboard", "dashboard", "public")
	})
	t.Run("one of an older state", func(t *testing.T) {
		t.Parallel()
		pool := pgtest.New(t)
		if err := migrate.Up(t.Context(), pool, "", stock("old")); err != nil {
			t.Fatal(err)
		}
		wantSchema(t, pgtest.URL(pool), "new", "new", "new")
		wantSchema(t, pgtest.URL(pool), "renamed", "old", "public")
	})
	t.Run("one that was stopped before its own migrations", func(t *testing.T) {
		t.Parallel()
		for _, set := range []string{"publish", "subscribe", "access"} {
			pool := pgtest.New(t)
			begun := stock(set)
			begun.FS = fstest.MapFS{"00001_begun.sql": {Data: []byte("-- +goose Up\nCREATE TABLE begun ();\n")}}
			if err := migrate.Up(t.Context(), pool, "", begun); err != nil {
				t.Fatal(err)
			}
			wantSchema(t, pgtest.URL(pool), "sales", "sales", "public")
		}
	})
	t.Run("keep theirs when the first one has left", func(t *testing.T) {
		t.Parallel()
		pool := pgtest.New(t)
		wantSchema(t, pgtest.URL(pool), "sales", "sales", "public")
		wantSchema(t, pgtest.URL(pool), "warehouse", "warehouse", "warehouse")
		change(t, pool, `drop schema public cascade`)
		wantSchema(t, pgtest.URL(pool), "warehouse", "warehouse", "warehouse")
		change(t, pool, `create schema public`) // as where only the other schema of a dump was restored
		wantSchema(t, pgtest.URL(pool), "warehouse", "warehouse", "warehouse")
		wantSchema(t, pgtest.URL(pool), "third", "third", "public")
		wantSchema(t, pgtest.URL(pool), "warehouse", "warehouse", "warehouse")
	})
	t.Run("with a role that is named as the second one", func(t *testing.T) {
		t.Parallel()
		pool := pgtest.New(t)
		role := newRole(t, pool, "")
		change(t, pool, fmt.Sprintf(`grant all on database %q to %q; grant all on schema public to %[2]q`, pool.Config().ConnConfig.Database, role))
		url := as(t, pool, role)
		for range 2 { // $user comes before public in search_path
			wantSchema(t, url, "warehouse", "warehouse", "public")
			wantSchema(t, url, role, "sales", role)
		}
	})
	t.Run("go on in theirs when a schema with the role's name is made", func(t *testing.T) {
		t.Parallel()
		pool := pgtest.New(t)
		role := newRole(t, pool, "")
		change(t, pool, fmt.Sprintf(`grant all on database %q to %q; grant all on schema public to %[2]q`, pool.Config().ConnConfig.Database, role))
		db, err := postgres.Open(t.Context(), postgres.Config{URL: as(t, pool, role), Name: "warehouse"}, parts, stock("warehouse"))
		if err != nil {
			t.Fatal(err)
		}
		defer db.Close()
		wantSchema(t, as(t, pool, role), role, "sales", role) // which comes first in the role's search_path now
		db.Reset()
		var others int
		if err := db.QueryRow(t.Context(), `select count(*) from stock where service <> 'warehouse'`).Scan(&others); err != nil || others > 0 {
			t.Errorf("it reads %d rows of another service, %v", others, err)
		}
	})
	t.Run("with a role and schema that are named as the second one", func(t *testing.T) {
		t.Parallel()
		pool := pgtest.New(t)
		role := newRole(t, pool, "")
		change(t, pool, fmt.Sprintf(`create schema %q authorization %[1]q`, role))
		wantSchema(t, as(t, pool, role), "warehouse", "warehouse", role)
		db, err := postgres.Open(t.Context(), postgres.Config{URL: as(t, pool, role), Name: role}, parts, stock("sales"))
		if err == nil {
			db.Close()
		}
		if err == nil || !strings.Contains(err.Error(), "search_path") {
			t.Errorf("error %v", err)
		}
	})
	t.Run("in schemas that are there, with a role that may create none", func(t *testing.T) {
		t.Parallel()
		pool := pgtest.New(t)
		role := newRole(t, pool, "Role-")
		change(t, pool, fmt.Sprintf(`create schema %q authorization %[1]q; create schema "dash-Board" authorization %[1]q`, role))
		for range 2 {
			wantSchema(t, as(t, pool, role), "warehouse", "warehouse", role)
			wantSchema(t, as(t, pool, role), "dash-Board", "dashboard", "dash-Board")
		}
		db, err := postgres.Open(t.Context(), postgres.Config{URL: as(t, pool, role), Name: "third"}, parts, stock("third"))
		if err == nil {
			db.Close()
		}
		if err == nil || !strings.Contains(err.Error(), "create the schema third, since other services use this database") {
			t.Errorf("error %v", err)
		}
	})
	t.Run("in one schema, as the URL says, cannot have tables of one name", func(t *testing.T) {
		t.Parallel()
		url := database(t, "one schema")
		wantSchema(t, url, "sales", "sales", "public")
		db, err := postgres.Open(t.Context(), postgres.Config{URL: url + "&search_path=public", Name: "parts"}, stock("parts2"))
		if err == nil {
			db.Close()
		}
		if err == nil || !strings.Contains(err.Error(), "names of their own") {
			t.Errorf("error %v", err)
		}
	})
	for how, x := range map[string]struct {
		begin, then func(t *testing.T, pool *pgxpool.Pool, role string) (url string)
	}{
		"another role": {
			func(t *testing.T, pool *pgxpool.Pool, role string) string {
				change(t, pool, fmt.Sprintf(`create schema %q authorization %[1]q`, role))
				return as(t, pool, role)
			},
			func(_ *testing.T, pool *pgxpool.Pool, _ string) string { return pgtest.URL(pool) },
		},
		"another search_path of the database": {
			func(t *testing.T, pool *pgxpool.Pool, role string) string {
				change(t, pool, fmt.Sprintf(`create schema %q`, role))
				change(t, pool, fmt.Sprintf(`alter database %q set search_path = %q`, pool.Config().ConnConfig.Database, role))
				return pgtest.URL(pool)
			},
			func(t *testing.T, pool *pgxpool.Pool, _ string) string {
				change(t, pool, fmt.Sprintf(`alter database %q reset search_path`, pool.Config().ConnConfig.Database))
				return pgtest.URL(pool)
			},
		},
	} {
		t.Run("gets no second tables by "+how, func(t *testing.T) {
			t.Parallel()
			pool := pgtest.New(t)
			role := newRole(t, pool, "")
			wantSchema(t, x.begin(t, pool, role), "warehouse", "warehouse", role)
			url := x.then(t, pool, role)
			db, err := postgres.Open(t.Context(), postgres.Config{URL: url, Name: "warehouse"}, parts, stock("warehouse"))
			if err == nil {
				db.Close()
			}
			if err == nil || !strings.Contains(err.Error(), "search_path="+role) {
				t.Errorf("error %v", err)
			}
			var made int
			if err := pool.QueryRow(t.Context(), `select count(*) from pg_class where relname = 'stock'`).Scan(&made); err != nil || made != 1 {
				t.Errorf("there are %d tables, %v", made, err)
			}
			wantSchema(t, url+"&search_path="+role, "warehouse", "warehouse", role)
			wantSchema(t, url, "sales", "sales", "public")
		})
	}
	for how, spoil := range map[string]func(string) string{
		"as the URL says":      func(url string) string { return url + "&search_path=nowhere" },
		"as its options say":   func(url string) string { return url + "&options=-csearch_path%3Dnowhere" },
		"as the database says": func(url string) string { return url },
	} {
		t.Run("in a schema that does not exist, "+how, func(t *testing.T) {
			t.Parallel()
			pool := pgtest.New(t)
			change(t, pool, fmt.Sprintf(`alter database %q set search_path = nowhere`, pool.Config().ConnConfig.Database))
			db, err := postgres.Open(t.Context(), postgres.Config{URL: spoil(pgtest.URL(pool)), Name: "parts"}, parts)
			if err == nil {
				db.Close()
			}
			if err == nil || !strings.Contains(err.Error(), "no schema of the search_path, nowhere") {
				t.Errorf("error %v", err)
			}
		})
	}
}

// A process of another program's database uses the tables where they are, and makes none where others would not look.
func TestForeignDatabase(t *testing.T) {
	t.Parallel()
	open := func(t *testing.T, url string) (schema, comment string, err error) {
		db, err := postgres.Open(t.Context(), postgres.Config{URL: url, Name: "serve", Foreign: true}, stock("publish"))
		if err != nil {
			return "", "", err
		}
		defer db.Close()
		err = db.QueryRow(t.Context(), `select current_schema(), coalesce(obj_description('goose_publish'::regclass, 'pg_class'), '') from stock`).Scan(&schema, &comment)
		return schema, comment, err
	}
	for how, x := range map[string]struct {
		before string // SQL
		in     string // where the tables are made
		after  string // SQL
	}{
		"without other tables":             {"", "public", ""},
		"beside tables of another service": {`create table goose_sales (version_id bigint)`, "public", ""},
		"in a later schema":                {"", "public", `create schema postgres authorization current_user`},
		"in a schema of search_path alone": {"", "sales", ""},
	} {
		t.Run(how, func(t *testing.T) {
			t.Parallel()
			pool := pgtest.New(t)
			change(t, pool, x.before)
			if err := migrate.Up(t.Context(), pool, x.in, stock("publish")); err != nil {
				t.Fatal(err)
			}
			change(t, pool, `insert into `+x.in+`.stock values ('x')`)
			change(t, pool, x.after)
			at := pgtest.URL(pool)
			if x.in != "public" {
				if _, _, err := open(t, at); err == nil || !strings.Contains(err.Error(), "the schema sales, to which") {
					t.Errorf("error %v", err)
				}
				at += "&search_path=" + x.in
			}
			if schema, comment, err := open(t, at); err != nil || schema != x.in || comment != "" {
				t.Errorf("schema %s, comment %q, error %v", schema, comment, err)
			}
		})
	}
}

// A process that waits for another one at its start says so.
func TestWaitForAnotherStart(t *testing.T) {
	t.Parallel()
	pgtest.Slow(t, "timeouts")
	pool := pgtest.New(t)
	holder, err := pool.Acquire(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer holder.Release()
	if _, err := holder.Exec(t.Context(), `select pg_advisory_lock(x'736368656d61'::bigint)`); err != nil {
		t.Fatal(err)
	}
	var log lockedBuffer
	opened := make(chan error, 1)
	go func() {
		db, err := postgres.Open(t.Context(), postgres.Config{
			URL: pgtest.URL(pool), Name: "parts", Logger: slog.New(slog.NewTextHandler(&log, nil)),
		}, parts)
		if err == nil {
			db.Close()
		}
		opened <- err
	}()
	eventually(t, "it says that it waits", func() bool { return strings.Contains(log.String(), "waiting for another process") })
	if _, err := holder.Exec(t.Context(), `select pg_advisory_unlock(x'736368656d61'::bigint)`); err != nil {
		t.Fatal(err)
	}
	if err := <-opened; err != nil {
		t.Error(err)
	}
}
