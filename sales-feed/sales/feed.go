package sales

import (
	"fmt"
	"html"
	"strconv"
	"strings"

	"github.com/go-json-experiment/json"

	"github.com/edison-cars/data-feeds/shared/feed"
	"github.com/edison-cars/data-feeds/shared/order"
	"github.com/edison-cars/data-feeds/shared/web"
)

func ordersFeed(publicURL string) feed.Description {
	return feed.Description{
		Name: order.Feed, Title: "Edison Cars: orders", ID: "tag:edison-cars.example,2026:orders",
		Text:   "Every order, complete, each time it is placed or cancelled, in commit order.",
		Schema: order.Schema,
		Show: func(e feed.Entry) (feed.Shown, error) {
			o := order.Order{Lines: make([]order.Line, 0, 4)}
			if err := json.Unmarshal(e.Entity, &o); err != nil {
				return feed.Shown{}, fmt.Errorf("read order %s: %w", e.ID, err)
			}
			view := shown(&o)
			return feed.Shown{
				Title: "Order " + view.Short + " " + string(o.Status) + ": " + view.Summary,
				HTML:  content(view), URL: publicURL + "/orders/" + o.ID.String(), XML: &o,
			}, nil
		},
	}
}

// content returns an order as HTML. It uses no template because a page of a long history has a thousand orders.
func content(o *shownOrder) string {
	status := html.EscapeString(string(o.Status))
	var b strings.Builder
	b.Grow(1 << 10)
	write := func(texts ...string) {
		for _, s := range texts {
			b.WriteString(s)
		}
	}
	write(`<p><span class="badge `, status, `">`, status, `</span> `, html.EscapeString(web.Money(o.TotalCents, o.Currency)),
		` in all, for customer <code>`, o.CustomerID.String(), `</code></p><ul>`)
	for i := range o.Lines {
		l := &o.Lines[i]
		write("<li>", strconv.Itoa(l.Quantity), " × ", html.EscapeString(l.Name))
		if l.OptionNames != "" {
			write(", ", html.EscapeString(l.OptionNames))
		}
		write(": ", html.EscapeString(web.Money(l.UnitPriceCents, o.Currency)), " each</li>")
	}
	write("</ul>")
	return b.String()
}

// A shownOrder is an order with the names of today's catalogue.
type shownOrder struct {
	*order.Order
	Short   string // the end of the id, enough to refer to it
	State   string // the status in words for its buyer
	Summary string // "2 Edison Volta, 1 Edison Ohm"
	Lines   []shownLine
}

// state says what a status means to the buyer. Whether a car can still be kept back is decided elsewhere.
func state(s order.Status) string {
	if s == order.Cancelled {
		return "cancellation requested"
	}
	return string(s)
}

type shownLine struct {
	order.Line
	Name        string
	OptionNames string
}

// shown adds the names of the catalogue. A model or option that is no longer on sale keeps its code as name.
func shown(o *order.Order) *shownOrder {
	s := &shownOrder{Order: o, Short: web.Short(o.ID), State: state(o.Status), Lines: make([]shownLine, 0, len(o.Lines))}
	var summary strings.Builder
	for _, l := range o.Lines {
		line := shownLine{Line: l, Name: l.Model}
		m, forSale := findModel(l.Model)
		if forSale {
			line.Name = m.Name
		}
		options := make([]string, 0, len(l.Options))
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
		if summary.Len() > 0 {
			summary.WriteString(", ")
		}
		summary.WriteString(strconv.Itoa(l.Quantity))
		summary.WriteByte(' ')
		summary.WriteString(line.Name)
	}
	s.Summary = summary.String()
	return s
}
