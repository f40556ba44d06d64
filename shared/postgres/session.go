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
	checkTimeout     = 10 * time.Second // for what Open asks a session
	pingTimeout      = 5 * time.Second  // for a pool to find out that an idle connection is dead
	readOnlyLifetime = time.Second      // of a connection to a server that was read-only when it was opened
)

// Keys of pgconn.PgConn.CustomData.
const (
	openedAt = "datafeed_opened_at" // time.Time
	spoiled  = "datafeed_spoiled"   // true: see spoils
)

// spoils are the SQLSTATE codes after which a connection is not used again: what it knows of the database may be of one
// that is gone, as after a restore in place, or the server it leads to takes no writes any more, as after a failover.
// At worst each connection fails once.
var spoils = []string{
	"XX000", // internal error, such as: cache lookup failed for type
	"0A000", // cached plan must not change result type
	"26000", // prepared statement does not exist
	"42P01", // undefined table
	"42883", // undefined function
	"22P03", // invalid binary representation: a type has another OID now
	readOnlyTransaction,
}

// configureSessions makes every connection of the pool, and every other one that is opened with its configuration, set
// the parameters of the URL and our defaults, and leave the pool once it is spoiled.
func configureSessions(cfg *pgxpool.Config) {
	params := cfg.ConnConfig.RuntimeParams
	// What a process that hangs, or a host that is gone, keeps from others is bounded: locks, and a place in line.
	for name, value := range map[string]string{"lock_timeout": "30s", "idle_in_transaction_session_timeout": "60s"} {
		if _, ok := params[name]; !ok {
			params[name] = value
		}
	}
	params["default_transaction_isolation"] = "read committed" // what waits for a lock must see what its holder has done
	set := takeSettable(params)
	cfg.ConnConfig.AfterConnect = func(ctx context.Context, conn *pgconn.PgConn) error {
		ctx, cancel := context.WithTimeout(ctx, cfg.ConnConfig.ConnectTimeout)
		defer cancel()
		conn.CustomData()[openedAt] = time.Now()
		_, err := conn.Exec(ctx, set).ReadAll()
		return err
	}
	cfg.ConnConfig.OnPgError = func(conn *pgconn.PgConn, err *pgconn.PgError) bool {
		if slices.Contains(spoils, err.Code) {
			conn.CustomData()[spoiled] = true // not closed: the transaction may go on behind a savepoint
		}
		return cmp.Or(err.SeverityUnlocalized, err.Severity) != "FATAL"
	}
	cfg.PrepareConn = func(_ context.Context, conn *pgx.Conn) (bool, error) { return usable(conn.PgConn()), nil }
	cfg.PingTimeout = pingTimeout
}

// atStart are the parameters that PgBouncer takes in the packet that opens a connection. It refuses all others there.
var atStart = []string{
	"application_name", "client_encoding", "datestyle", "intervalstyle", "options", "replication", "standard_conforming_strings", "timezone",
}

// takeSettable takes from params what can be set later, and returns the statements that do.
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

// usable reports whether a connection may be used again. A server that was read-only when the connection was opened may
// be writable now, but the session stays as it is: PostgreSQL tells both without being asked.
func usable(conn *pgconn.PgConn) bool {
	data := conn.CustomData()
	opened, _ := data[openedAt].(time.Time)
	readOnly := conn.ParameterStatus("default_transaction_read_only") == "on" || conn.ParameterStatus("in_hot_standby") == "on"
	return data[spoiled] == nil && (!readOnly || time.Since(opened) < readOnlyLifetime)
}

// ErrReadOnly is returned where a database has to take writes and does not.
var ErrReadOnly = errors.New("the database is read-only: it is a standby, or default_transaction_read_only is on")

// Writable returns nil if a transaction could write now, and [ErrReadOnly] if the database does not let it.
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

// A Use is what a transaction does with a table, by the lock that it takes.
type Use string

// What a lock of somebody else can keep a transaction from.
const (
	Read  Use = "access share"
	Write Use = "row exclusive"
)

// Unlocked returns nil if each of these tables of the pool's schema that it may use so could be used now. Where a
// transaction of somebody else holds a lock against that, it waits until ctx ends. It holds one lock at a time, and none
// for others to wait for.
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

// checkSession refuses a database that takes no writes, one that does not keep text as UTF-8, and a pooler that does not give each connection a session of its
// own: locks would stay behind in sessions of others, and settings and notifications be lost.
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
	if string(row[0]) == fmt.Sprint(conn.PID()) { // which a pooler makes up
		return nil
	}
	second, err := pgx.ConnectConfig(ctx, cfg)
	if err != nil {
		return fmt.Errorf("open a second session through the connection pooler: %w", err)
	}
	defer second.Close(context.WithoutCancel(ctx))
	shared, err := shareSessions(ctx, conn, second.PgConn())
	if err == nil && shared {
		err = errShared
	}
	return err
}

var errShared = errors.New("the connection pooler gives two open connections one session of the server: " +
	"set it to session pooling (PgBouncer: pool_mode = session), or connect to PostgreSQL directly")

// shareSessions reports whether a connection answers from a session that was the other's, or from two. They do not ask by
// turns: two sessions that are given by turns would look like one for each.
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
