package operate

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/google/uuid"
	"github.com/spf13/cobra"

	"github.com/edison-cars/data-feeds/shared/daemon"
	"github.com/edison-cars/data-feeds/shared/subscribe"
)

func (c *commander) rejected() *cobra.Command {
	return &cobra.Command{
		Use:   "rejected SERVICE FEED [retry [ID] | drop ID]",
		Short: "List the entries that could not be applied, apply them again, or drop one",
		Long: `Without more it lists the rejected entries, with the entity of each in --json. retry applies all of them again, or the one of the entity
ID, and fails if one is refused again. drop forgets the one of the entity ID; its next version is applied.`,
		Example: "  subscribers rejected warehouse orders\n  subscribers rejected warehouse orders retry\n  subscribers rejected warehouse orders drop 01a20846-44a9-7e64-b2ad-57974371e065",
		Args:    rejectedArguments,
		ValidArgsFunction: func(cmd *cobra.Command, args []string, word string) ([]string, cobra.ShellCompDirective) {
			switch len(args) {
			case 2:
				return []string{"retry", "drop"}, cobra.ShellCompDirectiveNoFileComp
			case 3:
				return c.rejectedIDs(cmd.Context(), args), cobra.ShellCompDirectiveNoFileComp
			}
			return c.complete(cmd, args, word)
		},
		RunE: func(cmd *cobra.Command, args []string) error {
			cl, err := c.open()
			switch {
			case err != nil:
				return err
			case len(args) == 2:
				return c.list(cmd, cl, args)
			case args[2] == "drop":
				return c.drop(cmd, cl, args)
			}
			return c.retry(cmd, cl, args)
		},
	}
}

func rejectedArguments(cmd *cobra.Command, args []string) error {
	if err := arguments(2, "SERVICE FEED [retry|drop] [ID]")(cmd, args); err != nil || len(args) == 2 {
		return err
	}
	verbs := []string{"retry", "drop"}
	switch {
	case args[2] != "retry" && args[2] != "drop":
		return daemon.Usagef("rejected takes retry or drop, not %q%s", args[2], daemon.DidYouMean(args[2], verbs))
	case args[2] == "drop" && len(args) == 3:
		return daemon.Usagef("drop takes the ID of an entity, as rejected lists it")
	}
	if len(args) == 4 {
		if _, err := uuid.Parse(args[3]); err != nil {
			return daemon.Usagef("%q is not the ID of an entity, such as 01a20846-44a9-7e64-b2ad-57974371e065", args[3])
		}
	}
	return nil
}

// entries returns all rejected entries: as the service answered them, and parsed.
func (cl *client) entries(ctx context.Context, args []string) (texts []json.RawMessage, list []subscribe.RejectedEntry, err error) {
	for query := ""; ; {
		text, header, err := cl.ask(ctx, args[0], args[1], request{method: http.MethodGet, path: "/rejected" + query, timeout: changeTimeout})
		if err != nil {
			return nil, nil, err
		}
		var pageTexts []json.RawMessage
		var page []subscribe.RejectedEntry
		if json.Unmarshal(text, &pageTexts) != nil || json.Unmarshal(text, &page) != nil || page == nil {
			return nil, nil, errNoService
		}
		for i, e := range page {
			if e.EntityID == uuid.Nil || i == 0 && len(list) > 0 && !isBefore(list[len(list)-1], e) { // else it may have no end
				return nil, nil, errNoService
			}
		}
		texts, list = append(texts, pageTexts...), append(list, page...)
		next, _, more := strings.Cut(strings.TrimPrefix(header.Get("Link"), "<"), ">")
		if !more || len(page) == 0 {
			return texts, list, nil
		}
		u, err := url.Parse(next)
		if err != nil {
			return nil, nil, errNoService
		}
		query = "?" + u.RawQuery
	}
}

// isBefore reports whether a comes before b in the list of a service.
func isBefore(a, b subscribe.RejectedEntry) bool {
	return cmp.Or(cmp.Compare(a.Position, b.Position), bytes.Compare(a.EntityID[:], b.EntityID[:])) < 0
}

func (c *commander) rejectedIDs(ctx context.Context, args []string) (ids []string) {
	cl, err := c.open()
	if err != nil {
		return nil
	}
	_, list, _ := cl.entries(ctx, args)
	for _, e := range list {
		ids = append(ids, e.EntityID.String())
	}
	return ids
}

func (c *commander) list(cmd *cobra.Command, cl *client, args []string) error {
	texts, list, err := cl.entries(cmd.Context(), args)
	switch {
	case err != nil:
		return err
	case c.json:
		return printJSON(cmd.OutOrStdout(), append([]json.RawMessage{}, texts...))
	case len(list) == 0:
		_, err := fmt.Fprintf(cmd.OutOrStdout(), "%s/%s has no rejected entries.\n", args[0], args[1])
		return err
	}
	table := [][]string{{"ID", "VERSION", "POSITION", "REJECTED", "ATTEMPTS", "REASON"}}
	for _, e := range list {
		table = append(table, []string{
			e.EntityID.String(), strconv.FormatInt(e.Version, 10), strconv.FormatInt(e.Position, 10), ageOf(&e.RejectedAt, time.Now()) + " ago", strconv.Itoa(e.Attempts), e.Reason,
		})
	}
	return printTable(cmd.OutOrStdout(), table)
}

func (c *commander) retry(cmd *cobra.Command, cl *client, args []string) error {
	path := "/rejected/retry"
	if len(args) == 4 {
		path = "/rejected/" + args[3] + "/retry"
	}
	text, _, err := cl.ask(cmd.Context(), args[0], args[1], request{method: http.MethodPost, path: path, timeout: pollTimeout})
	if err != nil {
		return err
	}
	var did *struct{ Applied, Rejected int }
	if json.Unmarshal(text, &did) != nil || did == nil {
		return errNoService
	}
	if c.json {
		err = printJSON(cmd.OutOrStdout(), json.RawMessage(text))
	} else {
		_, err = fmt.Fprintln(cmd.OutOrStdout(), plural(did.Applied, "entry", "entries")+" applied")
	}
	if err == nil && did.Rejected > 0 {
		err = fmt.Errorf("%s/%s: %s refused again", args[0], args[1], plural(did.Rejected, "entry", "entries"))
	}
	return err
}

func (c *commander) drop(cmd *cobra.Command, cl *client, args []string) error {
	_, _, err := cl.ask(cmd.Context(), args[0], args[1], request{method: http.MethodPost, path: "/rejected/" + args[3] + "/drop", timeout: changeTimeout})
	switch {
	case err != nil:
		return err
	case c.json:
		return printJSON(cmd.OutOrStdout(), map[string]string{"dropped": args[3]})
	}
	_, err = fmt.Fprintf(cmd.OutOrStdout(), "%s dropped; its next version is applied\n", args[3])
	return err
}
