package main

import (
	"context"
	"fmt"
	"sync"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
)

// A witness hears when an order is committed at a consumer.
type witness struct {
	stop  context.CancelFunc
	ended chan struct{}

	mu   sync.Mutex
	seen map[uuid.UUID]time.Time
	err  error
}

func testify(ctx context.Context, db *pgxpool.Pool) (*witness, error) {
	conn, err := pgx.ConnectConfig(ctx, db.Config().ConnConfig)
	if err != nil {
		return nil, err
	}
	if _, err := conn.Exec(ctx, `listen copied`); err != nil {
		return nil, err
	}
	w := &witness{ended: make(chan struct{}), seen: map[uuid.UUID]time.Time{}}
	ctx, w.stop = context.WithCancel(ctx)
	go func() {
		defer close(w.ended)
		defer conn.Close(context.WithoutCancel(ctx))
		err := w.listen(ctx, conn)
		w.mu.Lock()
		w.err = err
		w.mu.Unlock()
	}()
	return w, nil
}

func (w *witness) listen(ctx context.Context, conn *pgx.Conn) error {
	for {
		heard, err := conn.WaitForNotification(ctx)
		if err != nil {
			return err
		}
		id, err := uuid.Parse(heard.Payload)
		if err != nil {
			return err
		}
		w.mu.Lock()
		if w.seen[id].IsZero() {
			w.seen[id] = time.Now()
		}
		w.mu.Unlock()
	}
}

func (w *witness) close() {
	w.stop()
	<-w.ended
}

// at gives when the order was committed there; zero: it has not been.
func (w *witness) at(id uuid.UUID) (time.Time, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.seen[id], w.err
}

// arrival returns when the order is there.
func (w *witness) arrival(ctx context.Context, id uuid.UUID) error {
	for {
		at, err := w.at(id)
		if err != nil || !at.IsZero() {
			return err
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("order %s does not arrive: %w", id, ctx.Err())
		case <-time.After(watchInterval):
		}
	}
}
