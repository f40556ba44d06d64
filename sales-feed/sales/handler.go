package sales

import (
	"net/http"
	"strconv"

	"github.com/gin-gonic/gin"
	"github.com/google/uuid"

	"github.com/edison-cars/data-feeds/sales-feed/buyer"
	"github.com/edison-cars/data-feeds/sales-feed/source"
	"github.com/edison-cars/data-feeds/shared/order"
	"github.com/edison-cars/data-feeds/shared/web"
)

type handler struct {
	store    store
	settings Settings
	buyers   *buyer.Side
}

var (
	storefrontPage = web.Template(pages, "storefront.html")
	ordersPage     = web.Template(pages, "orders.html")
	orderPage      = web.Template(pages, "order.html")
)

// place places an order for the buyer whose credential the request has, or for a new visitor, who gets a credential. An
// order may name a customer only with that customer's credential or an operator's.
func (h *handler) place(c *gin.Context) error {
	p, key, byForm, err := readPurchase(c)
	if err != nil {
		return err
	}
	by, err := h.buyers.Of(c)
	if err == nil && by.Ended != uuid.Nil {
		err = buyer.ErrEnded // otherwise the order would be a guest's
	}
	if err != nil {
		return err
	}
	if p.CustomerID == nil && by.Buyer != (buyer.Buyer{}) {
		own := by.ID().String()
		p.CustomerID = &own
	} else if p.CustomerID != nil && !by.Operator {
		if named, err := source.ParseUUID(*p.CustomerID); err == nil && !by.Owns(named) { // an invalid id is answered with 422 later
			return by.ErrNamed()
		}
	}
	guest := p.CustomerID == nil
	o, err := h.store.place(c.Request.Context(), p, key)
	if err != nil {
		return err
	}
	token := ""
	if guest && buyer.Repeats(o.PlacedAt.Time) {
		by.Buyer = buyer.Buyer{Visitor: o.CustomerID}
		if byForm {
			err = h.buyers.Keep(c, by.Buyer)
		} else {
			token, err = h.buyers.Token(by.Buyer)
		}
		if err != nil {
			return err
		}
	}
	c.Header("Location", "/orders/"+o.ID.String())
	answer(c, http.StatusCreated, o, by, token)
	return nil
}

func (h *handler) show(c *gin.Context) error {
	by, o, err := h.find(c)
	if err != nil {
		return err
	}
	answer(c, http.StatusOK, o, by, "")
	return nil
}

func (h *handler) cancel(c *gin.Context) error {
	by, o, err := h.find(c)
	if err != nil {
		return err
	}
	if !by.Owns(o.CustomerID) {
		return buyer.ErrOperator
	}
	o, err = h.store.cancel(c.Request.Context(), o, c.Request.Header.Values("If-Match"))
	if err != nil {
		return err
	}
	answer(c, http.StatusOK, o, by, "")
	return nil
}

// find returns the order that the path names, to its buyer and to operators.
func (h *handler) find(c *gin.Context) (by buyer.Party, o *order.Order, err error) {
	if by, err = h.buyers.Require(c); err != nil {
		return by, nil, err
	}
	id, err := source.ParseUUID(c.Param("id"))
	if err != nil {
		return by, nil, errNoOrder
	}
	if o, err = h.store.get(c.Request.Context(), id); err == nil && !by.Operator && !by.Owns(o.CustomerID) {
		err = by.Refusal(errNoOrder)
	}
	return by, o, err
}

// answer answers with the order: a page for browsers, else JSON, which has the buyer's token unless it is "".
func answer(c *gin.Context, status int, o *order.Order, by buyer.Party, token string) {
	c.Header("Vary", "Accept")
	c.Header("Cache-Control", "private, no-cache")
	if web.PrefersHTML(c.Request) {
		c.Header("Cache-Control", "no-store") // Back does not show it after the sign-out
		view := shown(o)
		view.Own, view.Feed, view.Operator = by.Owns(o.CustomerID), source.MayRead(c), by.Operator
		render(c, status, orderPage, "Order "+view.Short, view)
		return
	}
	c.Header("ETag", etag(o))
	if c.Request.Method != http.MethodPost && web.MatchesETag(c.Request.Header.Values("If-None-Match"), etag(o), true) {
		web.NotModified(c.Writer)
		return
	}
	if token != "" {
		c.Header("Cache-Control", "no-store")
	}
	web.JSON(c.Writer, c.Request, status, struct {
		*order.Order
		BuyerToken string `json:"buyer_token,omitempty"`
	}{o, token})
}

func readPurchase(c *gin.Context) (p *purchase, key string, isForm bool, err error) {
	p = new(purchase)
	form, err := source.ReadBody(c, p, "an order")
	if err == nil {
		key, err = source.IdempotencyKey(c, form)
	}
	if err != nil || form == nil {
		return p, key, false, err
	}
	quantity, err := strconv.Atoi(form.Get("quantity"))
	if err != nil {
		quantity = 0 // refused later, with the field's name
	}
	line := purchaseLine{Model: form.Get("model"), Options: form["options"], Quantity: quantity}
	return &purchase{Lines: []purchaseLine{line}}, key, true, nil
}
