package readme_test

import (
	"context"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/edison-cars/data-feeds/shared/dev/freeport"
	"github.com/edison-cars/data-feeds/shared/postgres/pgtest"
)

const (
	tableRows = 100_000
	// transactions is what pgbench does in the table: it changes rows, makes some, and deletes some.
	transactions = `\set id random(1, 105000)
		\set new random(100001, 120000)
		update invoice set total = total + 1, paid_on = '2026-11-30' where id = :id;
		insert into invoice values (:new, 'new', 1.5, null) on conflict (id) do update set customer = 'newer';
		delete from invoice where id = :id + 3;
		`
	allRows = `select count(*) || ' ' || coalesce(md5(string_agg(row, ' ' order by row)), '') from (select %s as row from invoice) as r`
)

// The lines that README.md shows publish a table of 100,000 rows, of a database that knows nothing of feeds, and copy it
// into another database. Meanwhile pgbench writes to it, and it, the source, the copy and both servers are killed. In
// the end both tables have the same rows.
func TestReadmeCopiesATable(t *testing.T) {
	t.Parallel()
	pgtest.Slow(t, "100,000 rows")
	block := regexp.MustCompile("(?s)### A table, without code.*?```bash\n(.*?)```").FindStringSubmatch(readme(t))
	if block == nil {
		t.Fatal("README.md shows no table")
	}
	shop, reports := pgtest.NewServer(t), pgtest.NewServer(t)
	shop.Exec("create database shop")
	reports.Exec("create database reports")
	query(t, shop.URL("shop"), `create table invoice (id bigint primary key, customer text not null, total numeric(9, 2) not null, paid_on date)`)
	query(t, shop.URL("shop"), `insert into invoice select n, 'customer ' || n % 1000, n / 100.0, null from generate_series(1, $1) as n`, tableRows)

	dir := pgtest.Dir(t)
	for _, program := range []string{"sales-feed", "subscribers"} {
		build := exec.CommandContext(t.Context(), "go", "build", "-o", filepath.Join(dir, program), "./"+program)
		build.Dir = root
		if out, err := build.CombinedOutput(); err != nil {
			t.Fatalf("%v\n%s", err, out)
		}
	}
	addr, err := freeport.Addr(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	addr = strings.Replace(addr, "127.0.0.1", "localhost", 1)
	lines := strings.NewReplacer("postgres:///shop", shell(shop.URL("shop")), "postgres:///reports", shell(reports.URL("reports")), "localhost:8082", addr,
		"go run ./", "exec "+dir+"/", "psql ", shell(shop.Program("psql"))+" -v ON_ERROR_STOP=1 ").Replace(block[1])
	commands := regexp.MustCompile(`(?m)^DATABASE_URL=(.|\\\n)*& *(#.*)?$`).FindAllString(lines, -1)
	if len(commands) != 2 {
		t.Fatalf("README.md has %d commands: %q", len(commands), commands)
	}
	rest := strings.NewReplacer(commands[0], "", commands[1], "").Replace(lines)
	bash := func(line, addr string) *exec.Cmd {
		before, _, _ := strings.Cut(line, " &")
		cmd := exec.CommandContext(t.Context(), "bash", "-ec", before)
		cmd.Dir, cmd.Stderr = dir, pgtest.Output(t)
		cmd.Env = append(os.Environ(), "ADDR="+addr, "LOG_LEVEL=error", "ACCESS_LOG=false", "DATA_DIR="+dir, "ERASED_FILE="+filepath.Join(dir, "erased"), "POLL_INVOICES=@every 1s")
		inGroup(t, cmd)
		return cmd
	}
	source := &restarted{t: t, make: func() *exec.Cmd { return bash(commands[0], addr) }}
	source.start()
	if err := bash(rest, addr).Run(); err != nil {
		t.Fatal(err)
	}
	reading := &restarted{t: t, make: func() *exec.Cmd { return bash(commands[1], "localhost:0") }}
	reading.start()
	script := filepath.Join(dir, "transactions.sql")
	if err := os.WriteFile(script, []byte(transactions), 0o600); err != nil {
		t.Fatal(err)
	}
	app := &restarted{t: t, make: func() *exec.Cmd {
		cmd := exec.CommandContext(t.Context(), shop.Program("pgbench"), "--no-vacuum", "--client=4", "--time=600", "--rate=100", "--file="+script, shop.URL("shop"))
		inGroup(t, cmd)
		return cmd
	}}
	app.start()
	ways := []func(){source.restart, reading.restart, app.restart, func() { shop.Stop(); shop.Start(); app.restart() }, func() { reports.Stop(); reports.Start() }}
	rand.Shuffle(len(ways), func(i, j int) { ways[i], ways[j] = ways[j], ways[i] })
	for range 2 {
		for _, fail := range ways {
			time.Sleep(time.Duration(rand.IntN(1500)) * time.Millisecond)
			fail()
		}
	}
	time.Sleep(time.Second)
	app.kill()
	var got, want string
	for deadline := time.Now().Add(3 * time.Minute); got == "" || got != want; time.Sleep(200 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("the copy has %s, the table %s", got, want)
		}
		// The server may go on with what it has received of the app.
		want = query(t, shop.URL("shop"), strings.Replace(allRows, "%s", `row(id, customer, total, paid_on)::text`, 1))
		got = query(t, reports.URL("reports"), strings.Replace(allRows, "%s", `row(number, customer, total, paid_on)::text`, 1))
	}
	if !strings.HasPrefix(got, "1") {
		t.Errorf("there are only %s", got)
	}
}

// A restarted process is killed and started again.
type restarted struct {
	t       *testing.T
	make    func() *exec.Cmd
	running *exec.Cmd
}

func (r *restarted) start() {
	r.t.Helper()
	r.running = r.make()
	if err := r.running.Start(); err != nil {
		r.t.Fatal(err)
	}
}

func (r *restarted) kill() {
	_ = syscall.Kill(-r.running.Process.Pid, syscall.SIGKILL)
	_ = r.running.Wait()
}

func (r *restarted) restart() {
	r.t.Helper()
	r.kill()
	r.start()
}

// query returns the first column of the one row that the statement gives, or an error's text.
func query(t *testing.T, url, sql string, args ...any) (result string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	conn, err := pgx.Connect(ctx, url)
	if err != nil {
		return err.Error()
	}
	defer conn.Close(ctx)
	if !strings.HasPrefix(sql, "select") {
		if _, err = conn.Exec(ctx, sql, args...); err != nil {
			t.Fatal(err)
		}
		return ""
	}
	if err := conn.QueryRow(ctx, sql, args...).Scan(&result); err != nil {
		return err.Error()
	}
	return result
}

// shell quotes a word for a shell.
func shell(word string) string { return "'" + strings.ReplaceAll(word, "'", `'\''`) + "'" }
