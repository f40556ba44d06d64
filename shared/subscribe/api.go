package subscribe

import (
	"context"
	"encoding/json"
	"errors"
	"mime"
	"net"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/gin-gonic/gin"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/edison-cars/data-feeds/shared/feed"
	"github.com/edison-cars/data-feeds/shared/web"
	"github.com/edison-cars/data-feeds/shared/webserver"
)

// routeSubscriptions adds what shows and changes subscriptions: JSON for programs; pages and forms for people, who get a page
// back: after a change by 303, after a refusal in its place.
func (s *Site) routeSubscriptions() {
	webserver.GET(s.router.Readers, "/subscriptions", func(c *gin.Context) {
		c.Header("Vary", "Accept")
		subs := s.subscriptions()
		if web.PrefersHTML(c.Request) {
			s.showSubscriptions(c, http.StatusOK, "Subscriptions", subs, nil)
			return
		}
		answer(c, http.StatusOK, subs)
	})
	const at = "/subscriptions/:feed"
	webserver.GET(s.router.Readers, at, s.on(s.subscription, nil))
	webserver.GET(s.router.Readers, at+"/schedule", s.on(s.schedule, nil))
	s.router.Operators.PUT(at+"/schedule", s.on(s.putSchedule, nil))
	s.router.Operators.DELETE(at+"/schedule", s.on(s.deleteSchedule, nil))
	s.router.Operators.POST(at+"/schedule", s.on(s.postSchedule, s.showForm))
	s.router.Operators.POST(at+"/poll", webserver.HandleLong(s.find(s.poll, s.showFeed)))
	s.router.Operators.POST(at+"/pause", s.on(s.pause, s.showFeed))
	s.router.Operators.POST(at+"/resume", s.on(s.resume, s.showFeed))
	s.router.Operators.POST(at+"/resync", s.on(s.resync, s.showFeed))
	webserver.GET(s.router.Operators, at+"/rejected", s.on(s.rejected, nil))
	s.router.Operators.POST(at+"/rejected/retry", webserver.HandleLong(s.find(s.retryAll, s.showRejected)))
	s.router.Operators.POST(at+"/rejected/:id/retry", s.on(s.retry, s.showRejected))
	s.router.Operators.POST(at+"/rejected/:id/drop", s.on(s.drop, s.showRejected))
}

// on hands the poller of the feed to h. What h refuses, refused shows to a browser; nil means as any problem.
func (s *Site) on(h func(*gin.Context, *poller) error, refused func(*gin.Context, *poller, *web.Problem) error) gin.HandlerFunc {
	return webserver.Handle(s.find(h, refused))
}

func (s *Site) find(h func(*gin.Context, *poller) error, refused func(*gin.Context, *poller, *web.Problem) error) func(*gin.Context) error {
	return func(c *gin.Context) error {
		c.Header("Vary", "Accept")
		for _, p := range s.pollers {
			if p.Name != c.Param("feed") {
				continue
			}
			err := h(c, p)
			if problem, ok := errors.AsType[*web.Problem](err); ok && refused != nil && web.PrefersHTML(c.Request) {
				c.Header("Cache-Control", "no-store")
				return refused(c, p, problem)
			}
			return err
		}
		return web.Errorf(http.StatusNotFound, "%s does not subscribe to a feed of this name.", s.service.Title)
	}
}

// answer returns JSON: of a question to be asked again, of a change not to be kept.
func answer(c *gin.Context, status int, v any) {
	c.Header("Cache-Control", "no-store")
	if c.Request.Method == http.MethodGet || c.Request.Method == http.MethodHead {
		c.Header("Cache-Control", "private, no-cache")
	}
	web.JSON(c.Writer, c.Request, status, v)
}

// changed answers that it is done: with the subscription, or by the way to the page that shows it and the notice.
func changed(c *gin.Context, p *poller, status int, notice string) error {
	if web.PrefersHTML(c.Request) {
		seeOther(c, p, "", url.Values{"done": {notice}})
		return nil
	}
	answer(c, status, p.status(time.Now().UTC()))
	return nil
}

func seeOther(c *gin.Context, p *poller, path string, query url.Values) {
	c.Header("Cache-Control", "no-store")
	c.Redirect(http.StatusSeeOther, pathOf(p.Name)+path+"?"+query.Encode())
}

func pathOf(feed string) string { return "/subscriptions/" + url.PathEscape(feed) }

func (s *Site) subscription(c *gin.Context, p *poller) error {
	if web.PrefersHTML(c.Request) {
		return s.showFeed(c, p, nil)
	}
	answer(c, http.StatusOK, p.status(time.Now().UTC()))
	return nil
}

func (s *Site) schedule(c *gin.Context, p *poller) error {
	if web.PrefersHTML(c.Request) {
		return s.showForm(c, p, nil)
	}
	answer(c, http.StatusOK, p.status(time.Now().UTC()))
	return nil
}

func (s *Site) putSchedule(c *gin.Context, p *poller) error {
	if err := wantType(c, "application/json"); err != nil {
		return err
	}
	var w wish
	if err := web.DecodeJSON(c.Request.Body, &w); err != nil {
		if _, ok := errors.AsType[*web.Problem](err); ok { // too large, too slow
			return err
		}
		if wrong, ok := errors.AsType[*json.UnmarshalTypeError](err); ok && takes[wrong.Field] != "" {
			return untuned(web.FieldError{Field: wrong.Field, Detail: takes[wrong.Field]})
		}
		return web.Errorf(http.StatusUnprocessableEntity, `The body is not like {"schedule": "@every 5s", "wait": "25s", "page_size": 1000}: %v.`, err)
	}
	if err := p.row.tune(c.Request.Context(), w, time.Now()); err != nil {
		return err
	}
	return changed(c, p, http.StatusOK, "tuned")
}

func (s *Site) deleteSchedule(c *gin.Context, p *poller) error {
	if err := p.row.untune(c.Request.Context(), time.Now()); err != nil {
		return err
	}
	return changed(c, p, http.StatusOK, "reset")
}

// postSchedule takes the form: a field that is left empty is one that is left out.
func (s *Site) postSchedule(c *gin.Context, p *poller) error {
	if err := wantType(c, "application/x-www-form-urlencoded"); err != nil {
		return err
	}
	if err := c.Request.ParseForm(); err != nil {
		if _, ok := errors.AsType[*web.Problem](err); ok {
			return err
		}
		return web.Errorf(http.StatusUnprocessableEntity, "The body is not a form: %v.", err)
	}
	form := c.Request.PostForm
	if form.Has("reset") {
		return s.deleteSchedule(c, p)
	}
	w := wish{Schedule: form.Get("schedule")}
	if text := form.Get("wait"); text != "" {
		w.Wait = &text
	}
	if text := form.Get("page_size"); text != "" {
		n, err := strconv.Atoi(text)
		if err != nil {
			n = 0 // refused with the field's name
		}
		w.PageSize = &n
	}
	if err := p.row.tune(c.Request.Context(), w, time.Now()); err != nil {
		return err
	}
	return changed(c, p, http.StatusOK, "tuned")
}

func wantType(c *gin.Context, want string) error {
	if got, _, _ := mime.ParseMediaType(c.GetHeader("Content-Type")); got != want {
		p := web.Errorf(http.StatusUnsupportedMediaType, "%s takes %s here.", c.Request.Method, want)
		p.Header = http.Header{"Accept": {want}} // RFC 9110 section 15.5.16
		return p
	}
	return nil
}

func (s *Site) poll(c *gin.Context, p *poller) error {
	if err := p.row.refresh(c.Request.Context()); err != nil { // else it would wait for a database that is down
		return err
	}
	if err := p.requests.pollNow(c.Request.Context()); err != nil {
		return pollProblem(c.Request.Context(), err)
	}
	if err := p.row.refresh(c.Request.Context()); err != nil { // it may have rejected entries
		return err
	}
	return changed(c, p, http.StatusOK, "polled")
}

// pollProblem says how a poll failed.
func pollProblem(ctx context.Context, err error) error {
	var status *feed.StatusError
	var network net.Error
	var noAnswer *feed.NoAnswerError
	var entries *entriesError
	_, database := errors.AsType[*pgconn.PgError](err)
	_, away := errors.AsType[*pgconn.ConnectError](err)
	code := http.StatusInternalServerError
	switch {
	case errors.Is(err, errBusy), ctx.Err() != nil, away, database && web.StatusOf(err) == http.StatusServiceUnavailable: // nobody is there to hear; or web has words for it
		return err
	case errors.Is(err, errStandby):
		return web.Errorf(http.StatusConflict, "Another process of this service polls; this one only serves.")
	case errors.Is(err, context.Canceled):
		return web.Errorf(http.StatusServiceUnavailable, "This process stopped polling in the middle of it.")
	case errors.As(err, &entries): // such as a broker's that is down
		p := web.Errorf(http.StatusServiceUnavailable, "The poll failed: %s.", strings.TrimSuffix(err.Error(), "."))
		p.Header = http.Header{"Retry-After": {"5"}}
		return p
	case database:
	case errors.As(err, &network) && network.Timeout():
		code = http.StatusGatewayTimeout
	case errors.As(err, &status), errors.As(err, &noAnswer), errors.Is(err, feed.ErrPage), errors.Is(err, feed.ErrDiverged):
		code = http.StatusBadGateway
	}
	return web.Errorf(code, "The poll failed: %s.", strings.TrimSuffix(err.Error(), "."))
}

func (s *Site) pause(c *gin.Context, p *poller) error {
	if err := p.row.set(c.Request.Context(), `paused = true`); err != nil {
		return err
	}
	return changed(c, p, http.StatusOK, "paused")
}

func (s *Site) resume(c *gin.Context, p *poller) error {
	if err := p.row.set(c.Request.Context(), `paused = false`); err != nil {
		return err
	}
	return changed(c, p, http.StatusOK, "resumed")
}

func (s *Site) resync(c *gin.Context, p *poller) error {
	if err := p.resync(c.Request.Context()); err != nil {
		return err
	}
	return changed(c, p, http.StatusAccepted, "resyncing")
}
