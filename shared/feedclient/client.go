// Package feedclient reads feeds over HTTP, within limits on what a source may send.
package feedclient

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"mime"
	"net/http"
	"net/url"
	"regexp"
	"strconv"
	"strings"
	"time"

	"github.com/edison-cars/data-feeds/shared/feed"
)

// A request fails when no answer begins within silence, or none is complete within patience, in addition to the wait
// that was requested.
const (
	silence  = 15 * time.Second
	patience = time.Minute
	maxWait  = 30 * time.Second
)

var errSilent = fmt.Errorf("no answer within %v: %w", silence, context.DeadlineExceeded)

// A Format is how the documents of a feed are written.
type Format struct {
	Type string                                                   // the media type
	Page func(body []byte, after feed.Cursor) (*feed.Page, error) // parses a replay page, as [feed.ParsePage] does
	Head func(body []byte) (feed.Cursor, error)                   // parses where the feed ends, as [feed.ParseHead] does
	// Snapshot parses a page of a snapshot, as [feed.ParseSnapshot] does; nil means that the format has none.
	Snapshot func(body []byte, at feed.SnapshotPlace) (*feed.Page, error)
}

// JSON is the format of [New].
var JSON = Format{feed.TypeJSONFeed, feed.ParsePage, feed.ParseHead, feed.ParseSnapshot}

// A Client reads a feed over HTTP.
type Client struct {
	http   *http.Client
	token  string
	format Format
}

// New returns a client that follows redirects within one origin only. It sends the token (RFC 6750; "" means
// none), unless the feed's URL has a user.
func New(token string) *Client { return NewOf(token, JSON) }

// NewOf is [New] for another format.
func NewOf(token string, format Format) *Client {
	return &Client{token: token, format: format, http: &http.Client{Transport: newTransport(), CheckRedirect: withinOrigin}}
}

// IsToken reports whether a request can carry the token: printable ASCII characters without spaces.
func IsToken(token string) bool {
	return !strings.ContainsFunc(token, func(r rune) bool { return r <= ' ' || r > '~' })
}

// withinOrigin follows up to 5 redirects within one origin (RFC 6454 section 4), so that no token is sent to another
// one.
func withinOrigin(r *http.Request, via []*http.Request) error {
	switch {
	case origin(r.URL) != origin(via[0].URL):
		return &RedirectError{"it redirects to another origin, " + r.URL.Host}
	case len(via) > 5:
		return &RedirectError{"it redirects more than 5 times"}
	}
	return nil
}

func origin(u *url.URL) string {
	port := u.Port()
	if port == "" {
		port = map[string]string{"http": "80", "https": "443"}[u.Scheme]
	}
	return u.Scheme + "://" + hostName(u.Hostname()) + " " + port
}

// Close closes the idle connections.
func (c *Client) Close() { c.http.CloseIdleConnections() }

// An Answer is a source's answer to one poll.
type Answer struct {
	Page *feed.Page // nil means not modified since the ETag (304)
	ETag string     // to send with the next request for the same URL; may be empty
	AsOf time.Time  // the copy is complete up to this time: the time of the request less the answer's age; milliseconds
	// Kept is for how long a cache on the way may go on with the answer, which it may have fetched for another request.
	// 0 means that there is no sign of a cache.
	Kept time.Duration
	// Self is the URL of the page as the source publishes it, without query, or empty; see selfLink.
	Self string
	// Waits is for how long the source may have waited, at most Wait. 0 means that it always answers at once.
	Waits time.Duration
	// Described means that the source has a JSON Schema of the entities. SchemaETag is its entity tag, or empty.
	Described  bool
	SchemaETag string
	Bytes      int64 // length of the body as it was sent: compressed
}

// A StatusError is an answer that is neither a page nor 304.
type StatusError struct {
	Status     int
	Detail     string        // of the source's problem document (RFC 9457), or empty
	RetryAfter time.Duration // of the answer (RFC 9110 section 10.2.3), or 0
	History    feed.Cursor   // on 410, the Request.History for the restart from the beginning; zero means none
}

func (e *StatusError) Error() string {
	text := fmt.Sprintf("the source answered %d %s", e.Status, http.StatusText(e.Status))
	if e.Detail != "" {
		text += ": " + e.Detail
	}
	return text
}

// A TypeError is an answer of another media type than that of the format. It comes with feed.ErrPage.
type TypeError struct{ Want, Got string }

func (e *TypeError) Error() string { return fmt.Sprintf("expected %s, got %q", e.Want, e.Got) }

// A RedirectError is a redirect that was not followed.
type RedirectError struct{ reason string }

func (e *RedirectError) Error() string { return e.reason }

// A NoAnswerError means that there was no complete answer: the network, TLS, or a redirect that was not followed.
type NoAnswerError struct {
	doing string
	err   error
}

func (e *NoAnswerError) Error() string { return e.doing + ": " + e.err.Error() }

func (e *NoAnswerError) Unwrap() error { return e.err }

// ErrDiverged means that the source's history does not contain the cursor (410).
var ErrDiverged = errors.New("the source has another history than this copy")

// A Request requests a replay page: entries oldest first. If Snapshot is set, it requests a page of a snapshot.
type Request struct {
	URL     string        // of the feed, without query
	After   feed.Cursor   // the place where the page starts, unless Snapshot is set
	Limit   int           // the most entries: 1 to 1000
	History feed.Cursor   // of a restart after a StatusError; zero means none
	ETag    string        // of an earlier answer for the same page, for a 304; may be empty
	Wait    time.Duration // how long the source may wait for new entries (RFC 7240 section 4.3): whole seconds, at most 30

	Snapshot *feed.SnapshotPlace // where the page starts in a snapshot; nil means a replay
}

// PageURL returns the URL of the page.
func (r *Request) PageURL() string {
	place := "after=" + r.After.String()
	if at := r.Snapshot; at != nil {
		if place = "snapshot=" + at.Head.String(); !at.Head.IsStart() {
			place += "&from=" + at.From.String()
		}
	}
	page := r.URL + "?" + place + "&limit=" + strconv.Itoa(r.Limit)
	if !r.History.IsStart() {
		page += "&history=" + r.History.String()
	}
	return page
}

// Get requests a page. If the source refuses a request with an ETag, Get repeats it without the ETag, unless the answer
// is a 410 or has Retry-After. The error wraps ErrDiverged, *StatusError, feed.ErrPage or *NoAnswerError. For a page of a
// snapshot it wraps feed.ErrNoSnapshot if the source offers none: it answers 400 or 404, or with something else.
func (c *Client) Get(ctx context.Context, r Request) (*Answer, error) {
	answer, err := c.page(ctx, r)
	status, failed := errors.AsType[*StatusError](err)
	if failed && r.ETag != "" && status.RetryAfter == 0 && status.Status != http.StatusGone {
		r.ETag = ""
		answer, err = c.page(ctx, r)
	}
	return answer, err
}

func (c *Client) page(ctx context.Context, r Request) (*Answer, error) {
	if r.Snapshot != nil && c.format.Snapshot == nil {
		return nil, feed.ErrNoSnapshot
	}
	var page *feed.Page
	answer, err := c.ask(ctx, r.PageURL(), r.ETag, r.Wait, func(body []byte) (err error) {
		if r.Snapshot != nil {
			page, err = c.format.Snapshot(body, *r.Snapshot)
		} else {
			page, err = c.format.Page(body, r.After)
		}
		return err
	})
	if status, refused := errors.AsType[*StatusError](err); refused && r.Snapshot != nil &&
		(status.Status == http.StatusBadRequest || status.Status == http.StatusNotFound) {
		err = fmt.Errorf("%w (%w)", feed.ErrNoSnapshot, err)
	}
	if err != nil {
		return nil, err
	}
	answer.Page = page
	return answer, nil
}

// Head returns the end of the feed at url. Errors are those of Get.
func (c *Client) Head(ctx context.Context, url string) (head feed.Cursor, err error) {
	_, err = c.ask(ctx, url, "", 0, func(body []byte) (err error) {
		head, err = c.format.Head(body)
		return err
	})
	return head, err
}

// Schema returns the JSON Schema at url and its entity tag, or nil if the source has not modified it since the ETag.
// Errors are those of Get.
func (c *Client) Schema(ctx context.Context, url, etag string) (schema []byte, tag string, err error) {
	of := Client{http: c.http, token: c.token, format: Format{Type: feed.TypeSchema}}
	answer, err := of.ask(ctx, url, etag, 0, func(body []byte) error {
		if !json.Valid(body) {
			return fmt.Errorf("%w: the schema is not valid JSON", feed.ErrPage)
		}
		schema = bytes.Clone(body)
		return nil
	})
	if err != nil {
		return nil, "", err
	}
	return schema, answer.ETag, nil
}

// appliedWait returns the time in Preference-Applied, which need not repeat what was asked for (RFC 7240 section 3).
func appliedWait(h http.Header, asked time.Duration) time.Duration {
	for preference := range strings.SplitSeq(strings.Join(h.Values("Preference-Applied"), ","), ",") {
		preference, _, _ = strings.Cut(preference, ";")
		name, value, given := strings.Cut(preference, "=")
		if !strings.EqualFold(strings.TrimSpace(name), "wait") {
			continue
		}
		if !given {
			return asked
		}
		applied, _ := deltaSeconds(strings.Trim(value, " \t\""))
		return applied
	}
	return 0
}

// ask returns the answer without its page. It passes the body, unless the status is 304, to read, which must not keep
// it.
func (c *Client) ask(ctx context.Context, address, etag string, wait time.Duration, read func([]byte) error) (*Answer, error) {
	wait = min(wait, maxWait).Truncate(time.Second)
	ctx, cancel := context.WithTimeout(ctx, patience+wait)
	defer cancel()
	ctx, giveUp := context.WithCancelCause(ctx)
	defer giveUp(nil)
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, address, nil)
	if err != nil {
		return nil, err
	}
	req.Header.Set("Accept", c.format.Type)
	req.Header.Set("Accept-Encoding", accepted)
	req.Header.Set("User-Agent", "datafeed-subscriber")
	if c.token != "" && req.URL.User == nil {
		req.Header.Set("Authorization", "Bearer "+c.token)
	}
	if etag = usableETag(etag); etag != "" {
		req.Header.Set("If-None-Match", etag)
	}
	if wait > 0 {
		req.Header.Set("Prefer", "wait="+strconv.Itoa(int(wait/time.Second)))
	}
	asked := time.Now()
	silent := time.AfterFunc(silence+wait, func() { giveUp(errSilent) })
	resp, err := c.http.Do(req)
	silent.Stop()
	if err != nil {
		if wrapped, ok := errors.AsType[*url.Error](err); ok { // its text repeats the method and the URL
			err = wrapped.Err
		}
		if errors.Is(context.Cause(ctx), errSilent) { // with HTTP/2, the request was cancelled
			err = errSilent
		}
		return nil, c.noAnswer(ctx, "ask "+ShownURL(req.URL), err)
	}
	defer resp.Body.Close()
	age, kept := ageOf(resp.Header, time.Now())
	answer := &Answer{
		ETag: usableETag(resp.Header.Get("ETag")), AsOf: asked.UTC().Add(-age).Truncate(time.Millisecond), Kept: kept,
		Waits: min(appliedWait(resp.Header, wait), wait), Self: selfLink(resp.Header.Values("Link")),
	}
	answer.Described, answer.SchemaETag = describedBy(resp.Header.Values("Link"))
	switch {
	case resp.StatusCode == http.StatusNotModified && etag != "":
		return answer, nil
	case resp.StatusCode != http.StatusOK:
		return nil, refusal(resp)
	}
	got := resp.Header.Get("Content-Type")
	if t, _, _ := strings.Cut(got, ";"); !strings.EqualFold(strings.TrimSpace(t), c.format.Type) {
		return nil, fmt.Errorf("%w: %w", feed.ErrPage, &TypeError{c.format.Type, got})
	}
	body := &countedBody{ReadCloser: resp.Body}
	resp.Body = body
	err = withBody(resp, read)
	answer.Bytes = body.n
	if err != nil && !errors.Is(err, feed.ErrPage) && !errors.Is(err, feed.ErrNoSnapshot) {
		err = c.noAnswer(ctx, "read "+ShownURL(req.URL), err)
	}
	if err != nil {
		return nil, err
	}
	return answer, nil
}

// ageOf returns how old an answer is at most that arrives now, and [Answer.Kept]. Caches give Age in whole seconds,
// rounded down (RFC 9111 section 5.1). Of an answer that a cache says it had (RFC 9211), but not for how long, the Date
// tells it; elsewhere Date is not used, since clocks differ.
func ageOf(h http.Header, now time.Time) (age, kept time.Duration) {
	first, _, _ := strings.Cut(h.Get("Age"), ",")
	age, ok := deltaSeconds(strings.TrimSpace(first))
	date, err := http.ParseTime(h.Get("Date"))
	switch {
	case ok:
		age += time.Second
	case err == nil && hit(h.Values("Cache-Status")):
		age = max(now.Sub(date), 0)
	default:
		return 0, 0
	}
	return age, max(maxAge(h.Values("Cache-Control"))-age, 0) + time.Second
}

// hit reports whether a cache says that it had the answer.
func hit(caches []string) bool {
	for cache := range strings.SplitSeq(strings.Join(caches, ","), ",") {
		_, parameters, _ := strings.Cut(cache, ";")
		for parameter := range strings.SplitSeq(parameters, ";") {
			if strings.TrimSpace(parameter) == "hit" {
				return true
			}
		}
	}
	return false
}

// maxAge returns the value of the directive max-age, or 0 if there is none.
func maxAge(control []string) time.Duration {
	for directive := range strings.SplitSeq(strings.Join(control, ","), ",") {
		name, value, _ := strings.Cut(strings.TrimSpace(directive), "=")
		if strings.EqualFold(name, "max-age") {
			age, _ := deltaSeconds(value)
			return age
		}
	}
	return 0
}

// noAnswer makes the next request use a new connection, unless the caller has cancelled this one.
func (c *Client) noAnswer(ctx context.Context, doing string, err error) error {
	if ctx.Err() == nil || errors.Is(context.Cause(ctx), context.DeadlineExceeded) {
		c.http.CloseIdleConnections()
	}
	return &NoAnswerError{doing, err}
}

// maxETag is the length of the longest ETag that a client sends back: servers limit header fields, often to 8 kB.
const maxETag = 1000

// entityTag matches one entity tag of ASCII (RFC 9110 section 8.8.3). Other values of If-None-Match, * or a list, have
// other meanings, and a source could answer 304 for ever.
var entityTag = regexp.MustCompile(`^(W/)?"[!#-~]*"$`)

// usableETag returns the entity tag, or "" if it is invalid, too long, or not ASCII, which not all intermediaries pass
// on.
func usableETag(etag string) string {
	if len(etag) > maxETag || !entityTag.MatchString(etag) {
		return ""
	}
	return etag
}

// refusal returns the error for an answer that is neither a page nor 304: a *StatusError, wrapped by ErrDiverged on
// 410.
func refusal(resp *http.Response) error {
	e := &StatusError{Status: resp.StatusCode, RetryAfter: retryAfter(resp.Header.Get("Retry-After"), time.Now())}
	if t, _, _ := mime.ParseMediaType(resp.Header.Get("Content-Type")); t == feed.TypeProblem {
		var problem struct {
			Detail string `json:"detail"`
		}
		resp.Body = http.MaxBytesReader(nil, resp.Body, 8<<10)
		if withBody(resp, func(body []byte) error { return json.Unmarshal(body, &problem) }) == nil {
			e.Detail = problem.Detail
		}
	}
	if e.Status == http.StatusGone {
		e.History = startHistory(resp.Header.Values("Link"))
		return fmt.Errorf("%w (%w)", ErrDiverged, e)
	}
	return e
}

var startLink = regexp.MustCompile(`<([^>]*)>\s*;\s*rel="?start"?(?:[\s;,]|$)`) // RFC 8288

// startHistory returns the parameter history of the link with rel="start", or zero if there is none.
func startHistory(links []string) (history feed.Cursor) {
	if m := startLink.FindStringSubmatch(strings.Join(links, ", ")); m != nil {
		if start, err := url.Parse(m[1]); err == nil {
			history, _ = feed.ParseCursor(start.Query().Get("history"))
		}
	}
	return history
}

var (
	describedby = regexp.MustCompile(`<[^>]*>([^<]*;\s*rel="?describedby"?(?:[\s;,][^<]*)?)(?:<|$)`)
	tagOfLink   = regexp.MustCompile(`;\s*etag=("[!#-~]*")`)
)

// describedBy reports whether there is a link with rel="describedby", and returns its attribute etag.
func describedBy(links []string) (is bool, etag string) {
	m := describedby.FindStringSubmatch(strings.Join(links, ", "))
	if m == nil {
		return false, ""
	}
	if tag := tagOfLink.FindStringSubmatch(m[1]); tag != nil {
		etag = usableETag(tag[1])
	}
	return true, etag
}

const maxSelf = 2000 // bytes of a URL that is shown

var self = regexp.MustCompile(`<([^>]*)>\s*;\s*rel="?self"?(?:[\s;,]|$)`)

// selfLink returns the target of the link with rel="self" without its query, if it is a web address, or else "". It may
// be shown, but is never requested: a source behind a proxy may publish another address than the one that it was asked
// at.
func selfLink(links []string) string {
	m := self.FindStringSubmatch(strings.Join(links, ", "))
	if m == nil || len(m[1]) > maxSelf {
		return ""
	}
	u, err := url.Parse(m[1])
	if err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Host == "" || u.User != nil {
		return ""
	}
	u.RawQuery, u.Fragment = "", ""
	return u.String()
}

// retryAfter parses both forms of the field: seconds and a date. It returns 0 for other values and past dates.
func retryAfter(value string, now time.Time) time.Duration {
	if d, ok := deltaSeconds(value); ok {
		return d
	}
	if at, err := http.ParseTime(value); err == nil && at.After(now) {
		return at.Sub(now)
	}
	return 0
}

// deltaSeconds parses a number of seconds, capped at 31 bits (RFC 9111 section 1.2.2).
func deltaSeconds(value string) (d time.Duration, ok bool) {
	n, err := strconv.ParseUint(value, 10, 31)
	if err != nil && !errors.Is(err, strconv.ErrRange) {
		return 0, false
	}
	return time.Duration(n) * time.Second, true
}
