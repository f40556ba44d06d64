package operate

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/edison-cars/data-feeds/shared/daemon"
	"github.com/edison-cars/data-feeds/shared/subscribe"
	"github.com/edison-cars/data-feeds/shared/subscribe/subscribehttp"
	"github.com/edison-cars/data-feeds/shared/web"
)

var (
	poll   = request{method: http.MethodPost, path: "/poll", timeout: pollTimeout}
	pause  = request{method: http.MethodPost, path: "/pause", timeout: changeTimeout}
	resume = request{method: http.MethodPost, path: "/resume", timeout: changeTimeout}
	resync = request{method: http.MethodPost, path: "/resync", timeout: changeTimeout}
)

// change returns a command that sends one request and shows the copy after it.
func (c *commander) change(name, short, long string, r request) *cobra.Command {
	return &cobra.Command{
		Use: name + " SERVICE FEED", Short: short, Long: long, Example: "  subscribers " + name + " warehouse orders",
		Args: arguments(2, "SERVICE FEED"),
		RunE: func(cmd *cobra.Command, args []string) error { return c.send(cmd, args, r) },
	}
}

func (c *commander) send(cmd *cobra.Command, args []string, r request) error {
	cl, err := c.open()
	if err != nil {
		return err
	}
	text, _, err := cl.ask(cmd.Context(), args[0], args[1], r)
	if err != nil {
		return err
	}
	_, err = c.show(cmd, args[0], args[1], text)
	return err
}

// show prints the status of a copy, as a service answered it.
func (c *commander) show(cmd *cobra.Command, service, feed string, text []byte) (s subscribe.Status, err error) {
	if err := json.Unmarshal(text, &s); err != nil || s.Feed != feed {
		return s, errNoService
	}
	if c.json {
		return s, printJSON(cmd.OutOrStdout(), json.RawMessage(text))
	}
	return s, describe(cmd.OutOrStdout(), service, s, time.Now())
}

// forget returns a command that asks until all of a removed source is forgotten.
func (c *commander) forget() *cobra.Command {
	return &cobra.Command{
		Use: "forget SERVICE FEED@SOURCE", Short: "Delete what the copy has of a source that was removed",
		Long: `A feed may have several sources with names. If one is taken out of the settings, its entities stay in the copy until it is forgotten.
They are then deleted, as if the source had deleted them.`,
		Example: "  subscribers forget warehouse orders@us",
		Args:    arguments(2, "SERVICE FEED@SOURCE"),
		RunE: func(cmd *cobra.Command, args []string) error {
			cl, err := c.open()
			if err != nil {
				return err
			}
			s, err := cl.find(args[0])
			if err != nil {
				return err
			}
			r := request{method: http.MethodPost, path: "/subscriptions/" + url.PathEscape(args[1]) + "/forget", timeout: changeTimeout}
			for end := time.Now().Add(pollTimeout); ; {
				text, _, err := cl.do(cmd.Context(), s, r)
				if problem, ok := errors.AsType[*web.Problem](err); ok && problem.Status == http.StatusServiceUnavailable && time.Now().Before(end) {
					select { // each request forgets a part
					case <-cmd.Context().Done():
						return cmd.Context().Err()
					case <-time.After(time.Second):
					}
					continue
				}
				switch {
				case err != nil:
					return fmt.Errorf("%s/%s: %w", args[0], args[1], err)
				case c.json:
					return printJSON(cmd.OutOrStdout(), json.RawMessage(text))
				}
				_, err = fmt.Fprintf(cmd.OutOrStdout(), "%s/%s is forgotten\n", args[0], args[1])
				return err
			}
		},
	}
}

func (c *commander) tune() *cobra.Command {
	var wait string
	var pageSize int
	var reset, dryRun bool
	cmd := &cobra.Command{
		Use:   "tune SERVICE FEED SCHEDULE",
		Short: "Set when and how the feed is polled, and show what that costs",
		Long: `SCHEDULE is a cron expression in UTC, a descriptor such as @hourly, or '@every 30s'. It applies at once, holds for all processes of the
service, and outranks the environment until --reset. A flag that is left out means the environment's setting.

--dry-run compares the settings with those in force: next polls, polls and requests a day, delay with and without waiting, and what was
measured in the last polls.`,
		Example: "  subscribers tune warehouse orders '@every 30s' --wait 25s\n  subscribers tune warehouse orders '*/15 8-18 * * MON-FRI' --dry-run\n  subscribers tune warehouse orders --reset",
		Args:    arguments(2, "SERVICE FEED SCHEDULE"),
		RunE: func(cmd *cobra.Command, args []string) error {
			set := cmd.Flags().Changed
			if reset {
				if len(args) > 2 || set("wait") || set("page-size") {
					return daemon.Usagef("tune: --reset takes no schedule, --wait or --page-size")
				}
				if dryRun {
					return c.preview(cmd, args, url.Values{"reset": {"true"}})
				}
				return c.send(cmd, args, request{method: http.MethodDelete, path: "/schedule", timeout: changeTimeout})
			}
			if len(args) < 3 {
				return daemon.Usagef("tune takes SERVICE FEED SCHEDULE, or SERVICE FEED --reset; see %s --help", cmd.CommandPath())
			}
			if set("wait") && wait == "" { // such as that of a variable that is not set
				return daemon.Usagef("tune: nothing was changed\n--wait: takes whole seconds from 0s to 30s; leave it out for the environment's")
			}
			if dryRun {
				query := url.Values{"schedule": {args[2]}}
				if set("wait") {
					query.Set("wait", wait)
				}
				if set("page-size") {
					query.Set("page_size", strconv.Itoa(pageSize))
				}
				return wrongValues(c.preview(cmd, args, query))
			}
			tuned := subscribe.TuneRequest{Schedule: args[2]}
			if set("wait") {
				tuned.Wait = &wait
			}
			if set("page-size") {
				tuned.PageSize = &pageSize
			}
			return wrongValues(c.send(cmd, args, request{method: http.MethodPut, path: "/schedule", body: tuned, timeout: changeTimeout}))
		},
	}
	cmd.Flags().StringVar(&wait, "wait", "", "how long a request waits at the source for something new: a `DURATION` from 0s to 30s")
	cmd.Flags().IntVar(&pageSize, "page-size", 0, "`entries` to ask for at once, 1 to 1000")
	cmd.Flags().BoolVar(&reset, "reset", false, "return to the environment's settings")
	cmd.Flags().BoolVar(&dryRun, "dry-run", false, "show what the settings would cost and bring, and set nothing")
	return cmd
}

// preview shows what settings would cost and bring.
func (c *commander) preview(cmd *cobra.Command, args []string, query url.Values) error {
	cl, err := c.open()
	if err != nil {
		return err
	}
	text, _, err := cl.ask(cmd.Context(), args[0], args[1], request{method: http.MethodGet, path: "/schedule?" + query.Encode(), timeout: changeTimeout})
	if err != nil {
		return err
	}
	var p subscribehttp.Preview
	if err := json.Unmarshal(text, &p); err != nil || p.Feed != args[1] || p.Proposed.Schedule == "" {
		return errNoService
	}
	if c.json {
		return printJSON(cmd.OutOrStdout(), json.RawMessage(text))
	}
	return describePreview(cmd.OutOrStdout(), args[0], p)
}

// wrongValues returns a usage error with a line for each value that the service refused, or err if it refused none.
func wrongValues(err error) error {
	problem, ok := errors.AsType[*web.Problem](err)
	if !ok || len(problem.Errors) == 0 {
		return err
	}
	lines := []string{"tune: nothing was changed"}
	argument := map[string]string{"schedule": "SCHEDULE", "wait": "--wait", "page_size": "--page-size"}
	for _, wrong := range problem.Errors {
		lines = append(lines, argument[wrong.Field]+": "+wrong.Detail)
	}
	return daemon.Usagef("%s", strings.Join(lines, "\n"))
}
