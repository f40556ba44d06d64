package shipping

import (
	"github.com/google/uuid"

	"github.com/edison-cars/data-feeds/shared/carbuild"
	"github.com/edison-cars/data-feeds/shared/contract"
	"github.com/edison-cars/data-feeds/shared/customer"
	"github.com/edison-cars/data-feeds/shared/order"
)

// A buildRead is what shipping reads of a build.
type buildRead struct {
	Status     carbuild.Status `json:"status"`
	OrderID    uuid.UUID       `json:"order_id"`
	CustomerID uuid.UUID       `json:"customer_id"`
	Car        int             `json:"car"`
	Model      string          `json:"model"`
}

// A customerRead is what shipping reads of a customer.
type customerRead struct {
	Name    string `json:"name"`
	Address struct {
		Street     string `json:"street"`
		PostalCode string `json:"postal_code"`
		City       string `json:"city"`
		Country    string `json:"country"`
	} `json:"address"`
}

// An orderRead is what shipping reads of an order.
type orderRead struct {
	Status     order.Status `json:"status"`
	CustomerID uuid.UUID    `json:"customer_id"`
	Lines      []struct {
		Model    string `json:"model"`
		Quantity int    `json:"quantity"`
	} `json:"lines"`
}

var (
	buildPart    = contract.PartOf[buildRead](carbuild.Contract)
	customerPart = contract.PartOf[customerRead](customer.Contract)
	orderPart    = contract.PartOf[orderRead](order.Contract)
)
