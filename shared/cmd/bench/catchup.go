package main

import (
	"context"
	"errors"
	"fmt"
	"os/exec"
	"path/filepath"
	"slices"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/edison-cars/data-feeds/shared/cmd/bench/shop"
	"github.com/edison-cars/data-feeds/shared/dev/rabbitmq"
	"github.com/edison-cars/data-feeds/shared/feed"
	"github.com/edison-cars/data-feeds/shared/feedclient"
	"github.com/edison-cars/data-feeds/shared/order"
	"github.com/edison-cars/data-feeds/shared/postgres"
)

// catchup measures how long a newcomer takes to have everything.
type catchup struct {
	*pair
	broker  *rabbitmq.Server // or nil
	entries int
	batched int // messages for the consumers that take many at a time; all would take minutes to queue
	single  int // messages for the consumer that takes one at a time
	rounds  int // at most
	until   time.Time
	psql    string         // the program
	file    string         // the orders, as PostgreSQL's COPY writes them
	want    map[int]string // what a copy of the first n entries has to be
}

// A copier fills an empty copy. It returns the time from when it began, and the most memory that its process had.
type copier func(ctx context.Context, db *postgres.DB) (took time.Duration, memory int64, err error)

type way struct {
	name, bar string
	n         int
	copy      copier

	rates, memory []float64 // entries a second and MB, by round
}

func (c *catchup) run(ctx context.Context) (chart, error) {
	fmt.Fprintf(c.out, "\nCatching up: an empty table with a primary key and two indexes, until all is committed "+
		"there; source, copies and peers share the cores\n")
	if err := c.prepare(ctx); err != nil {
		return chart{}, err
	}
	source, err := c.startSource(ctx, nil)
	if err != nil {
		return chart{}, err
	}
	defer source.stop()
	warm, where, err := c.warm(ctx, source)
	if err != nil {
		return chart{}, err
	}
	defer warm.stop()
	ways, began := c.ways(warm, where), time.Now()
	for round := range c.rounds {
		if took := time.Since(began); !another(round, took, time.Until(c.until)) {
			fmt.Fprintf(c.out, "%d of %d rounds in %.0f s: another one would end too late\n", round, c.rounds, took.Seconds())
			break
		}
		for turn := range ways {
			w := ways[(turn+round)%len(ways)]
			if err := c.measure(ctx, w); err != nil {
				return chart{}, fmt.Errorf("%s: %w", w.name, err)
			}
		}
	}
	t := c.out.table("way", "entries", "entries/s", "it : \\copy", "pure copy : it", "most MB")
	picture := chart{title: "Catching up: entries a second (longer is better)", unit: "/s",
		series: []string{"into a table with a primary key and two indexes"}}
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

// another reports whether a round ends within the time left, if it takes as long as those before. The first one always
// does.
func another(rounds int, took, left time.Duration) bool {
	return rounds == 0 || took/time.Duration(rounds) <= left
}

func (c *catchup) prepare(ctx context.Context) (err error) {
	if c.psql, err = c.findPsql(ctx); err != nil {
		return err
	}
	if err := c.fill(ctx, c.entries); err != nil {
		return err
	}
	c.want = map[int]string{}
	for _, n := range []int{c.entries, c.batched, c.single} {
		if c.want[n], err = ordersOf(ctx, c.source.Pool, n); err != nil {
			return err
		}
	}
	c.file = filepath.Join(c.dir, "orders.copy")
	return c.runPsql(ctx, c.source, "to")
}

func (c *catchup) runPsql(ctx context.Context, db *postgres.DB, direction string) error {
	out, err := exec.CommandContext(ctx, c.psql, "--no-psqlrc", "--quiet", "--set=ON_ERROR_STOP=1",
		"--command=\\copy orders "+direction+" '"+c.file+"'", db.Config().ConnString()).CombinedOutput()
	if err != nil {
		err = fmt.Errorf("psql: %w\n%s", err, out)
	}
	return err
}

// warm returns a server that had to hand out everything before: nginx as a shared cache before the source, or the
// source itself.
func (c *catchup) warm(ctx context.Context, source *process) (p *process, where string, err error) {
	if where = "from nginx, which has it"; c.nginx == nil {
		fmt.Fprintln(c.out, noNginx+": there is no shared cache")
		p, where = source, "from a source that has been asked before"
	} else if p, err = c.start(ctx, nginxKind, c.dir, map[string]string{upstreamEnv: source.addr}); err != nil {
		return nil, "", err
	}
	began := time.Now()
	client := feedclient.New("")
	defer client.Close()
	next := feedclient.Request{URL: "http://" + p.addr + "/feeds/" + order.Feed, Limit: feed.MaxPageSize}
	for upToDate := false; !upToDate; { // asks for all pages as a subscriber does
		answer, err := client.Get(ctx, next)
		if err != nil {
			return nil, "", err
		}
		next.After, upToDate = answer.Page.Cursor, answer.Page.UpToDate
	}
	fmt.Fprintf(c.out, "a reader that keeps nothing walked the feed in %.1f s\n", time.Since(began).Seconds())
	return p, where, nil
}

const pureBar = "feed, cached"

func (c *catchup) ways(warm *process, where string) []*way {
	all := []*way{
		{name: "psql \\copy", bar: "\\copy", n: c.entries, copy: c.copyFile},
		{name: "logical replication, initial sync", bar: "initial sync", n: c.entries, copy: c.copyByReplication},
		{name: "feed, pure copy, " + where, bar: pureBar, n: c.entries, copy: c.subscriber(shop.PureCopy, warm)},
		{name: "feed, pure copy, from a source just started", bar: "feed, cold", n: c.entries,
			copy: c.subscriber(shop.PureCopy, nil)},
		{name: "feed, one applier, " + where, bar: "one applier", n: c.entries, copy: c.subscriber(shop.FeedConsumer, warm)},
	}
	if c.broker == nil {
		fmt.Fprintln(c.out, noRabbit)
		return all
	}
	return append(all,
		&way{name: "RabbitMQ, tuned batches", bar: "RabbitMQ", n: c.batched, copy: c.consumer(c.batched, c.copyInBatches)},
		&way{name: "RabbitMQ, one by one", bar: "one by one", n: c.single, copy: c.consumer(c.single, c.copyOneByOne)})
}

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
	return equal(ctx, db.Pool, c.want[w.n])
}

func (c *catchup) copyFile(ctx context.Context, db *postgres.DB) (took time.Duration, _ int64, err error) {
	began := time.Now()
	err = c.runPsql(ctx, db, "from")
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

// subscriber copies from a server, or, if that is nil, from a source that is started for it.
func (c *catchup) subscriber(kind string, from *process) copier {
	return func(ctx context.Context, db *postgres.DB) (took time.Duration, memory int64, err error) {
		from := from
		if from == nil {
			if from, err = c.startSource(ctx, nil); err != nil {
				return 0, 0, err
			}
			defer from.stop()
		}
		return c.copyFeed(ctx, kind, from.addr, db, c.entries, nil)
	}
}

// copyFeed starts a subscriber and stops it when it has the entries up to head.
func (b *bench) copyFeed(ctx context.Context, kind, sourceAddr string, db *postgres.DB, head int,
	settings map[string]string) (took time.Duration, memory int64, err error) {
	began := time.Now()
	s, err := b.startSubscriber(ctx, kind, sourceAddr, db, settings)
	if err != nil {
		return 0, 0, err
	}
	err = s.caughtUp(ctx, int64(head))
	if err == nil {
		_, err = db.Exec(ctx, `create table flushed ()`) // and with it what was committed before
	}
	took = time.Since(began)
	if err == nil {
		_, memory, err = s.memory()
	}
	_, stopErr := s.stop()
	return took, memory, errors.Join(err, stopErr)
}

func (c *catchup) consumer(n int,
	consume func(ctx context.Context, db *pgxpool.Pool, queue string, n int) error) copier {
	return func(ctx context.Context, db *postgres.DB) (took time.Duration, _ int64, err error) {
		const queue = "catchup"
		if err := c.fillQueue(ctx, queue, n); err != nil {
			return 0, 0, err
		}
		began := time.Now()
		err = consume(ctx, db.Pool, queue, n)
		return time.Since(began), 0, err
	}
}
