package operate

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"sync"
	"time"

	"github.com/spf13/cobra"

	"github.com/edison-cars/data-feeds/shared/daemon"
	"github.com/edison-cars/data-feeds/shared/directory"
	"github.com/edison-cars/data-feeds/shared/subscribe"
	"github.com/edison-cars/data-feeds/shared/web"
)

// The statuses of a service.
const (
	up       = "up"
	notReady = "not ready" // it answers, but cannot serve: usually its database is down
	refused  = "refused"   // it requires a token, or another one
	down     = "down"
)

// A report is what a service answered. It is what status prints as JSON.
type report struct {
	Service       string          `json:"service"`
	URL           string          `json:"url"` // without user and password
	Status        string          `json:"status"`
	Detail        string          `json:"detail,omitempty"` // why it is not up
	Subscriptions json.RawMessage `json:"subscriptions"`    // as the service lists them

	copies []subscribe.Status
}

func (c *commander) status() *cobra.Command {
	return &cobra.Command{
		Use:   "status [SERVICE [FEED]]",
		Short: "Show how services and their copies are, trouble first",
		Long: `Without arguments it asks all services at once. A service that is down is a row. With FEED it shows all of one copy, such as the cost
of its schedule and the next polls.

AGE is for how long the copy may have missed something, LAG the entries that the source has beyond it, and NEXT the time to the next poll.`,
		Example: "  subscribers status\n  subscribers status warehouse\n  subscribers status warehouse orders --json | jq .cost",
		Args:    arguments(0, "[SERVICE [FEED]]"),
		RunE: func(cmd *cobra.Command, args []string) error {
			cl, err := c.open()
			if err != nil {
				return err
			}
			if len(args) == 2 {
				return c.one(cmd, cl, args[0], args[1])
			}
			services := cl.services
			if len(args) == 1 {
				s, err := cl.find(args[0])
				if err != nil {
					return err
				}
				services = directory.Services{s}
			}
			reports := cl.reports(cmd.Context(), services)
			if len(args) == 0 {
				reports = slices.DeleteFunc(reports, func(r report) bool { return r.Status == down && slices.Contains(cl.optional, r.Service) })
			}
			rows := rowsOf(reports, time.Now())
			if c.json {
				err = printJSON(cmd.OutOrStdout(), reports)
			} else {
				err = printRows(cmd.OutOrStdout(), rows)
			}
			return attention(err, rows)
		},
	}
}

// one shows one copy.
func (c *commander) one(cmd *cobra.Command, cl *client, service, feed string) error {
	text, _, err := cl.ask(cmd.Context(), service, feed, request{method: http.MethodGet, timeout: readTimeout})
	if err != nil {
		return err
	}
	s, err := c.show(cmd, service, feed, text)
	if err != nil {
		return err
	}
	return attention(nil, rowsOf([]report{{Service: service, Status: up, copies: []subscribe.Status{s}}}, time.Now()))
}

// attention returns err, or an error with the exit code [Attention] if a row needs it.
func attention(err error, rows []row) error {
	n := 0
	for _, r := range rows {
		if r.rank < calm {
			n++
		}
	}
	if err != nil || n == 0 {
		return err
	}
	return daemon.ExitWith(Attention, fmt.Errorf("%d of %s need attention", n, plural(len(rows), "row", "rows")))
}

// reports asks all services at the same time.
func (cl *client) reports(ctx context.Context, services directory.Services) []report {
	reports := make([]report, len(services))
	var all sync.WaitGroup
	for i, s := range services {
		all.Go(func() { reports[i] = cl.report(ctx, s) })
	}
	all.Wait()
	return reports
}

func (cl *client) report(ctx context.Context, s directory.Service) report {
	r := report{Service: s.Name, URL: s.URL, Status: up, Subscriptions: json.RawMessage("[]")}
	if u, err := url.Parse(s.URL); err == nil {
		u.User = nil
		r.URL = u.String()
	}
	var ready error
	var both sync.WaitGroup
	both.Go(func() {
		_, _, ready = cl.do(ctx, s, request{method: http.MethodGet, path: "/readyz", timeout: readTimeout})
	})
	text, copies, err := cl.subscriptions(ctx, s)
	both.Wait()
	if copies != nil {
		r.Subscriptions, r.copies = text, copies
	}
	problem, answers := errors.AsType[*web.Problem](err)
	unready, _ := errors.AsType[*web.Problem](ready)
	switch {
	case answers && (problem.Status == http.StatusUnauthorized || problem.Status == http.StatusForbidden):
		r.Status, r.Detail = refused, problem.Error()
	case answers:
		r.Status, r.Detail = notReady, problem.Error()
	case err != nil:
		r.Status, r.Detail = down, err.Error()
	case unready != nil:
		r.Status, r.Detail = notReady, unready.Error()
		if unready.Detail != "" {
			r.Detail = unready.Detail
		}
	}
	return r
}
