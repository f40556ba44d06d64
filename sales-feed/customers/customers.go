// Package customers is the customers app: it keeps the accounts, and publishes every version of them on the customers feed,
// from which a deleted one is erased. It knows none of those who read it, and of the shop no more than its address.
//
// An account is its buyer's: a cookie in the browser that signed up, a token for the API, and links by mail that sign in
// elsewhere open it; see package buyer. Operators may read it.
package customers

import (
	"context"
	"embed"
	"io"
	"log/slog"
	"strings"

	"github.com/gin-gonic/gin"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/edison-cars/data-feeds/sales-feed/buyer"
	"github.com/edison-cars/data-feeds/sales-feed/source"
	"github.com/edison-cars/data-feeds/shared/postgres"
	"github.com/edison-cars/data-feeds/shared/publish"
	"github.com/edison-cars/data-feeds/shared/smtp"
	"github.com/edison-cars/data-feeds/shared/web"
)

// Settings of the customers app.
type Settings struct {
	Addr string `env:"ADDR" envDefault:"127.0.0.1:8081" help:"host:port to listen on"`
	source.Settings
	Buyer         buyer.Settings
	Mail          smtp.Settings
	StorefrontURL source.Site `env:"STOREFRONT_URL" envDefault:"http://localhost:8080" help:"the shop, from which browsers come to sign in, and where they are sent back to, and nowhere else"`
	ErasedFile    string      `env:"ERASED_FILE" help:"list of the ids of erased accounts, which a restored dump must not bring back: apart from the database and its backups, shared by all replicas; defaults to DATA_DIR/customers.erased"`
}

// Run serves the customers app until ctx ends.
func Run(ctx context.Context, settings Settings, stdout io.Writer) error {
	return source.App{
		Name: "customers", Addr: settings.Addr, Settings: settings.Settings, Erasures: Erasures(settings),
		Engine: func(common source.Settings, pool *pgxpool.Pool, log *publish.Log, logger *slog.Logger) (*gin.Engine, error) {
			settings.Settings = common
			return Engine(settings, pool, log, logger)
		},
	}.Run(ctx, stdout)
}

// Migrations are those of the customers database.
func Migrations() []postgres.Migrations { return source.Migrations("customers") }

//go:embed *.html *.txt
var pages embed.FS

// Engine answers the app's requests.
func Engine(settings Settings, pool *pgxpool.Pool, log *publish.Log, logger *slog.Logger) (*gin.Engine, error) {
	settings.PublicURL = strings.TrimSuffix(settings.PublicURL, "/")
	nav := []web.Link{{Text: "Your account", URL: "/account"}, {Text: "Sign up", URL: "/signup"}, {Text: "Feed", URL: "/feeds/customers"}, {Text: "To the shop", URL: string(settings.StorefrontURL) + "/"}}
	r, err := source.NewEngine(settings.Settings, "Customers", nav, pool, log, logger, customersFeed(settings.PublicURL))
	if err != nil {
		return nil, err
	}
	buyers, err := buyer.New(buyer.Customers, settings.StorefrontURL, settings.Buyer, settings.DataDir, pool)
	if err != nil {
		return nil, err
	}
	h := &handler{store{pool, log}, settings.StorefrontURL, nav, countries(), buyers, newLinks(settings, pool, logger)}
	web.GET(r, "/", web.Handle(h.form))
	web.GET(r, "/signup", web.Handle(h.form))
	buyers.Route(r, h.handover)
	web.GET(r, "/signin", web.Handle(h.signInForm))
	r.POST("/signin", web.Handle(h.sendLink))
	web.GET(r, "/signin/:secret", web.Handle(h.showLink))
	r.POST("/signin/:secret", web.Handle(h.useLink))
	r.POST("/signout", web.Handle(h.signOut))
	web.GET(r, "/account", web.Handle(h.account))
	web.GET(r, "/deleted", web.Handle(h.deleted))
	r.POST("/customers", web.Handle(h.signUp))
	web.GET(r, "/customers/:id", web.Handle(h.show))
	r.PUT("/customers/:id", web.Handle(h.change))
	r.POST("/customers/:id", web.Handle(h.change))
	r.DELETE("/customers/:id", web.Handle(h.delete))
	r.POST("/customers/:id/delete", web.Handle(h.deleteByForm))
	return r, nil
}
