package feed

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"mime"
	"net"
	"net/http"
	"net/url"
	"strconv"
	"time"
)

// MaxBody is the most bytes that a client takes of one page, after decompression.
const MaxBody = 64 << 20

// A Client reads a feed over HTTP.
type Client struct {
	http  *http.Client
	token string
}

// NewClient gives a client that follows redirects within one origin only and gives up on a source that is
// silent for longer than a page may take. It sends the token (RFC 6750; "": none), unless the feed's URL has a user.
func NewClient(token string) *Client {
	transport := http.DefaultTransport.(*http.Transport).Clone()
	transport.DialContext = (&net.Dialer{Timeout: 5 * time.Second, KeepAlive: 15 * time.Second}).DialContext
	transport.ResponseHeaderTimeout = 15 * time.Second
	return &Client{token: token, http: &http.Client{
		Transport: transport,
		Timeout:   time.Minute,
		CheckRedirect: func(r *http.Request, via []*http.Request) error {
			if first := via[0].URL; r.URL.Scheme != first.Scheme || r.URL.Host != first.Host {
				return fmt.Errorf("it redirects to another origin, %s", r.URL.Host)
			}
			if len(via) > 5 {
				return errors.New("it redirects more than 5 times")
			}
			return nil
		},
	}}
}

// Close closes the connections that are kept for the next request.
func (c *Client) Close() { c.http.CloseIdleConnections() }

// An Answer is what a source said to one poll.
type Answer struct {
	Page *Page     // nil: not modified since the ETag that was sent (304)
	ETag string    // of the page, to send with the next request for the same URL; may be empty
	AsOf time.Time // the source vouches that nothing older was left out: when it was asked less the answer's Age (RFC 9111 section 4.2.3); milliseconds
}

// A StatusError is an answer that is neither a page nor 304.
type StatusError struct {
	Status     int
	Detail     string        // from the source's problem (RFC 9457), else empty
	RetryAfter time.Duration // as the source asked for (RFC 9110 section 10.2.3); 0: it did not
}

func (e *StatusError) Error() string {
	text := fmt.Sprintf("the source answered %d %s", e.Status, http.StatusText(e.Status))
	if e.Detail != "" {
		text += ": " + e.Detail
	}
	return text
}

// ErrDiverged means that the source's history does not contain the cursor (410): the reader's copy comes from
// another history.
var ErrDiverged = errors.New("the source has another history than this copy")

// PageURL gives the URL of the replay page after a cursor. feedURL is the feed's own, without query.
func PageURL(feedURL string, after Cursor, limit int) string {
	return feedURL + "?after=" + after.String() + "&limit=" + strconv.Itoa(limit)
}

// Get asks for the replay page after a cursor: entries oldest first, at most limit (1 to 1000). With the ETag of
// an earlier answer for the same cursor and limit the source may answer that nothing changed. Errors: ErrDiverged,
// *StatusError, ErrPage, or those of the network.
func (c *Client) Get(ctx context.Context, feedURL string, after Cursor, limit int, etag string) (*Answer, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, PageURL(feedURL, after, limit), nil)
	if err != nil {
		return nil, err
	}
	req.Header.Set("Accept", TypeJSONFeed)
	req.Header.Set("User-Agent", "edison-cars-subscriber")
	if c.token != "" && req.URL.User == nil {
		req.Header.Set("Authorization", "Bearer "+c.token)
	}
	if etag != "" {
		req.Header.Set("If-None-Match", etag)
	}
	asked := time.Now()
	resp, err := c.http.Do(req)
	if err != nil {
		if wrapped, ok := errors.AsType[*url.Error](err); ok { // its text repeats method and URL
			err = wrapped.Err
		}
		return nil, fmt.Errorf("ask %s: %w", req.URL.Redacted(), err)
	}
	defer resp.Body.Close()
	answer := &Answer{ETag: resp.Header.Get("ETag"), AsOf: asOf(resp, asked)}
	switch {
	case resp.StatusCode == http.StatusNotModified && etag != "":
		return answer, nil
	case resp.StatusCode != http.StatusOK:
		return nil, statusError(resp)
	}
	if t, _, _ := mime.ParseMediaType(resp.Header.Get("Content-Type")); t != TypeJSONFeed {
		return nil, fmt.Errorf("%w: expected %s, got %q", ErrPage, TypeJSONFeed, resp.Header.Get("Content-Type"))
	}
	body, err := io.ReadAll(io.LimitReader(resp.Body, MaxBody+1))
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", req.URL.Redacted(), err)
	}
	if len(body) > MaxBody {
		return nil, fmt.Errorf("%w: longer than %d MiB", ErrPage, MaxBody>>20)
	}
	answer.Page, err = ParsePage(body, after)
	return answer, err
}

func asOf(resp *http.Response, asked time.Time) time.Time {
	age, _ := deltaSeconds(resp.Header.Get("Age"))
	return asked.UTC().Add(-age).Truncate(time.Millisecond)
}

func statusError(resp *http.Response) error {
	e := &StatusError{Status: resp.StatusCode, RetryAfter: retryAfter(resp.Header.Get("Retry-After"), time.Now())}
	if t, _, _ := mime.ParseMediaType(resp.Header.Get("Content-Type")); t == TypeProblem {
		var problem struct{ Detail string }
		if json.NewDecoder(io.LimitReader(resp.Body, 8<<10)).Decode(&problem) == nil {
			e.Detail = problem.Detail
		}
	}
	if e.Status == http.StatusGone {
		return fmt.Errorf("%w (%w)", ErrDiverged, e)
	}
	return e
}

// retryAfter reads both forms of the header: seconds and a date. What is neither, or past, gives 0.
func retryAfter(value string, now time.Time) time.Duration {
	if d, ok := deltaSeconds(value); ok {
		return d
	}
	if at, err := http.ParseTime(value); err == nil && at.After(now) {
		return at.Sub(now)
	}
	return 0
}

// deltaSeconds reads a number of seconds; more than 31 bits count as that many (RFC 9111 section 1.2.2).
func deltaSeconds(value string) (d time.Duration, ok bool) {
	n, err := strconv.ParseUint(value, 10, 31)
	if err != nil && !errors.Is(err, strconv.ErrRange) {
		return 0, false
	}
	return time.Duration(n) * time.Second, true
}
