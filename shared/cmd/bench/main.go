// Command bench measures the feed and its subscribers against their peers on this machine.
package main

import (
	"cmp"
	"context"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/edison-cars/data-feeds/shared/daemon"
	"github.com/edison-cars/data-feeds/shared/dev/rabbitmq"
	"github.com/edison-cars/data-feeds/shared/feed"
	"github.com/edison-cars/data-feeds/shared/postgres"
	"github.com/edison-cars/data-feeds/sql"
)

func main() { daemon.Main(run) }

func run(ctx context.Context, args []string, env map[string]string, stdout io.Writer) (err error) {
	if len(args) == 3 && args[0] == serveArg {
		return serve(ctx, args[1], args[2], env, stdout)
	}
	opts, err := parseFlags(args, stdout)
	if err != nil {
		return err
	}
	defer func() {
		if ctx.Err() != nil {
			err = ctx.Err() // the cause of any other error
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
	running, cancel := context.WithCancel(ctx)
	b := &bench{options: opts, out: &output{stdout, opts.markdown}, began: time.Now(), env: env, dir: dir}
	defer b.close()
	defer cancel() // all processes stop at once
	measure, title := b.feed, "The feed and its peers, measured"
	switch opts.what {
	case "architectures":
		measure, title = b.architectures, "Five ways to tell of a sale, measured"
	case "subscribe":
		measure, title = b.subscribe, "A subscriber and its peers, measured"
	case "publish":
		measure, title = b.publish, "Publishing by SQL, measured"
	case "scale":
		measure, title = b.scale, "A source behind a cache tier and before standbys, measured"
	case "growth":
		measure, title = b.growth, "Growing feeds and tables, measured"
	}
	machine, charts, err := measure(running)
	if err != nil || opts.out == "" {
		return err
	}
	return os.WriteFile(opts.out, draw(title, machine, charts), 0o644)
}

type bench struct {
	options
	out    *output
	began  time.Time
	env    map[string]string
	dir    string       // for all data
	source *postgres.DB // the feed, and the orders beside it
	nginx  *program     // or nil

	mu     sync.Mutex
	ending []func()
}

// atEnd lets close call end, the latest first.
func (b *bench) atEnd(end func()) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.ending = append(b.ending, end)
}

func (b *bench) close() {
	for _, end := range slices.Backward(b.ending) {
		end()
	}
}

// openBench makes the source's database, on a server of its own, and describes the machine.
func (b *bench) openBench(ctx context.Context) (machine string, err error) {
	server, err := b.openSource(ctx, 0)
	if err != nil {
		return "", err
	}
	if b.source, err = server.create(ctx, "bench"); err != nil {
		return "", err
	}
	return b.describeMachine(ctx, b.source, nil)
}

func (b *bench) feed(ctx context.Context) (machine string, charts []chart, err error) {
	if machine, err = b.openBench(ctx); err != nil {
		return "", nil, err
	}
	w := writes{bench: b, rounds: 9, duration: 1200 * time.Millisecond}
	r := reads{bench: b, rounds: 3, share: 1}
	p := waits{bench: b, duration: 15 * time.Second, waiters: 10_000, rounds: 3}
	o := overload{bench: b, history: 50_000, duration: 8 * time.Second, rounds: 3}
	if b.quick {
		w.rounds, w.duration = 1, 100*time.Millisecond
		r.rounds, r.share = 1, 100
		p.rounds, p.duration, p.waiters = 1, time.Second/2, 200
		o.rounds, o.history, o.duration = 1, 200, 2*time.Second
	}
	charts, err = b.measure(ctx, map[string]part{"writes": w.run, "reads": r.run, "wait": p.run, "overload": o.run})
	return machine, charts, err
}

func (b *bench) publish(ctx context.Context) (machine string, charts []chart, err error) {
	server, err := b.openCluster(ctx, "source", 0, sql.Migrations("publish"))
	if err != nil {
		return "", nil, err
	}
	if b.source, err = server.create(ctx, "bench"); err != nil {
		return "", nil, err
	}
	if machine, err = b.describeMachine(ctx, b.source, nil); err != nil {
		return "", nil, err
	}
	p := publishing{bench: b, server: server, rounds: 5, duration: 2 * time.Second, fresh: 15 * time.Second, rows: 1_000_000, held: 4000}
	if b.quick {
		p.rounds, p.duration, p.fresh, p.rows, p.held = 1, 100*time.Millisecond, time.Second/2, 5000, 400
	}
	charts, err = b.measure(ctx, map[string]part{
		"rates": p.insertRates, "freshness": p.freshness, "entries": p.entries, "backfill": p.backfill, "snapshot": p.snapshot})
	return machine, charts, err
}

// lastRound is when the last round of subscribe is over: it ends within 10 minutes.
const lastRound = 9*time.Minute + 45*time.Second

func (b *bench) subscribe(ctx context.Context) (machine string, charts []chart, err error) {
	var p *pair
	var broker *rabbitmq.Server
	found, _ := rabbitmq.Find()
	var starts errgroup.Group
	starts.Go(func() (err error) {
		p, err = b.openPair(ctx)
		return err
	})
	if found != nil && b.only != "idle" {
		starts.Go(func() (err error) {
			broker, err = b.startBroker(ctx, "")
			return err
		})
	}
	if err := starts.Wait(); err != nil {
		return "", nil, err
	}
	if machine, err = b.describeMachine(ctx, b.source, found); err != nil {
		return "", nil, err
	}
	i := idle{pair: p, duration: 20 * time.Second}
	f := freshness{pair: p, broker: broker, duration: 10 * time.Second, rounds: 3}
	c := catchup{pair: p, broker: broker, entries: cmp.Or(b.entries, 1_000_000), single: 10_000, rounds: 3,
		until: b.began.Add(lastRound)}
	if b.quick {
		i.duration = time.Second
		f.rounds, f.duration = 1, time.Second/2
		c.rounds, c.entries, c.single = 1, cmp.Or(b.entries, 5000), 100
	}
	c.batched, c.single = max(c.entries/4, minEntries), min(c.single, c.entries)
	charts, err = b.measure(ctx, map[string]part{"idle": i.run, "freshness": f.run, "catchup": c.run})
	return machine, charts, err
}

func (b *bench) scale(ctx context.Context) (machine string, charts []chart, err error) {
	if machine, err = b.openBench(ctx); err != nil {
		return "", nil, err
	}
	s := scale{bench: b, rounds: 5, duration: 2 * time.Second, waiters: 10_000, entries: 100_000, readers: 1000, page: feed.MaxPageSize}
	if b.quick {
		s.rounds, s.duration, s.waiters, s.entries, s.readers, s.page = 1, 200*time.Millisecond, 200, 1000, 10, 100
	}
	charts, err = b.measure(ctx, map[string]part{"polls": s.polls, "waits": s.waits, "sealed": s.sealed, "standbys": s.standbys})
	return machine, charts, err
}

func (b *bench) growth(ctx context.Context) (machine string, charts []chart, err error) {
	g := growth{pair: &pair{bench: b}, rounds: 7, page: 1000, grown: map[size]*grown{}}
	least, most := 10_000, cmp.Or(b.entries, 1_000_000)
	if b.quick {
		g.rounds, g.page = 1, 100
		least, most = 1000, cmp.Or(b.entries, 2000)
	}
	for entries := least; entries < most; entries *= 10 {
		g.sizes = append(g.sizes, entries)
	}
	g.sizes = append(g.sizes, most)
	if g.server, err = b.openSource(ctx, 4); err != nil {
		return "", nil, err
	}
	if b.source, err = g.server.create(ctx, "bench"); err != nil {
		return "", nil, err
	}
	if g.copies, err = b.openCopies(ctx, "copies", 0); err != nil {
		return "", nil, err
	}
	if machine, err = b.describeMachine(ctx, b.source, nil); err != nil {
		return "", nil, err
	}
	if g.postmaster, err = findPostmaster(ctx, b.source.Pool); err != nil {
		return "", nil, err
	}
	charts, err = b.measure(ctx, map[string]part{
		"requests": g.requests, "newcomers": g.newcomers, "compaction": g.compaction, "services": g.services})
	return machine, charts, err
}

const noRabbit = "RabbitMQ is left out: it is not installed here (on Debian: apt-get install rabbitmq-server)"

// startBroker starts RabbitMQ, with the messages that it kept if it was killed before.
func (b *bench) startBroker(ctx context.Context, addr string) (*rabbitmq.Server, error) {
	broker, err := rabbitmq.Start(ctx, rabbitmq.Config{Dir: filepath.Join(b.dir, "rabbitmq"), Addr: addr})
	if err == nil {
		b.atEnd(broker.Kill)
	}
	return broker, err
}

type part = func(context.Context) (chart, error)

func (b *bench) measure(ctx context.Context, run map[string]part) (charts []chart, err error) {
	for _, name := range parts[b.what] {
		if b.only != "" && b.only != name {
			continue
		}
		c, err := run[name](ctx)
		if err != nil {
			return nil, fmt.Errorf("measure %s: %w", name, err)
		}
		if len(c.groups) > 0 || len(c.series) > 0 { // not left out
			charts = append(charts, c)
		}
	}
	return charts, nil
}

// describeMachine prints what the figures depend on, and returns it.
func (b *bench) describeMachine(ctx context.Context, db *postgres.DB,
	broker *rabbitmq.Binaries) (machine string, err error) {
	if b.nginx, err = findNginx(ctx); err != nil {
		return "", err
	}
	var version, fsync, synchronous string
	err = db.QueryRow(ctx, `
		select split_part(current_setting('server_version'), ' ', 1), current_setting('fsync'),
		       current_setting('synchronous_commit')`).
		Scan(&version, &fsync, &synchronous)
	machine = fmt.Sprintf("%d cores, %s/%s, %s, PostgreSQL %s (fsync %s, synchronous_commit %s)", runtime.NumCPU(),
		runtime.GOOS, runtime.GOARCH,
		runtime.Version(), version, fsync, synchronous)
	if b.nginx != nil {
		machine += ", " + b.nginx.version
	}
	if broker != nil {
		machine += ", " + broker.Version
	}
	machine += ", " + time.Now().UTC().Format(time.DateOnly)
	fmt.Fprintln(b.out, machine)
	return machine, err
}
