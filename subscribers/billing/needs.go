package billing

import (
	"github.com/google/uuid"

	"github.com/edison-cars/data-feeds/shared/contract"
	"github.com/edison-cars/data-feeds/shared/customer"
	"github.com/edison-cars/data-feeds/shared/feed"
	"github.com/edison-cars/data-feeds/shared/order"
	"github.com/edison-cars/data-feeds/shared/shipment"
)

// An orderRead is what billing reads of an order.
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

// A customerRead is what billing reads of a customer.
type customerRead struct {
	Name    string `json:"name"`
	Address struct {
		Street     string `json:"street"`
		PostalCode string `json:"postal_code"`
		City       string `json:"city"`
		Country    string `json:"country"`
	} `json:"address"`
}

// A shipmentRead is what billing reads of a shipment.
type shipmentRead struct {
	OrderID uuid.UUID       `json:"order_id"`
	Car     int             `json:"car"`
	Status  shipment.Status `json:"status"`
}

var (
	orderPart    = contract.PartOf[orderRead](order.Contract)
	customerPart = contract.PartOf[customerRead](customer.Contract)
	shipmentPart = contract.PartOf[shipmentRead](shipment.Contract)
)
