package customers

import (
	"html/template"
	"net/http"
	"strings"

	"github.com/gin-gonic/gin"

	"github.com/edison-cars/data-feeds/sales-feed/source"
	"github.com/edison-cars/data-feeds/shared/customer"
	"github.com/edison-cars/data-feeds/shared/web"
	"github.com/edison-cars/data-feeds/shared/webserver"
)

var (
	signUpPage  = web.Template(pages, "signup.html", "fields.html", "signin_form.html")
	signInPage  = web.Template(pages, "signin.html", "signin_form.html")
	accountPage = web.Template(pages, "account.html", "fields.html")
)

// A view is what a page shows: a form with what was typed, and what is wrong with it.
type view struct {
	Inputs      []input
	Problem     *web.Problem // nil is none
	Unconfirmed string       // what is wrong with the confirmation of a deletion
	Shop        web.Site
	Mails       bool // are sent

	Key string // of the sign-up: what makes a form that is sent twice one account

	Customer *customer.Customer // of an account
	Short    string             // of its id
	Own      bool               // its buyer sees it, not an operator
	Saved    bool

	Sent, Deleted bool   // of a sign-in: a mail may be on its way; what this browser had is deleted
	Secret        string // of a link: "" is none
	Unproven      bool   // somebody else may have signed up with the address that the link was sent to
}

// An input is a field of an account in a form.
type input struct {
	Name, Label, Type, Autocomplete, Value string
	Max                                    int
	Countries                              []country // to choose from; nil where one types
	Wrong                                  string    // "" is nothing
}

func (h *handler) view(a account, wrong *web.Problem) view {
	v := view{Problem: wrong, Unconfirmed: detail(wrong, "confirm"), Shop: h.shop, Mails: h.links.sends()}
	for _, f := range a.fields() {
		name := f.name[strings.LastIndex(f.name, ".")+1:]
		in := input{Name: name, Label: f.label, Type: "text", Autocomplete: f.autocomplete, Value: *f.value, Max: f.max, Wrong: detail(wrong, f.name)}
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

func detail(wrong *web.Problem, field string) string {
	if wrong != nil {
		for _, e := range wrong.Errors {
			if e.Field == field {
				return e.Detail
			}
		}
	}
	return ""
}

func (h *handler) renderSignUp(c *gin.Context, a account, key string, wrong *web.Problem) {
	v := h.view(a, wrong)
	v.Key = key
	h.render(c, signUpPage, "Sign up", v)
}

func (h *handler) renderAccount(c *gin.Context, p *customer.Customer, a account, own, saved bool, wrong *web.Problem) {
	v := h.view(a, wrong)
	v.Customer, v.Short, v.Own, v.Saved = p, source.Short(p.ID), own, saved
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
	c.Header("Vary", "Accept")
	c.Header("Cache-Control", "no-store")
	webserver.Render(c, status, t, web.Page{Service: "Customers", Title: title, Nav: source.Nav(c, h.nav), Data: v})
}
