package sales

import (
	"errors"
	"mime"
	"net/http"
	"strconv"
	"strings"

	"github.com/gin-gonic/gin"
	"github.com/google/uuid"

	"github.com/edison-cars/data-feeds/shared/order"
	"github.com/edison-cars/data-feeds/shared/web"
)

type handler struct{ store store }

var (
	storefrontPage = web.Template(pages, "storefront.html")
	ordersPage     = web.Template(pages, "orders.html")
	orderPage      = web.Template(pages, "order.html")
)

const maxKey = 255

func (h *handler) storefront(c *gin.Context) error {
	key, err := uuid.NewRandom()
	if err != nil {
		return err
	}
	visitor(c)
	c.Header("Cache-Control", "no-store") // it holds what is good for one order
	render(c, http.StatusOK, storefrontPage, "Electric cars, built to order", struct {
		Models []Model
		Key    string // makes a form that is sent twice one order
	}{catalogue, key.String()})
	return nil
}

func (h *handler) place(c *gin.Context) error {
	p, key, err := readPurchase(c)
	if err != nil {
		return err
	}
	if len(key) > maxKey || strings.ContainsFunc(key, func(r rune) bool { return r < ' ' || r > '~' }) {
		return web.Errorf(http.StatusBadRequest, "The Idempotency-Key takes up to %d printable ASCII characters.", maxKey)
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
	c.PureJSON(status, o)
}

func orderID(c *gin.Context) (uuid.UUID, error) {
	id, err := parseUUID(c.Param("id"))
	if err != nil {
		return id, errNoOrder
	}
	return id, nil
}

// readPurchase reads JSON, or the storefront's form; and the idempotency key.
func readPurchase(c *gin.Context) (*purchase, string, error) {
	mediaType, _, _ := mime.ParseMediaType(c.GetHeader("Content-Type"))
	switch mediaType {
	case "application/json":
		p := new(purchase)
		err := web.DecodeJSON(c.Request.Body, p)
		if err == nil {
			return p, c.GetHeader("Idempotency-Key"), nil
		}
		if _, ok := errors.AsType[*web.Problem](err); ok { // too large, too slow
			return nil, "", err
		}
		return nil, "", web.Errorf(http.StatusUnprocessableEntity, "The body is not an order: %v.", err)
	case "application/x-www-form-urlencoded":
		if err := c.Request.ParseForm(); err != nil {
			if _, ok := errors.AsType[*web.Problem](err); ok {
				return nil, "", err
			}
			return nil, "", web.Errorf(http.StatusUnprocessableEntity, "The body is not a form: %v.", err)
		}
		form := c.Request.PostForm
		quantity, err := strconv.Atoi(form.Get("quantity"))
		if err != nil {
			quantity = 0 // refused with the field's name
		}
		line := purchaseLine{Model: form.Get("model"), Options: form["options"], Quantity: quantity}
		return &purchase{CustomerID: visitor(c), Lines: []purchaseLine{line}}, form.Get("idempotency_key"), nil
	}
	p := web.Errorf(http.StatusUnsupportedMediaType, "An order is application/json, or the storefront's form.")
	p.Header = http.Header{"Accept-Post": {"application/json, application/x-www-form-urlencoded"}}
	return nil, "", p
}

// visitor gives the customer id of this browser, which keeps it in a cookie.
func visitor(c *gin.Context) string {
	const cookie = "customer_id"
	if id, err := c.Cookie(cookie); err == nil && len(id) == 36 && uuid.Validate(id) == nil {
		return id
	}
	id := uuid.NewString()
	http.SetCookie(c.Writer, &http.Cookie{
		Name: cookie, Value: id, Path: "/", MaxAge: 365 * 24 * 3600, HttpOnly: true, SameSite: http.SameSiteLaxMode,
	})
	return id
}
