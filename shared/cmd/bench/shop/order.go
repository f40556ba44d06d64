package shop

import (
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"slices"
	"time"

	"github.com/go-json-experiment/json"
	"github.com/google/uuid"

	"github.com/edison-cars/data-feeds/shared/feed"
	"github.com/edison-cars/data-feeds/shared/order"
)

const seed = 2026

var options = []string{"all_wheel_drive", "driver_assistance", "glass_roof", "heat_pump", "long_range", "tow_bar"}

// ID is that of order n.
func ID(n int) uuid.UUID {
	return uuid.NewSHA1(uuid.NameSpaceOID, binary.BigEndian.AppendUint64(nil, uint64(n)))
}

// newOrder gives order n, the same in every run: about 600 bytes of JSON.
func newOrder(n int) *order.Order {
	random := rand.New(rand.NewPCG(seed, uint64(n)))
	at := time.Date(2026, 1, 1, 0, 0, n, 0, time.UTC)
	o := &order.Order{ID: ID(n), Version: 1, Status: order.Placed, CustomerID: ID(-1 - random.IntN(1000)), Currency: "EUR", PlacedAt: feed.TimeOf(at), UpdatedAt: feed.TimeOf(at)}
	for _, model := range []string{"ampere", "joule", "ohm"} {
		l := order.Line{Model: model, Options: slices.Clone(options[:random.IntN(len(options))]), Quantity: 1 + random.IntN(3), UnitPriceCents: 3_000_000 + 1000*random.Int64N(3000)}
		o.Lines = append(o.Lines, l)
		o.TotalCents += int64(l.Quantity) * l.UnitPriceCents
	}
	return o
}

const insertOrder = `insert into orders (id, version, status, customer_id, lines, total_cents, currency, placed_at, updated_at)
	values ($1, $2, $3, $4, $5, $6, $7, $8, $9)`

func row(o *order.Order) []any {
	return []any{o.ID, o.Version, o.Status, o.CustomerID, o.Lines, o.TotalCents, o.Currency, o.PlacedAt.Time, o.UpdatedAt.Time}
}

// message is the order as queues carry it: with external_id, by which the story's consumer knows it.
func message(o *order.Order) ([]byte, error) {
	body, err := json.Marshal(o)
	if err != nil {
		return nil, err
	}
	return append(fmt.Appendf(nil, `{"external_id":"%s",`, o.ID), body[1:]...), nil
}

func describe(publicURL string) feed.Description {
	return feed.Description{
		Name: order.Feed, Title: "Orders", Text: "Every order, whole, in commit order.", ID: "tag:edison-cars.example,2026:comparison",
		Show: func(e feed.Entry) (feed.Shown, error) {
			o := new(order.Order)
			err := json.Unmarshal(e.Entity, o)
			return feed.Shown{Title: "Order " + o.ID.String(), HTML: "<p>Order</p>", URL: publicURL + "/orders/" + o.ID.String(), XML: o}, err
		},
	}
}
