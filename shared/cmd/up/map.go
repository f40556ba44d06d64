package main

import (
	"context"
	"log/slog"
	"sync"

	"github.com/edison-cars/data-feeds/shared/access"
	"github.com/edison-cars/data-feeds/shared/daemon"
	"github.com/edison-cars/data-feeds/shared/dev/topology"
	"github.com/edison-cars/data-feeds/shared/directory"
	shell "github.com/edison-cars/data-feeds/shared/service"
	"github.com/edison-cars/data-feeds/shared/web"
)

const mapPort = 8079

// listed lists the services that publish or read feeds.
func (c *company) listed() (services directory.Services) {
	for _, s := range c.services {
		if s.name != sink && s.name != broker {
			services = append(services, directory.Service{Name: s.name, URL: s.url(), Text: s.text})
		}
	}
	return services
}

// serveMap serves the map until ctx ends; wait returns when that is over.
func (c *company) serveMap(ctx context.Context, at service) (wait func(), err error) {
	logger := daemon.Logger(c.output(at.name), slog.LevelInfo)
	watch := topology.NewWatch(c.listed(), c.env["FEED_TOKEN"])
	var set shell.HTTPSettings
	if err := daemon.Parse(c.env, &set); err != nil {
		return nil, err
	}
	set.Addr, set.PublicURL, set.AccessLog = at.addr, web.Site(at.url()), false
	if c.env["ACCESS"] == "" {
		set.Access = access.Open
	}
	p, err := shell.Open(ctx, shell.Service{Name: "map", Title: "Cars"}, shell.Settings{HTTPSettings: set}, logger)
	if err != nil {
		return nil, err
	}
	p.Health(func(context.Context) error { return nil })
	topology.Route(p.Operators, watch)
	c.out.line(self, "the company at a glance: %s", at.url())
	p.Go(watch.Run)
	var serving sync.WaitGroup
	serving.Go(func() {
		defer p.Close()
		if err := p.Serve(ctx); err != nil {
			c.out.line(self, "the map: %v", err)
		}
	})
	return serving.Wait, nil
}
