package warehouse

import (
	"cmp"
	"context"
	"net/http"
	"slices"
	"strings"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/edison-cars/data-feeds/shared/web"
)

// A part is a part as the page and the API show it. Quantities are in pieces.
type part struct {
	Part         string `json:"part"`
	Name         string `json:"name"`
	OnHand       int64  `json:"on_hand"`
	Reserved     int64  `json:"reserved"`
	OnOrder      int64  `json:"on_order"`
	ReorderPoint int64  `json:"reorder_point"`
	Lot          int64  `json:"lot"`      // purchases are multiples of it
	Supplier     string `json:"supplier"` // its name
	LeadDays     int    `json:"lead_days"`
}

// Available returns the pieces, on hand or on order, that are not reserved.
func (p part) Available() int64 { return p.OnHand + p.OnOrder - p.Reserved }

// Short returns the reserved pieces that are not on hand.
func (p part) Short() int64 { return max(p.Reserved-p.OnHand, 0) }

const selectPart = `
	select part, part.name, on_hand, reserved, on_order, reorder_point, lot, supplier.name, lead_days
	  from part join supplier using (supplier) `

func parts(ctx context.Context, db *pgxpool.Pool) ([]part, error) {
	rows, _ := db.Query(ctx, selectPart+`order by part`)
	return pgx.CollectRows(rows, pgx.RowToStructByPos[part])
}

// A column of the stock can be sorted by.
type column struct {
	Name, Text string
	Sorted     string // for aria-sort: ascending or descending; "": it is not
	value      func(part) int64
	most       bool // the most come first
}

func columns() []column {
	return []column{
		{Name: "on-hand", Text: "On hand", value: func(p part) int64 { return p.OnHand }},
		{Name: "reserved", Text: "Reserved", value: func(p part) int64 { return p.Reserved }, most: true},
		{Name: "on-order", Text: "On order", value: func(p part) int64 { return p.OnOrder }, most: true},
		{Name: "available", Text: "Available", value: part.Available},
	}
}

type data struct {
	Columns   []column
	Parts     []part
	Purchases []purchase // the next to arrive
	UnderWay  int64
	Orders    int64 // that pieces are reserved for
	Reserved  int64
	OnOrder   int64
	Short     int64 // number of parts
}

// Shortages returns the parts that are short, most pieces first.
func (d data) Shortages() []part {
	short := slices.DeleteFunc(slices.Clone(d.Parts), func(p part) bool { return p.Short() == 0 })
	slices.SortStableFunc(short, func(a, b part) int { return cmp.Compare(b.Short(), a.Short()) })
	return short
}

// overview returns the page of the stock. The request may set sort to a column: by default it is sorted by name.
func overview(r *http.Request, db *pgxpool.Pool) (d data, err error) {
	ctx, by := r.Context(), r.URL.Query().Get("sort")
	d.Columns = columns()
	sorted := slices.IndexFunc(d.Columns, func(c column) bool { return c.Name == by })
	if sorted < 0 && by != "" {
		return d, web.Errorf(http.StatusBadRequest, "The parameter sort takes on-hand, reserved, on-order or available.")
	}
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
	if sorted >= 0 {
		c := &d.Columns[sorted]
		c.Sorted = "ascending"
		if c.most {
			c.Sorted = "descending"
		}
		slices.SortStableFunc(d.Parts, func(a, b part) int {
			if c.most {
				a, b = b, a
			}
			return cmp.Compare(c.value(a), c.value(b))
		})
	}
	if d.Purchases, err = underWay(ctx, db, 10); err != nil {
		return d, err
	}
	return d, db.QueryRow(ctx, `
		select coalesce(sum(rows) filter (where relation = 'purchase'), 0)::bigint,
		       coalesce(sum(rows) filter (where relation = 'orders'), 0)::bigint from row_count`).Scan(&d.UnderWay, &d.Orders)
}

type supplier struct {
	Supplier string   `json:"supplier"`
	Name     string   `json:"name"`
	LeadDays int      `json:"lead_days"`
	Parts    []string `json:"parts"`
	UnderWay int64    `json:"purchases_under_way"`
	Pieces   int64    `json:"pieces_under_way"`
}

type supplierList struct {
	Suppliers []supplier
	Faster    string // how many times faster than their lead times suppliers deliver; empty: not faster
}

func suppliers(ctx context.Context, db *pgxpool.Pool) ([]supplier, error) {
	rows, _ := db.Query(ctx, `
		select supplier, supplier.name, lead_days, array_agg(part order by part), coalesce(sum(rows), 0)::bigint, coalesce(sum(on_order), 0)::bigint
		  from supplier join part using (supplier)
		  left join row_count on relation = 'purchase' and value = part -- those under way
		 group by supplier order by supplier.name`)
	return pgx.CollectRows(rows, pgx.RowToStructByPos[supplier])
}
