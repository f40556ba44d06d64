package warehouse

import (
	"github.com/google/uuid"

	"github.com/edison-cars/data-feeds/shared/carbuild"
	"github.com/edison-cars/data-feeds/shared/contract"
	"github.com/edison-cars/data-feeds/shared/order"
)

// An orderRead is what the warehouse reads of an order.
type orderRead struct {
	Status order.Status `json:"status"`
	Lines  []struct {
		Model    string   `json:"model"`
		Options  []string `json:"options"`
		Quantity int      `json:"quantity"`
	} `json:"lines"`
}

// A buildRead is what the warehouse reads of a build.
type buildRead struct {
	Status  carbuild.Status `json:"status"`
	OrderID uuid.UUID       `json:"order_id"`
	Model   string          `json:"model"`
	Options []string        `json:"options"`
}

var (
	orderPart = contract.PartOf[orderRead](order.Contract)
	buildPart = contract.PartOf[buildRead](carbuild.Contract)
)
