package subscribe

import (
	"errors"
	"fmt"
	"hash/fnv"
	"regexp"
	"strconv"
	"strings"
	"time"

	"github.com/robfig/cron/v3"
)

// A Schedule says when to poll.
type Schedule struct {
	text   string
	cron   cron.Schedule
	offset time.Duration
	cost   Cost // without waiting
}

var parser = cron.NewParser(cron.SecondOptional | cron.Minute | cron.Hour | cron.Dom | cron.Month | cron.Dow | cron.Descriptor)

// maxOffset bounds how much later than its expression says a schedule may fire.
const maxOffset = time.Minute

// ParseSchedule reads a cron expression of five fields (minute, hour, day of month, month, day of week) or six (second
// first), a descriptor such as @hourly, or `@every 5s` with a duration of at least one second. Times are UTC. Sunday is
// 0 or 7.
//
// Subscribers should not all poll at the same moment, so a schedule fires later than its expression by an offset. The
// offset is always the same for the same key, and shorter than one minute and than the time between two fires. `@every`
// counts from 1970, so that a restart does not shift it.
func ParseSchedule(text, key string) (s Schedule, err error) {
	s.text = strings.TrimSpace(text)
	defer func() {
		if p := recover(); p != nil { // the parser's, on what it does not expect
			err = badSchedule(text, fmt.Errorf("%v", p))
		}
	}()
	if strings.HasPrefix(s.text, "TZ=") || strings.HasPrefix(s.text, "CRON_TZ=") {
		return s, badSchedule(text, errors.New("times are UTC, where no hour is skipped or comes twice"))
	}
	if every, ok := strings.CutPrefix(s.text, "@every "); ok {
		d, err := time.ParseDuration(strings.TrimSpace(every))
		if err != nil || d < time.Second || d%time.Second != 0 {
			return s, badSchedule(text, errors.New("@every takes a duration of whole seconds, at least 1s"))
		}
		s.cron = everyDuration(d)
	} else if s.cron, err = parser.Parse(sundays(s.text)); err != nil {
		return s, badSchedule(text, err)
	}
	t := s.Next(time.Unix(0, 0))
	if t.IsZero() {
		return s, badSchedule(text, errors.New("there is no such date"))
	}
	gap := maxOffset
	for range 100 {
		next := s.Next(t)
		gap, t = min(gap, next.Sub(t)), next
	}
	s.cost = costOf(s.cron)
	h := fnv.New64a()
	_, _ = h.Write([]byte(key))
	s.offset = time.Duration(h.Sum64() % uint64(gap)).Truncate(time.Millisecond)
	return s, nil
}

// sundays rewrites the field of the weekday with Sunday as 0: the parser takes neither 7 nor a range that ends on
// Sunday.
func sundays(text string) string {
	fields := strings.Fields(text)
	if len(fields) != 5 && len(fields) != 6 {
		return text
	}
	field := &fields[len(fields)-1]
	var days []string
	for item := range strings.SplitSeq(*field, ",") {
		days = append(days, sunday(item))
	}
	*field = strings.Join(days, ",")
	return strings.Join(fields, " ")
}

var dayRange = regexp.MustCompile(`(?i)^(?:([0-7]|MON|TUE|WED|THU|FRI|SAT|SUN)-)?(?:7|SUN)(?:/([1-9][0-9]{0,3}))?$`)

// sunday rewrites one item of that field: a range that ends on Sunday becomes a list of days.
func sunday(item string) string {
	m := dayRange.FindStringSubmatch(item)
	if m == nil {
		return item
	}
	from, step := 7, 1
	if m[1] != "" {
		if from = strings.Index("SUN MON TUE WED THU FRI SAT", strings.ToUpper(m[1])) / 4; len(m[1]) == 1 {
			from = int(m[1][0] - '0')
		}
	}
	if m[2] != "" {
		step, _ = strconv.Atoi(m[2])
	}
	var days []string
	for day := from; day <= 7; day += step {
		days = append(days, strconv.Itoa(day%7))
	}
	return strings.Join(days, ",")
}

func badSchedule(text string, err error) error {
	return fmt.Errorf("%q is not a schedule: %w; it takes a cron expression such as \"*/5 * * * *\", or \"@every 30s\"", text, err)
}

// everyDuration fires at the multiples of a duration since 1970.
type everyDuration time.Duration

func (e everyDuration) Next(t time.Time) time.Time {
	d := int64(time.Duration(e) / time.Second) // nanoseconds since 1970 would overflow
	n := t.Unix()
	return time.Unix(n-(n%d+d)%d+d, 0).UTC() // rounded down before 1970, too
}

// Next returns the first time after t at which to poll.
func (s Schedule) Next(t time.Time) time.Time {
	t = t.UTC().Add(-s.offset)
	next := s.cron.Next(t)
	if next.IsZero() { // it looks five years ahead, and from 2096 the next 29 February is eight years away
		next = s.cron.Next(t.AddDate(5, 0, 0))
	}
	return next.Add(s.offset)
}

// NextN returns the first n times after t.
func (s Schedule) NextN(t time.Time, n int) []time.Time {
	times := make([]time.Time, n)
	for i := range times {
		t = s.Next(t)
		times[i] = t
	}
	return times
}

func (s Schedule) String() string { return s.text }

// grace is what a poll may take before its copy counts as stale.
const grace = 5 * time.Second

// Stale tells whether a copy whose last successful poll was at last is stale at now: the second poll that has been due
// since is more than five seconds late.
func (s Schedule) Stale(last, now time.Time) bool {
	return now.After(s.Next(s.Next(last)).Add(grace))
}

// backoff returns the time to wait after the nth failure in a row, before jitter: 1, 2, 4 ... seconds up to the time
// between two polls, which counts as no less than 5 s and no more than a minute.
func (s Schedule) backoff(failures int, now time.Time) time.Duration {
	next := s.Next(now)
	most := min(max(s.Next(next).Sub(next), 5*time.Second), time.Minute)
	return min(time.Second<<min(failures-1, 10), most)
}
