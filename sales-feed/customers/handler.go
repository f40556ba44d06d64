package customers

import (
	"errors"
	"fmt"
	"net/http"
	"time"

	"github.com/gin-gonic/gin"
	"github.com/google/uuid"

	"github.com/edison-cars/data-feeds/sales-feed/buyer"
	"github.com/edison-cars/data-feeds/sales-feed/source"
	"github.com/edison-cars/data-feeds/shared/customer"
	"github.com/edison-cars/data-feeds/shared/web"
)

type handler struct {
	store     store
	shop      web.Site
	nav       []web.Link
	countries []country
	buyers    *buyer.Side
	links     *links
}

// form shows the form to sign up. A browser that comes from the shop and is signed in here returns to the shop at once.
func (h *handler) form(c *gin.Context) error {
	if h.buyers.Remembered(c) != nil {
		if by, err := h.signedIn(c); err != nil || by.Customer != uuid.Nil {
			if err != nil {
				return err
			}
			return h.goOn(c, by)
		}
	}
	visitor, err := h.visitor(c)
	if err == nil {
		h.renderSignUp(c, account{}, uuid.NewString(), visitor, nil)
	}
	return err
}

// visitor returns the id that a browser from the shop has there, and that its account gets, or Nil if there is none or it
// has been used.
func (h *handler) visitor(c *gin.Context) (uuid.UUID, error) {
	began := h.buyers.Remembered(c)
	if began == nil || began.Visitor == uuid.Nil {
		return uuid.Nil, nil
	}
	if unused, err := h.store.unused(c.Request.Context(), began.Visitor); err != nil || !unused {
		return uuid.Nil, err
	}
	return began.Visitor, nil
}

func (h *handler) signUp(c *gin.Context) error {
	var a account
	form, err := source.ReadBody(c, &a, "an account")
	if err != nil {
		return err
	}
	key, err := source.IdempotencyKey(c, form)
	if err != nil {
		return err
	}
	if form == nil {
		p, err := h.store.signUp(c.Request.Context(), a, uuid.Nil, key)
		if err != nil {
			return err
		}
		late, err := h.late(c, p)
		if err != nil {
			return err
		}
		c.Header("Location", path(p.ID))
		if late {
			answer(c, http.StatusCreated, p)
			return nil
		}
		h.links.welcome(c, p)
		return h.answerWithToken(c, http.StatusCreated, p, 0)
	}
	a = readForm(form)
	visitor, err := h.visitor(c)
	if err != nil {
		return err
	}
	p, err := h.store.signUp(c.Request.Context(), a, visitor, key)
	late := false
	if err == nil {
		late, err = h.late(c, p)
	}
	if late {
		err = web.Errorf(http.StatusUnprocessableEntity, "")
	}
	if wrong := refused(c, err); wrong != nil {
		key := form.Get("idempotency_key")
		if wrong.Errors == nil { // the key was used
			key = uuid.NewString()
			wrong = web.Errorf(wrong.Status, "You have already signed up with this form. Sign in to that account, or send the form again to create another one.")
		}
		h.renderSignUp(c, a, key, visitor, wrong)
		return nil
	}
	if err != nil {
		return err
	}
	h.links.welcome(c, p)
	by := buyer.Buyer{Customer: p.ID}
	if err := h.buyers.Keep(c, by); err != nil {
		return err
	}
	return h.goOn(c, by)
}

// late reports whether the repeated answer to a sign-up has no credential: after an hour, or after the address was
// confirmed.
func (h *handler) late(c *gin.Context, p *customer.Customer) (bool, error) {
	since, err := buyer.Since(c.Request.Context(), h.store.pool, p.ID)
	return since != 0 || !buyer.Repeats(p.CreatedAt.Time), err
}

// own returns the sender of a request and the id of the account that the path names, if the sender is its buyer or an
// operator. The account may not exist.
func (h *handler) own(c *gin.Context) (by buyer.Party, id uuid.UUID, err error) {
	if by, err = h.buyers.Require(c); err != nil {
		return by, id, err
	}
	by.Visitor = uuid.Nil // a guest's credential opens no account
	if id, err = source.ParseUUID(c.Param("id")); err != nil || !by.Operator && !by.Owns(id) {
		return by, id, by.Refusal(errNoCustomer)
	}
	return by, id, nil
}

func (h *handler) ownOnly(c *gin.Context) (buyer.Buyer, error) {
	by, id, err := h.own(c)
	if err == nil && !by.Owns(id) {
		err = buyer.ErrOperator
	}
	return by.Buyer, err
}

// gone returns the error for a credential of a deleted account: the same as for an account that never existed.
func gone(err error) error {
	if errors.Is(err, errDeleted) {
		return errNoCustomer
	}
	return err
}

func (h *handler) get(c *gin.Context) error {
	by, id, err := h.own(c)
	if err != nil {
		return err
	}
	p, err := h.store.get(c.Request.Context(), id)
	if errors.Is(err, errDeleted) && !by.Operator {
		err = by.Refusal(gone(err))
	}
	if err != nil {
		return err
	}
	if web.PrefersHTML(c.Request) {
		_, saved := c.GetQuery("saved")
		h.renderAccount(c, p, accountOf(p), by.Owns(id), saved, nil)
		return nil
	}
	answer(c, http.StatusOK, p)
	return nil
}

// Lengths of a page of accounts: without limit, and the most.
const (
	listed    = 50
	maxListed = 1000
)

// list answers an operator with a page of the accounts.
func (h *handler) list(c *gin.Context) error {
	l, err := web.NewListing(c.Request, listed, maxListed, new(time.Time), new(uuid.UUID))
	if err != nil {
		return err
	}
	found, err := h.store.list(c.Request.Context(), l)
	if err != nil {
		return fmt.Errorf("list accounts: %w", err)
	}
	if links := found.Links(); links != "" {
		c.Header("Link", links)
	}
	if web.PrefersHTML(c.Request) {
		h.show(c, http.StatusOK, accountsPage, "Accounts", found)
		return nil
	}
	c.Header("Vary", "Accept")
	c.Header("Cache-Control", "no-store")
	web.JSON(c.Writer, c.Request, http.StatusOK, found)
	return nil
}

func (h *handler) change(c *gin.Context) error {
	by, err := h.ownOnly(c)
	if err != nil {
		return err
	}
	var a account
	ifMatch := c.Request.Header.Values("If-Match")
	form, err := source.ReadBody(c, &a, "an account")
	if err != nil {
		return err
	}
	if form != nil {
		a, ifMatch = readForm(form), []string{`"` + form.Get("version") + `"`}
	}
	p, err := h.store.change(c.Request.Context(), by, a, ifMatch)
	if wrong := refused(c, err); wrong != nil && form != nil {
		now, err := h.store.get(c.Request.Context(), by.Customer)
		if err != nil {
			return gone(err)
		}
		h.renderAccount(c, now, a, true, false, wrong)
		return nil
	}
	switch {
	case err != nil:
		return gone(err)
	case form != nil:
		c.Redirect(http.StatusSeeOther, path(by.Customer)+"?saved")
	default:
		answer(c, http.StatusOK, p)
	}
	return nil
}

func (h *handler) delete(c *gin.Context) error {
	by, err := h.ownOnly(c)
	if err == nil {
		err = h.store.delete(c.Request.Context(), by, c.Request.Header.Values("If-Match"))
	}
	if err != nil {
		return gone(err)
	}
	c.Status(http.StatusNoContent)
	return nil
}

func (h *handler) deleteByForm(c *gin.Context) error {
	by, err := h.ownOnly(c)
	if err != nil {
		return err
	}
	var confirmation struct {
		Confirm bool `json:"confirm"`
	}
	form, err := source.ReadBody(c, &confirmation, "a confirmation")
	if err != nil {
		return err
	}
	p, err := h.store.get(c.Request.Context(), by.Customer)
	if err != nil {
		return gone(err)
	}
	if !confirmation.Confirm && form.Get("confirm") == "" {
		wrong := &web.Problem{
			Status: http.StatusUnprocessableEntity, Detail: "The account was not deleted.",
			Errors: []web.FieldError{{Field: "confirm", Detail: "must be ticked"}},
		}
		if !web.PrefersHTML(c.Request) {
			return wrong
		}
		h.renderAccount(c, p, accountOf(p), true, false, wrong)
		return nil
	}
	if err := h.store.delete(c.Request.Context(), by, nil); err != nil {
		return gone(err)
	}
	h.buyers.Forget(c)
	c.Redirect(http.StatusSeeOther, "/deleted")
	return nil
}

// refused returns a problem that the sender of the form can solve; a browser shows it with the form.
func refused(c *gin.Context, err error) *web.Problem {
	p, ok := errors.AsType[*web.Problem](err)
	if !ok || p.Status != http.StatusUnprocessableEntity && p.Status != http.StatusPreconditionFailed || !web.PrefersHTML(c.Request) {
		return nil
	}
	return p
}

func answer(c *gin.Context, status int, p *customer.Customer) {
	tag := source.ETag(p.Version)
	c.Header("Vary", "Accept")
	c.Header("Cache-Control", "private, no-cache")
	c.Header("ETag", tag)
	if get := c.Request.Method == http.MethodGet || c.Request.Method == http.MethodHead; get && web.MatchesETag(c.Request.Header.Values("If-None-Match"), tag, true) {
		web.NotModified(c.Writer)
		return
	}
	web.JSON(c.Writer, c.Request, status, p)
}

// answerWithToken answers with the customer as JSON, and with a token for the confirmation at since.
func (h *handler) answerWithToken(c *gin.Context, status int, p *customer.Customer, since int64) error {
	token, err := h.buyers.Token(buyer.Buyer{Customer: p.ID, Since: since})
	if err != nil {
		return err
	}
	c.Header("Vary", "Accept")
	c.Header("Cache-Control", "no-store")
	c.Header("ETag", source.ETag(p.Version))
	web.JSON(c.Writer, c.Request, status, struct {
		*customer.Customer
		BuyerToken string `json:"buyer_token"`
	}{p, token})
	return nil
}

func path(id uuid.UUID) string { return "/customers/" + id.String() }
