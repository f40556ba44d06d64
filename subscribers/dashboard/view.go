package dashboard

import (
	"cmp"
	"context"
	"slices"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
)

// statistics are over the orders that stand; the cancelled ones are only counted.
type statistics struct {
	RevenueCents int64      `json:"revenue_cents"`
	Currency     string     `json:"currency"`
	Orders       int64      `json:"orders"`
	Cancelled    int64      `json:"cancelled"`
	Cars         int64      `json:"cars"`
	ByModel      []modelSum `json:"by_model"` // most cars first
	ByDay        []daySum   `json:"by_day"`   // UTC, oldest first, days without orders left out
}

type modelSum struct {
	Model        string `json:"model"`
	Cars         int64  `json:"cars"`
	RevenueCents int64  `json:"revenue_cents"`
}

type daySum struct {
	Day          string `json:"day"` // 2026-01-31
	Orders       int64  `json:"orders"`
	Cars         int64  `json:"cars"`
	RevenueCents int64  `json:"revenue_cents"`
}

// MostCars gives the cars of the model that sold best, for the scale of a chart.
func (s *statistics) MostCars() (most int64) {
	for _, m := range s.ByModel {
		most = max(most, m.Cars)
	}
	return most
}

// A chart is of 14 to 60 days.
const (
	minDays = 14
	maxDays = 60
)

// Days gives the days of the chart, oldest first, those without orders too. The last is the last with orders; there are
// none if none has.
func (s *statistics) Days() []daySum {
	if len(s.ByDay) == 0 {
		return nil
	}
	first, last := s.ByDay[0].date(), s.ByDay[len(s.ByDay)-1].date()
	ago := func(day time.Time) int { return int(last.Sub(day) / (24 * time.Hour)) }
	days := make([]daySum, min(max(ago(first)+1, minDays), maxDays))
	for i := range days {
		days[i].Day = last.AddDate(0, 0, i+1-len(days)).Format(time.DateOnly)
	}
	for _, d := range s.ByDay {
		if i := len(days) - 1 - ago(d.date()); i >= 0 {
			days[i] = d
		}
	}
	return days
}

// Latest gives the days with orders, newest first, at most 14.
func (s *statistics) Latest() []daySum {
	days := slices.Clone(s.ByDay[max(len(s.ByDay)-minDays, 0):])
	slices.Reverse(days)
	return days
}

// Best gives the day with the most orders of some.
func (s *statistics) Best(days []daySum) daySum {
	return slices.MaxFunc(days, func(a, b daySum) int { return cmp.Compare(a.Orders, b.Orders) })
}

func (d daySum) date() time.Time {
	date, _ := time.Parse(time.DateOnly, d.Day) // as PostgreSQL wrote it
	return date
}

// stats reads all figures from one snapshot, so that they agree.
func stats(ctx context.Context, db *pgxpool.Pool) (*statistics, error) {
	s := &statistics{Currency: "EUR"}
	err := pgx.BeginTxFunc(ctx, db, pgx.TxOptions{IsoLevel: pgx.RepeatableRead, AccessMode: pgx.ReadOnly}, func(tx pgx.Tx) error {
		err := tx.QueryRow(ctx, `select count(*) from orders where status = 'cancelled'`).Scan(&s.Cancelled)
		if err != nil {
			return err
		}
		rows, err := tx.Query(ctx, `
			select model, sum(quantity)::bigint, sum(quantity * unit_price_cents)::bigint
			  from order_line join orders on orders.id = order_id
			 where status = 'placed' group by model order by 2 desc, 1`)
		if err != nil {
			return err
		}
		if s.ByModel, err = pgx.CollectRows(rows, pgx.RowToStructByPos[modelSum]); err != nil {
			return err
		}
		rows, err = tx.Query(ctx, `
			select to_char(placed_at at time zone 'UTC', 'YYYY-MM-DD'), count(distinct id), sum(quantity)::bigint, sum(quantity * unit_price_cents)::bigint
			  from order_line join orders on orders.id = order_id
			 where status = 'placed' group by 1 order by 1`)
		if err != nil {
			return err
		}
		s.ByDay, err = pgx.CollectRows(rows, pgx.RowToStructByPos[daySum])
		return err
	})
	for _, d := range s.ByDay {
		s.Orders += d.Orders
		s.Cars += d.Cars
		s.RevenueCents += d.RevenueCents
	}
	return s, err
}
