// Package shipment is the published contract of the shipments feed: the progress of each car's shipment. It contains
// nothing about the recipient.
//
// A car has a shipment once it is finished, and at the latest once its order is cancelled, even if it is never built.
package shipment

import (
	"encoding/xml"

	"github.com/google/uuid"

	"github.com/edison-cars/data-feeds/shared/contract"
	"github.com/edison-cars/data-feeds/shared/feed"
)

// Feed is the name of the feed that publishes shipments.
const Feed = "shipments"

// A Status is the state of a shipment.
type Status string

// The statuses of a shipment: waiting for its car or the customer's address; ready to leave; shipped; stopped, because
// its order was cancelled or the account deleted before it left; returned, because its order was cancelled after it left.
// Each car of a cancelled order is stopped, shipped or returned. Only a shipped one changes again, when it is returned,
// unless the order returns, as after sales was restored from a backup.
const (
	Waiting  Status = "waiting"
	Ready    Status = "ready"
	Shipped  Status = "shipped"
	Stopped  Status = "stopped"
	Returned Status = "returned"
)

// A Shipment is the state of the shipment of one car at one version.
type Shipment struct {
	XMLName   xml.Name   `json:"-" xml:"https://edison-cars.example/ns/shipment shipment"`
	ID        uuid.UUID  `json:"id" xml:"id"` // version 5: of the order and the number of the car in it
	Version   int64      `json:"version" xml:"version" check:"1.."`
	Status    Status     `json:"status" xml:"status" check:"waiting|ready|shipped|stopped|returned"`
	OrderID   uuid.UUID  `json:"order_id" xml:"order_id"`
	Car       int        `json:"car" xml:"car" check:"1..10000"`        // 1, 2, 3 ... within the order
	ShippedAt *feed.Time `json:"shipped_at" xml:"shipped_at,omitempty"` // null before
	UpdatedAt feed.Time  `json:"updated_at" xml:"updated_at"`           // UTC; grows strictly with Version
}

// Contract is what the rules of [Shipment] are: readers take the part that they need.
var Contract = contract.Of[Shipment]()

// Schema is the contract as a JSON Schema.
var Schema = Contract.Schema("shipment")

// Check returns a [*contract.Error], or nil if the entry is a tombstone or meets this contract.
func Check(e feed.Entry) error { return Contract.Check(e) }
