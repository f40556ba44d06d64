// Command bench measures the feed against its peers on this machine: what counts are the ratios of one run.
package main

import (
	"cmp"
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"time"

	"github.com/edison-cars/data-feeds/shared/daemon"
	"github.com/edison-cars/data-feeds/shared/order"
	"github.com/edison-cars/data-feeds/shared/postgres"
	"github.com/edison-cars/data-feeds/sql"
)

func main() { daemon.Main(run) }

const help = `Measures the feed against its peers, in one run on this machine, over loopback and on a
private PostgreSQL that is deleted afterwards. Machines are noisy: compare ratios, not rates.

Usage: go run ./shared/cmd/bench feed [flags]

  --only writes|reads|wait  only that part (default all: 4 to 6 minutes)
  --quick                   short rounds: shows that everything works, its figures mean little
  --markdown                print the tables as Markdown
  --out FILE.svg            draw the figures, too
  --help                    print this

writes  Orders a second at 1, 8, 32 and 128 writers: the feed's log (one INSERT and one entry in
        a group commit) against a plain transaction (BEGIN, INSERT order, INSERT entry with a
        bigserial, COMMIT) and against both INSERTs in one statement. A reader polls each of them
        every 2 ms, and the entries that it missed are counted. About 90 s.
reads   Requests a second over 32 keep-alive connections, and what CPU time each takes of the
        server's process and of PostgreSQL: 304, the tail, a sealed page, the same in gzip and as
        Atom, from the feed, from nginx (Debian package nginx; left out where it is not installed)
        with the same bytes in files, and from a handler that reads 100 orders into structs,
        marshals and compresses them for every request. Each server has one core. 1 to 3 minutes.
wait    Milliseconds from a commit to a reader that has the page, at 40 orders a second: a reader
        that waits (Prefer: wait), one that waits at another replica, one that polls every second.
        Then 10,000 that wait at once, or as many as the limit of open files allows: memory each,
        and from one commit to the last of their answers. Client and server share the cores, as
        everywhere here. About a minute.

Ratios are the median over the rounds (least to most). Contestants take turns in every round.
`

type options struct {
	only     string // empty: everything
	quick    bool
	markdown bool
	out      string
}

func parseFlags(args []string) (o options, err error) {
	flags := flag.NewFlagSet("bench", flag.ContinueOnError)
	flags.SetOutput(io.Discard)
	flags.Usage = func() {}
	flags.BoolVar(&o.quick, "quick", false, "")
	flags.BoolVar(&o.markdown, "markdown", false, "")
	flags.Func("only", "", func(s string) error {
		if s != "writes" && s != "reads" && s != "wait" {
			return errors.New("takes writes, reads or wait")
		}
		o.only = s
		return nil
	})
	flags.Func("out", "", func(s string) error {
		if info, err := os.Stat(filepath.Dir(s)); filepath.Ext(s) != ".svg" || err != nil || !info.IsDir() {
			return errors.New("takes a file.svg in a folder that exists")
		}
		o.out = s
		return nil
	})
	what := ""
	if len(args) > 0 && !strings.HasPrefix(args[0], "-") {
		what, args = args[0], args[1:]
	}
	if err := flags.Parse(args); errors.Is(err, flag.ErrHelp) {
		return o, err
	} else if err != nil {
		return o, daemon.Usagef("%w; see --help", err)
	}
	if what != "feed" || flags.NArg() > 0 {
		return o, daemon.Usagef("takes feed, then flags; see --help")
	}
	return o, nil
}

func run(ctx context.Context, args []string, env map[string]string, stdout io.Writer) (err error) {
	if len(args) == 3 && args[0] == serveArg {
		return serve(ctx, args[1], args[2], stdout)
	}
	opts, err := parseFlags(args)
	if errors.Is(err, flag.ErrHelp) {
		_, err = io.WriteString(stdout, help)
		return err
	} else if err != nil {
		return err
	}
	defer func() {
		if ctx.Err() != nil {
			err = ctx.Err() // what failed, failed because of it
		}
	}()
	dir, err := os.MkdirTemp(cmp.Or(env["TMPDIR"], "/var/tmp"), "edison-bench-") // not /tmp, which may be in memory
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	if err := os.Chmod(dir, 0o755); err != nil { // PostgreSQL and nginx may run as other users
		return err
	}
	db, err := postgres.Open(ctx, postgres.Config{Name: "bench", Dir: dir}, sql.Migrations("publish"), sql.Migrations("sales"))
	if err != nil {
		return err
	}
	defer db.Close()
	nginx, err := findNginx(ctx)
	if err != nil {
		return err
	}
	machine, err := describeMachine(ctx, db, nginx)
	if err != nil {
		return err
	}
	out := &output{stdout, opts.markdown}
	fmt.Fprintln(out, machine)
	w := writes{db: db.Pool, out: out, rounds: 3, duration: 2 * time.Second}
	r := reads{db: db.Pool, out: out, env: env, dir: dir, nginx: nginx, rounds: 3, share: 1}
	p := waits{db: db.Pool, out: out, env: env, duration: 15 * time.Second, waiters: 10_000, rounds: 3}
	if opts.quick {
		w.rounds, w.duration = 1, 200*time.Millisecond
		r.rounds, r.share = 1, 50
		p.rounds, p.duration, p.waiters = 1, time.Second, 200
	}
	var charts []chart
	for _, part := range []struct {
		name string
		run  func(context.Context) (chart, error)
	}{{"writes", w.run}, {"reads", r.run}, {"wait", p.run}} {
		if opts.only != "" && opts.only != part.name {
			continue
		}
		c, err := part.run(ctx)
		if err != nil {
			return fmt.Errorf("measure %s: %w", part.name, err)
		}
		charts = append(charts, c)
	}
	if opts.out == "" {
		return nil
	}
	return os.WriteFile(opts.out, draw(machine, charts), 0o644)
}

func describeMachine(ctx context.Context, db *postgres.DB, nginx *program) (string, error) {
	var version, fsync, synchronous string
	err := db.QueryRow(ctx, `select current_setting('server_version'), current_setting('fsync'), current_setting('synchronous_commit')`).
		Scan(&version, &fsync, &synchronous)
	peer := ""
	if nginx != nil {
		peer = ", " + nginx.version
	}
	version, _, _ = strings.Cut(version, " ")
	return fmt.Sprintf("%d cores, %s/%s, %s, PostgreSQL %s (fsync %s, synchronous_commit %s)%s, %s", runtime.NumCPU(), runtime.GOOS, runtime.GOARCH,
		runtime.Version(), version, fsync, synchronous, peer, time.Now().UTC().Format(time.DateOnly)), err
}

const feedName = order.Feed
