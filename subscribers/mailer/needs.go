package mailer

import (
	"github.com/google/uuid"

	"github.com/edison-cars/data-feeds/shared/contract"
	"github.com/edison-cars/data-feeds/shared/customer"
	"github.com/edison-cars/data-feeds/shared/feed"
	"github.com/edison-cars/data-feeds/shared/order"
)

// An orderRead is what the mailer reads of an order.
type orderRead struct {
	Status     order.Status `json:"status"`
	CustomerID uuid.UUID    `json:"customer_id"`
	Lines      []struct {
		Model          string   `json:"model"`
		Options        []string `json:"options"`
		Quantity       int      `json:"quantity"`
		UnitPriceCents int64    `json:"unit_price_cents"`
	} `json:"lines"`
	TotalCents int64     `json:"total_cents"`
	Currency   string    `json:"currency"`
	PlacedAt   feed.Time `json:"placed_at"`
}

// A customerRead is what the mailer reads of a customer.
type customerRead struct {
	Name           string `json:"name"`
	Email          string `json:"email"`
	EmailConfirmed bool   `json:"email_confirmed"`
}

var (
	orderPart    = contract.PartOf[orderRead](order.Contract)
	customerPart = contract.PartOf[customerRead](customer.Contract)
)
