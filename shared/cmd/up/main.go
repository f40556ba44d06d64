// Command up runs the whole company, each service in its own process with a private PostgreSQL, and a map of them.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"

	"github.com/edison-cars/data-feeds/shared/daemon"
	"github.com/edison-cars/data-feeds/shared/dev/rabbitmq"
	"github.com/edison-cars/data-feeds/shared/postgres"
)

func main() { daemon.Main(run) }

const help = `Runs the whole company: the source apps and every subscriber, each a process of its own
with a private PostgreSQL, until Ctrl-C. The map of them, with which service reads what and how
fresh each copy is, is at http://localhost:8079. A service that dies is not started
again: up says so, the map shows it, the others go on.

A line is printed for each change that matters: a service is ready or has died, its polls fail for 5
seconds or succeed again, a copy has caught up, an entry was rejected, a database was restarted; and for
warnings. The full logs are in log/NAME.log beside the data, those of the start before in NAME.log.1.

Usage: go run ./shared/cmd/up [flags]

  --orders-per-minute N   invented shoppers buy N cars a minute, 0 to 6000 (default 0)
  --stream                bring RabbitMQ, from the binaries on the machine, and the relay along, which
                          republishes the orders feed to it: an event stream for consumers of AMQP
  --verbose               print the full logs of all services, not just what matters of them
  --fresh                 delete the data of the services first
  --port-offset N         add N to every port, so that a second company runs beside the
                          first, 0 to 57000 (default 0); give it a --dir of its own
  --dir DIR               where binaries and data are (default .edison beside go.mod)
  --help                  print this

The environment is passed on to every service, but for what up sets itself (ADDR, DATA_DIR, PUBLIC_URL
and where the services find each other) and for DATABASE_URL, which no service gets: the databases are private.
ACCESS is open unless it is set: programs and browsers on this machine may do all that an operator may. With
ACCESS=closed set TOKENS_FILE, with the entry of an operator's token, to log in, and FEED_TOKEN to the token that
the services read each other's feeds with.

To poll every second, for example:

  POLL_ORDERS='@every 1s' go run ./shared/cmd/up --orders-per-minute 60

With AMQP_URL the relay of --stream uses that RabbitMQ, and up starts none.

NO_COLOR=1 turns the colours off.
`

type options struct {
	ordersPerMinute int
	fresh           bool
	stream          bool
	verbose         bool
	portOffset      int
	dir             string
}

func parseFlags(args []string) (o options, err error) {
	flags := flag.NewFlagSet("up", flag.ContinueOnError)
	flags.SetOutput(io.Discard)
	flags.Usage = func() {}
	flags.Func("orders-per-minute", "", upTo(6000, &o.ordersPerMinute))
	flags.BoolVar(&o.fresh, "fresh", false, "")
	flags.BoolVar(&o.stream, "stream", false, "")
	flags.BoolVar(&o.verbose, "verbose", false, "")
	flags.Func("port-offset", "", upTo(57000, &o.portOffset))
	flags.Func("dir", "", func(s string) error {
		if s == "" {
			return errors.New("takes a folder")
		}
		o.dir, err = filepath.Abs(s)
		return err
	})
	if err := flags.Parse(args); errors.Is(err, flag.ErrHelp) {
		return o, err
	} else if err != nil {
		return o, daemon.Usagef("%w; see --help", err)
	}
	if flags.NArg() > 0 {
		return o, daemon.Usagef("takes flags only, not %q; see --help", flags.Arg(0))
	}
	return o, nil
}

func upTo(limit int, into *int) func(string) error {
	return func(s string) error {
		n, err := strconv.Atoi(s)
		if err != nil || n < 0 || n > limit {
			return fmt.Errorf("takes a whole number from 0 to %d", limit)
		}
		*into = n
		return nil
	}
}

func run(ctx context.Context, args []string, env map[string]string, stdout io.Writer) (err error) {
	opts, err := parseFlags(args)
	if errors.Is(err, flag.ErrHelp) {
		_, err = io.WriteString(stdout, help)
		return err
	} else if err != nil {
		return err
	}
	root, err := moduleRoot()
	if err != nil {
		return err
	}
	dataDir := opts.dir // "" means the services' default, which is the same folder
	if opts.dir == "" {
		opts.dir = filepath.Join(root, ".edison")
	}
	if opts.stream && env["AMQP_URL"] == "" {
		if _, err := rabbitmq.Find(); err != nil {
			return fmt.Errorf("--stream: %w; or name a RabbitMQ that runs in AMQP_URL", err)
		}
	}
	if err := tools(ctx, env); err != nil {
		return err
	}
	defer func() {
		if err != nil && noSpace(err.Error()) {
			err = fmt.Errorf("%w\nthe disk is full: %s", err, freeSpace)
		}
	}()
	unlock, err := lockDir(opts.dir)
	if err != nil {
		return err
	}
	defer unlock()

	site := service{name: "map", addr: net.JoinHostPort("localhost", strconv.Itoa(mapPort+opts.portOffset))}
	smtp := service{name: sink, addr: net.JoinHostPort("localhost", strconv.Itoa(sinkPort+opts.portOffset))}
	all := listServices(opts.portOffset)
	services := withStream(all, opts.stream, env["AMQP_URL"])
	free := func() error { return portsFree(ctx, append([]service{site, smtp}, services...)) }
	if err := free(); err != nil { // before the build, which may take minutes
		return err
	}
	out := newConsole(stdout, env)
	out.line(self, "building")
	built := out.progress(func() string { return "building" })
	err = build(ctx, root, opts.dir)
	built()
	if err != nil {
		return err
	}
	for _, s := range services {
		out.reserve(s.name)
	}
	if err := free(); err != nil {
		return err
	}
	if opts.fresh {
		if err := deleteData(opts.dir, all); err != nil {
			return err
		}
	}
	c := &company{
		root: root, dir: opts.dir, dataDir: dataDir, env: env, out: out, services: services,
		portOffset: opts.portOffset, verbose: opts.verbose,
	}
	if err := os.MkdirAll(c.logDir(), 0o755); err != nil {
		return err
	}
	out.line(self, "full logs: %s", filepath.Join(c.logDir(), "NAME.log"))
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	mapEnds, err := c.serveMap(ctx, site)
	if err != nil {
		return err
	}
	defer func() { cancel(); mapEnds() }()
	return c.run(ctx, opts.ordersPerMinute)
}

// tools checks that the machine has what up needs.
func tools(ctx context.Context, env map[string]string) error {
	if _, err := exec.LookPath("go"); err != nil {
		return fmt.Errorf("up builds the services with go, which is in no folder of PATH (%s): add Go's, such as /usr/local/go/bin", env["PATH"])
	}
	return postgres.FindServer(ctx, env["PGBIN"])
}

// moduleRoot returns the nearest folder with a go.mod, from the current one upwards.
func moduleRoot() (string, error) {
	dir, err := os.Getwd()
	if err != nil {
		return "", err
	}
	for start := dir; ; dir = filepath.Dir(dir) {
		if _, err := os.Stat(filepath.Join(dir, "go.mod")); err == nil {
			return dir, nil
		}
		if dir == filepath.Dir(dir) {
			return "", daemon.Usagef("no go.mod in %s or above it: run this inside the project", start)
		}
	}
}
