package postgres

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/edison-cars/data-feeds/shared/migrate"
)

// schemaLock is the advisory lock for choosing the schemas of services that share a database.
const schemaLock = 0x736368656d61

// A schema is the schema of a service's tables in a database that services may share. The first service gets the first
// schema of search_path, normally public; each other service gets one with its own name. The owner of a schema is
// recorded in the comment of its table of migration versions. A service with tables keeps its schema, whichever
// services come or go.
type schema struct {
	conn *pgx.Conn // holds the lock, so that services migrate one after another
	name string    // "" means the first of search_path
	path []string  // the schemas in which connections look; nil means that the URL says it, or that there are no tables
}

// chooseSchema returns the schema of the service. It holds the lock until close. A search_path in the URL takes
// precedence.
func chooseSchema(
	ctx context.Context, cfg *pgx.ConnConfig, given bool, of Config, migrations []Migrations, logger *slog.Logger,
) (*schema, error) {
	if given || len(migrations) == 0 {
		return &schema{}, nil
	}
	conn, err := pgx.ConnectConfig(ctx, cfg)
	if err != nil {
		return nil, err
	}
	s := &schema{conn: conn}
	var free bool
	asking, cancel := context.WithTimeout(ctx, checkTimeout)
	defer cancel()
	err = conn.QueryRow(asking, `select pg_try_advisory_lock($1)`, schemaLock).Scan(&free)
	if err == nil && !free {
		ctx, cancel := context.WithTimeout(ctx, migrate.Timeout)
		defer cancel()
		logger.WarnContext(ctx, "waiting for another process that migrates its tables in this database", "for_at_most", migrate.Timeout)
		if _, err = conn.Exec(ctx, `set lock_timeout = 0`); err == nil {
			_, err = conn.Exec(ctx, `select pg_advisory_lock($1)`, schemaLock)
		}
	}
	if err == nil {
		asking, cancel := context.WithTimeout(ctx, checkTimeout)
		defer cancel()
		own := migrations[len(migrations)-1].Name
		if of.Foreign {
			err = s.find(asking, own)
		} else {
			err = s.choose(asking, of.Name, own)
		}
		if s.path = []string{s.name}; err == nil && s.name == "" { // by their names now: "$user" may become another schema
			err = conn.QueryRow(asking, `select current_schemas(false)`).Scan(&s.path)
		}
	}
	if err != nil {
		s.close()
		return nil, fmt.Errorf("choose a schema: %w", err)
	}
	return s, nil
}

// A candidate is an existing schema, with the number of migration sets of this service and of others.
type candidate struct {
	Schema       string
	First        bool // of search_path
	Usual        bool // it is in search_path, or has the service's name
	Mine, Others int
}

// choose finds the schema of the service whose last set of migrations is own, or creates one. If several have its
// tables, it takes the first of search_path. That may change without the service's doing: "$user" becomes another
// schema when one with the role's name is created, or when another role connects. So choose refuses to make new ones if
// the service has tables in a schema where it would not look.
func (s *schema) choose(ctx context.Context, name, own string) error {
	rows, _ := s.conn.Query(ctx, `
		select n.nspname, coalesce(n.nspname = current_schema(), false), n.nspname = any(current_schemas(false)) or n.nspname = $1,
		       count(*) filter (where mine), count(*) filter (where not mine)
		  from pg_namespace n
		       left join (select relnamespace, coalesce(obj_description(oid, 'pg_class') = $1, relname in ('goose_' || $1, 'goose_' || $2)) as mine,
		                         coalesce(obj_description(oid, 'pg_class') = $1, false) as claimed
		                    from pg_class
		                   where relkind = 'r' and relname like 'goose\_%'
		                         and relname not in ('goose_publish', 'goose_subscribe', 'goose_access', 'goose_db_version')) t on t.relnamespace = n.oid
		 where n.nspname = any(current_schemas(false)) or n.nspname = $1 or claimed
		 group by 1
		 order by array_position(current_schemas(false), n.nspname), n.nspname <> $1`, name, own)
	found, err := pgx.CollectRows(rows, pgx.RowToStructByPos[candidate])
	if err != nil {
		return err
	}
	free, exists, taken := true, false, false
	for _, c := range found {
		if c.Mine > 0 {
			if !c.Usual {
				return fmt.Errorf("the tables of %s are in the schema %s, which this role's search_path does not name: to go on with them, "+
					"set search_path=%[2]s in the URL; to start without them, set another schema", name, c.Schema)
			}
			if !c.First {
				s.name = c.Schema
			}
			return nil
		}
		if c.First {
			free = c.Others == 0
		}
		if c.Schema == name {
			exists, taken = true, c.Others > 0
		}
	}
	if free {
		return nil
	}
	s.name = name
	switch {
	case taken:
		return fmt.Errorf("the schema %s has tables of another service: set another schema by search_path in the URL", name)
	case exists: // the role may not be allowed to use another one
		return nil
	}
	if _, err = s.conn.Exec(ctx, `create schema `+pgx.Identifier{name}.Sanitize()); err != nil {
		return fmt.Errorf("create the schema %s, since other services use this database: %w", name, err)
	}
	return nil
}

// find finds the schema that has the tables of a set: the first one in search_path, or else none may have them, since
// whatever writes to those would not use new ones.
func (s *schema) find(ctx context.Context, set string) error {
	var has string
	var first, usual bool
	err := s.conn.QueryRow(ctx, `
		select n.nspname, coalesce(n.nspname = current_schema(), false), n.nspname = any(current_schemas(false))
		  from pg_class c join pg_namespace n on n.oid = c.relnamespace where relkind = 'r' and relname = 'goose_' || $1
		 order by array_position(current_schemas(false), n.nspname), 1 limit 1`, set).Scan(&has, &first, &usual)
	switch {
	case errors.Is(err, pgx.ErrNoRows):
		return nil
	case err != nil:
		return err
	case !usual:
		return fmt.Errorf("the tables are in the schema %s, to which this role's search_path does not lead: set search_path=%[1]s in the URL, "+
			"or another schema for other tables", has)
	case !first:
		s.name = has
	}
	return nil
}

// checkSchema returns an error if there are migrations but no schema for their tables.
func checkSchema(ctx context.Context, pool *pgxpool.Pool, migrations []Migrations) error {
	if len(migrations) == 0 {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, checkTimeout)
	defer cancel()
	var exists bool
	var path string
	err := pool.QueryRow(ctx, `select current_schema() is not null, current_setting('search_path')`).Scan(&exists, &path)
	if err == nil && !exists {
		err = fmt.Errorf("no schema of the search_path, %s, exists: create one, or set another by search_path in the URL", path)
	}
	return err
}

// claim records that the service has the schema.
func (s *schema) claim(ctx context.Context, name string, migrations []Migrations) error {
	if s.conn == nil {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, checkTimeout)
	defer cancel()
	table := pgx.Identifier{"goose_" + migrations[len(migrations)-1].Name}
	if s.name != "" {
		table = pgx.Identifier{s.name, table[0]}
	}
	var claimed bool
	err := s.conn.QueryRow(ctx, `select obj_description($1::regclass, 'pg_class') is not null`, table.Sanitize()).Scan(&claimed)
	if err == nil && !claimed {
		_, err = s.conn.Exec(ctx, fmt.Sprintf(`comment on table %s is '%s'`, table.Sanitize(), quoted(name)))
	}
	return err
}

// close releases the lock.
func (s *schema) close() {
	if s.conn == nil {
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	_ = s.conn.Close(ctx)
}

// saysSearchPath reports whether a URL sets search_path, directly or among the options.
func saysSearchPath(url string) bool {
	cfg, err := pgconn.ParseConfig(url)
	return err == nil && (cfg.RuntimeParams["search_path"] != "" || strings.Contains(cfg.RuntimeParams["options"], "search_path"))
}
