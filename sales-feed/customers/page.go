package customers

import (
	"html/template"
	"net/http"
	"strings"

	"github.com/gin-gonic/gin"
	"github.com/google/uuid"

	"github.com/edison-cars/data-feeds/sales-feed/source"
	"github.com/edison-cars/data-feeds/shared/customer"
	"github.com/edison-cars/data-feeds/shared/web"
	"github.com/edison-cars/data-feeds/shared/webserver"
)

var (
	signUpPage   = web.Template(pages, "signup.html", "fields.html", "signin_form.html")
	signInPage   = web.Template(pages, "signin.html", "signin_form.html")
	accountsPage = web.Template(pages, "accounts.html")
	accountPage  = web.Template(pages, "account.html", "fields.html")
)

// A view is the data of a page: a form with its input and its problems.
type view struct {
	Inputs      []input
	Problem     *web.Problem // or nil
	Unconfirmed string       // the problem of a deletion's confirmation
	Shop        web.Site
	Mails       bool // a mail server is configured
	Guest       bool // the browser may have bought at the shop as a guest

	Key string // of the sign-up: a form that is sent twice makes one account

	Customer *customer.Customer // of an account's page
	Short    string             // the end of its id
	Own      bool               // the client is its buyer, not an operator
	Saved    bool

	Sent, Deleted bool   // of a sign-in: a mail may follow; the account of this browser was deleted
	Paired        bool   // the browser may still be signed in at the shop
	Secret        string // of a link, or ""
	Unproven      bool   // the account's owner may not be the address's
}

type input struct {
	Name, Label, Type, Autocomplete, Value string
	Max                                    int
	Countries                              []country // of a select; else nil
	Wrong                                  string    // the field's problem, or ""
}

func (h *handler) view(a account, wrong *web.Problem) view {
	v := view{Problem: wrong, Unconfirmed: wrong.Wrong("confirm"), Shop: h.shop, Mails: h.links.sends()}
	for _, f := range a.fields() {
		name := f.name[strings.LastIndex(f.name, ".")+1:]
		in := input{Name: name, Label: f.label, Type: "text", Autocomplete: f.autocomplete, Value: *f.value, Max: f.max, Wrong: wrong.Wrong(f.name)}
		switch name {
		case "email":
			in.Type = name
		case "country":
			in.Countries = h.countries
		}
		v.Inputs = append(v.Inputs, in)
	}
	return v
}

func (h *handler) renderSignUp(c *gin.Context, a account, key string, visitor uuid.UUID, wrong *web.Problem) {
	v := h.view(a, wrong)
	v.Key, v.Guest = key, visitor != uuid.Nil
	h.render(c, signUpPage, "Sign up", v)
}

func (h *handler) renderAccount(c *gin.Context, p *customer.Customer, a account, own, saved bool, wrong *web.Problem) {
	v := h.view(a, wrong)
	v.Customer, v.Short, v.Own, v.Saved = p, web.Short(p.ID), own, saved
	title := "Your account"
	if !own {
		title = "Account " + v.Short
	}
	h.render(c, accountPage, title, v)
}

func (h *handler) render(c *gin.Context, t *template.Template, title string, v view) {
	status := http.StatusOK
	if v.Problem != nil {
		status = v.Problem.Status
	}
	h.show(c, status, t, title, v)
}

func (h *handler) show(c *gin.Context, status int, t *template.Template, title string, data any) {
	c.Header("Vary", "Accept")
	c.Header("Cache-Control", "no-store")
	webserver.Render(c, status, t, web.Page{Service: "Customers", Title: title, Nav: source.Nav(c, h.nav), Data: data})
}
