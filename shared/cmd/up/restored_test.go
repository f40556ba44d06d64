package main

import (
	"bytes"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"

	"github.com/google/uuid"

	"github.com/edison-cars/data-feeds/shared/customer"
	"github.com/edison-cars/data-feeds/shared/daemon"
	"github.com/edison-cars/data-feeds/shared/dev/topology"
	"github.com/edison-cars/data-feeds/shared/postgres"
)

// restored brings the account back with the database of customers, under the running app and its replica, and while the
// app is stopped: everywhere it is gone again, and a service that reads the feed for the first time hears nothing of it
// either.
func (c *crew) restored(t *testing.T, p uuid.UUID, dump string) {
	replica, url := c.alone(t, filepath.Join(c.dir, "bin", "sales-feed"), "customers", "DATABASE_URL="+c.databaseURL(t, customersApp),
		"PUBLIC_URL="+c.url(customersApp), "ERASED_FILE="+filepath.Join(c.dir, "customers.erased"), "BUYER_KEY_FILE="+filepath.Join(c.dir, "buyer.key"))
	c.restore(t, customersApp, dump)
	c.nowhere(t, url, "/customers/"+p.String())
	c.erasedAgain(t, p)
	c.nowhere(t, url)
	_ = replica.Process.Kill()

	written := len(c.up.text(t))
	if err := syscall.Kill(c.pid(t, customersApp, "lock"), syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	c.up.saysAfter(t, written, customersApp+" has died: ", customersApp+" is gone again")
	var db *postgres.DB
	eventually(t, func() (err error) { // it answers no more before it has ended
		db, err = postgres.Open(t.Context(), postgres.Config{Name: customersApp, Dir: c.dir})
		return err
	})
	c.restore(t, customersApp, dump)
	db.Close()
	c.startAsTold(t, c.up, customersApp)
	eventually(t, func() error { // the map may not have seen that it was down
		_, _, err := get(c.url(customersApp)+"/readyz", "*/*")
		return err
	})
	c.onMap(t, customersApp, topology.Up)
	c.erasedAgain(t, p)

	newcomer, url := c.alone(t, filepath.Join(c.dir, "bin", "subscribers"), "billing", "DATABASE_URL=", "DATA_DIR="+filepath.Join(c.dir, "newcomer"),
		"FEED_URL_ORDERS="+c.url(sales)+"/feeds/orders", "FEED_URL_CUSTOMERS="+c.url(customersApp)+"/feeds/customers",
		"FEED_URL_SHIPMENTS="+c.url("shipping")+"/feeds/shipments", "POLL_CUSTOMERS=@every 1s")
	eventually(t, func() error {
		conn, err := connect(t, filepath.Join(c.dir, "newcomer", "billing"), "billing")
		if err != nil {
			return err
		}
		defer conn.Close(t.Context())
		var copied, of int
		err = conn.QueryRow(t.Context(), `select count(*), count(*) filter (where id = $1) from customer`, p).Scan(&copied, &of)
		if of > 0 {
			t.Fatal("who reads the feed for the first time gets the account")
		}
		if err == nil && copied == 0 {
			err = errNot
		}
		return err
	})
	c.nowhere(t, url)
	c.dump(t, filepath.Join(c.dir, "newcomer", "billing"), "billing", func(table string, row []byte) {
		for _, word := range []string{theName, theEmail, theStreet, newStreet} {
			if bytes.Contains(bytes.ToLower(row), []byte(strings.ToLower(word))) {
				t.Errorf("the table %s of who reads for the first time has %s", table, word)
			}
		}
	})
	if said := newcomer.text(t); strings.Contains(said, theName) || strings.Contains(said, theEmail) {
		t.Errorf("who reads for the first time logs the person:\n%s", said)
	}
	_ = newcomer.Process.Signal(syscall.SIGTERM)
	<-newcomer.exited
}

// erasedAgain waits until every copy has heard that the account is erased, and searches everything.
func (c *crew) erasedAgain(t *testing.T, p uuid.UUID) {
	t.Helper()
	entries := 0
	for _, e := range c.people(t) {
		if e.ID == p.URN() {
			entries++
			if !e.Datafeed.Deleted || !e.Datafeed.Erased {
				t.Errorf("on the feed: %+v", e)
			}
		}
	}
	if entries != 3 { // two versions and the tombstone, which is another one than that before the restore
		t.Errorf("the feed has %d entries of the account", entries)
	}
	c.caughtUp(t, customer.Feed)
	c.invoicesAlone(t)
	if status, _ := c.ask(t, http.MethodGet, c.url(customersApp)+"/customers/"+p.String(), "", "text/html"); status != http.StatusNotFound {
		t.Errorf("the account answers %d", status)
	}
}

// nowhere fails the test if the person is found on a page of another process, which may not serve yet.
func (c *crew) nowhere(t *testing.T, base string, paths ...string) {
	t.Helper()
	look := func(url string, _ int, body []byte) {
		for _, word := range []string{theName, theEmail, theStreet, newStreet} {
			if bytes.Contains(bytes.ToLower(body), []byte(strings.ToLower(word))) {
				t.Errorf("%s says %s", url, word)
			}
		}
	}
	for _, path := range paths {
		status, body := c.ask(t, http.MethodGet, base+path, "", "text/html")
		look(base+path, status, body)
	}
	c.crawl(t, base, 100, look)
}

var listeningAt = regexp.MustCompile(`msg=listening url=(\S+)`)

// alone starts a service that is none of up's, on a port of its own, and gives its URL.
func (c *crew) alone(t *testing.T, binary, name string, env ...string) (*process, string) {
	t.Helper()
	p := c.start(t, exec.Command(binary, name), append(env, "ADDR=127.0.0.1:0", "ACCESS=open", fmt.Sprint(daemon.StopWithParent, "=", os.Getpid()))...)
	eventually(t, func() error {
		if !listeningAt.MatchString(p.text(t)) {
			return errNot
		}
		return nil
	})
	return p, listeningAt.FindStringSubmatch(p.text(t))[1]
}

func (b *bench) databaseURL(t *testing.T, service string) string {
	t.Helper()
	host, port, err := socket(filepath.Join(b.dir, service))
	if err != nil {
		t.Fatal(err)
	}
	return fmt.Sprintf("postgres://postgres@/%s?host=%s&port=%s&sslmode=disable", service, host, port)
}

// backUp dumps the database of a service for restore, and gives the path of the dump.
func (b *bench) backUp(t *testing.T, service string) string {
	t.Helper()
	file := filepath.Join(t.TempDir(), service+".dump")
	b.postgres(t, service, "pg_dump", "--format=custom", "--file="+file, "--dbname="+b.databaseURL(t, service))
	return file
}

func (b *bench) restore(t *testing.T, service, dump string) {
	t.Helper()
	b.postgres(t, service, "pg_restore", "--clean", "--if-exists", "--exit-on-error", "--dbname="+b.databaseURL(t, service), dump)
}

// postgres runs a program of the version of the service's server.
func (b *bench) postgres(t *testing.T, service, program string, args ...string) {
	t.Helper()
	opts, err := os.ReadFile(filepath.Join(b.dir, service, "data", "postmaster.opts"))
	if err != nil {
		t.Fatal(err)
	}
	server, _, _ := strings.Cut(string(opts), ` "-D"`)
	if out, err := exec.Command(filepath.Join(filepath.Dir(server), program), args...).CombinedOutput(); err != nil {
		t.Fatalf("%s of %s: %v\n%s", program, service, err, out)
	}
}
