package postgres

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"net"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"
)

const (
	connectTimeout = 5 * time.Second
	reachTimeout   = 30 * time.Second
	createTimeout  = 30 * time.Second // for a missing database
	reachInterval  = 500 * time.Millisecond
	maxConns       = 16
)

// SQLSTATE codes.
const (
	cannotConnectNow    = "57P03" // starting up or shutting down
	tooManyConnections  = "53300"
	invalidCatalogName  = "3D000" // the database does not exist
	duplicateDatabase   = "42P04"
	uniqueViolation     = "23505" // two processes created it at the same time
	objectInUse         = "55006"
	adminShutdown       = "57P01"
	readOnlyTransaction = "25006"
	crashShutdown       = "57P02"
	maintenanceDatabase = "postgres"
)

// errURL does not quote the URL, which may contain a password.
var errURL = errors.New("the PostgreSQL URL is not valid: it takes the form postgres://user:password@host:5432/database, " +
	"with special characters in the password percent-encoded")

// parseURL parses the URL and adds our defaults. Schemas, if given, become the search_path.
func parseURL(url, name string, schemas []string) (*pgxpool.Config, error) {
	_, rest, ok := strings.Cut(url, "://")
	if !ok {
		return nil, errURL
	}
	rest, _, _ = strings.Cut(rest, "?")
	authority, path, _ := strings.Cut(rest, "/")
	if strings.Count(authority, "@") > 1 || strings.Contains(path, "@") {
		return nil, errURL // a part of the password would be read as host or database
	}
	cfg, err := pgxpool.ParseConfig(url)
	if file, ok := errors.AsType[*fs.PathError](err); ok {
		return nil, file
	} else if err != nil {
		return nil, errURL
	}
	if cfg.ConnConfig.Database == "" {
		cfg.ConnConfig.Database = name
	}
	if cfg.ConnConfig.ConnectTimeout == 0 {
		cfg.ConnConfig.ConnectTimeout = connectTimeout
	}
	if len(hostsOf(cfg.ConnConfig)) > 1 && !strings.Contains(url, "target_session_attrs=") {
		cfg.ConnConfig.ValidateConnect = pgconn.ValidateConnectTargetSessionAttrsReadWrite
	}
	if !strings.Contains(url, "pool_max_conns=") {
		cfg.MaxConns = maxConns
	}
	cfg.AfterConnect = func(_ context.Context, conn *pgx.Conn) error {
		encodeUUIDs(conn.TypeMap())
		boundTimes(conn.TypeMap())
		return nil
	}
	params := cfg.ConnConfig.RuntimeParams
	for key, value := range map[string]string{"application_name": name, "timezone": "UTC"} {
		if _, ok := params[key]; !ok {
			params[key] = value
		}
	}
	params["client_encoding"] = "UTF8" // whatever is set for the role or the database: else they take the bytes for other letters
	if schemas != nil {
		var quoted []string
		for _, s := range schemas {
			quoted = append(quoted, pgx.Identifier{s}.Sanitize())
		}
		params["search_path"] = strings.Join(quoted, ", ")
	}
	configureSessions(cfg)
	return cfg, nil
}

// PoolConfig returns the configuration that [Open] gives the pool of a service with the name: search_path, if it is set,
// is the URL's.
func PoolConfig(url, name string) (*pgxpool.Config, error) { return parseURL(url, name, nil) }

// reach returns when the database accepts connections and writes. It creates a missing database, unless it is foreign.
// private says that the server is the service's own.
func reach(ctx context.Context, cfg *pgx.ConnConfig, private, foreign bool, logger *slog.Logger) error {
	deadline := time.Now().Add(reachTimeout)
	for said := false; ; {
		err := connectOrCreate(ctx, cfg, private, foreign)
		if err == nil || !worthWaiting(err) || ctx.Err() != nil || time.Now().After(deadline) {
			return err
		}
		if !said {
			logger.Warn("PostgreSQL is not ready yet, waiting", "host", cfg.Host, "port", cfg.Port, "error", err)
			said = true
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(reachInterval):
		}
	}
}

func connectOrCreate(ctx context.Context, cfg *pgx.ConnConfig, private, foreign bool) error {
	conn, err := pgx.ConnectConfig(ctx, cfg)
	if err == nil {
		return errors.Join(checkSession(ctx, cfg, conn.PgConn()), conn.Close(ctx))
	}
	if sqlState(err) != invalidCatalogName || foreign {
		return err
	}
	// A database whose files are missing has this code too, with a detail.
	if missing, _ := errors.AsType[*pgconn.PgError](err); missing.Detail != "" {
		return fmt.Errorf("the database %s is damaged: %w: %s", cfg.Database, err, missing.Detail)
	}
	admin := cfg.Copy()
	admin.Database = maintenanceDatabase
	if conn, err = pgx.ConnectConfig(ctx, admin); err != nil {
		return fmt.Errorf("create the missing database %s: %w", cfg.Database, err)
	}
	ctx, cancel := context.WithTimeout(ctx, createTimeout)
	defer cancel()
	defer conn.Close(ctx)
	if private {
		var others string
		var created bool
		err := conn.QueryRow(ctx, `
			select coalesce(string_agg(datname, ', ') filter (where not datistemplate and datname <> $1), ''),
			       coalesce(bool_or(shobj_description(oid, 'pg_database') = $2 and datname = $1), false)
			  from pg_database`, maintenanceDatabase, createdHere).Scan(&others, &created)
		switch {
		case err != nil:
		case others != "":
			err = fmt.Errorf("the data folder has no database %s, but those of other services: %s; put the folders of the services where they were", cfg.Database, others)
		case created:
			err = fmt.Errorf("the database %s was dropped: to restore a dump, run PostgreSQL on the data folder (pg_ctl start); to start over, delete the data folder", cfg.Database)
		}
		if err != nil {
			return err
		}
	}
	_, err = conn.Exec(ctx, "CREATE DATABASE "+pgx.Identifier{cfg.Database}.Sanitize()+" ENCODING 'UTF8' TEMPLATE template0")
	if err == nil && private {
		_, err = conn.Exec(ctx, "COMMENT ON DATABASE "+maintenanceDatabase+" IS '"+createdHere+"'")
	}
	switch sqlState(err) {
	case duplicateDatabase, uniqueViolation:
		return nil
	}
	return err
}

// createdHere is the comment of a private server's maintenance database once the service's database was created: if that
// is missing later, somebody has dropped it.
const createdHere = "the database of a service was created here"

// worthWaiting distinguishes a server that may come up from one that refuses.
func worthWaiting(err error) bool {
	if errors.Is(err, ErrReadOnly) { // the standby may be promoted
		return true
	}
	switch sqlState(err) {
	case cannotConnectNow, tooManyConnections, objectInUse, adminShutdown, crashShutdown:
		return true
	}
	var network net.Error
	return errors.As(err, &network) || errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF)
}

func sqlState(err error) string {
	if pgErr, ok := errors.AsType[*pgconn.PgError](err); ok {
		return pgErr.Code
	}
	return ""
}
