// Command subscribers runs one of the services that copy the feeds of Edison Cars, operates them, or follows a feed in
// the terminal.
package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"text/tabwriter"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/edison-cars/data-feeds/shared/daemon"
	"github.com/edison-cars/data-feeds/shared/directory"
	"github.com/edison-cars/data-feeds/shared/service/subscriber"
	"github.com/edison-cars/data-feeds/subscribers/copier"
	"github.com/edison-cars/data-feeds/subscribers/follow"
	"github.com/edison-cars/data-feeds/subscribers/operate"
	"github.com/edison-cars/data-feeds/subscribers/scaffold"
	"github.com/edison-cars/data-feeds/subscribers/services"
)

func main() { daemon.Main(run) }

func run(ctx context.Context, args []string, env map[string]string, stdout io.Writer) error {
	root := command(env, stdout)
	root.SetArgs(append([]string{}, args...)) // nil would mean those of the process
	return root.ExecuteContext(ctx)
}

// command returns the command line: a command for each service, follow, and those of operators.
func command(env map[string]string, stdout io.Writer) *cobra.Command {
	root := &cobra.Command{
		Use: "subscribers", Version: daemon.Version(), SilenceErrors: true, SilenceUsage: true,
		CompletionOptions: cobra.CompletionOptions{DisableDefaultCmd: true},
	}
	root.Args = func(_ *cobra.Command, args []string) error {
		if len(args) == 0 {
			return nil
		}
		var names []string
		for _, c := range root.Commands() {
			names = append(names, c.Name())
		}
		return daemon.Usagef("there is no service or command %q%s", args[0], cmp.Or(daemon.DidYouMean(args[0], names), "; without a name, subscribers lists them"))
	}
	root.SetOut(stdout)
	root.SetVersionTemplate("subscribers {{.Version}}\n")
	root.SetFlagErrorFunc(func(cmd *cobra.Command, err error) error {
		hint := ""
		if unknown, ok := errors.AsType[*pflag.NotExistError](err); ok {
			var flags []string
			cmd.Flags().VisitAll(func(f *pflag.Flag) { flags = append(flags, "--"+f.Name) })
			hint = daemon.DidYouMean("--"+unknown.GetSpecifiedName(), flags)
		}
		return daemon.Usagef("%w%s", err, cmp.Or(hint, "; see "+cmd.CommandPath()+" --help"))
	})
	here := operate.Defaults{Optional: []string{"relay", copier.Name}} // which run beside a broker, and a feed of any kind
	var addresses []string
	for _, s := range services.All() {
		root.AddCommand(serviceCommand(s, env, stdout))
		addresses = append(addresses, s.Addr)
		here.Services = append(here.Services, directory.Service{Name: s.Name, URL: "http://" + s.Addr, Text: s.Text})
	}
	here.Services = append(here.Services, directory.Service{Name: copier.Name, URL: "http://" + copier.Addr, Text: "keeps copies of any feeds"})
	operators := operate.Commands(env, here)
	root.AddCommand(operators...)
	root.AddCommand(completion(stdout), checkCommand(env, stdout), proveCommand(stdout))
	root.AddCommand(copier.Command(env, stdout, services.All()), scaffold.Command(env, addresses), &cobra.Command{
		Use: "follow URL", Short: "print the entries of any feed as they arrive", DisableFlagParsing: true,
		RunE: func(cmd *cobra.Command, args []string) error {
			return follow.Run(cmd.Context(), args, env, stdout, os.Stderr)
		},
	})
	root.RunE = func(*cobra.Command, []string) error { return list(operators, stdout) }
	help := root.HelpFunc()
	root.SetHelpFunc(func(cmd *cobra.Command, args []string) {
		if cmd.HasParent() {
			help(cmd, args)
			return
		}
		_ = list(operators, stdout)
	})
	return root
}

func serviceCommand(s *subscriber.Service, env map[string]string, stdout io.Writer) *cobra.Command {
	cmd := &cobra.Command{
		Use: s.Name, Short: s.Text, ValidArgsFunction: cobra.NoFileCompletions,
		Args: func(_ *cobra.Command, args []string) error {
			if len(args) > 0 {
				return daemon.Usagef("%s takes no argument %q; see --help", s.Name, args[0])
			}
			return nil
		},
		RunE: func(cmd *cobra.Command, _ []string) error {
			s.WarnMisspelled(cmd.Context(), env, stdout, services.All()...)
			return s.Run(cmd.Context(), env, stdout)
		},
	}
	cmd.SetHelpFunc(func(*cobra.Command, []string) { s.Help(stdout) })
	return cmd
}

func completion(stdout io.Writer) *cobra.Command {
	shells := []string{"bash", "zsh", "fish"}
	return &cobra.Command{
		Use: "completion bash|zsh|fish", Short: "Print the completion of a shell", ValidArgs: shells,
		Long: `It completes commands, services, feeds and the ids of rejected entries of a program called subscribers, as "go install ./subscribers"
makes it. That of bash needs the package bash-completion.`,
		Example: `  source <(subscribers completion bash)                                        # now; in ~/.bashrc: always
  subscribers completion zsh > "${fpath[1]}/_subscribers"
  subscribers completion fish > ~/.config/fish/completions/subscribers.fish`,
		Args: func(_ *cobra.Command, args []string) error {
			if len(args) != 1 || !slices.Contains(shells, args[0]) {
				return daemon.Usagef("completion takes bash, zsh or fish")
			}
			return nil
		},
		RunE: func(cmd *cobra.Command, args []string) error {
			switch root := cmd.Root(); args[0] {
			case "zsh":
				return root.GenZshCompletion(stdout)
			case "fish":
				return root.GenFishCompletion(stdout, true)
			default:
				return root.GenBashCompletionV2(stdout, true)
			}
		},
	}
}

func list(operators []*cobra.Command, w io.Writer) error {
	tw := tabwriter.NewWriter(w, 0, 0, 3, ' ', 0)
	fmt.Fprintln(tw, "SERVICE\tADDRESS\tREADS\tWHAT IT DOES")
	for _, s := range services.All() {
		var feeds []string
		for _, f := range s.Feeds {
			feeds = append(feeds, f.Name)
		}
		fmt.Fprintf(tw, "%s\t%s\t%s\t%s\n", s.Name, s.Addr, strings.Join(feeds, ","), s.Text)
	}
	fmt.Fprintln(tw, "\nRun one by its name; NAME --help lists its settings.\n\nCommands to operate running ones:")
	for _, c := range operators {
		fmt.Fprintf(tw, "  %s\t%s\n", c.Use, c.Short)
	}
	fmt.Fprintln(tw, "\nnew NAME --feed URL writes a new service. copy keeps copies of any feeds in tables, without code. follow URL prints the entries of any feed as they arrive. check URL checks its source against the protocol,\n"+
		"prove -- COMMAND a reader. completion is that of a shell, --version the version. COMMAND --help says more.")
	return tw.Flush()
}
