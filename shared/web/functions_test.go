package web

import (
	"encoding/json"
	"math"
	"strconv"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"
)

func TestMoney(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct {
		cents    any
		currency string
		want     string
	}{
		{4599000, "EUR", "€45,990.00"},
		{int64(0), "USD", "$0.00"},
		{uint32(7), "GBP", "£0.07"},
		{-123456, "EUR", "−€1,234.56"},
		{99999, "EUR", "€999.99"},
		{100000, "SEK", "1,000.00\u00a0SEK"},
		{int64(math.MaxInt64), "EUR", "€92,233,720,368,547,758.07"},
		{int64(math.MinInt64), "EUR", "−€92,233,720,368,547,758.08"},
	} {
		if got, err := money(tc.cents, tc.currency); got != tc.want || err != nil {
			t.Errorf("money %v %s = %q %v, want %q", tc.cents, tc.currency, got, err, tc.want)
		}
	}
	for _, bad := range []any{1.5, "100", nil, uint64(math.MaxUint64)} {
		if got, err := money(bad, "EUR"); err == nil {
			t.Errorf("money %v = %q", bad, got)
		}
	}
}

func TestMoneyLosesNoCent(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		cents := rapid.Int64().Draw(t, "cents")
		text, err := money(cents, "EUR")
		if err != nil {
			t.Fatal(err)
		}
		digits := strings.NewReplacer("€", "", ",", "", ".", "", "−", "-").Replace(text)
		if back, err := strconv.ParseInt(digits, 10, 64); err != nil || back != cents {
			t.Fatalf("%d is written as %q: %v", cents, text, err)
		}
	})
}

func TestTimes(t *testing.T) {
	t.Parallel()
	now := time.Date(2026, 11, 23, 8, 0, 0, 0, time.FixedZone("CET", 3600))
	for _, tc := range []struct {
		age  time.Duration
		want string
	}{
		{0, "just now"},
		{999 * time.Millisecond, "just now"},
		{-999 * time.Millisecond, "now"},
		{3900 * time.Millisecond, "3 s ago"},
		{59*time.Minute + 59*time.Second, "59 min ago"},
		{23 * time.Hour, "23 h ago"},
		{47 * time.Hour, "1 day ago"},
		{72 * time.Hour, "3 days ago"},
		{-2 * time.Minute, "in 2 min"},
	} {
		if got := ago(now.Add(-tc.age), now); got != tc.want {
			t.Errorf("%v: %q, want %q", tc.age, got, tc.want)
		}
	}
	if got := timeElement(now); got != `<time datetime="2026-11-23T07:00:00.000000Z">23 Nov 2026, 07:00:00 UTC</time>` {
		t.Error(got)
	}
	if got := sinceElement(now); got != `<time datetime="2026-11-23T07:00:00.000000Z" data-absolute>23 Nov 2026, 07:00:00 UTC</time>` || sinceElement(time.Time{}) != "never" {
		t.Error(got)
	}
	if got := agoElement(now); !strings.HasPrefix(string(got), `<time datetime="2026-11-23T07:00:00.000000Z" title="23 Nov 2026, 07:00:00 UTC" data-ago>`) {
		t.Error(got)
	}
	if ago(time.Time{}, now) != "never" || agoElement(time.Time{}) != "never" || timeElement(time.Time{}) != "never" {
		t.Error("the zero time is not never")
	}
}

func TestNumbers(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct {
		part, of any
		want     float64
	}{{1, 3, 33.3}, {3, 3, 100}, {5, 3, 100}, {-1, 3, 0}, {1, 0, 0}, {int64(2), 3, 66.7}} {
		if got, err := percent(tc.part, tc.of); got != tc.want || err != nil {
			t.Errorf("percent %v %v = %v %v", tc.part, tc.of, got, err)
		}
	}
	if got, err := num(-1234567); got != "−1,234,567" || err != nil {
		t.Error(got, err)
	}
	if got, err := add(int64(40), 2); got != 42 || err != nil {
		t.Error(got, err)
	}
}

func TestIndentJSON(t *testing.T) {
	t.Parallel()
	const want = "{\n  \"a\": [\n    1.50\n  ]\n}"
	for _, v := range []any{`{"a":[1.50]}`, []byte(`{"a":[1.50]}`), json.RawMessage(`{"a":[1.50]}`), map[string][]json.Number{"a": {"1.50"}}} {
		if got, err := indentJSON(v); got != want || err != nil {
			t.Errorf("%T: %q %v", v, got, err)
		}
	}
	if _, err := indentJSON("{"); err == nil {
		t.Error("broken JSON is no error")
	}
	wide := strings.Repeat("[", 90) + strings.Repeat("1,", 100_000) + "1" + strings.Repeat("]", 90)
	if got, err := indentJSON(wide); err != nil || got != wide {
		t.Errorf("of JSON that is deep and wide it makes %d bytes, %v", len(got), err)
	}
	deep := strings.Repeat("[", 9000) + strings.Repeat("]", 9000)
	if got, err := indentJSON(deep); err != nil || got != deep {
		t.Errorf("of JSON that is very deep it makes %d bytes, %v", len(got), err)
	}
}

func TestCountry(t *testing.T) {
	t.Parallel()
	for code, want := range map[string]string{"DE": "Germany", "CH": "Switzerland", "nowhere": "nowhere", "": ""} {
		if got := country(code); got != want {
			t.Errorf("%q: %q, want %q", code, got, want)
		}
	}
}
