package assembly

import (
	"encoding/json"
	"fmt"
	"html"
	"strings"

	"github.com/edison-cars/data-feeds/shared/carbuild"
	"github.com/edison-cars/data-feeds/shared/feed"
	"github.com/edison-cars/data-feeds/shared/order"
	"github.com/edison-cars/data-feeds/shared/web"
)

// describe returns the description of the builds feed.
func describe(publicURL string) feed.Description {
	return feed.Description{
		Name: carbuild.Feed, Title: "Edison Cars: builds", ID: "tag:edison-cars.example,2026:builds",
		Text:   "The build of every ordered car, complete, each time it is planned, started, finished or cancelled, in commit order.",
		Schema: carbuild.Schema,
		Show: func(e feed.Entry) (feed.Shown, error) {
			var b carbuild.Build
			if err := json.Unmarshal(e.Entity, &b); err != nil {
				return feed.Shown{}, fmt.Errorf("read build %s: %w", e.ID, err)
			}
			return feed.Shown{
				Title: "Build " + web.Short(b.ID) + " " + string(b.Status) + ": " + order.CarName(b.Model, b.Options...),
				HTML:  content(&b), URL: publicURL + "/builds/" + b.ID.String(), XML: &b,
			}, nil
		},
	}
}

// content returns a build as HTML. It uses no template because a page of a long history has a thousand builds.
func content(b *carbuild.Build) string {
	var out strings.Builder
	write := func(texts ...string) {
		for _, s := range texts {
			out.WriteString(s)
		}
	}
	status := html.EscapeString(string(b.Status))
	write(`<p><span class="badge `, status, `">`, status, `</span> `, html.EscapeString(order.CarName(b.Model, b.Options...)),
		fmt.Sprintf(`; car %d of order <code>%s</code></p><ul>`, b.Car, b.OrderID), "<li>Planned for ", html.EscapeString(b.Slot), "</li>")
	for _, step := range []struct {
		name string
		at   *feed.Time
	}{{"Started", b.StartedAt}, {"Finished", b.FinishedAt}} {
		if step.at != nil {
			write("<li>", step.name, " ", step.at.UTC().Format("2 Jan 2006, 15:04:05"), " UTC</li>")
		}
	}
	write("</ul>")
	return out.String()
}
