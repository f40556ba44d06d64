package main

import (
	"context"
	"io"
	"sync"

	"github.com/edison-cars/data-feeds/shared/daemon"
	"github.com/edison-cars/data-feeds/shared/topology"
	"github.com/edison-cars/data-feeds/shared/web"
)

const mapPort = 8079

// serveMap shows the services on one page until ctx ends; wait returns when that is over.
func (c *company) serveMap(ctx context.Context, at service) (wait func(), err error) {
	r, w := io.Pipe()
	logger, err := daemon.Logger(w, "warn")
	if err != nil {
		return nil, err
	}
	var services []topology.Service
	for _, s := range c.services {
		if s.name != sink && s.name != broker { // which have no part in any feed
			services = append(services, topology.Service{Name: s.name, URL: s.url(), Text: s.text})
		}
	}
	watch := topology.NewWatch(services, c.env["FEED_TOKEN"])
	engine := web.New(logger)
	topology.Route(engine, watch)
	ln, err := web.Listen(ctx, at.addr)
	if err != nil {
		return nil, err
	}
	c.out.line(self, "the company at a glance: %s", at.url())
	var all sync.WaitGroup
	all.Go(func() { c.out.copy(self, r) })
	all.Go(func() { watch.Run(ctx) })
	all.Go(func() {
		defer w.Close()
		if err := web.ServeListener(ctx, ln, engine, logger); err != nil {
			c.out.line(self, "the map: %v", err)
		}
	})
	return all.Wait, nil
}
