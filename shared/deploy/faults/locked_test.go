package faults_test

import (
	"errors"
	"fmt"
	"net/http"
	"testing"

	"github.com/jackc/pgx/v5"

	"github.com/edison-cars/data-feeds/shared/postgres/pgtest"
)

// Somebody keeps a lock by hand: a service is not ready while that keeps it from what it is for, and is again once it
// is gone.
func TestLocksByHand(t *testing.T) {
	t.Parallel()
	server := pgtest.NewServer(t)
	p := newInProcess(server.URL)
	for _, name := range []string{"sales", "customers", "warehouse"} {
		p.start(t, name)
	}
	if err := p.buy(); err != nil {
		t.Fatal(err)
	}
	p.copied(t, server)
	for _, name := range []string{"sales", "warehouse"} {
		execute(t, server.URL(name), `create table ledger ()`)
	}
	for _, lock := range []struct {
		service, statement string
		ready              bool
	}{
		{"sales", "lock table orders in access exclusive mode", false},
		{"sales", "lock table orders in share mode", false}, // as by create index
		{"sales", "lock table feed_entry in exclusive mode", false},
		{"sales", "lock table idempotency_key in access exclusive mode", false},
		{"sales", "select from feed for update", false},
		{"sales", "update feed set listed = listed", false},
		{"sales", "lock table orders in access share mode", true},
		{"sales", "select from orders for update", true},
		{"customers", "lock table customer in share row exclusive mode", false},
		{"warehouse", "lock table part in access exclusive mode", false},
		{"warehouse", "lock table subscription_setting in access exclusive mode", false},
		{"warehouse", "lock table rejected_entry in access exclusive mode", false},
		{"warehouse", "lock table part in exclusive mode", true},      // the copy serves
		{"sales", "lock table ledger in access exclusive mode", true}, // somebody else's
		{"warehouse", "lock table ledger in access exclusive mode", true},
		{"warehouse", "select from subscription for update", true},
	} {
		t.Run(lock.service+": "+lock.statement, func(t *testing.T) {
			holder, err := pgx.Connect(t.Context(), server.URL(lock.service))
			if err != nil {
				t.Fatal(err)
			}
			defer holder.Close(t.Context())
			if _, err := holder.Exec(t.Context(), "begin; "+lock.statement); err != nil {
				t.Fatal(err)
			}
			if err := ready(lock.service, p.urls[lock.service]); (err == nil) != lock.ready {
				t.Errorf("ready: %v", err)
			}
			if status, _, text, err := ask(http.MethodGet, p.urls[lock.service]+"/livez", "", nil); err != nil || status != http.StatusOK {
				t.Errorf("livez: %d %s %v", status, text, err)
			}
			if _, err := holder.Exec(t.Context(), "rollback"); err != nil {
				t.Fatal(err)
			}
			eventually(t, func() error { return ready(lock.service, p.urls[lock.service]) })
		})
	}
	eventually(t, p.buy)
	p.copied(t, server)
}

// A poll that somebody asks for fails by the database: it may be tried again.
func TestPollOfALockedDatabase(t *testing.T) {
	t.Parallel()
	server := pgtest.NewServer(t)
	p := newInProcess(func(name string) string { return server.URL(name) + "&lock_timeout=1s" })
	p.start(t, "sales")
	p.start(t, "warehouse")
	if err := p.buy(); err != nil {
		t.Fatal(err)
	}
	p.copied(t, server)
	holder, err := pgx.Connect(t.Context(), server.URL("warehouse"))
	if err != nil {
		t.Fatal(err)
	}
	defer holder.Close(t.Context())
	if _, err := holder.Exec(t.Context(), "begin; select from subscription for update"); err != nil {
		t.Fatal(err)
	}
	eventually(t, func() error {
		if err := p.buy(); err != nil {
			return err
		}
		status, header, text, err := ask(http.MethodPost, p.urls["warehouse"]+"/subscriptions/orders/poll", "", nil)
		switch {
		case err != nil:
			return err
		case status == http.StatusOK:
			return errors.New("it polled")
		case status != http.StatusServiceUnavailable || header.Get("Retry-After") == "":
			t.Errorf("%d %s", status, text)
		}
		return nil
	})
	if _, err := holder.Exec(t.Context(), "rollback"); err != nil {
		t.Fatal(fmt.Errorf("rollback: %w", err))
	}
	p.copied(t, server)
}
