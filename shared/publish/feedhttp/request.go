package feedhttp

import (
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/google/uuid"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/edison-cars/data-feeds/shared/feed"
	"github.com/edison-cars/data-feeds/shared/publish"
	"github.com/edison-cars/data-feeds/shared/web"
)

// suffixes lists the suffixes of a feed's URL, and the representation that each selects.
var suffixes = []struct{ suffix, mediaType, title string }{
	{".json", feed.TypeJSONFeed, "JSON Feed"},
	{".atom", feed.TypeAtom, "Atom"},
	{".html", feed.TypeHTML, "HTML"},
	{".cloudevents", feed.TypeCloudEvents, "CloudEvents"},
}

// A request is a request for a document of a feed.
type request struct {
	served
	selection
	described *described    // the feeds at the time of the request
	path      string        // /feeds/orders or /feeds/orders.atom
	mediaType string        // of the representation that the client gets
	byAccept  bool          // chosen by Accept, not by a suffix
	coding    string        // content coding
	history   feed.Cursor   // selects nothing; the links of a resync keep it, so that caches tell its pages from those of a lost history
	timeout   time.Duration // of CloudEvents: how long the answer may wait
}

// A resource stands for all requests with the same URL and header fields. It keeps the last answer.
type resource struct {
	request
	vary            []string // header field
	ok, notModified prometheus.Counter

	locating sync.Mutex
	last     atomic.Pointer[answer]
	awaited  atomic.Pointer[publish.Snapshot]
}

// A key is all that selects a resource.
type key struct {
	described                           *described
	path, query, accept, acceptEncoding string
	chunk                               bool // a part of an event stream, which no request can ask for
}

const (
	maxResources = 4096
	maxKey       = 1024 // bytes
)

// resource returns the resource of a request, from memory if it was requested before.
func (s *Source) resource(r *http.Request, name string) (*resource, error) {
	h := r.Header
	k := key{described: s.described.Load(), path: r.URL.Path, query: r.URL.RawQuery, accept: joined(h["Accept"]), acceptEncoding: joined(h["Accept-Encoding"])}
	if res, ok := s.resources.Get(k); ok {
		return res, nil
	}
	req, err := s.parse(name, k)
	if err != nil {
		return nil, err
	}
	return s.keep(k, req), nil
}

// keep returns the resource for the request from now on.
func (s *Source) keep(k key, req *request) *resource {
	res := &resource{request: *req, vary: varyEncoding}
	if req.byAccept {
		res.vary = varyBoth
	}
	res.ok, res.notModified = s.metrics.outcome(req, http.StatusOK), s.metrics.outcome(req, http.StatusNotModified)
	if len(k.path)+len(k.query)+len(k.accept)+len(k.acceptEncoding) <= maxKey {
		if other, ok, _ := s.resources.PeekOrAdd(k, res); ok {
			return other
		}
	}
	return res
}

// Values of Vary. Many answers share these slices: do not append to them.
var (
	varyEncoding = []string{"Accept-Encoding"}
	varyBoth     = []string{"Accept, Accept-Encoding"}
)

// joined joins the fields of one name (RFC 9110 section 5.3).
func joined(fields []string) string {
	if len(fields) == 1 {
		return fields[0]
	}
	return strings.Join(fields, ",")
}

// parse parses the request for the feed of the name, which may have a suffix.
func (s *Source) parse(name string, k key) (*request, error) {
	req := &request{described: k.described, path: k.path, coding: acceptedCoding(k.acceptEncoding)}
	for _, x := range suffixes {
		if base, ok := strings.CutSuffix(name, x.suffix); ok {
			name, req.mediaType = base, x.mediaType
			break
		}
	}
	var ok bool
	if req.served, ok = k.described.find(name); !ok {
		return nil, noFeed("There is no feed of this name here.", s.PublicURL)
	}
	if req.mediaType == "" {
		req.byAccept, req.mediaType = true, negotiate(k.accept)
	}
	if err := req.parseQuery(k.query); err != nil {
		return nil, err
	}
	if req.mediaType == "" {
		return nil, s.notAcceptable(req)
	}
	return req, nil
}

// named are the media types by which clients ask for a feed, the first on a tie, and the representation for each. Feed
// readers that ask for RSS or just XML read Atom, too; old browsers name application/xml beside application/xhtml+xml.
var named = []struct{ mediaType, gets string }{
	{feed.TypeAtom, feed.TypeAtom},
	{"application/rss+xml", feed.TypeAtom},
	{"application/rdf+xml", feed.TypeAtom},
	{feed.TypeCloudEvents, feed.TypeCloudEvents},
	{feed.TypeJSONFeed, feed.TypeJSONFeed},
	{feed.TypeJSON, feed.TypeJSON},
	{feed.TypeHTML, feed.TypeHTML},
	{"application/xhtml+xml", feed.TypeHTML},
	{"application/xml", feed.TypeAtom},
	{"text/xml", feed.TypeAtom},
	{feed.TypeEvents, feed.TypeEvents},
}

// negotiate returns the representation that an Accept field prefers, or "" if it accepts none. If only a wildcard
// matches, that is JSON Feed rather than Atom.
func negotiate(accept string) string {
	var types []string
	for _, n := range named {
		types = append(types, n.mediaType)
	}
	if best, ok := web.NegotiateNamed(accept, types...); ok {
		return named[slices.Index(types, best)].gets
	}
	return web.Negotiate(accept, feed.TypeJSONFeed, feed.TypeJSON, feed.TypeAtom, feed.TypeHTML, feed.TypeEvents)
}

func (r *request) parseQuery(raw string) error {
	query, err := url.ParseQuery(raw)
	if err != nil {
		return web.Errorf(http.StatusBadRequest, "The query is malformed: %v.", err)
	}
	for _, name := range []string{r.after(), "before", "snapshot", "from", "limit", "history"} {
		if len(query[name]) > 1 {
			return web.Errorf(http.StatusBadRequest, "The parameter %s may be given once.", name)
		}
	}
	if r.mediaType == feed.TypeCloudEvents {
		if err := r.parseCloudEvents(query); err != nil {
			return err
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
	after, before, snapshot := cursor(r.after()), cursor("before"), cursor("snapshot")
	r.history = cursor("history")
	switch r.limit = feed.PageSize; {
	case err != nil:
		return err
	case query.Has("after") && query.Has("before"):
		return web.Errorf(http.StatusBadRequest, "The parameters after and before exclude each other: after replays forward, before pages back.")
	case query.Has("snapshot"):
		if err := r.parseSnapshot(query, snapshot); err != nil {
			return err
		}
	case query.Has("from"):
		return web.Errorf(http.StatusBadRequest, "The parameter from goes with snapshot=CURSOR, as a page of the snapshot links to the next one.")
	case query.Has("before"):
		r.view, r.cursor = feed.Older, before
	case query.Has(r.after()):
		r.view, r.cursor = feed.Replay, after
	}
	if query.Has("limit") {
		n, err := strconv.ParseUint(query.Get("limit"), 10, 32)
		if err != nil || n < 1 || n > feed.MaxPageSize || strconv.FormatUint(n, 10) != query.Get("limit") {
			return web.Errorf(http.StatusBadRequest, "The parameter limit takes a whole number from 1 to %d.", feed.MaxPageSize)
		}
		if r.view == feed.Older {
			return web.Errorf(http.StatusBadRequest, "The parameter limit goes with after=CURSOR and snapshot=CURSOR, or alone for the newest entries; not with before.")
		}
		r.limit, r.few = int64(n), r.view == feed.Newest
	}
	return nil
}

// after returns the name of the parameter that says after which cursor a replay begins.
func (r *request) after() string {
	if r.mediaType == feed.TypeCloudEvents {
		return "lastEventId"
	}
	return "after"
}

// parseCloudEvents makes the parameters of http-feeds.org those of a replay: its lastEventId may be null or left out. It
// may have a timeout, in milliseconds.
func (r *request) parseCloudEvents(query url.Values) error {
	if query.Has("after") || query.Has("before") {
		return web.Errorf(http.StatusBadRequest, "The parameters after and before do not go with CloudEvents: lastEventId=ID says from where.")
	}
	if id := query.Get("lastEventId"); (id == "" || id == "null") && !query.Has("snapshot") {
		query.Set("lastEventId", "0")
	}
	if !query.Has("timeout") {
		return nil
	}
	ms, err := strconv.ParseUint(query.Get("timeout"), 10, 64)
	if err != nil || len(query["timeout"]) > 1 {
		return web.Errorf(http.StatusBadRequest, "The parameter timeout takes a whole number of milliseconds, once.")
	}
	r.timeout = time.Duration(min(ms, uint64(maxWait/time.Millisecond))) * time.Millisecond
	return nil
}

// parseSnapshot parses the parameters of a snapshot, which begins at the cursor 0.
func (r *request) parseSnapshot(query url.Values, cursor feed.Cursor) error {
	for _, name := range []string{"after", "before", "lastEventId", "timeout"} {
		if query.Has(name) && (name == "after" || name == "before" || r.mediaType == feed.TypeCloudEvents) {
			return web.Errorf(http.StatusBadRequest, "The parameters %s and snapshot exclude each other.", name)
		}
	}
	if r.mediaType == feed.TypeEvents {
		return web.Errorf(http.StatusBadRequest, "The parameter snapshot does not go with an event stream, which brings entries as they come: after=CURSOR says from where.")
	}
	if query.Has("from") {
		id, err := uuid.Parse(query.Get("from"))
		switch {
		case err != nil || id.String() != query.Get("from"):
			return web.Errorf(http.StatusBadRequest, "The parameter from takes the id of an entity, a UUID in lower case.")
		case cursor.IsStart():
			return web.Errorf(http.StatusBadRequest, "The parameter from goes with the cursor of the snapshot, as its first page, snapshot=0, gives it.")
		}
		r.from = id
	}
	r.view, r.cursor = feed.Snapshot, cursor
	return nil
}

func (s *Source) notAcceptable(r *request) error {
	p := web.Errorf(http.StatusNotAcceptable, "This feed speaks %s, %s, %s, %s and %s.", feed.TypeJSONFeed, feed.TypeAtom, feed.TypeHTML, feed.TypeEvents, feed.TypeCloudEvents)
	p.Header = http.Header{"Link": {linkHeader(s.alternates(r))}, "Vary": varyBoth}
	return p
}
