package subscribehttp

import (
	"net/http"
	"net/url"
	"strconv"
	"strings"

	"github.com/gin-gonic/gin"
	"github.com/google/uuid"

	"github.com/edison-cars/data-feeds/shared/subscribe"
	"github.com/edison-cars/data-feeds/shared/web"
)

// pageLength is how many rejected entries a page holds.
const pageLength = 200

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

func (p *Pages) rejected(c *gin.Context, s *subscribe.Subscription) error {
	if web.PrefersHTML(c) {
		return p.showRejected(c, s, nil)
	}
	list, next, err := rejectedPage(c, s)
	if err != nil {
		return err
	}
	if next != "" {
		c.Header("Link", "<"+next+`>; rel="next"`)
	}
	answer(c, http.StatusOK, append([]subscribe.RejectedEntry{}, list...))
	return nil
}

// rejectedPage returns the entries that the request asks for, and the address of those after them.
func rejectedPage(c *gin.Context, s *subscribe.Subscription) (list []subscribe.RejectedEntry, next string, err error) {
	after, err := parseMark(c.Query("after"))
	if err != nil {
		return nil, "", err
	}
	if list, err = s.Rejected(c.Request.Context(), after.position, after.id, pageLength+1); err != nil {
		return nil, "", err
	}
	if len(list) > pageLength {
		list = list[:pageLength]
		last := list[pageLength-1]
		next = pathOf(s.Status().Feed) + "/rejected?" + url.Values{"after": {mark{last.Position, last.EntityID}.String()}}.Encode()
	}
	return list, next, nil
}

// retried is how many entries a retry applied, and left rejected.
type retried struct {
	Applied  int `json:"applied"`
	Rejected int `json:"rejected"`
}

func (p *Pages) retry(c *gin.Context, s *subscribe.Subscription) error {
	id, err := uuid.Parse(c.Param("id"))
	if err != nil {
		return errNotRejected
	}
	if err := s.Retry(c.Request.Context(), id); err != nil {
		return err
	}
	return retried{Applied: 1}.answer(c, s)
}

func (p *Pages) retryAll(c *gin.Context, s *subscribe.Subscription) error {
	applied, refused, err := s.RetryAll(c.Request.Context())
	if err != nil {
		return err
	}
	return retried{applied, refused}.answer(c, s)
}

func (n retried) answer(c *gin.Context, s *subscribe.Subscription) error {
	if web.PrefersHTML(c) {
		seeOther(c, s, "/rejected", url.Values{
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

func (p *Pages) drop(c *gin.Context, s *subscribe.Subscription) error {
	id, err := uuid.Parse(c.Param("id"))
	if err != nil {
		return errNotRejected
	}
	if err := s.Drop(c.Request.Context(), id); err != nil {
		return err
	}
	if web.PrefersHTML(c) {
		seeOther(c, s, "/rejected", url.Values{"dropped": {"1"}})
		return nil
	}
	c.Status(http.StatusNoContent)
	return nil
}

// A rejectedView is what the page of rejected entries shows.
type rejectedView struct {
	Subscription Status
	Entries      []subscribe.RejectedEntry
	Next         string // address of the page after this one; empty: there is none
	Notice       string
	Problem      *web.Problem
}

func (p *Pages) showRejected(c *gin.Context, s *subscribe.Subscription, problem *web.Problem) error {
	q := rejectedView{Subscription: Status{s.Status()}, Problem: problem, Notice: notice(c.Request.URL.Query())}
	var err error
	if q.Entries, q.Next, err = rejectedPage(c, s); err != nil {
		return err
	}
	web.Render(c, statusOf(problem), rejectedEntriesPage, p.Layout(c, "Rejected entries of "+q.Subscription.Feed, []subscribe.Status{q.Subscription.Status}, q))
	return nil
}
