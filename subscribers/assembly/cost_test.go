package assembly

import (
	"context"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/edison-cars/data-feeds/shared/order"
	"github.com/edison-cars/data-feeds/shared/postgres/pgtest"
)

// The page is read at the same cost however long the service has been there.
func TestPageCost(t *testing.T) {
	t.Parallel()
	pgtest.Slow(t, "large tables")
	p := newPlant(t, 20, 2880)
	for _, statement := range []string{
		`insert into build (id, version, status, order_id, customer_id, car, model, options, slot, updated_at, due)
			select gen_random_uuid(), 1, (array['planned', 'started', 'finished', 'cancelled'])[1 + n % 4], gen_random_uuid(), gen_random_uuid(), 1, 'volta', '{}',
			       date '2026-11-23', now() - n * interval '1 second', case when n % 4 < 2 then timestamptz '2026-11-23' + n * interval '1 second' end
			  from generate_series(1, 150000) n`,
		`vacuum analyze`,
	} {
		if _, err := p.pool.Exec(t.Context(), statement); err != nil {
			t.Fatal(err)
		}
	}
	costs := pgtest.Explain(t, p.pool, func(pool *pgxpool.Pool) error {
		o, err := p.overview(t.Context(), pool, p.now)
		if err == nil && (o.Counts["planned"] != 37_500 || o.Counts["cancelled"] != 37_500 || len(o.Next) != shownBuilds) {
			t.Errorf("the page says %v, and shows %d", o.Counts, len(o.Next))
		}
		return err
	})
	for _, c := range costs {
		if c.Blocks > 400 { // a table, or a count in its index, has more
			t.Errorf("%d blocks for %s\n%s", c.Blocks, c.SQL, c.Plan)
		}
	}
}

// While builds start, an order can be planned: it waits for nothing that waits for it.
func TestWorkAndPlan(t *testing.T) {
	t.Parallel()
	p := newPlant(t, 20, 2880)
	p.copyPage(t, entry(t, 1, 1, order.Placed, line(1, "volta")), entry(t, 2, 1, order.Placed, line(1, "ohm")))
	later := p.now.Add(time.Minute)
	worked := make(chan error, 1)
	err := pgx.BeginFunc(t.Context(), p.pool, func(tx pgx.Tx) error {
		c, err := readClock(t.Context(), tx)
		if err != nil {
			return err
		}
		if err := hold(t.Context(), tx, c, later); err != nil { // as plan
			return err
		}
		go func() { worked <- p.work(context.Background(), p.pool, p.log, later) }()
		for waits := false; !waits; {
			err := p.pool.QueryRow(t.Context(), `select exists (select from pg_stat_activity where datname = current_database() and wait_event_type = 'Lock')`).Scan(&waits)
			if err != nil {
				return err
			}
		}
		if _, err := tx.Exec(t.Context(), `set local lock_timeout = '100ms'`); err != nil { // sooner than a deadlock is found, and tried again
			return err
		}
		_, err = tx.Exec(t.Context(), `insert into build
			select gen_random_uuid(), 1, 'planned', order_id, customer_id, car, model, options, slot, null, null, updated_at, null from build limit 1`) // as save
		return err
	})
	if err != nil {
		t.Error(err)
	}
	if err := <-worked; err != nil {
		t.Error(err)
	}
	pgtest.WantRowCount(t, p.pool, "build", "status", "0")
}
