package postgres_test

import (
	"strings"
	"sync"
	"testing"
	"testing/fstest"

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
		if err := postgres.Migrate(t.Context(), pool, stock("old")); err != nil {
			t.Fatal(err)
		}
		wantSchema(t, pgtest.URL(pool), "new", "new", "new")
		wantSchema(t, pgtest.URL(pool), "renamed", "old", "public")
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
}
