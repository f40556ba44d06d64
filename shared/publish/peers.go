package publish

import (
	"context"
	"errors"
	"fmt"
	"hash/crc32"
	"sync/atomic"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
)

const (
	notifyDelay    = time.Millisecond      // readers that wait at this process are served first
	notifyInterval = 10 * time.Millisecond // between two notifications of the other processes
	listenLock     = 0x66656564            // the key of the advisory lock that all processes that listen hold
	lockOfChannel  = `(hashtext($2) & 2147483647)`
)

// peers are the other processes with a log in the same schema.
type peers struct {
	self     string      // the payload of this process's notifications
	channel  string      // of LISTEN and NOTIFY
	alone    atomic.Bool // no other process listens
	appended chan struct{}
}

func newPeers(schema string) *peers {
	return &peers{
		self: uuid.NewString(), channel: fmt.Sprintf("datafeed_feed_appended_%08x", crc32.ChecksumIEEE([]byte(schema))),
		appended: make(chan struct{}, 1),
	}
}

// tell makes announce notify the other processes.
func (p *peers) tell() {
	select {
	case p.appended <- struct{}{}:
	default:
	}
}

// follow updates the heads when other processes append. A NOTIFY tells it. It also reads the heads at an interval,
// since a notification is lost if its sender dies or the listening connection breaks.
func (l *Log) follow(ctx context.Context, interval time.Duration) {
	for quiet := false; ; {
		err := l.listen(ctx, interval, &quiet)
		if ctx.Err() != nil {
			return
		}
		if !quiet {
			l.logger.WarnContext(ctx, "not hearing of other processes' entries, only looking for them", "error", err)
			quiet = true
		}
		sleep(ctx, interval)
		looking, cancel := context.WithTimeout(ctx, refreshTimeout)
		_, _ = l.refresh(looking, l.pool) // the next request that needs the heads gets the error
		cancel()
	}
}

// listen follows on a connection of its own, which no reader can block, until it breaks.
func (l *Log) listen(ctx context.Context, interval time.Duration, quiet *bool) error {
	connecting, cancel := context.WithTimeout(ctx, refreshTimeout)
	conn, err := l.dial(connecting, false)
	cancel()
	if err != nil {
		return err
	}
	defer hangUp(ctx, conn)
	defer l.peers.alone.Store(false)
	if err := l.peers.enter(ctx, conn); err != nil {
		return err
	}
	for counted := (time.Time{}); ; {
		looking, cancel := context.WithTimeout(ctx, refreshTimeout)
		_, err := l.refresh(looking, conn)
		if errors.Is(err, errUnconfirmed) {
			err = nil // the next reading waits for it again
		} else if err == nil && time.Since(counted) >= interval {
			counted = time.Now()
			err = l.peers.count(looking, conn)
		}
		cancel()
		if err != nil {
			return err
		}
		*quiet = false
		if err := l.peers.hear(ctx, conn, interval); err != nil {
			return err
		}
	}
}

// enter makes the connection listen, and lets the other processes know: all that listen hold the same lock.
func (p *peers) enter(ctx context.Context, conn *pgx.Conn) error {
	ctx, cancel := context.WithTimeout(ctx, refreshTimeout)
	defer cancel()
	if _, err := conn.Exec(ctx, "listen "+p.channel); err != nil {
		return err
	}
	_, err := conn.Exec(ctx, `select pg_advisory_lock_shared($1, `+lockOfChannel+`), pg_notify($2, $3)`, listenLock, p.channel, p.self)
	return err
}

// count notes whether any other process listens.
func (p *peers) count(ctx context.Context, conn *pgx.Conn) error {
	var alone bool
	err := conn.QueryRow(ctx, `
		select count(*) = 1 from pg_locks l join pg_database d on d.oid = l.database
		 where d.datname = current_database() and locktype = 'advisory' and classid = $1
		       and objid::bigint = `+lockOfChannel+` and objsubid = 2`, listenLock, p.channel).Scan(&alone)
	p.alone.Store(err == nil && alone)
	return err
}

// hear returns when another process has appended, or after the interval.
func (p *peers) hear(ctx context.Context, conn *pgx.Conn, interval time.Duration) error {
	waiting, cancel := context.WithTimeout(ctx, interval)
	defer cancel()
	for {
		n, err := conn.WaitForNotification(waiting)
		switch {
		case err == nil && n.Payload == p.self: // this process knows already
		case err == nil:
			p.alone.Store(false)
			return nil
		case err != nil && ctx.Err() == nil && errors.Is(err, context.DeadlineExceeded):
			return nil
		default:
			return err
		}
	}
}

// announce notifies the other processes after a commit. A NOTIFY inside the transaction would make it wait for all
// others that notify.
func (p *peers) announce(ctx context.Context, pool *pgxpool.Pool) {
	for {
		select {
		case <-ctx.Done():
			return
		case <-p.appended:
		}
		if p.alone.Load() {
			continue
		}
		sleep(ctx, notifyDelay)
		sending, cancel := context.WithTimeout(ctx, refreshTimeout)
		_, _ = pool.Exec(sending, `select set_config('synchronous_commit', 'off', true), pg_notify($1, $2)`, p.channel, p.self) // if it fails, they read the heads anyway
		cancel()
		sleep(ctx, notifyInterval)
	}
}
