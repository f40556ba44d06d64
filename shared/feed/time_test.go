package feed

import (
	"encoding/json"
	"encoding/xml"
	"strings"
	"testing"
	"time"

	jsonv2 "github.com/go-json-experiment/json"
	"github.com/google/uuid"
)

// The zeros at the end of a second's digits are written, too, whatever writes them.
func TestTimesHaveSixDigits(t *testing.T) {
	t.Parallel()
	east := time.FixedZone("east", 2*60*60)
	for want, at := range map[string]time.Time{
		"2026-11-23T08:00:00.000000Z": time.Date(2026, 11, 23, 8, 0, 0, 0, time.UTC),
		"2026-11-23T08:00:00.100000Z": time.Date(2026, 11, 23, 8, 0, 0, 100_000_000, time.UTC),
		"2026-11-23T08:00:00.123450Z": time.Date(2026, 11, 23, 8, 0, 0, 123_450_000, time.UTC),
		"2026-11-23T08:00:00.123456Z": time.Date(2026, 11, 23, 10, 0, 0, 123_456_789, east),
		"2026-11-23T08:00:00.000001Z": time.Date(2026, 11, 23, 8, 0, 0, 1000, time.UTC),
		"0001-01-01T00:00:00.000000Z": {},
		"9999-12-31T23:59:59.999999Z": time.Date(9999, 12, 31, 23, 59, 59, 999_999_000, time.UTC),
	} {
		contract := struct {
			XMLName xml.Name `json:"-" xml:"c"`
			At      Time     `json:"at" xml:"at"`
			Maybe   *Time    `json:"maybe" xml:"maybe,omitempty"`
			Never   *Time    `json:"never" xml:"never,omitempty"`
		}{At: TimeOf(at), Maybe: OptionalTime(&at), Never: OptionalTime(nil)}
		text, err := json.Marshal(contract)
		if wanted := `{"at":"` + want + `","maybe":"` + want + `","never":null}`; err != nil || string(text) != wanted {
			t.Errorf("JSON: %s, %v, want %s", text, err, wanted)
		}
		if again, err := jsonv2.Marshal(contract); err != nil || string(again) != string(text) {
			t.Errorf("the other JSON: %s, %v", again, err)
		}
		read := contract
		read.At, read.Maybe = Time{}, nil
		if err := json.Unmarshal(text, &read); err != nil || !read.At.Equal(at.Truncate(time.Microsecond)) || !read.Maybe.Equal(read.At.Time) {
			t.Errorf("%s is read as %v, %v, %v", text, read.At, read.Maybe, err)
		}
		read.At, read.Maybe = Time{}, nil
		if err := jsonv2.Unmarshal(text, &read); err != nil || !read.At.Equal(at.Truncate(time.Microsecond)) || !read.Maybe.Equal(read.At.Time) {
			t.Errorf("%s is read by the other JSON as %v, %v, %v", text, read.At, read.Maybe, err)
		}
		text, err = xml.Marshal(contract)
		if wanted := "<c><at>" + want + "</at><maybe>" + want + "</maybe></c>"; err != nil || string(text) != wanted {
			t.Errorf("XML: %s, %v, want %s", text, err, wanted)
		}
		d := Document{Page: Page{Entries: []Entry{
			{Position: 1, ID: uuid.Max, Version: 1, Updated: at, Entity: []byte("{}")}, {Position: 2, ID: uuid.Nil, Version: 1, Updated: at, Deleted: true},
		}}}
		for name, encode := range map[string]func() ([]byte, error){"JSON Feed": d.JSON, "Atom": d.Atom, "events": d.Events} {
			page, err := encode()
			if n := strings.Count(string(page), want); err != nil || n < 2 {
				t.Errorf("%s: %d times %s, %v: %s", name, n, want, err, page)
			}
		}
	}
	if text, err := json.Marshal(TimeOf(time.Date(10_000, 1, 1, 0, 0, 0, 0, time.UTC))); err == nil {
		t.Errorf("the year 10000 is %s", text)
	}
}
