package faults_test

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"

	"github.com/edison-cars/data-feeds/shared/postgres/pgtest"
)

// execute runs statements, each on its own, in a database of the server.
func execute(t *testing.T, databaseURL string, statements ...string) {
	t.Helper()
	conn, err := pgx.Connect(t.Context(), databaseURL)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close(context.WithoutCancel(t.Context()))
	for _, s := range statements {
		if _, err := conn.Exec(t.Context(), s); err != nil {
			t.Fatal(s, err)
		}
	}
}

// value returns what a query gives, as text.
func value(databaseURL, query string) (text string, err error) {
	conn, err := pgx.Connect(context.Background(), databaseURL)
	if err != nil {
		return "", err
	}
	defer conn.Close(context.Background())
	return text, conn.QueryRow(context.Background(), query).Scan(&text)
}

// buy orders a car.
func (p *inProcess) buy() error {
	const order = `{"lines":[{"model":"volta","options":[],"quantity":1}]}`
	req, err := http.NewRequestWithContext(context.Background(), http.MethodPost, p.urls["sales"]+"/orders", strings.NewReader(order))
	if err != nil {
		return err
	}
	req.Header.Set("Content-Type", "application/json")
	resp, err := client.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	switch {
	case resp.StatusCode == http.StatusServiceUnavailable && (resp.Header.Get("Retry-After") != "" || resp.Header.Get("Location") != ""):
		return errAway
	case resp.StatusCode != http.StatusCreated:
		return errors.New(resp.Status)
	}
	return nil
}

var errAway = errors.New("503 with Retry-After, or with where to look whether it happened")

// copied waits until the warehouse's copy ends where the sales app's feed does.
func (p *inProcess) copied(t *testing.T, server *pgtest.Server) {
	t.Helper()
	eventually(t, func() error {
		head, err := value(server.URL("sales"), `select position || '-' || left(encode(digest, 'hex'), 12) from feed_head where name = 'orders'`)
		if err != nil {
			return err
		}
		copied, err := value(server.URL("warehouse"), `select cursor || coalesce(resync_cursor, '') from subscription where feed = 'orders'`)
		if err == nil && copied != head {
			err = fmt.Errorf("the copy is at %s, the feed at %s\n%s", copied, head, p.logs["warehouse"])
		}
		return err
	})
}

func newSalesAndWarehouse(t *testing.T) (*pgtest.Server, *inProcess) {
	t.Helper()
	server := pgtest.NewServer(t)
	p := newInProcess(server.URL)
	p.start(t, "sales")
	p.start(t, "warehouse")
	if err := p.buy(); err != nil {
		t.Fatal(err)
	}
	p.copied(t, server)
	return server, p
}

// A failover leaves connections to a server that takes no writes any more, and then takes them again.
func TestReadOnlyDatabase(t *testing.T) {
	t.Parallel()
	server, p := newSalesAndWarehouse(t)
	admin := server.URL("postgres")
	for _, name := range []string{"sales", "warehouse"} {
		execute(t, admin, `alter database `+name+` set default_transaction_read_only = on`,
			`select pg_terminate_backend(pid) from pg_stat_activity where datname = '`+name+`'`)
	}
	eventually(t, func() error {
		if ready("sales", p.urls["sales"]) == nil {
			return errors.New("sales is ready")
		}
		return ready("warehouse", p.urls["warehouse"]) // which serves its copy
	})
	for range 6 {
		if err := p.buy(); !errors.Is(err, errAway) {
			t.Error(err)
		}
	}
	for path, want := range map[string]int{"/": 200, "/api/parts": 200} {
		if status, _, text, err := ask(http.MethodGet, p.urls["warehouse"]+path, "", nil); err != nil || status != want {
			t.Errorf("%s: %d %s %v", path, status, text, err)
		}
	}
	status, header, text, err := ask(http.MethodPost, p.urls["warehouse"]+"/subscriptions/orders/pause", "", url.Values{})
	if err != nil || status != http.StatusServiceUnavailable || header.Get("Retry-After") == "" {
		t.Errorf("pause: %d %s %v", status, text, err)
	}
	for _, name := range []string{"sales", "warehouse"} {
		execute(t, admin, `alter database `+name+` reset default_transaction_read_only`)
	}
	eventually(t, p.buy)
	for range 20 {
		if err := p.buy(); err != nil {
			t.Error(err)
		}
	}
	eventually(t, func() error { return ready("sales", p.urls["sales"]) })
	p.copied(t, server)
}

// A database without room for an order is not ready until there is some, whether somebody buys meanwhile or not. (The
// triggers stand for the disk: SQLSTATE 53100 is what PostgreSQL says of a full one, XX000 where a quota is used up,
// 58030 of one that is broken.)
func TestFullDatabase(t *testing.T) {
	t.Parallel()
	for _, code := range []string{"53100", "XX000", "58030"} {
		t.Run(code, func(t *testing.T) {
			t.Parallel()
			testFullDatabase(t, code)
		})
	}
}

func testFullDatabase(t *testing.T, code string) {
	server, p := newSalesAndWarehouse(t)
	db := server.URL("sales")
	execute(t, db,
		`create function full_disk() returns trigger language plpgsql as $$ begin raise exception 'no room' using errcode = '`+code+`'; end $$`,
		`create function full_disk_ddl() returns event_trigger language plpgsql as $$ begin raise exception 'no room' using errcode = '`+code+`'; end $$`,
		`create trigger full_disk before insert on orders for each row execute function full_disk()`,
		`create event trigger full_disk on ddl_command_end execute function full_disk_ddl()`)
	if err := ready("sales", p.urls["sales"]); err != nil {
		t.Errorf("before anybody buys: %v", err)
	}
	if err := p.buy(); !errors.Is(err, errAway) {
		t.Error(err)
	}
	for range 2 {
		if ready("sales", p.urls["sales"]) == nil {
			t.Error("sales is ready without room for an order")
		}
	}
	execute(t, db, `drop event trigger full_disk`, `drop trigger full_disk on orders`)
	eventually(t, func() error { return ready("sales", p.urls["sales"]) })
	if err := p.buy(); err != nil {
		t.Error(err)
	}
	p.copied(t, server)
}

// A backup is restored in place under the running services.
func TestRestoreUnderARunningService(t *testing.T) {
	t.Parallel()
	server, p := newSalesAndWarehouse(t)
	bin, err := value(server.URL("postgres"), `select setting from pg_config() where name = 'BINDIR'`)
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	command := func(name string, args ...string) {
		t.Helper()
		if out, err := exec.CommandContext(t.Context(), filepath.Join(bin, name), args...).CombinedOutput(); err != nil {
			t.Fatalf("%s: %v\n%s", name, err, out)
		}
	}
	dump := func(name string) { command("pg_dump", "-Fc", "-f", filepath.Join(dir, name), "-d", server.URL(name)) }
	restore := func(name string) {
		command("pg_restore", "--clean", "--if-exists", "--single-transaction", "-d", server.URL(name), filepath.Join(dir, name))
	}
	// sellOn expects that after at most one failure for each connection all is well.
	sellOn := func() {
		t.Helper()
		failed := 0
		for range 60 {
			if err := p.buy(); err != nil {
				failed++
			}
		}
		if failed > 4 {
			t.Errorf("%d of 60 orders failed", failed)
		}
		if err := ready("sales", p.urls["sales"]); err != nil {
			t.Error(err)
		}
		p.copied(t, server)
	}
	dump("sales")
	dump("warehouse")
	sellOn()
	restore("sales")
	sellOn()
	restore("warehouse")
	sellOn()
	if status, _, text, err := ask(http.MethodGet, p.urls["warehouse"]+"/api/parts", "", nil); err != nil || status != http.StatusOK {
		t.Errorf("%d %s %v", status, text, err)
	}
	t.Run("a database that is dropped and made again", func(t *testing.T) {
		execute(t, server.URL("postgres"), `drop database warehouse with (force)`, `create database warehouse`)
		eventually(t, func() error {
			status, _, text, err := ask(http.MethodGet, p.urls["warehouse"]+"/readyz", "", nil)
			if err == nil && status != http.StatusServiceUnavailable {
				err = fmt.Errorf("readyz: %d %s", status, text)
			}
			return err
		})
		restore("warehouse")
		eventually(t, func() error { return ready("warehouse", p.urls["warehouse"]) })
		sellOn()
	})
}

// A source and a subscriber work behind PgBouncer in session mode: they lock, listen and let go.
func TestPgBouncer(t *testing.T) {
	t.Parallel()
	server := pgtest.NewServer(t)
	bouncer, err := url.Parse(pgtest.Bouncer(t, server.URL("postgres"), "session"))
	if err != nil {
		t.Fatal(err)
	}
	execute(t, server.URL("postgres"), `create database sales`, `create database warehouse`)
	p := newInProcess(func(name string) string {
		through := *bouncer
		through.Path = "/" + name
		return through.String()
	})
	p.start(t, "sales")
	for range 2 { // the second one gets the lock that the first has given back
		stop := p.start(t, "warehouse")
		if err := p.buy(); err != nil {
			t.Fatal(err)
		}
		p.copied(t, server)
		held, err := value(server.URL("warehouse"), `select count(*)::text from pg_locks where locktype = 'advisory'`)
		if err != nil || held == "0" {
			t.Errorf("%s locks, %v", held, err)
		}
		stop()
		eventually(t, func() error {
			held, err := value(server.URL("warehouse"), `select count(*)::text from pg_locks l join pg_database d on d.oid = l.database
				where locktype = 'advisory' and datname = 'warehouse'`)
			if err == nil && held != "0" {
				err = errors.New(held + " locks are left")
			}
			return err
		})
	}
	listening, err := value(server.URL("sales"), `select count(*)::text from pg_locks l join pg_database d on d.oid = l.database
		where locktype = 'advisory' and datname = 'sales'`)
	if err != nil || listening != "1" || strings.Contains(p.logs["sales"].String(), "not hearing") {
		t.Errorf("%s listen, %v:\n%s", listening, err, p.logs["sales"])
	}
}
