package assembly

import (
	"context"
	"errors"
	"fmt"
	"math"
	"strconv"
	"time"

	"github.com/jackc/pgx/v5"
)

type speed float64

// UnmarshalText reads a number from 0.01 to 10000.
func (s *speed) UnmarshalText(text []byte) error {
	x, err := strconv.ParseFloat(string(text), 64)
	if err != nil || !(x >= 0.01 && x <= 10_000) {
		return fmt.Errorf("takes a number from 0.01 to 10000, not %.40q", text)
	}
	*s = speed(x)
	return nil
}

// The factory's time stays between these. It starts with the company, and restarts as real time in the year 5000, which
// a clock at speed 2880 reaches after a year. Days are planned far ahead of it, and the feed allows years up to 9999.
var (
	earliest = time.Date(2020, 1, 1, 0, 0, 0, 0, time.UTC)
	latest   = time.Date(5000, 1, 1, 0, 0, 0, 0, time.UTC)
)

func told(t time.Time) bool { return !t.Before(earliest) && t.Before(latest) }

// maxSkew is the tolerated difference between the clocks of two machines. A later time was stored before a clock was
// set back.
const maxSkew = time.Minute

// A clock returns the factory's time, in UTC. It started as real time, and runs even while no process looks at it.
type clock struct {
	real, factory time.Time // two times of the same moment
	speed         float64   // factory seconds per real second
}

func (c clock) at(real time.Time) time.Time {
	seconds, rest := math.Modf(max(real.Sub(c.real).Seconds(), 0) * c.speed)
	return time.Unix(c.factory.Unix()+int64(seconds), int64(c.factory.Nanosecond())+int64(rest*1e9)).UTC().Truncate(time.Microsecond)
}

func (c clock) when(factory time.Time) time.Time {
	seconds := float64(factory.Unix()-c.factory.Unix()) + float64(factory.Nanosecond()-c.factory.Nanosecond())/1e9 // a Duration overflows after 292 years
	const most = float64(math.MaxInt64 / 2)
	return c.real.Add(time.Duration(max(min(seconds/c.speed*float64(time.Second), most), -most)))
}

type database interface {
	QueryRow(ctx context.Context, sql string, args ...any) pgx.Row
	Begin(ctx context.Context) (pgx.Tx, error)
}

// readClock returns the stored clock, or the zero clock if there is none or it is invalid.
func readClock(ctx context.Context, db database) (c clock, err error) {
	err = db.QueryRow(ctx, `
		select real_at, factory_at, speed from clock where isfinite(real_at) and isfinite(factory_at) and speed > 0 and speed < 'infinity'`).
		Scan(&c.real, &c.factory, &c.speed)
	if errors.Is(err, pgx.ErrNoRows) {
		err = nil
	}
	if err != nil {
		return c, fmt.Errorf("read the factory's clock: %w", err)
	}
	return c, nil
}

// from returns the clock that follows c at now. If the speed is another one, or the real clock was set back, the next
// clock continues from the time that c shows. If c shows no valid time, the next clock starts at real time, and begun
// is true.
func (f *factory) from(c clock, now time.Time) (next clock, begun bool) {
	shows := c.at(now)
	switch should := float64(f.Speed); {
	case c.speed == 0 || !told(shows):
		if shows = now; !told(now) { // the real clock is wrong
			shows = earliest
		}
		return clock{now, shows, should}, true
	case c.speed != should, c.real.Sub(now) > maxSkew:
		return clock{now, shows, should}, false
	}
	return c, false
}

// clock stores and returns the clock that follows the stored one at now.
func (f *factory) clock(ctx context.Context, db database, now time.Time) (clock, error) {
	c, err := readClock(ctx, db)
	if next, _ := f.from(c, now); err != nil || next == c {
		return c, err
	}
	err = pgx.BeginFunc(ctx, db, func(tx pgx.Tx) error {
		if _, err := tx.Exec(ctx, `lock table clock in exclusive mode`); err != nil {
			return err
		}
		stored, err := readClock(ctx, tx) // another process may have stored it
		if err != nil {
			return err
		}
		var begun bool
		if c, begun = f.from(stored, now); begun {
			if err := rebase(ctx, tx, c.factory); err != nil {
				return err
			}
		}
		_, err = tx.Exec(ctx, `
			insert into clock (real_at, factory_at, speed) values ($1, $2, $3)
			on conflict (one) do update set real_at = excluded.real_at, factory_at = excluded.factory_at, speed = excluded.speed`, c.real, c.factory, c.speed)
		return err
	})
	if err != nil {
		return c, fmt.Errorf("set the factory's clock: %w", err)
	}
	return c, nil
}

// hold stores the time that the clock shows at an event, so that a real clock that is set back later does not set it
// back. A transaction holds the clock before it changes builds: the clock's row is locked before the rows of row_count.
func hold(ctx context.Context, tx pgx.Tx, c clock, now time.Time) error {
	_, err := tx.Exec(ctx, `update clock set real_at = $1, factory_at = $2 where real_at < $1 and speed = $3`, now, c.at(now), c.speed)
	return err
}

// rebase moves the due times of the old clock to a clock that has restarted. Order and distances stay; the next step is
// due at once. The days after it are free except for the cars planned for them.
func rebase(ctx context.Context, tx pgx.Tx, now time.Time) error {
	var b pgx.Batch
	b.Queue(`update build set due = $1::timestamptz + (due - (select min(due) from build)) where due is not null`, now)
	b.Queue(`delete from slot where day >= $1::date`, now.Format(time.DateOnly))
	b.Queue(`
		insert into slot (day, cars) select slot, count(*) from build where status = 'planned' and slot >= $1::date group by slot`, now.Format(time.DateOnly))
	return tx.SendBatch(ctx, &b).Close()
}
