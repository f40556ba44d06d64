// Package sales is the sales app: it sells cars, and publishes every order on the orders feed. It knows none of those
// who read it.
package sales

import (
	"context"
	"embed"
	"io"
	"log/slog"
	"net/http"
	"strings"

	"github.com/gin-gonic/gin"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/edison-cars/data-feeds/sales-feed/source"
	"github.com/edison-cars/data-feeds/shared/postgres"
	"github.com/edison-cars/data-feeds/shared/publish"
	"github.com/edison-cars/data-feeds/shared/web"
)

// Settings of the sales app.
type Settings struct {
	Addr string `env:"ADDR" envDefault:"127.0.0.1:8080" help:"host:port to listen on"`
	source.Settings
	CustomersURL source.Site `env:"CUSTOMERS_URL" envDefault:"http://localhost:8081" help:"where visitors sign up, for a link: sales itself asks nothing there"`
}

// Run serves the sales app until ctx ends.
func Run(ctx context.Context, settings Settings, stdout io.Writer) error {
	return source.App{
		Name: "sales", Addr: settings.Addr, Settings: settings.Settings,
		Engine: func(common source.Settings, pool *pgxpool.Pool, log *publish.Log, logger *slog.Logger) (*gin.Engine, error) {
			settings.Settings = common
			return Engine(settings, pool, log, logger)
		},
	}.Run(ctx, stdout)
}

// Migrations are those of the sales database.
func Migrations() []postgres.Migrations { return source.Migrations("sales") }

//go:embed *.html
var pages embed.FS

var nav = []web.Link{{Text: "Cars", URL: "/"}, {Text: "Orders", URL: "/orders"}, {Text: "Feed", URL: "/feeds/orders"}}

// Engine answers the app's requests.
func Engine(settings Settings, pool *pgxpool.Pool, log *publish.Log, logger *slog.Logger) (*gin.Engine, error) {
	settings.PublicURL = strings.TrimSuffix(settings.PublicURL, "/")
	r, err := source.NewEngine(settings.Settings, "Sales", nav, pool, log, logger, ordersFeed(settings.PublicURL))
	if err != nil {
		return nil, err
	}
	h := &handler{store{pool, log}, settings}
	web.GET(r, "/", web.Handle(h.storefront))
	r.POST("/forget", h.forget)
	web.GET(r, "/models", h.models)
	web.GET(r, "/orders", web.Handle(h.list))
	r.POST("/orders", web.Handle(h.place))
	web.GET(r, "/orders/:id", web.Handle(h.show))
	r.POST("/orders/:id/cancel", web.Handle(h.cancel))
	return r, nil
}

func (h *handler) models(c *gin.Context) {
	c.Header("Cache-Control", "no-cache")
	web.JSON(c, http.StatusOK, catalogue)
}
