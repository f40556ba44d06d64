// Command copier copies a feed of books into a table of its own.
package main

import (
	"context"
	"log"
	"log/slog"
	"os"
	"os/signal"
	"syscall"

	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/edison-cars/data-feeds/shared/subscribe"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, os.Getenv("DATABASE_URL"), os.Getenv("FEED_URL")); err != nil {
		log.Fatal(err)
	}
}

func run(ctx context.Context, database, feed string) error {
	pool, err := pgxpool.New(ctx, database)
	if err != nil {
		return err
	}
	defer pool.Close()
	_, err = pool.Exec(ctx, `create table if not exists book (id uuid primary key, version bigint not null, title text not null)`)
	if err != nil {
		return err
	}
	if err := subscribe.Migrate(ctx, pool); err != nil {
		return err
	}
	s, err := subscribe.New(ctx, pool, subscribe.Options{Name: "shop", Logger: slog.Default()}, subscribe.Feed{
		Name: "books", URL: feed, Schedule: "@every 1s", Table: "book", Columns: []string{"title"},
	})
	if err != nil {
		return err
	}
	go func() {
		if s.CaughtUp(ctx) == nil {
			log.Print("the shop knows all books")
		}
	}()
	s.Run(ctx)
	return nil
}
