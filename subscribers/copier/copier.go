// Package copier is the command copy: it keeps copies of any feeds in tables of a database, without code.
package copier

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"

	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/spf13/cobra"

	"github.com/edison-cars/data-feeds/shared/daemon"
	"github.com/edison-cars/data-feeds/shared/service/subscriber"
	"github.com/edison-cars/data-feeds/shared/subscribe"
)

// Name is the name of the command, of its service, and of the schema that has the tables of the engine: a copied table
// may have any name in another one.
const Name = "copy"

// Addr is the address that it listens on by default.
const Addr = "127.0.0.1:8089"

const text = "keeps copies of any feeds in tables of a database"

const help = `copy keeps copies of feeds in tables of the database that DATABASE_URL names, until it is stopped:

  FEED_URL_ORDERS=http://localhost:8080/feeds/orders TABLE_ORDERS='purchase(customer_id,status)' go run ./subscribers copy

Each variable FEED_URL_X names a feed, and X is any name. One process copies all feeds of a database; further ones with the same settings stand by. The engine
is that of all subscribers: pages at /subscriptions, the commands poll, pause, resume, resync, tune, forget and rejected, metrics, /readyz.
A feed may have several sources, FEED_URL_ORDERS='eu=URL us=URL', whose entities all go into its table.
Its own tables are in the schema copy.

Without TABLE_X, a table named after X is made, with the columns id, version, updated and entity, the whole entity as jsonb. An entity
that is deleted or erased at the source has no row.

  TABLE_X=purchase                        this table instead, or one in another schema: shop.purchase
  TABLE_X=purchase(customer_id,status)    columns, beside id and version, each filled from the member of its name
  TABLE_X=purchase(number=id,status)      the column number is filled from the member id
  TABLE_X=purchase(customer_id?,status)   entities need not have the member customer_id: then the column is null

Names are taken as they are, capital letters included, so that in SQL some need quotes: "customerId".

Types: a column that is missing is added, of the type of the first values: bigint, numeric, boolean, timestamptz, uuid, jsonb, or else
text. You may also make the table before, with types, constraints and columns of your own; it needs id uuid primary key and version
bigint. An entity whose value does not fit is put aside, and the others go on: see rejected. To mend it, change the column's type
and start copy again. Some types take a value in part without an error: name shortens it, timestamp drops its zone, numeric(8,2) rounds. A table that has other columns or rows than a copy, is unlogged, or has rules or triggers that run before a row is
written, is refused, and not changed.

A column that is added to TABLE_X later is filled by a resync, which starts by itself and puts it in place at once. A column that is
taken out of TABLE_X stays as it is, and so does the table if TABLE_X names another one: drop it, since what the source erases is not
erased there.

Null in an entity is null in the column. If an entity or the source's schema has no such member, the source does not publish it: the copy pauses before
that page, and says so at /subscriptions and in status. It goes on by itself when the newest version of each entity has the member.
Otherwise give the column a ? or take it out.`

// Command returns the command. known are the services whose variables the environment may have, too.
func Command(env map[string]string, stdout io.Writer, known []*subscriber.Service) *cobra.Command {
	cmd := &cobra.Command{
		Use: Name, Short: text, ValidArgsFunction: cobra.NoFileCompletions,
		Args: func(_ *cobra.Command, args []string) error {
			if len(args) > 0 {
				return daemon.Usagef("copy takes no argument %q; see --help", args[0])
			}
			return nil
		},
		RunE: func(cmd *cobra.Command, _ []string) error { return run(cmd.Context(), env, stdout, known) },
	}
	cmd.SetHelpFunc(func(*cobra.Command, []string) {
		fmt.Fprint(stdout, help, "\n\n")
		s := service([]subscribe.Feed{{Name: "x", Schedule: schedule}})
		s.Settings = daemon.Setting{Name: "TABLE_X", Default: "x", Help: "the table of its copy, as above"}
		s.Help(stdout)
	})
	return cmd
}

const schedule = "@every 5s"

func service(feeds []subscribe.Feed) *subscriber.Service {
	return &subscriber.Service{Name: Name, Title: "Copy", Text: text, Addr: Addr, Schema: Name, Feeds: feeds}
}

func run(ctx context.Context, env map[string]string, stdout io.Writer, known []*subscriber.Service) error {
	tables, err := tablesOf(env)
	if err != nil {
		return err
	}
	var feeds []subscribe.Feed
	var variables []string
	for _, t := range tables {
		feeds = append(feeds, t.subscription())
		variables = append(variables, t.variable())
	}
	s := service(feeds)
	s.Prepare = func(ctx context.Context, db *pgxpool.Pool, feeds []subscribe.Feed) error {
		for i, t := range tables {
			if err := t.prepare(ctx, db); err != nil {
				return fmt.Errorf("%s: %w", t.variable(), err)
			}
			if feeds[i].Table = t.name; t.resync {
				feeds[i].Resync = "The table was empty, or lacked a column."
			}
		}
		return nil
	}
	s.WarnMisspelled(ctx, env, stdout, known...)
	daemon.WarnMisspelled(ctx, env, stdout, variables, "TABLE_")
	return s.Run(ctx, env, stdout)
}

// tablesOf returns the tables of the feeds that the environment names. The error names all wrong values.
func tablesOf(env map[string]string) (tables []*table, err error) {
	var wrong []error
	byName := map[string]*table{}
	for _, name := range slices.Sorted(maps.Keys(env)) {
		of, ok := strings.CutPrefix(name, "FEED_URL_")
		if !ok || env[name] == "" {
			continue
		}
		t := &table{feed: strings.ToLower(strings.ReplaceAll(of, "_", "-"))}
		if err := t.parse(env[t.variable()]); err != nil {
			wrong = append(wrong, daemon.Usagef("%s takes TABLE, or TABLE(COLUMN,...) such as purchase(customer_id,status): %w", t.variable(), err))
			continue
		}
		if other := byName[t.given()]; other != nil {
			wrong = append(wrong, daemon.Usagef("%s and %s name the same table, %s", other.variable(), t.variable(), t.given()))
		}
		if t.feed == "wait" {
			wrong = append(wrong, daemon.Usagef("FEED_URL_WAIT: POLL_WAIT is a setting of all feeds; give this one another name"))
		}
		byName[t.given()] = t
		tables = append(tables, t)
	}
	if len(tables)+len(wrong) == 0 {
		wrong = append(wrong, daemon.Usagef("copy takes the URLs of feeds: FEED_URL_ORDERS=http://localhost:8080/feeds/orders; see copy --help"))
	}
	return tables, errors.Join(wrong...)
}
