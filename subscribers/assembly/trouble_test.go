package assembly

import (
	"strings"
	"testing"
	"time"

	"github.com/edison-cars/data-feeds/shared/order"
	"github.com/edison-cars/data-feeds/shared/web"
)

// The page begins with what waits, and why, if anything does.
func TestTroubleFirst(t *testing.T) {
	t.Parallel()
	p := newPlant(t, 2, 2880)
	show := func() string {
		t.Helper()
		o, err := p.overview(t.Context(), p.pool, p.now)
		if err != nil {
			t.Fatal(err)
		}
		page, err := web.Execute(overviewPage, web.Page{Data: o})
		if err != nil {
			t.Fatal(err)
		}
		text := string(page)
		if trouble := strings.Index(text, "banner stale"); trouble > strings.Index(text, "<dl") {
			t.Error("trouble is not first")
		}
		return text
	}
	p.copyPage(t, entry(t, 1, 1, order.Placed, line(1, "volta")))
	if page := show(); strings.Contains(page, "banner stale") {
		t.Errorf("a free slot is left: %s", page)
	}
	p.copyPage(t, entry(t, 2, 1, order.Placed, line(2, "ohm")), entry(t, 3, 1, order.Placed, line(1, "ohm")))
	var day time.Time
	if err := p.pool.QueryRow(t.Context(), `select max(day) + 1 from slot`).Scan(&day); err != nil {
		t.Fatal(err)
	}
	want := "<strong>4 cars wait for a slot:</strong> the factory builds 2 a day, and has no free slot before " + day.Format(dayFormat)
	if page := show(); !strings.Contains(page, want) || strings.Contains(page, "stands still") {
		t.Errorf("not %s in %s", want, page)
	}
	p.now = p.now.Add(time.Minute) // two days of the factory
	if page := show(); !strings.Contains(page, "<strong>The line stands still:</strong>") {
		t.Error(page)
	}
}
