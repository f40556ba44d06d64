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

Usage: go run ./shared/cmd/bench feed|subscribe|publish|growth|scale|architectures [flags]

`

const contents = `
feed, 6 to 9 minutes
writes     orders a second at 1, 8, 32 and 128 writers: the feed's log, a plain transaction with a
           bigserial, and both INSERTs in one statement; and what a polling reader misses of them
reads      requests a second and CPU time of a 304, the tail, a sealed page, the same in gzip and as
           Atom: the feed, nginx with the same bytes in files, a handler that marshals 100 orders
wait       from a commit to a reader that waits, here or at a replica, or polls; then 10,000 that
           wait at once: memory each, and until all are answered
overload   POST /orders of the sales app, alone and while 16 clients walk through history that is
           not in memory

subscribe, 7 to 10 minutes
idle       CPU time of a poll that brings nothing new (304), of source, subscriber and databases
freshness  from the commit at the source to that in the copy: subscribers that wait or poll,
           RabbitMQ, PostgreSQL's logical replication
catchup    entries a second into an empty table with two indexes: \copy, logical replication,
           subscribers of a shared cache or of a source just started, RabbitMQ; 1 to 3 rounds

publish, 4 to 6 minutes: tables whose rows are published by SQL
rates      rows inserted a second by 1, 8 and 32 clients: a plain table, one attached as staged, and
           one attached as commit
freshness  from the commit of a staged row to a reader that waits
entries    what a reader sees missed, doubled or out of order of rows that 8 clients change
backfill   1,000,000 rows, against insert ... select of as many entries
snapshot   appends and looks at the head while another session keeps an old snapshot, and while none does

growth, 8 to 10 minutes: what grows with the length of a feed or a table
requests   append, 304, cold pages, newest page, one entity and start: feeds of 10,000, 100,000 and
           1,000,000 entries, with 1 and 20 versions per entity; memory, and bytes per entry
newcomers  copies by all versions and by snapshot
compaction space of superseded entries, before and after
services   every page of the services over 10,000 and over 1,000,000 rows

scale, 5 to 7 minutes: a source with FEED_MAX_AGE=1s alone, and behind the cache tier of shared/deploy/cache
polls      304s a second, how many reach the source, and its CPU time
waits      10,000 that wait at once: requests at the source per entry, its CPU time, and until all are answered
sealed     requests at the source per sealed page of 1,000 readers that catch up 100,000 entries behind a cache
standbys   pages a second that are not in memory, with 0, 1 and 2 hot standbys, and the CPU time of the primary

architectures, 3 to 4 minutes: the same shop, sales and three consumers, in five ways
calls      HTTP to each consumer before the commit
queues     after the commit, a durable queue for each consumer, confirmed
stream     after the commit, a fanout exchange, not confirmed
feed       order and entry in one commit; subscribers wait at the source
relay      the same, with a relay to RabbitMQ, to which the subscribers listen, too
What a sale takes and costs on good days, and what is lost, doubled or late when consumers, the broker
and sales are killed.

nginx, Varnish and RabbitMQ (Debian packages nginx, varnish and rabbitmq-server) are left out where they are missing.
Ratios are the median over the rounds (least to most). Contestants take turns in every round.
`

var parts = map[string][]string{
	"feed":          {"writes", "reads", "wait", "overload"},
	"subscribe":     {"idle", "freshness", "catchup"},
	"publish":       {"rates", "freshness", "entries", "backfill", "snapshot"},
	"growth":        {"requests", "newcomers", "compaction", "services"},
	"scale":         {"polls", "waits", "sealed", "standbys"},
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
	minGrown   = 20_000 // entries of the longest feed of growth: the shortest has 10,000
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
			if !slices.Contains(strings.Split(what, " and "), o.what) {
				return fmt.Errorf("is for %s", what)
			}
			if *into, err = strconv.Atoi(s); err != nil || *into < least || *into > most {
				return fmt.Errorf("takes a whole number from %s to %s", count(least), count(most))
			}
			return nil
		})
	}
	number("entries", "of subscribe: copy `N` orders; of growth: the longest feed; 1,000 to 100,000,000 (default 1,000,000)",
		"subscribe and growth", minEntries, maxEntries, &o.entries)
	number("orders", "of architectures: sell `N` orders on good days, 20 to 2,000 (default 400)",
		"architectures", minSales, maxSales, &o.orders)
	switch err := flags.Parse(args); {
	case errors.Is(err, flag.ErrHelp):
		printHelp(stdout, flags)
		return o, err
	case err != nil:
		return o, daemon.Usagef("%w; see --help", err)
	case o.what == "growth" && o.entries > 0 && o.entries < minGrown:
		return o, daemon.Usagef("--entries of growth takes at least %s", count(minGrown))
	case parts[o.what] == nil || flags.NArg() > 0:
		return o, daemon.Usagef("takes feed, subscribe, publish, growth, scale or architectures, then flags; see --help")
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
