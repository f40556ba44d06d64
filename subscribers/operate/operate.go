// Package operate is the command line of operators: it shows and changes the subscriptions of the company's services by
// their JSON at /subscriptions.
package operate

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/edison-cars/data-feeds/shared/daemon"
	"github.com/edison-cars/data-feeds/shared/directory"
	"github.com/edison-cars/data-feeds/shared/feedclient"
)

// Attention is the exit code of status if a service or a copy needs attention.
const Attention = 3

const exitCodes = `
Exit codes: 0 done; 1 the service refused, failed or did not answer; 2 wrong arguments or settings; 3 (status) a service is down,
not ready or refuses, or a copy is stale or diverged, its polls fail, or it has rejected entries.
`

type settings struct {
	Services   directory.Services    `env:"SERVICES" help:"services to ask, as the map takes them: warehouse=http://localhost:8090,shipping=https://ada:TOKEN@cars.example; by default the subscribers on this machine"`
	FeedToken  string                `env:"FEED_TOKEN" help:"token that the services know it by: a reader's for status, an operator's for all else; a service whose URL has a password is asked by that"`
	PlainHosts feedclient.PlainHosts `env:"PLAIN_HOSTS" help:"hosts of a private network, warehouse,shipping, to which FEED_TOKEN and passwords may be sent without TLS, as they may to localhost"`
}

// Defaults are the services that are asked unless SERVICES is set.
type Defaults struct {
	Services directory.Services
	Optional []string // names of those that may not run: left out of the overview while they are down
}

// A commander makes the commands.
type commander struct {
	env      map[string]string
	defaults Defaults
	json     bool
}

// Commands returns the commands status, poll, pause, resume, tune, resync, forget and rejected.
func Commands(env map[string]string, defaults Defaults) []*cobra.Command {
	c := &commander{env: env, defaults: defaults}
	all := []*cobra.Command{
		c.status(),
		c.change("poll", "Poll the feed now, and wait for the end of the poll", "It polls a paused subscription, too.", poll),
		c.change("pause", "Stop polling the feed", "The copy goes on serving. The pause holds for all processes of the service, also after a restart, until resume.", pause),
		c.change("resume", "Poll the feed again", "It ends a pause.", resume),
		c.tune(),
		c.change("resync", "Read the feed again from its first entry", "The copy goes on serving while it is read. status shows how far it is.", resync),
		c.forget(),
		c.rejected(),
	}
	for _, cmd := range all {
		c.finish(cmd)
	}
	return all
}

// finish adds what all commands have.
func (c *commander) finish(cmd *cobra.Command) {
	cmd.Flags().BoolVar(&c.json, "json", false, "print JSON, for scripts")
	if cmd.ValidArgsFunction == nil {
		cmd.ValidArgsFunction = c.complete
	}
	var help strings.Builder
	daemon.Help(&help, settings{})
	cmd.SetHelpTemplate("{{.Short}}.\n{{with .Long}}\n{{.}}\n{{end}}\n{{.UsageString}}\nSettings (environment):\n" + help.String() + exitCodes)
}

// open reads the settings.
func (c *commander) open() (*client, error) {
	var set settings
	wrong := []error{daemon.Parse(c.env, &set)}
	if !feedclient.IsToken(set.FeedToken) {
		wrong = append(wrong, daemon.Usagef("FEED_TOKEN takes a token: printable ASCII characters without spaces"))
	}
	if err := set.Services.Check(set.FeedToken, set.PlainHosts); err != nil {
		wrong = append(wrong, daemon.Usagef("SERVICES: %w", err))
	}
	if err := errors.Join(wrong...); err != nil {
		return nil, err
	}
	cl := &client{services: set.Services, token: set.FeedToken}
	if cl.services == nil {
		cl.services, cl.optional = c.defaults.Services, c.defaults.Optional
	}
	return cl, nil
}

// arguments returns a check of the arguments that words name, such as "SERVICE FEED [ID]", at most as many as there are
// words.
func arguments(least int, words string) cobra.PositionalArgs {
	return func(cmd *cobra.Command, args []string) error {
		most := len(strings.Fields(words))
		switch {
		case len(args) < least:
			return daemon.Usagef("%s takes %s; see %s --help", cmd.Name(), words, cmd.CommandPath())
		case len(args) > most:
			return daemon.Usagef("%s takes %s, not also %q; see %s --help", cmd.Name(), words, args[most], cmd.CommandPath())
		}
		return nil
	}
}

// complete completes SERVICE and FEED.
func (c *commander) complete(cmd *cobra.Command, args []string, _ string) ([]string, cobra.ShellCompDirective) {
	const noFiles = cobra.ShellCompDirectiveNoFileComp
	cl, err := c.open()
	switch {
	case err != nil:
		return nil, noFiles
	case len(args) == 0:
		return cl.names(), noFiles
	case len(args) == 1:
		return cl.feeds(cmd.Context(), args[0]), noFiles
	}
	return nil, noFiles
}

// printJSON prints an answer of a service, or a value.
func printJSON(w io.Writer, answer any) error {
	encoder := json.NewEncoder(w)
	encoder.SetEscapeHTML(false)
	encoder.SetIndent("", "  ")
	return encoder.Encode(answer)
}

// names lists the services.
func (cl *client) names() []string {
	var names []string
	for _, s := range cl.services {
		names = append(names, s.Name)
	}
	return names
}

// find returns the named service.
func (cl *client) find(name string) (directory.Service, error) {
	i := slices.IndexFunc(cl.services, func(s directory.Service) bool { return s.Name == name })
	if i < 0 {
		hint := cmp.Or(daemon.DidYouMean(name, cl.names()), "; there are "+strings.Join(cl.names(), ", "))
		return directory.Service{}, daemon.Usagef("there is no service %q%s", name, hint)
	}
	return cl.services[i], nil
}

// feeds lists the feeds that the named service copies, or returns nil if it does not answer.
func (cl *client) feeds(ctx context.Context, service string) (names []string) {
	s, err := cl.find(service)
	if err != nil {
		return nil
	}
	_, copies, _ := cl.subscriptions(ctx, s)
	for _, c := range copies {
		names = append(names, plain(c.Feed))
	}
	return names
}

func plural(n int, one, many string) string {
	if n == 1 {
		return "1 " + one
	}
	return fmt.Sprint(n, " ", many)
}
