package dashboard

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/edison-cars/data-feeds/shared/order"
	"github.com/edison-cars/data-feeds/shared/postgres/pgtest"
	"github.com/edison-cars/data-feeds/shared/web"
	"github.com/edison-cars/data-feeds/sql"
)

func TestFilter(t *testing.T) {
	t.Parallel()
	pool := pgtest.New(t, sql.Migrations("subscribe"), sql.Migrations("dashboard"))
	with := line(2, "volta", 100)
	with.Options = []string{"glass_roof", "heat_pump"}
	copyPage(
		t, pool,
		entry(t, 1, 1, order.Placed, "2026-11-21T23:59:59Z", line(1, "ohm", 1)),
		entry(t, 2, 1, order.Placed, "2026-11-22T00:00:00Z", line(1, "volta", 10), with),
		entry(t, 3, 1, order.Cancelled, "2026-11-23T12:00:00Z", with),
		entry(t, 4, 1, order.Placed, "2026-11-23T23:59:59Z", line(1, "volta", 1000)),
	)
	for query, want := range map[string]string{
		"":                              "1211 3 1",
		"from=&to=":                     "1211 3 1",
		"from=2026-11-22":               "1210 2 1",
		"to=2026-11-22":                 "211 2 0",
		"from=2026-11-22&to=2026-11-22": "210 1 0",
		"from=2026-11-24":               "0 0 0",
		"from=9999-12-31":               "0 0 0",
	} {
		s := statsFor(t, pool, query)
		if got := fmt.Sprint(s.RevenueCents, s.Orders, s.Cancelled); got != want {
			t.Errorf("%s: %s, not %s", query, got, want)
		}
	}
	if got, want := statsFor(t, pool, "to=2026-11-22").ByOption, []optionSum{{"glass_roof", 2, 200}, {"heat_pump", 2, 200}}; !slices.Equal(got, want) {
		t.Errorf("%v, not %v", got, want)
	}
	hour := func(t string) time.Time { at, _ := time.Parse(time.RFC3339, t); return at }
	if got, want := statsFor(t, pool, "from=2026-11-21&to=2026-11-23").ByHour, []hourSum{
		{hour("2026-11-21T23:00:00Z"), 1, 1, 1},
		{hour("2026-11-22T00:00:00Z"), 1, 3, 210},
		{hour("2026-11-23T23:00:00Z"), 1, 1, 1000},
	}; !slices.Equal(got, want) {
		t.Errorf("%v, not %v", got, want)
	}
	for query, parameter := range map[string]string{
		"from=yesterday": "from", "from=2026-02-30": "from", "to=23.11.2026": "to", "from=2026-11-23&to=2026-11-22": "to",
		"from=0000-01-01": "from", "to=2026-11-22&to=2026-11-23": "to",
	} {
		r := httptest.NewRequest(http.MethodGet, "/?"+query, nil)
		_, err := stats(r, pool)
		_, errCSV := ordersCSV(pool)(r)
		for _, err := range []error{err, errCSV} {
			if web.StatusOf(err) != http.StatusBadRequest || !strings.Contains(err.Error(), "The parameter "+parameter+" ") {
				t.Errorf("%s: %v", query, err)
			}
		}
	}
}

func TestOrdersCSV(t *testing.T) {
	t.Parallel()
	pool := pgtest.New(t, sql.Migrations("subscribe"), sql.Migrations("dashboard"))
	copyPage(
		t, pool,
		entry(t, 1, 1, order.Placed, "2026-11-22T12:00:00Z", line(1, "volta", 2_699_000), line(2, "ohm", 5)),
		entry(t, 2, 1, order.Cancelled, "2026-11-21T12:00:00Z", line(1, "ohm", 1)),
		entry(t, 3, 1, "=cmd()", "2026-11-23T12:00:00Z"),
	)
	read := func(query string) (rows []string) {
		list, err := ordersCSV(pool)(httptest.NewRequest(http.MethodGet, "/?"+query, nil))
		if err != nil {
			t.Fatal(err)
		}
		for row, err := range list {
			if err != nil {
				t.Fatal(err)
			}
			rows = append(rows, strings.Join(row, "|"))
		}
		return rows
	}
	id := func(n int) string { return entry(t, n, 1, "", "").ID.String() }
	want := []string{
		"order|status|stage|placed_at|cars|models|total|currency|built_at|shipped_at",
		id(2) + "|cancelled|cancelled|2026-11-21T12:00:00Z|1|1 ohm|0.01|EUR||",
		id(1) + "|placed|placed|2026-11-22T12:00:00Z|3|1 volta, 2 ohm|26990.10|EUR||",
		id(3) + "|'=cmd()|'=cmd()|2026-11-23T12:00:00Z|0||0.00|EUR||",
	}
	if got := read(""); !slices.Equal(got, want) {
		t.Errorf("%q, not\n%q", got, want)
	}
	if got := read("from=2026-11-22&to=2026-11-22"); !slices.Equal(got, []string{want[0], want[2]}) {
		t.Errorf("%q", got)
	}
	_, err := pool.Exec(t.Context(), `
		insert into orders (id, version, status, placed_at, total_cents, lines)
		select gen_random_uuid(), 1, 'placed', timestamptz '2027-01-01' + (n / 3) * interval '1 s', n, '[]' from generate_series(1, $1) as n`, 2*readAtOnce+7)
	if err != nil {
		t.Fatal(err)
	}
	rows := read("from=2027-01-01")
	slices.Sort(rows)
	if rows = slices.Compact(rows); len(rows) != 2*readAtOnce+8 {
		t.Errorf("%d different rows", len(rows))
	}
}

func TestTimeline(t *testing.T) {
	t.Parallel()
	day := func(ago int) daySum {
		return daySum{Day: began.AddDate(0, 0, -ago).Format(time.DateOnly), Orders: 1, Cars: 2, RevenueCents: 300}
	}
	hour := func(ago int) hourSum {
		return hourSum{Hour: began.Add(-time.Duration(ago) * time.Hour), Orders: 1, Cars: 2, RevenueCents: 300}
	}
	for _, c := range []struct {
		days        []daySum
		hours       []hourSum
		filter      filter
		step        string
		columns     int
		ahead       int
		first, last string
		words       string
	}{
		{
			[]daySum{day(0)}, []hourSum{hour(3), hour(1)}, filter{}, "hour", 13, 11, "00:00", "12:00",
			"Orders placed on 23 Nov 2026 (UTC), by hour. 11 of 13 hours had no orders. The last hour is not over.",
		},
		{
			[]daySum{day(2)}, []hourSum{hour(48)}, filter{From: "2026-11-21", To: "2026-11-21"}, "hour", 24, 0, "00:00", "23:00",
			"Orders placed on 21 Nov 2026 (UTC), by hour. 23 of 24 hours had no orders.",
		},
		{[]daySum{day(1), day(0)}, nil, filter{}, "hour", 37, 11, "22 Nov, 00:00", "23 Nov, 12:00", ""},
		{
			[]daySum{day(3)}, nil, filter{}, "day", 14, 0, "10 Nov 2026", "23 Nov 2026",
			"Orders placed from 10 Nov 2026 to 23 Nov 2026 (UTC), by day. 13 of 14 days had no orders. The last day is not over.",
		},
		{[]daySum{day(3), day(1)}, nil, filter{From: "2026-11-01"}, "day", 23, 0, "1 Nov 2026", "23 Nov 2026", ""},
		{[]daySum{day(9), day(8)}, nil, filter{To: "2026-11-20"}, "day", 7, 0, "14 Nov 2026", "20 Nov 2026", ""},
		{[]daySum{day(9), day(8)}, nil, filter{From: "0001-01-01", To: "9999-12-31"}, "day", 10, 0, "14 Nov 2026", "23 Nov 2026", ""},
		{[]daySum{day(91), day(0)}, nil, filter{}, "day", 92, 0, "24 Aug 2026", "23 Nov 2026", ""},
		{[]daySum{day(95), day(93), day(20)}, nil, filter{}, "week", 15, 0, "17 Aug 2026", "23 Nov 2026", ""},
		{
			[]daySum{day(2000), day(700), day(0)}, nil, filter{}, "month", 66, 0, "Jun 2021", "Nov 2026",
			"Orders placed from 2 Jun 2021 to 23 Nov 2026 (UTC), by month. 63 of 66 months had no orders. The last month is not over.",
		},
		{[]daySum{{Day: "0001-01-01", Orders: 1}, day(0)}, nil, filter{}, "year", 2026, 0, "0001", "2026", ""},
	} {
		s := &statistics{ByDay: c.days, ByHour: c.hours, filter: c.filter, Currency: "EUR", now: began.Add(time.Minute)}
		l := s.Timeline()
		var orders int64
		for _, p := range l.Periods {
			orders += p.Orders
		}
		want := int64(len(c.days))
		if c.step == "hour" {
			want = int64(len(c.hours))
		}
		first, last := l.Periods[0].Name, l.Periods[len(l.Periods)-1].Name
		if l.Step.Name != c.step || len(l.Periods) != c.columns || l.Ahead != c.ahead || first != c.first || last != c.last || orders != want {
			t.Errorf("%v: by %s, %d columns and %d ahead from %s to %s, %d orders", c.days, l.Step.Name, len(l.Periods), l.Ahead, first, last, orders)
		}
		if c.words != "" && l.Words() != c.words {
			t.Errorf("%v: %s", c.days, l.Words())
		}
		if ch := s.Revenue(); ch.Title != "Revenue by "+c.step || len(ch.Columns) != c.columns || ch.Width != c.columns+c.ahead || ch.Top == "" {
			t.Errorf("%+v", ch)
		}
	}
	var shown []string
	for _, p := range (&statistics{now: began, filter: filter{From: "2026-11-17"}}).Presets() {
		shown = append(shown, fmt.Sprint(p.Text, " ", p.URL, " ", p.Shown))
	}
	if want := []string{
		"Today /?from=2026-11-23 false", "7 days /?from=2026-11-17 true", "30 days /?from=2026-10-25 false", "90 days /?from=2026-08-26 false",
		"12 months /?from=2025-12-01 false", "All / false",
	}; !slices.Equal(shown, want) {
		t.Errorf("%q", shown)
	}
	if l := (&statistics{}).Timeline(); l.Periods != nil {
		t.Errorf("%+v", l)
	}
	for v, want := range map[int64]int64{0: 2, 1: 2, 2: 2, 3: 4, 5: 6, 9: 10, 11: 12, 21: 30, 41: 60, 81: 100, 101: 120, 99_999: 100_000, 10_920_000: 12_000_000, 1 << 62: 1 << 62} {
		if got := roundUp(v); got != want {
			t.Errorf("%d gives %d, not %d", v, got, want)
		}
	}
	for seconds, want := range map[int64]string{0: "0 s", 99: "99 s", 120: "2 min", 150: "2.5 min", 5900: "98 min", 6000: "1.7 h", 36000: "10 h", 1200000: "14 days", 200_000: "2.3 days", 86_400_000: "1000 days"} {
		if got := duration(seconds); got != want {
			t.Errorf("%d s is %s, not %s", seconds, got, want)
		}
	}
}
