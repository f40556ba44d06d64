// Package customer is the published contract of the customers feed. The feed is personal: when a customer deletes the
// account, the feed has a tombstone, and the earlier entries are erased.
package customer

import (
	"encoding/xml"

	"github.com/google/uuid"

	"github.com/edison-cars/data-feeds/shared/contract"
	"github.com/edison-cars/data-feeds/shared/feed"
)

// Feed is the name of the feed that publishes customers.
const Feed = "customers"

// A Customer is the state of one customer at one version.
type Customer struct {
	XMLName xml.Name  `json:"-" xml:"https://edison-cars.example/ns/customer customer"`
	ID      uuid.UUID `json:"id" xml:"id"` // version 7
	Version int64     `json:"version" xml:"version" check:"1.."`
	Name    string    `json:"name" xml:"name" check:"0..200"`   // before it is put into a mail: see [CheckName]
	Email   string    `json:"email" xml:"email" check:"0..254"` // an addr-spec (RFC 5322 section 3.4.1)
	// EmailConfirmed is true after the customer used a link that was mailed to Email; absent means false. Until then no
	// data of the customer is sent to that address, which may be a stranger's.
	EmailConfirmed bool      `json:"email_confirmed" xml:"email_confirmed"`
	Address        Address   `json:"address" xml:"address"`
	CreatedAt      feed.Time `json:"created_at" xml:"created_at"`
	UpdatedAt      feed.Time `json:"updated_at" xml:"updated_at"` // UTC; grows strictly with Version
}

// An Address is the address for invoices and cars.
type Address struct {
	Street     string `json:"street" xml:"street" check:"0..200"` // with the house number
	PostalCode string `json:"postal_code" xml:"postal_code" check:"0..20"`
	City       string `json:"city" xml:"city" check:"0..100"`
	Country    string `json:"country" xml:"country" check:"0..2"` // ISO 3166-1 alpha-2: "DE"
}

// Contract is what the rules of [Customer] are: readers take the part that they need.
var Contract = contract.Of[Customer]()

// Schema is the contract as a JSON Schema.
var Schema = Contract.Schema("customer")

// Check returns a [*contract.Error], or nil if the entry is a tombstone or meets this contract.
func Check(e feed.Entry) error { return Contract.Check(e) }
