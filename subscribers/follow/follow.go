// Package follow prints the entries of any feed in a terminal, as they come, and checks what the feed promises.
package follow

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"net/url"
	"os"
	"os/signal"
	"strconv"
	"syscall"
	"time"

	"github.com/edison-cars/data-feeds/shared/daemon"
	"github.com/edison-cars/data-feeds/shared/feed"
	"github.com/edison-cars/data-feeds/shared/feedclient"
)

const (
	maxWait  = 30 * time.Second // the longest wait of a source
	minEvery = 100 * time.Millisecond
)

// Diverged is the exit code if the source has another history than the cursor of --after.
const Diverged = 3

type options struct {
	url     string       // of the feed, without query
	shown   string       // url as feedclient.ShownURL has it
	after   *feed.Cursor // nil means the newest entry
	history feed.Cursor  // of a restart from the beginning
	limit   int
	wait    time.Duration // 0: no long polls
	every   time.Duration
	atom    bool
	once    bool
	token   string
	plain   feedclient.PlainHosts // hosts that get the token without TLS
}

// Help prints the usage.
func Help(w io.Writer) {
	fmt.Fprint(w, `follow prints the entries of a feed as they come, one line of JSON each, and checks what the feed promises: positions
without gaps, pages that continue each other, the versions of an entity in order.

  go run ./subscribers follow [flags] URL

Flags:
`)
	daemon.Help(w,
		daemon.Setting{Name: "--after CURSOR", Default: "newest", Help: "start after this cursor; 0 prints the whole history"},
		daemon.Setting{Name: "--once", Help: "stop when up to date"},
		daemon.Setting{Name: "--wait[=DURATION]", Default: "30s", Help: "let the source wait for new entries before it answers, 1s to 30s; --wait=false: poll"},
		daemon.Setting{Name: "--every DURATION", Default: "5s", Help: "interval of polls if the source does not wait"},
		daemon.Setting{Name: "--limit N", Default: strconv.Itoa(feed.PageSize), Help: "entries to ask for at once, 1 to " + strconv.Itoa(feed.MaxPageSize)},
		daemon.Setting{Name: "--plain-hosts HOSTS", Help: "hosts of a private network to which FEED_TOKEN and passwords may be sent without TLS, as to localhost"},
		daemon.Setting{Name: "--atom", Help: "read the feed as Atom; the entity is then a string of XML"})
	fmt.Fprint(w, "\nSettings (environment):\n")
	daemon.Help(w, settings{})
	fmt.Fprint(w, `
The URL is the feed's own, such as http://localhost:8080/feeds/orders. One with after, limit and history, as a source links to
it, sets the flags of these names.

Each line has position, version, updated, deleted, id and, unless deleted, entity. One that is superseded has no entity: its source
has only the newer version, which follows, at the latest at the place compacted. The last of each page also has a cursor, for --after.
What there is to tell besides goes to stderr. Ctrl-C ends it between two lines.

Exit codes: 0 stopped by Ctrl-C or a closed pipe, or up to date (--once); 1 the feed breaks its promises, refuses, or is none, or
--once was interrupted; 2 wrong flags; 3 the source has another history than --after.
`)
}

type settings struct {
	FeedToken string `env:"FEED_TOKEN" help:"token for the source, if it requires one"`
}

// parse reads the command line. Flags may come before or after the URL.
func parse(args []string, env map[string]string) (*options, error) {
	o, set := &options{wait: maxWait}, settings{}
	if err := daemon.Parse(env, &set); err != nil {
		return nil, err
	}
	if !feedclient.IsToken(set.FeedToken) {
		return nil, daemon.Usagef("FEED_TOKEN takes a token: printable ASCII characters without spaces")
	}
	o.token = set.FeedToken
	flags := flag.NewFlagSet("follow", flag.ContinueOnError)
	flags.SetOutput(io.Discard)
	cursor := func(to *feed.Cursor) func(string) error {
		return func(s string) (err error) { *to, err = feed.ParseCursor(s); return err }
	}
	var after feed.Cursor
	flags.Func("after", "", cursor(&after))
	flags.BoolFunc("wait", "", o.setWait)
	flags.DurationVar(&o.every, "every", 5*time.Second, "")
	flags.IntVar(&o.limit, "limit", feed.PageSize, "")
	flags.Func("plain-hosts", "", func(s string) error { return o.plain.UnmarshalText([]byte(s)) })
	flags.BoolVar(&o.atom, "atom", false, "")
	flags.BoolVar(&o.once, "once", false, "")
	var urls []string
	for rest := args; ; {
		if err := flags.Parse(rest); err != nil {
			return nil, daemon.Usagef("%w", err)
		}
		if flags.NArg() == 0 {
			break
		}
		urls, rest = append(urls, flags.Arg(0)), flags.Args()[1:]
	}
	switch {
	case len(urls) == 0:
		return nil, daemon.Usagef("follow takes the URL of a feed, such as http://localhost:8080/feeds/orders; --help says more")
	case len(urls) > 1:
		return nil, daemon.Usagef("follow takes one URL, not also %q (a duration goes with an equals sign: --wait=10s)", urls[1])
	}
	given := map[string]bool{}
	flags.Visit(func(f *flag.Flag) { given[f.Name] = true })
	flags.Func("history", "", cursor(&o.history)) // in the URL only
	err := o.setURL(urls[0], func(name, value string) error {
		if given[name] {
			return nil
		}
		given[name] = true
		return flags.Set(name, value)
	})
	switch {
	case err != nil:
		return nil, err
	case o.limit < 1 || o.limit > feed.MaxPageSize:
		return nil, daemon.Usagef("--limit takes a whole number from 1 to %d", feed.MaxPageSize)
	case o.every < minEvery:
		return nil, daemon.Usagef("--every takes a duration of %v at least", minEvery)
	}
	if given["after"] {
		o.after = &after
	}
	return o, nil
}

func (o *options) setWait(s string) error {
	if on, err := strconv.ParseBool(s); err == nil {
		o.wait = 0
		if on {
			o.wait = maxWait
		}
		return nil
	}
	d, err := time.ParseDuration(s)
	if err != nil || d < time.Second || d > maxWait {
		return fmt.Errorf("takes true, false or a duration from 1s to %v", maxWait)
	}
	o.wait = d
	return nil
}

// setURL sets the feed's URL, and passes the query parameters that it knows to set.
func (o *options) setURL(text string, set func(name, value string) error) error {
	u, err := url.Parse(text)
	if err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Host == "" {
		return daemon.Usagef("follow takes the http or https URL of a feed, such as http://localhost:8080/feeds/orders")
	}
	query, err := url.ParseQuery(u.RawQuery)
	if err != nil {
		return daemon.Usagef("the query of the URL is malformed: %w", err)
	}
	for name, values := range query {
		if name != "after" && name != "limit" && name != "history" || len(values) > 1 {
			return daemon.Usagef("of the query of a feed's URL follow takes after, limit and history, each once; not %q", name)
		}
		if err := set(name, values[0]); err != nil {
			return daemon.Usagef("the parameter %s of the URL: %w", name, err)
		}
	}
	if err := o.plain.Check(u, o.token != "", "--plain-hosts"); err != nil {
		return daemon.Usagef("%w", err)
	}
	u.RawQuery, u.ForceQuery, u.Fragment, u.RawFragment = "", false, "", ""
	o.url, o.shown = u.String(), feedclient.ShownURL(u)
	return nil
}

// Run prints the entries of the feed that args name, until ctx ends, stdout is closed or, with --once, all are printed.
func Run(ctx context.Context, args []string, env map[string]string, stdout, stderr io.Writer) error {
	o, err := parse(args, env)
	if errors.Is(err, flag.ErrHelp) {
		Help(stdout)
	}
	if err != nil {
		return err
	}
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	if file, ok := stdout.(*os.File); ok {
		signal.Ignore(syscall.SIGPIPE) // it would end the process, and `go run` would report it
		go whenClosed(file, func() { cancel(errClosed) })
	}
	client := newClient(o)
	defer client.Close()
	f := &follower{options: o, client: client, out: newPrinter(stdout, o.atom), checked: newChecker(), say: func(format string, args ...any) {
		fmt.Fprintf(stderr, "follow: "+format+"\n", args...)
	}}
	err = f.run(ctx)
	if errors.Is(err, errClosed) || errors.Is(context.Cause(ctx), errClosed) {
		return nil
	}
	return err
}
