package assembly

import (
	"context"
	"encoding/json"
	"fmt"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/edison-cars/data-feeds/shared/carbuild"
	"github.com/edison-cars/data-feeds/shared/feed"
	"github.com/edison-cars/data-feeds/shared/publish"
)

// Durations by the factory's clock: a car's parts are prepared before it starts, which is the least time for cancelling
// its order; then it is on the line.
const (
	preparation = 8 * time.Hour
	onTheLine   = 16 * time.Hour
)

// A row is a build with the columns that are not published.
type row struct {
	carbuild.Build
	Due *time.Time `json:"due"` // when it starts or finishes, by the factory's clock; nil if it does neither
}

const columns = `id, version, status, order_id, customer_id, car, model, options, slot, started_at, finished_at, updated_at, due`

func scanRow(r pgx.CollectableRow) (*row, error) {
	var b row
	var slot time.Time
	var started, finished *time.Time
	err := r.Scan(&b.ID, &b.Version, &b.Status, &b.OrderID, &b.CustomerID, &b.Car, &b.Model, &b.Options, &slot, &started, &finished, &b.UpdatedAt.Time, &b.Due)
	b.Slot, b.StartedAt, b.FinishedAt = slot.Format(time.DateOnly), feed.OptionalTime(started), feed.OptionalTime(finished)
	b.UpdatedAt = feed.TimeOf(b.UpdatedAt.Time)
	return &b, err
}

func buildsOf(ctx context.Context, tx pgx.Tx, orders []uuid.UUID) ([]*row, error) {
	rows, _ := tx.Query(ctx, `select `+columns+` from build where order_id = any($1) order by order_id, car for update`, orders)
	return pgx.CollectRows(rows, scanRow)
}

func free(ctx context.Context, tx pgx.Tx, builds []*row) error {
	if len(builds) == 0 {
		return nil
	}
	_, err := tx.Exec(ctx, `
		with freed as (select day, count(*) as cars from unnest($1::text[]::date[]) as day group by day)
		update slot set cars = slot.cars - freed.cars from freed where slot.day = freed.day`, slots(builds))
	return err
}

func slots(builds []*row) []string {
	days := make([]string, len(builds))
	for i, b := range builds {
		days[i] = b.Slot
	}
	return days
}

// plan assigns each of the builds, in their order, to the earliest day with a free slot. Calls do not overlap: the
// engine applies one page after another.
func (f *factory) plan(ctx context.Context, tx pgx.Tx, builds []*row, now time.Time) error {
	if len(builds) == 0 {
		return nil
	}
	clock, err := f.clock(ctx, tx, now)
	if err != nil {
		return err
	}
	if err := hold(ctx, tx, clock, now); err != nil {
		return err
	}
	ready := clock.at(now).Add(preparation)
	rows, _ := tx.Query(ctx, `
		select day, $2::int - coalesce(cars, 0)
		  from (select $1::date + i as day from generate_series(0, (select count(*) from slot where day >= $1::date)::int + $3::int / $2::int + 1) as i) as days
		  left join slot using (day)
		 where coalesce(cars, 0) < $2::int order by day limit $3::int`, ready.Format(time.DateOnly), int(f.Capacity), len(builds))
	left, day, room := builds, time.Time{}, 0
	_, err = pgx.ForEachRow(rows, []any{&day, &room}, func() error {
		n := min(room, len(left))
		due := day
		if ready.After(day) {
			due = ready
		}
		for _, b := range left[:n] {
			b.Status, b.Slot, b.Due = carbuild.Planned, day.Format(time.DateOnly), &due
		}
		left = left[n:]
		return nil
	})
	if err == nil && len(left) > 0 {
		err = fmt.Errorf("no day has room for %d cars", len(left))
	}
	if err != nil {
		return err
	}
	_, err = tx.Exec(ctx, `
		insert into slot (day, cars) select day, count(*) from unnest($1::text[]::date[]) as day group by day
		on conflict (day) do update set cars = slot.cars + excluded.cars`, slots(builds))
	return err
}

// save stores and publishes a new version of each build.
func save(ctx context.Context, tx *publish.Tx, builds []*row, now time.Time) error {
	if len(builds) == 0 {
		return nil
	}
	entries := make([]publish.Entry, len(builds))
	for i, b := range builds {
		b.Version++
		if b.UpdatedAt.Time = b.UpdatedAt.Add(time.Microsecond); b.UpdatedAt.Before(now) {
			b.UpdatedAt = feed.TimeOf(now)
		}
		payload, err := json.Marshal(&b.Build)
		if err != nil {
			return err
		}
		entries[i] = publish.Entry{ID: b.ID, Version: b.Version, Updated: b.UpdatedAt.Time, Payload: payload}
	}
	all, err := json.Marshal(builds)
	if err != nil {
		return err
	}
	_, err = tx.Exec(ctx, `
		insert into build (`+columns+`)
		select `+columns+` from jsonb_to_recordset($1) as b (
		       id uuid, version bigint, status text, order_id uuid, customer_id uuid, car int, model text, options text[], slot date,
		       started_at timestamptz, finished_at timestamptz, updated_at timestamptz, due timestamptz)
		on conflict (id) do update set version = excluded.version, status = excluded.status, customer_id = excluded.customer_id,
		       model = excluded.model, options = excluded.options, slot = excluded.slot, started_at = excluded.started_at,
		       finished_at = excluded.finished_at, updated_at = excluded.updated_at, due = excluded.due`, json.RawMessage(all))
	tx.Append(carbuild.Feed, entries...)
	return err
}

const stepSize = 500

func (f *factory) work(ctx context.Context, db *pgxpool.Pool, log *publish.Log, now time.Time) error {
	clock, err := f.clock(ctx, db, now)
	for n := stepSize; n == stepSize && err == nil; {
		var due bool
		err = db.QueryRow(ctx, `select exists (select from build where due <= $1)`, clock.at(now)).Scan(&due)
		if err != nil || !due {
			return err
		}
		err = log.InTx(ctx, func(tx *publish.Tx) error {
			if err := hold(ctx, tx, clock, now); err != nil {
				return err
			}
			n, err = step(ctx, tx, clock.at(now), now)
			return err
		})
	}
	return err
}

// step starts planned builds or finishes started ones that are due, and returns their number. It skips builds that
// another transaction has locked until the next time.
func step(ctx context.Context, tx *publish.Tx, factory, now time.Time) (n int, err error) {
	rows, _ := tx.Query(ctx, `select `+columns+` from build where due <= $1 order by due, id limit $2 for update skip locked`, factory, stepSize)
	builds, err := pgx.CollectRows(rows, scanRow)
	if err != nil {
		return 0, err
	}
	at := feed.TimeOf(now)
	for _, b := range builds {
		if b.Status == carbuild.Planned {
			finished := factory.Add(onTheLine)
			b.Status, b.StartedAt, b.Due = carbuild.Started, &at, &finished
		} else {
			b.Status, b.FinishedAt, b.Due = carbuild.Finished, &at, nil
		}
	}
	return len(builds), save(ctx, tx, builds, now)
}
