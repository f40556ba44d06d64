package subscribehttp

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

	"github.com/gin-gonic/gin"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/edison-cars/data-feeds/shared/feed"
	"github.com/edison-cars/data-feeds/shared/subscribe"
	"github.com/edison-cars/data-feeds/shared/web"
)

// Route adds what shows and changes the subscriptions, at /subscriptions: JSON for programs; pages and forms for people, who get a page
// back: after a change by 303, after a refusal in its place. What shows them is for readers, what changes them and shows
// entries for operators: both routers are of one engine, which leads others than those away.
func (p *Pages) Route(readers, operators gin.IRoutes) {
	const at = "/subscriptions/:feed"
	web.GET(readers, "/subscriptions", p.showAll)
	web.GET(readers, at, p.on(p.subscription, nil))
	web.GET(readers, at+"/schedule", p.on(p.schedule, nil))
	operators.PUT(at+"/schedule", p.on(p.putSchedule, nil))
	operators.DELETE(at+"/schedule", p.on(p.deleteSchedule, nil))
	operators.POST(at+"/schedule", p.on(p.postSchedule, p.showForm))
	operators.POST(at+"/poll", web.HandleLong(p.find(p.poll, p.showFeed)))
	operators.POST(at+"/pause", p.on(p.pause, p.showFeed))
	operators.POST(at+"/resume", p.on(p.resume, p.showFeed))
	operators.POST(at+"/resync", p.on(p.resync, p.showFeed))
	web.GET(operators, at+"/rejected", p.on(p.rejected, nil))
	operators.POST(at+"/rejected/retry", web.HandleLong(p.find(p.retryAll, p.showRejected)))
	operators.POST(at+"/rejected/:id/retry", p.on(p.retry, p.showRejected))
	operators.POST(at+"/rejected/:id/drop", p.on(p.drop, p.showRejected))
}

// A handler answers a request for a subscription.
type handler func(*gin.Context, *subscribe.Subscription) error

// on hands the subscription to h. What h refuses, refused shows to a browser; nil means as any problem.
func (p *Pages) on(h handler, refused func(*gin.Context, *subscribe.Subscription, *web.Problem) error) gin.HandlerFunc {
	return web.Handle(p.find(h, refused))
}

func (p *Pages) find(h handler, refused func(*gin.Context, *subscribe.Subscription, *web.Problem) error) func(*gin.Context) error {
	return func(c *gin.Context) error {
		c.Header("Vary", "Accept")
		s := p.subscriber.Subscription(c.Param("feed"))
		if s == nil {
			return web.Errorf(http.StatusNotFound, "%s does not subscribe to a feed of this name.", p.config.Title)
		}
		err := problem(h(c, s))
		if problem, ok := errors.AsType[*web.Problem](err); ok && refused != nil && web.PrefersHTML(c) {
			c.Header("Cache-Control", "no-store")
			return refused(c, s, problem)
		}
		return err
	}
}

// problem returns the problem that an error of a subscription is, or the error if it is none.
func problem(err error) error {
	if again, ok := errors.AsType[*subscribe.RetryError](err); ok {
		return web.Errorf(http.StatusUnprocessableEntity, "It was refused again: %s.", again.Reason)
	}
	if tune, ok := errors.AsType[*subscribe.TuneError](err); ok {
		p := web.Errorf(http.StatusUnprocessableEntity, "Nothing was changed.")
		for _, f := range tune.Fields {
			p.Errors = append(p.Errors, web.FieldError(f))
		}
		return p
	}
	later := func(detail string) error {
		p := web.Errorf(http.StatusServiceUnavailable, "%s", detail)
		p.Header = http.Header{"Retry-After": {"5"}}
		return p
	}
	switch {
	case errors.Is(err, subscribe.ErrNotRejected):
		return errNotRejected
	case errors.Is(err, subscribe.ErrApplying):
		return later("Entries of this feed are being applied. Try again later; a resync tries all rejected entries again by itself.")
	case errors.Is(err, subscribe.ErrBusy):
		return later("Another poll of this feed is under way. Try again in 5 s.")
	}
	return err
}

var errNotRejected = web.Errorf(http.StatusNotFound, "No version of this entity is rejected.")

// answer returns JSON: of a question to be asked again, of a change not to be kept.
func answer(c *gin.Context, status int, v any) {
	c.Header("Cache-Control", "no-store")
	if c.Request.Method == http.MethodGet || c.Request.Method == http.MethodHead {
		c.Header("Cache-Control", "private, no-cache")
	}
	web.JSON(c, status, v)
}

// changed answers that it is done: with the subscription, or by the way to the page that shows it and the notice.
func changed(c *gin.Context, s *subscribe.Subscription, status int, notice string) error {
	if web.PrefersHTML(c) {
		seeOther(c, s, "", url.Values{"done": {notice}})
		return nil
	}
	answer(c, status, s.Status())
	return nil
}

func seeOther(c *gin.Context, s *subscribe.Subscription, path string, query url.Values) {
	c.Header("Cache-Control", "no-store")
	c.Redirect(http.StatusSeeOther, pathOf(s.Status().Feed)+path+"?"+query.Encode())
}

func pathOf(feed string) string { return "/subscriptions/" + url.PathEscape(feed) }

func (p *Pages) subscription(c *gin.Context, s *subscribe.Subscription) error {
	if web.PrefersHTML(c) {
		return p.showFeed(c, s, nil)
	}
	answer(c, http.StatusOK, s.Status())
	return nil
}

func (p *Pages) schedule(c *gin.Context, s *subscribe.Subscription) error {
	if web.PrefersHTML(c) {
		return p.showForm(c, s, nil)
	}
	answer(c, http.StatusOK, s.Status())
	return nil
}

func (p *Pages) putSchedule(c *gin.Context, s *subscribe.Subscription) error {
	if err := wantType(c, "application/json"); err != nil {
		return err
	}
	var w subscribe.TuneRequest
	if err := web.DecodeJSON(c.Request.Body, &w); err != nil {
		if _, ok := errors.AsType[*web.Problem](err); ok { // too large, too slow
			return err
		}
		if wrong, ok := errors.AsType[*json.UnmarshalTypeError](err); ok && subscribe.BadField(wrong.Field) != nil {
			return subscribe.BadField(wrong.Field)
		}
		return web.Errorf(http.StatusUnprocessableEntity, `The body is not like {"schedule": "@every 5s", "wait": "25s", "page_size": 1000}: %v.`, err)
	}
	if err := s.Tune(c.Request.Context(), w); err != nil {
		return err
	}
	return changed(c, s, http.StatusOK, "tuned")
}

func (p *Pages) deleteSchedule(c *gin.Context, s *subscribe.Subscription) error {
	if err := s.ResetTuning(c.Request.Context()); err != nil {
		return err
	}
	return changed(c, s, http.StatusOK, "reset")
}

// postSchedule takes the form: a field that is left empty is one that is left out.
func (p *Pages) postSchedule(c *gin.Context, s *subscribe.Subscription) error {
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
		return p.deleteSchedule(c, s)
	}
	w := subscribe.TuneRequest{Schedule: form.Get("schedule")}
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
	if err := s.Tune(c.Request.Context(), w); err != nil {
		return err
	}
	return changed(c, s, http.StatusOK, "tuned")
}

func wantType(c *gin.Context, want string) error {
	if got, _, _ := mime.ParseMediaType(c.GetHeader("Content-Type")); got != want {
		p := web.Errorf(http.StatusUnsupportedMediaType, "%s takes %s here.", c.Request.Method, want)
		p.Header = http.Header{"Accept": {want}} // RFC 9110 section 15.5.16
		return p
	}
	return nil
}

func (p *Pages) poll(c *gin.Context, s *subscribe.Subscription) error {
	if err := s.Poll(c.Request.Context()); err != nil {
		return pollProblem(c.Request.Context(), err)
	}
	return changed(c, s, http.StatusOK, "polled")
}

// pollProblem says how a poll failed.
func pollProblem(ctx context.Context, err error) error {
	_, failed := errors.AsType[*subscribe.PollError](err)
	var status *feed.StatusError
	var network net.Error
	var noAnswer *feed.NoAnswerError
	_, database := errors.AsType[*pgconn.PgError](err)
	_, away := errors.AsType[*pgconn.ConnectError](err)
	code := http.StatusInternalServerError
	switch {
	case !failed && !errors.Is(err, context.Canceled), ctx.Err() != nil, away, database && web.StatusOf(err) == http.StatusServiceUnavailable: // nobody is there to hear; or web has words for it
		return err
	case errors.Is(err, subscribe.ErrStandby):
		return web.Errorf(http.StatusConflict, "Another process of this service polls; this one only serves.")
	case errors.Is(err, context.Canceled):
		return web.Errorf(http.StatusServiceUnavailable, "This process stopped polling in the middle of it.")
	case errors.Is(err, subscribe.ErrEntries): // such as a broker's that is down
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

func (p *Pages) pause(c *gin.Context, s *subscribe.Subscription) error {
	if err := s.Pause(c.Request.Context()); err != nil {
		return err
	}
	return changed(c, s, http.StatusOK, "paused")
}

func (p *Pages) resume(c *gin.Context, s *subscribe.Subscription) error {
	if err := s.Resume(c.Request.Context()); err != nil {
		return err
	}
	return changed(c, s, http.StatusOK, "resumed")
}

func (p *Pages) resync(c *gin.Context, s *subscribe.Subscription) error {
	if err := s.Resync(c.Request.Context()); err != nil {
		return err
	}
	return changed(c, s, http.StatusAccepted, "resyncing")
}
