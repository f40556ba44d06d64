package sales

import (
	"log/slog"
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
	nav      []web.Link // on all pages
	buyers   *buyer.Side
	logger   *slog.Logger
}

var (
	storefrontPage = web.Template(pages, "storefront.html")
	reviewPage     = web.Template(pages, "review.html", "lines.html")
	ordersPage     = web.Template(pages, "orders.html")
	orderPage      = web.Template(pages, "order.html", "lines.html")
)

// place places an order for the buyer whose credential the request has, or for a new visitor, who gets a credential. An
// order may name a customer only with that customer's credential or an operator's.
func (h *handler) place(c *gin.Context) error {
	p := new(purchase)
	form, err := source.ReadBody(c, p, "an order")
	if err != nil {
		return err
	}
	key, err := source.IdempotencyKey(c, form)
	if err != nil {
		return err
	}
	chosen := readChoice(form)
	if form != nil {
		p = chosen.purchase()
		p.reviewed, _ = strconv.ParseInt(form.Get("total_cents"), 10, 64)
	}
	by, err := h.buyers.Of(c)
	if err != nil && form != nil {
		return h.refused(c, by, chosen, form.Get(keyField), err)
	}
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
	if err != nil && form != nil {
		return h.refused(c, by, chosen, form.Get(keyField), err)
	}
	if err != nil {
		return err
	}
	token := ""
	if guest && buyer.Repeats(o.PlacedAt.Time) {
		by.Buyer = buyer.Buyer{Visitor: o.CustomerID}
		if form != nil {
			err = h.buyers.Keep(c, by.Buyer)
		} else {
			token, err = h.buyers.Token(by.Buyer)
		}
		if err != nil {
			return err
		}
	}
	at := "/orders/" + o.ID.String()
	if form != nil {
		c.Redirect(http.StatusSeeOther, at+"?placed")
		return nil
	}
	c.Header("Location", at)
	h.answer(c, http.StatusCreated, o, by, token)
	return nil
}

func (h *handler) show(c *gin.Context) error {
	by, o, err := h.find(c)
	if err != nil {
		return err
	}
	h.answer(c, http.StatusOK, o, by, "")
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
	if web.PrefersHTML(c.Request) {
		c.Redirect(http.StatusSeeOther, "/orders/"+o.ID.String())
		return nil
	}
	h.answer(c, http.StatusOK, o, by, "")
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

type orderView struct {
	buyerView
	*shownOrder
	Own      bool // the client is its buyer
	AsGuest  bool // it was placed as a guest
	Thanks   bool // it was placed just now
	Feed     bool // the client may read the feed
	Operator bool // the client is an operator
	Again    string
}

// answer answers with the order: a page for browsers, else JSON, which has the buyer's token unless it is "".
func (h *handler) answer(c *gin.Context, status int, o *order.Order, by buyer.Party, token string) {
	c.Header("Vary", "Accept")
	c.Header("Cache-Control", "private, no-cache")
	if web.PrefersHTML(c.Request) {
		c.Header("Cache-Control", "no-store") // Back does not show it after the sign-out
		_, placed := c.GetQuery("placed")
		view := orderView{
			buyerView: h.viewOf(by), shownOrder: shown(o), Own: by.Owns(o.CustomerID), AsGuest: o.CustomerID == by.Visitor,
			Feed: source.MayRead(c), Operator: by.Operator, Again: "/",
		}
		view.Thanks = placed && view.Own && o.Status == order.Placed
		if l := o.Lines; len(l) == 1 && o.Status == order.Cancelled {
			view.Again = choice{l[0].Model, l[0].Options, strconv.Itoa(l[0].Quantity)}.URL("/") + "#" + l[0].Model
		}
		h.render(c, status, orderPage, "Order "+view.Short, view)
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
