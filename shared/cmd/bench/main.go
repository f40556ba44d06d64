// Command bench measures the feed and its subscribers against their peers on this machine: what counts are the ratios of one run.
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
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/edison-cars/data-feeds/shared/daemon"
	"github.com/edison-cars/data-feeds/shared/order"
	"github.com/edison-cars/data-feeds/shared/postgres"
	"github.com/edison-cars/data-feeds/sql"
)

func main() { daemon.Main(run) }

const help = `Measures the feed, or a subscriber of it, against its peers, or a whole shop, in one run on this machine, over
loopback and on private PostgreSQL servers that are deleted afterwards. Machines are noisy:
compare ratios, not rates.

Usage: go run ./shared/cmd/bench feed|subscribe|architectures [flags]

  --only PART       only that part: writes, reads, wait or overload of feed; idle, freshness or
                    catchup of subscribe; calls, queues, stream, feed or relay of architectures (default all:
                    feed 6 to 9 minutes, subscribe 12 to 18, architectures 3 to 4)
  --quick           short rounds: shows that everything works, its figures mean little
  --markdown        print the tables as Markdown
  --out FILE.svg    draw the figures, too
  --entries N       of subscribe catchup, 1,000 to 100,000,000 (default 1,000,000)
  --orders N        of architectures, 20 to 2,000 (default 400)
  --help            print this

feed
writes     Orders a second at 1, 8, 32 and 128 writers: the feed's log (one INSERT and one entry in
           a group commit) against a plain transaction (BEGIN, INSERT order, INSERT entry with a
           bigserial, COMMIT) and against both INSERTs in one statement. A reader polls each of them
           every 2 ms, and the entries that it missed are counted. 2 to 3 minutes.
reads      Requests a second over 32 keep-alive connections, and what CPU time each takes of the
           server's process and of PostgreSQL: 304, the tail, a sealed page, the same in gzip and as
           Atom, from the feed, from nginx (Debian package nginx; left out where it is not installed)
           with the same bytes in files, and from a handler that reads 100 orders into structs,
           marshals and compresses them for every request. Each server has one core. 1 to 3 minutes.
wait       Milliseconds from a commit to a reader that has the page, at 40 orders a second: a reader
           that waits (Prefer: wait), one that waits at another replica, one that polls every second.
           Then 10,000 that wait at once, or as many as the limit of open files allows: memory each,
           and from one commit to the last of their answers. Client and server share the cores, as
           everywhere here. About a minute.
overload   Milliseconds that an order takes, at 40 orders a second, alone and while 16 clients walk through a
           history in pages that are not in memory: each has to be read, rendered and compressed. A minute.

subscribe
idle       CPU time that a poll takes which brings nothing new (304), of the source, of the subscriber
           and of the PostgreSQL of each. 40 s.
freshness  Milliseconds from the commit at the source to the commit in the copy, at 40 orders a second:
           a pure copy that waits, a subscriber that polls every second, RabbitMQ (Debian package
           rabbitmq-server; left out where it is not installed) with publisher confirms and a
           consumer that commits, then acknowledges, and PostgreSQL's logical replication as it is
           by default. Neither it nor a pure copy flushes its commits. 2 to 3 minutes.
catchup    Entries a second, of 680 bytes, into an empty table with a primary key and two indexes: psql's
           \copy from a file, logical replication's initial sync, a subscriber with two appliers (a
           pure copy) and with one, and RabbitMQ: a durable queue and two consumers with a prefetch
           of 5,000 that upsert and acknowledge 1,000 messages at once, or one that SELECTs, INSERTs
           and acknowledges each of 10,000 messages. What a source serves is already there or not:
           nginx keeps the pages as a shared cache does, or a source just started has to render
           and compress them. Every copy is compared with the source. 9 to 15 minutes.

architectures
The same shop, sales and three consumers, each a process and a database of its own, in five ways:
calls      HTTP to each consumer before the commit; what one does not take is not sold, and taken back
           from the others.
queues     After the commit, a durable queue for each consumer, confirmed by RabbitMQ; three workers
           share it, and what is refused three times goes to the dead letters.
stream     After the commit, a fanout exchange of RabbitMQ, not confirmed; each consumer looks for the
           order, inserts it and acknowledges. A newcomer empties a history queue first.
feed       Order and entry in one commit; subscribers wait at the source.
relay      The same, with a relay to RabbitMQ, to which the subscribers listen, too.
Good days, at 40 orders a second: what a sale takes, from its commit to that at each consumer, and what
it costs sales and its PostgreSQL. Then, with a tenth of the orders each: a sale before anybody
listens, a consumer down, the broker down, sales killed between its two steps (commit and telling;
after the commit where it is one), a consumer killed between its write and its acknowledgement, a slow
consumer, two newcomers. Processes and the broker are killed by SIGKILL and started again; then what
each consumer has is compared with what sales has, row by row. A sale waited if it took more than 1 s.

Ratios are the median over the rounds (least to most). Contestants take turns in every round.
`

type options struct {
	what     string // feed or subscribe
	only     string // empty: everything
	quick    bool
	markdown bool
	out      string
	entries  int
	orders   int // of architectures; 0: as many as it takes by itself
}

// parts are what can be measured.
var parts = map[string][]string{"feed": {"writes", "reads", "wait", "overload"}, "subscribe": {"idle", "freshness", "catchup"}, "architectures": {"calls", "queues", "stream", "feed", "relay"}}

const (
	minEntries = 1000
	maxEntries = 100_000_000
	minSales   = 20
	maxSales   = 2000
)

func parseFlags(args []string) (o options, err error) {
	if len(args) > 0 && !strings.HasPrefix(args[0], "-") {
		o.what, args = args[0], args[1:]
	}
	flags := flag.NewFlagSet("bench", flag.ContinueOnError)
	flags.SetOutput(io.Discard)
	flags.Usage = func() {}
	flags.BoolVar(&o.quick, "quick", false, "")
	flags.BoolVar(&o.markdown, "markdown", false, "")
	flags.Func("only", "", func(s string) error {
		if !slices.Contains(parts[o.what], s) {
			return fmt.Errorf("takes a part of %s: %s", o.what, strings.Join(parts[o.what], ", "))
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
	if o.what == "subscribe" {
		flags.Func("entries", "", func(s string) error {
			if o.entries, err = strconv.Atoi(s); err != nil || o.entries < minEntries || o.entries > maxEntries {
				return fmt.Errorf("takes a whole number from %s to %s", count(minEntries), count(maxEntries))
			}
			return nil
		})
	}
	if o.what == "architectures" {
		flags.Func("orders", "", func(s string) error {
			if o.orders, err = strconv.Atoi(s); err != nil || o.orders < minSales || o.orders > maxSales {
				return fmt.Errorf("takes a whole number from %s to %s", count(minSales), count(maxSales))
			}
			return nil
		})
	}
	if err := flags.Parse(args); errors.Is(err, flag.ErrHelp) {
		return o, err
	} else if err != nil {
		return o, daemon.Usagef("%w; see --help", err)
	}
	if parts[o.what] == nil || flags.NArg() > 0 {
		return o, daemon.Usagef("takes feed, subscribe or architectures, then flags; see --help")
	}
	return o, nil
}

func run(ctx context.Context, args []string, env map[string]string, stdout io.Writer) (err error) {
	if len(args) == 3 && args[0] == serveArg {
		return serve(ctx, args[1], args[2], env, stdout)
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
	b := &bench{opts: opts, out: &output{stdout, opts.markdown}, env: env, dir: dir}
	measure, title := b.feed, "The feed and its peers, measured"
	switch opts.what {
	case "architectures":
		measure, title = b.architectures, "Five ways to tell of a sale, measured"
	case "subscribe":
		measure, title = b.subscribe, "A subscriber and its peers, measured"
	}
	machine, charts, err := measure(ctx)
	if err != nil || opts.out == "" {
		return err
	}
	return os.WriteFile(opts.out, draw(title, machine, charts), 0o644)
}

// A bench is one run.
type bench struct {
	opts options
	out  *output
	env  map[string]string
	dir  string // for all data
}

func (b *bench) feed(ctx context.Context) (machine string, charts []chart, err error) {
	db, err := openSource(ctx, b.dir)
	if err != nil {
		return "", nil, err
	}
	defer db.Close()
	nginx, err := findNginx(ctx)
	if err != nil {
		return "", nil, err
	}
	if machine, err = describeMachine(ctx, db, nginx); err != nil {
		return "", nil, err
	}
	fmt.Fprintln(b.out, machine)
	w := writes{db: db.Pool, out: b.out, rounds: 9, duration: 1200 * time.Millisecond}
	r := reads{db: db.Pool, out: b.out, env: b.env, dir: b.dir, nginx: nginx, rounds: 3, share: 1}
	p := waits{db: db.Pool, out: b.out, env: b.env, duration: 15 * time.Second, waiters: 10_000, rounds: 3}
	o := overload{db: db.Pool, out: b.out, env: b.env, history: 50_000, duration: 8 * time.Second, rounds: 3}
	if b.opts.quick {
		w.rounds, w.duration = 1, 200*time.Millisecond
		o.rounds, o.duration, o.history = 1, time.Second, 5000
		r.rounds, r.share = 1, 50
		p.rounds, p.duration, p.waiters = 1, time.Second, 200
	}
	charts, err = b.measure(ctx, map[string]part{"writes": w.run, "reads": r.run, "wait": p.run, "overload": o.run})
	return machine, charts, err
}

func (b *bench) subscribe(ctx context.Context) (machine string, charts []chart, err error) {
	p := &pair{out: b.out, env: b.env, dir: b.dir}
	rabbit, queues := findRabbit(), (*broker)(nil)
	starts, starting := errgroup.WithContext(ctx)
	starts.Go(func() error { return p.open(starting) })
	if rabbit != nil && b.opts.only != "idle" {
		starts.Go(func() (err error) {
			queues, err = startBroker(ctx, b.env, b.dir) // it lives longer than starting
			return err
		})
	}
	err = starts.Wait()
	defer p.close()
	if queues != nil {
		defer queues.stop()
	}
	if err != nil {
		return "", nil, err
	}
	nginx, err := findNginx(ctx)
	if err != nil {
		return "", nil, err
	}
	if machine, err = describeMachine(ctx, p.source, nginx, rabbit); err != nil {
		return "", nil, err
	}
	fmt.Fprintln(b.out, machine)
	i := idle{pair: p, duration: 20 * time.Second}
	f := freshness{pair: p, broker: queues, duration: 10 * time.Second, rounds: 3}
	c := catchup{pair: p, nginx: nginx, broker: queues, entries: cmp.Or(b.opts.entries, 1_000_000), single: 10_000, rounds: 3}
	if b.opts.quick {
		i.duration = time.Second
		f.rounds, f.duration = 1, time.Second
		c.rounds, c.entries, c.single = 1, cmp.Or(b.opts.entries, 5000), 100
	}
	c.single = min(c.single, c.entries)
	charts, err = b.measure(ctx, map[string]part{"idle": i.run, "freshness": f.run, "catchup": c.run})
	return machine, charts, err
}

type part = func(context.Context) (chart, error)

// measure runs the parts that are asked for, in their order.
func (b *bench) measure(ctx context.Context, run map[string]part) (charts []chart, err error) {
	for _, name := range parts[b.opts.what] {
		if b.opts.only != "" && b.opts.only != name {
			continue
		}
		c, err := run[name](ctx)
		if err != nil {
			return nil, fmt.Errorf("measure %s: %w", name, err)
		}
		charts = append(charts, c)
	}
	return charts, nil
}

// openSource gives the database of a source, on a server of its own.
func openSource(ctx context.Context, dir string) (*postgres.DB, error) {
	return postgres.Open(ctx, postgres.Config{Name: "bench", Dir: dir}, sql.Migrations("publish"), sql.Migrations("sales"))
}

func describeMachine(ctx context.Context, db *postgres.DB, peers ...*program) (string, error) {
	var version, fsync, synchronous string
	err := db.QueryRow(ctx, `select current_setting('server_version'), current_setting('fsync'), current_setting('synchronous_commit')`).
		Scan(&version, &fsync, &synchronous)
	var versions []string
	for _, p := range peers {
		if p != nil {
			versions = append(versions, ", "+p.version)
		}
	}
	version, _, _ = strings.Cut(version, " ")
	return fmt.Sprintf("%d cores, %s/%s, %s, PostgreSQL %s (fsync %s, synchronous_commit %s)%s, %s", runtime.NumCPU(), runtime.GOOS, runtime.GOARCH,
		runtime.Version(), version, fsync, synchronous, strings.Join(versions, ""), time.Now().UTC().Format(time.DateOnly)), err
}

const feedName = order.Feed
