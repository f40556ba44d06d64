package main

import (
	"fmt"
	"strconv"
	"time"

	"github.com/go-json-experiment/json"
	"github.com/google/uuid"

	"github.com/edison-cars/data-feeds/shared/feed"
	"github.com/edison-cars/data-feeds/shared/order"
	"github.com/edison-cars/data-feeds/shared/publish"
)

const publicURL = "http://localhost:8080" // in the links only

// newOrder gives an order that takes about 680 bytes of JSON.
func newOrder() *order.Order {
	now := time.Now().UTC().Truncate(time.Microsecond)
	o := &order.Order{
		ID: uuid.Must(uuid.NewV7()), Version: 1, Status: order.Placed, CustomerID: uuid.New(), Currency: "EUR", PlacedAt: feed.TimeOf(now), UpdatedAt: feed.TimeOf(now),
		Lines: []order.Line{
			{Model: "ampere", Options: []string{"all_wheel_drive", "driver_assistance", "glass_roof"}, Quantity: 1, UnitPriceCents: 5_789_000},
			{Model: "joule", Options: []string{"heat_pump", "long_range", "tow_bar"}, Quantity: 3, UnitPriceCents: 5_120_000},
			{Model: "ohm", Options: []string{"driver_assistance", "third_row"}, Quantity: 2, UnitPriceCents: 5_460_000},
			{Model: "volta", Options: []string{}, Quantity: 1, UnitPriceCents: 2_990_000},
		},
	}
	for _, l := range o.Lines {
		o.TotalCents += int64(l.Quantity) * l.UnitPriceCents
	}
	return o
}

// insertOrder takes the arguments of orderRow.
const insertOrder = `insert into %s (id, version, status, customer_id, lines, total_cents, currency, placed_at, updated_at)
	values ($1, $2, $3, $4, $5, $6, $7, $8, $9)`

var orderColumns = []string{"id", "version", "status", "customer_id", "lines", "total_cents", "currency", "placed_at", "updated_at"}

func orderRow(o *order.Order) []any {
	return []any{o.ID, o.Version, o.Status, o.CustomerID, o.Lines, o.TotalCents, o.Currency, o.PlacedAt.Time, o.UpdatedAt.Time}
}

// newChange is the sale of an order: its row and its entry.
func newChange(o *order.Order) (*publish.Change, error) {
	e, err := newEntry(o)
	c := publish.NewChange()
	c.Exec(fmt.Sprintf(insertOrder, "orders"), orderRow(o)...)
	c.Append(feedName, e)
	return c, err
}

func newEntry(o *order.Order) (publish.Entry, error) {
	payload, err := json.Marshal(o)
	return publish.Entry{ID: o.ID, Version: o.Version, Updated: o.UpdatedAt.Time, Payload: payload}, err
}

var description = feed.Description{
	Name: feedName, Title: "Orders", Text: "Every order, whole, in commit order.", ID: "tag:edison-cars.example,2026:bench",
	Show: func(e feed.Entry) (feed.Shown, error) {
		o := new(order.Order)
		err := json.Unmarshal(e.Entity, o)
		title, html := words(o)
		return feed.Shown{Title: title, HTML: html, URL: publicURL + "/orders/" + o.ID.String(), XML: o}, err
	},
}

// words are safe to embed.
func words(o *order.Order) (title, html string) {
	b := []byte("<ul>")
	for i := range o.Lines {
		b = append(strconv.AppendInt(append(b, "<li>"...), int64(o.Lines[i].Quantity), 10), " × "+o.Lines[i].Model+"</li>"...)
	}
	return "Order " + o.ID.String() + " " + string(o.Status), string(b) + "</ul>"
}
