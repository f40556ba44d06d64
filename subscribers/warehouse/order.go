package warehouse

import (
	"context"
	"net/http"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/edison-cars/data-feeds/shared/web"
)

var orderPage = web.Template(pages, "order.html")

// An orderView is what the warehouse has done for an order.
type orderView struct {
	ID    uuid.UUID
	Parts []orderedPart
}

// An orderedPart is a part of which pieces were reserved for an order.
type orderedPart struct {
	Part, Name string
	Reserved   int64 // pieces that still are
	BuiltIn    int64
	Short      int64 // pieces that all orders together lack
}

// Short returns the end of the order's id.
func (o orderView) Short() string { return web.Short(o.ID) }

// Released reports whether nothing is reserved or built in any more.
func (o orderView) Released() bool {
	for _, p := range o.Parts {
		if p.Reserved != 0 || p.BuiltIn != 0 {
			return false
		}
	}
	return true
}

func readOrder(ctx context.Context, db *pgxpool.Pool, id string) (o orderView, err error) {
	if o.ID, err = uuid.Parse(id); err != nil {
		return o, web.Errorf(http.StatusNotFound, "An order has a UUID of 36 characters.")
	}
	rows, _ := db.Query(ctx, `
		select part, part.name, moved.reserved, moved.built_in, greatest(part.reserved - part.on_hand, 0)
		  from part join (
		       select part, sum(reserved)::bigint as reserved, -sum(on_hand)::bigint as built_in from movement where order_id = $1 group by part
		       ) as moved using (part)
		 order by part.name`, o.ID)
	if o.Parts, err = pgx.CollectRows(rows, pgx.RowToStructByPos[orderedPart]); err == nil && len(o.Parts) == 0 {
		err = web.Errorf(http.StatusNotFound, "The warehouse has reserved no pieces for an order of this id.")
	}
	return o, err
}
