// Package topology shows the whole company on one page: its services, the feeds that each publishes and reads, and
// their current state. It knows only the services' addresses, and asks them for everything else.
package topology

import (
	"context"
	"errors"
	"net/url"
	"slices"
	"strings"
	"time"
)

// withoutUser returns the URL without its user and password, which are only the map's.
func withoutUser(text string) string {
	u, err := url.Parse(text)
	if err != nil || u.User == nil {
		return text
	}
	u.User = nil
	return u.String()
}

// The statuses of a service.
const (
	Up       = "up"
	NotReady = "not ready" // it answers, but cannot serve: usually its database is down
	Down     = "down"
	Unknown  = "unknown" // not asked yet, or outside the company
)

// A State is the state of a service when it was last asked. The feeds and copies are from its last answer about them.
type State struct {
	Name      string    `json:"service"`
	URL       string    `json:"url"` // for browsers
	Text      string    `json:"description,omitempty"`
	Status    string    `json:"status"`
	Since     time.Time `json:"since"`            // of this status
	Detail    string    `json:"detail,omitempty"` // why it is not up, or does not show its feeds and copies
	Publishes []Feed    `json:"publishes"`
	Reads     []Copy    `json:"reads"`

	askedAt string // its URL, as its readers may know it
	refuses bool   // it requires a token, or another one, for its feeds or copies
}

// A Feed is a feed that a service lists at /feeds.
type Feed struct {
	Name    string `json:"feed"`
	URL     string `json:"url"`
	Entries int64  `json:"entries"` // -1: unknown
}

// A Copy is a copy that a service lists at /subscriptions.
type Copy struct {
	Feed      string      `json:"feed"`
	URL       string      `json:"url"`
	Source    string      `json:"source"` // the service, or the host if it is not of the company
	State     string      `json:"state"`  // as listed; "unknown" while the service is down
	AsOf      *time.Time  `json:"as_of"`
	Failing   *time.Time  `json:"failing_since"`
	Behind    int64       `json:"lag_entries"`
	Schedule  string      `json:"schedule"`
	NextPolls []time.Time `json:"next_polls"`
	LastError *string     `json:"last_error"`
	Rejected  int         `json:"rejected_entries"`
}

// connect finds the service of each feed that is read. A source outside the company joins the list. A feed that is read
// counts as published, even while its service does not list it.
func connect(states []State) []State {
	asked := len(states)
	for i := range asked {
		for j := range states[i].Reads {
			c := &states[i].Reads[j]
			c.URL = withoutUser(c.URL)
			base, _, _ := strings.Cut(c.URL, "/feeds/")
			k := sourceOf(states, c, base)
			if k < 0 {
				u, err := url.Parse(base)
				if err != nil {
					continue
				}
				k = len(states)
				states = append(states, State{Name: u.Host, URL: base, Status: Unknown, askedAt: base})
			}
			c.Source = states[k].Name
			if states[k].feed(c.Feed) < 0 {
				name, _, _ := strings.Cut(c.Feed, "@") // orders, of the copy orders@eu
				states[k].Publishes = append(states[k].Publishes, Feed{Name: name, URL: states[k].URL + "/feeds/" + name, Entries: -1})
			}
		}
	}
	return states
}

func sourceOf(states []State, c *Copy, base string) int {
	return slices.IndexFunc(states, func(s State) bool {
		return s.askedAt == base || slices.ContainsFunc(s.Publishes, func(f Feed) bool { return f.URL == c.URL })
	})
}

func (s *State) feed(name string) int {
	name, _, _ = strings.Cut(name, "@") // of one of several sources
	return slices.IndexFunc(s.Publishes, func(f Feed) bool { return f.Name == name })
}

func inWords(err error) string {
	var slow interface{ Timeout() bool }
	if errors.Is(err, context.DeadlineExceeded) || errors.As(err, &slow) && slow.Timeout() {
		return "It does not answer in time."
	}
	return "It cannot be reached."
}
