package topology

import (
	"cmp"
	"fmt"
	"slices"

	"github.com/edison-cars/data-feeds/shared/web"
)

// The ranks of services and copies in lists: trouble first.
const (
	broken = iota // it does not serve, or not what the source has
	ailing        // it serves, but gets older, or lacks entries
	busy          // it is paused, resyncing or catching up
	calm
	outside // not of the company
)

func (s State) rank() int {
	rank := calm
	switch {
	case s.Status == Down || s.Status == NotReady:
		return broken
	case s.refuses:
		rank = ailing
	case s.Status == Unknown:
		return outside
	}
	for _, c := range s.Reads {
		rank = min(rank, c.rank())
	}
	return rank
}

func (c Copy) rank() int {
	switch {
	case c.State == "diverged":
		return broken
	case c.State == "stale", c.Failing != nil, c.Rejected > 0:
		return ailing
	case c.State == "fresh" && c.Behind == 0:
		return calm
	case c.State == "" || c.State == Unknown: // its service is in trouble, and says nothing of it
		return outside
	}
	return busy
}

// Why returns what is wrong with the copy, or what it is busy with; empty is nothing.
func (c Copy) Why() (why string) {
	switch {
	case c.State == "diverged":
		why = "the source has another history than the copy"
	case c.State == "stale":
		why = "it has missed polls"
	case c.State == "paused":
		why = "polls are paused; resume them on its page"
	case c.State == "resyncing":
		why = "it is read again from its first entry"
	case c.Behind > 0 && c.State == "fresh":
		why = "it is catching up"
	}
	if c.Failing != nil {
		why = "polls fail since " + c.Failing.Format("15:04:05") + " UTC"
	}
	if c.Rejected > 0 {
		if why != "" {
			why += "; "
		}
		why += fmt.Sprintf("%s rejected, retry or drop them on its page", entries(int64(c.Rejected)))
	}
	return why
}

func entries(n int64) string {
	if n == 1 {
		return "1 entry"
	}
	return web.Num(n) + " entries"
}

// A placed copy is one with its service.
type placed struct {
	*State
	Copy
}

// Copies returns the copies of all services, trouble first.
func (v view) Copies() (all []placed) {
	for i := range v.States {
		for _, c := range v.States[i].Reads {
			all = append(all, placed{&v.States[i], c})
		}
	}
	slices.SortStableFunc(all, func(a, b placed) int { return cmp.Compare(a.Copy.rank(), b.Copy.rank()) })
	return all
}

func troubleFirst(states []State) []State {
	sorted := slices.Clone(states)
	slices.SortStableFunc(sorted, func(a, b State) int { return cmp.Compare(a.rank(), b.rank()) })
	return sorted
}
