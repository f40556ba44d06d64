package postgres_test

import (
	"bytes"
	"io"
	"net"
	"net/url"
	"sync/atomic"
	"testing"
	"time"

	"github.com/edison-cars/data-feeds/shared/postgres"
	"github.com/edison-cars/data-feeds/shared/postgres/pgtest"
	"github.com/edison-cars/data-feeds/sql"
)

// A start ends with an error if its database falls silent, whatever it was asked.
func TestSilentAtTheStart(t *testing.T) {
	t.Parallel()
	server := pgtest.NewServer(t)
	for name, at := range map[string]string{
		"creating the database": "CREATE DATABASE", "looking for others": "select pg_try_advisory_lock", "choosing a schema": "from pg_namespace n",
		"giving back the lock": "pg_advisory_unlock",
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			u, err := url.Parse(server.URL("silent"))
			if err != nil {
				t.Fatal(err)
			}
			through := url.URL{Scheme: "postgres", User: u.User, RawQuery: "sslmode=disable", Path: "/" + url.PathEscape(name)}
			through.Host = silentFrom(t, u.Query().Get("host")+"/.s.PGSQL.5432", at)
			ended := make(chan error, 1)
			go func() {
				db, err := postgres.Open(t.Context(), postgres.Config{URL: through.String(), Name: "things"}, sql.Migrations("access"))
				if err == nil {
					db.Close()
				}
				ended <- err
			}()
			select {
			case err := <-ended:
				if err == nil {
					t.Error("no error")
				}
			case <-time.After(2 * time.Minute):
				t.Error("no end")
			}
		})
	}
}

// silentFrom is the address of a way to a server on which nothing goes on once a client has sent the text.
func silentFrom(t *testing.T, socket, text string) string {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = ln.Close() })
	var silent atomic.Bool
	go func() {
		for {
			client, err := ln.Accept()
			if err != nil {
				return
			}
			t.Cleanup(func() { _ = client.Close() })
			there, err := net.Dial("unix", socket)
			if err != nil {
				t.Error(err)
				return
			}
			t.Cleanup(func() { _ = there.Close() })
			pass := func(to io.Writer, from io.ReadCloser) {
				for packet := make([]byte, 16<<10); ; {
					n, err := from.Read(packet)
					if bytes.Contains(packet[:n], []byte(text)) {
						silent.Store(true)
					}
					if err != nil || silent.Load() {
						return
					}
					_, _ = to.Write(packet[:n])
				}
			}
			go pass(there, client)
			go pass(client, there)
		}
	}()
	return ln.Addr().String()
}
