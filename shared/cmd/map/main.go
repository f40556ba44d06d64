// Command map shows the whole company on one page: services, feeds, and how fresh each copy is.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"

	"github.com/edison-cars/data-feeds/shared/daemon"
	"github.com/edison-cars/data-feeds/shared/dev/topology"
	"github.com/edison-cars/data-feeds/shared/directory"
	"github.com/edison-cars/data-feeds/shared/feedclient"
	"github.com/edison-cars/data-feeds/shared/service"
)

const usage = `Usage: map

Shows services, their feeds and copies on one page, and asks them once a second how they are.

Settings (environment):
`

type settings struct {
	service.HTTPSettings
	Map mapSettings
}

type mapSettings struct {
	Services   directory.Services    `env:"SERVICES" help:"services to ask: sales=http://localhost:8080,warehouse=http://localhost:8090"`
	LinkHost   string                `env:"LINK_HOST" help:"host name in links to the services, where browsers do not know those in SERVICES; ports stay"`
	FeedToken  string                `env:"FEED_TOKEN" help:"token that all services know it by: an operator's, or a reader's, by which no order can be followed"`
	PlainHosts feedclient.PlainHosts `env:"PLAIN_HOSTS" help:"hosts of a private network, sales,customers, to which FEED_TOKEN may be sent without TLS, as it may to localhost"`
}

// Check sets the links to the services. It returns an error for each wrong value that [daemon.Parse] has accepted.
func (s *settings) Check() error {
	var wrong []error
	if !feedclient.IsToken(s.Map.FeedToken) {
		wrong = append(wrong, daemon.Usagef("FEED_TOKEN takes a token: printable ASCII characters without spaces"))
	}
	if err := s.Map.Services.Check(s.Map.FeedToken, s.Map.PlainHosts); err != nil {
		wrong = append(wrong, daemon.Usagef("SERVICES: %w", err))
	}
	if s.Map.LinkHost != "" {
		if err := s.Map.Services.LinkTo(s.Map.LinkHost); err != nil {
			wrong = append(wrong, daemon.Usagef("LINK_HOST: %w", err))
		}
	}
	return errors.Join(wrong...)
}

var shell = service.Service{Name: "map", Title: "Cars", Addr: "127.0.0.1:8079"}

func main() { daemon.Main(run) }

func run(ctx context.Context, args []string, env map[string]string, stdout io.Writer) error {
	var set settings
	err := service.Configure("map", args, env, &set, stdout, func() {
		fmt.Fprint(stdout, usage)
		shell.Help(stdout, mapSettings{})
	})
	if err != nil {
		return err
	}
	if len(set.Map.Services) == 0 {
		return daemon.Usagef("SERVICES must be set, such as SERVICES=sales=http://localhost:8080,warehouse=http://localhost:8090")
	}
	logger := daemon.Logger(stdout, set.LogLevel)
	p, err := service.Open(ctx, shell, service.Settings{HTTPSettings: set.HTTPSettings}, logger)
	if err != nil {
		return err
	}
	defer p.Close()
	p.Health(func(context.Context) error { return nil })
	watch := topology.NewWatch(set.Map.Services, set.Map.FeedToken)
	topology.Route(p.Operators, watch)
	p.Go(watch.Run)
	return p.Serve(ctx)
}
