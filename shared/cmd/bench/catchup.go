package main

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/edison-cars/data-feeds/shared/feed"
	"github.com/edison-cars/data-feeds/shared/postgres"
)

// catchup measures how long a newcomer takes to have everything.
type catchup struct {
	*pair
	nginx   *program // nil: there is none
	broker  *broker  // nil: there is none
	entries int
	single  int // messages for the consumer that takes one at a time
	rounds  int
	psql    string // empty: there is none
	file    string // the orders, as PostgreSQL's COPY writes them
}

// A way to copy n entries into an empty copy. It gives the time from when it began, and the most memory that its process had.
type way struct {
	name, bar string
	n         int
	copy      func(ctx context.Context, db *postgres.DB) (took time.Duration, memory int64, err error)

	rates, memory []float64 // entries a second and MB, by round
}

func (c *catchup) run(ctx context.Context) (chart, error) {
	fmt.Fprintf(c.out, "\nCatching up: an empty table with a primary key and two indexes, until all is committed there; source, copies and peers share the cores\n")
	if err := c.prepare(ctx); err != nil {
		return chart{}, err
	}
	source, err := c.startSource(ctx)
	if err != nil {
		return chart{}, err
	}
	defer func() { _, _ = source.stop() }()
	warm, where, err := c.warm(ctx, source)
	if err != nil {
		return chart{}, err
	}
	defer func() { _, _ = warm.stop() }()
	ways := c.ways(warm, where)
	for round := range c.rounds {
		for turn := range ways {
			w := ways[(turn+round)%len(ways)]
			if err := c.measure(ctx, w); err != nil {
				return chart{}, fmt.Errorf("%s: %w", w.name, err)
			}
		}
	}
	t := c.out.table("way", "entries", "entries/s", "it : \\copy", "pure copy : it", "most MB")
	picture := chart{title: "Catching up: entries a second (longer is better)", unit: "/s", series: []string{"into a table with a primary key and two indexes"}}
	copied := ways[0]
	pure := ways[slices.IndexFunc(ways, func(w *way) bool { return w.bar == pureBar })]
	for _, w := range ways {
		memory := "-"
		if len(w.memory) > 0 {
			memory = number(slices.Max(w.memory))
		}
		t.row(w.name, count(w.n), number(median(w.rates)), ratios(w.rates, copied.rates), ratios(pure.rates, w.rates), memory)
		picture.groups = append(picture.groups, group{w.bar, []float64{median(w.rates)}})
	}
	return picture, t.flush()
}

// prepare fills the source, and writes its orders to a file.
func (c *catchup) prepare(ctx context.Context) (err error) {
	if c.psql, err = c.programOf(ctx, "psql"); err != nil {
		return err
	}
	if c.psql == "" {
		fmt.Fprintln(c.out, "psql is not installed here: the file is sent by this program instead")
	}
	if err := c.fill(ctx, c.entries); err != nil {
		return err
	}
	c.file = filepath.Join(c.dir, "orders.copy")
	f, err := os.Create(c.file)
	if err != nil {
		return err
	}
	conn, err := c.source.Acquire(ctx)
	if err != nil {
		return errors.Join(err, f.Close())
	}
	defer conn.Release()
	_, err = conn.Conn().PgConn().CopyTo(ctx, f, `copy orders to stdout`)
	return errors.Join(err, f.Close())
}

// warm gives a server that had to hand out everything before: nginx as a shared cache before the source, or the source itself.
func (c *catchup) warm(ctx context.Context, source *server) (s *server, where string, err error) {
	where = "from nginx, which has it"
	if c.nginx == nil {
		fmt.Fprintln(c.out, "nginx is not installed here (on Debian: apt-get install nginx): there is no shared cache")
		s, err = c.startSource(ctx)
		where = "from a source that has been asked before"
	} else {
		env := maps.Clone(c.env)
		env[upstreamEnv] = source.addr
		s, err = startServer(ctx, env, cacheKind, c.dir)
	}
	if err != nil {
		return nil, "", err
	}
	began := time.Now()
	if err := c.walk(ctx, s); err != nil {
		_, _ = s.stop()
		return nil, "", err
	}
	fmt.Fprintf(c.out, "a reader that keeps nothing walked the feed in %.1f s\n", time.Since(began).Seconds())
	return s, where, nil
}

// walk asks for all pages as a subscriber does.
func (c *catchup) walk(ctx context.Context, s *server) error {
	client := feed.NewClient("")
	defer client.Close()
	next := feed.Request{URL: "http://" + s.addr + "/feeds/" + feedName, Limit: feed.MaxPageSize}
	for {
		answer, err := client.Get(ctx, next)
		if err != nil {
			return err
		}
		if next.After = answer.Page.Cursor; answer.Page.UpToDate {
			return nil
		}
	}
}

const pureBar = "feed, cached"

// ways begins with what the others are compared to.
func (c *catchup) ways(warm *server, where string) []*way {
	all := []*way{
		{name: "psql \\copy", bar: "\\copy", n: c.entries, copy: c.copyFile},
		{name: "logical replication, initial sync", bar: "initial sync", n: c.entries, copy: c.copyByReplication},
		{name: "feed, pure copy, " + where, bar: pureBar, n: c.entries, copy: c.subscriber(pureKind, warm)},
		{name: "feed, pure copy, from a source just started", bar: "feed, cold", n: c.entries, copy: c.subscriber(pureKind, nil)},
		{name: "feed, one applier, " + where, bar: "one applier", n: c.entries, copy: c.subscriber(oneKind, warm)},
	}
	if c.broker == nil {
		fmt.Fprintln(c.out, noRabbit)
		return all
	}
	return append(all,
		&way{name: "RabbitMQ, tuned batches", bar: "RabbitMQ", n: c.entries, copy: c.consumer(c.entries, c.broker.copyInBatches)},
		&way{name: "RabbitMQ, one by one", bar: "one by one", n: c.single, copy: c.consumer(c.single, c.broker.copyOneByOne)})
}

const noRabbit = "RabbitMQ is left out: it is not installed here (on Debian: apt-get install rabbitmq-server)"

// measure runs a way once, and checks what came of it.
func (c *catchup) measure(ctx context.Context, w *way) error {
	db, err := c.fresh(ctx)
	if err != nil {
		return err
	}
	defer db.Close()
	took, memory, err := w.copy(ctx, db)
	if err != nil {
		return err
	}
	w.rates = append(w.rates, float64(w.n)/took.Seconds())
	if memory > 0 {
		w.memory = append(w.memory, float64(memory)/1e6)
	}
	if w.n == c.entries {
		return c.equal(ctx, db.Pool)
	}
	var n int
	if err = db.QueryRow(ctx, `select count(*) from orders`).Scan(&n); err == nil && n != w.n {
		err = fmt.Errorf("%d entries are there, want %d", n, w.n)
	}
	return err
}

func (c *catchup) copyFile(ctx context.Context, db *postgres.DB) (took time.Duration, _ int64, err error) {
	began := time.Now()
	if c.psql != "" {
		cmd := exec.CommandContext(ctx, c.psql, "--no-psqlrc", "--quiet", "--set=ON_ERROR_STOP=1",
			"--command=\\copy orders from '"+c.file+"'", db.Config().ConnString())
		if out, err := cmd.CombinedOutput(); err != nil {
			return 0, 0, fmt.Errorf("psql: %w\n%s", err, out)
		}
		return time.Since(began), 0, nil
	}
	f, err := os.Open(c.file)
	if err != nil {
		return 0, 0, err
	}
	defer f.Close()
	conn, err := db.Acquire(ctx)
	if err != nil {
		return 0, 0, err
	}
	defer conn.Release()
	_, err = conn.Conn().PgConn().CopyFrom(ctx, f, `copy orders from stdin`)
	return time.Since(began), 0, err
}

func (c *catchup) copyByReplication(ctx context.Context, db *postgres.DB) (took time.Duration, _ int64, err error) {
	began := time.Now()
	end, err := c.replicate(ctx, db, true)
	took = time.Since(began)
	if end != nil {
		err = errors.Join(err, end())
	}
	return took, 0, err
}

// subscriber copies from a server; nil is a source that is started for it.
func (c *catchup) subscriber(kind string, from *server) func(context.Context, *postgres.DB) (time.Duration, int64, error) {
	return func(ctx context.Context, db *postgres.DB) (took time.Duration, memory int64, err error) {
		from := from
		if from == nil {
			if from, err = c.startSource(ctx); err != nil {
				return 0, 0, err
			}
			defer func() { _, _ = from.stop() }()
		}
		began := time.Now()
		s, err := c.startSubscriber(ctx, kind, from.addr, db, nil)
		if err != nil {
			return 0, 0, err
		}
		err = s.caughtUp(ctx, int64(c.entries))
		if err == nil {
			_, err = db.Exec(ctx, `create table flushed ()`) // and with it what was committed before
		}
		took = time.Since(began)
		if err == nil {
			memory, _, err = memoryOf(s.cmd.Process.Pid, peakMemory)
		}
		_, stopErr := s.stop()
		return took, memory, errors.Join(err, stopErr)
	}
}

// consumer copies what is put into a queue before.
func (c *catchup) consumer(n int, consume func(ctx context.Context, db *pgxpool.Pool, queue string, n int) error) func(context.Context, *postgres.DB) (time.Duration, int64, error) {
	return func(ctx context.Context, db *postgres.DB) (took time.Duration, _ int64, err error) {
		const queue = "catchup"
		if err := c.broker.fill(ctx, c.source.Pool, queue, n); err != nil {
			return 0, 0, err
		}
		began := time.Now()
		err = consume(ctx, db.Pool, queue, n)
		return time.Since(began), 0, err
	}
}
