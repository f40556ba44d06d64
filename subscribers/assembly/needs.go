package assembly

import (
	"github.com/google/uuid"

	"github.com/edison-cars/data-feeds/shared/contract"
	"github.com/edison-cars/data-feeds/shared/order"
)

// An orderRead is what assembly reads of an order.
type orderRead struct {
	ID         uuid.UUID    `json:"id"`
	Status     order.Status `json:"status"`
	CustomerID uuid.UUID    `json:"customer_id"`
	Lines      []struct {
		Model    string   `json:"model"`
		Options  []string `json:"options"`
		Quantity int      `json:"quantity"`
	} `json:"lines"`
}

var orderPart = contract.PartOf[orderRead](order.Contract)
