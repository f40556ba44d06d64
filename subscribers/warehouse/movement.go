package warehouse

import (
	"context"
	"errors"
	"fmt"
	"math"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/edison-cars/data-feeds/shared/web"
)

// Lengths of a page of a list: without limit, and the most.
const (
	listed    = 100
	maxListed = 1000
)

// A movement is one change of the stock of a part, with the stock after it.
type movement struct {
	ID            int64      `json:"id"`
	Part          string     `json:"part"`
	At            time.Time  `json:"moved_at"`
	OrderID       *uuid.UUID `json:"order_id,omitempty"`
	Purchase      *int64     `json:"purchase,omitempty"`
	OnHand        int64      `json:"on_hand"` // its change
	Reserved      int64      `json:"reserved"`
	OnOrder       int64      `json:"on_order"`
	OnHandAfter   int64      `json:"on_hand_after"`
	ReservedAfter int64      `json:"reserved_after"`
	OnOrderAfter  int64      `json:"on_order_after"`
}

// Why returns the reason of the movement.
func (m movement) Why() string {
	switch {
	case m.OrderID != nil && m.OnHand < 0:
		return "Built in for order " + web.Short(*m.OrderID)
	case m.OrderID != nil && m.OnHand > 0:
		return "Build withdrawn of order " + web.Short(*m.OrderID)
	case m.OrderID != nil && m.Reserved < 0:
		return "Released from order " + web.Short(*m.OrderID)
	case m.OrderID != nil:
		return "Reserved for order " + web.Short(*m.OrderID)
	case m.Purchase != nil && m.OnHand > 0:
		return fmt.Sprintf("Purchase %d arrived", *m.Purchase)
	case m.Purchase != nil:
		return fmt.Sprintf("Purchase %d ordered", *m.Purchase)
	}
	return "Stock counted"
}

// Change returns the kind of change and the number of pieces.
func (m movement) Change() string {
	var changes []string
	for _, c := range []struct {
		name   string
		pieces int64
	}{{"on hand", m.OnHand}, {"reserved", m.Reserved}, {"on order", m.OnOrder}} {
		if c.pieces > 0 {
			changes = append(changes, c.name+" +"+web.Num(c.pieces))
		} else if c.pieces < 0 {
			changes = append(changes, c.name+" "+web.Num(c.pieces))
		}
	}
	return strings.Join(changes, ", ")
}

type movementList struct{ web.List[movement] }

// readMovements returns a page of the movements of a part, or of all parts if it is "". The request may set q to an order
// or to the number of a purchase.
func readMovements(r *http.Request, db *pgxpool.Pool, part string) (list movementList, err error) {
	l, err := web.NewListing(r, listed, maxListed, new(int64))
	if err != nil {
		return list, err
	}
	if part != "" {
		if _, err := findPart(r.Context(), db, part); err != nil {
			return list, err
		}
		l.Where("part = ?", part)
	}
	if l.Number > 0 {
		l.Where("purchase = ?", l.Number)
	}
	l.Find("movement", "id", []string{"order_id"})
	end, args := l.SQL("id")
	rows, _ := db.Query(r.Context(), `
		select id, part, moved_at, order_id, purchase, on_hand, reserved, on_order, on_hand_after, reserved_after, on_order_after from movement`+end, args...)
	found, err := pgx.CollectRows(rows, pgx.RowToStructByPos[movement])
	list.List = web.NewList(l, found, func(m movement) []any { return []any{m.ID} })
	return list, err
}

func findPart(ctx context.Context, db *pgxpool.Pool, name string) (part, error) {
	rows, _ := db.Query(ctx, selectPart+`where part = $1`, name)
	p, err := pgx.CollectExactlyOneRow(rows, pgx.RowToStructByPos[part])
	if errors.Is(err, pgx.ErrNoRows) {
		err = web.Errorf(http.StatusNotFound, "The warehouse has no part %q.", name)
	}
	return p, err
}

type history struct {
	part
	movementList
	UnderWay []purchase
}

func readHistory(r *http.Request, db *pgxpool.Pool) (h history, err error) {
	if h.part, err = findPart(r.Context(), db, r.PathValue("part")); err != nil {
		return h, err
	}
	if h.movementList, err = readMovements(r, db, h.Part); err != nil {
		return h, err
	}
	h.UnderWay, err = collectPurchases(db.Query(r.Context(), selectPurchase+`where part = $1 and arrived_at is null order by due_at, number limit 10`, h.Part))
	return h, err
}

// Least returns the lower end of the drawing's vertical axis.
func (l movementList) Least() int64 {
	least := int64(math.MaxInt64)
	for _, m := range l.Items {
		least = min(least, m.OnHandAfter, m.ReservedAfter)
	}
	return least
}

// Most returns the upper end of the axis. It is greater than Least.
func (l movementList) Most() int64 {
	most := l.Least() + 1
	for _, m := range l.Items {
		most = max(most, m.OnHandAfter, m.ReservedAfter)
	}
	return most
}

// First and Last are the oldest and the newest movement of the drawing.
func (l movementList) First() movement { return l.Items[len(l.Items)-1] }
func (l movementList) Last() movement  { return l.Items[0] }

// OnHandLine and ReservedLine draw the stock as path data of an SVG, in a square of 100 by 100.
func (l movementList) OnHandLine() string {
	return l.line(func(m movement) int64 { return m.OnHandAfter })
}

func (l movementList) ReservedLine() string {
	return l.line(func(m movement) int64 { return m.ReservedAfter })
}

func (l movementList) line(level func(movement) int64) string {
	var path strings.Builder
	first, least, most := l.First().At, l.Least(), l.Most()
	span := max(l.Last().At.Sub(first), time.Nanosecond)
	for _, m := range slices.Backward(l.Items) {
		x, y := 97*float64(m.At.Sub(first))/float64(span), 100-100*float64(level(m)-least)/float64(most-least)
		if path.Len() == 0 {
			fmt.Fprintf(&path, "M0 %.2f", y)
		} else {
			fmt.Fprintf(&path, "H%.2fV%.2f", x, y)
		}
	}
	return path.String() + "H100"
}
