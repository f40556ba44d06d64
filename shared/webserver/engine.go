// Package webserver is the HTTP server of every process: a gin engine that fails safely, its access log, metrics and
// health, and a listener that bounds connections and stops gracefully. Package web has its answers.
package webserver

import (
	"context"
	"errors"
	"html/template"
	"log/slog"
	"net/http"
	"reflect"
	"runtime"
	"runtime/debug"
	"slices"

	"github.com/gin-gonic/gin"

	"github.com/edison-cars/data-feeds/shared/web"
)

// New returns an engine whose only routes are those of the assets. The engine
//
//   - sets security headers on every answer;
//   - refuses cross-origin form posts (403), queries that are not text (400), bodies over 1 MiB (413) and bodies that take
//     longer than 30 s (408);
//   - limits the number of bodies over 8 KiB that it holds at once, and of requests over HTTP/2 (429, 503);
//   - limits the bytes of the answers that clients have not taken: it breaks off the answer that takes the longest;
//   - answers unknown paths (404) and methods (405 with Allow);
//   - answers a panic with a 500, or breaks the connection if part of the answer was sent, so that half a page never looks
//     complete;
//   - believes no proxy: see [Proxies].
//
// The observers run around all that, and see every answer as it is sent.
func New(logger *slog.Logger, observers ...gin.HandlerFunc) *gin.Engine {
	gin.SetMode(gin.ReleaseMode)
	r := gin.New()
	if err := r.SetTrustedProxies(nil); err != nil {
		panic(err)
	}
	r.HandleMethodNotAllowed = true
	// gin's redirects would go out without the headers below.
	r.RedirectTrailingSlash = false
	r.Use(observers...)
	r.Use(streams, untaken(untakenAnswers), secure, answer(logger), guard(http.NewCrossOriginProtection()))
	r.NoRoute(HandleLong(func(*gin.Context) error { return web.NothingHere() }))
	r.NoMethod(HandleLong(func(c *gin.Context) error {
		return web.NotAllowed(c.Writer.Header().Get("Allow"), c.Request.Method)
	}))
	for _, path := range web.AssetPaths() {
		GET(r, path, HandleLong(func(c *gin.Context) error { return web.ServeAsset(c.Writer, c.Request) }))
	}
	return r
}

// GET routes GET and HEAD of path to h; net/http drops the body of an answer to HEAD.
func GET(r gin.IRoutes, path string, h ...gin.HandlerFunc) {
	r.GET(path, h...)
	r.HEAD(path, h...)
}

func funcName(h gin.HandlerFunc) string {
	return runtime.FuncForPC(reflect.ValueOf(h).Pointer()).Name()
}

// secureName is in the chain of every handler of an engine of [New], and of no other.
var secureName = funcName(secure)

// Handle answers with the problem that [web.ProblemOf] returns for the error of h. No later handler of the chain runs
// after an error. The context of the request that h gets ends 8 s after its body has arrived. On an engine that [New]
// did not make, errors are logged to [slog.Default].
func Handle(h func(c *gin.Context) error) gin.HandlerFunc {
	return HandleLong(func(c *gin.Context) error {
		whole := c.Request
		if err := web.ReadWhole(whole); err != nil {
			return err
		}
		ctx, cancel := context.WithTimeout(whole.Context(), web.RequestTimeout)
		defer cancel()
		c.Request = whole.WithContext(ctx)
		defer func() { // the end of that context is not the client's leaving
			if client := web.ClientOf(c.Request); client != nil && web.ClientOf(whole) == nil {
				whole = web.WithClient(whole, client) // h has found it out
			}
			c.Request = whole
		}()
		return h(c)
	})
}

// HandleLong is [Handle] without a deadline. h itself bounds each query to the database.
func HandleLong(h func(c *gin.Context) error) gin.HandlerFunc {
	return func(c *gin.Context) {
		if err := h(c); err != nil {
			fail(c, err)
		}
	}
}

func fail(c *gin.Context, err error) {
	_ = c.Error(err) // it only hands back what it stored
	c.Abort()
	if !slices.Contains(c.HandlerNames(), secureName) { // nobody up the chain answers with it
		refuse(c, web.ProblemOf(c.Request, err, slog.Default()))
	}
}

func secure(c *gin.Context) { web.Secure(c.Writer.Header()) }

// Brand stands before the service's name on every page.
const Brand = "Edison"

// Render answers with a page of the brand, as [web.Render] does, or as for any error if the template fails.
func Render(c *gin.Context, status int, t *template.Template, p web.Page) {
	p.Brand = Brand
	if err := web.Render(c.Writer, c.Request, status, t, p); err != nil {
		fail(c, err)
	}
}

// clientOf returns the request's client, to be changed.
func clientOf(c *gin.Context) *web.Client {
	client := web.ClientOf(c.Request)
	if client == nil {
		client = new(web.Client)
		c.Request = web.WithClient(c.Request, client)
	}
	return client
}

// SetReader sets the name of the request's client, which the client has proved by a token or a session.
func SetReader(c *gin.Context, name string) { clientOf(c).Reader = name }

// SetSession makes pages offer the logout to the operator whose name is returned, unless that is "".
func SetSession(c *gin.Context, name func() string) { clientOf(c).Operator = name }

// Unstored keeps every cache from storing the answer, whatever Cache-Control the handlers set before its status.
func Unstored(c *gin.Context) { c.Writer = unstoredWriter{c.Writer} }

type unstoredWriter struct{ gin.ResponseWriter }

func (w unstoredWriter) WriteHeader(status int) {
	w.Header().Set("Cache-Control", "no-store")
	w.ResponseWriter.WriteHeader(status)
}

func (w unstoredWriter) Unwrap() http.ResponseWriter { return unwrap(w.ResponseWriter) }

// answer turns the errors and panics of the handlers after it into answers.
func answer(logger *slog.Logger) gin.HandlerFunc {
	return func(c *gin.Context) {
		defer func() {
			p := recover()
			if p == nil {
				return
			}
			if err, ok := p.(error); ok && errors.Is(err, http.ErrAbortHandler) {
				panic(p)
			}
			logger.ErrorContext(c.Request.Context(), "handler panicked", "method", c.Request.Method,
				"path", c.Request.URL.Path, "panic", web.Panicked(p), "stack", string(debug.Stack()))
			c.Abort()
			refuse(c, web.Errorf(http.StatusInternalServerError, ""))
		}()
		c.Next()
		if last := c.Errors.Last(); last != nil {
			refuse(c, web.ProblemOf(c.Request, last.Err, logger))
		}
	}
}

// refuse answers with the problem if the answer can still be chosen, else breaks the connection.
func refuse(c *gin.Context, p *web.Problem) {
	if p == nil || c.Writer.Written() {
		panic(http.ErrAbortHandler)
	}
	page := web.Page{Service: "Cars"}
	if look, ok := c.Get(lookKey{}); ok {
		page = look.(func(*gin.Context) web.Page)(c)
	}
	page.Brand = Brand
	p.Write(c.Writer, c.Request, page)
}

type lookKey struct{}

// Look is an observer that makes pages of problems look like the other pages of the service: look returns a page
// without title and content.
func Look(look func(*gin.Context) web.Page) gin.HandlerFunc {
	return func(c *gin.Context) { c.Set(lookKey{}, look) }
}

// PostFrom routes POST of path to h, from pages of this origin and of one other, such as https://cars.example.
func PostFrom(r gin.IRoutes, path, origin string, h gin.HandlerFunc) {
	crossOrigin := http.NewCrossOriginProtection()
	if err := crossOrigin.AddTrustedOrigin(origin); err != nil {
		panic(err) // as bad routes do
	}
	r.POST(path, foreign, func(c *gin.Context) {
		if crossOrigin.Check(c.Request) != nil {
			p := web.Errorf(http.StatusForbidden, "A page of another origin may not send this. Go to %s and start there.", origin)
			p.Links = []string{origin}
			fail(c, p)
		}
	}, h)
}

// foreign marks a route that judges by itself which origins may post to it.
func foreign(*gin.Context) {}

var foreignName = funcName(foreign)

// guard refuses addresses that are not text and cross-origin posts of browsers, and bounds the body.
func guard(crossOrigin *http.CrossOriginProtection) gin.HandlerFunc {
	large := web.NewSlots("requests with large bodies", largeBodies)
	return func(c *gin.Context) {
		req := c.Request
		if conn := connOf(req); conn != nil && req.ProtoMajor > 1 {
			client := conn.client.String()
			release, full := conn.open.requests.Take(client)
			if full != nil {
				conn.open.giveWay() // for the next request
				var many error
				if release, many = conn.open.refusals.Take(client); many != nil {
					panic(http.ErrAbortHandler) // the client does not take refusals, either
				}
			}
			context.AfterFunc(req.Context(), release) // when the client has taken the answer, see streams
			if full != nil {
				fail(c, full)
				return
			}
		}
		if req.ContentLength != 0 { // of what is refused as well: net/http reads some of it
			body := boundBody(unwrap(c.Writer), req, large, web.ClientKey(c.Request))
			req.Body = body
			defer body.done()
		}
		err := web.CheckText(req.URL)
		switch {
		case err != nil:
			fail(c, err)
		case crossOrigin.Check(req) != nil && !slices.Contains(c.HandlerNames(), foreignName):
			fail(c, web.Errorf(http.StatusForbidden, "A page of another origin may not send this."))
		case req.ContentLength > maxBody:
			fail(c, tooLarge())
		default:
			c.Next()
		}
	}
}

// unwrap returns net/http's own writer, which MaxBytesReader asks to close the connection after too large a body.
func unwrap(w http.ResponseWriter) http.ResponseWriter {
	if u, ok := w.(interface{ Unwrap() http.ResponseWriter }); ok {
		return u.Unwrap()
	}
	return w
}
