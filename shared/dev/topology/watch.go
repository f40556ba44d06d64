package topology

import (
	"context"
	"encoding/json"
	"io"
	"net/http"
	"slices"
	"sync"
	"time"

	"github.com/edison-cars/data-feeds/shared/directory"
	"github.com/edison-cars/data-feeds/shared/feedclient"
)

const (
	interval = time.Second
	timeout  = 3 * time.Second // longer than /readyz waits for a database
	maxBody  = 16 << 20
)

// A Watch polls the services, each independently, so that a slow one does not delay the others.
type Watch struct {
	token      string
	transports []*http.Transport // one per service, each used only by that service's goroutine
	tracing    *http.Transport   // for what is asked for a person

	mu     sync.Mutex
	states []State // one per service
	asked  []directory.Service
}

// NewWatch returns a watch of the services. The token, if any, is sent to all of them.
func NewWatch(services []directory.Service, token string) *Watch {
	w := &Watch{token: token, asked: services, tracing: feedclient.NewTransport()}
	now := time.Now().UTC()
	for _, s := range services {
		state := State{Name: s.Name, URL: s.Link, Text: s.Text, Status: Unknown, Since: now, askedAt: withoutUser(s.URL)}
		if state.URL == "" {
			state.URL = state.askedAt
		}
		w.states = append(w.states, state)
		w.transports = append(w.transports, feedclient.NewTransport())
	}
	return w
}

// Run asks each service once a second until ctx ends.
func (w *Watch) Run(ctx context.Context) {
	var all sync.WaitGroup
	for i := range w.asked {
		all.Go(func() {
			defer w.leave(i)
			tick := time.NewTicker(interval)
			defer tick.Stop()
			for {
				w.ask(ctx, i)
				select {
				case <-tick.C:
				case <-ctx.Done():
					return
				}
			}
		})
	}
	all.Wait()
}

// States returns all services, followed by sources outside the company that they read.
func (w *Watch) States() []State {
	w.mu.Lock()
	states := slices.Clone(w.states)
	w.mu.Unlock()
	for i := range states {
		s := &states[i]
		s.Publishes, s.Reads = append([]Feed{}, s.Publishes...), append([]Copy{}, s.Reads...)
		for j := range s.Reads {
			if s.Status == Down || s.refuses {
				s.Reads[j].State, s.Reads[j].NextPolls, s.Reads[j].Failing = Unknown, nil, nil
			}
		}
	}
	return connect(states)
}

func (w *Watch) ask(ctx context.Context, i int) {
	var ready, feeds, copies answer
	var all sync.WaitGroup
	for path, into := range map[string]*answer{"/readyz": &ready, "/feeds": &feeds, "/subscriptions": &copies} {
		all.Go(func() { *into = w.get(ctx, w.transports[i], w.asked[i].URL+path) })
	}
	all.Wait()
	if ctx.Err() != nil {
		return
	}
	if ready.err != nil {
		w.leave(i)
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	s := &w.states[i]
	status := s.Status
	switch {
	case ready.err != nil:
		s.Status, s.Detail = Down, inWords(ready.err)
	case ready.status == http.StatusOK:
		s.Status, s.Detail = Up, ""
	default:
		var problem struct {
			Detail string `json:"detail"`
		}
		_ = json.Unmarshal(ready.body, &problem) // without a problem document the status code is shown
		if s.Status, s.Detail = NotReady, problem.Detail; s.Detail == "" {
			s.Detail = "It answers " + http.StatusText(ready.status) + "."
		}
	}
	known := replace(&s.Publishes, feeds)
	known = replace(&s.Reads, copies) && known
	s.refuses = refused(feeds) || refused(copies)
	switch {
	case s.Status != Up:
	case s.refuses:
		s.Detail = "It answers, but the map may not read its feeds and copies."
	case !known:
		s.Status, s.Detail = NotReady, "It answers, but not as a service of this company does. Another program may have its address."
	}
	if s.Status != status {
		s.Since = time.Now().UTC()
	}
}

// replace keeps the earlier list if there is no answer. A 404 means that the service publishes, or reads, nothing.
// replace reports whether the answer, if there is one, is what a service answers.
func replace[T any](list *[]T, a answer) bool {
	var fresh []T
	switch {
	case a.err == nil && a.status == http.StatusNotFound:
	case a.status == http.StatusOK && json.Unmarshal(a.body, &fresh) == nil && fresh != nil:
	default:
		return a.err != nil || a.status != http.StatusOK
	}
	*list = fresh
	return true
}

type answer struct {
	status int
	body   []byte
	err    error
}

// refused reports whether the answer requires a token, or another one.
func refused(a answer) bool {
	return a.err == nil && (a.status == http.StatusUnauthorized || a.status == http.StatusForbidden)
}

// leave makes the next request to a service use a new connection. A dead one, for example behind a forwarder that
// forgot it, would otherwise be used until the system gives it up; with HTTP/2, by every request.
func (w *Watch) leave(i int) {
	before := w.transports[i]
	w.transports[i] = before.Clone()
	before.CloseIdleConnections()
}

func (w *Watch) get(ctx context.Context, transport *http.Transport, url string) (a answer) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return answer{err: err}
	}
	req.Header.Set("Accept", "application/json")
	if w.token != "" {
		req.Header.Set("Authorization", "Bearer "+w.token)
	}
	client := &http.Client{Transport: transport, Timeout: timeout, CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
	resp, err := client.Do(req)
	if err != nil {
		return answer{err: err}
	}
	defer resp.Body.Close()
	a.status = resp.StatusCode
	a.body, a.err = io.ReadAll(io.LimitReader(resp.Body, maxBody))
	return a
}
