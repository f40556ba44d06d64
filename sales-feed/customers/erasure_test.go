package customers

import (
	"encoding/hex"
	"encoding/json"
	"errors"
	"log/slog"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/edison-cars/data-feeds/sales-feed/buyer"
	"github.com/edison-cars/data-feeds/shared/daemon"
	"github.com/edison-cars/data-feeds/shared/postgres/pgtest"
	"github.com/edison-cars/data-feeds/shared/publish"
	"github.com/edison-cars/data-feeds/shared/web"
)

// startErasing starts the app with a list of erased ids.
func startErasing(t *testing.T, pool *pgxpool.Pool, file string) *app {
	t.Helper()
	var settings Settings
	if err := daemon.Parse(map[string]string{"ACCESS": "open", "ERASED_FILE": file, "STOREFRONT_URL": "https://shop.example", "BUYER_KEY": buyerKey}, &settings); err != nil {
		t.Fatal(err)
	}
	logger := slog.New(slog.NewTextHandler(t.Output(), nil))
	log, err := publish.Open(t.Context(), pool, publish.Options{Logger: logger, Erasures: Erasures(settings)})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(log.Close)
	server := httptest.NewUnstartedServer(nil)
	settings.PublicURL = web.Site("http://" + server.Listener.Addr().String())
	buyers, err := buyer.New(buyer.Customers, settings.StorefrontURL, settings.Buyer, "", pool)
	if err != nil {
		t.Fatal(err)
	}
	server.Config.Handler = handlerOf(t, settings, pool, log, logger)
	server.Start()
	t.Cleanup(server.Close)
	return &app{server, pool, log, buyers, func() {}}
}

// An erased account stays erased in all answers of the app, whatever the database is restored to.
func TestRestoreOverAnErasure(t *testing.T) {
	t.Parallel()
	pgtest.Slow(t, "restores")
	pool, file := pgtest.New(t, Migrations()...), filepath.Join(t.TempDir(), "customers.erased")
	a, replica := startErasing(t, pool, file), startErasing(t, pool, file)
	_, p := a.json(t, "POST", "/customers", ada, 201, "Idempotency-Key", "ada")
	bob := strings.NewReplacer("Ada Lovelace", "Bob", "ada@", "bob@", "St James Square 12", "Road 1", "London", "Leeds").Replace(ada)
	_, stays := a.json(t, "POST", "/customers", bob, 201, "Idempotency-Key", "bob")
	dump := pgtest.DumpFile(t, pool)
	if resp, body := a.do(t, "DELETE", path(p.ID), ""); resp.StatusCode != 204 {
		t.Fatalf("%d %s", resp.StatusCode, body)
	}
	paths := []string{path(p.ID), "/feeds/customers", "/feeds/customers?after=0", "/feeds/customers.atom", "/feeds/customers/" + p.ID.String(), "/customers"}
	for _, first := range paths { // after each restore another one is asked first
		pgtest.RestoreFile(t, pool, dump, "--single-transaction")
		pool.Reset() // of what the connections know of the tables that were
		for _, path := range append([]string{first}, paths...) {
			for _, of := range []*app{replica, a} {
				for _, accept := range []string{"*/*", "text/html"} {
					resp, body := of.do(t, "GET", path, "", "Accept", accept)
					for tries := 0; resp.StatusCode == 503 && tries < 100; tries++ { // it is being erased again
						time.Sleep(100 * time.Millisecond)
						resp, body = of.do(t, "GET", path, "", "Accept", accept)
					}
					if strings.Contains(body, "Lovelace") || resp.StatusCode >= 500 {
						t.Errorf("%s: %d %s", path, resp.StatusCode, body)
					}
				}
			}
		}
		dumped := a.dump(t)
		for _, word := range []string{"Lovelace", "ada@example.com", "St James"} {
			if strings.Contains(dumped, word) || strings.Contains(dumped, hex.EncodeToString([]byte(word))) {
				t.Errorf("the database has %q", word)
			}
		}
	}
	if resp, _ := a.do(t, "GET", path(p.ID), ""); resp.StatusCode != 404 {
		t.Errorf("the account answers %d", resp.StatusCode)
	}
	if resp, body := a.do(t, "GET", path(stays.ID), ""); resp.StatusCode != 200 || !strings.Contains(body, "Bob") {
		t.Errorf("another account: %d %s", resp.StatusCode, body)
	}
	// A sign-up that is repeated does not get the answer that the dump has.
	again := startErasing(t, pool, file) // it has written nothing, and knows no table of before
	pgtest.RestoreFile(t, pool, dump, "--single-transaction")
	pool.Reset()
	if _, second := again.json(t, "POST", "/customers", ada, 201, "Idempotency-Key", "ada"); second.ID == p.ID {
		t.Error("the repeated sign-up is answered with the account that was erased")
	}
}

// A token that ended when the address was confirmed opens nothing again once the owner has used a newer one, however
// the database goes back.
func TestRestoreOverAConfirmation(t *testing.T) {
	t.Parallel()
	pgtest.Slow(t, "restores")
	a := open(t)
	_, p := a.json(t, "POST", "/customers", ada, 201)
	stranger, dump := a.as(t, p.ID), pgtest.DumpFile(t, a.pool)
	a.keepLink(t, "link", p.ID, p.Email, "now() + interval '1 minute'")
	if resp, text := a.do(t, "POST", "/signin/link", ""); resp.StatusCode != 200 {
		t.Fatal(resp.Status, text)
	}
	owner := a.as(t, p.ID)
	pgtest.RestoreFile(t, a.pool, dump, "--single-transaction")
	a.pool.Reset()
	a.json(t, "GET", path(p.ID), "", 200, owner...)
	if resp, text := a.do(t, "GET", path(p.ID), "", stranger...); resp.StatusCode != 401 {
		t.Errorf("the token of before: %s %s", resp.Status, text)
	}
	a.json(t, "GET", path(p.ID), "", 200, owner...)
}

// A table that is restored alone brings nobody back.
func TestRestoreOfATableOverAnErasure(t *testing.T) {
	t.Parallel()
	for name, restore := range map[string]string{
		"the accounts": `insert into customer table kept_customer`,
		"the answers to repeated sign-ups": `begin; set local session_replication_role = replica; -- as pg_restore --disable-triggers
			insert into idempotency_key table kept_key; commit`,
		"both": `begin; insert into customer table kept_customer; insert into idempotency_key table kept_key; commit`,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			pool, file := pgtest.New(t, Migrations()...), filepath.Join(t.TempDir(), "customers.erased")
			a := startErasing(t, pool, file)
			_, p := a.json(t, "POST", "/customers", ada, 201, "Idempotency-Key", "ada")
			for _, statement := range []string{`create table kept_customer as table customer`, `create table kept_key as table idempotency_key`} {
				if _, err := pool.Exec(t.Context(), statement); err != nil {
					t.Fatal(err)
				}
			}
			if resp, body := a.do(t, "DELETE", path(p.ID), ""); resp.StatusCode != 204 {
				t.Fatalf("%d %s", resp.StatusCode, body)
			}
			for _, ask := range []func(){
				func() { a.json(t, "GET", path(p.ID), "", 404) },
				func() {
					if resp, body := a.do(t, "GET", "/customers", "", operator...); resp.StatusCode != 200 || strings.Contains(body, "Lovelace") {
						t.Errorf("the list: %d %s", resp.StatusCode, body)
					}
				},
				func() { a.json(t, "PUT", path(p.ID), ada, 404) },
				func() { a.json(t, "DELETE", path(p.ID), "", 404) },
				func() {
					_, second := a.json(t, "POST", "/customers", ada, 201, "Idempotency-Key", "ada")
					if second.ID == p.ID {
						t.Error("the repeated sign-up is answered with the account that was erased")
					}
				},
			} {
				if _, err := pool.Exec(t.Context(), restore); err != nil {
					t.Fatal(err)
				}
				ask()
				if name == "the answers to repeated sign-ups" {
					if _, err := pool.Exec(t.Context(), `delete from idempotency_key where customer_id = $1`, p.ID); err != nil {
						t.Fatal(err)
					}
				}
			}
		})
	}
}

// Rows that are restored without their account are deleted at the next start.
func TestRestoreWithoutTheAccount(t *testing.T) {
	t.Parallel()
	pgtest.Slow(t, "restores")
	pool, file := pgtest.New(t, Migrations()...), filepath.Join(t.TempDir(), "customers.erased")
	a := startErasing(t, pool, file)
	_, p := a.json(t, "POST", "/customers", ada, 201, "Idempotency-Key", "ada")
	a.keepLink(t, "link", p.ID, p.Email, "now() + interval '1 minute'")
	for _, statement := range []string{`create table kept_link as table sign_in_link`, `create table kept_key as table idempotency_key`} {
		if _, err := pool.Exec(t.Context(), statement); err != nil {
			t.Fatal(err)
		}
	}
	if resp, body := a.do(t, "DELETE", path(p.ID), ""); resp.StatusCode != 204 {
		t.Fatalf("%d %s", resp.StatusCode, body)
	}
	_, err := pool.Exec(t.Context(), `begin; set local session_replication_role = replica; -- as pg_restore --disable-triggers
		insert into sign_in_link table kept_link; insert into idempotency_key table kept_key; drop table kept_link, kept_key; commit`)
	if err != nil {
		t.Fatal(err)
	}
	again := startErasing(t, pool, file)
	if strings.Contains(again.dump(t), p.Email) {
		t.Error("the database has the address")
	}
}

// Nothing is left of an account that is deleted while the tables' constraints are missing, as after a restore that
// ended before them.
func TestDeleteWithoutConstraints(t *testing.T) {
	t.Parallel()
	a := open(t)
	for _, table := range []string{"idempotency_key", "sign_in_link", "buyer_since"} {
		if _, err := a.pool.Exec(t.Context(), `alter table `+table+` drop constraint `+table+`_customer_id_fkey`); err != nil {
			t.Fatal(err)
		}
	}
	_, p := a.json(t, "POST", "/customers", ada, 201, "Idempotency-Key", "ada")
	a.keepLink(t, "link", p.ID, p.Email, "now() + interval '1 minute'")
	if _, err := a.pool.Exec(t.Context(), `insert into buyer_since (customer_id, since) values ($1, 0)`, p.ID); err != nil {
		t.Fatal(err)
	}
	if resp, body := a.do(t, "DELETE", path(p.ID), ""); resp.StatusCode != 204 {
		t.Fatalf("%d %s", resp.StatusCode, body)
	}
	var rows int
	if err := a.pool.QueryRow(t.Context(), `
		select (select count(*) from customer) + (select count(*) from idempotency_key) + (select count(*) from sign_in_link) + (select count(*) from buyer_since)`).Scan(&rows); err != nil || rows != 0 {
		t.Errorf("%d rows are left, %v", rows, err)
	}
}

// An account is not erased if the list of erased accounts cannot be written.
func TestDeleteWithoutList(t *testing.T) {
	t.Parallel()
	pool, file := pgtest.New(t, Migrations()...), filepath.Join(t.TempDir(), "customers.erased")
	a := startErasing(t, pool, file)
	for name, put := range map[string]func() error{
		"nothing":                  func() error { return nil },
		"a folder":                 func() error { return os.Mkdir(file, 0o700) },
		"a device that has no end": func() error { return os.Symlink("/dev/zero", file) },
		"a pipe":                   func() error { return syscall.Mkfifo(file, 0o600) },
	} {
		t.Run(name, func(t *testing.T) {
			_, p := a.json(t, "POST", "/customers", ada, 201)
			if err := errors.Join(os.Rename(file, file+".away"), put()); err != nil {
				t.Fatal(err)
			}
			for _, accept := range []string{"application/json", "text/html"} {
				resp, body := a.do(t, "DELETE", path(p.ID), "", "Accept", accept)
				if resp.StatusCode != 503 || resp.Header.Get("Retry-After") == "" || !strings.Contains(body, "Nothing was deleted") || strings.Contains(body, file) {
					t.Errorf("%d %v %s", resp.StatusCode, resp.Header, body)
				}
			}
			a.json(t, "GET", path(p.ID), "", 200)
			if err := os.Remove(file); err != nil && !errors.Is(err, os.ErrNotExist) {
				t.Fatal(err)
			}
			if err := os.Rename(file+".away", file); err != nil {
				t.Fatal(err)
			}
			if resp, _ := a.do(t, "DELETE", path(p.ID), ""); resp.StatusCode != 204 {
				t.Errorf("%d", resp.StatusCode)
			}
		})
	}
}

// While what was erased cannot be kept so, nothing of people is served, and the app is not ready.
func TestNotReadyWithABrokenList(t *testing.T) {
	t.Parallel()
	pool, file := pgtest.New(t, Migrations()...), filepath.Join(t.TempDir(), "customers.erased")
	a := startErasing(t, pool, file)
	_, p := a.json(t, "POST", "/customers", ada, 201)
	list, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	for name, line := range map[string]string{"a broken line": "2026-11-28 customers\n", "another feed": "2026-11-28T21:04:05Z others " + p.ID.String() + "\n"} {
		if err := os.WriteFile(file, append(slices.Clone(list), line...), 0o600); err != nil {
			t.Fatal(err)
		}
		for range 2 {
			a.json(t, "GET", path(p.ID), "", 503)
			resp, body := a.do(t, "GET", "/readyz", "")
			if resp.StatusCode != 503 || resp.Header.Get("Retry-After") != "1" || strings.Contains(body, file) {
				t.Errorf("%s: readyz answers %d %v %s", name, resp.StatusCode, resp.Header, body)
			}
		}
		if err := os.WriteFile(file, list, 0o600); err != nil {
			t.Fatal(err)
		}
		a.json(t, "GET", path(p.ID), "", 200)
		if resp, body := a.do(t, "GET", "/readyz", ""); resp.StatusCode != 200 {
			t.Errorf("%s: in the end readyz answers %d %s", name, resp.StatusCode, body)
		}
	}
}

// The list lies beside the private server's data, wherever that is.
func TestErasedFile(t *testing.T) {
	t.Parallel()
	for _, x := range []struct{ dataDir, erasedFile, want string }{
		{"", "", filepath.Join(".edison", "customers.erased")},
		{"/data", "", "/data/customers.erased"},
		{"/data", "/elsewhere/customers", "/elsewhere/customers"},
	} {
		settings := Settings{AccountsSettings: AccountsSettings{ErasedFile: x.erasedFile}}
		settings.DataDir = x.dataDir
		if got := Erasures(settings).File; got != x.want {
			t.Errorf("%+v: %s", x, got)
		}
	}
}

// An id is given to an account once, whatever the database has forgotten.
func TestUsedIDs(t *testing.T) {
	t.Parallel()
	pgtest.Slow(t, "restores")
	pool, file := pgtest.New(t, Migrations()...), filepath.Join(t.TempDir(), "customers.erased")
	a := startErasing(t, pool, file)
	s := store{pool, a.log}
	unused := func(id uuid.UUID, want bool) {
		t.Helper()
		if got, err := s.unused(t.Context(), id); err != nil || got != want {
			t.Errorf("unused: %v, want %v: %v", got, want, err)
		}
	}
	visitor := uuid.New()
	unused(visitor, true)
	dump := pgtest.DumpFile(t, pool)
	var lovelace account
	if err := json.Unmarshal([]byte(ada), &lovelace); err != nil {
		t.Fatal(err)
	}
	var all sync.WaitGroup
	var first atomic.Int64
	for range 8 {
		all.Go(func() {
			p, err := s.signUp(t.Context(), lovelace, visitor, "")
			if err != nil {
				t.Error(err)
			} else if p.ID == visitor {
				first.Add(1)
			}
		})
	}
	all.Wait()
	if first.Load() != 1 {
		t.Errorf("%d of 8 sign-ups at once have the visitor's id", first.Load())
	}
	unused(visitor, false)
	if err := s.delete(t.Context(), buyer.Buyer{Customer: visitor}, nil); err != nil {
		t.Fatal(err)
	}
	unused(visitor, false)
	if p, err := s.signUp(t.Context(), lovelace, visitor, ""); err != nil || p.ID == visitor {
		t.Errorf("%+v, %v", p, err)
	}
	pgtest.RestoreFile(t, pool, dump, "--single-transaction")
	pool.Reset()
	unused(visitor, false)
	unused(uuid.New(), true)
}
