package shipping

import (
	"slices"
	"testing"
	"time"
)

// No car leaves by copies that a dump has brought back: its order may have been cancelled since, or the account
// deleted.
func TestNothingLeavesByAnOldCopy(t *testing.T) {
	t.Parallel()
	for _, f := range Service().Feeds {
		for when, restored := range map[string]struct {
			since time.Duration // the last poll of the dump
			start bool
		}{
			"before the start": {24 * time.Hour, true}, "just before the start": {0, true}, "before the start, by a clock that was ahead": {-time.Hour, true},
			"under a process": {24 * time.Hour, false}, "under a process, by a clock that was ahead": {-time.Hour, false},
		} {
			t.Run(f.Name+" restored "+when, func(t *testing.T) {
				t.Parallel()
				d := newDepot(t)
				want := func(status string) {
					t.Helper()
					if err := d.do(t.Context(), pickup); err != nil {
						t.Fatal(err)
					}
					if got := d.states(t); !slices.Equal(got, []string{status + ": Customer 1 in Köln"}) {
						t.Fatalf("%q, want %s", got, status)
					}
				}
				if err := d.do(t.Context(), pickup); err != nil {
					t.Fatal(err)
				}
				for _, e := range []event{signedUp(1, 1, "Köln"), built(1, 3, "finished", 1)} {
					if err := d.do(t.Context(), e); err != nil {
						t.Fatal(err)
					}
				}
				if restored.start {
					d.current.Begin()
					for _, other := range d.feeds {
						if other.Name != f.Name {
							d.polled(t, other.Name)
						}
					}
				}
				d.lastPolled(t, f.Name, time.Now().Add(-restored.since))
				want("ready v1")
				if behind := d.current.Behind(); !slices.Equal(behind, []string{f.Name}) {
					t.Errorf("the page says %q", behind)
				}
				d.polled(t, f.Name)
				want("shipped v2")
				if behind := d.current.Behind(); len(behind) > 0 {
					t.Errorf("the page says %q", behind)
				}
			})
		}
	}
}
