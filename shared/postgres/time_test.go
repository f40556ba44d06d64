package postgres_test

import (
	"encoding/json"
	"testing"
	"time"

	"github.com/edison-cars/data-feeds/shared/postgres"
	"github.com/edison-cars/data-feeds/shared/postgres/pgtest"
)

// Whatever time a row holds, it can be read and said as JSON.
func TestTimesThatNoJSONTakes(t *testing.T) {
	t.Parallel()
	db := open(t, postgres.Volatile(postgres.Config{Dir: pgtest.Dir(t), Name: "times"}))
	const first, last = "0001-01-01T00:00:00Z", "9999-12-31T23:59:59.999999Z"
	for stored, want := range map[string]string{
		"infinity":                      last,
		"20000-01-01 00:00:00+00":       last,
		"294276-12-31 23:59:59+00":      last,
		"9999-12-31 23:59:59.5+00":      "9999-12-31T23:59:59.5Z",
		"2026-11-28 08:00:00.123456+00": "2026-11-28T08:00:00.123456Z",
		"0001-01-01 00:00:00+00":        first,
		"0001-01-01 00:00:00+00 BC":     first,
		"4713-01-01 00:00:00+00 BC":     first,
		"-infinity":                     first,
	} {
		var at time.Time
		var pointer, null *time.Time
		err := db.QueryRow(t.Context(), `select $1::text::timestamptz, $1::text::timestamptz, null::timestamptz`, stored).Scan(&at, &pointer, &null)
		if err != nil || pointer == nil || null != nil {
			t.Errorf("%s: %v, %v, %v", stored, err, pointer, null)
			continue
		}
		for _, got := range []time.Time{at, *pointer} {
			if text, err := json.Marshal(got); err != nil || string(text) != `"`+want+`"` || got.Location() != time.UTC {
				t.Errorf("%s is read as %s, %v; want %s", stored, text, err, want)
			}
		}
	}
	var at time.Time
	if err := db.QueryRow(t.Context(), `select null::timestamptz`).Scan(&at); err == nil {
		t.Error("null is read as a time")
	}
}
