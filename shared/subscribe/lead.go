package subscribe

import (
	"context"
	"errors"
	"log/slog"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
)

const (
	lockKey       = 0x656469736f6e // of the advisory lock, in the service's own database
	heartbeat     = time.Second
	heartbeatWait = 3 * time.Second // until a connection counts as lost
)

// A leader sees to it that one process of a service polls while the others only serve. Who has the lock polls; it goes with its
// connection. Who loses it unawares is fenced: it cannot move a cursor that another has moved.
type leader struct {
	pool    *pgxpool.Pool
	pollers []*poller
	logger  *slog.Logger
}

// run polls whenever this process may, until ctx ends.
func (l *leader) run(ctx context.Context) {
	for said := ""; ; {
		err := l.try(ctx)
		if ctx.Err() != nil {
			return
		}
		text := "another process of this service polls"
		if err != nil {
			text = err.Error()
		}
		if text != said {
			l.logger.WarnContext(ctx, "not polling, only serving", "reason", text)
			said = text
		}
		select {
		case <-ctx.Done():
			return
		case <-time.After(heartbeat):
		}
	}
}

// try polls for as long as it has the lock. Without it, it only looks how far the other one is.
func (l *leader) try(ctx context.Context) error {
	config := l.pool.Config().ConnConfig
	// The server, too, has to notice soon that this process is cut off.
	for name, value := range map[string]string{"tcp_keepalives_idle": "2", "tcp_keepalives_interval": "1", "tcp_keepalives_count": "3", "tcp_user_timeout": "5000"} {
		config.RuntimeParams[name] = value
	}
	conn, err := pgx.ConnectConfig(ctx, config)
	if err != nil {
		return err
	}
	defer func() {
		closing, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Second)
		defer cancel()
		_ = conn.Close(closing)
	}()
	var mine bool
	if err := conn.QueryRow(ctx, `select pg_try_advisory_lock($1)`, lockKey).Scan(&mine); err != nil {
		return err
	}
	if err := l.look(ctx, conn); err != nil || !mine {
		return err
	}
	polling, stop := context.WithCancel(ctx)
	var all sync.WaitGroup
	for _, p := range l.pollers {
		all.Go(func() { p.run(polling) })
	}
	defer all.Wait()
	defer stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(heartbeat):
		}
		if err := l.look(ctx, conn); err != nil {
			return errors.Join(errors.New("the connection with the lock is lost"), err)
		}
	}
}

// look reads what other processes of the service, and their users, have changed.
func (l *leader) look(ctx context.Context, conn *pgx.Conn) error {
	ctx, cancel := context.WithTimeout(ctx, heartbeatWait)
	defer cancel()
	var free []*poller
	for _, p := range l.pollers {
		if p.reading.TryLock() { // else it is being read, and this must not wait for that
			defer p.reading.Unlock()
			free = append(free, p)
		}
	}
	rows, err := conn.Query(ctx, selectProgress)
	if err != nil {
		return err
	}
	found := map[string]progress{}
	_, err = pgx.CollectRows(rows, func(row pgx.CollectableRow) (struct{}, error) {
		name, at, err := scanProgress(row)
		found[name] = at
		return struct{}{}, err
	})
	if err != nil {
		return err
	}
	for _, p := range free {
		if at, ok := found[p.Name]; ok {
			p.adopt(at)
		}
	}
	return nil
}
