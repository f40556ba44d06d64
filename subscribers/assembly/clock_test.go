package assembly

import (
	"context"
	"encoding/json"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/edison-cars/data-feeds/shared/carbuild"
	"github.com/edison-cars/data-feeds/shared/order"
	"github.com/edison-cars/data-feeds/shared/postgres/pgtest"
)

// Whatever the clock shows, orders are planned and built, and every time on the feed is one that readers take.
func TestClockOutOfRange(t *testing.T) {
	t.Parallel()
	pgtest.Slow(t, "many runs")
	for name, statement := range map[string]string{
		"close to the end":             `update clock set factory_at = '9999-12-30'`,
		"at the end":                   `update clock set factory_at = '9999-12-31 23:59:59.999999+00'`,
		"after the end":                `update clock set factory_at = '10000-01-02'`,
		"at PostgreSQL's end":          `update clock set factory_at = '294276-12-31'`,
		"never":                        `update clock set factory_at = 'infinity'`,
		"ever":                         `update clock set factory_at = '-infinity'`,
		"before Christ":                `update clock set factory_at = '4713-01-01 BC'`,
		"in the year 1":                `update clock set factory_at = '0001-01-01'`,
		"long ago":                     `update clock set factory_at = '1900-01-01'`,
		"real time ahead":              `update clock set real_at = '2100-01-01'`,
		"real time never":              `update clock set real_at = 'infinity'`,
		"real time ever":               `update clock set real_at = '-infinity'`,
		"real time before Christ":      `update clock set real_at = '4713-01-01 BC'`,
		"no speed":                     `update clock set speed = 0`,
		"a speed that is none":         `update clock set speed = 'NaN'`,
		"a speed without an end":       `update clock set speed = 'infinity'`,
		"backwards":                    `update clock set speed = -2880`,
		"no clock":                     `delete from clock`,
		"every day of a past is taken": `insert into slot select date '2026-11-01' + i, 2 from generate_series(0, 100000) as i on conflict do nothing; update clock set factory_at = '5000-01-01'`,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			p := newPlant(t, 2, 2880)
			p.copyPage(t, entry(t, 1, 1, order.Placed, line(3, "volta")))
			if _, err := p.pool.Exec(t.Context(), statement); err != nil {
				t.Fatal(err)
			}
			if err := p.tryPage(entry(t, 2, 1, order.Placed, line(3, "volta")), entry(t, 3, 1, order.Placed, line(1, "ohm"))); err != nil {
				t.Fatal(err)
			}
			if err := p.tryPage(entry(t, 3, 2, order.Cancelled, line(1, "ohm"))); err != nil {
				t.Fatal(err)
			}
			if _, err := p.overview(t.Context(), p.pool, p.now); err != nil {
				t.Error(err)
			}
			for range 20 { // 30 s are a day
				p.now = p.now.Add(10 * time.Second)
				if err := p.work(t.Context(), p.pool, p.log, p.now); err != nil {
					t.Fatal(err)
				}
			}
			for _, b := range p.builds(t, nil) {
				if b.Status != carbuild.Finished && b.OrderID != orderID(3) {
					t.Errorf("%+v", b)
				}
			}
			o, err := p.overview(t.Context(), p.pool, p.now)
			if err != nil || !told(o.Clock) {
				t.Errorf("%+v, %v", o, err)
			}
			p.wantTimes(t)
		})
	}
}

// wantTimes checks the times of all that was published.
func (p *plant) wantTimes(t *testing.T) {
	t.Helper()
	rows, err := p.pool.Query(context.Background(), `select payload from feed_entry`)
	if err != nil {
		t.Fatal(err)
	}
	defer rows.Close()
	for rows.Next() {
		var payload []byte
		if err := rows.Scan(&payload); err != nil {
			t.Fatal(err)
		}
		var b carbuild.Build
		if err := json.Unmarshal(payload, &b); err != nil {
			t.Errorf("%s: %v", payload, err)
		}
		if _, err := time.Parse(time.DateOnly, b.Slot); err != nil {
			t.Errorf("%s: %v", payload, err)
		}
		if strings.Contains(fmt.Sprint(b.UpdatedAt), "BC") || b.UpdatedAt.Year() < 1 || b.UpdatedAt.Year() > 9999 {
			t.Errorf("%s", payload)
		}
	}
	if err := rows.Err(); err != nil {
		t.Fatal(err)
	}
}

// The machine's clock is right again after it was far ahead, and after it was behind: the factory goes on at once.
func TestRealClockSet(t *testing.T) {
	t.Parallel()
	for name, wrong := range map[string]time.Time{
		"an hour ahead": morning.Add(time.Hour), "in 2100": time.Date(2100, 1, 1, 0, 0, 0, 0, time.UTC), "in 9998": time.Date(9998, 1, 1, 0, 0, 0, 0, time.UTC),
		"an hour behind": morning.Add(-time.Hour), "in 1970": time.Unix(0, 0).UTC(),
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			p := newPlant(t, 2, 2880)
			p.copyPage(t, entry(t, 1, 1, order.Placed, line(1, "volta")))
			p.now = wrong
			p.copyPage(t, entry(t, 2, 1, order.Placed, line(3, "volta")))
			if err := p.work(t.Context(), p.pool, p.log, p.now); err != nil {
				t.Fatal(err)
			}
			p.now = morning
			p.copyPage(t, entry(t, 3, 1, order.Placed, line(3, "volta")))
			for range 20 {
				p.now = p.now.Add(10 * time.Second)
				if err := p.work(t.Context(), p.pool, p.log, p.now); err != nil {
					t.Fatal(err)
				}
			}
			for _, b := range p.builds(t, nil) {
				if b.Status != carbuild.Finished {
					t.Errorf("%+v", b)
				}
			}
			p.wantTimes(t)
		})
	}
}

// The clock comes to its end by itself: what is under way is finished, in its order, and what comes is planned for free
// days.
func TestClockBeginsAgain(t *testing.T) {
	t.Parallel()
	p := newPlant(t, 1, 10_000)
	p.copyPage(t, entry(t, 1, 1, order.Placed, line(2, "volta")))
	p.pass(t, 100*24*time.Hour)
	p.pass(t, time.Minute)
	if _, err := p.pool.Exec(t.Context(), `update clock set factory_at = '4999-12-25', real_at = $1`, p.now); err != nil {
		t.Fatal(err)
	}
	p.copyPage(t, entry(t, 2, 1, order.Placed, line(20, "volta")))
	for range 40 {
		p.now = p.now.Add(5 * time.Second)
		if err := p.work(t.Context(), p.pool, p.log, p.now); err != nil {
			t.Fatal(err)
		}
	}
	var before int
	if err := p.tryPage(entry(t, 3, 1, order.Placed, line(1, "ohm"))); err != nil {
		t.Fatal(err)
	}
	for _, b := range p.builds(t, nil) {
		if b.OrderID == orderID(3) && !strings.HasPrefix(b.Slot, "2027") {
			t.Errorf("%+v", b)
		}
		if b.OrderID == orderID(2) && b.Status == carbuild.Finished {
			before++
		}
	}
	if before != 20 {
		t.Errorf("%d of 20 are finished", before)
	}
}
