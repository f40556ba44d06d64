package source

import (
	"context"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/edison-cars/data-feeds/shared/postgres/pgtest"
	"github.com/edison-cars/data-feeds/shared/service"
	"github.com/edison-cars/data-feeds/sql"
)

func TestMain(m *testing.M) { pgtest.Main(m) }

func exec(t *testing.T, pool *pgxpool.Pool, statement string, args ...any) {
	t.Helper()
	if _, err := pool.Exec(t.Context(), statement, args...); err != nil {
		t.Fatal(err)
	}
}

const week = service.Age(7 * 24 * time.Hour)

func TestRemoveKeys(t *testing.T) {
	t.Parallel()
	for _, app := range []string{"sales", "customers"} {
		t.Run(app, func(t *testing.T) {
			t.Parallel()
			pool := pgtest.New(t, sql.Migrations("publish"), sql.Migrations(app))
			if app == "customers" {
				exec(t, pool, `insert into customer (id, version, name, email, street, postal_code, city, country, created_at, updated_at)
					values ('018f4e7c-5d1b-7c3a-9f00-2b6d1c8e4a11', 1, 'Ada', 'ada@example.com', '', '', '', 'GB', now(), now())`)
				exec(t, pool, `alter table idempotency_key alter customer_id set default '018f4e7c-5d1b-7c3a-9f00-2b6d1c8e4a11'`)
			}
			exec(t, pool, `insert into idempotency_key (key, request_hash, answer, created_at)
				select 'old-' || n, '', '', now() - interval '7 days 1 second' - n * interval '1 minute' from generate_series(1, $1) n`, 2*keysAtOnce+1)
			exec(t, pool, `insert into idempotency_key (key, request_hash, answer, created_at)
				select 'young-' || n, '', '', now() - n * interval '1 day' + interval '1 hour' from generate_series(0, 7) n`)
			keys := func() (list []string) {
				t.Helper()
				if err := pool.QueryRow(t.Context(), `select coalesce(array_agg(key order by created_at), '{}') from idempotency_key`).Scan(&list); err != nil {
					t.Fatal(err)
				}
				return list
			}
			remove := func(want int64) {
				t.Helper()
				if n, err := removeKeys(t.Context(), pool, week); err != nil || n != want {
					t.Errorf("%d keys are removed, %v, want %d", n, err, want)
				}
			}

			// Another process does it.
			other, err := pool.Begin(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			defer func() { _ = other.Rollback(context.WithoutCancel(t.Context())) }()
			if _, err := other.Exec(t.Context(), `select pg_advisory_xact_lock(hashtext('idempotency_key'))`); err != nil {
				t.Fatal(err)
			}
			remove(0)
			if err := other.Rollback(t.Context()); err != nil {
				t.Fatal(err)
			}

			remove(keysAtOnce)
			if left := keys(); len(left) != keysAtOnce+9 || left[0] != "old-501" {
				t.Errorf("%d keys are left, the first is %s", len(left), left[0])
			}
			remove(keysAtOnce)
			remove(1)
			remove(0)
			if left := strings.Join(keys(), " "); left != "young-7 young-6 young-5 young-4 young-3 young-2 young-1 young-0" {
				t.Errorf("left: %s", left)
			}
		})
	}
}

// The age of a key is not that by a clock which is wrong for a while: of the database, or of the machine since the
// start.
func TestKeysAndAWrongClock(t *testing.T) {
	t.Parallel()
	for name, wrong := range map[string]time.Duration{"ahead": 8 * 24 * time.Hour, "far ahead": 70 * 365 * 24 * time.Hour, "behind": -8 * 24 * time.Hour} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			pool := pgtest.New(t, sql.Migrations("publish"), sql.Migrations("sales"))
			exec(t, pool, `insert into idempotency_key (key, request_hash, answer) values ('kept', '', '')`)
			pgtest.SetClock(t, pool, wrong, "idempotency_key", "created_at")
			if n, err := removeKeys(t.Context(), pool, week); err != nil || n != 0 {
				t.Errorf("%d keys are removed, %v", n, err)
			}
		})
	}
}
