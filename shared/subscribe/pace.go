package subscribe

import (
	"math"
	"time"

	"github.com/edison-cars/data-feeds/shared/feed"
)

// A pace is the speed at which a poll copies.
type pace struct {
	began, said time.Time
	copied      int   // entries
	left        int64 // as far as the source has said
}

// perSecond returns the entries copied per second, or 0 during the first half second.
func (p pace) perSecond(now time.Time) float64 {
	if took := now.Sub(p.began).Seconds(); took > 0.5 {
		return float64(p.copied) / took
	}
	return 0
}

// copying logs the progress: every five seconds, and when all is copied.
func (st *state) copying(so *pace, page *feed.Page, to progress) {
	done := page == nil || page.UpToDate
	if page != nil {
		so.copied += len(page.Entries)
	}
	so.left = max(to.headPosition-to.cursor.Position, 0)
	if to.inSnapshot() { // nobody says how many entities are left
		so.left = 0
	}
	now := time.Now()
	if so.copied > 0 && (done || now.Sub(so.said) > progressEvery) {
		so.said = now
		attrs := []any{"feed", st.Name, "entries", so.copied, "cursor", to.cursor.String(), "behind", so.left}
		if rate := so.perSecond(now); rate > 0 {
			attrs = append(attrs, "per_second", int(rate))
			if so.left > 0 {
				left := min(float64(so.left)/rate, time.Duration(math.MaxInt64).Truncate(time.Hour).Seconds())
				attrs = append(attrs, "time_left", time.Duration(left*float64(time.Second)).Round(time.Second))
			}
		}
		st.logger.Info("copied", attrs...)
	}
	st.mu.Lock()
	defer st.mu.Unlock()
	if st.pace = *so; done {
		st.pace = pace{}
	}
}
