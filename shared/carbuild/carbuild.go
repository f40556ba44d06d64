// Package carbuild is the published contract of the builds feed: the progress of each car's build.
package carbuild

import (
	"encoding/xml"

	"github.com/google/uuid"

	"github.com/edison-cars/data-feeds/shared/contract"
	"github.com/edison-cars/data-feeds/shared/feed"
)

// Feed is the name of the feed that publishes builds.
const Feed = "builds"

// A Status is the state of a build.
type Status string

// The statuses of a build, in this order: planned, started, finished. Only a planned build can be cancelled; it is
// planned again if its order returns.
const (
	Planned   Status = "planned"
	Started   Status = "started"
	Finished  Status = "finished"
	Cancelled Status = "cancelled"
)

// A Build is the state of the build of one car at one version.
type Build struct {
	XMLName    xml.Name   `json:"-" xml:"https://edison-cars.example/ns/build build"`
	ID         uuid.UUID  `json:"id" xml:"id"` // version 5: of the order and the number of the car in it
	Version    int64      `json:"version" xml:"version" check:"1.."`
	Status     Status     `json:"status" xml:"status" check:"planned|started|finished|cancelled"`
	OrderID    uuid.UUID  `json:"order_id" xml:"order_id"`
	CustomerID uuid.UUID  `json:"customer_id" xml:"customer_id"`
	Car        int        `json:"car" xml:"car" check:"1..10000"` // 1, 2, 3 ... within the order
	Model      string     `json:"model" xml:"model" check:"1..100"`
	Options    []string   `json:"options" xml:"option" check:"0..20" each:"1..100"` // sorted; never null
	Slot       string     `json:"slot" xml:"slot" check:"date"`                     // the day that it is planned for: "2026-11-23", UTC
	StartedAt  *feed.Time `json:"started_at" xml:"started_at,omitempty"`            // null before
	FinishedAt *feed.Time `json:"finished_at" xml:"finished_at,omitempty"`          // null before
	UpdatedAt  feed.Time  `json:"updated_at" xml:"updated_at"`                      // UTC; grows strictly with Version
}

// Contract is what the rules of [Build] are: readers take the part that they need.
var Contract = contract.Of[Build]()

// Schema is the contract as a JSON Schema.
var Schema = Contract.Schema("build")

// Check returns a [*contract.Error], or nil if the entry is a tombstone or meets this contract.
func Check(e feed.Entry) error { return Contract.Check(e) }
