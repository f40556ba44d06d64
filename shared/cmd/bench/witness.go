package main

import (
	"context"
	"fmt"
	"math/rand/v2"
	"sync"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"golang.org/x/sync/errgroup"

	"github.com/edison-cars/data-feeds/shared/cmd/bench/shop"
	"github.com/edison-cars/data-feeds/shared/postgres"
)

type witness struct {
	stop func()
	mu   sync.Mutex
	seen map[uuid.UUID]time.Time
	err  error // it sees no more
}

// watch has follow report orders to a witness until the bench is closed or its stop called.
func (b *bench) watch(ctx context.Context, follow func(ctx context.Context, saw func(uuid.UUID)) error) *witness {
	w := &witness{seen: map[uuid.UUID]time.Time{}}
	ctx, cancel := context.WithCancel(ctx)
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		err := follow(ctx, func(id uuid.UUID) {
			w.mu.Lock()
			defer w.mu.Unlock()
			if w.seen[id].IsZero() {
				w.seen[id] = time.Now()
			}
		})
		w.mu.Lock()
		defer w.mu.Unlock()
		w.err = err
	}()
	w.stop = func() {
		cancel()
		<-ended
	}
	b.atEnd(w.stop)
	return w
}

func (b *bench) listen(ctx context.Context, db *postgres.DB) (*witness, error) {
	if _, err := db.Exec(ctx, shop.Watch); err != nil {
		return nil, err
	}
	conn, err := pgx.ConnectConfig(ctx, db.Config().ConnConfig)
	if err != nil {
		return nil, err
	}
	if _, err := conn.Exec(ctx, `listen copied`); err != nil {
		return nil, err
	}
	return b.watch(ctx, func(ctx context.Context, saw func(uuid.UUID)) error {
		defer conn.Close(context.WithoutCancel(ctx))
		for {
			heard, err := conn.WaitForNotification(ctx)
			if err != nil {
				return err
			}
			id, err := uuid.Parse(heard.Payload)
			if err != nil {
				return err
			}
			saw(id)
		}
	}), nil
}

// at returns when it saw the order, or a zero time if it has not.
func (w *witness) at(id uuid.UUID) (time.Time, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.seen[id], w.err
}

// arrival returns when the order is seen, and the moment.
func (w *witness) arrival(ctx context.Context, id uuid.UUID) (at time.Time, err error) {
	err = eventually(ctx, func() (bool, error) {
		at, err = w.at(id)
		return !at.IsZero(), err
	})
	if err != nil {
		err = fmt.Errorf("order %s does not arrive: %w", id, err)
	}
	return at, err
}

const ordersPerSecond = 40

// atRandom calls buy n times at random moments, ordersPerSecond on average and the same in every run, whatever becomes
// of the calls before, and returns when all have returned. due is the moment at which a call should begin.
func atRandom(ctx context.Context, n int, buy func(ctx context.Context, i int, due time.Time) error) error {
	random := rand.New(rand.NewPCG(uint64(n), 0))
	all, calls := errgroup.WithContext(ctx)
	due := time.Now()
	for i := 0; i < n && calls.Err() == nil; i++ {
		began := due
		all.Go(func() error { return buy(calls, i, began) })
		due = due.Add(time.Duration(random.ExpFloat64() * float64(time.Second) / ordersPerSecond))
		select {
		case <-calls.Done():
		case <-time.After(time.Until(due)):
		}
	}
	return all.Wait()
}

type seller func(ctx context.Context, id uuid.UUID) (committedAt time.Time, err error)

// delays sells n orders at random moments, and returns the milliseconds that each took from its commit until w saw it.
func delays(ctx context.Context, n int, sell seller, w *witness) ([]float64, error) {
	ctx, cancel := context.WithTimeout(ctx, time.Duration(n)*time.Second/ordersPerSecond+patience)
	defer cancel()
	ids, committed := make([]uuid.UUID, n), make([]time.Time, n)
	err := atRandom(ctx, n, func(ctx context.Context, i int, _ time.Time) (err error) {
		ids[i] = shop.NewID()
		committed[i], err = sell(ctx, ids[i])
		return err
	})
	if err != nil {
		return nil, err
	}
	took := make([]float64, n)
	for i, id := range ids {
		at, err := w.arrival(ctx, id)
		if err != nil {
			return nil, err
		}
		took[i] = milliseconds(at.Sub(committed[i]))
	}
	return took, nil
}

func milliseconds(d time.Duration) float64 { return float64(d) / float64(time.Millisecond) }
