package subscribe

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/edison-cars/data-feeds/shared/postgres/pgtest"
)

func parse(t rapid.TB, text, key string) Schedule {
	t.Helper()
	s, err := ParseSchedule(text, key)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// at reads a time, UTC.
func at(t rapid.TB, text string) time.Time {
	t.Helper()
	v, err := time.Parse("2006-01-02 15:04:05.999", text)
	if err != nil {
		t.Fatal(err)
	}
	return v
}

// The key "" has no meaning to the company; the offset is taken off so that the tables read as the expressions do.
func unshifted(t rapid.TB, text string) Schedule {
	s := parse(t, text, "")
	s.offset = 0
	return s
}

func TestExpressions(t *testing.T) {
	for _, c := range []struct{ text, from, next, second string }{
		{"*/5 * * * *", "2026-11-23 08:03:00", "2026-11-23 08:05:00", "2026-11-23 08:10:00"},
		{"*/5 * * * *", "2026-11-23 08:05:00", "2026-11-23 08:10:00", "2026-11-23 08:15:00"},
		{"*/5 * * * *", "2026-11-23 08:04:59.999", "2026-11-23 08:05:00", "2026-11-23 08:10:00"},
		{"  0 9 * * *  ", "2026-11-23 08:00:00", "2026-11-23 09:00:00", "2026-11-24 09:00:00"},
		{"30 0 9 * * *", "2026-11-23 09:00:30", "2026-11-24 09:00:30", "2026-11-25 09:00:30"},
		{"*/10 * * * * *", "2026-11-23 08:00:55", "2026-11-23 08:01:00", "2026-11-23 08:01:10"},
		{"0 0 31 * *", "2026-01-31 00:00:00", "2026-03-31 00:00:00", "2026-05-31 00:00:00"},
		{"0 0 1 * *", "2026-12-31 23:59:59", "2027-01-01 00:00:00", "2027-02-01 00:00:00"},
		{"0 0 29 2 *", "2026-03-01 00:00:00", "2028-02-29 00:00:00", "2032-02-29 00:00:00"},
		{"0 0 29 2 *", "2095-03-01 00:00:00", "2096-02-29 00:00:00", "2104-02-29 00:00:00"},
		{"0 9 * * MON-FRI", "2026-11-20 09:00:00", "2026-11-23 09:00:00", "2026-11-24 09:00:00"},
		{"0 9 13 * 5", "2026-11-12 00:00:00", "2026-11-13 09:00:00", "2026-11-20 09:00:00"},  // day of month or day of week
		{"30 2 29 3 *", "2026-01-01 00:00:00", "2026-03-29 02:30:00", "2027-03-29 02:30:00"}, // an hour that Berlin skips
		{"@hourly", "2026-11-23 08:00:00", "2026-11-23 09:00:00", "2026-11-23 10:00:00"},
		{"@weekly", "2026-11-23 08:00:00", "2026-11-29 00:00:00", "2026-12-06 00:00:00"},
		{"@monthly", "2026-11-23 08:00:00", "2026-12-01 00:00:00", "2027-01-01 00:00:00"},
		{"@every 5s", "2026-11-23 08:00:00", "2026-11-23 08:00:05", "2026-11-23 08:00:10"},
		{"@every 5s", "2026-11-23 08:00:04.999", "2026-11-23 08:00:05", "2026-11-23 08:00:10"},
		{"@every 1m30s", "1970-01-01 00:00:00", "1970-01-01 00:01:30", "1970-01-01 00:03:00"},
		{"@every  1h", "2026-11-23 08:59:00", "2026-11-23 09:00:00", "2026-11-23 10:00:00"},
		{"@every 2000000h", "2026-11-23 08:00:00", "2198-02-27 08:00:00", "2426-04-26 16:00:00"},
	} {
		t.Run(c.text, func(t *testing.T) {
			s := unshifted(t, c.text)
			next := s.NextN(at(t, c.from), 2)
			if !next[0].Equal(at(t, c.next)) || !next[1].Equal(at(t, c.second)) {
				t.Errorf("after %s it fires at %v and %v, not at %s and %s", c.from, next[0], next[1], c.next, c.second)
			}
			if s.String() != strings.TrimSpace(c.text) {
				t.Errorf("it calls itself %q", s)
			}
			if got := s.Next(at(t, c.from).Local()); !got.Equal(next[0]) || got.Location() != time.UTC {
				t.Errorf("asked with a time of another zone it gives %v", got)
			}
		})
	}
}

func TestExpressionsThatAreNone(t *testing.T) {
	for text, reason := range map[string]string{
		"":                      "empty",
		"every five minutes":    "expected 5 to 6 fields",
		"* * * *":               "expected 5 to 6 fields",
		"* * * * * * *":         "expected 5 to 6 fields",
		"60 * * * *":            "above maximum (59)",
		"* 24 * * *":            "above maximum (23)",
		"* * 0 * *":             "below minimum (1)",
		"* * * * 8":             "above maximum (6)",
		"* * * * 5-8":           "above maximum (6)",
		"* * * * 7-9":           "above maximum (6)",
		"* * * * 7-1":           "beyond end of range",
		"* * * * 77":            "above maximum (6)",
		"* * * * 1-7/0":         "above maximum (6)",
		"7 7 7 7 * * 7":         "expected 5 to 6 fields",
		"*/0 * * * *":           "step of range should be a positive number",
		"5-1 * * * *":           "beyond end of range",
		"x * * * *":             "failed to parse int",
		"0 0 30 2 *":            "there is no such date",
		"0 0 31 4,6,9,11 *":     "there is no such date",
		"@never":                "unrecognized descriptor",
		"@every":                "unrecognized descriptor",
		"@every ":               "unrecognized descriptor",
		"@every soon":           "whole seconds, at least 1s",
		"@every 0s":             "whole seconds, at least 1s",
		"@every -5s":            "whole seconds, at least 1s",
		"@every 500ms":          "whole seconds, at least 1s",
		"@every 1500ms":         "whole seconds, at least 1s",
		"@every 9999999999h":    "whole seconds, at least 1s",
		"TZ=":                   "times are UTC",
		"TZ=Europe/Berlin":      "times are UTC",
		"CRON_TZ=UTC 0 9 * * *": "times are UTC",
	} {
		t.Run(text, func(t *testing.T) {
			s, err := ParseSchedule(text, "a/b")
			if err == nil {
				t.Fatalf("accepted, and fires at %v", s.NextN(time.Now(), 3))
			}
			for _, part := range []string{fmt.Sprintf("%q is not a schedule: ", text), reason, `it takes a cron expression such as "*/5 * * * *", or "@every 30s"`} {
				if !strings.Contains(err.Error(), part) {
					t.Errorf("%q does not say %q", err, part)
				}
			}
		})
	}
}

func TestSundays(t *testing.T) {
	for text, want := range map[string]string{
		"7": "0", "0": "0", "SUN": "0", "sun": "0", "0,7": "0", "5-7": "0,5,6", "1-7": "*", "0-7": "*", "sun-7": "*", "mon-sun": "*", "FRI-SUN": "0,5,6", "7-7": "0",
		"1-7/2": "0,1,3,5", "0-7/2": "0,2,4,6", "2-7/3": "2,5", "1-7/3": "0,1,4", "7/2": "0", "1,7": "0,1", "7,3-4": "0,3,4", "sat,7": "0,6", "MON-FRI": "1-5", "*/2": "0,2,4,6", "?": "*",
	} {
		got, is := parse(t, "0 9 * * "+text, ""), parse(t, "0 9 * * "+want, "")
		six := parse(t, "0 0 9 * * "+text, "")
		if from := at(t, "2026-11-23 08:00:00"); fmt.Sprint(got.NextN(from, 14)) != fmt.Sprint(is.NextN(from, 14)) || fmt.Sprint(six.NextN(from, 14)) != fmt.Sprint(is.NextN(from, 14)) {
			t.Errorf("%s fires at %v, not as %s", text, got.NextN(from, 7), want)
		}
		if got.String() != "0 9 * * "+text || got.cost != is.cost && text != "0-7" && text != "1-7" && text != "sun-7" && text != "mon-sun" {
			t.Errorf("%s: %s, %+v", text, got, got.cost)
		}
	}
	// The 7 of other fields stays.
	if got, want := parse(t, "7 7 7 7 *", "").Next(at(t, "2026-01-01 00:00:00")), at(t, "2026-07-07 07:07:00"); got.Truncate(time.Minute) != want {
		t.Errorf("%v, not %v", got, want)
	}
}

func TestOffset(t *testing.T) {
	pgtest.Slow(t, "many databases")
	for text, gap := range map[string]time.Duration{
		"@every 1s": time.Second, "@every 5s": 5 * time.Second, "@every 1h": time.Minute, "*/10 * * * * *": 10 * time.Second,
		"0,7 * * * * *": 7 * time.Second, "0 9 * * *": time.Minute, "* * * * *": time.Minute, "0 0 29 2 *": time.Minute,
	} {
		t.Run(text, func(t *testing.T) {
			used := map[time.Duration]bool{}
			for n := range 100 {
				key := fmt.Sprintf("service-%d/orders", n)
				s := parse(t, text, key)
				if s.offset < 0 || s.offset >= gap || s.offset%time.Millisecond != 0 {
					t.Fatalf("%s: the offset is %v, not whole milliseconds in [0, %v)", key, s.offset, gap)
				}
				if parse(t, text, key).offset != s.offset {
					t.Fatalf("%s: the offset is another at the second time", key)
				}
				if got := s.Next(at(t, "2026-11-23 08:00:00")).Sub(unshifted(t, text).Next(at(t, "2026-11-23 08:00:00").Add(-s.offset))); got != s.offset {
					t.Fatalf("%s: it fires %v after its expression, not %v", key, got, s.offset)
				}
				used[s.offset] = true
			}
			if len(used) < 90 {
				t.Errorf("100 services share %d offsets", len(used))
			}
			tenths := map[time.Duration]int{}
			for offset := range used {
				tenths[offset*10/gap]++
			}
			if len(tenths) < 10 {
				t.Errorf("the offsets leave tenths of the gap empty: %v", tenths)
			}
		})
	}
	t.Run("the services of the company differ", func(t *testing.T) {
		used := map[time.Duration]string{}
		for _, service := range []string{"warehouse", "assembly", "dashboard", "billing", "shipping", "mailer", "relay"} {
			s := parse(t, "@every 5s", service+"/orders")
			if other, ok := used[s.offset]; ok {
				t.Errorf("%s and %s ask at the same instant", service, other)
			}
			used[s.offset] = service
		}
	})
}

func TestEveryIsAlignedWhateverTheStart(t *testing.T) {
	before, after := parse(t, "@every 7s", "a/b"), parse(t, "@every 7s", "a/b")
	first := before.Next(at(t, "2026-11-23 08:00:00"))
	for wait := time.Duration(0); wait < 7*time.Second; wait += 333 * time.Millisecond {
		restarted := first.Add(wait)
		if got := after.Next(restarted); !got.Equal(first.Add(7 * time.Second)) {
			t.Fatalf("restarted %v after %v it fires at %v", wait, first, got)
		}
	}
}

func TestStale(t *testing.T) {
	for _, c := range []struct{ text, last, stale string }{
		{"@every 5s", "2026-11-23 08:00:00", "2026-11-23 08:00:15"},
		{"@every 5s", "2026-11-23 08:00:03", "2026-11-23 08:00:15"},
		{"@every 1h", "2026-11-23 08:00:00.020", "2026-11-23 10:00:05"},
		{"0 9 * * MON", "2026-11-23 09:00:01", "2026-12-07 09:00:05"},
		{"*/5 9-17 * * MON-FRI", "2026-11-20 17:55:01", "2026-11-23 09:05:05"}, // closed over the weekend
		{"0 0 31 * *", "2026-01-31 00:00:01", "2026-05-31 00:00:05"},
		{"0 0 29 2 *", "2096-02-29 00:00:01", "2108-02-29 00:00:05"},
	} {
		t.Run(c.text, func(t *testing.T) {
			s, last, from := unshifted(t, c.text), at(t, c.last), at(t, c.stale)
			for _, now := range []time.Time{last, last.Add(-time.Hour), from.Add(-time.Minute), from} {
				if now.Before(from.Add(time.Nanosecond)) && s.Stale(last, now) {
					t.Errorf("stale at %v already", now)
				}
			}
			if !s.Stale(last, from.Add(time.Millisecond)) {
				t.Errorf("not stale after %v", from)
			}
			s.offset = 700 * time.Millisecond
			if s.Stale(last.Add(s.offset), from.Add(s.offset)) || !s.Stale(last.Add(s.offset), from.Add(s.offset+time.Millisecond)) {
				t.Errorf("with an offset it is not stale from %v on", from.Add(s.offset))
			}
		})
	}
}

func TestBackoff(t *testing.T) {
	now := at(t, "2026-11-23 08:00:00")
	for text, want := range map[string][]time.Duration{
		"@every 1s":  {1, 2, 4, 5, 5, 5, 5, 5},
		"@every 5s":  {1, 2, 4, 5, 5, 5, 5, 5},
		"@every 20s": {1, 2, 4, 8, 16, 20, 20, 20},
		"0 9 * * 1":  {1, 2, 4, 8, 16, 32, 60, 60},
	} {
		s := parse(t, text, "a/b")
		for i, seconds := range want {
			if got := s.backoff(i+1, now); got != seconds*time.Second {
				t.Errorf("%s: %v after failure %d, not %ds", text, got, i+1, seconds)
			}
		}
		if got := s.backoff(1_000_000, now); got != want[7]*time.Second {
			t.Errorf("%s: %v after a million failures", text, got)
		}
	}
}

var expressions = []string{
	"* * * * *", "*/5 * * * *", "* * * * * *", "0,59 0,59 0,23 1,31 * *", "0 0 31 * *", "0 0 29 2 *", "15 10 * * 1-5",
	"@yearly", "@weekly", "@every 1s", "@every 7s", "@every 25h", "@every 2562047h",
}

// Whenever it is asked, a schedule fires later, never skips a time and never goes back.
func TestNextProperties(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		s := parse(t, rapid.SampledFrom(expressions).Draw(t, "expression"), rapid.StringMatching(`[a-z]{1,8}/[a-z]{1,8}`).Draw(t, "key"))
		when := time.Unix(rapid.Int64Range(0, 4e9).Draw(t, "seconds"), rapid.Int64Range(0, 999_999_999).Draw(t, "nanoseconds"))
		next := s.Next(when)
		if !next.After(when) {
			t.Fatalf("after %v comes %v", when, next)
		}
		between := when.Add(time.Duration(rapid.Int64Range(0, int64(next.Sub(when))-1).Draw(t, "between")))
		if got := s.Next(between); !got.Equal(next) {
			t.Fatalf("after %v comes %v, but after %v comes %v", when, next, between, got)
		}
		if got := s.Next(next); !got.After(next) {
			t.Fatalf("after %v comes %v", next, got)
		}
		if s.Stale(when, next) {
			t.Fatalf("a success at %v is stale at %v, when the first poll after it is due", when, next)
		}
	})
}

func FuzzParseSchedule(f *testing.F) {
	for _, text := range append(expressions, "TZ=", "CRON_TZ=x 0 0 * * *", "@every -1h", "*/9223372036854775807 * * * *", "* * * * 1-7/9,7,SUN-SUN", "1-9/3,? L * * *") {
		f.Add(text)
	}
	f.Fuzz(func(t *testing.T, text string) {
		s, err := ParseSchedule(text, "a/b")
		if err != nil {
			return
		}
		now := at(t, "2026-11-23 08:00:00")
		for range 5 {
			next := s.Next(now)
			if !next.After(now) {
				t.Fatalf("%q: after %v comes %v", text, now, next)
			}
			now = next
		}
		if s.offset < 0 || s.offset >= time.Minute {
			t.Fatalf("%q: offset %v", text, s.offset)
		}
	})
}
