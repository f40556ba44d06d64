package feedhttp_test

import (
	"context"
	"log"
	"net/http"
	"os"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"github.com/edison-cars/data-feeds/shared/feed"
	"github.com/edison-cars/data-feeds/shared/publish"
	"github.com/edison-cars/data-feeds/shared/publish/feedhttp"
)

// A program serves a feed of its database beside its own routes and metrics.
func Example() {
	ctx := context.Background()
	pool, err := pgxpool.New(ctx, os.Getenv("DATABASE_URL"))
	if err != nil {
		log.Fatal(err)
	}
	defer pool.Close()
	if err := publish.Migrate(ctx, pool, publish.Options{}); err != nil {
		panic(err)
	}
	entries, err := publish.Open(ctx, pool, publish.Options{})
	if err != nil {
		panic(err)
	}
	defer entries.Close()
	feeds := feedhttp.New(entries, feedhttp.Options{PublicURL: "https://notes.example", Author: "Notes Ltd", Name: "Notes"}, feed.Description{
		Name: "notes", Title: "Notes", Text: "All notes.", ID: "tag:notes.example,2026:notes",
	})
	registry := prometheus.NewRegistry()
	registry.MustRegister(entries, feeds)
	mux := http.NewServeMux()
	for _, path := range []string{"/feeds", "/feeds/", "/problems/", "/assets/"} {
		mux.Handle(path, feeds)
	}
	mux.Handle("/metrics", promhttp.HandlerFor(registry, promhttp.HandlerOpts{}))
	server := &http.Server{Addr: "127.0.0.1:8080", Handler: mux, ReadHeaderTimeout: 10 * time.Second}
	log.Print(server.ListenAndServe())
}
