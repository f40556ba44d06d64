// Command subscribers runs one of the services that copy the feeds of Edison Cars, or follows a feed in the terminal.
package main

import (
	"context"
	"flag"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"text/tabwriter"

	"github.com/edison-cars/data-feeds/shared/daemon"
	"github.com/edison-cars/data-feeds/shared/service"
	"github.com/edison-cars/data-feeds/shared/subscribe"
	"github.com/edison-cars/data-feeds/subscribers/assembly"
	"github.com/edison-cars/data-feeds/subscribers/billing"
	"github.com/edison-cars/data-feeds/subscribers/dashboard"
	"github.com/edison-cars/data-feeds/subscribers/follow"
	"github.com/edison-cars/data-feeds/subscribers/mailer"
	"github.com/edison-cars/data-feeds/subscribers/relay"
	"github.com/edison-cars/data-feeds/subscribers/shipping"
	"github.com/edison-cars/data-feeds/subscribers/warehouse"
)

// services lists all services. A new one is added here.
func services() []*subscribe.Service {
	return []*subscribe.Service{
		warehouse.Service(),
		assembly.Service(),
		dashboard.Service,
		billing.Service,
		shipping.Service(),
		mailer.Service(),
		relay.Service(),
	}
}

func main() { daemon.Main(run) }

func run(ctx context.Context, args []string, env map[string]string, stdout io.Writer) error {
	if len(args) == 0 {
		return list(stdout)
	}
	name, rest := args[0], args[1:]
	if strings.HasPrefix(name, "-") { // --help before a name
		_ = list(stdout)
		if name == "-h" || name == "-help" || name == "--help" {
			return flag.ErrHelp
		}
		return daemon.Usagef("there is no flag %s", name)
	}
	if name == "follow" {
		return follow.Run(ctx, rest, env, stdout, os.Stderr)
	}
	services := services()
	i := slices.IndexFunc(services, func(s *subscribe.Service) bool { return s.Name == name })
	if i < 0 {
		return daemon.Usagef("there is no service %q; without a name, subscribers lists them", name)
	}
	if err := service.Arguments(name, rest, stdout, func() { services[i].Help(stdout) }); err != nil {
		return err
	}
	return services[i].Run(ctx, env, stdout)
}

func list(w io.Writer) error {
	tw := tabwriter.NewWriter(w, 0, 0, 3, ' ', 0)
	fmt.Fprintln(tw, "SERVICE\tADDRESS\tREADS\tWHAT IT DOES")
	for _, s := range services() {
		var feeds []string
		for _, f := range s.Feeds {
			feeds = append(feeds, f.Name)
		}
		fmt.Fprintf(tw, "%s\t%s\t%s\t%s\n", s.Name, s.Addr, strings.Join(feeds, ","), s.Text)
	}
	fmt.Fprintln(tw, "\nRun one by its name; NAME --help lists its settings.")
	fmt.Fprintln(tw, "follow URL prints the entries of any feed as they arrive; see follow --help.")
	return tw.Flush()
}
