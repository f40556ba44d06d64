// Package order is the published contract of the orders feed: what an order looks like to everybody who reads it.
package order

import (
	"encoding/xml"
	"time"

	"github.com/google/uuid"
)

// Feed is the name of the feed that publishes orders.
const Feed = "orders"

// A Status is where an order stands.
type Status string

// The statuses of an order. A cancelled order stays cancelled.
const (
	Placed    Status = "placed"
	Cancelled Status = "cancelled"
)

// An Order is the whole state of one order at one version.
type Order struct {
	XMLName    xml.Name  `json:"-" xml:"https://edison-cars.example/ns/order order"`
	ID         uuid.UUID `json:"id" xml:"id"` // version 7: grows with the time of the sale
	Version    int64     `json:"version" xml:"version"`
	Status     Status    `json:"status" xml:"status"`
	CustomerID uuid.UUID `json:"customer_id" xml:"customer_id"`
	Lines      []Line    `json:"lines" xml:"line"` // at least one
	TotalCents int64     `json:"total_cents" xml:"total_cents"`
	Currency   string    `json:"currency" xml:"currency"` // ISO 4217
	PlacedAt   time.Time `json:"placed_at" xml:"placed_at"`
	UpdatedAt  time.Time `json:"updated_at" xml:"updated_at"` // UTC; grows strictly with Version
}

// A Line is a number of cars of one model with the same options.
type Line struct {
	Model          string   `json:"model" xml:"model"`
	Options        []string `json:"options" xml:"option"` // sorted, none twice; never null
	Quantity       int      `json:"quantity" xml:"quantity"`
	UnitPriceCents int64    `json:"unit_price_cents" xml:"unit_price_cents"` // one car with its options
}
