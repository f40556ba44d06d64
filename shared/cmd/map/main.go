// Command map shows the whole company on one page: services, feeds, and how fresh each copy is.
package main

import (
	"context"
	"flag"
	"fmt"
	"io"
	"sync"

	"github.com/edison-cars/data-feeds/shared/daemon"
	"github.com/edison-cars/data-feeds/shared/feed"
	"github.com/edison-cars/data-feeds/shared/topology"
	"github.com/edison-cars/data-feeds/shared/web"
)

type settings struct {
	Addr       string            `env:"ADDR" envDefault:"127.0.0.1:8079" help:"host:port to listen on"`
	Services   topology.Services `env:"SERVICES" help:"whom to ask: sales=http://localhost:8080,warehouse=http://localhost:8090"`
	LinkHost   string            `env:"LINK_HOST" help:"host name in links to the services, where browsers do not know those in SERVICES; ports stay"`
	FeedToken  string            `env:"FEED_TOKEN" help:"token that all sources know it by, if they want one; without, it learns of their feeds from the readers"`
	PlainHosts feed.PlainHosts   `env:"PLAIN_HOSTS" help:"hosts of a private network, sales,customers, to which FEED_TOKEN may be sent without TLS, as it may to localhost"`
	LogLevel   string            `env:"LOG_LEVEL" envDefault:"info" help:"debug, info, warn or error"`
}

func main() { daemon.Main(run) }

func run(ctx context.Context, args []string, env map[string]string, stdout io.Writer) error {
	flags := flag.NewFlagSet("map", flag.ContinueOnError)
	flags.SetOutput(stdout)
	flags.Usage = func() {
		fmt.Fprint(stdout, "Usage: map\n\nShows services, their feeds and copies on one page, and asks them once a second how they are.\n\nSettings (environment):\n")
		daemon.Help(stdout, settings{})
	}
	if err := flags.Parse(args); err != nil {
		return daemon.Usagef("%w", err)
	}
	if flags.NArg() > 0 {
		return daemon.Usagef("map takes no argument %q; see --help", flags.Arg(0))
	}
	var set settings
	if err := daemon.Parse(env, &set); err != nil {
		return err
	}
	if len(set.Services) == 0 {
		return daemon.Usagef("SERVICES must be set, such as SERVICES=sales=http://localhost:8080,warehouse=http://localhost:8090")
	}
	if err := set.Services.Check(set.FeedToken, set.PlainHosts); err != nil {
		return daemon.Usagef("SERVICES: %w", err)
	}
	if set.LinkHost != "" {
		if err := set.Services.LinkTo(set.LinkHost); err != nil {
			return err
		}
	}
	logger, err := daemon.Logger(stdout, set.LogLevel)
	if err != nil {
		return err
	}
	watch := topology.NewWatch(set.Services, set.FeedToken)
	engine := web.New(logger)
	topology.Route(engine, watch)
	ctx, stop := context.WithCancel(ctx)
	var watching sync.WaitGroup
	defer watching.Wait()
	defer stop()
	watching.Go(func() { watch.Run(ctx) })
	return web.Serve(ctx, set.Addr, engine, logger)
}
