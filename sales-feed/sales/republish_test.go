package sales

import (
	"bytes"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/edison-cars/data-feeds/shared/postgres/pgtest"
)

// An order is republished while its buyer cancels it, and no version is lost.
func TestRepublish(t *testing.T) {
	t.Parallel()
	s := open(t)
	var ids []uuid.UUID
	for range 6 {
		_, o := s.buy(t, twoOhms)
		ids = append(ids, o.ID)
	}
	settings := parsed(t, map[string]string{"DATABASE_URL": pgtest.URL(s.pool)})
	republish := func(rate int, after uuid.UUID, want string) {
		t.Helper()
		var out bytes.Buffer
		if err := Republish(t.Context(), settings, &out, rate, after); err != nil || !strings.HasSuffix(out.String(), want) {
			t.Errorf("%v, %s", err, &out)
		}
	}
	var cancelling sync.WaitGroup
	cancelling.Go(func() {
		for _, id := range slices.Backward(ids) {
			if resp, body := s.do(t, "POST", "/orders/"+id.String()+"/cancel", ""); resp.StatusCode != 200 {
				t.Errorf("cancel %s: %d %s", id, resp.StatusCode, body)
			}
		}
	})
	began := time.Now()
	republish(20, uuid.Nil, "Entities appended to feed orders: 6\n")
	if took := time.Since(began); took < 250*time.Millisecond { // five of them wait for the rate
		t.Errorf("20 a second: 6 took %v", took)
	}
	cancelling.Wait()
	entries := s.entries(t)
	newest := map[uuid.UUID]int64{}
	for _, e := range entries {
		if newest[e.ID]++; e.Version != newest[e.ID] {
			t.Errorf("version %d of %s comes as number %d", e.Version, e.ID, newest[e.ID])
		}
	}
	if len(entries) != 18 {
		t.Errorf("%d entries, want each order placed, republished and cancelled", len(entries))
	}
	for _, e := range entries[len(entries)-3:] {
		_, body := s.do(t, "GET", "/orders/"+e.ID.String(), "")
		if newest[e.ID] == e.Version && strings.TrimSpace(body) != string(e.Entity) {
			t.Errorf("the order is %s\nand on the feed %s", body, e.Entity)
		}
	}
	republish(1000, ids[4], "Entities appended to feed orders: 1\n")
	if more := s.entries(t)[18:]; len(more) != 1 || more[0].ID != ids[5] {
		t.Errorf("after the fifth order: %v", more)
	}
}
