// Command sales-feed runs the source apps of Edison Cars.
package main

import (
	"context"
	"flag"
	"fmt"
	"io"

	"github.com/edison-cars/data-feeds/sales-feed/sales"
	"github.com/edison-cars/data-feeds/shared/daemon"
)

func main() { daemon.Main(run) }

func run(ctx context.Context, args []string, env map[string]string, stdout io.Writer) error {
	flags := flag.NewFlagSet("sales-feed", flag.ContinueOnError)
	flags.SetOutput(stdout)
	flags.Usage = func() {
		fmt.Fprintln(stdout, "Usage: sales-feed\n\nThe sales app: sells cars and publishes every order on the feed /feeds/orders.\n\nSettings (environment):")
		daemon.Help(stdout, sales.Settings{})
	}
	if err := flags.Parse(args); err != nil {
		return daemon.Usagef("%w", err)
	}
	if flags.NArg() > 0 {
		return daemon.Usagef("sales-feed takes no argument %q; see --help", flags.Arg(0))
	}
	var settings sales.Settings
	if err := daemon.Parse(env, &settings); err != nil {
		return err
	}
	return sales.Run(ctx, settings, stdout)
}
