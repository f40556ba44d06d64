package warehouse

import (
	"context"
	"net/http"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/edison-cars/data-feeds/shared/subscribe"
	"github.com/edison-cars/data-feeds/shared/web"
)

// A purchase is an order of new pieces of one part at its supplier.
type purchase struct {
	Number    int64      `json:"number"` // 1, 2, 3 ...
	Part      string     `json:"part"`
	Name      string     `json:"name"`     // of the part
	Supplier  string     `json:"supplier"` // its name
	Quantity  int64      `json:"quantity"`
	OrderedAt time.Time  `json:"ordered_at"`
	DueAt     time.Time  `json:"due_at"`
	ArrivedAt *time.Time `json:"arrived_at"` // null: it has not arrived
}

// maxSkew is the tolerated difference between the clocks of two machines. A purchase later than that was made by a
// wrong clock.
const maxSkew = time.Minute

// book books each purchase that has arrived by now, once: it moves the pieces from on order to on hand. A purchase from
// the future becomes due one lead time after now. A purchase with an infinite arrival time becomes due at once.
func book(ctx context.Context, db *pgxpool.Pool, now time.Time) error {
	_, err := db.Exec(ctx, `
		update purchase set ordered_at = $1, due_at = case when isfinite(ordered_at) and isfinite(due_at)
		       then $1::timestamptz + (due_at - ordered_at) else $1 end
		 where arrived_at is null and (ordered_at > $1::timestamptz + $2::interval or due_at = 'infinity')`, now, maxSkew)
	if err != nil {
		return err
	}
	var due bool
	if err := db.QueryRow(ctx, `select exists (select from purchase where arrived_at is null and due_at <= $1)`, now).Scan(&due); err != nil || !due {
		return err
	}
	return subscribe.InTx(ctx, db, func(tx pgx.Tx) error {
		if _, err := tx.Exec(ctx, lockStock); err != nil {
			return err
		}
		_, err := tx.Exec(ctx, `
			with arrived as (
				update purchase set arrived_at = $1 where arrived_at is null and due_at <= $1 returning number, part, quantity
			), total as (
				select part, sum(quantity)::bigint as pieces from arrived group by part
			), stock as (
				update part set on_hand = on_hand + pieces, on_order = on_order - pieces from total where part.part = total.part
				returning part.part, on_hand - pieces as on_hand, reserved, on_order + pieces as on_order
			)
			insert into movement (part, purchase, on_hand, on_order, on_hand_after, reserved_after, on_order_after)
			select part, number, quantity, -quantity, on_hand + sum(quantity) over so_far, reserved, on_order - sum(quantity) over so_far
			  from arrived join stock using (part) window so_far as (partition by part order by number) order by number`, now)
		return err
	})
}

const selectPurchase = `
	select number, part, part.name, supplier.name, quantity, ordered_at, due_at, arrived_at
	  from purchase join part using (part) join supplier using (supplier) `

func collectPurchases(rows pgx.Rows, err error) ([]purchase, error) {
	if err != nil {
		return nil, err
	}
	return pgx.CollectRows(rows, pgx.RowToStructByPos[purchase])
}

func underWay(ctx context.Context, db *pgxpool.Pool, limit int) ([]purchase, error) {
	return collectPurchases(db.Query(ctx, selectPurchase+`where arrived_at is null order by due_at, number limit $1`, limit))
}

// readPurchases returns a page of the purchases, the newest first. The request may set q to the number of one.
func readPurchases(r *http.Request, db *pgxpool.Pool) (list web.List[purchase], err error) {
	l, err := web.NewListing(r, listed, maxListed, new(int64))
	if err != nil {
		return list, err
	}
	if l.Q != "" {
		l.Where("number = ?", l.Number)
	}
	end, args := l.SQL("number")
	found, err := collectPurchases(db.Query(r.Context(), selectPurchase+end, args...))
	return web.NewList(l, found, func(p purchase) []any { return []any{p.Number} }), err
}
