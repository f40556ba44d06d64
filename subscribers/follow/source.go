package follow

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"mime"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/edison-cars/data-feeds/shared/feed"
	"github.com/edison-cars/data-feeds/shared/feedclient"
)

// A source requests pages of one feed: JSON pages by the client of all subscribers, Atom and heads by its own.
type source struct {
	*options
	mediaType string
	json      *feedclient.Client
	other     *http.Client
}

const timeout = 30 * time.Second // of an answer, in addition to the wait

func newSource(o *options) *source {
	s := &source{
		options: o, mediaType: feed.TypeJSONFeed, json: feedclient.New(o.token),
		other: &http.Client{Transport: feedclient.NewTransport(), CheckRedirect: feedclient.WithinOrigin},
	}
	if o.atom {
		s.mediaType = feed.TypeAtom
	}
	return s
}

func (s *source) close() {
	s.json.Close()
	s.other.CloseIdleConnections()
}

// errNoFeed says that the answer is not a feed of this protocol.
var errNoFeed = errors.New("not a feed of this protocol")

// head returns the end of the feed.
func (s *source) head(ctx context.Context) (head feed.Cursor, err error) {
	_, body, err := s.ask(ctx, s.url, "", 0)
	if err != nil {
		return head, err
	}
	var at *feed.Cursor
	if s.atom {
		doc, err := decodeAtom(body)
		if err != nil {
			return head, fmt.Errorf("%w: %w", errNoFeed, err)
		}
		at = doc.Page.Head
	} else {
		var doc struct {
			Datafeed struct {
				Head *feed.Cursor `json:"head"`
			} `json:"_datafeed"`
		}
		if err := json.Unmarshal(body, &doc); err != nil {
			return head, fmt.Errorf("%w: %w", errNoFeed, err)
		}
		at = doc.Datafeed.Head
	}
	if at == nil {
		return head, fmt.Errorf("%w: it does not say where it ends", errNoFeed)
	}
	return *at, nil
}

// page requests a replay page.
func (s *source) page(ctx context.Context, r feedclient.Request) (*feedclient.Answer, error) {
	if !s.atom {
		return s.json.Get(ctx, r)
	}
	h, body, err := s.ask(ctx, r.PageURL(), r.ETag, r.Wait)
	if err != nil {
		return nil, err
	}
	answer := &feedclient.Answer{ETag: h.Get("ETag"), Waits: strings.HasPrefix(h.Get("Preference-Applied"), "wait=")}
	if body != nil {
		answer.Page, err = parseAtom(body)
	}
	return answer, err
}

// ask returns the body of an answer in the source's format, or nil if nothing changed.
func (s *source) ask(ctx context.Context, address, etag string, wait time.Duration) (http.Header, []byte, error) {
	ctx, cancel := context.WithTimeout(ctx, timeout+wait)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, address, nil)
	if err != nil {
		return nil, nil, err
	}
	req.Header.Set("Accept", s.mediaType)
	req.Header.Set("User-Agent", "edison-cars-follow")
	if s.token != "" && req.URL.User == nil {
		req.Header.Set("Authorization", "Bearer "+s.token)
	}
	if etag != "" {
		req.Header.Set("If-None-Match", etag)
	}
	if wait > 0 {
		req.Header.Set("Prefer", "wait="+strconv.Itoa(int(wait/time.Second)))
	}
	resp, err := s.other.Do(req)
	if err != nil {
		s.other.CloseIdleConnections()                         // one of them may be dead
		if wrapped, ok := errors.AsType[*url.Error](err); ok { // its text repeats the method and the URL
			err = wrapped.Err
		}
		return nil, nil, fmt.Errorf("ask %s: %w", feedclient.ShownURL(req.URL), err)
	}
	defer resp.Body.Close()
	switch {
	case resp.StatusCode == http.StatusNotModified && etag != "":
		return resp.Header, nil, nil
	case resp.StatusCode != http.StatusOK:
		return nil, nil, feedclient.Refusal(resp)
	}
	if t, _, _ := mime.ParseMediaType(resp.Header.Get("Content-Type")); t != s.mediaType {
		return nil, nil, s.wrongType(resp.Header.Get("Content-Type"), t)
	}
	body, err := io.ReadAll(io.LimitReader(resp.Body, feedclient.MaxBody+1))
	if err != nil {
		s.other.CloseIdleConnections()
		return nil, nil, fmt.Errorf("read %s: %w", feedclient.ShownURL(req.URL), err)
	}
	if len(body) > feedclient.MaxBody {
		return nil, nil, fmt.Errorf("%w: longer than %d MiB", feed.ErrPage, feedclient.MaxBody>>20)
	}
	return resp.Header, body, nil
}

func (s *source) wrongType(field, mediaType string) error {
	hint := ""
	switch mediaType {
	case feed.TypeAtom:
		hint = "; --atom reads that"
	case feed.TypeJSONFeed:
		hint = "; without --atom it can be read"
	}
	return fmt.Errorf("%w: asked for %s it answered 200 OK with %q%s", errNoFeed, s.mediaType, field, hint)
}
