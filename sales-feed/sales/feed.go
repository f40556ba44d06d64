package sales

import (
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"html/template"
	"strings"

	"github.com/edison-cars/data-feeds/shared/feed"
	"github.com/edison-cars/data-feeds/shared/order"
	"github.com/edison-cars/data-feeds/shared/web"
)

func ordersFeed(publicURL string) feed.Description {
	return feed.Description{
		Name: order.Feed, Title: "Edison Cars: orders", ID: "tag:edison-cars.example,2026:orders",
		Version: version(),
		Text:    "Every order that was placed or cancelled, whole, in commit order.",
		Show: func(e feed.Entry) (feed.Shown, error) {
			var o order.Order
			if err := json.Unmarshal(e.Entity, &o); err != nil {
				return feed.Shown{}, fmt.Errorf("read order %s: %w", e.ID, err)
			}
			view := shown(&o)
			var html strings.Builder
			err := contentTemplate.Execute(&html, view)
			return feed.Shown{
				Title: fmt.Sprintf("Order %s %s: %s", view.Short, o.Status, view.Summary),
				HTML:  html.String(), URL: publicURL + "/orders/" + o.ID.String(), XML: &o,
			}, err
		},
	}
}

// version changes with what the words are made of.
func version() string {
	of, _ := json.Marshal(catalogue) // cannot fail: strings and numbers
	return fmt.Sprintf("1-%x", sha256.Sum256(append(of, contentText...)))[:18]
}

// A shownOrder is an order with the names of today's catalogue.
type shownOrder struct {
	*order.Order
	Short   string // enough of the id to talk about it
	Summary string // "2 Edison Volta, 1 Edison Ohm"
	Lines   []shownLine
}

type shownLine struct {
	order.Line
	Name        string
	OptionNames string
}

// PriceCents is that of all cars of the line.
func (l shownLine) PriceCents() int64 { return int64(l.Quantity) * l.UnitPriceCents }

// shown finds the names; what is not for sale any more goes by its code.
func shown(o *order.Order) *shownOrder {
	id := o.ID.String()
	s := &shownOrder{Order: o, Short: id[len(id)-8:]}
	for _, l := range o.Lines {
		line := shownLine{Line: l, Name: l.Model}
		m, forSale := findModel(l.Model)
		if forSale {
			line.Name = m.Name
		}
		var options []string
		for _, name := range l.Options {
			if forSale {
				if option, ok := m.Option(name); ok {
					name = option.Name
				}
			}
			options = append(options, name)
		}
		line.OptionNames = strings.Join(options, ", ")
		s.Lines = append(s.Lines, line)
		if s.Summary != "" {
			s.Summary += ", "
		}
		s.Summary += fmt.Sprint(l.Quantity, " ", line.Name)
	}
	return s
}

const contentText = `<p><span class="badge {{.Status}}">{{.Status}}</span> {{money .TotalCents .Currency}} in all, for customer <code>{{.CustomerID}}</code></p>` +
	`<ul>{{range .Lines}}<li>{{.Quantity}} × {{.Name}}{{with .OptionNames}}, {{.}}{{end}}: {{money .UnitPriceCents $.Currency}} each</li>{{end}}</ul>`

var contentTemplate = template.Must(template.New("").Funcs(web.Functions()).Parse(contentText))
