package postgres

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
)

// schemaLock is the advisory lock under which services that share a database choose their schemas.
const schemaLock = 0x736368656d61

// A schema is where a service keeps its tables in a database that it may share with others. The first service has the one that
// the database's search_path names, as a rule public; each other service has one of its own name. Whose the first is stands in
// the comment of the table of its migrations' versions.
type schema struct {
	conn *pgx.Conn // holds the lock, so that one service after the other migrates
	name string    // "": that of search_path
}

// chooseSchema returns the schema of the service called name. The lock is held until close. Where the URL says search_path, that
// holds.
func chooseSchema(ctx context.Context, cfg *pgx.ConnConfig, given bool, name string, migrations []Migrations) (*schema, error) {
	if given || len(migrations) == 0 {
		return &schema{}, nil
	}
	conn, err := pgx.ConnectConfig(ctx, cfg)
	if err != nil {
		return nil, err
	}
	s := &schema{conn: conn}
	ctx, cancel := context.WithTimeout(ctx, migrateTimeout)
	defer cancel()
	if _, err = conn.Exec(ctx, `set lock_timeout = 0`); err == nil {
		_, err = conn.Exec(ctx, `select pg_advisory_lock($1)`, schemaLock)
	}
	var others, mine int
	if err == nil {
		own := migrations[len(migrations)-1].Name
		err = conn.QueryRow(ctx, `
			select count(*) filter (where not mine), count(*) filter (where mine)
			  from (select coalesce(obj_description(oid, 'pg_class') = $1, relname in ('goose_' || $1, 'goose_' || $2)) as mine
			          from pg_class
			         where relnamespace = current_schema()::regnamespace and relkind = 'r' and relname like 'goose\_%'
			               and relname not in ('goose_publish', 'goose_subscribe', 'goose_db_version')) t`, name, own).Scan(&others, &mine)
	}
	if err == nil && others > 0 && mine == 0 {
		s.name = name
		_, err = conn.Exec(ctx, `create schema if not exists `+pgx.Identifier{name}.Sanitize())
	}
	if err != nil {
		s.close()
		return nil, fmt.Errorf("choose a schema: %w", err)
	}
	return s, nil
}

// claim notes that the service has the schema of search_path.
func (s *schema) claim(ctx context.Context, name string, migrations []Migrations) error {
	if s.conn == nil || s.name != "" {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, checkTimeout)
	defer cancel()
	table := pgx.Identifier{"goose_" + migrations[len(migrations)-1].Name}.Sanitize()
	var claimed bool
	err := s.conn.QueryRow(ctx, `select obj_description($1::regclass, 'pg_class') is not null`, table).Scan(&claimed)
	if err == nil && !claimed {
		_, err = s.conn.Exec(ctx, fmt.Sprintf(`comment on table %s is '%s'`, table, quoted(name)))
	}
	return err
}

// close gives the lock back.
func (s *schema) close() {
	if s.conn == nil {
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	_ = s.conn.Close(ctx)
}

// saysSearchPath reports whether a URL sets search_path, by itself or among the options.
func saysSearchPath(url string) bool { return strings.Contains(url, "search_path") }
