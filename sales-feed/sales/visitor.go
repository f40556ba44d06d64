package sales

import (
	"errors"
	"net/http"

	"github.com/gin-gonic/gin"
	"github.com/google/uuid"

	"github.com/edison-cars/data-feeds/sales-feed/buyer"
	"github.com/edison-cars/data-feeds/sales-feed/source"
	"github.com/edison-cars/data-feeds/shared/web"
)

// storefront shows the cars. A browser without a credential gets a visitor's.
func (h *handler) storefront(c *gin.Context) error {
	by, err := h.buyers.Of(c)
	if err != nil {
		return err
	}
	if news := h.buyers.Heard(c); news != nil {
		return h.news(c, by, news)
	}
	if by.Buyer == (buyer.Buyer{}) || by.Ended != uuid.Nil {
		if by.Visitor == uuid.Nil {
			by.Visitor = uuid.New()
		}
		if err := h.buyers.Keep(c, by.Buyer); err != nil {
			return err
		}
	}
	view := struct {
		Models            []Model
		Key               string // makes a form that is sent twice one order
		Customer, Account string // "" before the visitor signs in
	}{Models: catalogue, Key: uuid.NewString()}
	if by.Customer != uuid.Nil {
		view.Customer, view.Account = web.Short(by.Customer), string(h.settings.CustomersURL)+"/customers/"+by.Customer.String()
	}
	c.Header("Cache-Control", "no-store") // the page has a key that is valid for one order
	render(c, http.StatusOK, storefrontPage, "Electric cars, built to order", view)
	return nil
}

// signIn hands the browser over to the customers app, where the buyer signs in or up.
func (h *handler) signIn(c *gin.Context) error {
	by, err := h.buyers.Of(c)
	if err != nil {
		return err
	}
	nonce, err := h.buyers.Begin(c, by.Visitor)
	if err != nil {
		return err
	}
	return h.send(c, buyer.Handover{Nonce: nonce}, buyer.Page{
		Title: "Sign in", Text: "Accounts are kept by our customers app, which will bring you back here.", Button: "Go on",
	})
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
	return h.buyers.Send(c, handover, "Sales", source.Nav(c, nav), page)
}

// handover receives a browser that has signed in or out at the customers app. Earlier orders of the visitor remain the
// visitor's: the browser keeps that id, too, until it signs out.
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
	if err := h.buyers.Keep(c, buyer.Buyer{Customer: got.Customer, Since: got.Since, Visitor: got.Visitor}); err != nil {
		return err
	}
	c.Redirect(http.StatusSeeOther, "/")
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
