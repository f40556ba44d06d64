// Package subscribehttp shows the subscriptions of a [subscribe.Subscriber] and changes them: pages for people and JSON
// for programs, in one [http.Handler].
package subscribehttp

import (
	"context"
	"errors"
	"fmt"
	"mime"
	"net"
	"net/http"
	"net/url"
	"strconv"
	"strings"

	"github.com/jackc/pgx/v5/pgconn"

	"github.com/edison-cars/data-feeds/shared/feed"
	"github.com/edison-cars/data-feeds/shared/feedclient"
	"github.com/edison-cars/data-feeds/shared/subscribe"
	"github.com/edison-cars/data-feeds/shared/web"
)

// A Route is an address of the pages.
type Route struct {
	Method, Path string // of an [http.ServeMux]: GET, which is HEAD as well, and /subscriptions/{feed}
	// Operator is true if the answer shows entries, or the request changes something.
	Operator bool
	handler  func(http.ResponseWriter, *http.Request) error
}

// Routes returns the addresses of the pages, for routers with access rules: route each one to p.
func (p *Pages) Routes() []Route {
	const at = "/subscriptions/{feed}"
	return []Route{
		{"GET", "/subscriptions", false, inTime(p.showAll)},
		{"GET", at, false, p.on(show(p.showFeed), nil)},
		{"GET", at + "/polls", false, p.on(p.polls, nil)},
		{"GET", at + "/schedule", false, p.on(p.schedule, p.showForm)},
		{"PUT", at + "/schedule", true, p.on(putSchedule, nil)},
		{"DELETE", at + "/schedule", true, p.on(deleteSchedule, nil)},
		{"POST", at + "/schedule", true, p.on(postSchedule, p.showForm)},
		{"POST", at + "/poll", true, p.find(poll, p.showFeed)},
		{"POST", at + "/pause", true, p.on(pause, p.showFeed)},
		{"POST", at + "/resume", true, p.on(resume, p.showFeed)},
		{"POST", at + "/resync", true, p.on(resync, p.showFeed)},
		{"POST", at + "/forget", true, inTime(p.forget)},
		{"GET", at + "/rejected", true, p.on(p.rejected, nil)},
		{"POST", at + "/rejected/retry", true, p.find(p.retryAll, p.showRejected)},
		{"POST", at + "/rejected/{id}/retry", true, p.on(p.retry, p.showRejected)},
		{"POST", at + "/rejected/{id}/drop", true, p.on(p.drop, p.showRejected)},
	}
}

// maxBody is how long a body may be: a schedule is shorter.
const maxBody = 64 << 10

// ServeHTTP answers at /subscriptions, below it, and, for the style of the pages, in /assets/: JSON for programs; pages
// and forms for people, who get a page back: after a change by 303, after a refusal in its place. It refuses forms of
// other origins, but lets anybody else change what it shows: the caller keeps strangers away.
func (p *Pages) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	web.Secure(w.Header())
	r.Body = http.MaxBytesReader(w, r.Body, maxBody)
	p.mux.ServeHTTP(w, r)
}

// route returns what serves the routes, and refuses all else.
func (p *Pages) route() *http.ServeMux {
	mux := http.NewServeMux()
	methods := map[string][]string{}
	crossOrigin := http.NewCrossOriginProtection()
	for _, route := range p.Routes() {
		methods[route.Path] = append(methods[route.Path], route.Method)
		p.handle(mux, route.Method+" "+route.Path, func(w http.ResponseWriter, r *http.Request) error {
			if crossOrigin.Check(r) != nil {
				return web.Errorf(http.StatusForbidden, "A page of another origin may not send this.")
			}
			return route.handler(w, r)
		})
	}
	for path, allowed := range methods {
		allow := strings.Replace(strings.Join(allowed, ", "), "GET", "GET, HEAD", 1)
		p.handle(mux, path, func(_ http.ResponseWriter, r *http.Request) error { return web.NotAllowed(allow, r.Method) })
	}
	p.handle(mux, "GET /assets/", web.ServeAsset)
	p.handle(mux, "/", func(http.ResponseWriter, *http.Request) error { return web.NothingHere() })
	return mux
}

func (p *Pages) handle(mux *http.ServeMux, pattern string, h func(http.ResponseWriter, *http.Request) error) {
	mux.HandleFunc(pattern, func(w http.ResponseWriter, r *http.Request) {
		if err := h(w, r); err != nil {
			web.Refuse(w, r, err, p.options.Logger, p.Layout(r, "", nil, nil))
		}
	})
}

// inTime reads the body, and then calls h with the deadline of a request that does not wait.
func inTime(h func(http.ResponseWriter, *http.Request) error) func(http.ResponseWriter, *http.Request) error {
	return func(w http.ResponseWriter, r *http.Request) error {
		if err := web.ReadWhole(r); err != nil {
			return err
		}
		ctx, cancel := context.WithTimeout(r.Context(), web.RequestTimeout)
		defer cancel()
		return h(w, r.WithContext(ctx))
	}
}

type handler func(http.ResponseWriter, *http.Request, *subscribe.Subscription) error

// A refusal answers a browser with the page that its request came from, and the problem.
type refusal func(http.ResponseWriter, *http.Request, *subscribe.Subscription, *web.Problem) error

// on is find with the deadline of [inTime].
func (p *Pages) on(h handler, refused refusal) func(http.ResponseWriter, *http.Request) error {
	return inTime(p.find(h, refused))
}

// find calls h with the subscription. If h returns a problem, refused shows it to a browser; nil means the page of any
// problem.
func (p *Pages) find(h handler, refused refusal) func(http.ResponseWriter, *http.Request) error {
	return func(w http.ResponseWriter, r *http.Request) error {
		w.Header().Set("Vary", "Accept")
		s := p.subscriber.Subscription(r.PathValue("feed"))
		if s == nil {
			return web.Errorf(http.StatusNotFound, "%s does not subscribe to a feed of this name.", p.options.Title)
		}
		err := problem(h(w, r, s))
		if problem, ok := errors.AsType[*web.Problem](err); ok && refused != nil && web.PrefersHTML(r) {
			w.Header().Set("Cache-Control", "no-store")
			return refused(w, r, s, problem)
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
	switch {
	case errors.Is(err, subscribe.ErrNotRejected):
		return errNotRejected
	case errors.Is(err, subscribe.ErrApplying):
		return web.TryAgain(http.StatusServiceUnavailable, 5, "Entries of this feed are being applied. Try again later; a resync tries all rejected entries again by itself.")
	case errors.Is(err, subscribe.ErrBusy):
		return web.TryAgain(http.StatusServiceUnavailable, 5, "Another poll of this feed is under way. Try again in 5 s.")
	case errors.Is(err, subscribe.ErrUnknown):
		return fmt.Errorf("%w: %w", web.TryAgain(http.StatusServiceUnavailable, 5,
			"The database did not confirm in time whether the change was made. It may still take effect: look at it before you change anything again."), err)
	case errors.Is(err, subscribe.ErrStandby):
		return web.Errorf(http.StatusConflict, "Another process of this service polls; this one only serves.")
	}
	return err
}

var errNotRejected = web.Errorf(http.StatusNotFound, "No version of this entity is rejected.")

// answer returns JSON: of a question to be asked again, of a change not to be kept.
func answer(w http.ResponseWriter, r *http.Request, status int, v any) {
	w.Header().Set("Cache-Control", "no-store")
	if r.Method == http.MethodGet || r.Method == http.MethodHead {
		w.Header().Set("Cache-Control", "private, no-cache")
	}
	web.JSON(w, r, status, v)
}

// changed answers that it is done: with the subscription, or by the way to the page that shows it and the notice.
func changed(w http.ResponseWriter, r *http.Request, s *subscribe.Subscription, status int, notice string) error {
	if web.PrefersHTML(r) {
		seeOther(w, r, s, "", url.Values{"done": {notice}})
		return nil
	}
	answer(w, r, status, s.Status())
	return nil
}

func seeOther(w http.ResponseWriter, r *http.Request, s *subscribe.Subscription, path string, query url.Values) {
	w.Header().Set("Cache-Control", "no-store")
	http.Redirect(w, r, pathOf(s.Status().Feed)+path+"?"+query.Encode(), http.StatusSeeOther)
}

func pathOf(feed string) string { return "/subscriptions/" + url.PathEscape(feed) }

func show(page refusal) handler {
	return func(w http.ResponseWriter, r *http.Request, s *subscribe.Subscription) error {
		if web.PrefersHTML(r) {
			return page(w, r, s, nil)
		}
		answer(w, r, http.StatusOK, s.Status())
		return nil
	}
}

// polls answers with the last polls; a page shows them below the subscription.
func (p *Pages) polls(w http.ResponseWriter, r *http.Request, s *subscribe.Subscription) error {
	if web.PrefersHTML(r) {
		return p.showFeed(w, r, s, nil)
	}
	list, err := s.Polls(r.Context())
	if err != nil {
		return err
	}
	answer(w, r, http.StatusOK, list)
	return nil
}

func change(method func(*subscribe.Subscription, context.Context) error, status int, notice string) handler {
	return func(w http.ResponseWriter, r *http.Request, s *subscribe.Subscription) error {
		if err := method(s, r.Context()); err != nil {
			return err
		}
		return changed(w, r, s, status, notice)
	}
}

var (
	deleteSchedule = change((*subscribe.Subscription).ResetTuning, http.StatusOK, "reset")
	pause          = change((*subscribe.Subscription).Pause, http.StatusOK, "paused")
	resume         = change((*subscribe.Subscription).Resume, http.StatusOK, "resumed")
	resync         = change((*subscribe.Subscription).Resync, http.StatusAccepted, "resyncing")
)

// forget deletes what the copy has of a source that was removed. If there is more than the time allows, the answer says so.
func (p *Pages) forget(w http.ResponseWriter, r *http.Request) error {
	w.Header().Set("Vary", "Accept")
	ctx, cancel := context.WithTimeout(r.Context(), forgetTime)
	defer cancel()
	err := p.subscriber.Forget(ctx, r.PathValue("feed"))
	switch {
	case errors.Is(err, subscribe.ErrNoSource):
		return web.Errorf(http.StatusNotFound, "%s has nothing of a source of this name that was removed.", p.options.Title)
	case errors.Is(err, subscribe.ErrSubscribed):
		return web.Errorf(http.StatusConflict, "%s subscribes to this source. Take it out of the settings and start the service again first.", p.options.Title)
	case err != nil && errors.Is(ctx.Err(), context.DeadlineExceeded):
		return web.TryAgain(http.StatusServiceUnavailable, 1, "Part of the source is forgotten, and there is more. Ask again to go on.")
	case err != nil:
		return problem(err)
	}
	if web.PrefersHTML(r) {
		w.Header().Set("Cache-Control", "no-store")
		http.Redirect(w, r, "/subscriptions?done=forgotten", http.StatusSeeOther)
		return nil
	}
	removed, err := p.removed(r)
	if err != nil {
		return err
	}
	answer(w, r, http.StatusOK, removed)
	return nil
}

// forgetTime is how long one request forgets.
const forgetTime = web.RequestTimeout / 2

// removed returns the sources that were removed and not forgotten, in a list that is not null.
func (p *Pages) removed(r *http.Request) ([]subscribe.RemovedSource, error) {
	removed, err := p.subscriber.Removed(r.Context())
	return append([]subscribe.RemovedSource{}, removed...), err
}

func putSchedule(w http.ResponseWriter, r *http.Request, s *subscribe.Subscription) error {
	if err := wantType(r, "application/json"); err != nil {
		return err
	}
	var tune subscribe.TuneRequest
	if err := web.DecodeJSON(r.Body, &tune); err != nil {
		if _, ok := errors.AsType[*web.Problem](err); ok { // too large, too slow
			return err
		}
		if wrong, ok := errors.AsType[web.FieldError](err); ok && wrong.Detail == web.OtherType && subscribe.BadField(wrong.Field) != nil {
			return subscribe.BadField(wrong.Field)
		}
		return web.Errorf(http.StatusUnprocessableEntity, `The body is not like {"schedule": "@every 5s", "wait": "25s", "page_size": 1000}: %v.`, err)
	}
	if err := s.Tune(r.Context(), tune); err != nil {
		return err
	}
	return changed(w, r, s, http.StatusOK, "tuned")
}

// postSchedule takes the form: a field that is left empty is one that is left out.
func postSchedule(w http.ResponseWriter, r *http.Request, s *subscribe.Subscription) error {
	if err := wantType(r, "application/x-www-form-urlencoded"); err != nil {
		return err
	}
	if err := r.ParseForm(); err != nil {
		if _, ok := errors.AsType[*web.Problem](err); ok {
			return err
		}
		return web.Errorf(http.StatusUnprocessableEntity, "The body is not a form: %v.", err)
	}
	form := r.PostForm
	if form.Has("reset") {
		return deleteSchedule(w, r, s)
	}
	if err := s.Tune(r.Context(), tuneRequest(form)); err != nil {
		return err
	}
	return changed(w, r, s, http.StatusOK, "tuned")
}

// tuneRequest returns the settings of a form or of a query.
func tuneRequest(form url.Values) subscribe.TuneRequest {
	tune := subscribe.TuneRequest{Schedule: form.Get("schedule")}
	if text := form.Get("wait"); text != "" {
		tune.Wait = &text
	}
	if text := form.Get("page_size"); text != "" {
		n, err := strconv.Atoi(text)
		if err != nil {
			n = 0 // refused with the field's name
		}
		tune.PageSize = &n
	}
	return tune
}

func wantType(r *http.Request, want string) error {
	if got, _, _ := mime.ParseMediaType(r.Header.Get("Content-Type")); got != want {
		p := web.Errorf(http.StatusUnsupportedMediaType, "%s takes %s here.", r.Method, want)
		p.Header = http.Header{"Accept": {want}} // RFC 9110 section 15.5.16
		return p
	}
	return nil
}

func poll(w http.ResponseWriter, r *http.Request, s *subscribe.Subscription) error {
	if err := s.Poll(r.Context()); err != nil {
		return pollProblem(r.Context(), err)
	}
	return changed(w, r, s, http.StatusOK, "polled")
}

func pollProblem(ctx context.Context, err error) error {
	_, failed := errors.AsType[*subscribe.PollError](err)
	var status *feedclient.StatusError
	var network net.Error
	var noAnswer *feedclient.NoAnswerError
	_, database := errors.AsType[*pgconn.PgError](err)
	_, away := errors.AsType[*pgconn.ConnectError](err)
	code := http.StatusInternalServerError
	switch {
	case !failed && errors.Is(ctx.Err(), context.DeadlineExceeded): // of the router around us
		return web.TryAgain(http.StatusServiceUnavailable, 5, "The poll goes on, but this request has no more time. The subscription shows how it ends.")
	case !failed && !errors.Is(err, context.Canceled), errors.Is(ctx.Err(), context.Canceled), away, database && web.StatusOf(err) == http.StatusServiceUnavailable: // nobody is there to hear; or web has words for it
		return err
	case errors.Is(err, context.Canceled):
		return web.Errorf(http.StatusServiceUnavailable, "This process stopped polling in the middle of it.")
	case errors.Is(err, subscribe.ErrEntries): // such as a broker's that is down
		return web.TryAgain(http.StatusServiceUnavailable, 5, "The poll failed: %s.", strings.TrimSuffix(err.Error(), "."))
	case database:
	case errors.As(err, &network) && network.Timeout():
		code = http.StatusGatewayTimeout
	case errors.As(err, &status), errors.As(err, &noAnswer), errors.Is(err, feed.ErrPage), errors.Is(err, feedclient.ErrDiverged), errors.Is(err, subscribe.ErrIncomplete):
		code = http.StatusBadGateway
	}
	return web.Errorf(code, "The poll failed: %s.", strings.TrimSuffix(err.Error(), "."))
}
