// Package web is what every HTTP server of the company shares: a gin engine that fails safely,
// problems (RFC 9457), content negotiation, a server that stops gracefully, and the pages' layout and style.
package web

import (
	"context"
	"errors"
	"log/slog"
	"net/http"
	"reflect"
	"runtime"
	"runtime/debug"
	"slices"
	"strings"
	"time"

	"github.com/gin-gonic/gin"
)

// New returns an engine without routes other than the assets. On every answer it sets security headers. It refuses
// cross-origin form posts (403), queries that are not text (400), bodies over 1 MiB (413) and those that take longer than
// 30 s (408), bounds in number those over 8 KiB that it holds at once (429, 503), answers unknown paths (404) and methods (405 with Allow), and turns a panic into a 500, or into a broken
// connection if part of the answer is out already, so that half a page never looks complete. It believes no proxy: see
// Proxies. The observers run around all that, and see every answer as it goes out.
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
	r.Use(streams, secure, answer(logger), guard(http.NewCrossOriginProtection()))
	r.NoRoute(HandleLong(func(*gin.Context) error { return nothingHere() }))
	r.NoMethod(HandleLong(func(c *gin.Context) error {
		return notAllowed(c.Writer.Header().Get("Allow"), c.Request.Method)
	}))
	RouteAssets(r)
	return r
}

func notAllowed(allow, method string) *Problem {
	p := Errorf(http.StatusMethodNotAllowed, "This address takes %s, not %s.", allow, method)
	p.Header = http.Header{"Allow": {allow}}
	return p
}

// GET routes GET and HEAD of path to h; net/http drops the body of an answer to HEAD.
func GET(r gin.IRoutes, path string, h ...gin.HandlerFunc) {
	r.GET(path, h...)
	r.HEAD(path, h...)
}

// GETOnly is [GET] for a path that takes no other method. An engine of [New] refuses these by itself; on any other engine GETOnly
// routes them to a 405 with Allow.
func GETOnly(r gin.IRoutes, path string, h ...gin.HandlerFunc) {
	GET(r, path, h...)
	if isOurs(r) {
		return
	}
	refuse := Handle(func(c *gin.Context) error { return notAllowed("GET, HEAD", c.Request.Method) })
	r.Match([]string{
		http.MethodPost, http.MethodPut, http.MethodPatch, http.MethodDelete, http.MethodOptions, http.MethodConnect, http.MethodTrace,
	}, path, refuse)
}

// isOurs reports whether [New] made the engine of r.
func isOurs(r gin.IRoutes) bool {
	var chain gin.HandlersChain
	switch r := r.(type) {
	case *gin.Engine:
		chain = r.Handlers
	case *gin.RouterGroup:
		chain = r.Handlers
	}
	return slices.ContainsFunc(chain, func(h gin.HandlerFunc) bool { return funcName(h) == secureName })
}

func funcName(h gin.HandlerFunc) string {
	return runtime.FuncForPC(reflect.ValueOf(h).Pointer()).Name()
}

// secureName is in the chain of every handler of an engine of [New], and of no other.
var secureName = funcName(secure)

// RequestTimeout is how long a handler has from when the request is there as a whole: see [Handle].
const RequestTimeout = 8 * time.Second

// Handle makes h's error the answer: a Problem as it is, any other error as a 500, as a 503 where the database is down or the time is
// up, and as nothing where the client is gone. No later handler of the chain runs. The context of the request that h gets ends 8 s
// after its body has arrived. On an engine that [New] did not make, the errors that are logged go to [slog.Default].
func Handle(h func(c *gin.Context) error) gin.HandlerFunc {
	return HandleLong(func(c *gin.Context) error {
		whole := c.Request
		if err := readWhole(whole); err != nil {
			return err
		}
		ctx, cancel := context.WithTimeout(whole.Context(), RequestTimeout)
		defer cancel()
		c.Request = whole.WithContext(ctx)
		defer func() { c.Request = whole }() // the end of that context is not the client's leaving
		return h(c)
	})
}

// HandleLong is [Handle] without a deadline: for streams, and for what waits or has much to do. h bounds each thing that
// it asks the database for by itself.
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
		refuse(c, problemOf(c, err, slog.Default()))
	}
}

const contentSecurityPolicy = "default-src 'none'; style-src 'self'; script-src 'self'; img-src 'self' data:; " +
	"connect-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'"

// FormsMayLeadTo lets the forms of the page that is answered with end in a redirect to another origin, too, such as
// https://cars.example: browsers hold that against form-action.
func FormsMayLeadTo(c *gin.Context, origin string) {
	c.Header("Content-Security-Policy", strings.Replace(contentSecurityPolicy, "form-action 'self'", "form-action 'self' "+origin, 1))
}

// Header fields that all answers share: Set would allocate each.
var policyField, optionsField, referrerField = []string{contentSecurityPolicy}, []string{"nosniff"}, []string{"same-origin"}

func secure(c *gin.Context) {
	h := c.Writer.Header()
	h["Content-Security-Policy"] = policyField
	h["X-Content-Type-Options"] = optionsField
	h["Referrer-Policy"] = referrerField
}

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
				"path", c.Request.URL.Path, "panic", Panicked(p), "stack", string(debug.Stack()))
			c.Abort()
			refuse(c, Errorf(http.StatusInternalServerError, ""))
		}()
		c.Next()
		if last := c.Errors.Last(); last != nil {
			refuse(c, problemOf(c, last.Err, logger))
		}
	}
}

// refuse answers with the problem if the answer can still be chosen, else breaks the connection.
func refuse(c *gin.Context, p *Problem) {
	if p == nil || c.Writer.Written() {
		panic(http.ErrAbortHandler)
	}
	p.write(c)
}

// PostFrom routes POST of path to h, from pages of this origin and of another one, such as https://cars.example, and of no third one.
func PostFrom(r gin.IRoutes, path, origin string, h gin.HandlerFunc) {
	crossOrigin := http.NewCrossOriginProtection()
	if err := crossOrigin.AddTrustedOrigin(origin); err != nil {
		panic(err) // as bad routes do
	}
	r.POST(path, foreign, func(c *gin.Context) {
		if crossOrigin.Check(c.Request) != nil {
			fail(c, Errorf(http.StatusForbidden, "A page of another origin may not send this. Go to %s and start there.", origin))
		}
	}, h)
}

// foreign marks a route that judges by itself which origins may post to it.
func foreign(*gin.Context) {}

var foreignName = funcName(foreign)

// guard refuses addresses that are not text and cross-origin posts of browsers, and bounds the body.
func guard(crossOrigin *http.CrossOriginProtection) gin.HandlerFunc {
	large := NewSlots("requests with large bodies", largeBodies)
	return func(c *gin.Context) {
		req := c.Request
		if req.ContentLength != 0 { // of what is refused as well: net/http reads some of it
			body := boundBody(unwrap(c.Writer), req, large, ClientKey(c))
			req.Body = body
			defer body.done()
		}
		err := checkText(req.URL)
		switch {
		case err != nil:
			fail(c, err)
		case crossOrigin.Check(req) != nil && !slices.Contains(c.HandlerNames(), foreignName):
			fail(c, Errorf(http.StatusForbidden, "A page of another origin may not send this."))
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
