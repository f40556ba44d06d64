// Package scaffold writes a new subscriber: a service that keeps a copy of a feed and lists it.
package scaffold

import (
	"bytes"
	"context"
	"embed"
	"errors"
	"fmt"
	"go/format"
	"io"
	"net"
	"net/url"
	"path"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"text/template"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"
	"github.com/spf13/cobra"

	"github.com/edison-cars/data-feeds/shared/daemon"
	"github.com/edison-cars/data-feeds/shared/feed"
	"github.com/edison-cars/data-feeds/shared/feedclient"
	"github.com/edison-cars/data-feeds/shared/subscribe"
)

type settings struct {
	FeedToken  string                `env:"FEED_TOKEN" help:"token for the source, if it requires one; it is not written anywhere"`
	PlainHosts feedclient.PlainHosts `env:"PLAIN_HOSTS" help:"hosts of a private network to which FEED_TOKEN may be sent without TLS, as to localhost"`
}

// Command returns the command new. The addresses are those that the services of the list have by default.
func Command(env map[string]string, addresses []string) *cobra.Command {
	var feedURL string
	cmd := &cobra.Command{
		Use: "new NAME --feed URL", Short: "Write a new service that keeps a copy of a feed",
		Long: `It asks the feed for its newest entries, and takes a column from each member that they have, of the type that the values
suggest. It writes subscribers/NAME with the service, its page and a test, and sql/NAME with the table, and adds the
service to the list in subscribers/services. It overwrites nothing. The service runs as it is; all of it is yours to change.`,
		Example:           "  subscribers new loyalty --feed http://localhost:8080/feeds/orders",
		ValidArgsFunction: cobra.NoFileCompletions,
		Args: func(_ *cobra.Command, args []string) error {
			if len(args) != 1 || feedURL == "" {
				return daemon.Usagef("new takes the NAME of a service and --feed URL; see new --help")
			}
			return nil
		},
		RunE: func(cmd *cobra.Command, args []string) error {
			var commands []string
			for _, c := range cmd.Root().Commands() {
				commands = append(commands, c.Name())
			}
			return run(cmd.Context(), args[0], feedURL, addresses, commands, env, cmd.OutOrStdout())
		},
	}
	cmd.Flags().StringVar(&feedURL, "feed", "", "URL of the feed, such as http://localhost:8080/feeds/orders")
	var help strings.Builder
	daemon.Help(&help, settings{})
	cmd.SetHelpTemplate("{{.Short}}.\n\n{{.Long}}\n\n{{.UsageString}}\nSettings (environment):\n" + help.String())
	return cmd
}

// A service is what the templates write.
type service struct {
	Module, Name, Title, Text, Addr string
	Feed, URL                       string
	Table                           name
	Columns                         []column
}

// Uses reports whether the Go types of the columns need a package.
func (s *service) Uses(pkg string) bool {
	return slices.ContainsFunc(s.Columns, func(c column) bool { return strings.Contains(c.GoType(), pkg+".") })
}

// shown is how many columns the page's table has besides the id, so that it fits into a window.
const shown = 3

// Shown returns the first columns that are no JSON.
func (s *service) Shown() (some []column) {
	for _, c := range s.Columns {
		if c.Type != "jsonb" && len(some) < shown {
			some = append(some, c)
		}
	}
	return some
}

// Rest returns the other columns, which a row shows when it is opened.
func (s *service) Rest() []column {
	first := s.Shown()
	return slices.DeleteFunc(slices.Clone(s.Columns), func(c column) bool { return slices.Contains(first, c) })
}

// Example returns an entity as JSON, with invented values: what the feed has may be personal.
func (s *service) Example() string {
	var members []string
	for _, c := range s.Columns {
		members = append(members, fmt.Sprintf("%q: %s", c.name, c.example()))
	}
	return "{" + strings.Join(members, ", ") + "}"
}

func run(ctx context.Context, name, feedURL string, addresses, commands []string, env map[string]string, out io.Writer) error {
	var set settings
	wrong := []error{daemon.Parse(env, &set)}
	if !feedclient.IsToken(set.FeedToken) {
		wrong = append(wrong, daemon.Usagef("FEED_TOKEN takes a token: printable ASCII characters without spaces"))
	}
	feedURL = strings.TrimSuffix(feedURL, "/")
	address, err := parseFeed(feedURL)
	if err == nil {
		err = set.PlainHosts.Check(address, set.FeedToken != "", "PLAIN_HOSTS")
	}
	if err != nil {
		wrong = append(wrong, daemon.Usagef("--feed: %w", err))
	}
	module, err := openModule()
	if err == nil {
		err = module.checkName(name, commands)
	}
	if err := errors.Join(append(wrong, err)...); err != nil {
		return err
	}
	entities, err := newest(ctx, feedURL, set.FeedToken)
	if err != nil {
		return fmt.Errorf("--feed %s: %w", feedclient.ShownURL(address), err)
	}
	columns, left, err := columnsOf(entities)
	if err != nil {
		return fmt.Errorf("--feed %s: %w", feedclient.ShownURL(address), err)
	}
	public := *address
	public.User = nil // a secret
	s := &service{
		Module: module.path, Name: name, Title: strings.ToUpper(name[:1]) + name[1:], Addr: freeAddr(addresses),
		Feed: path.Base(address.Path), URL: public.String(), Table: tableOf(path.Base(address.Path)), Columns: columns,
	}
	s.Text = "keeps a copy of " + s.Feed
	wrote, err := module.write(s)
	if err != nil {
		return err
	}
	for _, file := range wrote {
		fmt.Fprintln(out, "wrote", file)
	}
	fmt.Fprintf(out, "\nThe table %s has %d columns, of the types of the newest %d entries: check sql/%s before the service has run.\n", s.Table, len(columns), len(entities), name)
	if len(left) > 0 {
		fmt.Fprintf(out, "Left out are members whose names are none of a column: %q.\n", left)
	}
	fmt.Fprintf(out, "\nTest it, run it beside its source, and see its page at http://localhost:%s; up starts it with all others:\n\n  go test ./subscribers/%s\n  %s\n",
		s.Addr[strings.LastIndexByte(s.Addr, ':')+1:], name, s.commandLine(address, set))
	return nil
}

// commandLine returns the command that runs the service, with the variables that it needs.
func (s *service) commandLine(at *url.URL, set settings) string {
	line := "ACCESS=open "
	if len(set.PlainHosts) > 0 {
		line += "PLAIN_HOSTS=" + strings.Join(set.PlainHosts, ",") + " "
	}
	if set.FeedToken != "" {
		line += `FEED_TOKEN="${FEED_TOKEN:?}" `
	}
	if at.User != nil {
		line += "FEED_URL_" + strings.ToUpper(strings.ReplaceAll(s.Feed, "-", "_")) + "=" + feedclient.ShownURL(at) + " "
	}
	return line + "go run ./subscribers " + s.Name
}

var feedName = regexp.MustCompile(`^[a-z][a-z0-9_-]{0,50}$`)

func parseFeed(text string) (*url.URL, error) {
	if err := subscribe.CheckURL(text); err != nil {
		return nil, err
	}
	u, err := url.Parse(text)
	if err == nil && !feedName.MatchString(path.Base(u.Path)) {
		err = fmt.Errorf("the last part of %s is not the name of a feed, such as orders", feedclient.ShownURL(u))
	}
	return u, err
}

// newest returns the entities of the feed's newest entries.
func newest(ctx context.Context, feedURL, token string) ([]jsontext.Value, error) {
	var entities []jsontext.Value
	format := feedclient.JSON
	format.Head = func(body []byte) (feed.Cursor, error) {
		head, err := feed.ParseHead(body)
		if err != nil {
			return head, err
		}
		var page struct {
			Items []struct {
				Datafeed struct {
					Entity jsontext.Value `json:"entity"`
				} `json:"_datafeed"`
			} `json:"items"`
		}
		if err := json.Unmarshal(body, &page, jsontext.AllowDuplicateNames(true), jsontext.AllowInvalidUTF8(true)); err != nil {
			return head, fmt.Errorf("%w: %w", feed.ErrPage, err)
		}
		for _, item := range page.Items {
			if item.Datafeed.Entity.Kind() == '{' {
				entities = append(entities, bytes.Clone(item.Datafeed.Entity))
			}
		}
		return head, nil
	}
	client := feedclient.NewOf(token, format)
	defer client.Close()
	if _, err := client.Head(ctx, feedURL); err != nil {
		return nil, err
	}
	if len(entities) == 0 {
		return nil, errors.New("the feed has no entry yet to take columns from: publish one first")
	}
	return entities, nil
}

// freeAddr returns the address after those of the services.
func freeAddr(addresses []string) string {
	next := 8090
	for _, addr := range addresses {
		_, port, _ := net.SplitHostPort(addr)
		if n, err := strconv.Atoi(port); err == nil {
			next = max(next, n+1)
		}
	}
	return net.JoinHostPort("127.0.0.1", strconv.Itoa(next))
}

// ours are tables that a subscriber's database has besides.
var ours = []string{"subscription", "subscription_setting", "resynced_entity", "rejected_entry", "erased_entity", "skipped_entity", "copied_page", "row_count", "operator_session", "feed", "feed_entry", "feed_compaction"}

func tableOf(feedName string) name {
	table := strings.ReplaceAll(feedName, "-", "_")
	if slices.Contains(ours, table) {
		table += "_copy"
	}
	return name(table)
}

//go:embed templates
var files embed.FS

var templates = template.Must(template.New("").Delims("[[", "]]").ParseFS(files, "templates/*.tmpl"))

// render returns the files of the service by their paths in the module.
func (s *service) render() (map[string][]byte, error) {
	rendered := map[string][]byte{}
	for file, from := range map[string]string{
		path.Join("sql", s.Name, "00001_"+s.Name+".sql"):    "migration.sql.tmpl",
		path.Join("subscribers", s.Name, s.Name+".go"):      "service.go.tmpl",
		path.Join("subscribers", s.Name, s.Name+".html"):    "page.html.tmpl",
		path.Join("subscribers", s.Name, s.Name+"_test.go"): "service_test.go.tmpl",
	} {
		var text bytes.Buffer
		err := templates.ExecuteTemplate(&text, from, s)
		if rendered[file] = text.Bytes(); err == nil && filepath.Ext(file) == ".go" {
			rendered[file], err = format.Source(text.Bytes())
		}
		if err != nil {
			return nil, fmt.Errorf("%s: %w", file, err)
		}
	}
	return rendered, nil
}
