package subscribe

import (
	"math"
	"testing"
	"time"

	"pgregory.net/rapid"
)

func TestCost(t *testing.T) {
	for text, want := range map[string]Cost{
		"@every 1s":               {86400, 0.5, 1},
		"@every 5s":               {17280, 2.5, 5},
		"@every 90m":              {16, 2700, 5400},
		"@every 1000h":            {0.024, 1_800_000, 3_600_000},
		"* * * * *":               {1440, 30, 60},
		"* * * * * *":             {86400, 0.5, 1},
		"@hourly":                 {24, 1800, 3600},
		"0 0 * * *":               {1, 43200, 86400},
		"0 0 * * MON":             {0.143, 302400, 604800},
		"0 0 29 2 *":              {0.001, 1461 * 43200, 1461 * 86400},
		"0,15 0 * * *":            {2, (15*15 + 1425*1425) * 60 / 1440 / 2, 1425 * 60}, // two at midnight
		"*/15 8-17 * * MON-FRI":   {28.571, 50351.8, (62*60 + 15) * 60},                // from Friday 17:45 to Monday 08:00
		"* * 31 2,3 *":            {3.943, 15_703_140, 366*86400 - 86340},
		"0 0 13 * FRI":            {(12.*28 + 1461 - 48) / 10227, 279_691, 604800}, // any Friday, and any 13th
		"0,30 0,30 8,20 * * */7 ": {8. / 7, 260_466, 604800 - 12*3600 - 1830},
	} {
		t.Run(text, func(t *testing.T) {
			got := parse(t, text, "a/b").cost
			if math.Abs(got.RequestsPerDay-want.RequestsPerDay) > 0.0006 || want.Worst != 0 && (math.Abs(got.Expected/want.Expected-1) > 0.001 || got.Worst != want.Worst) {
				t.Errorf("%+v, not %+v", got, want)
			}
		})
	}
}

// The cost is that of the times at which a schedule fires.
func TestCostIsThatOfTheFires(t *testing.T) {
	const weeks = 3
	rapid.Check(t, func(t *rapid.T) {
		field := func(name string, choices ...string) string { return rapid.SampledFrom(choices).Draw(t, name) + " " }
		text := field("second", "0", "30", "7,8") + field("minute", "*", "*/15", "0", "3,59", "10-20") + field("hour", "*", "8-18", "0", "23", "6,7,20") +
			"* * " + field("day", "*", "1-5", "0", "2,4")
		s := parse(t, text, "a/b")
		from := s.Next(time.Date(2026, 11, 22, 12, 0, 0, 0, time.UTC))
		var fires, sum, squares, worst float64
		for at := from; at.Before(from.AddDate(0, 0, 7*weeks)); {
			gap := s.Next(at).Sub(at)
			fires, sum, squares, worst = fires+1, sum+gap.Seconds(), squares+gap.Seconds()*gap.Seconds(), max(worst, gap.Seconds())
			at = at.Add(gap)
		}
		near := func(a, b float64) bool { return math.Abs(a-b) <= 0.01*b }
		if want := (Cost{fires / 7 / weeks, squares / sum / 2, worst}); !near(s.cost.RequestsPerDay, want.RequestsPerDay) || !near(s.cost.Expected, want.Expected) || s.cost.Worst != worst {
			t.Fatalf("%s: %+v, but its fires say %+v", text, s.cost, want)
		}
	})
}

func TestCostOfWaiting(t *testing.T) {
	set := tuning{schedule: parse(t, "@every 5s", "a/b"), wait: 30 * time.Second}
	if got, want := set.cost(true), (Cost{2880, 0.001, 1}); got != want {
		t.Errorf("%+v, not %+v", got, want)
	}
	if got := set.cost(false); got != set.schedule.cost {
		t.Errorf("where the source does not hold requests: %+v", got)
	}
}
