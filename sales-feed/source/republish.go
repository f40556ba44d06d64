package source

import (
	"context"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"golang.org/x/time/rate"

	"github.com/edison-cars/data-feeds/shared/daemon"
	"github.com/edison-cars/data-feeds/shared/postgres"
	"github.com/edison-cars/data-feeds/shared/publish"
	"github.com/edison-cars/data-feeds/shared/service"
)

// A Republishing appends every entity of a feed again, such as after its contract got a member that older entries lack.
type Republishing struct {
	Feed  string
	Table string    // that has the entities, by the column id
	Rate  int       // entities a second, at most
	After uuid.UUID // the entity after which an earlier run ended, in the order of the ids
	// Again locks the entity's row, raises its version, and returns its entry. It returns [pgx.ErrNoRows] if the entity is
	// gone.
	Again func(ctx context.Context, tx *publish.Tx, id uuid.UUID) (publish.Entry, error)
}

// Republish appends each entity that is there now in a transaction of its own, while the app serves. Entities that are
// written meanwhile get their versions in order. If it ends early, the error says how to go on.
func (a App) Republish(ctx context.Context, settings service.Settings, stdout io.Writer, r Republishing) error {
	logger := daemon.Logger(stdout, settings.LogLevel)
	db, err := postgres.Open(ctx, postgres.Config{
		URL: settings.DatabaseURL, Name: a.Name, Dir: settings.DataDir, Bin: settings.PGBin, Logger: logger,
	}, a.Migrations...)
	if err != nil {
		return err
	}
	defer db.Close()
	log, err := publish.Open(ctx, db.Pool, publish.Options{Logger: logger, Erasures: a.Erasures})
	if err != nil {
		return err
	}
	defer log.Close()
	var last uuid.UUID // later ones are written as the contract is now
	err = db.QueryRow(ctx, `select id from `+r.Table+` order by id desc limit 1`).Scan(&last)
	if err != nil && !errors.Is(err, pgx.ErrNoRows) {
		return fmt.Errorf("find the entities of feed %s: %w", r.Feed, err)
	}
	done, after, said := 0, r.After, time.Now()
	limit := rate.NewLimiter(rate.Limit(r.Rate), 1)
	for {
		var ids []uuid.UUID
		rows, _ := db.Query(ctx, `select id from `+r.Table+` where id > $1 and id <= $2 order by id limit 1000`, after, last)
		if ids, err = pgx.CollectRows(rows, pgx.RowTo[uuid.UUID]); err != nil || len(ids) == 0 {
			break
		}
		for _, id := range ids {
			if err = limit.Wait(ctx); err != nil {
				break
			}
			var appended bool
			if appended, err = r.again(ctx, log, id); err != nil {
				break
			}
			if after = id; appended {
				done++
			}
			if time.Since(said) > 10*time.Second {
				logger.InfoContext(ctx, "republishing", "feed", r.Feed, "entities", done)
				said = time.Now()
			}
		}
		if err != nil {
			break
		}
	}
	if err != nil {
		return fmt.Errorf("republish feed %s: %d entities were appended; go on with --after %s: %w", r.Feed, done, after, err)
	}
	_, err = fmt.Fprintf(stdout, "Entities appended to feed %s: %d\n", r.Feed, done)
	return err
}

// again reports whether the entity is appended. It is not if it is gone.
func (r *Republishing) again(ctx context.Context, log *publish.Log, id uuid.UUID) (appended bool, err error) {
	err = log.InTx(ctx, func(tx *publish.Tx) error {
		e, err := r.Again(ctx, tx, id)
		if appended = err == nil; appended {
			tx.Append(r.Feed, e)
		}
		return err
	})
	if errors.Is(err, pgx.ErrNoRows) {
		return false, nil
	}
	return appended && err == nil, err
}
