package warehouse

import (
	"context"
	"slices"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
)

// A part as the page and the API show it, in pieces.
type part struct {
	Part         string `json:"part"`
	Name         string `json:"name"`
	OnHand       int64  `json:"on_hand"`
	Reserved     int64  `json:"reserved"`
	OnOrder      int64  `json:"on_order"`
	ReorderPoint int64  `json:"reorder_point"`
}

// Available gives the pieces, on hand or on order, that nobody has reserved.
func (p part) Available() int64 { return p.OnHand + p.OnOrder - p.Reserved }

// Short gives the pieces that are reserved but not on hand.
func (p part) Short() int64 { return max(p.Reserved-p.OnHand, 0) }

type purchase struct {
	Part      string
	Name      string
	Number    int64
	Quantity  int64
	OrderedAt time.Time
}

func parts(ctx context.Context, db *pgxpool.Pool) ([]part, error) {
	rows, err := db.Query(ctx, `select part, name, on_hand, reserved, on_order, reorder_point from part order by part`)
	if err != nil {
		return nil, err
	}
	return pgx.CollectRows(rows, pgx.RowToStructByPos[part])
}

type data struct {
	Parts     []part
	Purchases []purchase
	Orders    int64
	Reserved  int64
	OnOrder   int64
	Short     int64 // parts, not pieces
}

func overview(ctx context.Context, db *pgxpool.Pool) (d data, err error) {
	if d.Parts, err = parts(ctx, db); err != nil {
		return d, err
	}
	for _, p := range d.Parts {
		d.Reserved += p.Reserved
		d.OnOrder += p.OnOrder
		if p.Short() > 0 {
			d.Short++
		}
	}
	slices.SortFunc(d.Parts, func(a, b part) int { return strings.Compare(a.Name, b.Name) })
	rows, err := db.Query(ctx, `
		select part, name, number, quantity, ordered_at from purchase join part using (part)
		 order by ordered_at desc, part limit 10`)
	if err != nil {
		return d, err
	}
	if d.Purchases, err = pgx.CollectRows(rows, pgx.RowToStructByPos[purchase]); err != nil {
		return d, err
	}
	return d, db.QueryRow(ctx, `select count(*) from orders where status = 'placed'`).Scan(&d.Orders)
}
