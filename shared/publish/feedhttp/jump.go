package feedhttp

import (
	"context"
	"errors"
	"fmt"
	"math"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/google/uuid"

	"github.com/edison-cars/data-feeds/shared/feed"
	"github.com/edison-cars/data-feeds/shared/publish"
	"github.com/edison-cars/data-feeds/shared/web"
)

const (
	dayFormat = time.DateOnly // in UTC
	// dayFanout is the number of positions that one query for a day looks up.
	dayFanout = 64
	// jumpCost is what a jump counts for, in queries: those of a day in a feed of ten million entries.
	jumpCost = 5
)

var jumpPage = web.Template(pages, "jump.html", "jump_form.html")

// A jumpForm is the form that asks for a place.
type jumpForm struct {
	Jump  string // its path
	To    string // what was asked for before
	Wrong string // why that leads nowhere
}

// serveJump redirects from to=PLACE, where PLACE is a position, a day or the id of an entity, to the page that has it. If
// there is none, a browser gets the form again.
func (s *Source) serveJump(w http.ResponseWriter, r *http.Request, name string) error {
	req, err := s.parse(name, key{described: s.described.Load(), path: "/feeds/" + name})
	if err != nil {
		return err
	}
	if req.mediaType == feed.TypeCloudEvents { // they have no pages of older entries
		return web.NothingHere()
	}
	query, err := url.ParseQuery(r.URL.RawQuery)
	if err != nil || len(query["to"]) != 1 {
		return web.Errorf(http.StatusBadRequest, "The parameter to takes one position, one day or one id: /feeds/%s/jump?to=1", name)
	}
	at, err := s.jump(r, req, query.Get("to"))
	if p, ok := errors.AsType[*web.Problem](err); ok && (p.Status == http.StatusNotFound || p.Status == http.StatusBadRequest) && web.PrefersHTML(r) {
		page := s.lookOf(req.Name)
		page.Title, page.Data = req.Title, struct {
			jumpForm
			Home, Title string
		}{jumpForm{s.pathOf(req) + "/jump", query.Get("to"), p.Detail}, s.PublicURL, req.Title}
		w.Header().Set("Cache-Control", "no-store")
		return web.Render(w, r, p.Status, jumpPage, page)
	}
	if err != nil {
		return err
	}
	w.Header().Set("Cache-Control", noCache(s.Private || req.Personal))
	http.Redirect(w, r, at, http.StatusSeeOther)
	return nil
}

// jump returns the path of the page that has the place.
func (s *Source) jump(r *http.Request, req *request, to string) (string, error) {
	to = strings.TrimSpace(to)
	position, notPosition := strconv.ParseUint(strings.ReplaceAll(to, ",", ""), 10, 64) // the page writes 12,345
	day, notDay := time.Parse(dayFormat, to)
	id, notID := uuid.Parse(to)
	if err := s.cold.Check(r, jumpCost); err != nil {
		return "", err
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(r.Context()), readTimeout)
	defer cancel()
	switch {
	case notPosition == nil:
		return s.pageOf(ctx, req, int64(min(position, math.MaxInt64)))
	case notDay == nil:
		position, err := s.firstOf(ctx, req, day)
		if err != nil {
			return "", err
		}
		return s.pageOf(ctx, req, position)
	case notID == nil:
		return s.pageOfEntity(ctx, req, id)
	}
	return "", web.Errorf(http.StatusBadRequest, "This is no position such as 4200, no day such as 2026-11-30, and no id of an entity, which is a UUID. The feed: %s", req.path)
}

// pageOf returns the path of the page that has the entry at the position, and goes on having it: the one of older
// entries, or the replay of the last hundred if nothing is after that.
func (s *Source) pageOf(ctx context.Context, r *request, position int64) (string, error) {
	full := int64(feed.PageSize)
	from := max(position-1, 0) / full * full
	after := min(from, math.MaxInt64-full-1) + full + 1 // the first entry of the next page
	at, err := s.locatePlaces(ctx, r, from, after)
	switch {
	case err != nil:
		return "", err
	case at.Head.Position == 0:
		return "", s.nothing(r, "Nothing has been published yet.")
	case position < 1 || position > at.Head.Position:
		return "", s.nothing(r, "There is no entry at position %d: the positions of this feed are 1 to %d.", position, at.Head.Position)
	}
	page := *r
	if next, known := at.Places[after]; known {
		page.view, page.cursor = feed.Older, feed.At(after, next.Digest)
	} else {
		page.view = feed.Replay
		if from > 0 {
			page.cursor = feed.At(from, at.Places[from].Digest)
		}
	}
	return s.pathOf(&page) + "#entry-" + strconv.FormatInt(position, 10), nil
}

// pathOf returns the URL of the request without the origin: a form may only lead to the one that it came from.
func (s *Source) pathOf(r *request) string { return strings.TrimPrefix(s.url(r), s.PublicURL) }

// firstOf returns the first position of a day. It bisects the positions by the times of their entries. Those of
// different entities may stand in another order than their positions, by as much as the clocks of writers differ and
// transactions last: then it returns one place at which the feed passes from before the day to the day or later.
func (s *Source) firstOf(ctx context.Context, r *request, day time.Time) (int64, error) {
	at, err := s.locatePlaces(ctx, r, 1)
	if err != nil {
		return 0, err
	}
	var before, later publish.Place // the entries at low and at high
	low, high := int64(0), at.Head.Position+1
	for high-low > 1 {
		step := (high-low-1)/dayFanout + 1
		var positions []int64
		for p := low + step; p < high; p += step {
			positions = append(positions, p)
		}
		if at, err = s.locatePlaces(ctx, r, positions...); err != nil {
			return 0, err
		}
		for _, p := range positions {
			place, known := at.Places[p]
			if !known {
				return 0, publish.ErrChanged
			}
			if !place.Updated.Before(day) {
				high, later = p, place
				break
			}
			low, before = p, place
		}
	}
	reached, passed := later != (publish.Place{}), later.Updated.Sub(day) >= 24*time.Hour
	date := func(t time.Time) string { return t.Format(dayFormat) }
	switch {
	case reached && !passed:
		return high, nil
	case low == 0 && !reached:
		return 0, s.nothing(r, "Nothing has been published yet.")
	case low == 0:
		return 0, s.nothing(r, "No entry is of %s (UTC): the first one is of %s.", date(day), date(later.Updated))
	case !reached:
		return 0, s.nothing(r, "No entry is of %s (UTC): the last one, %d, is of %s.", date(day), low, date(before.Updated))
	}
	return 0, s.nothing(r, "No entry is of %s (UTC): entry %d is of %s, and the next one is of %s. See %s/jump?to=%d.", date(day), low, date(before.Updated), date(later.Updated), r.path, high)
}

// pageOfEntity returns the path of the versions of an entity.
func (s *Source) pageOfEntity(ctx context.Context, r *request, id uuid.UUID) (string, error) {
	versions, err := s.log.Versions(ctx, r.inLog, id, 1)
	switch {
	case err != nil:
		return "", fmt.Errorf("find entity %s of feed %s: %w", id, r.Name, err)
	case len(versions) == 0:
		return "", s.nothing(r, "This feed has no entity with the id %s.", id)
	}
	return strings.TrimPrefix(s.versionsURL(r.Name, id), s.PublicURL), nil
}

func (s *Source) locatePlaces(ctx context.Context, r *request, positions ...int64) (*publish.Location, error) {
	at, err := s.log.LocateAtPrimary(ctx, r.inLog, feed.Cursor{}, feed.PageSize, positions...)
	if err != nil {
		return nil, fmt.Errorf("find positions %v of feed %s: %w", positions, r.Name, err)
	}
	return at, nil
}

func (s *Source) nothing(r *request, format string, args ...any) error {
	return web.Errorf(http.StatusNotFound, format+" The feed: %s", append(args, r.path)...)
}
