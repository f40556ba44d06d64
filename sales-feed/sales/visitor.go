package sales

import (
	"net/http"
	"net/url"

	"github.com/gin-gonic/gin"
	"github.com/google/uuid"

	"github.com/edison-cars/data-feeds/sales-feed/source"
	"github.com/edison-cars/data-feeds/shared/web"
)

// A browser keeps in cookies as whom it buys: the customer that the visitor signed up as, else an id of this app's own that
// no customer has.
const (
	customerCookie = "customer_id"
	visitorCookie  = "visitor_id"
)

// storefront shows the cars. The customers app sends visitors who have signed up here, with ?customer_id=.
func (h *handler) storefront(c *gin.Context) error {
	if given, there := c.GetQuery("customer_id"); there {
		id, err := source.ParseUUID(given)
		if err != nil {
			return web.Errorf(http.StatusBadRequest, "The parameter customer_id takes a UUID such as 018f4e7c-5d1b-7c3a-9f00-2b6d1c8e4a11.")
		}
		keep(c, customerCookie, id.String())
		c.Header("Cache-Control", "no-store")
		c.Redirect(http.StatusSeeOther, "/")
		return nil
	}
	key, err := uuid.NewRandom()
	if err != nil {
		return err
	}
	id, signedUp := buyer(c)
	view := struct {
		Models          []Model
		Key             string // makes a form that is sent twice one order
		Customer        string // "" before the visitor signs up
		Account, SignUp string
	}{Models: catalogue, Key: key.String()}
	if signedUp {
		view.Customer, view.Account = id[28:], string(h.settings.CustomersURL)+"/customers/"+id
	} else {
		view.SignUp = string(h.settings.CustomersURL) + "/signup?return=" + url.QueryEscape(h.settings.PublicURL+"/")
	}
	c.Header("Cache-Control", "no-store") // it holds what is good for one order
	render(c, http.StatusOK, storefrontPage, "Electric cars, built to order", view)
	return nil
}

// forget makes the browser a new visitor.
func (h *handler) forget(c *gin.Context) {
	for _, name := range []string{customerCookie, visitorCookie} {
		http.SetCookie(c.Writer, &http.Cookie{Name: name, Path: "/", MaxAge: -1, HttpOnly: true, SameSite: http.SameSiteLaxMode})
	}
	c.Redirect(http.StatusSeeOther, "/")
}

// buyer gives as whom this browser buys, and whether that is a customer, of whom sales need not have heard.
func buyer(c *gin.Context) (id string, signedUp bool) {
	for _, name := range []string{customerCookie, visitorCookie} {
		if id, err := c.Cookie(name); err == nil && len(id) == 36 && uuid.Validate(id) == nil {
			return id, name == customerCookie
		}
	}
	id = uuid.NewString()
	keep(c, visitorCookie, id)
	return id, false
}

func keep(c *gin.Context, cookie, id string) {
	http.SetCookie(c.Writer, &http.Cookie{
		Name: cookie, Value: id, Path: "/", MaxAge: 365 * 24 * 3600, HttpOnly: true, SameSite: http.SameSiteLaxMode,
	})
}
