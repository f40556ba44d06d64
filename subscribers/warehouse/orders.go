package warehouse

import (
	"net/http"
	"strconv"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/edison-cars/data-feeds/shared/web"
)

// An openOrder is one that pieces are reserved for: cars of it have not been started.
type openOrder struct {
	ID      uuid.UUID `json:"id"`
	Pieces  int64     `json:"reserved"` // of the part that is asked for, or of all
	ShortOf []string  `json:"short_of"` // names of the parts, of those that it takes, that all cars together lack
}

// readOrders returns a page of the open orders, the newest first. The request may set part=PART.
func readOrders(r *http.Request, db *pgxpool.Pool) (list web.List[openOrder], err error) {
	l, err := web.NewListing(r, listed, maxListed, new(uuid.UUID))
	if err != nil {
		return list, err
	}
	l.Where("to_build") // the condition of the partial index
	part := r.URL.Query().Get("part")
	if part != "" {
		if _, err := findPart(r.Context(), db, part); err != nil {
			return list, err
		}
		l.Where("exists (select from reservation r where r.order_id = orders.id and r.part = ? and r.quantity > 0)", part)
	}
	l.Find("orders", "id", []string{"id"})
	end, args := l.SQL("id")
	args = append(args, part)
	rows, _ := db.Query(r.Context(), `
		select id,
		       (select coalesce(sum(quantity), 0)::bigint from reservation r where r.order_id = orders.id and $`+strconv.Itoa(len(args))+` in ('', r.part)),
		       (select coalesce(array_agg(p.name order by p.name), '{}') from reservation r join part p using (part)
		         where r.order_id = orders.id and r.quantity > 0 and p.reserved > p.on_hand)
		  from orders`+end, args...)
	found, err := pgx.CollectRows(rows, pgx.RowToStructByPos[openOrder])
	return web.NewList(l, found, func(o openOrder) []any { return []any{o.ID} }), err
}

type orderList struct {
	web.List[openOrder]
	Part  string // "" for all
	Parts []part
}

func showOrders(r *http.Request, db *pgxpool.Pool) (l orderList, err error) {
	l.Part = r.URL.Query().Get("part")
	if l.List, err = readOrders(r, db); err != nil {
		return l, err
	}
	l.Parts, err = parts(r.Context(), db)
	return l, err
}
