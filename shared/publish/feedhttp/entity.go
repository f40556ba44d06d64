package feedhttp

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"html/template"
	"maps"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/google/uuid"

	"github.com/edison-cars/data-feeds/shared/feed"
	"github.com/edison-cars/data-feeds/shared/web"
)

// maxVersions is the largest number of versions of an entity that are shown, the newest ones.
const maxVersions = 1000

// maxChanges is the most HTML that the page of an entity has of changes, in bytes.
const maxChanges = 8 << 20

var entityPage = web.Template(pages, "entity.html")

// An entityVersion is an entry in the list of an entity's versions. If its payload is erased it is shown as a
// tombstone, and if it was compacted as superseded, as on the feed.
type entityVersion struct {
	Position   int64           `json:"position"`
	Cursor     feed.Cursor     `json:"cursor"`
	Version    int64           `json:"version"`
	Updated    time.Time       `json:"updated"`
	Deleted    bool            `json:"deleted"`
	Erased     bool            `json:"erased,omitempty"`
	Superseded bool            `json:"superseded,omitempty"`
	Entity     json.RawMessage `json:"entity"`

	spoiled bool
}

// Kind returns a word for what the version did.
func (v *entityVersion) Kind() string {
	return kindOf(feed.Entry{Version: v.Version, Deleted: v.Deleted, Erased: v.Erased, Superseded: v.Superseded})
}

func kindOf(e feed.Entry) string {
	switch {
	case e.Erased:
		return "erased"
	case e.Deleted:
		return "deleted"
	case e.Superseded:
		return "superseded"
	case e.Version == 1:
		return "new"
	}
	return "changed"
}

// serveEntity answers with the versions of one entity, newest first.
func (s *Source) serveEntity(w http.ResponseWriter, r *http.Request, name, entity string) error {
	d, found := s.described.Load().find(name)
	id, err := uuid.Parse(entity)
	if !found || err != nil || id.String() != entity {
		return noEntity(s.PublicURL)
	}
	if err := s.cold.Check(r, 1); err != nil {
		return err
	}
	html := web.PrefersHTML(r)
	tag, control := "", noCache(s.Private || d.Personal)
	var body []byte // nil means that the client has it
	err = s.turns.take(r.Context(), web.ClientKey(r), func() error {
		list, err := s.versions(r.Context(), d, id)
		if err != nil {
			return fmt.Errorf("read entity %s of feed %s: %w", id, d.Name, err)
		}
		if len(list) == 0 {
			return noEntity(s.PublicURL)
		}
		tag = s.entityTag(d, list, html)
		if slices.ContainsFunc(list, func(v entityVersion) bool { return v.spoiled }) {
			tag, control = "", "no-store"
		}
		if tag == "" || !web.MatchesETag(r.Header.Values("If-None-Match"), tag, true) {
			body, err = s.entityBody(d, id, list, html)
		}
		return err
	})
	if err != nil {
		return err
	}
	w.Header().Set("Vary", "Accept")
	if tag != "" {
		w.Header().Set("ETag", tag)
	}
	w.Header().Set("Cache-Control", control)
	s.setAge(w.Header())
	switch {
	case body == nil:
		web.NotModified(w)
	case html:
		web.Send(w, r, http.StatusOK, web.HTMLType, body)
	default:
		web.Send(w, r, http.StatusOK, "application/json; charset=utf-8", body)
	}
	return nil
}

// versions returns the versions of an entity, newest first, or none if the feed has none.
func (s *Source) versions(ctx context.Context, d served, id uuid.UUID) ([]entityVersion, error) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), readTimeout)
	defer cancel()
	entries, err := s.log.Versions(ctx, d.inLog, id, maxVersions)
	entries = d.seen(entries)
	list := make([]entityVersion, len(entries))
	for i, e := range entries {
		list[i] = entityVersion{
			Position: e.Position, Cursor: e.Cursor, Version: e.Version, Updated: e.Updated, Deleted: e.Deleted, Erased: e.Erased, Superseded: e.Superseded,
			Entity: e.Entity, spoiled: spoiled(e),
		}
	}
	return list, err
}

// entityBody returns the versions as a page or as JSON.
func (s *Source) entityBody(d served, id uuid.UUID, list []entityVersion, html bool) ([]byte, error) {
	if html {
		title, view := s.showEntity(d, id, list)
		page := s.look()
		page.Title, page.Alternates, page.Data = title, s.discoveryOf(d), view
		return web.Execute(entityPage, page)
	}
	return web.EncodeJSON(list)
}

func noEntity(publicURL string) error {
	return noFeed("No feed of this name here has an entry of this entity.", publicURL)
}

func noFeed(detail, publicURL string) error {
	feeds := publicURL + "/feeds"
	p := web.Errorf(http.StatusNotFound, "%s %s lists the feeds.", detail, feeds)
	p.Links = []string{feeds}
	return p
}

// entityTag returns the entity tag. It changes with a new version, an erasure, a compaction, another history, and the
// rendering.
func (s *Source) entityTag(d served, list []entityVersion, html bool) string {
	kept := make([]byte, len(list)) // of each version, whether it is erased or superseded
	for i, v := range list {
		switch {
		case v.Erased:
			kept[i] = 1
		case v.Superseded:
			kept[i] = 2
		}
	}
	by := []any{html, s.described.Load().rendering[d.Name]}
	if html {
		by = append(by, s.Brand, s.Name, s.Nav, s.Trace, s.PublicURL, d.Title)
	}
	sum := sha256.Sum256(fmt.Appendf(nil, "%q %s %x", by, list[0].Cursor, kept))
	return `"` + base64.RawURLEncoding.EncodeToString(sum[:15]) + `"`
}

// A shownVersion is a version on the page.
type shownVersion struct {
	*entityVersion
	Words    string
	Compared bool // with the version before it, which is there and says something
	Before   int64
	Changes  []change
	Partly   bool // compared: there is too much of it
}

func (s *Source) showEntity(d served, id uuid.UUID, list []entityVersion) (title string, view any) {
	data := struct {
		ID                                uuid.UUID
		Title, URL, Feed, FeedTitle, Self string
		Trace                             string
		Versions                          []shownVersion
		Newest                            int64
		Cut, Partial                      bool
	}{
		ID: id, Trace: s.trace(d, id), Title: "Deleted", Feed: s.PublicURL + "/feeds/" + d.Name, FeedTitle: d.Title,
		Self: s.versionsURL(d.Name, id), Newest: list[0].Version, Partial: d.Partial, Cut: list[len(list)-1].Version > 1,
	}
	if list[0].Erased {
		data.Title = "Erased"
	}
	document := feed.Document{Description: d.Description}
	room := maxChanges
	for i := range list {
		v := shownVersion{entityVersion: &list[i]}
		if !v.Deleted && !v.Superseded {
			words := document.Words(feed.Entry{Position: v.Position, ID: id, Version: v.Version, Updated: v.Updated, Entity: v.Entity})
			v.Words = words.Title
			if i == 0 {
				data.Title, data.URL = words.Title, words.URL
			}
			if i+1 < len(list) && !list[i+1].Deleted && !list[i+1].Superseded {
				v.Compared, v.Before = true, list[i+1].Version
				v.Changes, v.Partly = cut(list[i+1].Entity, v.Entity, &room)
			}
		}
		data.Versions = append(data.Versions, v)
	}
	return data.Title, data
}

func (s *Source) versionsURL(name string, id uuid.UUID) string {
	return s.PublicURL + "/feeds/" + name + "/" + id.String()
}

// discovery returns links by which feed readers find the feeds.
func (s *Source) discovery() []web.Link { return s.alternatesOf(s.described.Load().feeds) }

// discoveryOf returns the links on a page of a feed, or those on one of a view, which lead to that view alone.
func (s *Source) discoveryOf(d served) []web.Link {
	if d.part != nil {
		return s.alternatesOf([]feed.Description{d.Description})
	}
	return s.discovery()
}

func (s *Source) alternatesOf(feeds []feed.Description) (links []web.Link) {
	for _, d := range feeds {
		for _, x := range suffixes {
			if x.mediaType != feed.TypeHTML {
				links = append(links, web.Link{Text: d.Title + " as " + x.title, URL: s.PublicURL + "/feeds/" + d.Name + x.suffix, Type: x.mediaType})
			}
		}
	}
	return links
}

// A change is a field of an entity whose value, as JSON, differs from the version before. An absent field is "".
type change struct{ Field, Was, Is string }

// cut returns those of the changes for which there is room, and takes it.
func cut(before, after json.RawMessage, room *int) (list []change, partly bool) {
	if *room <= 0 {
		return nil, true
	}
	list, partly = changes(before, after)
	for i, c := range list {
		for _, text := range []string{c.Field, c.Was, c.Is} {
			*room -= len(template.HTMLEscapeString(text))
		}
		if *room < 0 {
			return list[:i], true
		}
	}
	return list, partly
}

// changes compares two versions field by field: first the fields of the later one, then those that it lacks. It reports
// whether it compares only their beginnings.
func changes(before, after json.RawMessage) (list []change, partly bool) {
	was, partlyWas := fieldsOf(before)
	is, partlyIs := fieldsOf(after)
	old := make(map[string]string, len(was))
	for _, f := range was {
		old[f.Field] = f.Is
	}
	for _, f := range is {
		if old[f.Field] != f.Is {
			list = append(list, change{f.Field, old[f.Field], f.Is})
		}
		delete(old, f.Field)
	}
	for _, f := range was {
		if _, gone := old[f.Field]; gone {
			list = append(list, change{f.Field, f.Is, ""})
		}
	}
	return list, partlyWas || partlyIs
}

// fieldsOf returns the leaves of a JSON text, such as lines[0].quantity, sorted by names and indexes. It returns only
// the first ones, and reports it, if their names, which repeat those of what they are in, would be much longer than the
// text.
func fieldsOf(text json.RawMessage) (leaves []change, partly bool) {
	dec := json.NewDecoder(bytes.NewReader(text))
	dec.UseNumber()
	var v any
	if dec.Decode(&v) != nil {
		return []change{{"(not JSON)", "", string(text)}}, false
	}
	room := 4*len(text) + 1000 // bytes
	var walk func(field string, v any)
	walk = func(field string, v any) {
		if room -= len(field); room < 0 {
			partly = true
			return
		}
		switch v := v.(type) {
		case map[string]any:
			for _, name := range slices.Sorted(maps.Keys(v)) {
				if partly {
					return
				}
				walk(strings.TrimPrefix(field+"."+name, "."), v[name])
			}
			if len(v) > 0 {
				return
			}
		case []any:
			for i, item := range v {
				if partly {
					return
				}
				walk(fmt.Sprintf("%s[%d]", field, i), item)
			}
			if len(v) > 0 {
				return
			}
		}
		var b bytes.Buffer
		enc := json.NewEncoder(&b)
		enc.SetEscapeHTML(false)
		_ = enc.Encode(v) // v was decoded from JSON
		leaves = append(leaves, change{field, "", strings.TrimSpace(b.String())})
	}
	walk("", v)
	return leaves, partly
}

// serveNewer redirects from the page before=CURSOR of the view for people to the page after it. That page cannot name
// the next one itself, since its bytes do not change with an append.
func (s *Source) serveNewer(w http.ResponseWriter, r *http.Request, name string) error {
	req, err := s.parse(name, key{described: s.described.Load(), path: "/feeds/" + name, query: r.URL.RawQuery})
	if err == nil {
		err = s.cold.Check(r, 1)
	}
	if err != nil {
		return err
	}
	full := int64(feed.PageSize)
	end := (max(req.cursor.Position-1, 0)/full + 1) * full // the end of the page that has the cursor's entry
	ctx, cancel := context.WithTimeout(context.WithoutCancel(r.Context()), readTimeout)
	defer cancel()
	at, err := s.log.Locate(ctx, req.inLog, feed.Cursor{}, full, end+1)
	if err != nil {
		return fmt.Errorf("find the page after %s of feed %s: %w", req.cursor, req.Name, err)
	}
	to := s.at(req, feed.Newest, feed.Cursor{})
	newest, _ := (selection{view: feed.Newest}).bounds(at.Head.Position)
	if next, known := at.Places[end+1]; req.view == feed.Older && end <= newest && known {
		to = s.at(req, feed.Older, feed.At(end+1, next.Digest))
	}
	w.Header().Set("Cache-Control", "no-cache")
	http.Redirect(w, r, to, http.StatusTemporaryRedirect)
	return nil
}
