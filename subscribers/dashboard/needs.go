package dashboard

import (
	"github.com/google/uuid"

	"github.com/edison-cars/data-feeds/shared/carbuild"
	"github.com/edison-cars/data-feeds/shared/contract"
	"github.com/edison-cars/data-feeds/shared/feed"
	"github.com/edison-cars/data-feeds/shared/order"
	"github.com/edison-cars/data-feeds/shared/shipment"
)

// An orderRead is what the dashboard reads of an order.
type orderRead struct {
	Status     order.Status `json:"status"`
	PlacedAt   feed.Time    `json:"placed_at"`
	TotalCents int64        `json:"total_cents"`
	Lines      []struct {
		Model          string   `json:"model"`
		Options        []string `json:"options"`
		Quantity       int      `json:"quantity"`
		UnitPriceCents int64    `json:"unit_price_cents"`
	} `json:"lines"`
}

// A buildRead is what the dashboard reads of a build.
type buildRead struct {
	OrderID    uuid.UUID       `json:"order_id"`
	Car        int             `json:"car"`
	Status     carbuild.Status `json:"status"`
	FinishedAt *feed.Time      `json:"finished_at"`
}

// A shipmentRead is what the dashboard reads of a shipment.
type shipmentRead struct {
	OrderID   uuid.UUID       `json:"order_id"`
	Car       int             `json:"car"`
	Status    shipment.Status `json:"status"`
	ShippedAt *feed.Time      `json:"shipped_at"`
}

var (
	orderPart    = contract.PartOf[orderRead](order.Contract)
	buildPart    = contract.PartOf[buildRead](carbuild.Contract)
	shipmentPart = contract.PartOf[shipmentRead](shipment.Contract)
)
