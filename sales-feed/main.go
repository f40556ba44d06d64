// Command sales-feed runs the source apps of Edison Cars.
package main

import (
	"context"
	"flag"
	"fmt"
	"io"

	"github.com/edison-cars/data-feeds/sales-feed/customers"
	"github.com/edison-cars/data-feeds/sales-feed/sales"
	"github.com/edison-cars/data-feeds/shared/daemon"
	"github.com/edison-cars/data-feeds/shared/web"
)

const usage = `Usage: sales-feed
       sales-feed customers
       sales-feed token NAME

The first form is the sales app: it sells cars and publishes every order on the feed /feeds/orders. The second one is the
customers app: it keeps the accounts of customers and publishes them on the feed /feeds/customers. The third one makes a
token for a reader of the feeds, and prints it once.

Both apps take an Idempotency-Key with POST: for 7 days the same request with the same key gets the first answer again, and
nothing is done twice. After that the key is forgotten.

Settings of %s (environment):
`

func main() { daemon.Main(run) }

func run(ctx context.Context, args []string, env map[string]string, stdout io.Writer) error {
	if len(args) > 0 && args[0] == "customers" {
		var settings customers.Settings
		if err := parse("customers", args[1:], env, &settings, stdout); err != nil {
			return err
		}
		return customers.Run(ctx, settings, stdout)
	}
	if len(args) > 0 && args[0] == "token" {
		return printToken(args[1:], stdout)
	}
	var settings sales.Settings
	if err := parse("sales", args, env, &settings, stdout); err != nil {
		return err
	}
	return sales.Run(ctx, settings, stdout)
}

// parse reads what an app is told: no arguments, and its settings.
func parse(app string, args []string, env map[string]string, settings any, stdout io.Writer) error {
	flags := flag.NewFlagSet("sales-feed", flag.ContinueOnError)
	flags.SetOutput(stdout)
	flags.Usage = func() {
		fmt.Fprintf(stdout, usage, app)
		daemon.Help(stdout, settings)
	}
	if err := flags.Parse(args); err != nil {
		return daemon.Usagef("%w", err)
	}
	if flags.NArg() > 0 {
		return daemon.Usagef("sales-feed takes no argument %q; see --help", flags.Arg(0))
	}
	return daemon.Parse(env, settings)
}

func printToken(args []string, stdout io.Writer) error {
	if len(args) != 1 || !web.ReaderName(args[0]) {
		return daemon.Usagef("sales-feed token takes the name of a reader: a letter, then up to 63 letters, digits, dots, dashes and underscores")
	}
	token, hash := web.NewToken()
	_, err := fmt.Fprintf(stdout, "The reader's, and shown this once:\nFEED_TOKEN=%s\nFor the source's list FEED_TOKENS, which is separated by commas:\n%s:%s\n", token, args[0], hash)
	return err
}
