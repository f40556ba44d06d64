package main

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"testing/fstest"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/edison-cars/data-feeds/shared/access"
	"github.com/edison-cars/data-feeds/shared/daemon"
	"github.com/edison-cars/data-feeds/shared/feed"
	"github.com/edison-cars/data-feeds/shared/feed/check"
	"github.com/edison-cars/data-feeds/shared/migrate"
	"github.com/edison-cars/data-feeds/shared/postgres/pgtest"
	"github.com/edison-cars/data-feeds/sql"
)

// serving is the program that serves the feeds of a database, with a folder of its own.
func serving(t *testing.T, binary string, env ...string) *exec.Cmd {
	t.Helper()
	cmd := exec.Command(binary, "serve")
	cmd.Dir, cmd.Env = t.TempDir(), append([]string{"PUBLIC_URL="}, env...)
	return cmd
}

func query(t *testing.T, pool *pgxpool.Pool, sql string) {
	t.Helper()
	if _, err := pool.Exec(t.Context(), sql); err != nil {
		t.Fatalf("%s: %v", sql, err)
	}
}

// get asks with headers NAME: VALUE.
func get(t *testing.T, url string, headers ...string) (status int, body string, header http.Header) {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, url, nil)
	if err != nil {
		t.Fatal(err)
	}
	for _, h := range headers {
		name, value, _ := strings.Cut(h, ": ")
		req.Header.Set(name, value)
	}
	client := http.Client{CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
	resp, err := client.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return resp.StatusCode, string(text), resp.Header
}

// within asks until the answer is 200 and has the words, for 20 s.
func within(t *testing.T, url, words string, headers ...string) (body string, header http.Header) {
	t.Helper()
	for end := time.Now().Add(20 * time.Second); ; {
		status, body, header := get(t, url, headers...)
		if status == http.StatusOK && strings.Contains(body, words) {
			return body, header
		}
		if time.Now().After(end) {
			t.Fatalf("%s does not say %s within 20 s: %d %s", url, words, status, body)
		}
		time.Sleep(20 * time.Millisecond)
	}
}

// A process makes the tables in a database that knows nothing of feeds, and serves what SQL makes, puts, describes and
// erases, also what comes later, in every format. It is closed without a token.
func TestServe(t *testing.T) {
	t.Parallel()
	binary := build(t)
	pool := pgtest.New(t)
	token, hash := access.NewToken()
	auth := "Authorization: Bearer " + token
	cmd := serving(t, binary, "ACCESS=closed", "TOKENS=ada:reader:"+hash)
	_, at := start(t, cmd, pgtest.URL(pool))
	if _, body, _ := get(t, at+"/feeds", auth); body != "[]\n" && body != "[]" {
		t.Errorf("feeds of an empty database: %s", body)
	}
	if _, body, _ := get(t, at+"/feeds", auth, "Accept: text/html"); !strings.Contains(body, "select feed_create") {
		t.Errorf("the page of no feeds: %s", body)
	}

	query(t, pool, `select feed_create('invoices', title => 'Invoices')`)
	query(t, pool, `select feed_put('invoices', 42, '{"total":1}')`)
	body, header := within(t, at+"/feeds/invoices", `"total":1`, auth)
	if header.Get("Content-Type") != feed.TypeJSONFeed || !strings.Contains(body, `"title":"Invoices"`) || header.Get("Cache-Control") != "private, no-cache" {
		t.Errorf("JSON: %v %s", header, body)
	}
	for _, format := range []string{"application/atom+xml", "text/html", "application/json"} {
		if status, body, header := get(t, at+"/feeds/invoices", auth, "Accept: "+format); status != http.StatusOK || !strings.HasPrefix(header.Get("Content-Type"), format) || !strings.Contains(body, "Invoices") {
			t.Errorf("%s: %d %v %s", format, status, header, body)
		}
	}
	for _, path := range []string{"/feeds/invoices", "/feeds", "/", "/metrics"} {
		if status, body, _ := get(t, at+path); status != http.StatusUnauthorized {
			t.Errorf("%s without a token: %d %s", path, status, body)
		}
	}
	if status, _, header := get(t, at+"/", auth); status != http.StatusSeeOther || header.Get("Location") != "/feeds" {
		t.Errorf("/: %d %v", status, header)
	}
	for path, says := range map[string]string{"/livez": "", "/readyz": "", "/metrics": "feed_requests_total"} {
		if status, body, _ := get(t, at+path, auth); status != http.StatusOK || !strings.Contains(body, says) {
			t.Errorf("%s: %d %s", path, status, body)
		}
	}

	query(t, pool, `select feed_create('parts', personal => false, description => 'All parts'); select feed_create('a/b'); select feed_put('parts', 'wheel', '{"n":4}')`)
	if _, header = within(t, at+"/feeds/parts", `"n":4`, auth); header.Get("Cache-Control") != "private, max-age=0, stale-if-error=86400" {
		t.Errorf("a feed of no person: %v", header)
	}
	query(t, pool, `update feed set title = 'Our invoices', description = 'Sent ones' where name = 'invoices'`)
	within(t, at+"/feeds/invoices", `"title":"Our invoices"`, auth)
	body, _ = within(t, at+"/feeds", `"feed":"parts","title":"parts","description":"All parts"`, auth)
	if strings.Contains(body, "a/b") {
		t.Errorf("a feed that no URL can name is listed: %s", body)
	}

	query(t, pool, `select feed_erase('invoices', 42)`)
	body, _ = within(t, at+"/feeds/invoices?after=0", `"erased":true`, auth)
	if strings.Contains(body, "total") {
		t.Errorf("what is erased is served: %s", body)
	}
	query(t, pool, `create table car (id bigint primary key, model text); insert into car values (1, 'volta'); select feed_create('cars', personal => false)`)
	query(t, pool, `select feed_attach('cars', 'car', 'id', mode => 'staged'); select feed_backfill('cars'); insert into car values (2, 'ampere')`)
	within(t, at+"/feeds/cars", `"model":"volta"`, auth)
	within(t, at+"/feeds/cars", `"model":"ampere"`, auth)

	_, header = within(t, at+"/feeds/cars/schema", `"maximum": 9223372036854775807`, auth)
	if body, _ = within(t, at+"/feeds", "/feeds/cars/schema", auth); strings.Contains(body, "/feeds/parts/schema") {
		t.Errorf("a feed of no table has a schema: %s", body)
	}
	query(t, pool, `alter table car alter model type varchar(20), alter model set not null`)
	within(t, at+"/feeds/cars/schema", `"maxLength": 20`, auth, "If-None-Match: "+header.Get("ETag"))

	var id uuid.UUID
	if err := pool.QueryRow(t.Context(), `select feed_uuid('invoices', '42')`).Scan(&id); err != nil {
		t.Fatal(err)
	}
	lists, err := filepath.Glob(filepath.Join(cmd.Dir, ".edison", "*"+pool.Config().ConnConfig.Database+".erased"))
	if err != nil || len(lists) != 1 {
		t.Fatal(lists, err)
	}
	list, err := os.ReadFile(lists[0])
	if err != nil || !strings.Contains(string(list), " invoices "+id.String()) {
		t.Errorf("the list of erased ids: %v %s", err, list)
	}

	for _, name := range []string{"invoices", "parts"} {
		var out bytes.Buffer
		n := 0
		broken, err := check.Run(t.Context(), at+"/feeds/"+name, check.Options{Token: token, Append: func(ctx context.Context) error {
			n++
			_, err := pool.Exec(ctx, fmt.Sprintf(`select feed_put('%s', 'k%d', '{"n":%[2]d}')`, name, n))
			return err
		}}, &out)
		if err != nil || broken > 0 {
			t.Errorf("promises that %s breaks: %d %v\n%s", name, broken, err, &out)
		}
	}
}

// It ends cleanly while it serves, and without a database it says what is missing.
func TestServeEnds(t *testing.T) {
	t.Parallel()
	if err := run(t.Context(), []string{"serve"}, nil, io.Discard); !errors.Is(err, daemon.ErrUsage) || !strings.Contains(err.Error(), "DATABASE_URL must be set") {
		t.Error(err)
	}
	pool := pgtest.New(t)
	missing := strings.Replace(pgtest.URL(pool), pool.Config().ConnConfig.Database, "missing", 1)
	env := map[string]string{"ADDR": "127.0.0.1:0", "DATABASE_URL": missing}
	if err := run(t.Context(), []string{"serve"}, env, io.Discard); err == nil || !strings.Contains(err.Error(), "does not exist") {
		t.Errorf("a database that does not exist: %v", err)
	}
	env["DATABASE_URL"], env["ERASED_FILE"] = pgtest.URL(pool), filepath.Join(t.TempDir(), "erased")
	ctx, stop := context.WithCancel(t.Context())
	defer stop()
	out, in := io.Pipe()
	ended := make(chan error, 1)
	go func() {
		ended <- run(ctx, []string{"serve"}, env, in)
		in.Close()
	}()
	for lines := bufio.NewScanner(out); lines.Scan(); {
		if strings.Contains(lines.Text(), "msg=listening") {
			stop()
		}
	}
	if err := <-ended; err != nil {
		t.Errorf("stopped: %v", err)
	}
}

// Two processes start at once on an empty database. Both serve the same bytes, and one goes on when the other is killed.
func TestTwoServe(t *testing.T) {
	t.Parallel()
	binary := build(t)
	pool := pgtest.New(t)
	erased := "ERASED_FILE=" + filepath.Join(t.TempDir(), "erased")
	var processes [2]*os.Process
	var at [2]string
	started := make(chan int, 2)
	for i := range processes {
		go func() {
			defer func() { started <- i }()
			cmd := serving(t, binary)
			cmd.Env = append(cmd.Env, erased, "PUBLIC_URL=http://feeds.example")
			processes[i], at[i] = start(t, cmd, pgtest.URL(pool))
		}()
	}
	<-started
	<-started
	if t.Failed() {
		return
	}
	query(t, pool, `select feed_create('invoices', title => 'Invoices'); select feed_put('invoices', 1, '{"total":1}')`)
	query(t, pool, `select feed_put('invoices', n, json_build_object('total', n)) from generate_series(2, 250) as n`)
	for _, path := range []string{"/feeds", "/feeds/invoices?after=0", "/feeds/invoices?after=0&limit=250", "/feeds/invoices.atom", "/feeds/invoices.html", "/feeds/invoices/" + idOf(t, pool, "1")} {
		within(t, at[0]+path, "")
		within(t, at[1]+path, "")
		var one, other string
		for end := time.Now().Add(20 * time.Second); time.Now().Before(end); time.Sleep(20 * time.Millisecond) {
			_, body, header := get(t, at[0]+path)
			one = body + header.Get("ETag") + header.Get("Link")
			_, body, header = get(t, at[1]+path)
			if other = body + header.Get("ETag") + header.Get("Link"); one == other {
				break
			}
		}
		if one != other {
			t.Errorf("%s: two answers\n%s\n%s", path, one, other)
		}
	}
	if err := processes[0].Kill(); err != nil {
		t.Fatal(err)
	}
	query(t, pool, `select feed_create('parts'); select feed_put('parts', 1, '{"n":1}'); select feed_put('invoices', 1, '{"total":-1}')`)
	query(t, pool, `create table car (id bigint primary key); select feed_create('cars'); select feed_attach('cars', 'car', 'id', mode => 'staged'); insert into car values (7)`)
	within(t, at[1]+"/feeds/cars", `"id":7`)
	within(t, at[1]+"/feeds/parts", `"n":1`)
	within(t, at[1]+"/feeds/invoices", `"total":-1`)
	cmd := serving(t, binary, erased)
	_, again := start(t, cmd, pgtest.URL(pool))
	within(t, again+"/feeds/invoices", `"total":-1`)
}

func idOf(t *testing.T, pool *pgxpool.Pool, key string) (id string) {
	t.Helper()
	if err := pool.QueryRow(t.Context(), `select feed_uuid('invoices', $1)::text`, key).Scan(&id); err != nil {
		t.Fatal(err)
	}
	return id
}

// A role that may not make the tables gets the SQL for their owner, also for tables of an older version, and what it
// needs to use them. After that it serves.
func TestServeWithoutRights(t *testing.T) {
	t.Parallel()
	binary := build(t)
	older := fstest.MapFS{}
	text, err := sql.Migrations("publish").FS.Open("00001_feed_log.sql")
	if err != nil {
		t.Fatal(err)
	}
	first, err := io.ReadAll(text)
	if err != nil {
		t.Fatal(err)
	}
	older["00001_feed_log.sql"] = &fstest.MapFile{Data: first}
	for name, x := range map[string]struct {
		begin func(t *testing.T, pool *pgxpool.Pool) error
		makes []map[string]bool // what the SQL has and has not, at each start
	}{
		"no tables": {
			func(*testing.T, *pgxpool.Pool) error { return nil },
			[]map[string]bool{{"create table feed (": true, "create table operator_session": true, "function feed_put": true}},
		},
		"tables of an older version": {
			func(t *testing.T, pool *pgxpool.Pool) error {
				return migrate.Up(t.Context(), pool, "", migrate.Set{Name: "publish", FS: older}, sql.Migrations("access"))
			},
			[]map[string]bool{ // at first it may not read the version
				{"create ": false, "grant ": true},
				{"create table feed (": false, "create table operator_session": false, "function feed_put": true},
			},
		},
		"tables of another role": {
			func(t *testing.T, pool *pgxpool.Pool) error {
				return migrate.Up(t.Context(), pool, "", sql.Migrations("publish"), sql.Migrations("access"))
			},
			[]map[string]bool{{"create ": false, "grant ": true}},
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			pool := pgtest.New(t)
			if err := x.begin(t, pool); err != nil {
				t.Fatal(err)
			}
			role := "serve_" + strings.ReplaceAll(uuid.NewString(), "-", "_")
			query(t, pool, `create role `+role+` login; revoke create on schema public from public`)
			t.Cleanup(func() {
				if _, err := pool.Exec(context.Background(), `drop owned by `+role+` cascade; drop role `+role); err != nil {
					t.Error(err)
				}
			})
			as, err := url.Parse(pgtest.URL(pool))
			if err != nil {
				t.Fatal(err)
			}
			as.User = url.User(role)
			for _, makes := range x.makes {
				cmd := serving(t, binary, "ADDR=127.0.0.1:0", "DATABASE_URL="+as.String())
				var stdout, stderr bytes.Buffer
				cmd.Stdout, cmd.Stderr = &stdout, &stderr
				_ = cmd.Run()
				if cmd.ProcessState.ExitCode() != 3 || !strings.Contains(stderr.String(), "SQL on standard output") {
					t.Errorf("it ended with %v: %s%s", cmd.ProcessState, &stdout, &stderr)
				}
				for part, has := range makes {
					if strings.Contains(stdout.String(), part) != has {
						t.Errorf("the SQL has %q: %t\n%s", part, !has, &stdout)
					}
				}
				query(t, pool, stdout.String())
			}
			erased := filepath.Join(t.TempDir(), "erased")
			_, at := start(t, serving(t, binary, "ERASED_FILE="+erased), as.String())
			query(t, pool, `select feed_create('invoices'); select feed_put('invoices', 42, '{"total":1}')`)
			within(t, at+"/feeds/invoices", `"total":1`)
			query(t, pool, `select feed_erase('invoices', 42)`)
			within(t, at+"/feeds/invoices", `"erased":true`)
			query(t, pool, `create table car (id bigint primary key); select feed_create('cars'); select feed_attach('cars', 'car', 'id', mode => 'staged'); insert into car values (7)`)
			within(t, at+"/feeds/cars", `"id":7`)
			if status, body, _ := get(t, at+"/readyz"); status != http.StatusOK {
				t.Errorf("/readyz: %d %s", status, body)
			}
		})
	}
}

// A process reads from the standbys of DATABASE_READ_URL, and is as ready without them.
func TestServeFromStandbys(t *testing.T) {
	t.Parallel()
	binary := build(t)
	primary, standby := pgtest.Replicated(t)
	primary.Exec("alter system set synchronous_standby_names = ''", "select pg_reload_conf()")
	pool := primary.Open("things")
	_, at := start(t, serving(t, binary, "DATABASE_READ_URL="+standby.URL("things")), primary.URL("things"))
	query(t, pool, `select feed_create('things', personal => true); select feed_put('things', 1, '{"name":"Ada"}')`)
	query(t, pool, `select feed_put('things', 2, '{"name":"Bob"}')`)
	within(t, at+"/feeds/things?after=0", "Bob")
	const page = "/feeds/things?after=0&limit="
	for limit, end := 1, time.Now().Add(time.Minute); ; limit = limit%1000 + 1 {
		within(t, fmt.Sprint(at, page, limit), "Ada")
		if _, body, _ := get(t, at+"/metrics"); strings.Contains(body, `feed_reads_total{from="standby"}`) {
			break
		}
		if time.Now().After(end) {
			t.Fatal("the standby is not read from")
		}
		time.Sleep(20 * time.Millisecond)
	}
	standby.Exec(`select pg_wal_replay_pause()`)
	query(t, pool, `select feed_erase('things', 1)`)
	body, _ := within(t, at+"/feeds/things?after=0&limit=999", `"erased":true`)
	if strings.Contains(body, "Ada") {
		t.Errorf("the page has what is erased: %s", body)
	}
	standby.Stop()
	within(t, at+"/readyz", "")
	within(t, at+"/feeds/things?after=0&limit=998", "Bob")
}
