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

const listed = 50

type filter struct {
	Status   string
	Model    string
	From, To string    // the first and the last day on which they were placed, UTC, as 2026-11-23
	Before   uuid.UUID // only orders with smaller ids, which were placed earlier
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
		{"before", new(string), func(id string) (ok bool) {
			f.Before, err = source.ParseUUID(id)
			return err == nil && f.Before != uuid.Nil
		}, "the id of an order"},
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

// URL returns the address of the list.
func (f filter) URL() string {
	query := url.Values{}
	for name, value := range map[string]string{"status": f.Status, "model": f.Model, "from": f.From, "to": f.To} {
		if value != "" {
			query.Set(name, value)
		}
	}
	if f.Before != uuid.Nil {
		query.Set("before", f.Before.String())
	}
	if len(query) == 0 {
		return "/orders"
	}
	return "/orders?" + query.Encode()
}

// Newest returns the same filter without Before.
func (f filter) Newest() filter {
	f.Before = uuid.Nil
	return f
}

// list returns up to limit of the filter's orders, newest first: those of the buyers, or all if buyers is nil.
func (s *store) list(ctx context.Context, f filter, buyers []uuid.UUID, limit int) ([]*order.Order, error) {
	var where []string
	var args []any
	only := func(condition string, arg any) {
		args = append(args, arg)
		where = append(where, fmt.Sprintf(condition, len(args)))
	}
	if buyers != nil {
		only("customer_id = any($%d)", buyers)
	}
	if f.Before != uuid.Nil {
		only("id < $%d", f.Before)
	}
	switch order.Status(f.Status) {
	case order.Cancelled:
		where = append(where, "status = 'cancelled'") // the condition of the partial index
	case order.Placed:
		where = append(where, "status = 'placed'")
	}
	if f.Model != "" {
		contained, err := json.Marshal([]map[string]string{{"model": f.Model}})
		if err != nil {
			return nil, err
		}
		only("lines @> $%d", string(contained))
	}
	// Ids begin with the time of their creation, moments after placed_at, so the primary key finds orders by day.
	const apart = time.Hour
	if f.From != "" {
		from, _ := time.Parse(time.DateOnly, f.From)
		only("placed_at >= $%d", from)
		only("id >= $%d", firstID(from.Add(-apart)))
	}
	if f.To != "" {
		to, _ := time.Parse(time.DateOnly, f.To)
		to = to.AddDate(0, 0, 1)
		only("placed_at < $%d", to)
		only("id < $%d", firstID(to.Add(apart)))
	}
	sql := selectOrder
	if len(where) > 0 {
		sql += "where " + strings.Join(where, " and ") + " "
	}
	args = append(args, limit)
	ctx, cancel := context.WithTimeout(ctx, source.ReadTimeout)
	defer cancel()
	var orders []*order.Order
	err := s.log.Read(ctx, func(conn *pgx.Conn) error {
		rows, err := conn.Query(ctx, sql+fmt.Sprintf("order by id desc limit $%d", len(args)), args...)
		if err == nil {
			orders, err = pgx.CollectRows(rows, scanOrder)
		}
		return err
	})
	if err != nil {
		return nil, err
	}
	return orders, s.log.Confirm(ctx)
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
	var buyers []uuid.UUID
	if !by.Operator {
		buyers = []uuid.UUID{by.Customer, by.Visitor} // no order has the id Nil
	}
	orders, err := h.store.list(c.Request.Context(), f, buyers, listed+1)
	if err != nil {
		return fmt.Errorf("list orders: %w", err)
	}
	next := ""
	if len(orders) > listed {
		orders = orders[:listed]
		older := f
		older.Before = orders[listed-1].ID
		next = older.URL()
		c.Header("Link", "<"+next+`>; rel="next"`)
	}
	c.Header("Vary", "Accept")
	c.Header("Cache-Control", "private, no-cache")
	if !web.PrefersHTML(c.Request) {
		web.JSON(c.Writer, c.Request, http.StatusOK, orders)
		return nil
	}
	c.Header("Cache-Control", "no-store") // Back does not show it after the sign-out
	page := struct {
		filter
		Filtered, First bool
		All             bool // the list is of all buyers
		Feed            bool // the client may read the feed
		Statuses        []shownStatus
		Models          []Model
		Orders          []*shownOrder
		Next            string
	}{filter: f, Filtered: f.Newest() != filter{}, First: f.Before == uuid.Nil, All: by.Operator, Feed: source.MayRead(c), Models: catalogue, Next: next}
	for _, status := range statuses {
		page.Statuses = append(page.Statuses, shownStatus{status, state(order.Status(status))})
	}
	for _, o := range orders {
		page.Orders = append(page.Orders, shown(o))
	}
	title := "Your orders"
	if page.All {
		title = "Orders"
	}
	render(c, http.StatusOK, ordersPage, title, page)
	return nil
}
