// Command sales-feed runs the source apps of Edison Cars.
package main

import (
	"context"
	"flag"
	"fmt"
	"io"

	"github.com/edison-cars/data-feeds/sales-feed/sales"
	"github.com/edison-cars/data-feeds/shared/daemon"
	"github.com/edison-cars/data-feeds/shared/web"
)

const usage = `Usage: sales-feed
       sales-feed token NAME

The sales app: sells cars and publishes every order on the feed /feeds/orders. The other form makes a token for a reader
of the feeds, and prints it once.

Settings (environment):
`

func main() { daemon.Main(run) }

func run(ctx context.Context, args []string, env map[string]string, stdout io.Writer) error {
	flags := flag.NewFlagSet("sales-feed", flag.ContinueOnError)
	flags.SetOutput(stdout)
	flags.Usage = func() {
		fmt.Fprint(stdout, usage)
		daemon.Help(stdout, sales.Settings{})
	}
	if err := flags.Parse(args); err != nil {
		return daemon.Usagef("%w", err)
	}
	switch {
	case flags.NArg() == 0:
	case flags.Arg(0) == "token":
		return printToken(flags.Args()[1:], stdout)
	default:
		return daemon.Usagef("sales-feed takes no argument %q; see --help", flags.Arg(0))
	}
	var settings sales.Settings
	if err := daemon.Parse(env, &settings); err != nil {
		return err
	}
	return sales.Run(ctx, settings, stdout)
}

func printToken(args []string, stdout io.Writer) error {
	if len(args) != 1 || !web.ReaderName(args[0]) {
		return daemon.Usagef("sales-feed token takes the name of a reader: a letter, then up to 63 letters, digits, dots, dashes and underscores")
	}
	token, hash := web.NewToken()
	_, err := fmt.Fprintf(stdout, "The reader's, and shown this once:\nFEED_TOKEN=%s\nFor the source's list FEED_TOKENS, which is separated by commas:\n%s:%s\n", token, args[0], hash)
	return err
}
