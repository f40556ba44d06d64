package shipping

import (
	"slices"
	"testing"
	"time"
)

// No car leaves by copies that a dump has brought back: its order may have been cancelled since, or the account deleted.
func TestNothingLeavesByAnOldCopy(t *testing.T) {
	t.Parallel()
	for _, f := range Service().Feeds {
		for when, before := range map[string]bool{"before the start": true, "under a process": false} {
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
				if !before {
					if err := d.do(t.Context(), pickup); err != nil {
						t.Fatal(err)
					}
				}
				for _, e := range []event{signedUp(1, 1, "Köln"), built(1, 3, "finished", 1)} {
					if err := d.do(t.Context(), e); err != nil {
						t.Fatal(err)
					}
				}
				d.polled(t, f.Name, -24*time.Hour)
				if before { // the dump may be of just before
					d.polled(t, f.Name, 0)
					d.current.Begin(time.Now())
				}
				want("ready v1")
				if behind := d.current.Behind(); !slices.Equal(behind, []string{f.Name}) {
					t.Errorf("the page says %q", behind)
				}
				d.polled(t, f.Name, 2*time.Hour)
				want("shipped v2")
				if behind := d.current.Behind(); len(behind) > 0 {
					t.Errorf("the page says %q", behind)
				}
			})
		}
	}
}
