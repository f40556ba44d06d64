package assembly

import (
	"context"
	"errors"
	"fmt"
	"math"
	"strconv"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
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

// A clock tells the factory's time, which is UTC. It began as real time, and goes on while nobody looks.
type clock struct {
	real, factory time.Time // the factory's time then
	speed         float64   // seconds of the factory in a real one
}

// at gives the factory's time at a real one.
func (c clock) at(real time.Time) time.Time {
	seconds, rest := math.Modf(max(real.Sub(c.real).Seconds(), 0) * c.speed)
	return time.Unix(c.factory.Unix()+int64(seconds), int64(c.factory.Nanosecond())+int64(rest*1e9)).UTC().Truncate(time.Microsecond)
}

// when gives the real time of one of the factory's.
func (c clock) when(factory time.Time) time.Time {
	seconds := float64(factory.Unix()-c.factory.Unix()) + float64(factory.Nanosecond()-c.factory.Nanosecond())/1e9 // a Duration would end after 292 years
	return c.real.Add(time.Duration(seconds / c.speed * float64(time.Second)))
}

// A database is a pool or a transaction.
type database interface {
	QueryRow(ctx context.Context, sql string, args ...any) pgx.Row
	Exec(ctx context.Context, sql string, args ...any) (pgconn.CommandTag, error)
}

func readClock(ctx context.Context, db database) (c clock, err error) {
	err = db.QueryRow(ctx, `select real_at, factory_at, speed from clock`).Scan(&c.real, &c.factory, &c.speed)
	return c, err
}

// clock gives the one that the database keeps. Where it goes at another speed than it should, it goes on from what it shows now.
func (f *factory) clock(ctx context.Context, db database, now time.Time) (clock, error) {
	c, err := readClock(ctx, db)
	switch should := float64(f.Speed); {
	case errors.Is(err, pgx.ErrNoRows):
		c = clock{now, now, should}
	case err != nil:
		return c, fmt.Errorf("read the factory's clock: %w", err)
	case c.speed == should:
		return c, nil
	default:
		if c.factory = c.at(now); now.After(c.real) {
			c.real = now
		}
		c.speed = should
	}
	_, err = db.Exec(ctx, `
		insert into clock (real_at, factory_at, speed) values ($1, $2, $3)
		on conflict (one) do update set real_at = excluded.real_at, factory_at = excluded.factory_at, speed = excluded.speed`, c.real, c.factory, c.speed)
	if err != nil {
		return c, fmt.Errorf("set the factory's clock: %w", err)
	}
	return c, nil
}
