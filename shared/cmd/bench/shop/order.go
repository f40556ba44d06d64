package shop

import (
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/go-json-experiment/json"
	"github.com/google/uuid"

	"github.com/edison-cars/data-feeds/shared/feed"
	"github.com/edison-cars/data-feeds/shared/order"
	"github.com/edison-cars/data-feeds/shared/publish"
)

// PublicURL is in the links only.
const PublicURL = "http://localhost:8080"

// NewID returns the id of a new order.
func NewID() uuid.UUID { return uuid.Must(uuid.NewV7()) }

// NewOrder returns an order of about 680 bytes of JSON.
func NewOrder(id uuid.UUID) *order.Order {
	now := feed.TimeOf(time.Now().UTC().Truncate(time.Microsecond))
	o := &order.Order{
		ID: id, Version: 1, Status: order.Placed, CustomerID: uuid.New(), Currency: "EUR", PlacedAt: now, UpdatedAt: now,
		Lines: []order.Line{
			line("ampere", 1, 5_789_000, "all_wheel_drive", "driver_assistance", "glass_roof"),
			line("joule", 3, 5_120_000, "heat_pump", "long_range", "tow_bar"),
			line("ohm", 2, 5_460_000, "driver_assistance", "third_row"),
			line("volta", 1, 2_990_000),
		},
	}
	for _, l := range o.Lines {
		o.TotalCents += int64(l.Quantity) * l.UnitPriceCents
	}
	return o
}

func line(model string, quantity int, cents int64, options ...string) order.Line {
	return order.Line{Model: model, Options: append([]string{}, options...), Quantity: quantity, UnitPriceCents: cents}
}

// Columns are those of a table of orders.
var Columns = []string{"id", "version", "status", "customer_id", "lines", "total_cents", "currency", "placed_at",
	"updated_at"}

// Row returns the values of Columns.
func Row(o *order.Order) []any {
	return []any{
		o.ID, o.Version, o.Status, o.CustomerID, o.Lines, o.TotalCents, o.Currency, o.PlacedAt.Time, o.UpdatedAt.Time,
	}
}

// Insert returns the statement that inserts a Row into a table.
func Insert(table string) string {
	return fmt.Sprintf("insert into %s (%s) values ($1, $2, $3, $4, $5, $6, $7, $8, $9)", table,
		strings.Join(Columns, ", "))
}

var insertOrder = Insert("orders")

// NewChange returns the sale of an order: its row and its entry.
func NewChange(o *order.Order) (*publish.Change, error) {
	e, err := NewEntry(o)
	c := publish.NewChange()
	c.Exec(insertOrder, Row(o)...)
	c.Append(order.Feed, e)
	return c, err
}

// NewEntry returns the order as an entry of the feed.
func NewEntry(o *order.Order) (publish.Entry, error) {
	payload, err := json.Marshal(o)
	return publish.Entry{ID: o.ID, Version: o.Version, Updated: o.UpdatedAt.Time, Payload: payload}, err
}

// Description is that of the feed.
var Description = feed.Description{
	Name: order.Feed, Title: "Orders", Text: "Every order, whole, in commit order.",
	ID: "tag:edison-cars.example,2026:bench",
	Show: func(e feed.Entry) (feed.Shown, error) {
		o := new(order.Order)
		err := json.Unmarshal(e.Entity, o)
		title, html := Words(o)
		return feed.Shown{Title: title, HTML: html, URL: PublicURL + "/orders/" + o.ID.String(), XML: o}, err
	},
}

// Words returns the title and the HTML of an order, safe to embed.
func Words(o *order.Order) (title, html string) {
	b := []byte("<ul>")
	for i := range o.Lines {
		b = strconv.AppendInt(append(b, "<li>"...), int64(o.Lines[i].Quantity), 10)
		b = append(b, " × "+o.Lines[i].Model+"</li>"...)
	}
	return "Order " + o.ID.String() + " " + string(o.Status), string(b) + "</ul>"
}
