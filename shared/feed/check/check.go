// Package check asks a running source for what PROTOCOL.md promises, and proves a reader against a source that
// misbehaves. It shares no code with the sources and readers of this project.
package check

import (
	"bytes"
	"compress/gzip"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"slices"
	"strings"
	"time"
)

// Options say how a source is asked.
type Options struct {
	Token string // of a closed source; empty means none
	// Append makes the source append an entry to the feed. Without it, promises about new entries are skipped.
	Append func(ctx context.Context) error
	// MaxEntries is how much of the feed is read; 0 means 100,000.
	MaxEntries int
}

// answerTimeout is how long an answer may take, beside the time that it may wait.
const answerTimeout = 60 * time.Second

// Run checks the feed at the URL, such as http://localhost:8080/feeds/orders, and writes the results as TAP version 14.
// It returns how many promises are broken. An error means that the source could not be checked.
func Run(ctx context.Context, feedURL string, o Options, out io.Writer) (broken int, err error) {
	c := &checker{
		ctx: ctx, feed: strings.TrimSuffix(feedURL, "/"), Options: o,
		client: &http.Client{Transport: &http.Transport{DialContext: (&net.Dialer{Timeout: 5 * time.Second}).DialContext, DisableCompression: true, MaxConnsPerHost: 4}, CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }},
	}
	defer c.client.CloseIdleConnections()
	if c.MaxEntries == 0 {
		c.MaxEntries = 100_000
	}
	first, err := c.get("")
	if err != nil {
		return 0, err
	}
	if first.status != http.StatusOK {
		return 0, fmt.Errorf("%s answers %d: %s", first.asked, first.status, bytes.TrimSpace(first.body))
	}
	t := begin(out, len(promises))
	for _, p := range promises {
		err := p.check(c)
		if ctx.Err() != nil {
			return t.broken, context.Cause(ctx)
		}
		t.report(p.section+": "+p.text, err)
	}
	return t.broken, nil
}

// A tap writes results as TAP version 14.
type tap struct {
	out    io.Writer
	said   int
	broken int
}

func begin(out io.Writer, tests int) *tap {
	fmt.Fprintf(out, "TAP version 14\n1..%d\n", tests)
	return &tap{out: out}
}

// report writes the result of the next test: err is nil, a skipError, or what is wrong.
func (t *tap) report(test string, err error) {
	t.said++
	line := fmt.Sprintf("ok %d - %s", t.said, test)
	skipped, skip := errors.AsType[skipError](err)
	switch {
	case skip:
		line += " # SKIP " + string(skipped)
	case err != nil:
		t.broken++
		message, _ := json.Marshal(err.Error()) // a JSON string is YAML, too
		line = "not " + line + "\n  ---\n  message: " + string(message) + "\n  ..."
	}
	fmt.Fprintln(t.out, line)
}

// A promise is one that PROTOCOL.md makes in a section.
type promise struct {
	section, text string
	check         func(c *checker) error // nil means that it holds
}

// A skipError says why a promise cannot be checked at this source.
type skipError string

func (e skipError) Error() string { return string(e) }

// A checker asks one source about one feed.
type checker struct {
	Options
	ctx    context.Context
	feed   string // its URL
	client *http.Client
	walked []item // the feed from its start, as the walk found it
	pages  []page // of that walk
}

// An answer is one of the source. Its body is as it was sent.
type answer struct {
	asked  string
	status int
	header http.Header
	body   []byte
	took   time.Duration
}

// get asks for the feed's URL with what follows it, such as "?after=0", or for another URL. The headers are names and
// values in turn.
func (c *checker) get(rest string, headers ...string) (*answer, error) {
	return c.ask(http.MethodGet, rest, headers...)
}

func (c *checker) ask(method, rest string, headers ...string) (*answer, error) {
	ctx, cancel := context.WithTimeout(c.ctx, answerTimeout)
	defer cancel()
	began := time.Now()
	resp, err := c.send(ctx, method, rest, headers...)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	return &answer{resp.Request.URL.Redacted(), resp.StatusCode, resp.Header, body, time.Since(began)}, err
}

func (c *checker) send(ctx context.Context, method, rest string, headers ...string) (*http.Response, error) {
	if !strings.Contains(rest, "://") {
		rest = c.feed + rest
	}
	req, err := http.NewRequestWithContext(ctx, method, rest, nil)
	if err != nil {
		return nil, err
	}
	for i := 0; i < len(headers); i += 2 {
		req.Header.Add(headers[i], headers[i+1])
	}
	if c.Token != "" {
		req.Header.Set("Authorization", "Bearer "+c.Token)
	}
	return c.client.Do(req)
}

// want returns an error unless the answer has one of the statuses.
func (a *answer) want(statuses ...int) error {
	if !slices.Contains(statuses, a.status) {
		return fmt.Errorf("%s answers %d, not %v", a.asked, a.status, statuses)
	}
	return nil
}

// mediaType is that of the answer, without parameters.
func (a *answer) mediaType() string {
	t, _, _ := strings.Cut(a.header.Get("Content-Type"), ";")
	return strings.TrimSpace(t)
}

// link returns the target of the answer's first link of a relation, or "".
func (a *answer) link(rel string) string {
	for _, links := range a.header.Values("Link") {
		for one := range strings.SplitSeq(links, ",") {
			target, params, _ := strings.Cut(strings.TrimSpace(one), ">")
			if strings.Contains(params, `rel="`+rel+`"`) {
				return strings.TrimPrefix(target, "<")
			}
		}
	}
	return ""
}

// A page is a document of JSON Feed.
type page struct {
	Version  string `json:"version"`
	Title    string `json:"title"`
	FeedURL  string `json:"feed_url"`
	NextURL  string `json:"next_url"`
	Items    []item `json:"items"`
	DataFeed struct {
		About     string  `json:"about"`
		Cursor    string  `json:"cursor"`
		Next      string  `json:"next"`
		Sealed    *bool   `json:"sealed"`
		UpToDate  *bool   `json:"up_to_date"`
		Head      *string `json:"head"`
		Snapshot  string  `json:"snapshot"`
		Through   string  `json:"through"`
		Compacted string  `json:"compacted"`
	} `json:"_datafeed"`

	answer *answer
}

// An item is an entry.
type item struct {
	ID       string `json:"id"`
	Updated  string `json:"date_modified"`
	DataFeed struct {
		Position   int64           `json:"position"`
		Version    int64           `json:"version"`
		First      int64           `json:"first"`
		Entity     json.RawMessage `json:"entity"`
		Deleted    bool            `json:"deleted"`
		Erased     bool            `json:"erased"`
		Superseded bool            `json:"superseded"`
	} `json:"_datafeed"`
}

func (i item) uuid() string { return strings.TrimPrefix(i.ID, "urn:uuid:") }

// page asks for a page as JSON Feed, other than one of a snapshot.
func (c *checker) page(rest string, headers ...string) (*page, error) {
	p, err := c.json(rest, headers...)
	if err != nil {
		return nil, err
	}
	if p.DataFeed.Sealed == nil || p.DataFeed.UpToDate == nil || p.DataFeed.Cursor == "" || p.DataFeed.Next == "" {
		return nil, fmt.Errorf("%s lacks cursor, next, sealed or up_to_date in _datafeed", p.answer.asked)
	}
	return p, nil
}

// json asks for a document of JSON Feed.
func (c *checker) json(rest string, headers ...string) (*page, error) {
	a, err := c.get(rest, append(headers, "Accept", "application/feed+json")...)
	if err == nil {
		err = a.want(http.StatusOK)
	}
	if err != nil {
		return nil, err
	}
	p := &page{answer: a}
	if err := json.Unmarshal(a.body, p); err != nil {
		return nil, fmt.Errorf("%s is no JSON Feed: %w", a.asked, err)
	}
	return p, nil
}

// decoded returns the body without its content coding.
func (a *answer) decoded() ([]byte, error) {
	if a.header.Get("Content-Encoding") != "gzip" {
		return a.body, nil
	}
	r, err := gzip.NewReader(bytes.NewReader(a.body))
	if err != nil {
		return nil, err
	}
	return io.ReadAll(r)
}

func positionOf(cursor string) (position int64) {
	_, _ = fmt.Sscanf(cursor, "%d", &position)
	return position
}

func after(cursor string, limit int) string { return fmt.Sprintf("?after=%s&limit=%d", cursor, limit) }
