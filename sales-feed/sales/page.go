package sales

import (
	"html/template"

	"github.com/gin-gonic/gin"

	"github.com/edison-cars/data-feeds/sales-feed/source"
	"github.com/edison-cars/data-feeds/shared/web"
	"github.com/edison-cars/data-feeds/shared/webserver"
)

func (h *handler) render(c *gin.Context, status int, t *template.Template, title string, data any) {
	webserver.Render(c, status, t, web.Page{Service: "Sales", Title: title, Nav: source.Nav(c, h.nav), Data: data, Alternates: []web.Link{
		{Text: "Edison Cars: orders", URL: "/feeds/orders.atom", Type: "application/atom+xml"},
		{Text: "Edison Cars: orders", URL: "/feeds/orders.json", Type: "application/feed+json"},
	}})
}
