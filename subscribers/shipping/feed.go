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
		Text: "The shipment of every finished car, complete, at each change, in commit order. It contains no personal data.",
		Show: func(e feed.Entry) (feed.Shown, error) {
			var s shipment.Shipment
			if err := json.Unmarshal(e.Entity, &s); err != nil {
				return feed.Shown{}, fmt.Errorf("read shipment %s: %w", e.ID, err)
			}
			status := html.EscapeString(string(s.Status))
			return feed.Shown{
				Title: fmt.Sprintf("Shipment %s %s", web.Short(s.ID), s.Status),
				HTML: `<p><span class="badge ` + status + `">` + status + `</span> the car of build <code>` + s.BuildID.String() +
					`</code>, of order <code>` + s.OrderID.String() + `</code></p>`,
				URL: publicURL + "/shipments/" + s.ID.String(), XML: &s,
			}, nil
		},
	}
}
