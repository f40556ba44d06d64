package customers

import (
	"errors"
	"net/http"
	"strings"

	"github.com/gin-gonic/gin"
	"github.com/google/uuid"

	"github.com/edison-cars/data-feeds/sales-feed/buyer"
	"github.com/edison-cars/data-feeds/sales-feed/source"
	"github.com/edison-cars/data-feeds/shared/web"
)

// handover receives a browser from the shop that begins to sign in, or that signed out there.
func (h *handler) handover(c *gin.Context, got buyer.Handover) error {
	if got.SignOut != nil {
		if h.buyers.Paired(c) == nil {
			c.Redirect(http.StatusSeeOther, "/account") // where it sees whether it is signed in here alone
			return nil
		}
		h.buyers.SignOut(c)
		c.Redirect(http.StatusSeeOther, string(h.shop)+"/")
		return nil
	}
	if err := h.buyers.Remember(c, got); err != nil {
		return err
	}
	c.Redirect(http.StatusSeeOther, "/signup") // a POST from another site carries no cookies, the redirected request does
	return nil
}

// goOn hands a signed-in browser over to the shop if it came from there, or else shows the account.
func (h *handler) goOn(c *gin.Context, by buyer.Buyer) error {
	began := h.buyers.Remembered(c)
	if began == nil {
		c.Redirect(http.StatusSeeOther, path(by.Customer))
		return nil
	}
	if err := h.buyers.Pair(c, began.Nonce); err != nil {
		return err
	}
	text := "The shop learns only your customer number."
	if began.Visitor == by.Customer {
		text += " What this browser ordered as a guest is your account's now."
	} else if began.Visitor != uuid.Nil {
		text += " What this browser ordered as a guest stays the guest's."
	}
	return h.send(c, buyer.Handover{Nonce: began.Nonce, Customer: by.Customer, Since: by.Since}, buyer.Page{
		Title: "You are signed in", Text: text, Button: "Go on to the shop",
	})
}

func (h *handler) send(c *gin.Context, handover buyer.Handover, page buyer.Page) error {
	return h.buyers.Send(c, handover, "Customers", source.Nav(c, h.nav), page)
}

// signedIn returns the customer as which the browser is signed in, or the zero Buyer.
func (h *handler) signedIn(c *gin.Context) (buyer.Buyer, error) {
	by, err := h.buyers.Of(c)
	if err != nil || by.Customer == uuid.Nil {
		return buyer.Buyer{}, err
	}
	_, err = h.store.get(c.Request.Context(), by.Customer)
	if err = gone(err); errors.Is(err, errNoCustomer) {
		return buyer.Buyer{}, nil
	}
	return by.Buyer, err
}

func (h *handler) account(c *gin.Context) error {
	by, err := h.signedIn(c)
	if err != nil {
		return err
	}
	c.Header("Cache-Control", "no-store")
	if by.Customer == uuid.Nil {
		c.Redirect(http.StatusSeeOther, "/signin")
		return nil
	}
	return h.goOn(c, by)
}

// signOut signs the browser out, here and, if it signed in for the shop, there.
func (h *handler) signOut(c *gin.Context) error {
	paired := h.buyers.SignOut(c)
	if paired == nil {
		c.Redirect(http.StatusSeeOther, "/signin")
		return nil
	}
	return h.send(c, buyer.Handover{SignOut: paired}, buyer.Page{
		Title: "You are signed out", Text: "This browser may still be signed in at the shop.", Button: "Sign out there, too",
	})
}

// deleted shows the page after the deletion of an account. It leads to the shop, by a sign-out there if the browser
// signed in there with the account.
func (h *handler) deleted(c *gin.Context) error {
	v := h.view(account{}, nil)
	v.Deleted, v.Paired = true, h.buyers.Paired(c) != nil
	h.render(c, signInPage, "This account is deleted", v)
	return nil
}

func (h *handler) signInForm(c *gin.Context) error {
	visitor, err := h.visitor(c)
	if err != nil {
		return err
	}
	v := h.view(account{}, nil)
	v.Guest = visitor != uuid.Nil
	h.render(c, signInPage, "Sign in", v)
	return nil
}

// sendLink mails a link to each account with the address. The answer is the same if there is no account.
func (h *handler) sendLink(c *gin.Context) error {
	var to struct {
		Email string `json:"email"`
	}
	form, err := source.ReadBody(c, &to, "an e-mail address")
	if err != nil {
		return err
	}
	if form != nil {
		to.Email = form.Get("email")
	}
	to.Email = strings.TrimSpace(to.Email)
	if !h.links.sends() {
		return errNoMails
	}
	if !isAddrSpec(to.Email) {
		return &web.Problem{
			Status: http.StatusUnprocessableEntity, Detail: "No mail was sent.",
			Errors: []web.FieldError{{Field: "email", Detail: "must be an e-mail address such as ada@example.com"}},
		}
	}
	if err := h.links.request(c, to.Email); err != nil {
		return err
	}
	if !web.PrefersHTML(c.Request) {
		web.JSON(c.Writer, c.Request, http.StatusAccepted, gin.H{"detail": "If there is an account with this address, we have sent it a link."})
		return nil
	}
	v := h.view(account{}, nil)
	v.Sent = true
	h.render(c, signInPage, "Check your e-mail", v)
	return nil
}

// showLink shows a button that uses the link. It does not use the link itself: a program that scans mails may follow
// it.
func (h *handler) showLink(c *gin.Context) error {
	id, _, err := h.links.find(c.Request.Context(), c.Param("secret"))
	if err != nil {
		return err
	}
	p, err := h.store.get(c.Request.Context(), id)
	if errors.Is(gone(err), errNoCustomer) {
		return errNoLink
	}
	if err != nil {
		return err
	}
	by, err := h.buyers.Of(c)
	if err != nil {
		return err
	}
	visitor, err := h.visitor(c)
	if err != nil {
		return err
	}
	v := h.view(account{}, nil)
	v.Guest = visitor != uuid.Nil
	v.Secret, v.Short, v.Unproven = c.Param("secret"), web.Short(id), !p.EmailConfirmed && !by.Owns(id)
	h.render(c, signInPage, "Sign in", v)
	return nil
}

// useLink signs in by a link, which proves that the account's e-mail address belongs to its holder. If the address was
// not confirmed before, all other credentials end.
func (h *handler) useLink(c *gin.Context) error {
	p, since, first, err := h.store.confirm(c.Request.Context(), h.links, c.Param("secret"))
	if errors.Is(gone(err), errNoCustomer) {
		return errNoLink
	}
	if err != nil {
		return err
	}
	if !web.PrefersHTML(c.Request) {
		return h.answerWithToken(c, http.StatusOK, p, since)
	}
	by := buyer.Buyer{Customer: p.ID, Since: since}
	if err := h.buyers.Keep(c, by); err != nil {
		return err
	}
	if first && h.buyers.Remembered(c) == nil {
		return h.send(c, buyer.Handover{Customer: p.ID, Since: since, News: true}, buyer.Page{
			Title: "Your address is confirmed", Text: "All other browsers and tokens are signed out of your account. The shop still has to be told.", Button: "Go on",
		})
	}
	return h.goOn(c, by)
}
