// Command sales-feed runs the source apps of Edison Cars.
package main

import (
	"cmp"
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"strings"

	"github.com/google/uuid"

	"github.com/edison-cars/data-feeds/sales-feed/customers"
	"github.com/edison-cars/data-feeds/sales-feed/sales"
	"github.com/edison-cars/data-feeds/sales-feed/serve"
	"github.com/edison-cars/data-feeds/shared/access"
	"github.com/edison-cars/data-feeds/shared/customer"
	"github.com/edison-cars/data-feeds/shared/daemon"
	"github.com/edison-cars/data-feeds/shared/order"
	"github.com/edison-cars/data-feeds/shared/service"
)

const usage = `Usage: sales-feed
       sales-feed customers
       sales-feed serve
       sales-feed republish [--rate 100] [--after ID] FEED
       sales-feed token [--operator | --feeds orders,builds] NAME
       sales-feed --version

The first form is the sales app: it sells cars and publishes every order on the feed /feeds/orders. The second one is the
customers app: it keeps the accounts of customers and publishes them on the feed /feeds/customers. The last one makes a
token for a reader of feeds or an operator of services, and prints it once.

serve serves every feed of the database DATABASE_URL, whichever program or SQL statement writes it, also those that are
made later by SQL: select feed_create('invoices'). It appends what attached tables stage, and runs their backfills. It
makes the tables of the feeds if they are missing. If its role may not make or use them, it prints the SQL for their owner
and ends with exit code 3.

republish appends every order or customer to its feed again; see sales-feed republish --help.

Both apps take an Idempotency-Key with POST: for IDEMPOTENCY_KEY_AGE the same request with the same key gets the first answer again, and
nothing is done twice. After that the key is forgotten.

Settings of %s (environment):
`

func main() { daemon.Main(run) }

func run(ctx context.Context, args []string, env map[string]string, stdout io.Writer) error {
	command := ""
	if len(args) > 0 {
		command = args[0]
	}
	switch {
	case command == "customers":
		return runApp(ctx, command, args[1:], env, stdout, customers.Help, customers.Run)
	case command == "serve":
		return runApp(ctx, command, args[1:], env, stdout, serve.Help, serve.Run)
	case command == "republish":
		return republish(ctx, args[1:], env, stdout)
	case command == "token":
		return printToken(args[1:], stdout)
	case command == "--version":
		_, err := fmt.Fprintln(stdout, "sales-feed", daemon.Version())
		return err
	case command != "" && !strings.HasPrefix(command, "-"):
		hint := cmp.Or(daemon.DidYouMean(command, []string{"customers", "serve", "republish", "token"}), "; see sales-feed --help")
		return daemon.Usagef("there is no command %q%s", command, hint)
	}
	return runApp(ctx, "sales", args, env, stdout, sales.Help, sales.Run)
}

// runApp runs an app with its settings from the environment.
func runApp[S any](
	ctx context.Context, app string, args []string, env map[string]string, stdout io.Writer,
	help func(io.Writer), run func(context.Context, S, io.Writer) error,
) error {
	var settings S
	err := service.Configure("sales-feed", args, env, &settings, stdout, func() {
		fmt.Fprintf(stdout, usage, app)
		help(stdout)
	})
	if !errors.Is(err, flag.ErrHelp) {
		daemon.WarnMisspelled(ctx, env, stdout, daemon.Names(sales.Settings{}, customers.Settings{}, serve.Settings{}))
	}
	if err != nil {
		return err
	}
	return run(ctx, settings, stdout)
}

const republishHelp = `Usage: sales-feed republish [--rate 100] [--after ID] FEED

Appends every entity of the feed orders or customers again, as it is now, with its next version. Use it after the contract
got a member that older entries lack. The app goes on meanwhile; both need the same DATABASE_URL, and for customers the
same ERASED_FILE. With a private PostgreSQL, stop the app first. An app of which a table is attached to a feed calls
select feed_backfill('FEED') instead.

  --rate N     entities a second, at most (default 100): subscribers read each of them
  --after ID   go on after the entity at which an earlier run ended
`

func republish(ctx context.Context, args []string, env map[string]string, stdout io.Writer) error {
	flags := flag.NewFlagSet("republish", flag.ContinueOnError)
	flags.SetOutput(stdout)
	rate := flags.Int("rate", 100, "")
	var after uuid.UUID
	flags.TextVar(&after, "after", after, "")
	flags.Usage = func() { fmt.Fprint(stdout, republishHelp) }
	if err := flags.Parse(args); err != nil {
		return daemon.Usagef("%w", err)
	}
	if *rate < 1 {
		return daemon.Usagef("republish: --rate takes a number from 1")
	}
	switch name := flags.Arg(0); {
	case flags.NArg() == 1 && name == order.Feed:
		var settings sales.Settings
		if err := daemon.Parse(env, &settings); err != nil {
			return err
		}
		return sales.Republish(ctx, settings, stdout, *rate, after)
	case flags.NArg() == 1 && name == customer.Feed:
		var settings customers.Settings
		if err := daemon.Parse(env, &settings); err != nil {
			return err
		}
		return customers.Republish(ctx, settings, stdout, *rate, after)
	}
	return daemon.Usagef("republish takes one feed, behind the flags: orders or customers; see republish --help")
}

const tokenHelp = `Usage: sales-feed token [--operator | --feeds orders,builds] NAME

Makes a token for a reader of feeds, or for an operator, and prints it once, with the entry for TOKENS or TOKENS_FILE.

  --operator      for an operator, who may do all that a reader may, see all pages and change settings
  --feeds FEEDS   feeds and views that a reader may read, such as orders,customers/views/delivery (default all)
`

func printToken(args []string, stdout io.Writer) error {
	flags := flag.NewFlagSet("token", flag.ContinueOnError)
	flags.SetOutput(stdout)
	operator := flags.Bool("operator", false, "")
	feeds := flags.String("feeds", "", "")
	flags.Usage = func() {
		fmt.Fprint(stdout, tokenHelp)
	}
	if err := flags.Parse(args); err != nil {
		return daemon.Usagef("%w", err)
	}
	if *operator && *feeds != "" {
		return daemon.Usagef("token: an operator reads all feeds; leave out --feeds or --operator")
	}
	role := "reader"
	flags.Visit(func(f *flag.Flag) {
		if f.Name == "feeds" { // an empty value, such as an unset variable, means no feed, not all feeds
			role += "=" + strings.ReplaceAll(*feeds, ",", "+")
		}
	})
	if *operator {
		role = "operator"
	}
	token, hash := access.NewToken()
	if new(access.Tokens).UnmarshalText([]byte("a:"+role+":"+hash)) != nil {
		return daemon.Usagef("sales-feed token: --feeds takes names of feeds such as orders,builds; without it a reader may read all feeds")
	}
	entry := flags.Arg(0) + ":" + role + ":" + hash
	if flags.NArg() != 1 || new(access.Tokens).UnmarshalText([]byte(entry)) != nil {
		return daemon.Usagef("token takes one name, behind the flags: a letter, then up to 63 letters, digits, dots, dashes and underscores; and --feeds such as orders,builds; see token --help")
	}
	_, err := fmt.Fprintf(stdout, "The token, shown this once:\n%s\nIts entry for TOKENS, or a line of TOKENS_FILE:\n%s\n", token, entry)
	return err
}
