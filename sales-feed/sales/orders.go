package sales

import (
	"context"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/gin-gonic/gin"
	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"github.com/edison-cars/data-feeds/sales-feed/source"
	"github.com/edison-cars/data-feeds/shared/order"
	"github.com/edison-cars/data-feeds/shared/web"
)

const (
	listed    = 50
	maxListed = 1000 // with limit
)

type filter struct {
	Status   string
	Model    string
	From, To string // the first and the last day on which they were placed, UTC, as 2026-11-23
}

// readFilter reads the query of a list. It ignores parameters without a value, which forms send.
func readFilter(rawQuery string) (f filter, err error) {
	query, err := url.ParseQuery(rawQuery)
	if err != nil {
		return f, web.Errorf(http.StatusBadRequest, "The query is malformed: %v.", err)
	}
	var models []string
	for _, m := range catalogue {
		models = append(models, m.Model)
	}
	for _, p := range []struct {
		name  string
		into  *string
		valid func(string) bool
		takes string
	}{
		{"status", &f.Status, oneOf(statuses), "one of " + strings.Join(statuses, ", ")},
		{"model", &f.Model, oneOf(models), "one of " + strings.Join(models, ", ")},
		{"from", &f.From, isDay, "a day such as 2026-11-23"},
		{"to", &f.To, func(day string) bool { return isDay(day) && day >= f.From }, "a day such as 2026-11-23, not before that of from"},
	} {
		values := query[p.name]
		if len(values) > 1 {
			return f, web.Errorf(http.StatusBadRequest, "The parameter %s may be given only once.", p.name)
		}
		if len(values) == 0 || values[0] == "" {
			continue
		}
		if !p.valid(values[0]) {
			return f, web.Errorf(http.StatusBadRequest, "The parameter %s takes %s.", p.name, p.takes)
		}
		*p.into = values[0]
	}
	return f, nil
}

var statuses = []string{string(order.Placed), string(order.Cancelled)}

type shownStatus struct{ Status, State string }

func oneOf(values []string) func(string) bool {
	return func(v string) bool { return slices.Contains(values, v) }
}

func isDay(s string) bool {
	day, err := time.Parse(time.DateOnly, s)
	return err == nil && day.Year() > 0
}

// list returns the listing's page of the filter's orders, newest first: those of the buyers, or all if buyers is nil.
func (s *store) list(ctx context.Context, f filter, buyers []uuid.UUID, l *web.Listing) (page web.List[*order.Order], err error) {
	if buyers != nil {
		l.Where("customer_id = any(?)", buyers)
	}
	switch order.Status(f.Status) {
	case order.Cancelled:
		l.Where("status = 'cancelled'") // the condition of the partial index
	case order.Placed:
		l.Where("status = 'placed'")
	}
	if f.Model != "" {
		contained, err := json.Marshal([]map[string]string{{"model": f.Model}})
		if err != nil {
			return page, err
		}
		l.Where("lines @> ?", string(contained))
	}
	// Ids begin with the time of their creation, moments after placed_at, so the primary key finds orders by day.
	const apart = time.Hour
	if f.From != "" {
		from, _ := time.Parse(time.DateOnly, f.From)
		l.Where("placed_at >= ?", from)
		l.Where("id >= ?", firstID(from.Add(-apart)))
	}
	if f.To != "" {
		to, _ := time.Parse(time.DateOnly, f.To)
		to = to.AddDate(0, 0, 1)
		l.Where("placed_at < ?", to)
		l.Where("id < ?", firstID(to.Add(apart)))
	}
	l.Find("orders", "id", []string{"id"}, "customer_id")
	end, args := l.SQL("id")
	ctx, cancel := context.WithTimeout(ctx, source.ReadTimeout)
	defer cancel()
	var orders []*order.Order
	err = s.log.Read(ctx, func(conn *pgx.Conn) (err error) {
		rows, _ := conn.Query(ctx, selectOrder+end, args...)
		orders, err = pgx.CollectRows(rows, scanOrder)
		return err
	})
	if err != nil {
		return page, err
	}
	return web.NewList(l, orders, func(o *order.Order) []any { return []any{o.ID} }), s.log.Confirm(ctx)
}

// firstID returns an id that is not greater than any UUID of version 7 (RFC 9562 section 5.7) that was made at t or
// later.
func firstID(t time.Time) (id uuid.UUID) {
	var ms [8]byte
	binary.BigEndian.PutUint64(ms[:], uint64(max(t.UnixMilli(), 0)))
	copy(id[:6], ms[2:])
	return id
}

// list answers with a page of orders, newest first: all orders for an operator, else the buyer's own.
func (h *handler) list(c *gin.Context) error {
	by, err := h.buyers.Require(c)
	if err == nil {
		err = by.Unknown // if it may be an operator's, the buyer's own orders would be the wrong list
	}
	if err != nil {
		return err
	}
	f, err := readFilter(c.Request.URL.RawQuery)
	if err != nil {
		return err
	}
	l, err := web.NewListing(c.Request, listed, maxListed, new(uuid.UUID))
	if err != nil {
		return err
	}
	var buyers []uuid.UUID
	if !by.Operator {
		buyers = []uuid.UUID{by.Customer, by.Visitor} // no order has the id Nil
	}
	found, err := h.store.list(c.Request.Context(), f, buyers, l)
	if err != nil {
		return fmt.Errorf("list orders: %w", err)
	}
	if links := found.Links(); links != "" {
		c.Header("Link", links)
	}
	c.Header("Vary", "Accept")
	c.Header("Cache-Control", "private, no-cache")
	if !web.PrefersHTML(c.Request) {
		web.JSON(c.Writer, c.Request, http.StatusOK, found)
		return nil
	}
	c.Header("Cache-Control", "no-store") // Back does not show it after the sign-out
	page := struct {
		filter
		web.List[*order.Order]
		Filtered bool
		All      bool // the list is of all buyers
		Feed     bool // the client may read the feed
		Statuses []shownStatus
		Models   []Model
		Orders   []*shownOrder
	}{filter: f, List: found, Filtered: f != filter{} || found.Q != "", All: by.Operator, Feed: source.MayRead(c), Models: catalogue}
	for _, status := range statuses {
		page.Statuses = append(page.Statuses, shownStatus{status, state(order.Status(status))})
	}
	for _, o := range found.Items {
		page.Orders = append(page.Orders, shown(o))
	}
	title := "Your orders"
	if page.All {
		title = "Orders"
	}
	h.render(c, http.StatusOK, ordersPage, title, page)
	return nil
}
