package feedhttp

import (
	"context"
	"embed"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"sync/atomic"
	"time"

	"github.com/gin-gonic/gin"
	lru "github.com/hashicorp/golang-lru/v2"

	"github.com/edison-cars/data-feeds/shared/feed"
	"github.com/edison-cars/data-feeds/shared/publish"
	"github.com/edison-cars/data-feeds/shared/web"
)

//go:embed *.html
var pages embed.FS

// Config says how a source serves its feeds.
type Config struct {
	Name      string        // the service's, for the pages
	PublicURL string        // where readers find the source: all links are built from it
	Nav       []web.Link    // of the pages
	MaxAge    time.Duration // how long caches may answer for what can still change, in whole seconds; 0: they ask every time
	Private   bool          // readers need a token: no shared cache keeps what they get
	Limits    web.Limits    // of what readers hold at once; the zero value is the defaults
}

// A Source serves the feeds of one database over HTTP.
type Source struct {
	Config
	log       *publish.Log
	feeds     []feed.Description
	rendering map[string]string // of the feeds, by name
	resources *lru.Cache[key, *resource]
	cache     *cache
	epoch     atomic.Int64 // of the log, that resources and cache are of
	cold      *web.Limiter // requests that ask the database
	waiting   *web.Slots   // requests that wait for the feed to go on
	streams   *web.Slots   // event streams
	turns     *turns       // of pages to be rendered
	metrics   *sourceMetrics
}

// What a client may ask for that takes the database, in pages of up to 100 entries: a history of a million at once, and
// then what costs about a core.
const (
	coldPerSecond = 500
	coldBurst     = 10_000
)

// NewSource returns a source of feeds of the log. It panics on limits that are not as [web.Limits.Complete] has them.
func NewSource(log *publish.Log, config Config, feeds ...feed.Description) *Source {
	config.PublicURL = strings.TrimSuffix(config.PublicURL, "/")
	resources, err := lru.New[key, *resource](maxResources)
	if err != nil {
		panic(err) // the size is positive
	}
	if config.Limits, err = config.Limits.Complete(); err != nil {
		panic(err)
	}
	renderings := map[string]string{}
	for _, d := range feeds {
		renderings[d.Name] = rendering(d)
	}
	waiting, streams := web.NewSlots("requests that wait", config.Limits.Waiting), web.NewSlots("event streams", config.Limits.Streams)
	return &Source{
		Config: config, log: log, feeds: feeds, rendering: renderings, resources: resources, cache: newCache(cacheBytes),
		cold: web.NewLimiter(coldPerSecond, coldBurst), waiting: waiting, streams: streams,
		turns: newTurns(config.Limits.Rendering, log.WroteWithin), metrics: newSourceMetrics(waiting, streams),
	}
}

// Route adds the feeds' routes, all below /feeds, and what the type of a problem leads to. Answers may wait: each bounds what it
// reads by readTimeout. r may be of any gin engine: one that [web.New] did not make gets the same answers and refusals, but decides
// by itself about header fields such as Content-Security-Policy and about the methods that gin cannot route, and needs
// [web.RouteAssets] for the style of the pages.
func (s *Source) Route(r gin.IRoutes) {
	web.GETOnly(r, "/feeds", web.HandleLong(s.serveIndex))
	web.GETOnly(r, "/feeds/:feed", web.HandleLong(s.counted))
	web.GETOnly(r, "/feeds/:feed/newer", web.HandleLong(s.serveNewer))
	web.GETOnly(r, "/feeds/:feed/:id", web.HandleLong(s.serveEntity))
	web.GETOnly(r, divergedPath, func(c *gin.Context) { c.String(http.StatusOK, divergedText) })
}

// An answer is where a resource lies in the log, and what its header says of that.
type answer struct {
	*span
	snapshot *publish.Snapshot // what it was located by
	// final: nothing that is appended changes it.
	final                            bool
	coding, tag                      string
	etag, cacheControl, lastModified []string // header fields; lastModified may be nil
}

// answer locates the resource, unless the answer before still holds: a final one as long as the epoch is the same,
// any other until something is appended. client is who asks first, and has a limit on what takes the database; nil is nobody.
func (s *Source) answer(ctx context.Context, res *resource, client *gin.Context) (*answer, error) {
	a := res.last.Load()
	if a != nil && a.final {
		if t := s.log.Remembered(res.Name); t != nil && t.Epoch == a.snapshot.Epoch {
			return a, nil
		}
	}
	t, err := s.log.Snapshot(ctx, res.Name)
	if err != nil {
		return nil, err
	}
	if a != nil && a.snapshot == t {
		return a, nil
	}
	// The time to wait for others counts: behind a database that does not answer they would add up.
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), readTimeout)
	defer cancel()
	res.locating.Lock() // many may ask at once, when something was appended
	defer res.locating.Unlock()
	if a := res.last.Load(); a != nil && a.snapshot == t {
		return a, nil
	}
	s.forget(t.Epoch)
	sp := res.selection.atHand(t)
	if sp == nil {
		if client != nil {
			if err := s.cold.Check(client, int(max(res.limit, 1)+feed.PageSize-1)/feed.PageSize); err != nil {
				return nil, err
			}
		}
		sp, err = s.locate(ctx, res.Description, res.selection)
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

// answerAt is the answer that lies in a span.
func (s *Source) answerAt(res *resource, t *publish.Snapshot, sp *span) *answer {
	a := &answer{span: sp, snapshot: t, final: !res.Personal && (sp.sealed || res.view == feed.Older), coding: res.coding}
	if res.view == feed.Replay && sp.to-sp.from <= 1 {
		a.coding = codingIdentity // what readers who wait get, one by one: it fits into a packet, and compressing takes its time
	}
	a.tag = codedTag(s.etag(&res.request, sp), a.coding)
	a.etag, a.cacheControl = []string{a.tag}, []string{s.cacheControl(&res.request, sp)}
	if sp.sealed {
		a.lastModified = []string{sp.updated.Truncate(time.Second).Format(http.TimeFormat)}
	}
	return a
}

// forget drops what was made in an earlier epoch.
func (s *Source) forget(epoch int) {
	if s.epoch.Swap(int64(epoch)) != int64(epoch) {
		s.resources.Purge()
		s.cache.drop()
	}
}

// serveFeed answers in the order of what it costs: a bad request from its text, 304 from memory, and only then with the
// entries.
func (s *Source) serveFeed(c *gin.Context) error {
	res, err := s.resource(c)
	if err != nil {
		return err
	}
	if res.mediaType == feed.TypeEvents {
		return s.serveEvents(c, res)
	}
	a, err := s.answer(c.Request.Context(), res, c)
	if prefer := c.Request.Header["Prefer"]; prefer != nil && err == nil && !a.final {
		a, err = s.wait(c, res, a, preferredWait(prefer))
	}
	if err != nil {
		return err
	}
	h := c.Writer.Header()
	h["Vary"], h["Etag"], h["Cache-Control"] = res.vary, a.etag, a.cacheControl
	if a.lastModified != nil {
		h["Last-Modified"] = a.lastModified
	}
	if notModified(c.Request.Header, a) {
		res.notModified.Inc()
		web.NotModified(c)
		return nil
	}
	doc, err := s.coded(c.Request.Context(), c, &res.request, a)
	if err != nil {
		return err
	}
	h["Content-Type"], h["Link"] = doc.contentType, doc.link
	if res.mediaType != feed.TypeHTML {
		web.Data(c)
	}
	if doc.coding != nil {
		h["Content-Encoding"] = doc.coding
	}
	h["Content-Length"] = doc.length
	res.ok.Inc()
	s.metrics.bytes.Add(float64(len(doc.body)))
	web.SendBody(c, http.StatusOK, doc.body)
	return nil
}

// counted counts what serveFeed refuses.
func (s *Source) counted(c *gin.Context) error {
	err := s.serveFeed(c)
	if err != nil {
		s.metrics.refused(web.StatusOf(err))
	}
	return err
}

// coded returns the document in the answer's coding: from the cache, or rendered and compressed once, when it is the turn of the
// client that asks first; nil is nobody.
func (s *Source) coded(ctx context.Context, client *gin.Context, r *request, a *answer) (*cached, error) {
	if doc := s.cache.lookup(a.tag); doc != nil {
		s.metrics.hits.Inc()
		return doc, nil
	}
	s.metrics.misses.Inc()
	key := ""
	if client != nil {
		key = web.ClientKey(client) // now: the client may leave before its turn
	}
	return s.made(ctx, key, r, a)
}

// made is coded for what is not in the cache. What needs no turn is at hand: a few entries, which somebody may wait for.
func (s *Source) made(ctx context.Context, client string, r *request, a *answer) (*cached, error) {
	turn := func(ctx context.Context, work func() error) error { return s.turns.take(ctx, client, work) }
	if a.entries != nil {
		turn = func(_ context.Context, work func() error) error { return work() }
	}
	return s.cache.get(ctx, a.tag, func(ctx context.Context) (doc *cached, err error) {
		if a.coding == codingIdentity {
			err = turn(ctx, func() (err error) { doc, err = s.render(ctx, r, a.span); return err })
			return doc, err
		}
		plain, err := s.made(context.WithoutCancel(ctx), client, r, &answer{span: a.span, coding: codingIdentity, tag: s.etag(r, a.span)})
		if err != nil {
			return nil, err
		}
		err = turn(ctx, func() error {
			body, err := compress(plain.body, a.coding)
			doc = &cached{contentType: plain.contentType, link: plain.link, coding: []string{a.coding}, body: body}
			return err
		})
		return doc, err
	})
}

func (s *Source) render(ctx context.Context, r *request, sp *span) (*cached, error) {
	doc, err := s.document(ctx, r, sp)
	if err != nil {
		return nil, err
	}
	contentType := r.mediaType
	var body []byte
	switch r.mediaType {
	case feed.TypeHTML:
		contentType = web.HTMLType
		body, err = s.page(r, doc)
	case feed.TypeAtom:
		contentType += "; charset=utf-8"
		body, err = doc.Atom()
	case feed.TypeEvents:
		body, err = doc.Events()
	default: // JSON is UTF-8 and takes no charset (RFC 8259 section 8.1)
		body, err = doc.JSON()
	}
	link := linkHeader(append([]feed.Link{{Rel: "self", Href: doc.Self, Type: r.mediaType}}, doc.Links...))
	return &cached{contentType: []string{contentType}, link: []string{link}, body: body}, err
}

func (s *Source) cacheControl(r *request, sp *span) string {
	maxAge, who := int64(s.MaxAge/time.Second), "public"
	if s.Private {
		who = "private"
	}
	var directives []string
	switch {
	case r.Personal:
		return "private, no-cache"
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

const (
	divergedPath = "/problems/history-diverged"
	divergedText = `The history diverged (410)

A cursor stands for the whole history of a feed up to its place. This one stands for a history that this source does
not have: its database was restored from a backup, failed over without the last commits, or was built again.

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
		Type: s.PublicURL + divergedPath, Title: "The history diverged", Status: http.StatusGone,
		Detail: fmt.Sprintf("The cursor %s belongs to another history of this feed, as after the restore of a backup. Start again from %s", r.cursor, again),
		Header: http.Header{"Link": {linkHeader([]feed.Link{{Rel: "start", Href: again}})}},
	}
}
