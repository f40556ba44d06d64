package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"os"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/edison-cars/data-feeds/shared/feed"
	"github.com/edison-cars/data-feeds/shared/postgres"
	"github.com/edison-cars/data-feeds/shared/subscribe"
)

// The kinds of subscribers.
const (
	oneKind  = "subscriber"
	pureKind = "subscriber-pure" // two appliers
)

const feedURL = "FEED_URL_ORDERS"

// serveSubscriber runs a subscriber on a database that exists, until ctx ends.
func serveSubscriber(ctx context.Context, kind, databaseURL string, env map[string]string, stdout io.Writer) (err error) {
	if env["ADDR"], err = freeAddr(ctx); err != nil {
		return err
	}
	env["DATABASE_URL"], env["ACCESS"] = databaseURL, "open"
	fmt.Fprintln(stdout, env["ADDR"])
	orders := subscribe.Feed{Name: feedName, URL: env[feedURL], Schedule: "@every 1s", Table: "orders"}
	if columns := orderColumns[2:]; kind == pureKind {
		orders.Columns = columns
	} else {
		orders.Apply = func(ctx context.Context, tx pgx.Tx, batch *subscribe.Batch) error {
			return batch.Upsert(ctx, tx, "orders", columns...)
		}
	}
	service := &subscribe.Service{Name: "bench", Title: "Bench", Migrations: copyMigrations(), Feeds: []subscribe.Feed{orders}, Routes: func(*subscribe.Site) {}}
	return service.Run(ctx, env, os.Stderr)
}

// startSubscriber starts one that copies the source's feed.
func (p *pair) startSubscriber(ctx context.Context, kind, sourceAddr string, db *postgres.DB, settings map[string]string) (*server, error) {
	env := maps.Clone(p.env)
	for _, name := range []string{"POLL_ORDERS", "POLL_WAIT", "PAGE_SIZE", "FEED_TOKEN"} {
		delete(env, name) // which whoever runs this may have set for another
	}
	env["LOG_LEVEL"], env[feedURL] = "error", "http://"+sourceAddr+"/feeds/"+feedName
	maps.Copy(env, settings)
	return startServer(ctx, env, kind, db.Config().ConnString())
}

// A subscription is what counts here of a subscriber's /subscriptions.
type subscription struct {
	Cursor    string  `json:"cursor"`
	LastError *string `json:"last_error"`
}

// caughtUp returns when the subscriber has the source's entries up to position in all its feeds, and fails with its last error.
func (s *server) caughtUp(ctx context.Context, position int64) error {
	for {
		req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+s.addr+"/subscriptions", nil)
		if err != nil {
			return err
		}
		var all []subscription
		err = call(req, &all)
		for i := range all {
			switch cursor, cursorErr := feed.ParseCursor(all[i].Cursor); {
			case cursorErr != nil:
				return cursorErr
			case all[i].LastError != nil:
				return errors.New(*all[i].LastError)
			case cursor.Position < position:
				err = errBehind
			}
		}
		if err == nil && len(all) > 0 {
			return nil
		}
		select { // it may not have started yet
		case <-ctx.Done():
			return errors.Join(context.Cause(ctx), err)
		case <-s.ended:
			_, err := s.stop()
			return errors.Join(errors.New("the subscriber ended"), err)
		case <-time.After(watchInterval):
		}
	}
}

var errBehind = errors.New("the subscriber is behind")

const watchInterval = 20 * time.Millisecond
