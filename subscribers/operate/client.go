package operate

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"slices"
	"time"

	"github.com/edison-cars/data-feeds/shared/daemon"
	"github.com/edison-cars/data-feeds/shared/directory"
	"github.com/edison-cars/data-feeds/shared/feedclient"
	"github.com/edison-cars/data-feeds/shared/subscribe"
	"github.com/edison-cars/data-feeds/shared/web"
)

const (
	readTimeout   = 5 * time.Second
	changeTimeout = 15 * time.Second // longer than a service takes for a request that does not wait
	pollTimeout   = 10 * time.Minute // a poll may have much to copy, a retry many entries to apply
	maxBody       = 64 << 20
)

// A client asks the services.
type client struct {
	services directory.Services
	optional []string
	token    string
}

// httpClient follows no redirect, so that no token is sent to another host.
var httpClient = &http.Client{
	Transport:     feedclient.NewTransport(),
	CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
}

// A request is sent to a service.
type request struct {
	method, path string
	body         any // JSON; nil is none
	timeout      time.Duration
}

// errNoService means that another program than a service of the company answers.
var errNoService = errors.New("what answers there is not a service of this company")

// do returns the body of an answer of 200 to 299. The error is a [*web.Problem] if the service refuses.
func (cl *client) do(ctx context.Context, s directory.Service, r request) ([]byte, http.Header, error) {
	ctx, cancel := context.WithTimeout(ctx, r.timeout)
	defer cancel()
	var body io.Reader
	if r.body != nil {
		text, err := json.Marshal(r.body)
		if err != nil {
			return nil, nil, err
		}
		body = bytes.NewReader(text)
	}
	req, err := http.NewRequestWithContext(ctx, r.method, s.URL+r.path, body)
	if err != nil {
		return nil, nil, err
	}
	req.Header.Set("Accept", "application/json")
	if body != nil {
		req.Header.Set("Content-Type", "application/json")
	}
	token := cl.token
	if user := req.URL.User; user != nil { // Basic would not let an operator change anything
		token, _ = user.Password()
		req.URL.User = nil
	}
	if token != "" {
		req.Header.Set("Authorization", "Bearer "+token)
	}
	resp, err := httpClient.Do(req)
	if err != nil {
		return nil, nil, unreachable(err, r.timeout)
	}
	defer resp.Body.Close()
	answer, err := io.ReadAll(io.LimitReader(resp.Body, maxBody))
	if err != nil {
		return nil, nil, unreachable(err, r.timeout)
	}
	if resp.StatusCode >= 200 && resp.StatusCode <= 299 {
		if len(answer) > 0 && !json.Valid(answer) {
			return nil, nil, errNoService
		}
		return answer, resp.Header, nil
	}
	problem := new(web.Problem)
	if json.Unmarshal(answer, problem) != nil || problem.Status == 0 {
		problem = web.Errorf(resp.StatusCode, "")
	}
	problem.Title, problem.Detail = plain(problem.Title), plain(problem.Detail)
	for i := range problem.Errors {
		problem.Errors[i].Detail = plain(problem.Errors[i].Detail)
	}
	if problem.Status == http.StatusUnauthorized || problem.Status == http.StatusForbidden {
		problem.Detail = "Set FEED_TOKEN to a token that the service knows; changes and rejected entries need an operator's."
	}
	return nil, nil, problem
}

// unreachable returns why there is no answer, without the URL.
func unreachable(err error, timeout time.Duration) error {
	if u, ok := errors.AsType[*url.Error](err); ok {
		err = u.Err
	}
	if errors.Is(err, context.DeadlineExceeded) {
		return fmt.Errorf("no answer within %v", timeout)
	}
	return err
}

// subscriptions returns the service's list of its copies: as it answered, and parsed. Both are nil if it has none, as a
// service that only publishes.
func (cl *client) subscriptions(ctx context.Context, s directory.Service) (json.RawMessage, []subscribe.Status, error) {
	text, _, err := cl.do(ctx, s, request{method: http.MethodGet, path: "/subscriptions", timeout: readTimeout})
	if problem, ok := errors.AsType[*web.Problem](err); ok && problem.Status == http.StatusNotFound {
		return nil, nil, nil
	}
	if err != nil {
		return nil, nil, err
	}
	var copies []subscribe.Status
	if json.Unmarshal(text, &copies) != nil || copies == nil {
		return nil, nil, errNoService
	}
	return text, copies, nil
}

// ask sends a request about one feed of a service. The error names both.
func (cl *client) ask(ctx context.Context, service, feed string, r request) ([]byte, http.Header, error) {
	s, err := cl.find(service)
	if err != nil {
		return nil, nil, err
	}
	r.path = "/subscriptions/" + url.PathEscape(feed) + r.path
	text, header, err := cl.do(ctx, s, r)
	if err == nil {
		return text, header, nil
	}
	if problem, ok := errors.AsType[*web.Problem](err); ok && problem.Status == http.StatusNotFound {
		if names := cl.feeds(ctx, service); !slices.Contains(names, feed) {
			return nil, nil, daemon.Usagef("%s copies no feed %q%s", service, feed, daemon.DidYouMean(feed, names))
		}
	}
	return nil, nil, fmt.Errorf("%s/%s: %w", service, feed, err)
}
