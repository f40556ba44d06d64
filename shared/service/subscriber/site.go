package subscriber

import (
	"bytes"
	"cmp"
	"context"
	"encoding/csv"
	"fmt"
	"html/template"
	"iter"
	"mime"
	"net/http"
	pathpkg "path"
	"slices"
	"strings"
	"time"

	"github.com/google/uuid"

	"github.com/gin-gonic/gin"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/sync/semaphore"

	"github.com/edison-cars/data-feeds/shared/postgres"
	"github.com/edison-cars/data-feeds/shared/publish"
	"github.com/edison-cars/data-feeds/shared/service"
	"github.com/edison-cars/data-feeds/shared/subscribe"
	"github.com/edison-cars/data-feeds/shared/subscribe/subscribehttp"
	"github.com/edison-cars/data-feeds/shared/trace"
	"github.com/edison-cars/data-feeds/shared/web"
	"github.com/edison-cars/data-feeds/shared/webserver"
)

// A Site is where a service shows its copy: pages that say how fresh it is, and JSON that does so in its headers.
type Site struct {
	DB  *pgxpool.Pool
	Log *publish.Log // of the feeds that the service publishes; nil if it publishes none

	Subscriber *subscribe.Subscriber

	router  *service.Router
	service *Service
	pages   *subscribehttp.Pages
	queued  *web.Slots          // requests that read the database, for what they show, or wait for that
	reads   *semaphore.Weighted // of these, those that read
	paths   []string            // of the service's pages
	feeds   []web.Link          // that the service publishes
	shown   []web.Link          // to those of the pages that are not at / and have no wildcard
}

// Page adds a page that shows what query returns. Pages without a wildcard in their path get a link in the navigation.
// The values of wildcards, as in `/invoices/:number`, are in the request's PathValue.
func (s *Site) Page(path, title string, t *template.Template, query func(*http.Request) (any, error)) {
	s.paths = append(s.paths, path)
	if path != "/" && !strings.ContainsAny(path, ":*") {
		s.shown = append(s.shown, web.Link{Text: title, URL: path})
	}
	webserver.GET(s.router.Operators, path, webserver.Handle(func(c *gin.Context) error {
		subs := s.Subscriber.Status() // before the query: what it reads may be newer than they say, never older
		data, err := s.read(c, query)
		if err != nil {
			return fmt.Errorf("read for page %s: %w", path, err)
		}
		webserver.Render(c, http.StatusOK, t, s.pages.Layout(c.Request, title, subs, data))
		return nil
	}))
}

// JSON adds an address that answers with the result of query. The path is as in [Site.Page]. The header of a [web.List]
// links to its other pages.
func (s *Site) JSON(path string, query func(*http.Request) (any, error)) {
	webserver.GET(s.router.Operators, path, webserver.Handle(func(c *gin.Context) error {
		subs := s.Subscriber.Status() // before the query, as above
		data, err := s.read(c, query)
		if err != nil {
			return fmt.Errorf("read for %s: %w", path, err)
		}
		describe(c, subs)
		if list, ok := data.(interface{ Links() string }); ok && list.Links() != "" {
			c.Header("Link", list.Links())
		}
		web.JSON(c.Writer, c.Request, http.StatusOK, data)
		return nil
	}))
}

// Action adds an address to which operators post. act returns the answer for clients of the API, and the path of the
// page to which browsers are redirected.
func (s *Site) Action(path string, act func(*http.Request) (data any, page string, err error)) {
	s.router.Operators.POST(path, webserver.Handle(func(c *gin.Context) error {
		data, page, err := act(request(c))
		if err != nil {
			return err
		}
		c.Header("Cache-Control", "no-store")
		if web.PrefersHTML(c.Request) {
			c.Redirect(http.StatusSeeOther, page)
			return nil
		}
		web.JSON(c.Writer, c.Request, http.StatusOK, data)
		return nil
	}))
}

// Metrics adds collectors to /metrics.
func (s *Site) Metrics(collectors ...prometheus.Collector) {
	s.router.Metrics.MustRegister(collectors...)
}

// CSV adds an address that answers with rows, a header first, as text/csv (RFC 4180). Browsers store them under the
// last part of the path. Rows are sent as they are read: query itself bounds each read. The path is as in [Site.Page].
func (s *Site) CSV(path string, query func(*http.Request) (iter.Seq2[[]string, error], error)) {
	webserver.GET(s.router.Operators, path, webserver.HandleLong(func(c *gin.Context) error {
		subs := s.Subscriber.Status() // before the query, as above
		rows, err := query(request(c))
		if err != nil {
			return fmt.Errorf("read for %s: %w", path, err)
		}
		describe(c, subs)
		c.Header("Content-Type", "text/csv; charset=utf-8; header=present")
		c.Header("Content-Disposition", mime.FormatMediaType("attachment", map[string]string{"filename": pathpkg.Base(c.Request.URL.Path)}))
		c.Status(http.StatusOK)
		if c.Request.Method == http.MethodHead {
			return nil
		}
		var part bytes.Buffer
		out := csv.NewWriter(&part)
		out.UseCRLF = true
		next, stop := iter.Pull2(rows)
		defer stop()
		for more := true; more; part.Reset() {
			err := s.inTurn(c.Request, func() (err error) {
				var row []string
				for part.Len() < partBytes {
					if row, err, more = next(); err != nil || !more {
						break
					}
					_ = out.Write(row) // into memory
				}
				out.Flush()
				return err
			})
			if err == nil {
				_, err = c.Writer.Write(part.Bytes())
			}
			if err != nil {
				return fmt.Errorf("write %s: %w", path, err)
			}
		}
		return nil
	}))
}

// describe says in the header of an answer how fresh the copies are.
func describe(c *gin.Context, subs []subscribe.Status) {
	for _, sub := range subs {
		c.Writer.Header().Add("Datafeed-Copy", (subscribehttp.Status{Status: sub}).Header())
	}
	c.Header("Cache-Control", "private, no-cache")
}

const (
	maxQueued   = 128             // requests that wait for their turn to read
	turnTimeout = 5 * time.Second // for one of them to have it
	partBytes   = 64 << 10        // of a CSV that are read in one turn
)

func (s *Site) read(c *gin.Context, query func(*http.Request) (any, error)) (data any, err error) {
	err = s.inTurn(c.Request, func() (err error) {
		data, err = query(request(c))
		return err
	})
	return data, err
}

// inTurn bounds how many reads of the database run at once: half of the pool's connections are for them, the others are
// left for health, for polling and for what changes something. A client has a share of the queue. A turn ends before
// its client is sent anything: one that reads slowly keeps no turn from others.
func (s *Site) inTurn(r *http.Request, read func() error) error {
	leave, err := s.queued.Take(web.ClientKey(r))
	if err != nil {
		return err
	}
	defer leave()
	ctx, cancel := context.WithTimeout(r.Context(), turnTimeout)
	defer cancel()
	if s.reads.Acquire(ctx, 1) != nil {
		return web.TryAgain(http.StatusServiceUnavailable, 5, "There are too many requests before this one. Try again in 5 s.")
	}
	defer s.reads.Release(1)
	return read()
}

func request(c *gin.Context) *http.Request {
	for _, p := range c.Params {
		c.Request.SetPathValue(p.Key, strings.TrimPrefix(p.Value, "/"))
	}
	return c.Request
}

func (s *Site) nav() []web.Link {
	nav := slices.Concat([]web.Link{{Text: "Overview", URL: "/"}}, s.shown, []web.Link{{Text: "Subscriptions", URL: "/subscriptions"}}, s.feeds)
	if s.router.MapURL != "" {
		nav = append(nav, web.Link{Text: "Map", URL: s.router.MapURL + "/"})
	}
	return nav
}

// ready returns nil if a copy can be served: one that is there, however old, in a database that answers, and lets its
// tables be read.
func (s *Site) ready(ctx context.Context) error {
	for _, sub := range s.Subscriber.Status() {
		if sub.AsOf == nil && !sub.Detail.Undated && !sub.Detail.Optional {
			return web.Errorf(http.StatusServiceUnavailable, "Not ready: there is no copy of the feed %s yet.", sub.Feed)
		}
	}
	_, err := s.DB.Exec(ctx, `select from subscription limit 0`) // which is missing while a backup is restored
	return cmp.Or(err, postgres.Unlocked(ctx, s.DB, postgres.Read, s.router.Tables))
}

// NewSite returns the site of the service, without routes. A service that publishes has a log.
func NewSite(s *Service, router *service.Router, log *publish.Log) *Site {
	return &Site{DB: router.Pool, Log: log, service: s, router: router}
}

// Route routes health, the pages of the subscriber, and what the service shows.
func (s *Site) Route(to *subscribe.Subscriber) {
	s.Subscriber = to
	s.reads = semaphore.NewWeighted(max(int64(s.DB.Config().MaxConns)/2, 1))
	s.queued = web.NewSlots("requests that read the copy", web.Bound{All: maxQueued, Client: maxQueued / 4})
	s.router.Health(s.ready)
	s.pages = subscribehttp.New(s.Subscriber, subscribehttp.Options{
		Brand: webserver.Brand, Title: s.service.Title, Nav: s.nav, Logger: s.router.Logger,
	})
	s.router.Nav = func(c *gin.Context) []web.Link { return s.pages.Layout(c.Request, "", nil, nil).Nav }
	for _, route := range s.pages.Routes() {
		to := s.router.Readers
		if route.Operator {
			to = s.router.Operators
		}
		path := strings.NewReplacer("{", ":", "}", "").Replace(route.Path)
		if route.Method == http.MethodGet {
			webserver.GET(to, path, gin.WrapH(s.pages))
		} else {
			to.Handle(route.Method, path, gin.WrapH(s.pages))
		}
	}
	if s.service.Routes != nil {
		s.service.Routes(s)
	}
	s.trace()
	if s.service.Publishes != nil {
		s.publish()
	}
	if !slices.Contains(s.paths, "/") {
		webserver.GET(s.router.Operators, "/", func(c *gin.Context) { c.Redirect(http.StatusFound, "/subscriptions") })
	}
}

// trace adds what the service tells of an order.
func (s *Site) trace() {
	layout := func(r *http.Request, title string, data any) web.Page {
		return s.pages.Layout(r, title, s.Subscriber.Status(), data)
	}
	s.router.Trace(layout, func(r *http.Request, id uuid.UUID) (p trace.Part, err error) {
		if s.service.Trace == nil {
			return p, nil
		}
		err = s.inTurn(r, func() (err error) {
			p, err = s.service.Trace(r.Context(), s, id)
			return err
		})
		return p, err
	})
}

func (s *Site) publish() {
	feeds := s.service.Publishes(s.router.PublicURL)
	if len(feeds) == 1 {
		s.feeds = []web.Link{{Text: "Feed", URL: "/feeds/" + feeds[0].Name}}
	} else {
		s.feeds = []web.Link{{Text: "Feeds", URL: "/feeds"}}
	}
	s.router.Publish(s.Log, s.nav(), feeds...)
}
