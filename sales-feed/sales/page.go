package sales

import (
	"html/template"
	"slices"

	"github.com/gin-gonic/gin"

	"github.com/edison-cars/data-feeds/shared/web"
)

func render(c *gin.Context, status int, t *template.Template, title string, data any) {
	links := slices.Clone(nav)
	for i := range links {
		links[i].Current = links[i].URL == c.Request.URL.Path
	}
	web.Render(c, status, t, web.Page{Service: "Sales", Title: title, Nav: links, Data: data, Alternates: []web.Link{
		{Text: "Edison Cars: orders", URL: "/feeds/orders.atom", Type: "application/atom+xml"},
		{Text: "Edison Cars: orders", URL: "/feeds/orders.json", Type: "application/feed+json"},
	}})
}
