package feedhttp

import (
	"cmp"
	"context"
	"embed"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	lru "github.com/hashicorp/golang-lru/v2"

	"github.com/edison-cars/data-feeds/shared/feed"
	"github.com/edison-cars/data-feeds/shared/publish"
	"github.com/edison-cars/data-feeds/shared/web"
)

//go:embed *.html
var pages embed.FS

// Options say how a source serves its feeds.
type Options struct {
	PublicURL string        // where readers find the source, such as https://things.example; the base of all links
	Author    string        // of the feeds; defaults to each feed's title
	Brand     string        // shown before Name on the pages; may be empty
	Name      string        // of the service, on the pages; defaults to Feeds
	Nav       []web.Link    // of the pages
	Trace     string        // path to which an id is added for a page of what the service knows of it: /trace/; empty means that there is none
	MaxAge    time.Duration // how long caches may answer for documents that may change, in whole seconds; 0 means that they revalidate each time
	Private   bool          // readers need a token, so no shared cache keeps what they get
	Limits    web.Limits    // of what readers may hold at once; the zero value means the defaults
	Logger    *slog.Logger  // receives the errors that readers do not see; defaults to [slog.Default]
}

// A Source serves the feeds of one database over HTTP. It is an [http.Handler] and a [prometheus.Collector].
type Source struct {
	Options
	log       *publish.Log
	described atomic.Pointer[described]
	resources *lru.Cache[key, *resource]
	cache     *cache
	epoch     atomic.Int64 // of the log, as of the resources and the cache
	cold      *web.Limiter // of requests that query the database
	waiting   *web.Slots   // requests that wait for the feed to go on
	streams   *web.Slots   // event streams
	turns     *turns       // of pages that are to be rendered
	metrics   *sourceMetrics
}

// coldPerSecond and coldBurst limit what one client may request that queries the database, in pages of up to 100
// entries: a history of a million entries at once, and after that what takes about one core.
const (
	coldPerSecond = 500
	coldBurst     = 10_000
)

// units returns what a page of up to limit entries counts for.
func units(limit int64) int { return int(max(limit, 1)+feed.PageSize-1) / feed.PageSize }

// New returns a source of feeds of the log. A feed without a title gets its name as the title, and a feed without an ID
// its URL. New panics if the limits are not valid: see [web.Limits.Complete].
func New(log *publish.Log, options Options, feeds ...feed.Description) *Source {
	options.PublicURL = strings.TrimSuffix(options.PublicURL, "/")
	options.Name = cmp.Or(options.Name, "Feeds")
	if options.Logger == nil {
		options.Logger = slog.Default()
	}
	resources, err := lru.New[key, *resource](maxResources)
	if err != nil {
		panic(err) // the size is positive
	}
	if options.Limits, err = options.Limits.Complete(); err != nil {
		panic(err)
	}
	waiting, streams := web.NewSlots("requests that wait", options.Limits.Waiting), web.NewSlots("event streams", options.Limits.Streams)
	s := &Source{
		Options: options, log: log, resources: resources, cache: newCache(cacheBytes),
		cold: web.NewLimiter(coldPerSecond, coldBurst), waiting: waiting, streams: streams,
		turns: newTurns(options.Limits.Rendering, log.WroteWithin), metrics: newSourceMetrics(waiting, streams),
	}
	s.SetFeeds(feeds...)
	return s
}

// described are the feeds of a source at one time, and the views that they declare.
type described struct {
	feeds     []feed.Description
	served    map[string]served // by name
	rendering map[string]string // by name
}

// A served is a feed, or a view of one. The Name of its Description is the path below /feeds/: customers or
// customers/views/delivery.
type served struct {
	feed.Description
	inLog string             // the name of the feed in the log
	part  *feed.DeclaredView // nil means the whole feed
}

// find returns the feed or view of the name.
func (d *described) find(name string) (found served, ok bool) {
	found, ok = d.served[name]
	return found, ok
}

// SetFeeds replaces the feeds of the source, which go on being served if they are among the new ones. It may be called
// at any time. It panics if a view is not valid: see [feed.DeclaredView.Valid].
func (s *Source) SetFeeds(feeds ...feed.Description) {
	now := &described{slices.Clone(feeds), map[string]served{}, map[string]string{}}
	for i := range now.feeds {
		d := &now.feeds[i]
		d.Title = cmp.Or(d.Title, d.Name)
		d.ID = cmp.Or(d.ID, s.PublicURL+"/feeds/"+d.Name)
		now.add(served{*d, d.Name, nil}, s.Author)
		for _, part := range d.Views {
			now.add(viewOf(*d, part), s.Author)
		}
	}
	s.described.Store(now)
}

// ServeHTTP answers at /feeds and below it, in /problems/, at the URLs of problem types, and in /assets/, which has the
// pages' style. It works in any router that does not change the request's path. An answer may wait; its
// queries are limited by readTimeout. Limits are per client: see [web.ClientKey].
func (s *Source) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	web.Secure(w.Header())
	if err := s.serve(w, r); err != nil {
		web.Refuse(w, r, err, s.Logger, s.look())
	}
}

// serve answers, or returns an error before it has written anything.
func (s *Source) serve(w http.ResponseWriter, r *http.Request) error {
	name, below := strings.CutPrefix(r.URL.Path, "/feeds/")
	name, entity, ofEntity := strings.Cut(name, "/")
	if view, ofView := strings.CutPrefix(entity, "views/"); ofView && view != "" {
		view, entity, ofEntity = strings.Cut(view, "/")
		name += viewsPath + view
	}
	switch {
	case below && (name == "" || ofEntity && (entity == "" || strings.Contains(entity, "/"))):
		return web.NothingHere()
	case r.Method != http.MethodGet && r.Method != http.MethodHead:
		return web.NotAllowed("GET, HEAD", r.Method)
	case r.URL.Path == "/feeds":
		return s.serveIndex(w, r)
	case problemTypes[r.URL.Path] != "":
		web.Send(w, r, http.StatusOK, "text/plain; charset=utf-8", []byte(problemTypes[r.URL.Path]))
		return nil
	case !below:
		return web.ServeAsset(w, r)
	case entity == "newer":
		return s.serveNewer(w, r, name)
	case entity == "schema":
		return s.serveSchema(w, r, name)
	case entity == "jump":
		return s.serveJump(w, r, name)
	case ofEntity:
		return s.serveEntity(w, r, name, entity)
	}
	err := s.serveFeed(w, r, name)
	if err != nil {
		s.metrics.refused(web.StatusOf(err))
	}
	return err
}

// look returns a page of the source without title and content.
func (s *Source) look() web.Page { return web.Page{Brand: s.Brand, Service: s.Name, Nav: s.Nav} }

// lookOf returns a page of a feed without title and content.
func (s *Source) lookOf(name string) web.Page {
	page := s.look()
	page.Nav = slices.Clone(s.Nav)
	for i := range page.Nav {
		page.Nav[i].Current = page.Nav[i].URL == "/feeds/"+name
	}
	return page
}

// An answer is the place of a resource in the log, and the header fields that follow from it.
type answer struct {
	*span
	snapshot *publish.Snapshot // the snapshot by which it was located
	// final means that no append changes it.
	final                            bool
	coding, tag                      string
	etag, cacheControl, lastModified []string // header fields; lastModified may be nil
}

// answer locates the resource, unless the last answer still holds: a final one within the same epoch, any other one
// until the next append. Queries count for the limit of client; nil means that no client asks.
func (s *Source) answer(ctx context.Context, res *resource, client *http.Request) (*answer, error) {
	a := res.last.Load()
	if a != nil && a.final {
		if t := s.log.Remembered(res.inLog); t != nil && t.Epoch == a.snapshot.Epoch {
			return a, nil
		}
	}
	t, err := s.log.Snapshot(ctx, res.inLog)
	if err != nil {
		return nil, err
	}
	if a != nil && a.snapshot == t {
		return a, nil
	}
	// Waiting for others counts: behind a database that does not answer, waits would add up.
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), readTimeout)
	defer cancel()
	res.locating.Lock() // many requests may come at once after an append
	defer res.locating.Unlock()
	if a := res.last.Load(); a != nil && a.snapshot == t {
		return a, nil
	}
	s.forget(t.Epoch)
	sp := res.selection.atHand(t)
	if sp == nil {
		if client != nil {
			if err := s.cold.Check(client, units(res.limit)); err != nil {
				return nil, err
			}
		}
		sp, err = s.locate(ctx, res.served, res.selection)
	}
	if gone, ok := errors.AsType[*diverged](err); ok {
		return nil, s.historyDiverged(&res.request, gone)
	} else if err != nil {
		return nil, fmt.Errorf("locate a page of feed %s: %w", res.Name, err)
	}
	a = s.answerAt(res, t, sp)
	res.last.Store(a)
	return a, nil
}

// answerAt returns the answer for a span.
func (s *Source) answerAt(res *resource, t *publish.Snapshot, sp *span) *answer {
	a := &answer{span: sp, snapshot: t, final: !res.Personal && (sp.sealed || res.view == feed.Older), coding: res.coding}
	if res.view == feed.Replay && sp.to-sp.from <= 1 {
		a.coding = codingIdentity // waiting readers are answered one by one: the document fits into a packet, and compressing it would take time
	}
	a.tag = codedTag(s.etag(&res.request, sp), a.coding)
	a.etag, a.cacheControl = []string{a.tag}, []string{s.cacheControl(&res.request, sp)}
	if sp.sealed && res.mediaType != feed.TypeCloudEvents {
		a.lastModified = []string{sp.updated.Truncate(time.Second).Format(http.TimeFormat)}
	}
	return a
}

// setAge says how old the answer is if the primary database is down and the answer is what it was last known to have.
func (s *Source) setAge(h http.Header) {
	if age := s.log.Age(); age > 0 {
		h.Set("Age", strconv.FormatInt(int64(age/time.Second)+1, 10))
	}
}

// forget drops the resources and documents of earlier epochs.
func (s *Source) forget(epoch int) {
	if s.epoch.Swap(int64(epoch)) != int64(epoch) {
		s.resources.Purge()
		s.cache.drop()
	}
}

// serveFeed tries the cheap answers first: a refusal from the request's text, a 304 from memory, and only then one with
// the entries.
func (s *Source) serveFeed(w http.ResponseWriter, r *http.Request, name string) error {
	res, err := s.resource(r, name)
	if err != nil {
		return err
	}
	if res.mediaType == feed.TypeEvents {
		return s.serveEvents(w, r, res)
	}
	if res.view == feed.Snapshot {
		return s.serveSnapshot(w, r, res)
	}
	a, err := s.answer(r.Context(), res, r)
	if limit := res.mayWait(r.Header); limit > 0 && err == nil && !a.final {
		a, err = s.wait(w, r, res, a, limit)
	}
	if err != nil {
		return err
	}
	h := w.Header()
	h["Vary"], h["Etag"], h["Cache-Control"] = res.vary, a.etag, a.cacheControl
	if !a.final {
		s.setAge(h)
	}
	if a.lastModified != nil {
		h["Last-Modified"] = a.lastModified
	}
	if notModified(r.Header, a) {
		res.notModified.Inc()
		web.NotModified(w)
		return nil
	}
	doc, err := s.coded(r.Context(), r, &res.request, a)
	if err != nil {
		return err
	}
	if doc.tag != a.tag {
		h["Etag"] = []string{doc.tag}
	}
	s.send(w, r, res, doc)
	return nil
}

// send sends a document, whose validators and caching are in the header already.
func (s *Source) send(w http.ResponseWriter, r *http.Request, res *resource, doc *cached) {
	h := w.Header()
	if doc.spoiled {
		delete(h, "Etag")
		delete(h, "Last-Modified")
		h["Cache-Control"] = []string{"no-store"}
	}
	h["Content-Type"], h["Link"] = doc.contentType, doc.link
	if res.mediaType != feed.TypeHTML {
		web.Data(h)
	}
	if doc.coding != nil {
		h["Content-Encoding"] = doc.coding
	}
	h["Content-Length"] = doc.length
	res.ok.Inc()
	s.metrics.bytes.Add(float64(len(doc.body)))
	web.SendBody(w, r, http.StatusOK, doc.body)
}

func (s *Source) cacheControl(r *request, sp *span) string {
	maxAge, who := int64(s.MaxAge/time.Second), "public"
	if s.Private {
		who = "private"
	}
	var directives []string
	switch {
	case r.Personal:
		return noCache(true)
	case r.mediaType == feed.TypeCloudEvents: // its clients know no history, and ask again at once
		return noCache(s.Private)
	case sp.sealed:
		return who + ", max-age=31536000, immutable"
	case s.Private:
		directives = append(directives, who)
	}
	switch {
	case r.view != feed.Replay:
		directives = append(directives, fmt.Sprintf("max-age=%d", maxAge), "stale-if-error=86400")
	case maxAge > 0:
		directives = append(directives, fmt.Sprintf("max-age=%d", maxAge))
	default:
		directives = append(directives, "no-cache")
	}
	return strings.Join(directives, ", ")
}

// noCache returns the value of Cache-Control for documents that caches must revalidate each time, or that only the
// client's own cache may keep.
func noCache(private bool) string {
	if private {
		return "private, no-cache"
	}
	return "no-cache"
}

const (
	divergedPath = "/problems/history-diverged"
	tooLargePath = "/problems/page-too-large"
)

// problemTypes are texts that explain the types of problems, by their paths.
var problemTypes = map[string]string{
	divergedPath: `The history diverged (410)

A cursor stands for the whole history of a feed up to its place. This one stands for a history that this source does
not have: its database was restored from a backup, failed over without the last commits, or was built again.

What you copied may hold entries that the source no longer has. Copy the feed again from the first entry, by the link
with rel="start" that the answer carries, and in the end delete what did not come again.
`,
	tooLargePath: `The page is too large (413)

The entities of a page may have so many bytes together as those of 200 entries of the largest size. Ask for fewer
entries, by the parameter limit: a page of limit=200 or less is never too large.
`,
}

// historyDiverged returns the problem for a cursor of another history. No other answer makes a reader start again.
func (s *Source) historyDiverged(r *request, gone *diverged) error {
	start := *r
	start.selection = selection{view: feed.Replay, limit: r.limit}
	start.history = gone.lastFull
	again := s.url(&start)
	header := http.Header{"Link": {linkHeader([]feed.Link{{Rel: "start", Href: again}})}}
	if r.view == feed.Replay && r.mediaType != feed.TypeCloudEvents && !r.Personal && !s.Private && s.MaxAge > 0 {
		header["Cache-Control"] = []string{s.cacheControl(r, &span{})} // one answer for all that wait at a cache
		header["Vary"] = varyBoth
	}
	return &web.Problem{
		Type: s.PublicURL + divergedPath, Title: "The history diverged", Status: http.StatusGone,
		Detail: fmt.Sprintf("The cursor %s belongs to another history of this feed, as after the restore of a backup. Start again from %s", r.cursor, again),
		Links:  []string{again},
		Header: header,
	}
}

// tooLarge returns the problem for a page with too many bytes.
func (s *Source) tooLarge(r *request) error {
	fewer := *r
	fewer.limit = publish.MaxPageEntries
	again := s.url(&fewer)
	return &web.Problem{
		Type: s.PublicURL + tooLargePath, Title: "The page is too large", Status: http.StatusRequestEntityTooLarge,
		Detail: fmt.Sprintf("The entities of this page have more than %d MiB together. Ask for at most %d entries: %s", publish.MaxPage>>20, publish.MaxPageEntries, again),
		Links:  []string{again},
	}
}
