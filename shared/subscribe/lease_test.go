package subscribe

import (
	"context"
	"fmt"
	"io"
	"strings"
	"syscall"
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/edison-cars/data-feeds/shared/dev/exectest"
	"github.com/edison-cars/data-feeds/shared/postgres/pgtest"
	"github.com/edison-cars/data-feeds/sql"
)

const replicaPublishes = "TEST_PUBLISHES" // a setting of a replica: whether it publishes

// runReplica is the service of a replica, a process of its own. Its Apply notes when another one applies at the same time.
func runReplica(ctx context.Context, set map[string]string, stdout io.Writer) error {
	set["ACCESS"] = "open"
	s := thingService()
	if set[replicaPublishes] != "" {
		return echoService().Run(ctx, set, stdout)
	}
	s.Feeds[0].Apply = func(ctx context.Context, tx pgx.Tx, b *Batch) error {
		var alone bool
		err := tx.QueryRow(ctx, `select pg_try_advisory_xact_lock(1), pg_sleep(0.01)`).Scan(&alone, nil)
		if err == nil && !alone {
			fmt.Fprintln(stdout, "TWO APPLY AT ONCE")
		}
		if err != nil {
			return err
		}
		return copyThings(ctx, tx, b)
	}
	return s.Run(ctx, set, stdout)
}

func signal(t *testing.T, p *exectest.Process, signal syscall.Signal) {
	t.Helper()
	if err := p.Process.Signal(signal); err != nil {
		t.Fatal(err)
	}
}

// has returns what waits until the copy has n things.
func has(t testing.TB, pool *pgxpool.Pool, n int) {
	t.Helper()
	eventually(t, fmt.Sprintf("%d things are there", n), func() bool { return count(t, pool, `select count(*) from thing`) == n })
}

func TestReplicas(t *testing.T) {
	t.Parallel()
	pgtest.Slow(t, "processes")
	begin := func(t *testing.T) (*source, *pgxpool.Pool, map[string]string) {
		s := newSource(t)
		s.put(t, 1, 25)
		pool := pgtest.New(t, sql.Migrations("subscribe"), thingMigrations)
		return s, pool, map[string]string{"DATABASE_URL": pgtest.URL(pool), "FEED_URL_THINGS": s.feedURL(), "PAGE_SIZE": "5"}
	}
	isCopy := func(t *testing.T, s *source, pool *pgxpool.Pool) {
		t.Helper()
		c := s.copier(t, pool, 10)
		defer c.fetcher.client.Close()
		c.wantUpToDate(t, s)
	}

	t.Run("processes that are killed and that hang", func(t *testing.T) {
		t.Parallel()
		s, pool, env := begin(t)
		first := exectest.Self(t, env)
		has(t, pool, 25)
		second := exectest.Self(t, env)
		eventually(t, "the second one is ready without a poll of its own", func() bool { return status(t, second.URL+"/readyz") == 200 })
		if one, two := subscription(t, first.URL), subscription(t, second.URL); one.Standby || !two.Standby || one.Cursor != two.Cursor || two.State != Fresh {
			t.Errorf("the first shows %+v, the second %+v", one, two)
		}
		s.put(t, 20, 200)
		signal(t, first, syscall.SIGKILL) // as likely as not in the middle
		has(t, pool, 200)
		eventually(t, "the second one polls", func() bool { return !subscription(t, second.URL).Standby })
		third := exectest.Self(t, env)

		eventually(t, "it hangs with no transaction open", func() bool {
			signal(t, second, syscall.SIGSTOP)
			if count(t, pool, `select count(*) from pg_stat_activity where datname = current_database() and pid <> pg_backend_pid() and xact_start is not null`) == 0 {
				return true
			}
			signal(t, second, syscall.SIGCONT)
			return false
		})
		s.put(t, 180, 300)
		has(t, pool, 300)
		eventually(t, "the third one polls", func() bool { return !subscription(t, third.URL).Standby })
		signal(t, second, syscall.SIGCONT)
		eventually(t, "the one that hung stands by", func() bool { return subscription(t, second.URL).Standby })
		s.put(t, 290, 310)
		has(t, pool, 310)
		eventually(t, "the one that stands by shows how far the other is", func() bool {
			return subscription(t, second.URL).Cursor == subscription(t, third.URL).Cursor && subscription(t, second.URL).State == Fresh
		})
		isCopy(t, s, pool)
		for _, r := range []*exectest.Process{first, second, third} {
			if strings.Contains(r.Log(t), "TWO APPLY") {
				t.Errorf("%s", r.Log(t))
			}
		}
	})

	t.Run("a connection with the lock that is cut, again and again", func(t *testing.T) {
		t.Parallel()
		s, pool, env := begin(t)
		one, _, _ := start(t, env)
		two, _, _ := start(t, env)
		has(t, pool, 25)
		for n := 26; n <= 30; n++ {
			cut := 0
			eventually(t, "one has the lock", func() bool {
				cut = count(t, pool, `
					select count(pg_terminate_backend(pid)) from pg_locks
					 where locktype = 'advisory' and granted and database = (select oid from pg_database where datname = current_database()) and objsubid = 1`)
				return cut > 0
			})
			if cut > 1 {
				t.Errorf("%d had the lock", cut)
			}
			s.put(t, n, n)
			has(t, pool, n)
		}
		eventually(t, "one of the two polls", func() bool { return subscription(t, one).Standby != subscription(t, two).Standby })
		isCopy(t, s, pool)
	})

	t.Run("a lock that nobody gives back for a while: served, not polled", func(t *testing.T) {
		t.Parallel()
		s, pool, env := begin(t)
		conn, err := pgx.Connect(t.Context(), pgtest.URL(pool))
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close(context.Background())
		if _, err := conn.Exec(t.Context(), `select pg_advisory_lock(`+lockKey+`)`, "test"); err != nil {
			t.Fatal(err)
		}
		url, _, log := start(t, env)
		eventually(t, "it says why it does not poll", func() bool { return strings.Contains(log.String(), ErrStandby.Error()) })
		if shown := subscription(t, url); !shown.Standby {
			t.Errorf("%+v", shown)
		}
		if len(s.exchanges()) > 0 {
			t.Error("it polls")
		}
		if err := conn.Close(t.Context()); err != nil {
			t.Fatal(err)
		}
		has(t, pool, 25)
		isCopy(t, s, pool)
	})

	t.Run("a table that is locked by somebody else: it does not say that another process polls", func(t *testing.T) {
		t.Parallel()
		_, pool, env := begin(t)
		url, _, _ := start(t, env)
		has(t, pool, 25)
		err := pgx.BeginFunc(t.Context(), pool, func(tx pgx.Tx) error {
			if _, err := tx.Exec(t.Context(), `lock table subscription_setting in access exclusive mode`); err != nil {
				return err
			}
			eventually(t, "it stops polling", func() bool { return subscription(t, url).Standby })
			_, text := get(t, url+"/subscriptions", "text/html")
			if strings.Contains(text, "another process") || !strings.Contains(text, "none by this process until its database answers") {
				t.Errorf("it shows:\n%s", text)
			}
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
		eventually(t, "it polls again", func() bool { return !subscription(t, url).Standby })
	})

	// A host that is gone in mid-transaction would keep its locks for hours.
	t.Run("what a transaction may keep from others is bounded", func(t *testing.T) {
		t.Parallel()
		s := newSource(t)
		s.put(t, 1, 1)
		c := newCopier(t, s)
		var lock, idle string
		c.Apply = func(ctx context.Context, tx pgx.Tx, b *Batch) error {
			if err := tx.QueryRow(ctx, `select current_setting('lock_timeout'), current_setting('idle_in_transaction_session_timeout')`).Scan(&lock, &idle); err != nil {
				return err
			}
			return copyThings(ctx, tx, b)
		}
		c.mustPoll(t)
		if lock != "30s" || idle != "1min" {
			t.Errorf("lock_timeout %s, idle_in_transaction_session_timeout %s", lock, idle)
		}
	})
}
