package postgres_test

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"net/url"
	"path/filepath"
	"strings"
	"testing"
	"testing/fstest"

	"github.com/edison-cars/data-feeds/shared/migrate"
	"github.com/edison-cars/data-feeds/shared/postgres"
	"github.com/edison-cars/data-feeds/shared/postgres/pgtest"
)

// database is a URL of the tests' server that names another database.
func database(t *testing.T, name string) string {
	t.Helper()
	u, err := url.Parse(pgtest.URL(pgtest.New(t)))
	if err != nil {
		t.Fatal(err)
	}
	u.Path = "/" + name
	return u.String()
}

func TestMissingDatabaseIsCreated(t *testing.T) {
	t.Parallel()
	for _, test := range []struct{ path, want string }{
		{"a-new database", "a-new database"},
		{"", "sales"},
	} {
		cfg := postgres.Config{URL: database(t, test.path), Name: "sales"}
		errs := make(chan error)
		for range 4 { // replicas
			go func() {
				db, err := postgres.Open(t.Context(), cfg, parts)
				if err == nil {
					var database, application, timezone string
					err = db.QueryRow(t.Context(), "SELECT current_database(), current_setting('application_name'), current_setting('timezone')").
						Scan(&database, &application, &timezone)
					if database != test.want || application != "sales" || timezone != "UTC" {
						t.Errorf("connected to %q as %q, time zone %q", database, application, timezone)
					}
					db.Close()
				}
				errs <- err
			}()
		}
		for range 4 {
			if err := <-errs; err != nil {
				t.Error(err)
			}
		}
	}
}

func TestMigrate(t *testing.T) {
	t.Parallel()
	t.Run("several replicas at once apply each migration once", func(t *testing.T) {
		t.Parallel()
		pool := pgtest.New(t)
		orders := postgres.Migrations{Name: "orders", FS: fstest.MapFS{
			"00001_order.sql": {Data: []byte("-- +goose Up\nCREATE TABLE part_order (part text REFERENCES part);\n")},
		}}
		errs := make(chan error)
		for range 2 {
			go func() { errs <- migrate.Up(t.Context(), pool, "", parts, orders) }()
		}
		if err := errors.Join(<-errs, <-errs); err != nil {
			t.Fatal(err)
		}
		var applied int
		err := pool.QueryRow(t.Context(), `SELECT (SELECT count(*) FROM goose_parts WHERE version_id > 0) +
			(SELECT count(*) FROM goose_orders WHERE version_id > 0)`).Scan(&applied)
		if err != nil || applied != 3 {
			t.Errorf("%d migrations applied, error %v, want 3", applied, err)
		}
	})
	t.Run("a bad one is named and leaves nothing", func(t *testing.T) {
		t.Parallel()
		pool := pgtest.New(t)
		bad := postgres.Migrations{Name: "parts", FS: fstest.MapFS{
			"00001_part.sql": {Data: []byte("-- +goose Up\nCREATE TABLE part (name text);\nCREATE TABLE part (name text);\n")},
		}}
		err := migrate.Up(t.Context(), pool, "", bad)
		if err == nil || !strings.Contains(err.Error(), "migrate parts: ") || !strings.Contains(err.Error(), "00001_part.sql") {
			t.Errorf("error: %v", err)
		}
		if err := migrate.Up(t.Context(), pool, "", parts); err != nil {
			t.Errorf("after it was corrected: %v", err)
		}
	})
}

func TestServerThatComesLater(t *testing.T) {
	t.Parallel()
	private := postgres.Volatile(postgres.Config{Dir: pgtest.Dir(t), Name: "sales"})
	u := url.URL{Scheme: "postgres", User: url.User("postgres"), Path: "/sales",
		RawQuery: url.Values{"host": {filepath.Join(private.Dir, "sales")}}.Encode()}
	var log lockedBuffer
	cfg := postgres.Config{URL: u.String(), Name: "sales", Logger: slog.New(slog.NewTextHandler(&log, nil))}

	waiting := func() bool { return strings.Contains(log.String(), "waiting") }
	ctx, cancel := context.WithCancel(t.Context())
	go func() {
		eventually(t, "the log says that Open waits", waiting)
		cancel()
	}()
	if _, err := postgres.Open(ctx, cfg); !errors.Is(err, context.Canceled) {
		t.Errorf("error when cancelled: %v", err)
	}

	errs := make(chan error)
	go func() {
		db, err := postgres.Open(t.Context(), cfg)
		if err == nil {
			db.Close()
		}
		errs <- err
	}()
	open(t, private)
	if err := <-errs; err != nil {
		t.Error(err)
	}
}

func TestPasswordStaysSecret(t *testing.T) {
	t.Parallel()
	pool := pgtest.New(t)
	host := url.QueryEscape(pool.Config().ConnConfig.Host)
	for _, test := range []string{
		"postgres://sales:p-s3cret@/?sslmode=disable&host=" + host,          // no such role
		"postgres://sales:p-s3cret@/x?sslmode=disable&host=/nowhere",        // no such server
		"postgres://sales@/x?sslmode=disable&host=/nowhere&password=s3cret", // the same
		"postgres://sales:p-s3cret@localhost:http/x",
		"postgres://sales:p/s3cret@localhost/x",
		"postgres://sales:1/s3cret@localhost/x",
		"postgres://sales:p@s3cret@localhost/x",
		"postgres://sales:p%s3cret@localhost/x",
		"postgres://sales:s3cret@localhost/x?sslmode=whatever",
		"postgres://sales:s3cret@localhost/x?sslmode=verify-full&sslrootcert=/nowhere",
		"host=localhost password=s3cret",
		"s3cret",
	} {
		var log bytes.Buffer
		ctx, cancel := context.WithTimeout(t.Context(), patience/200)
		_, err := postgres.Open(ctx, postgres.Config{URL: test, Name: "sales", Logger: slog.New(slog.NewTextHandler(&log, nil))})
		cancel()
		if err == nil {
			t.Errorf("%s: no error", test)
		} else if text := err.Error() + log.String(); strings.Contains(text, "s3cret") {
			t.Errorf("%s: the password shows in %s", test, text)
		}
	}
}
