package subscribe_test

import (
	"context"
	"io"
	"log/slog"
	"net/http"
	"testing"

	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/edison-cars/data-feeds/shared/daemon"
	"github.com/edison-cars/data-feeds/shared/eventstream"
	"github.com/edison-cars/data-feeds/shared/service"
	"github.com/edison-cars/data-feeds/shared/service/subscriber"
	"github.com/edison-cars/data-feeds/shared/subscribe"
	"github.com/edison-cars/data-feeds/shared/subscribe/subscribehttp"
	"github.com/edison-cars/data-feeds/shared/web"
)

var _ = setOutside()

// setOutside sets, for the tests of the package, the functions of packages that import it.
func setOutside() struct{} {
	o := &subscribe.Outside
	o.Run = func(ctx context.Context, s *subscribe.Service, env map[string]string, stdout io.Writer) error {
		return serviceOf(s).Run(ctx, env, stdout)
	}
	o.Help = func(s *subscribe.Service, w io.Writer) { serviceOf(s).Help(w) }
	o.Serve = serve
	o.Header = func(s subscribe.Status) string { return subscribehttp.Status{Status: s}.Header() }
	o.Freshness = func(s subscribe.Status) web.Freshness { return subscribehttp.Status{Status: s}.Freshness() }
	o.Trouble = func(err error) string {
		return subscribehttp.Status{Status: subscribe.Status{Detail: subscribe.Detail{Err: err}}}.Trouble()
	}
	o.Messages, o.Parse = eventstream.Messages, eventstream.Parse
	o.Queue = func(url, feed, name string, logger *slog.Logger) (subscribe.Stream, error) {
		q := &eventstream.Queue{Feed: feed, Name: name, Logger: logger}
		return q, q.Broker.UnmarshalText([]byte(url))
	}
	return struct{}{}
}

func serviceOf(s *subscribe.Service) *subscriber.Service {
	service := &subscriber.Service{
		Name: s.Name, Title: s.Title, Text: s.Text, Addr: s.Addr, Migrations: s.Migrations, Feeds: s.Feeds, Settings: s.Settings,
		Publishes: s.Publishes,
	}
	if s.Routes != nil {
		service.Routes = func(site *subscriber.Site) { s.Routes(siteOf(site)) }
	}
	if s.Work != nil {
		service.Work = func(ctx context.Context, site *subscriber.Site) error { return s.Work(ctx, siteOf(site)) }
	}
	return service
}

func siteOf(site *subscriber.Site) *subscribe.Site {
	return &subscribe.Site{DB: site.DB, Log: site.Log, Routes: site}
}

// serve returns the pages of a subscriber that does not run.
func serve(t testing.TB, s *subscribe.Subscriber, pool *pgxpool.Pool, routes func(*subscribe.Site)) http.Handler {
	t.Helper()
	var set service.Settings
	if err := daemon.Parse(map[string]string{"ACCESS": "open", "ACCESS_LOG": "false"}, &set); err != nil {
		t.Fatal(err)
	}
	set.PublicURL = "http://localhost"
	router, err := service.NewRouter(service.Service{Name: "test", Title: "Test"}, set, pool, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	subscriber.NewSite(serviceOf(&subscribe.Service{Title: "Test", Routes: routes}), router, nil).Route(s)
	return router.Engine
}
