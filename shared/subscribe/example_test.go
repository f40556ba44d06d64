package subscribe_test

import (
	"context"
	"log"
	"net/http"

	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"github.com/edison-cars/data-feeds/shared/subscribe"
	"github.com/edison-cars/data-feeds/shared/subscribe/subscribehttp"
)

// A program copies a feed into a table of its own, in a database that it has opened itself.
func Example() {
	ctx := context.Background()
	pool, err := pgxpool.New(ctx, "postgres://localhost/crm")
	if err != nil {
		log.Fatal(err)
	}
	defer pool.Close()
	if err := subscribe.Migrate(ctx, pool); err != nil {
		panic(err)
	}
	s, err := subscribe.New(ctx, pool, subscribe.Options{Name: "crm"}, subscribe.Feed{
		Name: "orders", URL: "http://localhost:8080/feeds/orders", Schedule: "@every 10s",
		Table: "purchase", Columns: []string{"customer_id", "status"}, // beside id and version
	})
	if err != nil {
		panic(err)
	}
	s.Run(ctx)
}

// The pages of a subscriber and its metrics are mounted where the program wants them.
func Example_pages() {
	var s *subscribe.Subscriber // see the example of the package

	registry := prometheus.NewRegistry()
	registry.MustRegister(s)
	pages := subscribehttp.New(s, subscribehttp.Options{Title: "CRM"})
	mux := http.NewServeMux()
	mux.Handle("/subscriptions", pages)
	mux.Handle("/subscriptions/", pages)
	mux.Handle("/assets/", pages)
	mux.Handle("/metrics", promhttp.HandlerFor(registry, promhttp.HandlerOpts{}))
	log.Fatal(http.ListenAndServe("localhost:8097", mux)) //nolint:gosec // an example
}
