// Package order is the published contract of the orders feed.
package order

import (
	"encoding/xml"
	"strings"
	"unicode"
	"unicode/utf8"

	"github.com/google/uuid"

	"github.com/edison-cars/data-feeds/shared/contract"
	"github.com/edison-cars/data-feeds/shared/feed"
)

// Feed is the name of the feed that publishes orders.
const Feed = "orders"

// A Status is the state of an order.
type Status string

// The statuses of an order. A cancelled order stays cancelled. To cancel is a request: which of its cars leave
// nevertheless, the shipments feed says.
const (
	Placed    Status = "placed"
	Cancelled Status = "cancelled"
)

// An Order is the state of one order at one version. It has at most 10,000 cars, and a price of at most 10^13 cents. Its
// cars are numbered 1, 2, 3 ... over its lines: a first line of two cars has the cars 1 and 2.
type Order struct {
	XMLName    xml.Name  `json:"-" xml:"https://edison-cars.example/ns/order order"`
	ID         uuid.UUID `json:"id" xml:"id"` // version 7: grows with the time of the sale
	Version    int64     `json:"version" xml:"version" check:"1.."`
	Status     Status    `json:"status" xml:"status" check:"placed|cancelled"`
	CustomerID uuid.UUID `json:"customer_id" xml:"customer_id"`
	Lines      []Line    `json:"lines" xml:"line" check:"1..20"`
	TotalCents int64     `json:"total_cents" xml:"total_cents" check:"0..10000000000000"` // the sum of its lines
	Currency   string    `json:"currency" xml:"currency" check:"0..3"`                    // ISO 4217
	PlacedAt   feed.Time `json:"placed_at" xml:"placed_at"`
	UpdatedAt  feed.Time `json:"updated_at" xml:"updated_at"` // UTC; grows strictly with Version
}

// A Line is a number of cars of one model with the same options.
type Line struct {
	Model          string   `json:"model" xml:"model" check:"1..100"`
	Options        []string `json:"options" xml:"option" check:"0..20" each:"1..100"` // sorted, none twice; never null
	Quantity       int      `json:"quantity" xml:"quantity" check:"1..500"`
	UnitPriceCents int64    `json:"unit_price_cents" xml:"unit_price_cents" check:"0..1000000000"` // one car with its options
}

// PriceCents returns the price of all cars of the line.
func (l Line) PriceCents() int64 { return int64(l.Quantity) * l.UnitPriceCents }

// CarName returns a car's name by its codes, which are made of words: "Volta with glass roof, tow bar".
func CarName(model string, options ...string) string {
	name := model
	if first, size := utf8.DecodeRuneInString(model); size > 0 {
		name = string(unicode.ToUpper(first)) + model[size:]
	}
	if len(options) > 0 {
		name += " with " + strings.Join(options, ", ")
	}
	return strings.ReplaceAll(name, "_", " ")
}

// Contract is what the rules of [Order] are: readers take the part that they need.
var Contract = contract.Of[Order]()

// Schema is the contract as a JSON Schema.
var Schema = Contract.Schema("order")

// Check returns a [*contract.Error], or nil if the entry is a tombstone or meets this contract.
func Check(e feed.Entry) error { return Contract.Check(e) }
