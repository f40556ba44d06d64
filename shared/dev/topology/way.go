package topology

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/google/uuid"

	"github.com/edison-cars/data-feeds/shared/trace"
)

// A Way is what all services know of an order, or of a customer.
type Way struct {
	ID         uuid.UUID  `json:"id"`          // that was asked for
	OrderID    *uuid.UUID `json:"order_id"`    // null if no service that answered knows an order by the id
	CustomerID *uuid.UUID `json:"customer_id"` // null if not known
	Steps      []WayStep  `json:"steps"`       // oldest first
	WaitsFor   []Wait     `json:"waits_for"`
	Missing    []Missing  `json:"missing"` // services that did not tell their part
}

// A WayStep is a step at a service.
type WayStep struct {
	Service string    `json:"service"`
	At      time.Time `json:"at"`
	Text    string    `json:"text"`
	URL     string    `json:"url,omitempty"`

	After string `json:"-"` // the step before it, in words
}

// A Wait is what a service waits for.
type Wait struct {
	Service string `json:"service"`
	Text    string `json:"text"`
}

// A Missing service did not tell its part.
type Missing struct {
	Service string `json:"service"`
	Why     string `json:"why"`
}

// Known reports whether a service knows the id.
func (w *Way) Known() bool { return w.OrderID != nil || w.CustomerID != nil }

// maxAsked is the number of ids that are followed. One leads to an order and that to a customer, if services agree.
const maxAsked = 4

// follow asks all services for their parts: by the id, and by the order and the customer that it leads to.
func (w *Watch) follow(ctx context.Context, id uuid.UUID) *Way {
	way := &Way{ID: id, Steps: []WayStep{}, WaitsFor: []Wait{}, Missing: []Missing{}}
	steps := map[WayStep]bool{}
	asked := map[uuid.UUID]bool{}
	for next := []uuid.UUID{id}; len(next) > 0; {
		for _, id := range next {
			asked[id] = true
			for i, part := range w.parts(ctx, id, way) {
				if part == nil {
					continue
				}
				if part.OrderID != nil {
					way.OrderID = part.OrderID
				}
				if part.CustomerID != nil {
					way.CustomerID = part.CustomerID
				}
				for _, s := range part.Steps {
					step := WayStep{Service: w.asked[i].Name, At: s.At, Text: s.Text}
					if s.Path != "" {
						step.URL = w.link(i) + s.Path
					}
					if !steps[step] && (way.OrderID == nil || !strings.HasPrefix(s.Path, "/trace/")) {
						steps[step] = true
						way.Steps = append(way.Steps, step)
					}
				}
				for _, text := range part.WaitsFor {
					if wait := (Wait{w.asked[i].Name, text}); !slices.Contains(way.WaitsFor, wait) {
						way.WaitsFor = append(way.WaitsFor, wait)
					}
				}
			}
		}
		next = nil
		for _, id := range []*uuid.UUID{way.OrderID, way.CustomerID} {
			if id != nil && !asked[*id] && len(asked) < maxAsked {
				next = append(next, *id)
			}
		}
	}
	slices.SortStableFunc(way.Steps, func(a, b WayStep) int { return a.At.Compare(b.At) })
	for i := 1; i < len(way.Steps); i++ {
		way.Steps[i].After = span(way.Steps[i].At.Sub(way.Steps[i-1].At))
	}
	return way
}

// parts asks all services at the same time. The part of a service that does not tell it is nil.
func (w *Watch) parts(ctx context.Context, id uuid.UUID, way *Way) []*trace.Part {
	parts, why := make([]*trace.Part, len(w.asked)), make([]string, len(w.asked))
	var all sync.WaitGroup
	for i := range w.asked {
		all.Go(func() {
			a := w.get(ctx, w.tracing, w.asked[i].URL+"/api/trace/"+id.String())
			part := new(trace.Part)
			switch {
			case a.err != nil:
				why[i] = inWords(a.err)
			case refused(a):
				why[i] = "It needs an operator’s token as the map’s FEED_TOKEN."
			case a.status != http.StatusOK || json.Unmarshal(a.body, part) != nil:
				why[i] = "It answers " + http.StatusText(a.status) + "."
			default:
				parts[i] = part
			}
		})
	}
	all.Wait()
	for i, s := range w.asked {
		if why[i] != "" && !slices.ContainsFunc(way.Missing, func(m Missing) bool { return m.Service == s.Name }) {
			way.Missing = append(way.Missing, Missing{s.Name, why[i]})
		}
	}
	return parts
}

// link returns the URL of a service for browsers.
func (w *Watch) link(i int) string {
	if l := w.asked[i].Link; l != "" {
		return l
	}
	return withoutUser(w.asked[i].URL)
}

// span returns a time between two steps in words.
func span(d time.Duration) string {
	whole := int64(d / time.Second)
	switch {
	case d < time.Second:
		return fmt.Sprintf("%d ms", d.Milliseconds())
	case d < time.Minute:
		return fmt.Sprintf("%.1f s", d.Truncate(100*time.Millisecond).Seconds())
	case d < time.Hour:
		return fmt.Sprintf("%d min %d s", whole/60, whole%60)
	}
	return fmt.Sprintf("%d h %d min", whole/3600, whole/60%60)
}
