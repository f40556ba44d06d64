package feedhttp

import (
	"crypto/sha256"
	"encoding/base64"
	"fmt"
	"html/template"
	"net/http"
	"net/url"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"github.com/google/uuid"

	"github.com/edison-cars/data-feeds/shared/feed"
	"github.com/edison-cars/data-feeds/shared/publish"
	"github.com/edison-cars/data-feeds/shared/web"
)

// url returns the absolute URL of the request.
func (s *Source) url(r *request) string {
	query := ""
	add := func(name, value string) {
		separator := "&"
		if query == "" {
			separator = "?"
		}
		query += separator + name + "=" + url.QueryEscape(value)
	}
	switch r.view {
	case feed.Older:
		add("before", r.cursor.String())
	case feed.Replay:
		add(r.after(), r.cursor.String())
	case feed.Snapshot:
		add("snapshot", r.cursor.String())
		if r.from != uuid.Nil {
			add("from", r.from.String())
		}
	}
	if r.view == feed.Replay || r.view == feed.Snapshot || r.view == feed.Newest && r.few {
		add("limit", strconv.FormatInt(r.limit, 10))
	}
	if !r.history.IsStart() {
		add("history", r.history.String())
	}
	return s.PublicURL + r.path + query
}

// at returns the URL of the same feed in the same format with another view and cursor.
func (s *Source) at(r *request, v feed.View, cursor feed.Cursor) string {
	other := *r
	other.view, other.cursor = v, cursor
	return s.url(&other)
}

// alternates returns links to the same selection in the other formats.
func (s *Source) alternates(r *request) (links []feed.Link) {
	for _, x := range suffixes {
		if x.mediaType != r.mediaType && x.mediaType != feed.TypeCloudEvents {
			other := *r
			other.mediaType = x.mediaType
			other.path = "/feeds/" + r.Name + x.suffix
			links = append(links, feed.Link{Rel: "alternate", Href: s.url(&other), Type: x.mediaType})
		}
	}
	if r.Schema != nil && r.mediaType != feed.TypeCloudEvents {
		links = append(links, feed.Link{Rel: "describedby", Href: s.schemaURL(r.Name), Type: feed.TypeSchema, ETag: schemaTag(r.Schema)})
	}
	return links
}

// document returns the document of a span that was read, with its links.
func (s *Source) document(r *request, sp *span) *feed.Document {
	d := &feed.Document{
		Description: r.Description, Author: s.Author, Home: s.PublicURL, Self: s.url(r), Next: s.at(r, feed.Replay, sp.end),
		View: r.view, Links: s.alternates(r), Archive: sp.archive,
		Page: feed.Page{
			Entries: r.seen(sp.entries), Cursor: sp.end, Sealed: sp.sealed, UpToDate: r.view != feed.Older && sp.to == sp.head.Position, Head: sp.head.Cursor(),
			Compacted: sp.head.Compaction.UpTo,
		},
	}
	link := func(rel, href string) { d.Links = append(d.Links, feed.Link{Rel: rel, Href: href, Type: r.mediaType}) }
	if r.mediaType == feed.TypeCloudEvents {
		link("next", d.Next)
		return d
	}
	link("current", s.at(r, feed.Newest, feed.Cursor{}))
	switch {
	case d.NewestFirst():
		slices.Reverse(d.Entries)
		link("first", s.at(r, feed.Newest, feed.Cursor{})) // RFC 5005 section 3
		if n := len(d.Entries); n > 0 && d.Entries[n-1].Position > 1 {
			link("next", s.at(r, feed.Older, d.Entries[n-1].Cursor))
		}
		if !r.few {
			link("archives", s.at(r, feed.Replay, feed.Cursor{}))
		}
	case !d.UpToDate:
		link("next", d.Next)
	}
	if sp.earlier != nil { // RFC 5005 section 4
		link("prev-archive", s.at(r, feed.Replay, *sp.earlier))
	}
	if sp.archive && sp.sealed {
		link("next-archive", d.Next)
	}
	return d
}

// linkHeader formats links for the Link header field (RFC 8288 section 3).
func linkHeader(links []feed.Link) string {
	values := make([]string, len(links))
	for i, l := range links {
		values[i] = "<" + l.Href + `>; rel="` + l.Rel + `"`
		if l.Type != "" {
			values[i] += `; type="` + l.Type + `"`
		}
		if l.ETag != "" {
			values[i] += "; etag=" + l.ETag
		}
	}
	return strings.Join(values, ", ")
}

// etag returns the strong entity tag of the answer to r (RFC 9110 section 8.8.3). It changes with every input of the
// bytes. It does not need the entries, since the digest stands for them, and the compaction for those that are
// superseded, which lie before its place.
func (s *Source) etag(r *request, sp *span) string {
	head := sp.head.Cursor()
	if sp.sealed || r.view == feed.Older || r.mediaType == feed.TypeCloudEvents && r.view != feed.Snapshot {
		head = feed.Cursor{} // not in the bytes
	}
	by := []any{r.described.rendering[r.Name]}
	if r.mediaType == feed.TypeHTML {
		by = append(by, s.Brand, s.Name, s.Nav, s.Trace)
	}
	if lost := s.log.Lost(r.inLog); lost.Losses > 0 && r.mediaType == feed.TypeHTML && r.view == feed.Newest {
		by = append(by, lost.At.UnixNano())
	}
	erasures := int64(0)
	if r.Personal {
		erasures = sp.head.Erasures
	}
	compaction := ""
	if c := sp.head.Compaction; sp.from < c.UpTo.Position {
		compaction = c.ID + c.UpTo.String()
	}
	of := fmt.Sprintf("%q %q %q %q %q %q %d %s %t %s %t %s %d %s", by, r.Title, r.Text, r.ID, r.mediaType, s.url(r),
		sp.from, sp.end, sp.sealed, head, sp.archive, sp.earlier, erasures, compaction)
	sum := sha256.Sum256([]byte(of))
	return `"` + base64.RawURLEncoding.EncodeToString(sum[:15]) + `"`
}

// notModified evaluates If-None-Match and, only in its absence, If-Modified-Since against the validators of the answer
// (RFC 9110 section 13.2.2). A date matches only if it is the one that was sent: a page may become final after a later
// one was sent.
func notModified(request http.Header, a *answer) bool {
	if tags := request["If-None-Match"]; len(tags) > 0 {
		return len(tags) == 1 && tags[0] == a.tag || web.MatchesETag(tags, a.tag, true)
	}
	since := request["If-Modified-Since"]
	return a.lastModified != nil && len(since) > 0 && since[0] == a.lastModified[0]
}

var feedPage = web.Template(pages, "feed.html", "jump_form.html")

// A shownEntry is an entry on the page.
type shownEntry struct {
	feed.Entry
	Title, URL string
	HTML       template.HTML
	Versions   string // URL
	Trace      string // path, or ""
}

// Short returns the end of the entity's id.
func (e shownEntry) Short() string { return web.Short(e.ID) }

// maxShown is how many bytes of an entity a page shows.
const maxShown = 32 << 10

// Beginning returns the beginning of an entity that is too long for the page, or "".
func (e shownEntry) Beginning() string {
	if len(e.Entity) <= maxShown {
		return ""
	}
	return strings.ToValidUTF8(string(e.Entity[:maxShown]), "")
}

// Kind returns a word for what the entry did.
func (e shownEntry) Kind() string { return kindOf(e.Entry) }

// trace returns the path of the page of what the service knows of an entity, or "". No page of a view leads there.
func (s *Source) trace(d served, id uuid.UUID) string {
	if s.Trace == "" || d.part != nil {
		return ""
	}
	return s.Trace + id.String()
}

var idInCode = regexp.MustCompile(`<code>([0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12})</code>`)

// linkIDs makes links of the ids in the HTML of an entry.
func (s *Source) linkIDs(d served, html string) string {
	if s.Trace == "" || d.part != nil {
		return html
	}
	return idInCode.ReplaceAllString(html, `<a href="`+template.HTMLEscapeString(s.Trace)+`$1"><code>$1</code></a>`)
}

// page renders the document as HTML.
func (s *Source) page(r *request, d *feed.Document) ([]byte, error) {
	data := struct {
		*feed.Document
		Entries              []shownEntry
		First, Last          int64 // positions as listed
		Newest, Snapshot     bool
		Ends                 bool // a snapshot, with this page
		Formats              []web.Link
		Current, Start, More string
		Begin                string       // URL of the snapshot
		Newer, Older         string       // URLs, towards the head and, on a replay page, the start
		Loss                 publish.Loss // on the newest page
		jumpForm
		SchemaURL string // may be empty
		Live      string // URL of the event stream of the entries after the page, of the page's own origin
	}{
		Document: d, Newest: r.view == feed.Newest, Snapshot: r.view == feed.Snapshot, jumpForm: jumpForm{Jump: r.path + "/jump"},
		Ends: d.Next == s.at(r, feed.Replay, d.Cursor), Current: s.at(r, feed.Newest, feed.Cursor{}), Start: s.at(r, feed.Replay, feed.Cursor{}), Begin: s.snapshotURL(r, feed.Cursor{}, uuid.Nil),
	}
	page := s.lookOf(r.Name)
	switch r.view {
	case feed.Newest:
		page.Follow = 3
		data.Loss = s.log.Lost(r.inLog)
		data.Live = "/feeds/" + r.Name + "?after=" + d.Head.String()
	case feed.Older:
		data.Newer = s.PublicURL + r.path + "/newer?before=" + r.cursor.String()
	}
	for _, e := range d.Entries {
		entry := shownEntry{Entry: e, Title: "Deleted", Versions: s.versionsURL(r.Name, e.ID), Trace: s.trace(r.served, e.ID)}
		if e.Erased {
			entry.Title = "Erased"
		}
		if !e.Deleted {
			shown := d.Words(e)
			entry.Title, entry.URL, entry.HTML = shown.Title, shown.URL, template.HTML(s.linkIDs(r.served, shown.HTML)) // the source vouches for this HTML
		}
		data.Entries = append(data.Entries, entry)
	}
	page.Title = d.Title
	if data.Snapshot {
		page.Title += ", snapshot"
	}
	if n := len(d.Entries); n > 0 {
		data.First, data.Last = d.Entries[0].Position, d.Entries[n-1].Position
		if r.view == feed.Replay && data.First > 1 {
			data.Older = s.at(r, feed.Older, d.Entries[0].Cursor)
		}
		if !data.Newest && !data.Snapshot {
			page.Title += fmt.Sprintf(", entries %d to %d", data.First, data.Last)
		}
	}
	for _, l := range d.Links {
		switch l.Rel {
		case "next":
			data.More = l.Href
		case "describedby":
			data.SchemaURL = l.Href
		case "alternate":
			for _, x := range suffixes {
				if x.mediaType == l.Type {
					data.Formats = append(data.Formats, web.Link{Text: x.title, URL: l.Href, Type: l.Type})
					page.Alternates = append(page.Alternates, web.Link{Text: d.Title + " as " + x.title, URL: l.Href, Type: l.Type})
				}
			}
		}
	}
	page.Data = data
	return web.Execute(feedPage, page)
}

var indexPage = web.Template(pages, "index.html")

// An indexEntry is a feed in the list of feeds.
type indexEntry struct {
	Feed    string      `json:"feed"`
	Title   string      `json:"title"`
	Text    string      `json:"description"`
	URL     string      `json:"url"`
	Head    feed.Cursor `json:"head"`
	Entries int64       `json:"entries"`
	// Retention says how long entries keep their content; nil means for ever.
	Retention *retention   `json:"retention"`
	Schema    *string      `json:"schema"` // the URL of the entities' JSON Schema; nil means that the source declares none
	Views     []listedView `json:"views"`
}

// A listedView is a view in the list of feeds.
type listedView struct {
	feed.DeclaredView
	URL    string  `json:"url"`
	Schema *string `json:"schema"`
}

// A retention says how long an entry keeps its content after the time of a newer version of its entity.
type retention struct {
	Superseded string `json:"superseded"` // a duration such as 720h0m0s
}

func (s *Source) serveIndex(w http.ResponseWriter, r *http.Request) error {
	feeds := s.described.Load().feeds
	list := make([]indexEntry, 0, len(feeds))
	for _, d := range feeds {
		t, err := s.log.Snapshot(r.Context(), d.Name)
		if err != nil {
			return err
		}
		entry := indexEntry{d.Name, d.Title, d.Text, s.PublicURL + "/feeds/" + d.Name, t.Cursor(), t.Position, nil, nil, []listedView{}}
		if age, bounded := s.log.Retention(d.Name); bounded {
			entry.Retention = &retention{age.String()}
		}
		if d.Schema != nil {
			entry.Schema = new(s.schemaURL(d.Name))
		}
		for _, part := range d.Views {
			name := d.Name + viewsPath + part.Name
			listed := listedView{part, s.PublicURL + "/feeds/" + name, nil}
			if d.Schema != nil {
				listed.Schema = new(s.schemaURL(name))
			}
			entry.Views = append(entry.Views, listed)
		}
		list = append(list, entry)
	}
	w.Header().Set("Vary", "Accept")
	w.Header().Set("Cache-Control", noCache(s.Private))
	s.setAge(w.Header())
	if web.PrefersHTML(r) {
		page := s.look()
		page.Title, page.Alternates, page.Data = "Feeds", s.discovery(), list
		return web.Render(w, r, http.StatusOK, indexPage, page)
	}
	web.JSON(w, r, http.StatusOK, list)
	return nil
}
