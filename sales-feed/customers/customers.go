// Package customers is the customers app: it keeps the accounts, and publishes every version of them on the customers
// feed, from which a deleted account is erased. An account is accessed by its buyer, see package buyer, and read by
// operators.
package customers

import (
	"context"
	"embed"
	"io"

	"github.com/edison-cars/data-feeds/sales-feed/buyer"
	"github.com/edison-cars/data-feeds/sales-feed/source"
	"github.com/edison-cars/data-feeds/shared/postgres"
	"github.com/edison-cars/data-feeds/shared/publish"
	"github.com/edison-cars/data-feeds/shared/service"
	"github.com/edison-cars/data-feeds/shared/smtp"
	"github.com/edison-cars/data-feeds/shared/web"
	"github.com/edison-cars/data-feeds/shared/webserver"
)

// Settings of the customers app.
type Settings struct {
	service.Settings
	AccountsSettings
}

// AccountsSettings are the settings that only the customers app has.
type AccountsSettings struct {
	Buyer         buyer.Settings
	Keys          source.KeySettings
	Mail          smtp.Settings
	StorefrontURL web.Site `env:"STOREFRONT_URL" envDefault:"http://localhost:8080" help:"the shop, from which browsers come to sign in, and the only site to which they return"`
	ErasedFile    string   `env:"ERASED_FILE" help:"file with the ids of erased accounts, so that a restored dump does not bring them back; keep it apart from the database and its backups, shared by all replicas; defaults to DATA_DIR/customers.erased"`
}

var shell = service.Service{Name: "customers", Title: "Customers", Addr: "127.0.0.1:8081", Feeds: true, Migrations: Migrations()}

// Help prints the settings.
func Help(w io.Writer) { shell.Help(w, AccountsSettings{}) }

// Run serves the customers app until ctx ends.
func Run(ctx context.Context, settings Settings, stdout io.Writer) error {
	return source.App{
		Service: shell, Erasures: Erasures(settings), Keys: settings.Keys, Sweep: sweep,
		Route: func(r *service.Router, log *publish.Log) error { return Route(r, log, settings) },
	}.Run(ctx, settings.Settings, stdout)
}

// Migrations returns the migrations of the customers database.
func Migrations() []postgres.Migrations { return source.Migrations("customers") }

//go:embed *.html *.txt
var pages embed.FS

// Route adds all routes of the app. The handlers of an account check the credential themselves.
func Route(r *service.Router, log *publish.Log, settings Settings) error {
	settings.PublicURL = web.Site(r.PublicURL)
	nav := source.Links(r,
		web.Link{Text: "Your account", URL: "/account"}, web.Link{Text: "Sign up", URL: "/signup"},
		web.Link{Text: "Accounts", URL: "/customers", Operators: true}, web.Link{Text: "Feed", URL: "/feeds/customers"},
		web.Link{Text: "To the shop", URL: string(settings.StorefrontURL) + "/"})
	buyers, err := buyer.New(buyer.Customers, settings.StorefrontURL, settings.Buyer, settings.DataDir, r.Pool)
	if err != nil {
		return err
	}
	accounts := store{r.Pool, log}
	source.Trace(r, shell.Title, nav, accounts.trace)
	source.Route(r, log, nav, customersFeed(r.PublicURL))
	h := &handler{accounts, settings.StorefrontURL, nav, countries(), buyers, newLinks(settings, accounts, r.Logger)}
	webserver.GET(r.Anybody, "/", webserver.Handle(h.form))
	webserver.GET(r.Anybody, "/signup", webserver.Handle(h.form))
	buyers.Route(r.Anybody, h.handover)
	webserver.GET(r.Anybody, "/signin", webserver.Handle(h.signInForm))
	r.Anybody.POST("/signin", webserver.Handle(h.sendLink))
	webserver.GET(r.Anybody, "/signin/:secret", webserver.Handle(h.showLink))
	r.Anybody.POST("/signin/:secret", webserver.Handle(h.useLink))
	r.Anybody.POST("/signout", webserver.Handle(h.signOut))
	webserver.GET(r.Anybody, "/account", webserver.Handle(h.account))
	webserver.GET(r.Anybody, "/deleted", webserver.Handle(h.deleted))
	r.Anybody.POST("/customers", webserver.Handle(h.signUp))
	webserver.GET(r.Operators, "/customers", webserver.Handle(h.list))
	webserver.GET(r.Anybody, "/customers/:id", webserver.Handle(h.get))
	r.Anybody.PUT("/customers/:id", webserver.Handle(h.change))
	r.Anybody.POST("/customers/:id", webserver.Handle(h.change))
	r.Anybody.DELETE("/customers/:id", webserver.Handle(h.delete))
	r.Anybody.POST("/customers/:id/delete", webserver.Handle(h.deleteByForm))
	return nil
}
