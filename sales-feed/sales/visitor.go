package sales

import (
	"cmp"
	"errors"
	"net/http"
	"net/url"
	"strings"

	"github.com/gin-gonic/gin"
	"github.com/google/uuid"

	"github.com/edison-cars/data-feeds/sales-feed/buyer"
	"github.com/edison-cars/data-feeds/sales-feed/source"
	"github.com/edison-cars/data-feeds/shared/web"
)

// storefront shows the cars, and the price of what the query chooses.
func (h *handler) storefront(c *gin.Context) error {
	if news := h.buyers.Heard(c); news != nil {
		by, err := h.buyers.Of(c)
		if err != nil {
			return err
		}
		return h.news(c, by, news)
	}
	by, err := h.visitor(c)
	if err != nil {
		return err
	}
	chosen := readChoice(c.Request.URL.Query())
	var wrong *web.Problem
	if chosen.Model != "" {
		_, wrong = chosen.order()
	}
	return h.renderStorefront(c, by, chosen, wrong)
}

// visitor returns the sender of a request for a page. A browser without a credential gets a visitor's.
func (h *handler) visitor(c *gin.Context) (buyer.Party, error) {
	by, err := h.buyers.Of(c)
	if by.Visitor != uuid.Nil && by.Customer == uuid.Nil && web.StatusOf(err) == http.StatusServiceUnavailable {
		return by, nil // a guest may look at the cars while the database is down
	}
	if err == nil && (by.Buyer == (buyer.Buyer{}) || by.Ended != uuid.Nil) {
		if by.Visitor == uuid.Nil {
			by.Visitor = uuid.New()
		}
		err = h.buyers.Keep(c, by.Buyer)
	}
	return by, err
}

// signIn hands the browser over to the customers app, where the buyer signs in or up.
func (h *handler) signIn(c *gin.Context) error {
	by, err := h.buyers.Of(c)
	if err != nil {
		return err
	}
	body := struct {
		Next string `json:"next"`
	}{}
	if c.Request.ContentLength != 0 {
		form, err := source.ReadBody(c, &body, "a sign-in")
		if err != nil {
			return err
		}
		if form != nil {
			body.Next = form.Get("next")
		}
	}
	handover, err := h.buyers.Begin(c, by.Visitor, pathOf(body.Next))
	if err != nil {
		return err
	}
	return h.send(c, handover, buyer.Page{
		Title: "Sign in", Text: "Accounts are kept by our customers app, which will bring you back here.", Button: "Go on",
	})
}

// pathOf returns the path of a page to which a sign-in may return: a review, an order, or else the storefront.
func pathOf(next string) string {
	u, err := url.Parse(next)
	if err != nil {
		return "/"
	}
	if id, ok := strings.CutPrefix(u.Path, "/orders/"); ok {
		if id, err := source.ParseUUID(id); err == nil {
			return "/orders/" + id.String()
		}
	}
	if chosen := readChoice(u.Query()); u.Path == "/review" {
		if _, wrong := chosen.order(); wrong == nil {
			return chosen.URL(u.Path)
		}
	}
	return "/"
}

// signOut signs the browser out, here and, if it signed in there for the shop, at the customers app. It becomes a new
// visitor.
func (h *handler) signOut(c *gin.Context) error {
	paired := h.buyers.SignOut(c)
	if paired == nil {
		c.Redirect(http.StatusSeeOther, "/")
		return nil
	}
	return h.send(c, buyer.Handover{SignOut: paired}, buyer.Page{
		Title: "You are signed out of the shop", Text: "Your account is still open in this browser.", Button: "Sign out there, too",
	})
}

func (h *handler) send(c *gin.Context, handover buyer.Handover, page buyer.Page) error {
	return h.buyers.Send(c, handover, "Sales", source.Nav(c, h.nav), page)
}

// handover receives a browser that has signed in or out at the customers app. A visitor who signed up is the customer with
// that id from now on. Of a visitor who signed in to another account, earlier orders remain the visitor's: the browser
// keeps that id, too, until it signs out.
func (h *handler) handover(c *gin.Context, got buyer.Handover) error {
	if got.SignOut != nil {
		if h.buyers.Paired(c) != nil {
			h.buyers.SignOut(c)
		}
		c.Redirect(http.StatusSeeOther, "/")
		return nil
	}
	if got.Customer == uuid.Nil {
		return errors.New("a hand-over from customers names no customer")
	}
	if got.News {
		if err := h.buyers.Hear(c, buyer.Buyer{Customer: got.Customer, Since: got.Since}); err != nil {
			return err
		}
		c.Redirect(http.StatusSeeOther, "/")
		return nil
	}
	if err := h.buyers.Pair(c, got.Nonce); err != nil {
		return err
	}
	if got.Visitor == got.Customer {
		if err := h.buyers.SignedUp(c.Request.Context(), got.Visitor); err != nil {
			return err
		}
		got.Visitor = uuid.Nil
	}
	if err := h.buyers.Keep(c, buyer.Buyer{Customer: got.Customer, Since: got.Since, Visitor: got.Visitor}); err != nil {
		return err
	}
	c.Redirect(http.StatusSeeOther, cmp.Or(got.Next, "/"))
	return nil
}

// news takes over the credential that a confirmation of the account has made, since it ended earlier ones. It sends the
// browser back to customers, still signed in.
func (h *handler) news(c *gin.Context, by buyer.Party, news *buyer.Buyer) error {
	if by.Ended == news.Customer {
		news.Visitor = by.Visitor
		if err := h.buyers.Keep(c, *news); err != nil {
			return err
		}
	}
	c.Header("Cache-Control", "no-store")
	c.Redirect(http.StatusSeeOther, string(h.settings.CustomersURL)+"/account")
	return nil
}
