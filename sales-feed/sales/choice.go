package sales

import (
	"errors"
	"maps"
	"net/http"
	"net/url"
	"slices"
	"strconv"

	"github.com/gin-gonic/gin"
	"github.com/google/uuid"

	"github.com/edison-cars/data-feeds/sales-feed/buyer"
	"github.com/edison-cars/data-feeds/sales-feed/source"
	"github.com/edison-cars/data-feeds/shared/order"
	"github.com/edison-cars/data-feeds/shared/web"
)

// A choice is what a visitor has filled in at the storefront. It may be wrong.
type choice struct {
	Model    string
	Options  []string
	Quantity string
}

func readChoice(form url.Values) choice {
	return choice{form.Get("model"), form["options"], form.Get("quantity")}
}

// URL returns the address of a page that shows the choice.
func (c choice) URL(path string) string {
	query := url.Values{"model": {c.Model}, "options": c.Options, "quantity": {c.Quantity}}
	return path + "?" + query.Encode()
}

func (c choice) purchase() *purchase {
	quantity, err := strconv.Atoi(c.Quantity)
	if err != nil {
		quantity = 0 // refused with the field's name
	}
	return &purchase{Lines: []purchaseLine{{Model: c.Model, Options: slices.Clone(c.Options), Quantity: quantity}}}
}

// order returns the order that the choice would be now, or a problem.
func (c choice) order() (*order.Order, *web.Problem) {
	p := c.purchase()
	p.normalize()
	o, err := p.order(source.Now())
	if wrong, ok := errors.AsType[*web.Problem](err); ok {
		return nil, wrong
	}
	return o, nil // reading random numbers does not fail
}

// A form is the form of a model at the storefront.
type form struct {
	*Model
	Options                     []optionField
	Quantity                    string
	TotalCents                  int64 // 0 if a field is wrong
	WrongOptions, WrongQuantity string
}

type optionField struct {
	Option
	Checked bool
}

// forms returns the forms of all models. That of the chosen one has the choice and what is wrong with it.
func forms(chosen choice, wrong *web.Problem) (all []form) {
	for i := range catalogue {
		m := &catalogue[i]
		f := form{Model: m, Quantity: "1", TotalCents: m.PriceCents}
		is := m.Model == chosen.Model
		if is {
			f.Quantity, f.TotalCents = chosen.Quantity, 0
			f.WrongOptions, f.WrongQuantity = wrong.Wrong("lines[0].options"), wrong.Wrong("lines[0].quantity")
			if o, _ := chosen.order(); o != nil {
				f.TotalCents = o.TotalCents
			}
		}
		for _, option := range m.Options {
			f.Options = append(f.Options, optionField{option, is && slices.Contains(chosen.Options, option.Option)})
		}
		all = append(all, f)
	}
	return all
}

// renderStorefront shows the cars, with what the visitor has filled in and what is wrong with it.
func (h *handler) renderStorefront(c *gin.Context, by buyer.Party, chosen choice, wrong *web.Problem) error {
	view := struct {
		buyerView
		Forms      []form
		Problem    *web.Problem // or nil
		WrongModel string
		Model      string // the chosen one
		AsGuest    bool   // the browser has orders that are not the account's
	}{h.viewOf(by), forms(chosen, wrong), wrong, wrong.Wrong("lines[0].model"), chosen.Model, false}
	if by.Customer != uuid.Nil && by.Visitor != uuid.Nil {
		orders, err := h.store.list(c.Request.Context(), filter{Status: string(order.Placed)}, []uuid.UUID{by.Visitor}, &web.Listing{Limit: 1})
		if err != nil {
			return err
		}
		view.AsGuest = len(orders.Items) > 0
	}
	c.Header("Cache-Control", "no-store") // it says as whom the visitor buys
	h.render(c, statusOf(wrong), storefrontPage, "Electric cars, built to order", view)
	return nil
}

// review shows what the visitor has chosen, before it is bought. A choice that cannot be bought goes back to its form.
func (h *handler) review(c *gin.Context) error {
	by, err := h.visitor(c)
	if err != nil {
		return err
	}
	chosen := readChoice(c.Request.URL.Query())
	if chosen.Model == "" {
		c.Redirect(http.StatusSeeOther, "/")
		return nil
	}
	return h.renderReview(c, by, chosen, uuid.NewString(), nil)
}

func (h *handler) renderReview(c *gin.Context, by buyer.Party, chosen choice, key string, problem *web.Problem) error {
	o, wrong := chosen.order()
	if wrong != nil {
		return h.renderStorefront(c, by, chosen, wrong)
	}
	c.Header("Cache-Control", "no-store") // the page has a key that is valid for one order
	h.render(c, statusOf(problem), reviewPage, "Review your order", struct {
		buyerView
		choice
		Order   *shownOrder
		Key     string       // makes a form that is sent twice one order
		Problem *web.Problem // or nil
	}{h.viewOf(by), chosen, shown(o), key, problem})
	return nil
}

const keyField = "idempotency_key"

// refused answers a purchase by a form that failed with the form again, or returns err if its sender cannot mend that.
// key is that of the form.
func (h *handler) refused(c *gin.Context, by buyer.Party, chosen choice, key string, err error) error {
	p, ok := errors.AsType[*web.Problem](err)
	switch {
	case !web.PrefersHTML(c.Request):
		return err
	case web.StatusOf(err) == http.StatusServiceUnavailable:
		if p = web.ProblemOf(c.Request, err, h.logger); p == nil {
			return err
		}
		maps.Copy(c.Writer.Header(), p.Header)
		c.Writer.Header().Del("Location")
		p = web.Errorf(p.Status, "We do not know whether the order was placed. Buy again in a few seconds: it is placed only once.")
		return h.renderReview(c, by, chosen, key, p)
	case !ok || p.Status != http.StatusUnprocessableEntity:
		return err
	case p.Errors == nil: // the key was used
		p = web.Errorf(p.Status, "You have already bought with this form. Nothing more was bought. Your orders have it; buy again to place another one.")
	case p.Wrong(reviewed) == "":
		return h.renderStorefront(c, by, chosen, p)
	}
	return h.renderReview(c, by, chosen, uuid.NewString(), p)
}

// statusOf returns the status of a page with a problem, which may be nil.
func statusOf(p *web.Problem) int {
	if p == nil {
		return http.StatusOK
	}
	return p.Status
}

// A buyerView says as whom a browser buys.
type buyerView struct{ Customer, Account string } // "" before the visitor signs in

func (h *handler) viewOf(by buyer.Party) buyerView {
	if by.Customer == uuid.Nil {
		return buyerView{}
	}
	return buyerView{web.Short(by.Customer), string(h.settings.CustomersURL) + "/customers/" + by.Customer.String()}
}
