package mailer

import (
	"context"
	"errors"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/edison-cars/data-feeds/shared/web"
)

const (
	maxListed = 1000 // by the API, newest orders first
	maxShown  = 50   // by the page
)

// A listed mail contains no data of the customer but the id.
type listed struct {
	OrderID    uuid.UUID  `json:"order_id"`
	CustomerID uuid.UUID  `json:"customer_id"`
	State      string     `json:"state"` // "waiting" for the customer, "pending", "sending", "sent", "failed", "skipped", "cancelled" or "withdrawn"
	Attempts   int        `json:"attempts"`
	Uncertain  int        `json:"uncertain"` // attempts with unknown outcome
	PlacedAt   time.Time  `json:"placed_at"`
	SentAt     *time.Time `json:"sent_at"`
	NextTryAt  *time.Time `json:"next_try_at"` // of a pending mail
	MessageID  string     `json:"message_id"`
}

// Short returns the end of the order's id, enough to refer to it.
func (m listed) Short() string { return web.Short(m.OrderID) }

// StateText returns the state in words.
func (m listed) StateText() string { return stateTexts[m.State] }

var stateTexts = map[string]string{
	"waiting": "waits for the customer", "pending": "to be sent", "sending": "being sent", "sent": "sent", "failed": "given up",
	"skipped": "skipped", "cancelled": "order cancelled", "withdrawn": "withdrawn",
}

// Badge returns the class of the state's badge.
func (m listed) Badge() string {
	switch m.State {
	case "sent":
		return "enough"
	case "waiting", "pending", "sending":
		return "short"
	case "failed":
		return "low"
	}
	return ""
}

const selectListed = `
	select m.order_id, m.customer_id, case when m.state = 'pending' and c.id is null then 'waiting' else m.state end, m.attempts, m.uncertain,
	       m.placed_at, m.sent_at, case when m.state = 'pending' and c.id is not null then m.due_at end, m.reason
	  from mail m left join customers c on c.id = m.customer_id`

// A row is a mail on the page, with the reason of its state; a server's reply may contain the customer's address.
type row struct {
	listed
	Reason string
}

func scanRow(r pgx.CollectableRow) (m row, err error) {
	err = r.Scan(&m.OrderID, &m.CustomerID, &m.State, &m.Attempts, &m.Uncertain, &m.PlacedAt, &m.SentAt, &m.NextTryAt, &m.Reason)
	m.MessageID = messageID(m.OrderID)
	for _, t := range []*time.Time{m.SentAt, m.NextTryAt} {
		if t != nil {
			*t = t.Truncate(time.Millisecond)
		}
	}
	return m, err
}

// states are those of the table. A pending mail is shown as one that waits while its customer has not come.
var states = []string{"pending", "sending", "sent", "failed", "skipped", "cancelled", "withdrawn"}

// readRows returns a page of the mails, the newest orders first. The request may set state=STATE.
func readRows(r *http.Request, db *pgxpool.Pool, length int64) (found web.List[row], err error) {
	l, err := web.NewListing(r, length, maxListed, new(time.Time), new(uuid.UUID))
	if err != nil {
		return found, err
	}
	if state := r.URL.Query().Get("state"); slices.Contains(states, state) {
		l.Where("m.state = ?", state)
	} else if state != "" {
		return found, web.Errorf(http.StatusBadRequest, "The parameter state takes one of %s.", strings.Join(states, ", "))
	}
	l.Find("mail", "order_id", []string{"order_id"}, "customer_id")
	end, args := l.SQL("m.placed_at", "m.order_id")
	rows, _ := db.Query(r.Context(), selectListed+end, args...)
	all, err := pgx.CollectRows(rows, scanRow)
	return web.NewList(l, all, func(m row) []any { return []any{m.PlacedAt, m.OrderID} }), err
}

func readMails(r *http.Request, db *pgxpool.Pool) (list web.List[listed], err error) {
	found, err := readRows(r, db, maxListed)
	list.Newer, list.Older = found.Newer, found.Older
	for _, m := range found.Items {
		list.Items = append(list.Items, m.listed)
	}
	return list, err
}

type mailList struct {
	web.List[row]
	State  string
	States []string
}

type overview struct {
	Server  string   // "" means not configured
	Limit   uint16   // 0: none
	Failure failure  // only in the process that sends
	Behind  []string // feeds that must be current before a mail is sent
	Counts  struct {
		All, Sent, Waiting, Pending, OverLimit, Failed, Skipped, Withdrawn, Uncertain int64
	}
	Mails mailList
}

func readOverview(r *http.Request, db *pgxpool.Pool, set *settings, f failure, behind []string) (o overview, err error) {
	o.Server, o.Limit, o.Failure, o.Behind = set.Server.String(), set.Limit, f, behind
	o.Mails.State, o.Mails.States = r.URL.Query().Get("state"), states
	if o.Mails.List, err = readRows(r, db, maxShown); err != nil {
		return o, err
	}
	n := &o.Counts
	return o, db.QueryRow(r.Context(), `
		select coalesce(sum(n), 0), coalesce(sum(n) filter (where value = 'sent'), 0), coalesce(sum(n) filter (where value = 'waiting'), 0),
		       coalesce(sum(n) filter (where value in ('sending', 'pending')), 0), coalesce(sum(n) filter (where value = 'failed'), 0),
		       coalesce(sum(n) filter (where value = 'skipped'), 0), coalesce(sum(n) filter (where value in ('cancelled', 'withdrawn')), 0), coalesce(sum(total), 0),
		       (select count(*) from mail where state = 'pending' and reason = '`+overLimit+`')
		  from (select value, rows as n, total from row_count where relation = 'mail') as counted`).
		Scan(&n.All, &n.Sent, &n.Waiting, &n.Pending, &n.Failed, &n.Skipped, &n.Withdrawn, &n.Uncertain, &n.OverLimit)
}

type shown struct {
	row
	Recipient, Name, Body *string // nil if not sent yet, or removed since
}

func readMail(ctx context.Context, db *pgxpool.Pool, orderID string) (m shown, err error) {
	none := web.Errorf(http.StatusNotFound, "There is no confirmation for such an order.")
	id, err := uuid.Parse(orderID)
	if err != nil {
		return m, none
	}
	rows, _ := db.Query(ctx, selectListed+` where m.order_id = $1`, id)
	if m.row, err = pgx.CollectExactlyOneRow(rows, scanRow); errors.Is(err, pgx.ErrNoRows) {
		return m, none
	} else if err != nil {
		return m, err
	}
	return m, db.QueryRow(ctx, `select recipient, recipient_name, body from mail where order_id = $1`, id).Scan(&m.Recipient, &m.Name, &m.Body)
}
