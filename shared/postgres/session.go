package postgres

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"
)

const (
	checkTimeout     = 10 * time.Second // of the checks of a session in Open
	pingTimeout      = 5 * time.Second  // for a pool to detect a dead idle connection
	readOnlyLifetime = time.Second      // of a connection to a server that was read-only when it was opened
)

// Keys of pgconn.PgConn.CustomData.
const (
	openedAt = "datafeed_opened_at" // time.Time
	spoiled  = "datafeed_spoiled"   // true: see spoils
)

// spoils are the SQLSTATE codes after which a connection is not used again: its caches may belong to a database that is
// gone, as after a restore in place, or its server may not accept writes any more, as after a failover. Each connection
// fails at most once.
var spoils = []string{
	"XX000", // internal error, such as: cache lookup failed for type
	"0A000", // cached plan must not change result type
	"26000", // prepared statement does not exist
	"42P05", // it exists already: a pooler has mixed up sessions
	"42P01", // undefined table
	"42883", // undefined function
	"22P03", // invalid binary representation: a type has another OID now
	readOnlyTransaction,
}

// configureSessions makes every connection of the pool, and others with its configuration, set the parameters of the
// URL and our defaults, and leave the pool once they are spoiled.
func configureSessions(cfg *pgxpool.Config) {
	params := cfg.ConnConfig.RuntimeParams
	// A process that hangs, or a host that is gone, must not hold locks, or a place in a queue, for ever.
	for name, value := range map[string]string{"lock_timeout": "30s", "idle_in_transaction_session_timeout": "60s"} {
		if _, ok := params[name]; !ok {
			params[name] = value
		}
	}
	params["default_transaction_isolation"] = "read committed" // a statement that waited for a lock must see the changes of its holder
	set := takeSettable(params)
	cfg.ConnConfig.AfterConnect = func(ctx context.Context, conn *pgconn.PgConn) error {
		ctx, cancel := context.WithTimeout(ctx, cfg.ConnConfig.ConnectTimeout)
		defer cancel()
		conn.CustomData()[openedAt] = time.Now()
		_, err := conn.Exec(ctx, set).ReadAll()
		return silent(err, cfg.ConnConfig.ConnectTimeout)
	}
	cfg.ConnConfig.OnPgError = func(conn *pgconn.PgConn, err *pgconn.PgError) bool {
		if slices.Contains(spoils, err.Code) {
			conn.CustomData()[spoiled] = true // not closed: the transaction may continue after a savepoint
		}
		return cmp.Or(err.SeverityUnlocalized, err.Severity) != "FATAL"
	}
	cfg.PrepareConn = func(_ context.Context, conn *pgx.Conn) (bool, error) { return usable(conn.PgConn()), nil }
	cfg.PingTimeout = pingTimeout
}

// silent returns err with the words for it if it is that of a server that did not answer in time.
func silent(err error, timeout time.Duration) error {
	if errors.Is(err, context.DeadlineExceeded) {
		return fmt.Errorf("the server, or a connection pooler without a free session, does not answer within %v: %w", timeout, err)
	}
	return err
}

// atStart are the only parameters that PgBouncer accepts when a connection is opened.
var atStart = []string{
	"application_name", "client_encoding", "datestyle", "intervalstyle", "options", "replication", "standard_conforming_strings", "timezone",
}

// takeSettable removes from params those that can be set later, and returns the statements that set them.
func takeSettable(params map[string]string) string {
	var set strings.Builder
	for _, name := range slices.Sorted(maps.Keys(params)) {
		if slices.Contains(atStart, strings.ToLower(name)) {
			continue
		}
		fmt.Fprintf(&set, "select set_config('%s', '%s', false);", quoted(name), quoted(params[name]))
		delete(params, name)
	}
	return set.String()
}

func quoted(s string) string { return strings.ReplaceAll(s, "'", "''") }

// usable reports whether a connection may be used again. A session that was opened on a read-only server stays
// read-only, even if the server becomes writable: PostgreSQL reports both without being asked.
func usable(conn *pgconn.PgConn) bool {
	if c := below(conn); c != nil && c.closed.Load() { // to a primary that was replaced
		return false
	}
	data := conn.CustomData()
	opened, _ := data[openedAt].(time.Time)
	readOnly := conn.ParameterStatus("default_transaction_read_only") == "on" || conn.ParameterStatus("in_hot_standby") == "on"
	return data[spoiled] == nil && (!readOnly || time.Since(opened) < readOnlyLifetime)
}

// ErrReadOnly says that a database that must accept writes does not.
var ErrReadOnly = errors.New("the database is read-only: it is a standby, or default_transaction_read_only is on")

// Writable returns nil if a transaction could write now, or [ErrReadOnly] if the database does not allow it.
func Writable(ctx context.Context, pool *pgxpool.Pool) error {
	return pool.AcquireFunc(ctx, func(conn *pgxpool.Conn) error {
		var readOnly bool
		err := conn.QueryRow(ctx, `select current_setting('transaction_read_only')::bool`).Scan(&readOnly)
		if err == nil && readOnly {
			conn.Conn().PgConn().CustomData()[spoiled] = true
			err = ErrReadOnly
		}
		return err
	})
}

// A Use is the use of a table by a transaction, named after its lock.
type Use string

// The uses that a lock of another session can prevent.
const (
	Read  Use = "access share"
	Write Use = "row exclusive"
)

// Unlocked returns nil if each of these tables of the pool's schema could be used in this way now. If another session
// holds a lock against it, Unlocked waits until ctx ends. It holds at most one lock at a time, and no lock for which
// others wait.
func Unlocked(ctx context.Context, pool *pgxpool.Pool, use Use, tables []string) error {
	privilege := map[Use]string{Read: "select", Write: "update"}[use]
	_, err := pool.Exec(ctx, `
		do $$ declare name regclass; begin
		    for name in select oid from pg_class where relkind = 'r' and relnamespace = current_schema()::regnamespace
		        and relname = any(string_to_array('`+strings.Join(tables, " ")+`', ' '))
		        and has_table_privilege(oid, '`+privilege+`') loop
		        execute format('lock table %s in `+string(use)+` mode', name);
		        commit;
		    end loop;
		end $$`)
	return err
}

// checkSession refuses a database that does not accept writes or does not store text as UTF-8, and a pooler that does
// not give each connection a session of its own.
func checkSession(ctx context.Context, cfg *pgx.ConnConfig, conn *pgconn.PgConn) error {
	ctx, cancel := context.WithTimeout(ctx, checkTimeout)
	defer cancel()
	results, err := conn.Exec(ctx, `select pg_backend_pid(), current_setting('transaction_read_only'), current_setting('server_encoding')`).ReadAll()
	if err != nil {
		return err
	}
	row := results[0].Rows[0]
	if string(row[1]) == "on" {
		return ErrReadOnly
	}
	if encoding := string(row[2]); encoding != "UTF8" {
		return fmt.Errorf("the database %s has the encoding %s, which cannot hold every text: create one with encoding 'UTF8'", cfg.Database, encoding)
	}
	if string(row[0]) == fmt.Sprint(conn.PID()) { // which a pooler invents
		return nil
	}
	return checkPooler(ctx, cfg, conn)
}

// minSessions is the fewest sessions with which a process can work: those that it holds for good, and one more.
const minSessions = 6

// checkPooler refuses a pooler that shares sessions between connections, gives this process too few, or passes one on
// with what its last user has left there. Locks would remain in others' sessions, and settings and notifications would
// be lost.
func checkPooler(ctx context.Context, cfg *pgx.ConnConfig, first *pgconn.PgConn) error {
	all := []*pgconn.PgConn{first}
	var others []*pgx.Conn
	closeOthers := func() {
		for _, conn := range others {
			_ = conn.Close(context.WithoutCancel(ctx))
		}
		others = nil
	}
	defer func() { closeOthers() }()
	another := func() error {
		conn, err := pgx.ConnectConfig(ctx, cfg)
		if err != nil {
			return fmt.Errorf("the connection pooler does not give this process %d sessions at once: allow for 20 of each process "+
				"(PgBouncer: default_pool_size, max_db_connections): %w", minSessions, err)
		}
		all, others = append(all, conn.PgConn()), append(others, conn)
		return nil
	}
	if err := another(); err != nil {
		return err
	}
	if shared, err := shareSessions(ctx, all[0], all[1]); err != nil || shared {
		return cmp.Or(err, errShared)
	}
	for len(all) < minSessions {
		if err := another(); err != nil {
			return err
		}
	}
	for _, conn := range all {
		if err := markSession(ctx, conn); err != nil {
			return err
		}
	}
	closeOthers()
	if err := another(); err != nil { // by default it gets the session that was given back last
		return err
	}
	return markSession(ctx, all[minSessions])
}

var errLeft = errors.New("the connection pooler gives a session to another connection with what the one before has left there, such as locks: " +
	"it has to reset sessions (PgBouncer: server_reset_query = DISCARD ALL)")

// markSession leaves something of each kind in the session, or returns errLeft if there is something.
func markSession(ctx context.Context, conn *pgconn.PgConn) error {
	results, err := conn.Exec(ctx, `
		select coalesce(current_setting('datafeed.session', true), '') <> ''
		    or exists (select from pg_locks where locktype = 'advisory' and pid = pg_backend_pid())
		    or exists (select from pg_listening_channels())
		    or exists (select from pg_prepared_statements where name not like 'PGBOUNCER%')`).ReadAll()
	if err != nil {
		return err
	}
	if string(results[0].Rows[0][0]) == "t" {
		return errLeft
	}
	_, err = conn.Exec(ctx, `
		select set_config('datafeed.session', 'used', false), pg_advisory_lock_shared(hashtext('datafeed.session'));
		listen datafeed_session; prepare datafeed_session as select 1`).ReadAll()
	return err
}

var errShared = errors.New("the connection pooler gives two open connections one session of the server: " +
	"set it to session pooling (PgBouncer: pool_mode = session), or connect to PostgreSQL directly")

// shareSessions reports whether two connections share one session, or one connection has several. Their queries
// do not alternate: a pooler that alternates two sessions would appear to give one to each.
func shareSessions(ctx context.Context, a, b *pgconn.PgConn) (bool, error) {
	owner := map[string]*pgconn.PgConn{}
	for range 5 {
		for _, conn := range []*pgconn.PgConn{a, b, b, a} {
			results, err := conn.Exec(ctx, `select pg_backend_pid()`).ReadAll()
			if err != nil {
				return false, err
			}
			pid := string(results[0].Rows[0][0])
			if other := owner[pid]; other != nil && other != conn {
				return true, nil
			}
			owner[pid] = conn
		}
	}
	return len(owner) > 2, nil
}
