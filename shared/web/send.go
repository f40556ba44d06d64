package web

import (
	"context"
	"net/http"
	"strconv"
	"strings"
	"time"
)

// RequestTimeout limits a request that does not wait for something new.
const RequestTimeout = 8 * time.Second

const contentSecurityPolicy = "default-src 'none'; style-src 'self'; script-src 'self'; img-src 'self' data:; " +
	"connect-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'"

// Header fields that all answers share: Set would allocate each.
var policyField, optionsField, referrerField = []string{contentSecurityPolicy}, []string{"nosniff"}, []string{"same-origin"}

// Secure sets the header fields of an answer that bound what a browser does with it.
func Secure(h http.Header) {
	h["Content-Security-Policy"] = policyField
	h["X-Content-Type-Options"] = optionsField
	h["Referrer-Policy"] = referrerField
}

// FormsMayLeadTo lets the forms of the answered page end in a redirect to another origin, such as https://cars.example.
func FormsMayLeadTo(h http.Header, origin string) {
	h.Set("Content-Security-Policy", strings.Replace(contentSecurityPolicy, "form-action 'self'", "form-action 'self' "+origin, 1))
}

// Data removes the fields that only a browser that shows a document needs, from an answer that is data for programs.
func Data(h http.Header) {
	delete(h, "Content-Security-Policy")
	delete(h, "Referrer-Policy")
}

// NotModified answers 304, without the fields that [Secure] sets (RFC 9110 section 15.4.5).
func NotModified(w http.ResponseWriter) {
	Data(w.Header())
	delete(w.Header(), "X-Content-Type-Options")
	w.WriteHeader(http.StatusNotModified)
}

// Send answers with the body and its length, which net/http does not know for HEAD.
func Send(w http.ResponseWriter, r *http.Request, status int, contentType string, body []byte) {
	h := w.Header()
	h.Set("Content-Type", contentType)
	h.Set("Content-Length", strconv.Itoa(len(body)))
	SendBody(w, r, status, body)
}

// SendBody is Send where Content-Type and Content-Length are set already.
func SendBody(w http.ResponseWriter, r *http.Request, status int, body []byte) {
	w.WriteHeader(status)
	if r.Method == http.MethodHead {
		body = nil
	}
	write := func() { _, _ = w.Write(body) } // the client is gone if it fails
	if together, ok := r.Context().Value(togetherKey{}).(func(func())); ok && r.ProtoMajor < 2 {
		together(write)
	} else {
		write()
	}
}

type togetherKey struct{}

// WithTogether returns a context in which together sends what [SendBody] writes in one packet, if it can.
func WithTogether(ctx context.Context, together func(write func())) context.Context {
	return context.WithValue(ctx, togetherKey{}, together)
}

type stoppingKey struct{}

// WithStopping returns the context of a request that is to end when stop is closed: see [Stopping].
func WithStopping(ctx context.Context, stop <-chan struct{}) context.Context {
	return context.WithValue(ctx, stoppingKey{}, stop)
}

// Stopping returns the channel that is closed when the request of the context is to end, such as before the server
// stops: a handler that waits must end then. In other contexts it returns nil.
func Stopping(ctx context.Context) <-chan struct{} {
	stop, _ := ctx.Value(stoppingKey{}).(<-chan struct{})
	return stop
}
