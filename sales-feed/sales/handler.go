package sales

import (
	"net/http"
	"strconv"

	"github.com/gin-gonic/gin"
	"github.com/google/uuid"

	"github.com/edison-cars/data-feeds/sales-feed/source"
	"github.com/edison-cars/data-feeds/shared/order"
	"github.com/edison-cars/data-feeds/shared/web"
)

type handler struct {
	store    store
	settings Settings
}

var (
	storefrontPage = web.Template(pages, "storefront.html")
	ordersPage     = web.Template(pages, "orders.html")
	orderPage      = web.Template(pages, "order.html")
)

func (h *handler) place(c *gin.Context) error {
	p, key, err := readPurchase(c)
	if err != nil {
		return err
	}
	o, err := h.store.place(c.Request.Context(), p, key)
	if err != nil {
		return err
	}
	c.Header("Location", "/orders/"+o.ID.String())
	answer(c, http.StatusCreated, o)
	return nil
}

func (h *handler) show(c *gin.Context) error {
	id, err := orderID(c)
	if err != nil {
		return err
	}
	o, err := h.store.get(c.Request.Context(), id)
	if err != nil {
		return err
	}
	c.Header("Cache-Control", "no-cache")
	answer(c, http.StatusOK, o)
	return nil
}

func (h *handler) cancel(c *gin.Context) error {
	id, err := orderID(c)
	if err != nil {
		return err
	}
	o, err := h.store.cancel(c.Request.Context(), id, c.Request.Header.Values("If-Match"))
	if err != nil {
		return err
	}
	answer(c, http.StatusOK, o)
	return nil
}

// answer gives the order: to a browser as a page, else as JSON.
func answer(c *gin.Context, status int, o *order.Order) {
	c.Header("Vary", "Accept")
	if web.PrefersHTML(c) {
		view := shown(o)
		render(c, status, orderPage, "Order "+view.Short, view)
		return
	}
	c.Header("ETag", etag(o))
	if c.Request.Method != http.MethodPost && web.MatchesETag(c.Request.Header.Values("If-None-Match"), etag(o), true) {
		web.NotModified(c)
		return
	}
	web.JSON(c, status, o)
}

func orderID(c *gin.Context) (uuid.UUID, error) {
	id, err := source.ParseUUID(c.Param("id"))
	if err != nil {
		return id, errNoOrder
	}
	return id, nil
}

// readPurchase reads JSON, or the storefront's form; and the idempotency key.
func readPurchase(c *gin.Context) (*purchase, string, error) {
	p := new(purchase)
	form, err := source.ReadBody(c, p, "an order")
	if err != nil || form == nil {
		return p, c.GetHeader("Idempotency-Key"), err
	}
	quantity, err := strconv.Atoi(form.Get("quantity"))
	if err != nil {
		quantity = 0 // refused with the field's name
	}
	line := purchaseLine{Model: form.Get("model"), Options: form["options"], Quantity: quantity}
	buyer, _ := buyer(c)
	return &purchase{CustomerID: buyer, Lines: []purchaseLine{line}}, form.Get("idempotency_key"), nil
}
