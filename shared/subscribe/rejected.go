package subscribe

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/gin-gonic/gin"
	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/edison-cars/data-feeds/shared/feed"
	"github.com/edison-cars/data-feeds/shared/web"
	"github.com/edison-cars/data-feeds/shared/webserver"
)

// A rejectedEntry is one that could not be applied while its neighbours were: the newest such version of its entity.
type rejectedEntry struct {
	EntityID   uuid.UUID       `json:"entity_id"`
	Version    int64           `json:"version"`
	Position   int64           `json:"position"` // 0 if it was missing at a resync
	Updated    *time.Time      `json:"updated"`  // null if not known, after a resync, or before the year 2
	Deleted    bool            `json:"deleted"`
	Entity     json.RawMessage `json:"entity"` // null if deleted
	Reason     string          `json:"reason"`
	RejectedAt time.Time       `json:"rejected_at"` // last
	Attempts   int             `json:"attempts"`
}

// rejectedPage is how many entries a page of them holds.
const rejectedPage = 200

// rejectedEntries returns at most limit of them, in the order of the feed, after the given one.
func (q *quarantine) rejectedEntries(ctx context.Context, after mark, limit int) ([]rejectedEntry, error) {
	ctx, cancel := context.WithTimeout(ctx, web.RequestTimeout)
	defer cancel()
	rows, err := q.pool.Query(ctx, `
		select entity_id, version, position, updated, entity, reason, rejected_at, attempts from rejected_entry
		 where service = $1 and feed = $2 and (position, entity_id) > ($3, $4) order by position, entity_id limit $5`,
		q.service, q.Name, after.position, after.id, limit)
	if err != nil {
		return nil, err
	}
	return pgx.CollectRows(rows, func(row pgx.CollectableRow) (e rejectedEntry, err error) {
		var updated time.Time
		var entity []byte
		err = row.Scan(&e.EntityID, &e.Version, &e.Position, &updated, &entity, &e.Reason, &e.RejectedAt, &e.Attempts)
		if updated = updated.UTC(); updated.Year() > 1 {
			e.Updated = &updated
		}
		e.Entity, e.Deleted, e.RejectedAt = entity, entity == nil, e.RejectedAt.UTC().Truncate(time.Millisecond)
		return e, err
	})
}

// A mark is an entry's place among the rejected ones.
type mark struct {
	position int64
	id       uuid.UUID
}

func (m mark) String() string { return strconv.FormatInt(m.position, 10) + "," + m.id.String() }

func parseMark(text string) (m mark, err error) {
	if text == "" {
		return mark{position: -1}, nil
	}
	position, id, _ := strings.Cut(text, ",")
	m.position, err = strconv.ParseInt(position, 10, 64)
	if err == nil {
		m.id, err = uuid.Parse(id)
	}
	if err != nil {
		return m, web.Errorf(http.StatusBadRequest, "The parameter after takes what the link to the next page says.")
	}
	return m, nil
}

// errNotRejected: there is no such entry.
var errNotRejected = web.Errorf(http.StatusNotFound, "No version of this entity is rejected.")

// errApplying: a transaction that takes longer than a moment applies entries of the feed.
var errApplying = &web.Problem{
	Status: http.StatusServiceUnavailable,
	Detail: "Entries of this feed are being applied. Try again later; a resync tries all rejected entries again by itself.",
	Header: http.Header{"Retry-After": {"5"}},
}

const lockNotAvailable = "55P03"

// retry applies a rejected entry again: a later good version would have cleared it, so it still is newer than the copy's row. What
// is still wrong with it is a problem (422).
func (q *quarantine) retry(ctx context.Context, id uuid.UUID) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), web.RequestTimeout)
	defer cancel()
	var reason string
	err := q.inTx(ctx, func(first *pgx.Batch) {
		// A page that is being applied has this row, too, for a moment; the end of a resync may have it for long.
		first.Queue(`set local lock_timeout = '1s'`)
		first.Queue(`select from subscription where service = $1 and feed = $2 for no key update`, q.service, q.Name)
		first.Queue(`set local lock_timeout to default`)
	}, func(tx pgx.Tx) error {
		reason = ""
		e := feed.Entry{ID: id}
		var entity []byte
		err := tx.QueryRow(ctx, `
			select version, position, updated, entity from rejected_entry
			 where service = $1 and feed = $2 and entity_id = $3`, q.service, q.Name, id).
			Scan(&e.Version, &e.Position, &e.Updated, &entity)
		if errors.Is(err, pgx.ErrNoRows) {
			return errNotRejected
		}
		if err != nil {
			return err
		}
		e.Entity, e.Deleted = entity, entity == nil
		if erased, err := q.erasedOf(ctx, tx, []uuid.UUID{id}); err != nil {
			return err
		} else if erased[id] {
			eraseEntry(&e)
		}
		rejected, err := q.applyCarefully(ctx, tx, []feed.Entry{e}, web.RequestTimeout/2)
		switch {
		case err != nil:
			return err
		case len(rejected) > 0:
			reason = whole(rejected[0].reason)
			return q.reject(ctx, tx, rejected)
		default:
			return q.clear(ctx, tx, id)
		}
	})
	pgErr, _ := errors.AsType[*pgconn.PgError](err)
	switch {
	case errors.Is(err, errNotRejected):
		return err
	case pgErr != nil && pgErr.Code == lockNotAvailable:
		return errApplying
	case err != nil:
		return &pageError{what: fmt.Sprintf("apply the rejected entry of %s again", id), err: err}
	case reason != "":
		return web.Errorf(http.StatusUnprocessableEntity, "It was refused again: %s.", reason)
	}
	return nil
}

func (s *Site) rejected(c *gin.Context, p *poller) error {
	if web.PrefersHTML(c.Request) {
		return s.showRejected(c, p, nil)
	}
	list, next, err := p.rejectedPage(c)
	if err != nil {
		return err
	}
	if next != "" {
		c.Header("Link", "<"+next+`>; rel="next"`)
	}
	answer(c, http.StatusOK, append([]rejectedEntry{}, list...))
	return nil
}

// rejectedPage returns the entries that the request asks for, and the address of those after them.
func (p *poller) rejectedPage(c *gin.Context) (list []rejectedEntry, next string, err error) {
	after, err := parseMark(c.Query("after"))
	if err != nil {
		return nil, "", err
	}
	if list, err = p.quarantine.rejectedEntries(c.Request.Context(), after, rejectedPage+1); err != nil {
		return nil, "", fmt.Errorf("read the rejected entries of %s: %w", p.Name, err)
	}
	if len(list) > rejectedPage {
		list = list[:rejectedPage]
		last := list[rejectedPage-1]
		next = pathOf(p.Name) + "/rejected?" + url.Values{"after": {mark{last.Position, last.EntityID}.String()}}.Encode()
	}
	return list, next, nil
}

// retried is how many entries a retry applied, and left rejected.
type retried struct {
	Applied  int `json:"applied"`
	Rejected int `json:"rejected"`
}

func (s *Site) retry(c *gin.Context, p *poller) error {
	id, err := uuid.Parse(c.Param("id"))
	if err != nil {
		return errNotRejected
	}
	err = p.quarantine.retry(c.Request.Context(), id)
	if err := errors.Join(err, p.row.refresh(c.Request.Context())); err != nil {
		return err
	}
	return retried{Applied: 1}.answer(c, p)
}

// retryAll applies all again, each in a transaction of its own, in the order of the feed.
func (s *Site) retryAll(c *gin.Context, p *poller) error {
	ctx, n := c.Request.Context(), retried{}
	for at := (mark{position: -1}); ; {
		list, err := p.quarantine.rejectedEntries(ctx, at, 1)
		if err != nil {
			return fmt.Errorf("read the rejected entries of %s: %w", p.Name, err)
		}
		if len(list) == 0 {
			break
		}
		at = mark{list[0].Position, list[0].EntityID}
		err = p.quarantine.retry(ctx, list[0].EntityID)
		_, refused := errors.AsType[*web.Problem](err)
		switch {
		case errors.Is(err, errNotRejected): // meanwhile
		case errors.Is(err, errApplying):
			return err
		case refused:
			n.Rejected++
		case err != nil:
			return err
		default:
			n.Applied++
		}
	}
	if err := p.row.refresh(ctx); err != nil {
		return err
	}
	return n.answer(c, p)
}

func (n retried) answer(c *gin.Context, p *poller) error {
	if web.PrefersHTML(c.Request) {
		seeOther(c, p, "/rejected", url.Values{
			"applied": {strconv.Itoa(n.Applied)}, "rejected": {strconv.Itoa(n.Rejected)},
		})
		return nil
	}
	answer(c, http.StatusOK, n)
	return nil
}

// notice says what was done, as answer has put it into the query; empty: nothing.
func notice(query url.Values) string {
	if query.Has("dropped") {
		return "Dropped. The next version of the entity will be applied."
	}
	var parts []string
	for _, k := range []struct{ name, text string }{
		{"applied", "applied"}, {"rejected", "refused again"},
	} {
		if n, err := strconv.Atoi(query.Get(k.name)); err == nil && n > 0 {
			parts = append(parts, entries(n)+" "+k.text)
		}
	}
	if parts == nil {
		return ""
	}
	return "Tried again: " + strings.Join(parts, "; ") + "."
}

func (s *Site) drop(c *gin.Context, p *poller) error {
	id, err := uuid.Parse(c.Param("id"))
	if err != nil {
		return errNotRejected
	}
	tag, err := p.pool.Exec(c.Request.Context(), `
		delete from rejected_entry where service = $1 and feed = $2 and entity_id = $3`, p.service, p.Name, id)
	if err != nil {
		return fmt.Errorf("drop the rejected entry of %s: %w", id, err)
	}
	if tag.RowsAffected() == 0 {
		return errNotRejected
	}
	if err := p.row.refresh(c.Request.Context()); err != nil {
		return err
	}
	if web.PrefersHTML(c.Request) {
		seeOther(c, p, "/rejected", url.Values{"dropped": {"1"}})
		return nil
	}
	c.Status(http.StatusNoContent)
	return nil
}

// A rejectedView is what the page of rejected entries shows.
type rejectedView struct {
	Subscription Subscription
	Entries      []rejectedEntry
	Next         string // address of the page after this one; empty: there is none
	Notice       string
	Problem      *web.Problem
}

func (s *Site) showRejected(c *gin.Context, p *poller, problem *web.Problem) error {
	q := rejectedView{Subscription: p.status(time.Now().UTC()), Problem: problem, Notice: notice(c.Request.URL.Query())}
	var err error
	if q.Entries, q.Next, err = p.rejectedPage(c); err != nil {
		return err
	}
	webserver.Render(c, statusOf(problem), rejectedEntriesPage, s.layout(c, "Rejected entries of "+p.Name, []Subscription{q.Subscription}, q))
	return nil
}
