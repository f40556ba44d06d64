package publish

import (
	"context"
	"embed"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/gin-gonic/gin"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/edison-cars/data-feeds/shared/feed"
	"github.com/edison-cars/data-feeds/shared/web"
)

// renderer is the version of what makes Atom and JSON of entries. It is part of their ETags: raise it whenever a change
// makes other bytes of the same entries.
const renderer = "1"

//go:embed *.html
var pages embed.FS

// pageRenderer is the same for HTML.
var pageRenderer = web.Fingerprint(pages)

// A Source serves the feeds of one database over HTTP.
type Source struct {
	pool      *pgxpool.Pool
	name      string
	publicURL string
	nav       []web.Link
	feeds     []feed.Description
	cache     *cache
}

// NewSource gives a source of feeds. name is the service's, for the pages; publicURL is where its readers find it,
// without a slash at the end: all links are built from it.
func NewSource(pool *pgxpool.Pool, name, publicURL string, nav []web.Link, feeds ...feed.Description) *Source {
	return &Source{pool: pool, name: name, publicURL: strings.TrimSuffix(publicURL, "/"), nav: nav, feeds: feeds, cache: newCache(cacheBytes)}
}

// Route adds the feeds' routes, all below /feeds, and what the type of a problem leads to.
func (s *Source) Route(r gin.IRoutes) {
	web.GET(r, "/feeds", web.Handle(s.serveIndex))
	web.GET(r, "/feeds/:feed", web.Handle(s.serveFeed))
	web.GET(r, "/feeds/:feed/newer", web.Handle(s.serveNewer))
	web.GET(r, "/feeds/:feed/:id", web.Handle(s.serveEntity))
	web.GET(r, divergedPath, func(c *gin.Context) { c.String(http.StatusOK, divergedText) })
}

// Suffixes of a feed's URL, and the representation that each fixes.
var suffixes = []struct{ suffix, mediaType, title string }{
	{".json", feed.TypeJSONFeed, "JSON Feed"},
	{".atom", feed.TypeAtom, "Atom"},
	{".html", feed.TypeHTML, "HTML"},
}

// A request is one for a document of a feed.
type request struct {
	feed.Description
	selection
	path      string      // /feeds/orders or /feeds/orders.atom
	mediaType string      // of the representation that the client gets
	history   feed.Cursor // selects nothing; the links of a walk keep it, so that caches tell its pages from those of a lost history
}

func (s *Source) parse(c *gin.Context) (*request, error) {
	name, req := c.Param("feed"), &request{path: c.Request.URL.Path}
	for _, x := range suffixes {
		if base, ok := strings.CutSuffix(name, x.suffix); ok {
			name, req.mediaType = base, x.mediaType
			break
		}
	}
	i := slices.IndexFunc(s.feeds, func(d feed.Description) bool { return d.Name == name })
	if i < 0 {
		return nil, web.Errorf(http.StatusNotFound, "There is no feed of this name here. %s/feeds lists the feeds.", s.publicURL)
	}
	req.Description = s.feeds[i]
	if err := req.parseQuery(c); err != nil {
		return nil, err
	}
	if req.mediaType == "" {
		c.Header("Vary", "Accept, Accept-Encoding")
		accept := strings.Join(c.Request.Header.Values("Accept"), ",")
		req.mediaType = web.Negotiate(accept, feed.TypeJSONFeed, feed.TypeJSON, feed.TypeAtom, feed.TypeHTML)
		if req.mediaType == "" {
			return nil, s.notAcceptable(req)
		}
	} else {
		c.Header("Vary", "Accept-Encoding")
	}
	return req, nil
}

func (r *request) parseQuery(c *gin.Context) error {
	query, err := url.ParseQuery(c.Request.URL.RawQuery)
	if err != nil {
		return web.Errorf(http.StatusBadRequest, "The query is malformed: %v.", err)
	}
	for _, name := range []string{"after", "before", "limit", "history"} {
		if len(query[name]) > 1 {
			return web.Errorf(http.StatusBadRequest, "The parameter %s may be given once.", name)
		}
	}
	cursor := func(name string) (cur feed.Cursor) {
		if err == nil && query.Has(name) {
			if cur, err = feed.ParseCursor(query.Get(name)); err != nil {
				err = web.Errorf(http.StatusBadRequest, "The parameter %s: %v.", name, err)
			}
		}
		return cur
	}
	after, before := cursor("after"), cursor("before")
	r.history = cursor("history")
	switch r.limit = feed.PageSize; {
	case err != nil:
		return err
	case query.Has("after") && query.Has("before"):
		return web.Errorf(http.StatusBadRequest, "The parameters after and before exclude each other: after replays forward, before pages back.")
	case query.Has("before"):
		r.view, r.cursor = feed.Older, before
	case query.Has("after"):
		r.view, r.cursor = feed.Replay, after
	}
	if query.Has("limit") {
		n, err := strconv.ParseUint(query.Get("limit"), 10, 32)
		if err != nil || n < 1 || n > feed.MaxPageSize || strconv.FormatUint(n, 10) != query.Get("limit") {
			return web.Errorf(http.StatusBadRequest, "The parameter limit takes a whole number from 1 to %d.", feed.MaxPageSize)
		}
		if r.view != feed.Replay {
			return web.Errorf(http.StatusBadRequest, "The parameter limit goes with after=CURSOR; after=0 starts from the first entry.")
		}
		r.limit = int64(n)
	}
	return nil
}

func (s *Source) notAcceptable(r *request) error {
	p := web.Errorf(http.StatusNotAcceptable, "This feed speaks %s, %s and %s.", feed.TypeJSONFeed, feed.TypeAtom, feed.TypeHTML)
	p.Header = http.Header{"Link": {linkHeader(s.alternates(r))}, "Vary": {"Accept, Accept-Encoding"}}
	return p
}

// serveFeed answers in the order of what it costs: a bad request from its text, 304 from the head of the feed, and only
// then with the entries.
func (s *Source) serveFeed(c *gin.Context) error {
	req, err := s.parse(c)
	if err != nil {
		return err
	}
	sp, err := s.locate(c.Request.Context(), req.Name, req.selection)
	if gone, ok := errors.AsType[*diverged](err); ok {
		return s.historyDiverged(req, gone)
	} else if err != nil {
		return fmt.Errorf("locate a page of feed %s: %w", req.Name, err)
	}
	tag, coding := s.etag(req, sp), acceptedCoding(c.Request.Header.Values("Accept-Encoding"))
	c.Header("ETag", codedTag(tag, coding))
	c.Header("Cache-Control", cacheControl(req, sp))
	if sp.sealed {
		c.Header("Last-Modified", sp.updated.Truncate(time.Second).Format(http.TimeFormat))
	}
	if notModified(c.Request.Header, c.Writer.Header()) {
		c.Status(http.StatusNotModified)
		return nil
	}
	doc, err := s.coded(c.Request.Context(), req, sp, tag, coding)
	if err != nil {
		return err
	}
	c.Header("Link", doc.link)
	if coding != codingIdentity {
		c.Header("Content-Encoding", coding)
	}
	web.Send(c, http.StatusOK, doc.contentType, doc.body)
	return nil
}

// coded gives the document in a coding: from the cache, or rendered and compressed once.
func (s *Source) coded(ctx context.Context, r *request, sp *span, tag, coding string) (*cached, error) {
	return s.cache.get(ctx, codedTag(tag, coding), func(ctx context.Context) (*cached, error) {
		if coding == codingIdentity {
			return s.render(ctx, r, sp)
		}
		plain, err := s.coded(ctx, r, sp, tag, codingIdentity)
		if err != nil {
			return nil, err
		}
		body, err := compress(plain.body, coding)
		return &cached{contentType: plain.contentType, link: plain.link, body: body}, err
	})
}

func (s *Source) render(ctx context.Context, r *request, sp *span) (*cached, error) {
	doc, err := s.document(ctx, r, sp)
	if err != nil {
		return nil, err
	}
	made := &cached{
		contentType: r.mediaType,
		link:        linkHeader(append([]feed.Link{{Rel: "self", Href: doc.Self, Type: r.mediaType}}, doc.Links...)),
	}
	switch r.mediaType {
	case feed.TypeHTML:
		made.contentType = web.HTMLType
		made.body, err = s.page(r, doc)
	case feed.TypeAtom:
		made.contentType += "; charset=utf-8"
		made.body, err = doc.Atom()
	default: // JSON is UTF-8 and takes no charset (RFC 8259 section 8.1)
		made.body, err = doc.JSON()
	}
	return made, err
}

func cacheControl(r *request, sp *span) string {
	switch {
	case sp.sealed:
		return "public, max-age=31536000, immutable"
	case r.view == feed.Replay:
		return "no-cache"
	default:
		return "max-age=0, stale-if-error=86400"
	}
}

const (
	divergedPath = "/problems/history-diverged"
	divergedText = `The history diverged (410)

A cursor stands for the whole history of a feed up to its place. This one stands for a history that this source does
not have: its database was restored from a backup, failed over without the last commits, or was built anew.

What you copied may hold entries that the source no longer has. Copy the feed again from the first entry, by the link
with rel="start" that the answer carries, and in the end delete what did not come again.
`
)

// historyDiverged is the one answer that makes a reader start again: its cursor is of another history.
func (s *Source) historyDiverged(r *request, gone *diverged) error {
	start := *r
	start.selection = selection{view: feed.Replay, limit: r.limit}
	start.history = gone.lastFull
	again := s.url(&start)
	return &web.Problem{
		Type: s.publicURL + divergedPath, Title: "The history diverged", Status: http.StatusGone,
		Detail: fmt.Sprintf("The cursor %s belongs to another history of this feed, as after the restore of a backup. Start again from %s", r.cursor, again),
		Header: http.Header{"Link": {linkHeader([]feed.Link{{Rel: "start", Href: again}})}},
	}
}
