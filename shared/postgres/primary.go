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

// errForeign says that a server has other data.
var errForeign = errors.New("it belongs to another cluster than the primary before: restart this process if it is to be used")

// primaries keeps the connections of a process away from a primary that was replaced, as one that hung, or lost its
// network, and returns after its standby was promoted. A promotion begins another timeline with a higher number. A
// primary with a lower number than one that was seen before is refused, and its connections are closed, whatever is
// under way there.
type primaries struct {
	logger *slog.Logger
	blind  sync.Once // says that the role may not ask

	mu      sync.Mutex
	newest  map[string]uint64 // the highest timeline of each cluster, by its system identifier
	conns   map[*conn]place
	refused map[string]uint64 // by address, the timeline of the refusal that was logged
	hosts   []standing        // of the hosts that are watched, in the order of the URL
	chosen  *standing         // one of hosts: the primary, until it ceases to answer as one; or nil
	started bool              // each host was asked once
	system  string            // of the first one that was chosen
}

// A standing is what the watch of several hosts last found at one.
type standing struct {
	addr  string
	place           // zero if the host is no primary
	seen  time.Time // when it was found
	told  place     // the place that was logged, beside another primary
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
		switch {
		case err == nil && p.foreign(at):
			err = errForeign
		case err == nil:
			err = p.admit(below(pgConn), at)
		case errors.Is(err, errMayNotAsk):
			err = nil
		}
		return silent(err, cfg.ConnectTimeout)
	}
}

// errMayNotAsk says that a role may not ask where a server is.
var errMayNotAsk = errors.New("the role may not call pg_control_system")

// locate returns the place of a server, or the zero place if it is a standby. It returns errMayNotAsk if the role may
// not ask.
func locate(ctx context.Context, pgConn *pgconn.PgConn) (at place, err error) {
	results, err := pgConn.Exec(ctx, `
		select system_identifier, case when pg_is_in_recovery() then '' else left(pg_walfile_name(pg_current_wal_lsn()), 8) end
		  from pg_control_system()`).ReadAll()
	if refusal, ok := errors.AsType[*pgconn.PgError](err); ok && (refusal.Code == "42501" || refusal.Code == "42883") { // not granted, not there
		return place{}, errMayNotAsk
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

// foreign reports whether a primary is of another cluster than the one that was chosen among several hosts.
func (p *primaries) foreign(at place) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.system != "" && at.timeline > 0 && at.system != p.system
}

// elsewhere returns an error if the primary is known to be at another address.
func (p *primaries) elsewhere(addr string) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.chosen == nil || p.chosen.addr == addr || time.Since(p.chosen.seen) > 3*watchInterval {
		return nil
	}
	return fmt.Errorf("not asked: the primary is at %s", p.chosen.addr)
}

// found notes what the watch has found at a host.
func (p *primaries) found(host *standing, addr string, at place) {
	p.mu.Lock()
	defer p.mu.Unlock()
	host.addr, host.place, host.seen = addr, at, time.Now()
	if p.started {
		p.choose()
	}
}

// choose stays with the primary that was chosen, as long as it answers as one and none has replaced it. Else it takes
// the first one in the order of the URL, of the same cluster as the one before.
func (p *primaries) choose() {
	if p.chosen != nil && p.chosen.timeline == 0 {
		p.chosen = nil
	}
	for i := range p.hosts {
		host := &p.hosts[i]
		if host.timeline > 0 && (p.system == "" || host.system == p.system) && (p.chosen == nil || host.timeline > p.chosen.timeline) {
			p.chosen, p.system = host, host.system
		}
	}
	for i := range p.hosts {
		switch host := &p.hosts[i]; {
		case host.timeline == 0 || host.place == host.told || host == p.chosen || host.timeline < p.newest[host.system]:
		case host.system != p.system:
			host.told = host.place
			p.logger.Error("a server is not used: it belongs to another cluster than the others of this URL, as after an upgrade or a logical copy. "+
				"Take it out of DATABASE_URL, or restart this process if it is to be used instead of them", "address", host.addr)
		case p.chosen != nil:
			host.told = host.place
			p.logger.Error("two servers take writes, and each may have what the other lacks: this process uses one of them only. "+
				"Stop the other one, and make it a standby", "used", p.chosen.addr, "not_used", host.addr)
		}
	}
}

// watch asks each host of a configuration with several, until ctx ends, which of them is the primary. So a process
// learns of a promotion also while the primary before it still answers or hangs, and does not wait for a host that
// hangs. watch returns when each has answered once or did not in time.
func (p *primaries) watch(ctx context.Context, cfg *pgx.ConnConfig) {
	var first sync.WaitGroup
	hosts := hostsOf(cfg)
	p.hosts = make([]standing, len(hosts))
	for i, host := range hosts {
		first.Add(1)
		answered := sync.OnceFunc(first.Done)
		go func() {
			for ctx.Err() == nil {
				p.ask(ctx, host, &p.hosts[i], answered)
				answered()
				pause(ctx, watchInterval)
			}
		}()
	}
	first.Wait()
	p.mu.Lock()
	defer p.mu.Unlock()
	p.started = true
	p.choose()
}

// ask asks a host over one connection, until that fails.
func (p *primaries) ask(ctx context.Context, host *pgx.ConnConfig, stands *standing, answered func()) {
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
	defer func() { p.found(stands, addr, place{}) }()
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
		if errors.Is(err, errMayNotAsk) {
			p.blind.Do(func() {
				p.logger.Warn("a primary that was replaced would not be noticed: this role may not ask for timelines", "address", addr,
					"remedy", "grant execute on function pg_control_system() to "+host.User)
			})
			err = nil
		}
		if err != nil || p.admit(below(connection.PgConn()), at) != nil {
			return
		}
		p.found(stands, addr, at)
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
