package subscribehttp

import (
	"cmp"
	"errors"
	"net/http"
	"net/url"
	"strconv"
	"strings"

	"github.com/google/uuid"

	"github.com/edison-cars/data-feeds/shared/subscribe"
	"github.com/edison-cars/data-feeds/shared/web"
)

// pageLength is how many rejected entries a page holds at most.
const pageLength = 200

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

func (p *Pages) rejected(w http.ResponseWriter, r *http.Request, s *subscribe.Subscription) error {
	if web.PrefersHTML(r) {
		return p.showRejected(w, r, s, nil)
	}
	list, next, err := rejectedPage(r, s)
	if err != nil {
		return err
	}
	if next != "" {
		w.Header().Set("Link", "<"+next+`>; rel="next"`)
	}
	answer(w, r, http.StatusOK, append([]subscribe.RejectedEntry{}, list...))
	return nil
}

// rejectedPage returns the entries that the request asks for, and the address of those after them.
func rejectedPage(r *http.Request, s *subscribe.Subscription) (list []subscribe.RejectedEntry, next string, err error) {
	id, err := web.QueryUUID(r.URL.Query(), "id")
	if err != nil {
		return nil, "", err
	}
	if id != nil {
		list, err = s.RejectedEntity(r.Context(), *id)
		return list, "", err
	}
	after, err := parseMark(r.URL.Query().Get("after"))
	if err != nil {
		return nil, "", err
	}
	if list, err = s.Rejected(r.Context(), after.position, after.id, pageLength); err != nil || len(list) == 0 {
		return nil, "", err
	}
	last := list[len(list)-1]
	more, err := s.Rejected(r.Context(), last.Position, last.EntityID, 1)
	if err != nil {
		return nil, "", err
	}
	if len(more) > 0 {
		next = pathOf(s.Status().Feed) + "/rejected?" + url.Values{"after": {mark{last.Position, last.EntityID}.String()}}.Encode()
	}
	return list, next, nil
}

// retried is how many entries a retry applied, and left rejected.
type retried struct {
	Applied  int `json:"applied"`
	Rejected int `json:"rejected"`
}

func (p *Pages) retry(w http.ResponseWriter, r *http.Request, s *subscribe.Subscription) error {
	id, err := uuid.Parse(r.PathValue("id"))
	if err != nil {
		return errNotRejected
	}
	applied, refused, err := s.Retry(r.Context(), id)
	if err != nil {
		return err
	}
	return retried{applied, refused}.answer(w, r, s)
}

func (p *Pages) retryAll(w http.ResponseWriter, r *http.Request, s *subscribe.Subscription) error {
	applied, refused, err := s.RetryAll(r.Context())
	if err != nil {
		return err
	}
	return retried{applied, refused}.answer(w, r, s)
}

func (n retried) answer(w http.ResponseWriter, r *http.Request, s *subscribe.Subscription) error {
	if web.PrefersHTML(r) {
		seeOther(w, r, s, "/rejected", url.Values{
			"applied": {strconv.Itoa(n.Applied)}, "rejected": {strconv.Itoa(n.Rejected)},
		})
		return nil
	}
	answer(w, r, http.StatusOK, n)
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

func (p *Pages) drop(w http.ResponseWriter, r *http.Request, s *subscribe.Subscription) error {
	id, err := uuid.Parse(r.PathValue("id"))
	if err != nil {
		return errNotRejected
	}
	var version int64 // 0 means all
	if text := r.FormValue("version"); text != "" {
		if version, err = strconv.ParseInt(text, 10, 64); err != nil || version < 1 {
			return web.Errorf(http.StatusBadRequest, "version is a whole number from 1 on, or is left out: then all rejected versions of the entity are dropped.")
		}
	}
	if err := s.Drop(r.Context(), id, version); err != nil {
		return err
	}
	if web.PrefersHTML(r) {
		seeOther(w, r, s, "/rejected", url.Values{"dropped": {"1"}})
		return nil
	}
	w.WriteHeader(http.StatusNoContent)
	return nil
}

type rejectedView struct {
	Subscription Status
	Entries      []subscribe.RejectedEntry
	Next         string // address of the page after this one; empty: there is none
	ID           string // that was searched for; empty: none
	Notice       string
	Problem      *web.Problem
}

func (p *Pages) showRejected(w http.ResponseWriter, r *http.Request, s *subscribe.Subscription, problem *web.Problem) error {
	q := rejectedView{Subscription: Status{s.Status()}, Problem: problem, Notice: notice(r.URL.Query()), ID: strings.TrimSpace(r.URL.Query().Get("id"))}
	var err error
	q.Entries, q.Next, err = rejectedPage(r, s)
	if wrong, ok := errors.AsType[*web.Problem](err); ok { // stands beside the form
		q.Problem = cmp.Or(problem, wrong)
	} else if err != nil {
		return err
	}
	return web.Render(w, r, statusOf(q.Problem), rejectedEntriesPage,
		p.Layout(r, "Rejected entries of "+q.Subscription.Feed, []subscribe.Status{q.Subscription.Status}, q))
}
