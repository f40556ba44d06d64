package warehouse

import (
	"context"
	"net/http"
	"net/http/httptest"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/edison-cars/data-feeds/shared/carbuild"
	"github.com/edison-cars/data-feeds/shared/feed"
	"github.com/edison-cars/data-feeds/shared/order"
	"github.com/edison-cars/data-feeds/shared/postgres/pgtest"
	"github.com/edison-cars/data-feeds/shared/web"
	"github.com/edison-cars/data-feeds/sql"
)

func partNamed(t *testing.T, pool *pgxpool.Pool, name string) part {
	t.Helper()
	p, err := findPart(t.Context(), pool, name)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func movements(t *testing.T, pool *pgxpool.Pool, query, part string) movementList {
	t.Helper()
	list, err := readMovements(httptest.NewRequest(http.MethodGet, "/?"+query, nil), pool, part)
	if err != nil {
		t.Fatal(err)
	}
	return list
}

func TestArrivals(t *testing.T) {
	t.Parallel()
	pool := pgtest.New(t, sql.Migrations("subscribe"), sql.Migrations("warehouse"))
	began := time.Now()
	copyPage(t, pool, entry(t, 1, 1, order.Placed, line(15, "joule"))) // 5 of 20 body shells are left
	copyPage(t, pool, entry(t, 2, 1, order.Placed, line(40, "joule")))
	wantPurchases(t, pool, "body-van", 10, 40)
	const lead = 10 * 24 * time.Hour
	for _, step := range []struct {
		name            string
		at              time.Time
		onHand, onOrder int64
	}{
		{"nothing before its time", began.Add(lead - time.Minute), 20, 50},
		{"everything that is due", time.Now().Add(lead + time.Minute), 70, 0},
		{"each once", time.Now().Add(2 * lead), 70, 0},
	} {
		var all sync.WaitGroup
		for range 4 { // processes that take each other for dead
			all.Go(func() {
				if err := book(t.Context(), pool, step.at); err != nil {
					t.Error(err)
				}
			})
		}
		all.Wait()
		if p := partNamed(t, pool, "body-van"); p.OnHand != step.onHand || p.OnOrder != step.onOrder || p.Reserved != 55 {
			t.Errorf("%s: %+v", step.name, p)
		}
		wantSums(t, pool)
	}

	var why, changes []string
	for _, m := range movements(t, pool, "", "body-van").Items {
		why, changes = append(why, m.Why()), append(changes, m.Change())
	}
	first, second := entry(t, 1, 1, "").ID.String()[28:], entry(t, 2, 1, "").ID.String()[28:]
	of := regexp.MustCompile(`Purchase \d+`)
	if got, want := of.ReplaceAllString(strings.Join(why, "; "), "Purchase"), "Purchase arrived; Purchase arrived; Purchase ordered; Reserved for order "+second+
		"; Purchase ordered; Reserved for order "+first+"; Stock counted"; got != want {
		t.Errorf("%s, not\n%s", got, want)
	}
	if got, want := strings.Join(changes, "; "), "on hand +40, on order −40; on hand +10, on order −10; on order +40; reserved +40; on order +10; reserved +15; on hand +20"; got != want {
		t.Errorf("%s, not\n%s", got, want)
	}
	if list, err := underWay(t.Context(), pool, 10); err != nil || len(list) != 0 {
		t.Errorf("%d purchases are under way, %v", len(list), err)
	}
}

// A page applied again, and all of them in a walk that reads the feed again from its start, move nothing.
func TestNoMovementWithoutAChange(t *testing.T) {
	t.Parallel()
	pool := pgtest.New(t, sql.Migrations("subscribe"), sql.Migrations("warehouse"))
	page := []feed.Entry{entry(t, 1, 1, order.Placed, line(3, "volta", "heat_pump")), entry(t, 2, 1, order.Placed, line(1, "ohm"))}
	copyPage(t, pool, page...)
	moved := len(movements(t, pool, "", "").Items)
	if _, err := pool.Exec(t.Context(), `update orders set version = 0`); err != nil { // as after a walk: everything is newer
		t.Fatal(err)
	}
	copyPage(t, pool, page...)
	if again := len(movements(t, pool, "", "").Items); again != moved {
		t.Errorf("%d movements became %d", moved, again)
	}
	copyPage(t, pool, entry(t, 1, 2, order.Placed, line(4, "volta"))) // only the difference moves
	copyBuilds(t, pool, built(1, 1, 1, carbuild.Finished, "volta"))
	moved = len(movements(t, pool, "", "").Items)
	if _, err := pool.Exec(t.Context(), `update build set version = 0`); err != nil {
		t.Fatal(err)
	}
	copyBuilds(t, pool, built(1, 1, 1, carbuild.Finished, "volta"))
	if again := len(movements(t, pool, "", "").Items); again != moved {
		t.Errorf("with a build, %d movements became %d", moved, again)
	}
	if m := movements(t, pool, "", "body-small").Items[0]; m.OnHand != -1 || m.Reserved != -1 || m.OnHandAfter != 29 || !strings.HasPrefix(m.Why(), "Built in for order ") {
		t.Errorf("%+v", m)
	}
	if m := movements(t, pool, "", "heat-pump").Items[0]; m.Reserved != -3 || m.ReservedAfter != 0 {
		t.Errorf("%+v", m)
	}
	if m := movements(t, pool, "", "wheel").Items[1]; m.Reserved != 4 || m.ReservedAfter != 20 {
		t.Errorf("%+v", m)
	}
}

func TestLists(t *testing.T) {
	t.Parallel()
	pgtest.Slow(t, "many pages")
	pool := pgtest.New(t, sql.Migrations("subscribe"), sql.Migrations("warehouse"))
	ctx, stop := context.WithCancel(t.Context())
	var booking sync.WaitGroup
	booking.Go(func() { // which must not get in the way of the copy
		for ctx.Err() == nil {
			if err := book(ctx, pool, time.Now().AddDate(1, 0, 0)); err != nil && ctx.Err() == nil {
				t.Error(err)
			}
		}
	})
	for i := range 2*listed + 5 {
		copyPage(t, pool, entry(t, i, 1, order.Placed, line(9, "volta"))) // 45 battery modules each
	}
	stop()
	booking.Wait()
	var walked []movement
	for query := ""; ; {
		list := movements(t, pool, query, "battery-module")
		if (list.Newest == "") != (query == "") || len(list.Items) > listed {
			t.Fatalf("%d movements, newest %s", len(list.Items), list.Newest)
		}
		if line := list.OnHandLine(); !strings.HasPrefix(line, "M0 ") || !strings.HasSuffix(line, "H100") || strings.Contains(line, "NaN") {
			t.Errorf("a line %s", line)
		}
		walked = append(walked, list.Items...)
		if list.Newer != "" {
			if back := movements(t, pool, strings.TrimPrefix(list.Newer, "/?"), "battery-module"); len(back.Items) != listed || back.Items[listed-1].ID <= list.Items[0].ID {
				t.Errorf("back to %s: %d movements", list.Newer, len(back.Items))
			}
		}
		if list.Older == "" {
			break
		}
		query = strings.TrimPrefix(list.Older, "/?")
	}
	var all int
	if err := pool.QueryRow(t.Context(), `select count(*) from movement where part = 'battery-module'`).Scan(&all); err != nil {
		t.Fatal(err)
	}
	seen := map[int64]bool{}
	for _, m := range walked {
		seen[m.ID] = true
	}
	if len(walked) != all || len(seen) != all || all <= 2*listed || walked[all-1].Why() != "Stock counted" {
		t.Errorf("of %d movements the pages have %d, %d different ones", all, len(walked), len(seen))
	}
	for _, bad := range []string{"before=0", "before=-1", "before=x"} {
		r := httptest.NewRequest(http.MethodGet, "/?"+bad, nil)
		if _, err := readMovements(r, pool, ""); web.StatusOf(err) != http.StatusBadRequest || !strings.Contains(err.Error(), "parameter before") {
			t.Errorf("%s: %v", bad, err)
		}
		if _, err := readPurchases(r, pool); web.StatusOf(err) != http.StatusBadRequest {
			t.Errorf("%s: %v", bad, err)
		}
	}
	if _, err := readMovements(httptest.NewRequest(http.MethodGet, "/", nil), pool, "anchor"); web.StatusOf(err) != http.StatusNotFound {
		t.Error(err)
	}
	purchases, err := readPurchases(httptest.NewRequest(http.MethodGet, "/?before=3", nil), pool)
	if err != nil || len(purchases.Items) != 2 || purchases.Items[0].Number != 2 || purchases.Newest == "" || purchases.Older != "" {
		t.Errorf("%+v, %v", purchases, err)
	}
	for q, want := range map[string]int{"2": 1, "999999": 0, entry(t, 1, 1, "").ID.String(): 0} {
		if found, err := readPurchases(httptest.NewRequest(http.MethodGet, "/?q="+q, nil), pool); err != nil || len(found.Items) != want {
			t.Errorf("purchases %s: %+v, %v", q, found, err)
		}
	}
	for q, want := range map[string]int{"2": 2, entry(t, 1, 1, "").ID.String(): 6, entry(t, 1, 1, "").ID.String()[:13]: 6, entry(t, 1, 1, "").ID.String()[28:]: 6} {
		if found := movements(t, pool, "q="+q, ""); len(found.Items) != want {
			t.Errorf("movements of %s: %+v", q, found)
		}
	}
	list, err := suppliers(t.Context(), pool)
	if err != nil {
		t.Fatal(err)
	}
	delivered := map[string]bool{}
	for _, s := range list {
		for _, part := range s.Parts {
			delivered[part] = true
		}
	}
	if len(delivered) != 12 {
		t.Errorf("%d parts have a supplier", len(delivered))
	}
}

func TestLeadSpeed(t *testing.T) {
	t.Parallel()
	for text, ok := range map[string]bool{"1": true, "0.5": true, "20000": true, "0": false, "-1": false, "NaN": false, "Inf": false, "fast": false, "1e7": false} {
		err := new(speed).UnmarshalText([]byte(text))
		if (err == nil) != ok || !ok && !strings.Contains(err.Error(), "from 0.001 to 1000000") {
			t.Errorf("%s: %v", text, err)
		}
	}
}

// What was ordered while the clock was ahead comes when its time is over from now on.
func TestOrderedInTheFuture(t *testing.T) {
	t.Parallel()
	pool := pgtest.New(t, sql.Migrations("subscribe"), sql.Migrations("warehouse"))
	copyPage(t, pool, entry(t, 1, 1, order.Placed, line(15, "joule")))
	wantPurchases(t, pool, "body-van", 10)
	if _, err := pool.Exec(t.Context(), `update purchase set ordered_at = ordered_at + interval '74 years', due_at = due_at + interval '74 years'`); err != nil {
		t.Fatal(err)
	}
	now := time.Now()
	const lead = 10 * 24 * time.Hour
	for _, step := range []struct {
		at     time.Time
		onHand int64
	}{{now, 20}, {now.Add(lead - time.Minute), 20}, {now.Add(lead + time.Minute), 30}} {
		if err := book(t.Context(), pool, step.at); err != nil {
			t.Fatal(err)
		}
		if p := partNamed(t, pool, "body-van"); p.OnHand != step.onHand {
			t.Errorf("after %v: %+v", step.at.Sub(now), p)
		}
	}
}

// What has no time that a clock shows has come, and holds up nothing else.
func TestOrderedAtNoTime(t *testing.T) {
	t.Parallel()
	pool := pgtest.New(t, sql.Migrations("subscribe"), sql.Migrations("warehouse"))
	onHand := int64(20)
	for n, set := range []string{
		`ordered_at = 'infinity'`, `due_at = 'infinity'`, `ordered_at = 'infinity', due_at = 'infinity'`, `ordered_at = '-infinity', due_at = '-infinity'`,
		`ordered_at = '-infinity', due_at = 'infinity'`, `ordered_at = 'infinity', due_at = '-infinity'`,
	} {
		copyPage(t, pool, entry(t, n+1, 1, order.Placed, line(15, "joule")))
		var ordered int64
		if err := pool.QueryRow(t.Context(), `select on_order from part where part = 'body-van'`).Scan(&ordered); err != nil || ordered == 0 {
			t.Fatalf("%d on order, %v", ordered, err)
		}
		if _, err := pool.Exec(t.Context(), `update purchase set `+set+` where arrived_at is null`); err != nil {
			t.Fatal(err)
		}
		if err := book(t.Context(), pool, time.Now()); err != nil {
			t.Fatalf("%s: %v", set, err)
		}
		onHand += ordered
		if p := partNamed(t, pool, "body-van"); p.OnHand != onHand || p.OnOrder != 0 {
			t.Errorf("%s: %+v, not %d on hand", set, p, onHand)
		}
		if _, err := readPurchases(httptest.NewRequest("GET", "/purchases", nil), pool); err != nil {
			t.Errorf("%s: %v", set, err)
		}
	}
}
