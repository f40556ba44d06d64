package main

import (
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/edison-cars/data-feeds/shared/daemon"
)

const usage = `Measures the feed, or a subscriber of it, against its peers, or a whole shop, in one run on this machine,
over loopback and on private PostgreSQL servers that are deleted afterwards. Machines are noisy:
compare ratios, not rates.

Usage: go run ./shared/cmd/bench feed|subscribe|architectures [flags]

`

const contents = `
feed, 6 to 9 minutes
writes     Orders a second at 1, 8, 32 and 128 writers: the feed's log (one INSERT and one entry in
           a group commit) against a plain transaction (BEGIN, INSERT order, INSERT entry with a
           bigserial, COMMIT) and against both INSERTs in one statement. A reader polls each of them
           every 2 ms, and the entries that it missed are counted. 2 to 3 minutes.
reads      Requests a second over 32 keep-alive connections, and the CPU time each takes of the
           server's process and of PostgreSQL: 304, the tail, a sealed page, the same in gzip and as
           Atom, from the feed, from nginx (Debian package nginx; left out where it is not installed)
           with the same bytes in files, and from a handler that reads 100 orders into structs,
           marshals and compresses them for every request. Each server has one core. 1 to 3 minutes.
wait       Milliseconds from a commit to a reader that has the page, at 40 orders a second: a reader
           that waits (Prefer: wait), one that waits at another replica, one that polls every second.
           Then 10,000 that wait at once, or as many as the limit of open files allows: memory each,
           and from one commit to the last of their answers. Client and server share the cores, as
           everywhere here. About a minute.
overload   Milliseconds that POST /orders of the sales app takes, at 40 orders a second, alone and while
           16 clients walk through a history in pages that are not in memory: each has to be read,
           rendered and compressed. A minute.

subscribe, 7 to 10 minutes
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
           and compress them. Every copy is compared with the source. As many rounds as end within
           10 minutes of the start, 1 to 3.

architectures, 3 to 4 minutes
The same shop, sales and three consumers, each a process and a database of its own, in five ways:
calls      HTTP to each consumer before the commit; what one does not take is not sold, and taken back
           from the others.
queues     After the commit, a durable queue for each consumer, confirmed by RabbitMQ; three workers
           share it, and what is refused five times goes to the dead letters.
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

// parts are what can be measured, by command.
var parts = map[string][]string{
	"feed":          {"writes", "reads", "wait", "overload"},
	"subscribe":     {"idle", "freshness", "catchup"},
	"architectures": {"calls", "queues", "stream", "feed", "relay"},
}

type options struct {
	what     string // a key of parts
	only     string // empty: everything
	quick    bool
	markdown bool
	out      string
	entries  int // 0: the default
	orders   int // 0: the default
}

const (
	minEntries = 1000
	maxEntries = 100_000_000
	minSales   = 20
	maxSales   = 2000
)

// parseFlags reads the command line. For --help it prints the help and returns [flag.ErrHelp].
func parseFlags(args []string, stdout io.Writer) (o options, err error) {
	if len(args) > 0 && !strings.HasPrefix(args[0], "-") {
		o.what, args = args[0], args[1:]
	}
	flags := flag.NewFlagSet("bench", flag.ContinueOnError)
	flags.SetOutput(io.Discard)
	flags.Func("only", "measure only that `PART`, such as writes (default all)", func(s string) error {
		if !slices.Contains(parts[o.what], s) {
			return fmt.Errorf("takes a part of %s: %s", o.what, strings.Join(parts[o.what], ", "))
		}
		o.only = s
		return nil
	})
	flags.BoolVar(&o.quick, "quick", false, "short rounds: shows that everything works, its figures mean little")
	flags.BoolVar(&o.markdown, "markdown", false, "print the tables as Markdown")
	flags.Func("out", "draw the figures into `FILE.svg`, too", func(s string) error {
		if info, err := os.Stat(filepath.Dir(s)); filepath.Ext(s) != ".svg" || err != nil || !info.IsDir() {
			return errors.New("takes a file.svg in a folder that exists")
		}
		o.out = s
		return nil
	})
	number := func(name, help, what string, least, most int, into *int) {
		flags.Func(name, help, func(s string) (err error) {
			if o.what != what {
				return fmt.Errorf("is for %s", what)
			}
			if *into, err = strconv.Atoi(s); err != nil || *into < least || *into > most {
				return fmt.Errorf("takes a whole number from %s to %s", count(least), count(most))
			}
			return nil
		})
	}
	number("entries", "of subscribe: copy `N` orders, 1,000 to 100,000,000 (default 1,000,000)",
		"subscribe", minEntries, maxEntries, &o.entries)
	number("orders", "of architectures: sell `N` orders on good days, 20 to 2,000 (default 400)",
		"architectures", minSales, maxSales, &o.orders)
	switch err := flags.Parse(args); {
	case errors.Is(err, flag.ErrHelp):
		printHelp(stdout, flags)
		return o, err
	case err != nil:
		return o, daemon.Usagef("%w; see --help", err)
	case parts[o.what] == nil || flags.NArg() > 0:
		return o, daemon.Usagef("takes feed, subscribe or architectures, then flags; see --help")
	}
	return o, nil
}

func printHelp(w io.Writer, flags *flag.FlagSet) {
	var all []daemon.Setting
	flags.VisitAll(func(f *flag.Flag) {
		value, help := flag.UnquoteUsage(f)
		all = append(all, daemon.Setting{Name: strings.TrimSpace("--" + f.Name + " " + value), Help: help})
	})
	fmt.Fprint(w, usage)
	daemon.Help(w, all)
	fmt.Fprint(w, contents)
}
