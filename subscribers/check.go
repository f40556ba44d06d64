package main

import (
	"context"
	"fmt"
	"io"
	"net/url"
	"os/exec"

	"github.com/spf13/cobra"

	"github.com/edison-cars/data-feeds/shared/daemon"
	"github.com/edison-cars/data-feeds/shared/feed/check"
	"github.com/edison-cars/data-feeds/shared/feedclient"
	"github.com/edison-cars/data-feeds/shared/subscribe"
)

// checkCommand checks a source in any language against PROTOCOL.md.
func checkCommand(env map[string]string, stdout io.Writer) *cobra.Command {
	var o check.Options
	var appendWith string
	var plain feedclient.PlainHosts
	cmd := &cobra.Command{
		Use: "check URL", Short: "check a source of a feed against the protocol",
		Long: `check asks a source, in whatever language it is written, for what shared/feed/PROTOCOL.md promises, and prints one line for each
promise (TAP version 14). The URL is the feed's own, such as http://localhost:8080/feeds/orders. FEED_TOKEN is the token of a source
that requires one. Nothing is changed at the source, unless --append is given.

Exit codes: 0 every promise that could be checked holds; 1 one is broken, or there is no source; 2 wrong flags.`,
		Example: `  go run ./subscribers check http://localhost:8080/feeds/orders
  go run ./subscribers check --append 'psql -c "insert into invoice default values"' http://localhost:8080/feeds/invoices`,
		Args: func(_ *cobra.Command, args []string) error {
			if len(args) != 1 {
				return daemon.Usagef("check takes the URL of a feed, such as http://localhost:8080/feeds/orders; see check --help")
			}
			return nil
		},
		RunE: func(cmd *cobra.Command, args []string) error {
			o.Token = env["FEED_TOKEN"]
			if !feedclient.IsToken(o.Token) {
				return daemon.Usagef("FEED_TOKEN takes a token: printable ASCII characters without spaces")
			}
			if err := subscribe.CheckURL(args[0]); err != nil {
				return daemon.Usagef("check %w", err)
			}
			u, err := url.Parse(args[0])
			if err != nil {
				return err
			}
			if err := plain.Check(u, o.Token != "", "--plain-hosts"); err != nil {
				return daemon.Usagef("%w", err)
			}
			if appendWith != "" {
				o.Append = func(ctx context.Context) error {
					out, err := exec.CommandContext(ctx, "/bin/sh", "-c", appendWith).CombinedOutput()
					if err != nil {
						return fmt.Errorf("%w: %s", err, out)
					}
					return nil
				}
			}
			broken, err := check.Run(cmd.Context(), args[0], o, stdout)
			if err == nil && broken > 0 {
				err = fmt.Errorf("promises that are broken: %d", broken)
			}
			return err
		},
	}
	cmd.Flags().StringVar(&appendWith, "append", "", "a shell `command` that makes the source append an entry to the feed; without it, promises about new entries are skipped")
	cmd.Flags().IntVar(&o.MaxEntries, "entries", 100_000, "how many entries of the feed are read at most")
	cmd.Flags().Func("plain-hosts", "`hosts` of a private network to which FEED_TOKEN may be sent without TLS, as to localhost",
		func(s string) error { return plain.UnmarshalText([]byte(s)) })
	return cmd
}

// proveCommand proves a reader in any language.
func proveCommand(stdout io.Writer) *cobra.Command {
	return &cobra.Command{
		Use: "prove -- COMMAND", Short: "prove a reader of feeds against a source that misbehaves",
		Long: `prove runs a reader, in whatever language it is written, against a source that misbehaves in many ways, is restored, and erases. It
compares the reader's copy with what the source has, and prints one line for each test (TAP version 14).

The command has to copy the feed until its copy is up to date, keep the copy in a file, and write it to stdout: one line of JSON for each
entity, with id, version and entity. If it cannot copy the feed, it has to end with another exit code than 0. In its arguments, URL
stands for the URL of the feed, and DIR for a folder that is the same for all runs of one test.

Exit codes: 0 the reader passes; 1 it fails; 2 wrong flags.`,
		Example: `  go run ./subscribers prove -- python3 shared/feed/readers/reader.py URL DIR/copy.db`,
		Args: func(_ *cobra.Command, args []string) error {
			if len(args) == 0 {
				return daemon.Usagef("prove takes the command of a reader after --; see prove --help")
			}
			if _, err := exec.LookPath(args[0]); err != nil {
				return daemon.Usagef("prove cannot run the reader: %w", err)
			}
			return nil
		},
		RunE: func(cmd *cobra.Command, args []string) error {
			failed, err := check.Prove(cmd.Context(), args, stdout)
			if err == nil && failed > 0 {
				err = fmt.Errorf("tests that the reader fails: %d", failed)
			}
			return err
		},
	}
}
