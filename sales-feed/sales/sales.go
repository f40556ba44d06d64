// Package sales is the sales app: it sells cars, and publishes every order on the orders feed.
package sales

import (
	"context"
	"embed"
	"html/template"
	"io"
	"net/http"

	"github.com/gin-gonic/gin"

	"github.com/edison-cars/data-feeds/sales-feed/buyer"
	"github.com/edison-cars/data-feeds/sales-feed/source"
	"github.com/edison-cars/data-feeds/shared/postgres"
	"github.com/edison-cars/data-feeds/shared/publish"
	"github.com/edison-cars/data-feeds/shared/service"
	"github.com/edison-cars/data-feeds/shared/web"
	"github.com/edison-cars/data-feeds/shared/webserver"
)

// Settings of the sales app.
type Settings struct {
	service.Settings
	ShopSettings
}

// ShopSettings are the settings that only the sales app has.
type ShopSettings struct {
	CustomersURL web.Site `env:"CUSTOMERS_URL" envDefault:"http://localhost:8081" help:"the customers app: browsers are sent there to sign up and sign in, and return from there; sales itself sends it no requests"`
	Buyer        buyer.Settings
	Keys         source.KeySettings
}

var shell = service.Service{Name: "sales", Title: "Sales", Addr: "127.0.0.1:8080", Feeds: true, Migrations: Migrations()}

// Help prints the settings.
func Help(w io.Writer) { shell.Help(w, ShopSettings{}) }

// Run serves the sales app until ctx ends.
func Run(ctx context.Context, settings Settings, stdout io.Writer) error {
	return source.App{Service: shell, Keys: settings.Keys, Route: func(r *service.Router, log *publish.Log) error {
		return Route(r, log, settings)
	}}.Run(ctx, settings.Settings, stdout)
}

// Migrations returns the migrations of the sales database.
func Migrations() []postgres.Migrations { return source.Migrations("sales") }

//go:embed *.html
var pages embed.FS

// Route adds all routes of the app. The handlers of a buyer's orders check the credential themselves.
func Route(r *service.Router, log *publish.Log, settings Settings) error {
	nav := source.Links(r, web.Link{Text: "Cars", URL: "/"}, web.Link{Text: "Orders", URL: "/orders"}, web.Link{Text: "Feed", URL: "/feeds/orders"})
	buyers, err := buyer.New(buyer.Sales, settings.CustomersURL, settings.Buyer, settings.DataDir, r.Pool)
	if err != nil {
		return err
	}
	h := &handler{store{r.Pool, log}, settings, nav, buyers, r.Logger}
	source.Trace(r, shell.Title, nav, h.store.trace)
	source.Route(r, log, nav, ordersFeed(r.PublicURL))
	webserver.GET(r.Anybody, "/", webserver.Handle(h.storefront))
	webserver.GET(r.Anybody, "/review", webserver.Handle(h.review))
	r.Anybody.POST("/signin", webserver.Handle(h.signIn))
	r.Anybody.POST("/signout", webserver.Handle(h.signOut))
	buyers.Route(r.Anybody, h.handover)
	webserver.GET(r.Anybody, "/models", h.models)
	webserver.GET(r.Anybody, "/orders", webserver.Handle(h.list))
	r.Anybody.POST("/orders", webserver.Handle(h.place))
	webserver.GET(r.Anybody, "/orders/:id", webserver.Handle(h.show))
	r.Anybody.POST("/orders/:id/cancel", webserver.Handle(h.cancel))
	return nil
}

func (h *handler) models(c *gin.Context) {
	c.Header("Cache-Control", "no-cache")
	web.JSON(c.Writer, c.Request, http.StatusOK, catalogue)
}

func (h *handler) render(c *gin.Context, status int, t *template.Template, title string, data any) {
	webserver.Render(c, status, t, web.Page{Service: "Sales", Title: title, Nav: source.Nav(c, h.nav), Data: data, Alternates: []web.Link{
		{Text: "Edison Cars: orders", URL: "/feeds/orders.atom", Type: "application/atom+xml"},
		{Text: "Edison Cars: orders", URL: "/feeds/orders.json", Type: "application/feed+json"},
	}})
}
