package sales

import (
	"encoding/json"
	"html/template"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/edison-cars/data-feeds/shared/feed"
	"github.com/edison-cars/data-feeds/shared/order"
	"github.com/edison-cars/data-feeds/shared/web"
)

func TestOrderInWords(t *testing.T) {
	t.Parallel()
	const contentText = `<p><span class="badge {{.Status}}">{{.Status}}</span> {{money .TotalCents .Currency}} in all, for customer <code>{{.CustomerID}}</code></p>` +
		`<ul>{{range .Lines}}<li>{{.Quantity}} × {{.Name}}{{with .OptionNames}}, {{.}}{{end}}: {{money .UnitPriceCents $.Currency}} each</li>{{end}}</ul>`
	content := template.Must(template.New("").Funcs(web.Functions()).Parse(contentText))
	const hostile = `<script>"&'</script>`
	d := ordersFeed("http://cars.example")
	at := time.Date(2026, 11, 23, 8, 0, 0, 123_000, time.UTC)
	for _, o := range []*order.Order{
		{Status: order.Placed, Currency: "EUR", TotalCents: 789_900_05, PlacedAt: feed.TimeOf(at), UpdatedAt: feed.TimeOf(at), Lines: []order.Line{
			{Model: "volta", Options: []string{"heat_pump", "long_range"}, Quantity: 2, UnitPriceCents: 3_437_000},
			{Model: "ohm", Options: []string{}, Quantity: 1, UnitPriceCents: 99},
		}},
		{Status: hostile, Currency: hostile, TotalCents: -1, PlacedAt: feed.TimeOf(at), UpdatedAt: feed.TimeOf(at), Lines: []order.Line{
			{Model: hostile, Options: []string{hostile}, Quantity: -7, UnitPriceCents: 100_000},
		}},
		{Lines: []order.Line{}},
	} {
		o.ID, o.CustomerID, o.Version = uuid.New(), uuid.New(), 1
		payload, err := json.Marshal(o)
		if err != nil {
			t.Fatal(err)
		}
		got, err := d.Show(feed.Entry{ID: o.ID, Version: 1, Entity: payload})
		if err != nil {
			t.Fatal(err)
		}
		var want strings.Builder
		if err := content.Execute(&want, shown(o)); err != nil {
			t.Fatal(err)
		}
		if got.HTML != want.String() {
			t.Errorf("got  %s\nwant %s", got.HTML, want.String())
		}
		again, err := json.Marshal(got.XML)
		if err != nil || string(again) != string(payload) {
			t.Errorf("the order for Atom is %s, %v, not %s", again, err, payload)
		}
	}
	if _, err := d.Show(feed.Entry{Entity: []byte(`{"id":1}`)}); err == nil {
		t.Error("what is no order was put into words")
	}
}

// The largest order that the shop takes, of every model with all its options, is one that all readers of the feed take.
func TestLargestOrder(t *testing.T) {
	t.Parallel()
	for _, m := range catalogue {
		line := purchaseLine{Model: m.Model, Quantity: maxQuantity}
		for _, option := range m.Options {
			line.Options = append(line.Options, option.Option)
		}
		p := purchase{Lines: slices.Repeat([]purchaseLine{line}, maxLines)}
		p.normalize()
		o, err := p.order(time.Now().UTC())
		if err != nil {
			t.Fatal(err)
		}
		entry, err := entryOf(o)
		if err != nil {
			t.Fatal(err)
		}
		if err := order.Check(feed.Entry{ID: entry.ID, Version: entry.Version, Entity: entry.Payload}); err != nil {
			t.Errorf("%s: %v", m.Model, err)
		}
	}
}
