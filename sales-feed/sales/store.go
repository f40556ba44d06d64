package sales

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/edison-cars/data-feeds/sales-feed/source"
	"github.com/edison-cars/data-feeds/shared/feed"
	"github.com/edison-cars/data-feeds/shared/order"
	"github.com/edison-cars/data-feeds/shared/publish"
	"github.com/edison-cars/data-feeds/shared/web"
)

// A purchase is the order that a buyer requests. It has no prices: they come from the catalogue.
type purchase struct {
	CustomerID *string        `json:"customer_id"` // nil means a new visitor
	Lines      []purchaseLine `json:"lines"`

	reviewed int64 // cents: the total that the buyer has reviewed; 0 means none
}

type purchaseLine struct {
	Model    string   `json:"model"`
	Options  []string `json:"options"`
	Quantity int      `json:"quantity"`
}

const (
	maxLines    = 20
	maxQuantity = 50
)

const reviewed = "total_cents" // the field of the total that the buyer has reviewed

func (p *purchase) order(now time.Time) (*order.Order, error) {
	var wrong []web.FieldError
	if len(p.Lines) == 0 || len(p.Lines) > maxLines {
		return nil, incomplete([]web.FieldError{{Field: "lines", Detail: fmt.Sprintf("must be 1 to %d lines", maxLines)}})
	}
	refuse := func(field, detail string, args ...any) {
		wrong = append(wrong, web.FieldError{Field: field, Detail: fmt.Sprintf(detail, args...)})
	}
	o := &order.Order{Version: 1, Status: order.Placed, Currency: currency, PlacedAt: feed.TimeOf(now), UpdatedAt: feed.TimeOf(now)}
	var err error
	if p.CustomerID == nil {
		o.CustomerID = uuid.New()
	} else if o.CustomerID, err = source.ParseUUID(*p.CustomerID); err != nil || o.CustomerID == uuid.Nil {
		refuse("customer_id", "must be a UUID such as 018f4e7c-5d1b-7c3a-9f00-2b6d1c8e4a11")
	}
	for i, l := range p.Lines {
		field := fmt.Sprintf("lines[%d].", i)
		if l.Quantity < 1 || l.Quantity > maxQuantity {
			refuse(field+"quantity", "must be 1 to %d", maxQuantity)
		}
		m, ok := findModel(l.Model)
		if !ok {
			refuse(field+"model", "is not on sale; GET /models lists the models")
			continue
		}
		if len(l.Options) > len(m.Options) {
			refuse(field+"options", "must be up to %d, each once", len(m.Options))
			continue
		}
		line := order.Line{Model: m.Model, Options: l.Options, Quantity: l.Quantity, UnitPriceCents: m.PriceCents}
		for j, name := range line.Options {
			option, ok := m.Option(name)
			switch {
			case !ok:
				refuse(field+"options", "%.40q is not an option of %s; GET /models lists them", name, m.Model)
			case j > 0 && line.Options[j-1] == name:
				refuse(field+"options", "%s is there twice", name)
			default:
				line.UnitPriceCents += option.PriceCents
			}
		}
		o.Lines = append(o.Lines, line)
		o.TotalCents += int64(line.Quantity) * line.UnitPriceCents
	}
	if len(wrong) > 0 {
		return nil, incomplete(wrong)
	}
	if p.reviewed != 0 && p.reviewed != o.TotalCents {
		refuse(reviewed, "was %s when you reviewed the order, and is %s now", web.Money(p.reviewed, currency), web.Money(o.TotalCents, currency))
		return nil, &web.Problem{Status: http.StatusUnprocessableEntity, Detail: "The price has changed. Nothing was bought.", Errors: wrong}
	}
	o.ID, err = uuid.NewV7()
	return o, err
}

func incomplete(wrong []web.FieldError) *web.Problem {
	return &web.Problem{Status: http.StatusUnprocessableEntity, Detail: "The order is not complete. Nothing was bought.", Errors: wrong}
}

// normalize brings equal purchases into one form: options sorted, the UUID in lower case.
func (p *purchase) normalize() {
	if p.CustomerID != nil {
		lower := strings.ToLower(*p.CustomerID)
		p.CustomerID = &lower
	}
	for i := range p.Lines {
		slices.Sort(p.Lines[i].Options)
		if p.Lines[i].Options == nil {
			p.Lines[i].Options = []string{}
		}
	}
}

// store keeps the orders. Each change of an order is an entry of the orders feed.
type store struct {
	pool *pgxpool.Pool
	log  *publish.Log
}

// place stores a new order, only once for each idempotency key. An empty key means none.
func (s *store) place(ctx context.Context, p *purchase, key string) (*order.Order, error) {
	p.normalize()
	return source.Once(ctx, s.pool, s.log, key, p, func(hash []byte) (*order.Order, error) {
		o, err := p.order(source.Now())
		if err != nil {
			return nil, err
		}
		entry, err := entryOf(o)
		if err != nil {
			return nil, err
		}
		change := publish.NewChange()
		change.Exec(`insert into orders (id, version, status, customer_id, lines, total_cents, currency, placed_at, updated_at)
			values ($1, $2, $3, $4, $5, $6, $7, $8, $9)`,
			o.ID, o.Version, o.Status, o.CustomerID, o.Lines, o.TotalCents, o.Currency, o.PlacedAt.Time, o.UpdatedAt.Time)
		if key != "" {
			change.Exec(`insert into idempotency_key (key, request_hash, answer, created_at) values ($1, $2, $3, greatest(now(), $4))`,
				key, hash, entry.Payload, source.SteadyTime())
		}
		change.Append(order.Feed, entry)
		switch err = s.log.Commit(ctx, change); {
		case errors.Is(err, publish.ErrUnknown):
			return nil, source.UnknownOutcome("/orders/"+o.ID.String(), "order twice", key != "")
		case err != nil:
			return nil, fmt.Errorf("place order %s: %w", o.ID, err)
		}
		return o, nil
	})
}

// cancel cancels an order, given as it was just read. ifMatch (nil means none) are the If-Match fields: one of their
// entity tags must match the current order. Cancelling a cancelled order changes nothing.
func (s *store) cancel(ctx context.Context, o *order.Order, ifMatch []string) (_ *order.Order, err error) {
	for id := o.ID; ; {
		if ifMatch != nil && !web.MatchesETag(ifMatch, etag(o), true) { // a tag that a proxy weakened still counts
			return nil, web.Errorf(http.StatusPreconditionFailed, "The order has changed: it is at version %d, %s.", o.Version, o.Status)
		}
		if o.Status == order.Cancelled {
			return o, nil
		}
		o.Status = order.Cancelled
		o.Version++
		o.UpdatedAt = feed.TimeOf(source.Later(source.Now(), o.UpdatedAt.Time))
		entry, err := entryOf(o)
		if err != nil {
			return nil, err
		}
		change := publish.NewChange()
		change.Exec(`with changed as (
			update orders set status = $3, version = $2, updated_at = $4 where id = $1 and version = $2 - 1 returning 1
			) select feed_guard(count(*) = 1) from changed`, o.ID, o.Version, o.Status, o.UpdatedAt.Time)
		change.Append(order.Feed, entry)
		switch err = s.log.Commit(ctx, change); {
		case errors.Is(err, publish.ErrUnknown):
			return nil, source.UnknownOutcome("/orders/"+id.String(), "", false)
		case errors.Is(err, publish.ErrGuard): // changed in the meantime: look again
			if o, err = s.get(ctx, id); err != nil {
				return nil, err
			}
		case err != nil:
			return nil, fmt.Errorf("cancel order %s: %w", id, err)
		default:
			return o, nil
		}
	}
}

const selectOrder = `select id, version, status, customer_id, lines, total_cents, currency, placed_at, updated_at from orders `

func (s *store) get(ctx context.Context, id uuid.UUID) (*order.Order, error) {
	ctx, cancel := context.WithTimeout(ctx, source.ReadTimeout)
	defer cancel()
	var o *order.Order
	err := s.log.Read(ctx, func(conn *pgx.Conn) (err error) {
		rows, _ := conn.Query(ctx, selectOrder+`where id = $1`, id)
		o, err = pgx.CollectExactlyOneRow(rows, scanOrder)
		return err
	})
	none := errors.Is(err, pgx.ErrNoRows)
	if err == nil || none { // it may not be restored yet
		err = s.log.Confirm(ctx)
	}
	switch {
	case err != nil:
		return nil, fmt.Errorf("read order %s: %w", id, err)
	case none:
		return nil, errNoOrder
	}
	return o, nil
}

var errNoOrder = web.Errorf(http.StatusNotFound, "There is no such order.")

func scanOrder(row pgx.CollectableRow) (*order.Order, error) {
	o := new(order.Order)
	err := row.Scan(&o.ID, &o.Version, &o.Status, &o.CustomerID, &o.Lines, &o.TotalCents, &o.Currency, &o.PlacedAt.Time, &o.UpdatedAt.Time)
	o.PlacedAt, o.UpdatedAt = feed.TimeOf(o.PlacedAt.Time), feed.TimeOf(o.UpdatedAt.Time)
	return o, err
}

func entryOf(o *order.Order) (publish.Entry, error) {
	payload, err := json.Marshal(o)
	return publish.Entry{ID: o.ID, Version: o.Version, Updated: o.UpdatedAt.Time, Payload: payload}, err
}

func etag(o *order.Order) string { return source.ETag(o.Version) }
