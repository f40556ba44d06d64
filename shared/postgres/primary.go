package postgres

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
)

const (
	watchInterval = time.Second     // between two questions to each host of a URL with several
	watchTimeout  = 2 * time.Second // for the answer
)

// errReplaced says that a server is a primary of the past, which takes writes that no other server has.
var errReplaced = errors.New("a primary that another server has replaced: stop it, and make it a standby of the new one")

// primaries keeps the connections of a process away from a primary that was replaced, as one that hung, or lost its
// network, and returns after its standby was promoted. A promotion begins another timeline with a higher number. A
// primary with a lower number than one that was seen before is refused, and its connections are closed, whatever is
// under way there.
type primaries struct {
	logger *slog.Logger

	mu      sync.Mutex
	newest  map[string]uint64 // the highest timeline of each cluster, by its system identifier
	conns   map[*conn]place
	refused map[string]uint64 // by address, the timeline of the refusal that was logged
	current string            // the address of the primary, as the watch of several hosts last found it; or empty
	seen    time.Time         // when it did
}

// A place is where a primary is in the history of its cluster.
type place struct {
	system   string
	timeline uint64
}

// A conn is a connection to a server, below TLS.
type conn struct {
	net.Conn
	of     *primaries
	addr   string
	closed atomic.Bool
}

// Close implements [net.Conn].
func (c *conn) Close() error {
	c.closed.Store(true)
	c.of.mu.Lock()
	delete(c.of.conns, c)
	c.of.mu.Unlock()
	return c.Conn.Close()
}

// below returns the connection below pgx's, or nil if another function dialled it.
func below(pgConn *pgconn.PgConn) *conn {
	over := pgConn.Conn()
	if encrypted, ok := over.(*tls.Conn); ok {
		over = encrypted.NetConn()
	}
	c, _ := over.(*conn)
	return c
}

func newPrimaries(logger *slog.Logger) *primaries {
	return &primaries{logger: logger, newest: map[string]uint64{}, conns: map[*conn]place{}, refused: map[string]uint64{}}
}

// guard makes connections of the configuration fail at a primary that was replaced. pgx then tries the next host.
func (p *primaries) guard(cfg *pgx.ConnConfig) {
	dial, validate := cfg.DialFunc, cfg.ValidateConnect
	cfg.DialFunc = func(ctx context.Context, network, addr string) (net.Conn, error) {
		if err := p.elsewhere(addr); err != nil {
			return nil, err
		}
		dialled, err := dial(ctx, network, addr)
		if err != nil {
			return nil, err
		}
		return &conn{Conn: dialled, of: p, addr: addr}, nil
	}
	cfg.ValidateConnect = func(ctx context.Context, pgConn *pgconn.PgConn) error {
		if validate != nil {
			if err := validate(ctx, pgConn); err != nil {
				return err
			}
		}
		at, err := locate(ctx, pgConn)
		if err == nil {
			err = p.admit(below(pgConn), at)
		}
		return silent(err, cfg.ConnectTimeout)
	}
}

// locate returns the place of a server, or the zero place if it is a standby or does not tell.
func locate(ctx context.Context, pgConn *pgconn.PgConn) (at place, err error) {
	results, err := pgConn.Exec(ctx, `
		select system_identifier, case when pg_is_in_recovery() then '' else left(pg_walfile_name(pg_current_wal_lsn()), 8) end
		  from pg_control_system()`).ReadAll()
	if refusal, ok := errors.AsType[*pgconn.PgError](err); ok && refusal.SeverityUnlocalized == "ERROR" {
		return place{}, nil // the role may not ask
	}
	if err != nil {
		return place{}, err
	}
	row := results[0].Rows[0]
	if len(row[1]) == 0 {
		return place{}, nil
	}
	at.system = string(row[0])
	at.timeline, err = strconv.ParseUint(string(row[1]), 16, 32)
	return at, err
}

// admit returns errReplaced if the primary at the other end of the connection was replaced. Otherwise it closes the
// connections to those that this one has replaced.
func (p *primaries) admit(c *conn, at place) error {
	if c == nil || at.timeline == 0 {
		return nil
	}
	p.mu.Lock()
	newest := p.newest[at.system]
	p.newest[at.system] = max(newest, at.timeline)
	var older []*conn
	switch {
	case at.timeline >= newest:
		for other, of := range p.conns {
			if of.system == at.system && of.timeline < at.timeline {
				older = append(older, other)
			}
		}
		if !c.closed.Load() {
			p.conns[c] = at
		}
	case p.refused[c.addr] == newest:
	default:
		p.refused[c.addr] = newest
		p.logger.Error("a server is refused: it is a primary that another one has replaced; stop it, and make it a standby. "+
			"If it was set back to that state on purpose, restart this process", "address", c.addr, "timeline", at.timeline, "newest_timeline", newest)
	}
	p.mu.Unlock()
	if at.timeline < newest {
		return errReplaced
	}
	if len(older) > 0 {
		p.logger.Warn("the database has another primary: closing the connections to the one before", "address", c.addr, "timeline", at.timeline,
			"connections", len(older))
	}
	for _, other := range older {
		_ = other.Close()
	}
	return nil
}

// elsewhere returns an error if the primary is known to be at another address.
func (p *primaries) elsewhere(addr string) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.current == "" || p.current == addr || time.Since(p.seen) > 3*watchInterval {
		return nil
	}
	return fmt.Errorf("not asked: the primary is at %s", p.current)
}

// found notes what the watch has found at an address.
func (p *primaries) found(addr string, isPrimary bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	switch {
	case isPrimary:
		p.current, p.seen = addr, time.Now()
	case p.current == addr:
		p.current = ""
	}
}

// watch asks each host of a configuration with several, until ctx ends, which of them is the primary. So a process
// learns of a promotion also while the primary before it still answers or hangs, and does not wait for a host that
// hangs. watch returns when each has answered once or did not in time.
func (p *primaries) watch(ctx context.Context, cfg *pgx.ConnConfig) {
	var first sync.WaitGroup
	for _, host := range hostsOf(cfg) {
		first.Add(1)
		answered := sync.OnceFunc(first.Done)
		go func() {
			for ctx.Err() == nil {
				p.ask(ctx, host, answered)
				answered()
				pause(ctx, watchInterval)
			}
		}()
	}
	first.Wait()
}

// ask asks a host over one connection, until that fails.
func (p *primaries) ask(ctx context.Context, host *pgx.ConnConfig, answered func()) {
	var addr string
	dial := host.DialFunc
	host = host.Copy()
	host.DialFunc = func(ctx context.Context, network, at string) (net.Conn, error) {
		addr = at
		dialled, err := dial(ctx, network, at)
		if err != nil {
			return nil, err
		}
		return &conn{Conn: dialled, of: p, addr: at}, nil
	}
	defer func() { p.found(addr, false) }()
	connecting, cancel := context.WithTimeout(ctx, watchTimeout)
	connection, err := pgx.ConnectConfig(connecting, host)
	cancel()
	if err != nil {
		return
	}
	defer func() {
		closing, cancel := context.WithTimeout(context.WithoutCancel(ctx), watchTimeout)
		defer cancel()
		_ = connection.Close(closing)
	}()
	for ctx.Err() == nil {
		asking, cancel := context.WithTimeout(ctx, watchTimeout)
		at, err := locate(asking, connection.PgConn())
		cancel()
		if err != nil || p.admit(below(connection.PgConn()), at) != nil {
			return
		}
		p.found(addr, at.timeline > 0)
		answered()
		pause(ctx, watchInterval)
	}
}

// hostsOf returns a configuration for each host of the configuration, or none if it has one host only.
func hostsOf(cfg *pgx.ConnConfig) (hosts []*pgx.ConnConfig) {
	type host struct {
		name string
		port uint16
	}
	var order []host
	ways := map[host][]*pgconn.FallbackConfig{} // with TLS and without
	first := &pgconn.FallbackConfig{Host: cfg.Host, Port: cfg.Port, TLSConfig: cfg.TLSConfig}
	for _, way := range append([]*pgconn.FallbackConfig{first}, cfg.Fallbacks...) {
		at := host{way.Host, way.Port}
		if !slices.Contains(order, at) {
			order = append(order, at)
		}
		ways[at] = append(ways[at], way)
	}
	if len(order) < 2 {
		return nil
	}
	for _, at := range order {
		c := cfg.Copy()
		c.Host, c.Port, c.TLSConfig, c.Fallbacks = at.name, at.port, ways[at][0].TLSConfig, ways[at][1:]
		c.ValidateConnect = nil
		hosts = append(hosts, c)
	}
	return hosts
}

func pause(ctx context.Context, d time.Duration) {
	select {
	case <-ctx.Done():
	case <-time.After(d):
	}
}
