package customers

import (
	"errors"
	"net/http"
	"net/url"

	"github.com/gin-gonic/gin"
	"github.com/google/uuid"

	"github.com/edison-cars/data-feeds/sales-feed/source"
	"github.com/edison-cars/data-feeds/shared/customer"
	"github.com/edison-cars/data-feeds/shared/web"
)

type handler struct {
	store     store
	shop      source.Site
	nav       []web.Link
	countries []country
}

// form shows the form to sign up.
func (h *handler) form(c *gin.Context) error {
	if _, err := h.returnTo(c.Query("return")); err != nil {
		return err
	}
	h.renderSignUp(c, account{}, uuid.NewString(), c.Query("return"), nil)
	return nil
}

func (h *handler) signUp(c *gin.Context) error {
	var a account
	form, err := source.ReadBody(c, &a, "an account")
	if err != nil {
		return err
	}
	if form == nil {
		p, err := h.store.signUp(c.Request.Context(), a, c.GetHeader("Idempotency-Key"))
		if err != nil {
			return err
		}
		c.Header("Location", path(p.ID))
		answer(c, http.StatusCreated, p)
		return nil
	}
	a = readForm(form)
	back, err := h.returnTo(form.Get("return"))
	if err != nil {
		return err
	}
	p, err := h.store.signUp(c.Request.Context(), a, form.Get("idempotency_key"))
	if wrong := refused(c, err); wrong != nil {
		key := form.Get("idempotency_key")
		if wrong.Errors == nil { // it was used
			key = uuid.NewString()
			wrong = web.Errorf(wrong.Status, "You have signed up by this form before, and said something else then. Send it again to sign up once more.")
		}
		h.renderSignUp(c, a, key, form.Get("return"), wrong)
		return nil
	}
	if err != nil {
		return err
	}
	if back == nil {
		back = &url.URL{Path: path(p.ID)}
	} else {
		query := back.Query()
		query.Set("customer_id", p.ID.String())
		back.RawQuery = query.Encode()
	}
	c.Redirect(http.StatusSeeOther, back.String())
	return nil
}

// returnTo gives where the visitor goes after the sign-up, nil if address is "". It is a page of the shop: any other would
// get the id of the account, and lend itself to deceit.
func (h *handler) returnTo(address string) (*url.URL, error) {
	if address == "" {
		return nil, nil
	}
	u, err := url.Parse(address)
	if err != nil || u.User != nil || u.Scheme+"://"+u.Host != h.shop.Origin() {
		return nil, web.Errorf(http.StatusBadRequest, "The parameter return takes a page of the shop, %s/.", h.shop)
	}
	return u, nil
}

func (h *handler) show(c *gin.Context) error {
	id, err := customerID(c)
	if err != nil {
		return err
	}
	p, err := h.store.get(c.Request.Context(), id)
	if err != nil {
		return err
	}
	if web.PrefersHTML(c) {
		_, saved := c.GetQuery("saved")
		h.renderAccount(c, p, accountOf(p), saved, nil)
		return nil
	}
	answer(c, http.StatusOK, p)
	return nil
}

// change takes JSON, or the form of the account's page.
func (h *handler) change(c *gin.Context) error {
	id, err := customerID(c)
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
	p, err := h.store.change(c.Request.Context(), id, a, ifMatch)
	if wrong := refused(c, err); wrong != nil && form != nil {
		now, err := h.store.get(c.Request.Context(), id)
		if err != nil {
			return err
		}
		h.renderAccount(c, now, a, false, wrong)
		return nil
	}
	switch {
	case err != nil:
		return err
	case form != nil:
		c.Redirect(http.StatusSeeOther, path(id)+"?saved")
	default:
		answer(c, http.StatusOK, p)
	}
	return nil
}

func (h *handler) delete(c *gin.Context) error {
	id, err := customerID(c)
	if err == nil {
		err = h.store.delete(c.Request.Context(), id, c.Request.Header.Values("If-Match"))
	}
	if err != nil {
		return err
	}
	c.Status(http.StatusNoContent)
	return nil
}

// deleteByForm deletes an account if that was confirmed, and leads to what is left of it.
func (h *handler) deleteByForm(c *gin.Context) error {
	id, err := customerID(c)
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
	p, err := h.store.get(c.Request.Context(), id)
	if err != nil {
		return err
	}
	if !confirmation.Confirm && form.Get("confirm") == "" {
		wrong := &web.Problem{
			Status: http.StatusUnprocessableEntity, Detail: "The account was not deleted.",
			Errors: []web.FieldError{{Field: "confirm", Detail: "must be ticked"}},
		}
		if !web.PrefersHTML(c) {
			return wrong
		}
		h.renderAccount(c, p, accountOf(p), false, wrong)
		return nil
	}
	if err := h.store.delete(c.Request.Context(), id, nil); err != nil {
		return err
	}
	c.Redirect(http.StatusSeeOther, path(id))
	return nil
}

// refused gives a problem that is the form's sender's to solve, in a browser, by the same form.
func refused(c *gin.Context, err error) *web.Problem {
	p, ok := errors.AsType[*web.Problem](err)
	if !ok || p.Status != http.StatusUnprocessableEntity && p.Status != http.StatusPreconditionFailed || !web.PrefersHTML(c) {
		return nil
	}
	return p
}

// answer gives the customer as JSON.
func answer(c *gin.Context, status int, p *customer.Customer) {
	tag := source.ETag(p.Version)
	c.Header("Vary", "Accept")
	c.Header("Cache-Control", "private, no-cache")
	c.Header("ETag", tag)
	if get := c.Request.Method == http.MethodGet || c.Request.Method == http.MethodHead; get && web.MatchesETag(c.Request.Header.Values("If-None-Match"), tag, true) {
		web.NotModified(c)
		return
	}
	web.JSON(c, status, p)
}

func path(id uuid.UUID) string { return "/customers/" + id.String() }

func customerID(c *gin.Context) (uuid.UUID, error) {
	id, err := source.ParseUUID(c.Param("id"))
	if err != nil {
		return id, errNoCustomer
	}
	return id, nil
}
