package shipping

import (
	"encoding/json"
	"fmt"
	"html"

	"github.com/edison-cars/data-feeds/shared/feed"
	"github.com/edison-cars/data-feeds/shared/shipment"
	"github.com/edison-cars/data-feeds/shared/web"
)

func shipmentsFeed(publicURL string) feed.Description {
	return feed.Description{
		Name: shipment.Feed, Title: "Edison Cars: shipments", ID: "tag:edison-cars.example,2026:shipments",
		Text:   "The shipment of every car that is finished or whose order is cancelled, complete, at each change, in commit order. It contains no personal data.",
		Schema: shipment.Schema,
		Show: func(e feed.Entry) (feed.Shown, error) {
			var s shipment.Shipment
			if err := json.Unmarshal(e.Entity, &s); err != nil {
				return feed.Shown{}, fmt.Errorf("read shipment %s: %w", e.ID, err)
			}
			status := html.EscapeString(string(s.Status))
			return feed.Shown{
				Title: fmt.Sprintf("Shipment %s %s", web.Short(s.ID), s.Status),
				HTML:  fmt.Sprintf(`<p><span class="badge %s">%s</span> car %d of order <code>%s</code></p>`, status, status, s.Car, s.OrderID),
				URL:   publicURL + "/shipments/" + s.ID.String(), XML: &s,
			}, nil
		},
	}
}
