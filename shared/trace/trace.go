// Package trace is the part of an order's way that each service tells, at GET /api/trace/{id}: by the id of the order,
// or of a customer, build or shipment. The map puts the parts together.
package trace

import (
	"context"
	"errors"
	"regexp"
	"slices"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
)

// A Part is what one service knows of an order.
type Part struct {
	OrderID    *uuid.UUID `json:"order_id"`    // null if the service knows no order by the id
	CustomerID *uuid.UUID `json:"customer_id"` // null if it is not known
	Steps      []Step     `json:"steps"`       // oldest first
	WaitsFor   []string   `json:"waits_for"`   // in words
}

// A Step is something that has happened.
type Step struct {
	At   time.Time `json:"at"`
	Text string    `json:"text"`
	Path string    `json:"path,omitempty"` // of the service's page about it; may be empty
}

// MaxSteps is how many steps a part has at most, the first ones.
const MaxSteps = 500

// Complete returns the part with lists that are not nil, and its steps in order.
func (p Part) Complete() Part {
	p.Steps, p.WaitsFor = append([]Step{}, p.Steps...), append([]string{}, p.WaitsFor...)
	for i := range p.Steps {
		p.Steps[i].At = p.Steps[i].At.UTC()
	}
	slices.SortStableFunc(p.Steps, func(a, b Step) int { return a.At.Compare(b.At) })
	p.Steps = p.Steps[:min(len(p.Steps), MaxSteps)]
	return p
}

var uuidIn = regexp.MustCompile(`(?i)[0-9a-f]{8}-(?:[0-9a-f]{4}-){3}[0-9a-f]{12}`)

// IDIn returns the first UUID in a text that somebody has pasted, such as a URL.
func IDIn(text string) (id uuid.UUID, ok bool) {
	id, err := uuid.Parse(uuidIn.FindString(text))
	return id, err == nil
}

// Read reads a part: find selects the ids of the order and of the customer by the id $1, which may be one of several
// kinds; steps selects times, texts and paths, and waits selects texts, by the order's id $1. Each of them may select
// nothing.
func Read(ctx context.Context, db *pgxpool.Pool, id uuid.UUID, find, steps, waits string) (p Part, err error) {
	err = db.QueryRow(ctx, find+" limit 1", id).Scan(&p.OrderID, &p.CustomerID)
	if errors.Is(err, pgx.ErrNoRows) || err == nil && p.OrderID == nil {
		return p, nil
	}
	if err != nil {
		return p, err
	}
	rows, _ := db.Query(ctx, `select * from (`+steps+`) as step (at, text, path) where at is not null order by at limit $2`, *p.OrderID, MaxSteps)
	if p.Steps, err = pgx.CollectRows(rows, pgx.RowToStructByPos[Step]); err != nil {
		return p, err
	}
	rows, _ = db.Query(ctx, waits, *p.OrderID)
	p.WaitsFor, err = pgx.CollectRows(rows, pgx.RowTo[string])
	return p, err
}
