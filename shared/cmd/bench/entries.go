package main

import (
	"context"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"sync"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"github.com/edison-cars/data-feeds/shared/feed"
)

const (
	changers    = 8
	changedRows = 20
)

// entries has clients count rows up, one step to a transaction, and compares the steps with those that a reader sees
// meanwhile.
func (p *publishing) entries(ctx context.Context) (chart, error) {
	fmt.Fprintf(p.out, "\nEntries: %d clients change %d rows for %v each, while a reader follows\n", changers, changedRows, p.duration)
	t := p.out.table("attached as", "changes", "missed", "doubled", "out of order")
	c := chart{title: "Entries that are missed, doubled or out of order (shorter is better)", counts: true}
	for _, mode := range []string{"staged", "commit"} {
		steps, err := p.count(ctx, mode)
		if err != nil {
			return chart{}, fmt.Errorf("%s: %w", mode, err)
		}
		missed, doubled, disordered := steps.faults()
		t.row(mode, count(steps.committed()), count(missed), count(doubled), count(disordered))
		c.series = append(c.series, fmt.Sprintf("attached as %s: %s of %s", mode, count(missed+doubled+disordered), count(steps.committed())))
	}
	return c, t.flush()
}

// A stepTally has how far each row was counted up, and the steps that the reader saw, in its order.
type stepTally struct {
	mu   sync.Mutex
	last map[uuid.UUID]int
	seen map[uuid.UUID][]int
	all  int // that were seen
}

func (s *stepTally) committed() (n int) {
	for _, last := range s.last {
		n += last
	}
	return n
}

func (s *stepTally) faults() (missed, doubled, disordered int) {
	for id, last := range s.last {
		times, highest := make([]int, last+1), 0
		for _, step := range s.seen[id] {
			if step > last { // was never committed
				disordered++
				continue
			}
			if times[step]++; step < highest {
				disordered++
			}
			highest = max(highest, step)
		}
		for _, n := range times[1:] {
			missed, doubled = missed+max(0, 1-n), doubled+max(0, n-1)
		}
	}
	return missed, doubled, disordered
}

func (p *publishing) count(ctx context.Context, mode string) (*stepTally, error) {
	table := "counted_" + mode
	if err := p.attach(ctx, table, "uuid", mode); err != nil {
		return nil, err
	}
	_, err := p.source.Exec(ctx, `insert into `+table+` select gen_random_uuid(), gen_random_uuid(), 'counted', 0, 'x' from generate_series(1, $1)`,
		changedRows)
	if err != nil {
		return nil, err
	}
	r, end, err := p.serve(ctx, table)
	if err != nil {
		return nil, err
	}
	defer end()
	steps := &stepTally{last: map[uuid.UUID]int{}, seen: map[uuid.UUID][]int{}}
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	var reading sync.WaitGroup
	defer reading.Wait()
	defer cancel(nil)
	reading.Go(func() {
		cancel(r.read(ctx, feed.Cursor{}, func(e *feed.Entry) error {
			var row struct{ Total float64 }
			err := json.Unmarshal(e.Entity, &row)
			steps.mu.Lock()
			defer steps.mu.Unlock()
			if row.Total > 0 {
				steps.seen[e.ID] = append(steps.seen[e.ID], int(row.Total))
				steps.all++
			}
			return err
		}))
	})
	db, err := p.openClients(ctx, changers)
	if err != nil {
		return nil, err
	}
	defer db.Close()
	began := time.Now()
	err = each(ctx, changers, func(ctx context.Context) error {
		for time.Since(began) < p.duration {
			_, err := db.Exec(ctx, `update `+table+` set total = total + 1 where id = (select id from `+table+` offset $1 limit 1)`,
				rand.IntN(changedRows))
			if err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	rows, err := p.source.Query(ctx, `select id, total::int from `+table)
	if err != nil {
		return nil, err
	}
	var id uuid.UUID
	var last int
	if _, err := pgx.ForEachRow(rows, []any{&id, &last}, func() error { steps.last[id] = last; return nil }); err != nil {
		return nil, err
	}
	deadline := time.Now().Add(lateness)
	return steps, eventually(ctx, func() (bool, error) {
		steps.mu.Lock()
		defer steps.mu.Unlock()
		return steps.all >= steps.committed() || time.Now().After(deadline), nil
	})
}
