package customer

import (
	"github.com/google/uuid"

	"github.com/edison-cars/data-feeds/shared/contract"
	"github.com/edison-cars/data-feeds/shared/feed"
)

// Paths of the views below the source's address.
const (
	DeliveryPath = "/feeds/" + Feed + "/views/delivery"
	ContactPath  = "/feeds/" + Feed + "/views/contact"
)

// Views are the declared views of the feed. None of them ever changes: see views.json.
var Views = []feed.DeclaredView{
	{Name: "delivery", Text: "Where cars go.", Fields: []string{"id", "version", "name", "address"}},
	{Name: "contact", Text: "Where mails go.", Fields: []string{"id", "version", "name", "email", "email_confirmed"}},
}

// A Delivery is what the view delivery has of a customer.
type Delivery struct {
	ID      uuid.UUID `json:"id"`
	Version int64     `json:"version" check:"1.."`
	Name    string    `json:"name" check:"0..200"`
	Address Address   `json:"address"`
}

// A Contact is what the view contact has of a customer.
type Contact struct {
	ID             uuid.UUID `json:"id"`
	Version        int64     `json:"version" check:"1.."`
	Name           string    `json:"name" check:"0..200"`
	Email          string    `json:"email" check:"0..254"`
	EmailConfirmed bool      `json:"email_confirmed"`
}

var deliveryRules, contactRules = contract.Of[Delivery](), contract.Of[Contact]()

// CheckDelivery is [Check] of the view delivery.
func CheckDelivery(e feed.Entry) error { return deliveryRules.Check(e) }

// CheckContact is [Check] of the view contact.
func CheckContact(e feed.Entry) error { return contactRules.Check(e) }
