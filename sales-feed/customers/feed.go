package customers

import (
	"encoding/json"
	"fmt"
	"html/template"
	"strings"

	"github.com/edison-cars/data-feeds/shared/customer"
	"github.com/edison-cars/data-feeds/shared/feed"
	"github.com/edison-cars/data-feeds/shared/web"
)

func customersFeed(publicURL string) feed.Description {
	return feed.Description{
		Name: customer.Feed, Title: "Edison Cars: customers", ID: "tag:edison-cars.example,2026:customers",
		Text:     "Every customer, complete, at the sign-up and at each change, in commit order. Deleted accounts are erased from it.",
		Personal: true,
		Schema:   customer.Schema,
		Views:    customer.Views,
		Show: func(e feed.Entry) (feed.Shown, error) {
			p := new(customer.Customer)
			if err := json.Unmarshal(e.Entity, p); err != nil {
				return feed.Shown{}, fmt.Errorf("read customer %s: %w", e.ID, err)
			}
			var content strings.Builder
			if err := words.Execute(&content, p); err != nil {
				return feed.Shown{}, err
			}
			return feed.Shown{
				Title: "Customer " + web.Short(p.ID) + ": " + p.Name,
				HTML:  content.String(), URL: publicURL + "/customers/" + p.ID.String(), XML: p,
			}, nil
		},
	}
}

var words = template.Must(template.New("").Parse(
	`<p>{{.Name}}, {{.Email}}</p><p>{{with .Address}}{{.Street}}, {{.PostalCode}} {{.City}}, {{.Country}}{{end}}</p>`))
