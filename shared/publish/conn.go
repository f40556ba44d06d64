package publish

import (
	"cmp"
	"context"
	"errors"
	"net"
	"slices"
	"sync/atomic"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/edison-cars/data-feeds/shared/migrate"
)

// pools are the connections of a log.
type pools struct {
	pool         *pgxpool.Pool // of all that only reads
	own          *pgxpool.Pool // the log's own pool for reading; nil means that pool is the caller's
	writers      *pgxpool.Pool // of the groups: no reader takes their connections, and no lock holds them up for long
	transactions *pgxpool.Pool // of InTx
	standbys     standbys
}

// connect makes the pools.
func (p *pools) connect(ctx context.Context, pool *pgxpool.Pool, schema string) (err error) {
	if p.pool = pool; schema != "" {
		if p.own, err = pgxpool.NewWithConfig(ctx, migrate.Within(pool.Config(), schema)); err != nil {
			return err
		}
		p.pool = p.own
	}
	if p.transactions, err = committers(ctx, p.pool.Config(), ofCommitters); err != nil {
		return err
	}
	config := p.pool.Config()
	config.MaxConns = 3
	p.writers, err = committers(ctx, config, ofCommitters+"; set lock_timeout = '"+lockTimeout+"'")
	return err
}

// dial opens a connection beside the pool, as the pool opens its own: with a password that lasts an hour, or a
// search_path of the session. commits means that it never asks the server to cancel what it has sent.
func (p *pools) dial(ctx context.Context, commits bool) (*pgx.Conn, error) {
	config := p.pool.Config()
	if config.BeforeConnect != nil {
		if err := config.BeforeConnect(ctx, config.ConnConfig); err != nil {
			return nil, err
		}
	}
	if commits {
		neverCancel(config.ConnConfig)
	}
	conn, err := pgx.ConnectConfig(ctx, config.ConnConfig)
	if err != nil || config.AfterConnect == nil {
		return conn, err
	}
	if err := config.AfterConnect(ctx, conn); err != nil {
		hangUp(ctx, conn)
		return nil, err
	}
	return conn, nil
}

// hangUp closes a connection of [pools.dial], though ctx has ended.
func hangUp(ctx context.Context, conn *pgx.Conn) {
	closing, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Second)
	defer cancel()
	_ = conn.Close(closing)
}

// disconnect closes the pools that the log has made.
func (p *pools) disconnect() {
	for _, pool := range []*pgxpool.Pool{p.transactions, p.writers, p.own} {
		if pool != nil {
			pool.Close()
		}
	}
	p.standbys.disconnect()
}

// reset makes all connections new: what they know of the schema may be of another history.
func (p *pools) reset() {
	p.pool.Reset()
	p.standbys.reset()
	p.resetWriting()
}

func (p *pools) resetWriting() {
	p.writers.Reset()
	p.transactions.Reset()
}

// ofCommitters makes the server report a cancelled wait for a standby, and makes transactions read committed, so that
// one that waits for the head sees what its holder has committed.
const ofCommitters = `select set_config('client_min_messages', 'warning', false) where current_setting('client_min_messages') = 'error';
	set default_transaction_isolation = 'read committed'`

// committers returns a pool like the given one whose connections may commit to feeds. They never ask the server to
// cancel what they have sent, and they notice when somebody else did. Each runs the statement settings first: PgBouncer
// refuses parameters at the start of a connection.
func committers(ctx context.Context, config *pgxpool.Config, settings string) (*pgxpool.Pool, error) {
	config.MinConns, config.MinIdleConns = 0, 0
	before, after := config.BeforeConnect, config.AfterConnect
	config.AfterConnect = func(ctx context.Context, conn *pgx.Conn) error {
		if after != nil {
			if err := after(ctx, conn); err != nil {
				return err
			}
		}
		ctx, cancel := context.WithTimeout(ctx, cmp.Or(config.ConnConfig.ConnectTimeout, patience)) // the pool sets none
		defer cancel()
		_, err := conn.Exec(ctx, settings)
		return err
	}
	config.BeforeConnect = func(ctx context.Context, c *pgx.ConnConfig) error {
		if before != nil {
			if err := before(ctx, c); err != nil {
				return err
			}
		}
		neverCancel(c)
		return nil
	}
	return pgxpool.NewWithConfig(ctx, config)
}

var errNoCancel = errors.New("a connection that may be committing sends no CancelRequest")

// maySendKey marks a context in which a CancelRequest may be sent.
type maySendKey struct{}

// MayCancel returns a context with which [pgconn.PgConn.CancelRequest] may cancel a statement of a transaction of
// [Log.InTx]. The request must have been answered before the transaction goes on: it must not meet the commit.
func MayCancel(ctx context.Context) context.Context {
	return context.WithValue(ctx, maySendKey{}, true)
}

// neverCancel configures one connection. pgx sends a CancelRequest after every error that breaks a connection, over a
// second connection that it dials by the configuration of the first: once the first is there, nothing is dialled any
// more. A commit that waits for a synchronous standby must not be cancelled: it then counts on the primary, and is lost
// if the standby takes over.
func neverCancel(c *pgx.ConnConfig) {
	var connected atomic.Bool
	dial, after, notice := c.DialFunc, c.AfterConnect, c.OnNotice
	c.DialFunc = func(ctx context.Context, network, addr string) (net.Conn, error) {
		if connected.Load() && ctx.Value(maySendKey{}) == nil {
			return nil, errNoCancel
		}
		return dial(ctx, network, addr)
	}
	c.AfterConnect = func(ctx context.Context, conn *pgconn.PgConn) error {
		connected.Store(true)
		if after != nil {
			return after(ctx, conn)
		}
		return nil
	}
	c.OnNotice = func(conn *pgconn.PgConn, n *pgconn.Notice) {
		if n.Routine == syncRepWait {
			conn.CustomData()[syncRepWait] = true
		}
		if notice != nil {
			notice(conn, n)
		}
	}
}

// syncRepWait is the function of PostgreSQL (syncrep.c) that waits for a synchronous standby, the only one from which a
// warning comes that the wait was cancelled. Its name is the same in all languages, unlike the warning's text.
const syncRepWait = "SyncRepWaitForLSN"

var errWaitCancelled = errors.New("the wait for a synchronous standby was cancelled on the server")

// committed returns err. If err is nil, but the server has warned that the commit may be lost in a failover, committed
// returns errWaitCancelled.
func committed(conn *pgxpool.Conn, err error) error {
	data := conn.Conn().PgConn().CustomData()
	if err == nil && data[syncRepWait] != nil {
		err = errWaitCancelled
	}
	delete(data, syncRepWait)
	return err
}

// release returns the connection to its pool. A broken one is closed at once: pgx would go on reading from it for 15 s.
func release(conn *pgxpool.Conn) {
	if pgConn := conn.Conn().PgConn(); pgConn.IsClosed() {
		_ = pgConn.Conn().Close()
	}
	conn.Release()
}

// errStale is wrapped where a connection does not know the type of the log's rows any more.
var errStale = errors.New("the tables were made again")

// stale are the SQLSTATE codes of errors that come when tables, types or functions were made again, as by the restore
// of a backup, while a connection remembers the old ones.
var stale = []string{"XX000", "0A000", "26000", "42P01", "42704", "42883", "22P03"}

// dropStale makes all connections new after an error that may come from what they remember of the schema.
func (l *Log) dropStale(err error) {
	if pgErr, ok := errors.AsType[*pgconn.PgError](err); ok && slices.Contains(stale, pgErr.Code) || errors.Is(err, errStale) {
		l.resetWriting()
	}
}
