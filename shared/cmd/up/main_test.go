package main

import (
	"bytes"
	"errors"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/edison-cars/data-feeds/shared/daemon"
)

func TestFlags(t *testing.T) {
	t.Parallel()
	o, err := parseFlags([]string{"--orders-per-minute", "60", "--fresh", "--stream", "--verbose", "--port-offset=1000", "--dir", "/x/y"})
	if want := (options{60, true, true, true, 1000, "/x/y"}); err != nil || o != want {
		t.Errorf("%+v, %v", o, err)
	}
	for args, text := range map[string]string{
		"--orders-per-minute -1":   "from 0 to 6000",
		"--orders-per-minute 6001": "from 0 to 6000",
		"--orders-per-minute many": "from 0 to 6000",
		"--port-offset 57001":      "from 0 to 57000",
		"--fresh=perhaps":          "-fresh",
		"--dir=":                   "takes a folder",
		"--loud":                   "-loud",
		"sales":                    `not "sales"`,
	} {
		if _, err := parseFlags(strings.Fields(args)); !errors.Is(err, daemon.ErrUsage) || !strings.Contains(err.Error(), text) {
			t.Errorf("%s: %v", args, err)
		}
	}
}

func testCompany(env map[string]string) *company {
	return &company{root: "/it's here", dir: "/data", dataDir: "/data", env: env, services: []service{
		{name: sales, addr: "localhost:9080", args: []string{"./sales-feed"}},
		{name: "warehouse", addr: "localhost:9090", args: []string{"./subscribers", "warehouse"}, reads: []string{"orders"}},
		{name: "assembly", addr: "localhost:9091", args: []string{"./subscribers", "assembly"}, reads: []string{"orders"}},
		{name: "dashboard", addr: "localhost:9092", args: []string{"./subscribers", "dashboard"}, reads: []string{"orders", "builds"}},
		{name: customersApp, addr: "localhost:9081", args: []string{"./sales-feed", "customers"}},
	}}
}

func TestByHand(t *testing.T) {
	t.Parallel()
	c := testCompany(map[string]string{
		"DATABASE_URL": "postgres://u:hunter2@h/db", "FEED_TOKEN": "hunter2", "POLL_ORDERS": "@every 1s", "LOG_LEVEL": "debug", "HOME": "/",
	})
	for i, want := range []string{
		`cd '/it'\''s here' && env -u DATABASE_URL ADDR=localhost:9080 ACCESS=open MAP_URL=http://localhost:8079 DATA_DIR=/data PUBLIC_URL=http://localhost:9080 CUSTOMERS_URL=http://localhost:9081 LOG_LEVEL=debug POLL_ORDERS='@every 1s' FEED_TOKEN="${FEED_TOKEN:?}" go run ./sales-feed`,
		`cd '/it'\''s here' && env -u DATABASE_URL ADDR=localhost:9090 ACCESS=open MAP_URL=http://localhost:8079 DATA_DIR=/data FEED_URL_ORDERS=http://localhost:9080/feeds/orders LOG_LEVEL=debug POLL_ORDERS='@every 1s' FEED_TOKEN="${FEED_TOKEN:?}" go run ./subscribers warehouse`,
		`cd '/it'\''s here' && env -u DATABASE_URL ADDR=localhost:9091 ACCESS=open MAP_URL=http://localhost:8079 DATA_DIR=/data FEED_URL_ORDERS=http://localhost:9080/feeds/orders PUBLIC_URL=http://localhost:9091 LOG_LEVEL=debug POLL_ORDERS='@every 1s' FEED_TOKEN="${FEED_TOKEN:?}" go run ./subscribers assembly`,
		`cd '/it'\''s here' && env -u DATABASE_URL ADDR=localhost:9092 ACCESS=open MAP_URL=http://localhost:8079 DATA_DIR=/data FEED_URL_ORDERS=http://localhost:9080/feeds/orders FEED_URL_BUILDS=http://localhost:9091/feeds/builds LOG_LEVEL=debug POLL_ORDERS='@every 1s' FEED_TOKEN="${FEED_TOKEN:?}" go run ./subscribers dashboard`,
		`cd '/it'\''s here' && env -u DATABASE_URL ADDR=localhost:9081 ACCESS=open MAP_URL=http://localhost:8079 DATA_DIR=/data SMTP_URL=smtp://localhost:1025 PUBLIC_URL=http://localhost:9081 STOREFRONT_URL=http://localhost:9080 LOG_LEVEL=debug POLL_ORDERS='@every 1s' FEED_TOKEN="${FEED_TOKEN:?}" go run ./sales-feed customers`,
	} {
		if got := c.byHand(c.services[i]); got != want {
			t.Errorf("\n%s\nwant\n%s", got, want)
		}
	}
	out, err := exec.Command("sh", "-c", "printf %s "+quote("a'b \"$HOME\" `x` \\ *")).Output()
	if string(out) != "a'b \"$HOME\" `x` \\ *" {
		t.Errorf("the shell reads %q, %v", out, err)
	}
}

// With access closed, up says how to log in, and that services need a token to read feeds.
func TestClosed(t *testing.T) {
	t.Parallel()
	for _, x := range []struct {
		env  map[string]string
		says []string // the beginning of each line
	}{
		{nil, nil},
		{map[string]string{"ACCESS": "open", "TOKENS_FILE": "/tokens"}, nil},
		{map[string]string{"ACCESS": "closed"}, []string{"access is closed, and nobody can log in: ", "FEED_TOKEN is not set, "}},
		{map[string]string{"ACCESS": "closed", "TOKENS": "a:operator:0"}, []string{"access is closed: the map and each service ask ", "FEED_TOKEN is not set, "}},
		{map[string]string{"ACCESS": "closed", "TOKENS_FILE": "/tokens", "FEED_TOKEN": "hunter2"}, []string{"access is closed: the map and each service ask "}},
	} {
		var out bytes.Buffer
		c := testCompany(x.env)
		c.out = newConsole(&out, nil)
		c.welcome()
		lines := strings.Split(strings.TrimSpace(out.String()), "\n")[1:]
		if !slices.EqualFunc(lines, x.says, func(line, want string) bool { return strings.HasPrefix(line, "up        | "+want) }) || strings.Contains(out.String(), "hunter2") {
			t.Errorf("with %v:\n%s", x.env, out.String())
		}
	}
}

// At other ports than the commands assume, up says how to tell them.
func TestWelcomeAtOtherPorts(t *testing.T) {
	t.Parallel()
	var out bytes.Buffer
	c := testCompany(nil)
	c.services, c.portOffset, c.out = append(c.services[:2], service{name: sink, addr: "localhost:9025"}), 1000, newConsole(&out, nil)
	c.welcome()
	if want := "\nup        | operate it: SERVICES=sales=http://localhost:9080,warehouse=http://localhost:9090 go run ./subscribers status\n"; !strings.Contains(out.String(), want) {
		t.Errorf("no %q in %s", want, &out)
	}
}

func TestEnviron(t *testing.T) {
	t.Parallel()
	c := testCompany(map[string]string{"DATABASE_URL": "postgres://h/db", "ADDR": ":1", "POLL_ORDERS": "@every 1s"})
	cmd := exec.Command("sh", "-c", "echo $ADDR,$DATABASE_URL,$FEED_URL_ORDERS,$POLL_ORDERS,$DATA_DIR,$ACCESS_LOG")
	cmd.Env = c.environ(c.services[1])
	out, err := cmd.Output()
	if want := "localhost:9090,,http://localhost:9080/feeds/orders,@every 1s,/data,false\n"; string(out) != want {
		t.Errorf("%s, %v; want %s", out, err, want)
	}
}

// A folder that nobody has chosen is left to the services: they are where it is.
func TestDefaultDir(t *testing.T) {
	t.Parallel()
	c := testCompany(map[string]string{"DATA_DIR": "/elsewhere"})
	c.dataDir = ""
	for _, s := range c.services {
		if set := strings.Join(append(c.environ(s), c.byHand(s)), "\n"); strings.Contains(set, "DATA_DIR=") {
			t.Errorf("%s: %s", s.name, set)
		}
	}
}

func TestPortTaken(t *testing.T) {
	t.Parallel()
	l, err := net.Listen("tcp", "localhost:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	addr := l.Addr().String()
	err = portsFree(t.Context(), []service{{name: "warehouse", addr: addr}})
	if err == nil || !strings.Contains(err.Error(), "warehouse cannot have "+addr) || !strings.Contains(err.Error(), "--port-offset") {
		t.Error(err)
	}
	l.Close()
	if err := portsFree(t.Context(), []service{{name: "warehouse", addr: addr}}); err != nil {
		t.Error(err)
	}
}

// A machine without what up needs is told what to do, before anything is built.
func TestTools(t *testing.T) {
	empty := t.TempDir()
	if err := tools(t.Context(), map[string]string{"PGBIN": empty}); err == nil || !strings.Contains(err.Error(), "PGBIN: no usable PostgreSQL server in "+empty) {
		t.Error(err)
	}
	t.Setenv("PATH", empty)
	if err := tools(t.Context(), map[string]string{"PATH": empty}); err == nil || !strings.Contains(err.Error(), "no folder of PATH ("+empty+")") {
		t.Error(err)
	}
}

// A port that is taken is told before the build.
func TestPortTakenBeforeTheBuild(t *testing.T) {
	t.Parallel()
	dir, offset := t.TempDir(), freeOffset(t)
	l, err := net.Listen("tcp", net.JoinHostPort("localhost", strconv.Itoa(8094+offset)))
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	var out bytes.Buffer
	err = run(t.Context(), []string{"--dir", dir, "--port-offset", strconv.Itoa(offset)}, map[string]string{}, &out)
	if err == nil || !strings.Contains(err.Error(), "shipping cannot have localhost:") || !strings.Contains(err.Error(), "--port-offset ") || out.Len() > 0 {
		t.Errorf("%v, after %q", err, &out)
	}
	if _, err := os.Stat(filepath.Join(dir, "bin")); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("it has built: %v", err)
	}
}

func TestFresh(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	services := []service{{name: sales}, {name: "warehouse"}, {name: "never started"}}
	for _, name := range []string{sales, "warehouse", "of another program"} {
		if err := os.MkdirAll(filepath.Join(dir, name, "data"), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	unlock, err := lock(filepath.Join(dir, "warehouse", "lock"), "")
	if err != nil {
		t.Fatal(err)
	}
	if err := deleteData(dir, services); err == nil || !strings.Contains(err.Error(), "stop warehouse first") {
		t.Error(err)
	}
	if got := withData(t, dir); got != "of another program, sales, warehouse" {
		t.Errorf("a refused --fresh left the data of %s", got)
	}
	unlock()
	credentials := []string{filepath.Join(dir, "buyer.key"), filepath.Join(dir, shoppersFile)}
	for _, file := range credentials {
		if err := os.WriteFile(file, nil, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if err := deleteData(dir, services); err != nil {
		t.Error(err)
	}
	for _, file := range credentials {
		if _, err := os.Stat(file); !errors.Is(err, os.ErrNotExist) {
			t.Errorf("--fresh leaves %s: %v", file, err)
		}
	}
	if got := withData(t, dir); got != "of another program" {
		t.Errorf("--fresh left the data of %s", got)
	}
}

func withData(t *testing.T, dir string) string {
	t.Helper()
	found, err := filepath.Glob(filepath.Join(dir, "*", "data"))
	if err != nil {
		t.Fatal(err)
	}
	for i := range found {
		found[i] = filepath.Base(filepath.Dir(found[i]))
	}
	return strings.Join(found, ", ")
}

func TestTwoOfUp(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(t.TempDir(), "new")
	unlock, err := lockDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := lockDir(dir); err == nil || !strings.Contains(err.Error(), dir+" is in use by process "+strconv.Itoa(os.Getpid())) {
		t.Error(err)
	}
	unlock()
	unlock, err = lockDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	unlock()
}

// A lock that cannot be taken, such as in a folder of somebody else, is no reason to look for an up or a service to
// stop.
func TestLockOfNobody(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	for _, name := range []string{"up.lock", "sales/lock"} {
		if err := os.MkdirAll(filepath.Join(dir, name), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	_, ofUp := lockDir(dir)
	for path, err := range map[string]error{"up.lock": ofUp, "sales/lock": deleteData(dir, []service{{name: "sales"}})} {
		if err == nil || !strings.Contains(err.Error(), path) || strings.Contains(err.Error(), "stop ") {
			t.Error(err)
		}
	}
}

// The sink delivers no mails: only a real mail server's addresses have a limit.
func TestMailLimit(t *testing.T) {
	t.Parallel()
	for _, x := range []struct {
		env  map[string]string
		sets bool
	}{
		{nil, true},
		{map[string]string{"MAIL_LIMIT": "3"}, false},
		{map[string]string{"SMTP_URL": "smtp://mail.example"}, false},
	} {
		c := &company{env: x.env}
		if got := slices.Contains(c.settings(service{name: "mailer"}), "MAIL_LIMIT=0"); got != x.sets {
			t.Errorf("with %v: %t", x.env, got)
		}
	}
}
