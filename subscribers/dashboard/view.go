package dashboard

import (
	"context"

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

// MostOrders gives the orders of the best day.
func (s *statistics) MostOrders() (most int64) {
	for _, d := range s.ByDay {
		most = max(most, d.Orders)
	}
	return most
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
