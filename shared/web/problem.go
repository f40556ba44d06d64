package web

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"html/template"
	"io"
	"log/slog"
	"maps"
	"net"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/jackc/pgx/v5/pgconn"
)

// A Problem is an error that is the answer to a request (RFC 9457). Strangers read it: it says what to do, and tells
// nothing internal.
type Problem struct {
	// Type is a URI reference; empty means about:blank, the status code says it all.
	Type string `json:"type,omitempty"`
	// Title defaults to the status text.
	Title  string       `json:"title"`
	Status int          `json:"status"`
	Detail string       `json:"detail,omitempty"`
	Errors []FieldError `json:"errors,omitempty"`
	// Links are the addresses in Detail that a page shows as links, beside the paths in it.
	Links []string `json:"-"`
	// Header replaces fields of the answer's header; its keys are canonical.
	Header http.Header `json:"-"`
}

// A FieldError says what is wrong with one field of a request.
type FieldError struct {
	Field  string `json:"field"`
	Detail string `json:"detail"`
}

func (e FieldError) Error() string { return fmt.Sprintf("the field %.100q %s", e.Field, e.Detail) }

// linked returns the text as HTML, with links at the words that are paths of this server or one of the addresses. Other
// addresses may be those of a stranger.
func linked(text string, addresses []string) template.HTML {
	words := strings.Split(text, " ")
	for i, word := range words {
		address := strings.TrimRight(word, ".,:;")
		isPath := len(address) > 1 && address[0] == '/' && address[1] >= 'a' && address[1] <= 'z'
		escaped := template.HTMLEscapeString(address)
		if isPath || slices.Contains(addresses, address) {
			escaped = `<a href="` + escaped + `">` + escaped + `</a>`
		}
		words[i] = escaped + word[len(address):]
	}
	return template.HTML(strings.Join(words, " "))
}

// Errorf returns a plain problem: about:blank with a detail, which may be empty.
func Errorf(status int, format string, args ...any) *Problem {
	return &Problem{Status: status, Detail: fmt.Sprintf(format, args...)}
}

// TryAgain is [Errorf] for a request that may be repeated after so many seconds.
func TryAgain(status, seconds int, format string, args ...any) *Problem {
	p := Errorf(status, format, args...)
	p.Header = http.Header{"Retry-After": {strconv.Itoa(seconds)}}
	return p
}

func (p *Problem) Error() string {
	var text strings.Builder
	text.WriteString(strconv.Itoa(p.Status) + " " + p.title())
	if p.Detail != "" {
		text.WriteString(": " + p.Detail)
	}
	for _, e := range p.Errors {
		text.WriteString("; " + e.Field + ": " + e.Detail)
	}
	return text.String()
}

// Wrong returns what is wrong with a field, or "". The problem may be nil.
func (p *Problem) Wrong(field string) string {
	if p != nil {
		for _, e := range p.Errors {
			if e.Field == field {
				return e.Detail
			}
		}
	}
	return ""
}

func (p *Problem) title() string { return cmp.Or(p.Title, http.StatusText(p.Status)) }

// NotAllowed returns the problem for a method that an address does not take.
func NotAllowed(allow, method string) *Problem {
	p := Errorf(http.StatusMethodNotAllowed, "This address takes %s, not %s.", allow, method)
	p.Header = http.Header{"Allow": {allow}}
	return p
}

// NothingHere returns the problem for an unknown address.
func NothingHere() *Problem { return Errorf(http.StatusNotFound, "There is nothing at this address.") }

// ProblemOf returns the problem with which err is answered: the one that err is or wraps, a 503 if the database is down
// or the time is up, or else a 500. It logs the latter two, and any error that wraps a problem with a status of 500 or
// more. It returns nil if the client is gone.
func ProblemOf(r *http.Request, err error, logger *slog.Logger) *Problem {
	ctx := r.Context()
	p := ProblemIn(err)
	switch {
	case p != nil:
		if _, own := errors.AsType[*Problem](err); own && p.Status >= http.StatusInternalServerError && err.Error() != p.Error() {
			logger.WarnContext(ctx, "request refused", "method", r.Method, "path", r.URL.Path, "error", Unquoted(err))
		}
		return p
	case errors.Is(ctx.Err(), context.Canceled) && isAway(err): // a deadline of the router around us is not the client's leaving
		return nil
	}
	where := []any{"method", r.Method, "path", r.URL.Path, "error", Unquoted(err)}
	if refused, ok := errors.AsType[*pgconn.PgError](err); ok && refused.Code == "55P03" {
		logger.WarnContext(ctx, "request waited for a lock", where...)
		return TryAgain(http.StatusServiceUnavailable, 1, "Somebody else is changing this at the moment. Nothing was changed; try again in a few seconds.")
	}
	if isAway(err) {
		logger.WarnContext(ctx, "database unavailable", where...)
		return TryAgain(http.StatusServiceUnavailable, 5, "The service cannot use its database at the moment. Try again in a few seconds.")
	}
	logger.ErrorContext(ctx, "request failed", where...)
	return Errorf(http.StatusInternalServerError, "")
}

// A passing error is the error of a library that says when to try again. Its text may be shown to anybody.
type passing interface {
	error
	RetryAfter() time.Duration
}

// ProblemIn returns the problem that err is or wraps, a 503 for a passing error, or nil if there is none.
func ProblemIn(err error) *Problem {
	if p, ok := errors.AsType[*Problem](err); ok {
		return p
	}
	if unavailable, ok := errors.AsType[passing](err); ok {
		return TryAgain(http.StatusServiceUnavailable, int(unavailable.RetryAfter()/time.Second), "%s", unavailable.Error())
	}
	return nil
}

// StatusOf returns the status of the answer to the error: see [ProblemOf].
func StatusOf(err error) int {
	if p := ProblemIn(err); p != nil {
		return cmp.Or(p.Status, http.StatusInternalServerError)
	}
	if isAway(err) {
		return http.StatusServiceUnavailable
	}
	return http.StatusInternalServerError
}

// awaySQLStates are the SQLSTATE codes, and the beginnings of such codes, of errors that pass.
var awaySQLStates = []string{
	"08", "40", "53", "57P", "58", // connection lost, deadlock, resources short, server starting or stopping, its files not to be used
	"25006", "25P0", "55P03", "57014", // read-only after a failover, and what takes too long
	"0A000", "22P03", "26000", "42P01", "42P05", "42883", "XX000", // a restore in place, or a pooler that mixes up sessions: the connection is not used again
}

// idSources are the source files of PostgreSQL that give out transaction ids. When it has no more, until somebody
// vacuums, it says so by the SQLSTATE of a row that is too large.
var idSources = []string{"varsup.c", "multixact.c"}

// isAway reports whether err is an error that passes: a database cannot be reached, is read-only, is being restored or
// is short of resources, a connection was refused or lost, or a deadline or stop of our own has come.
func isAway(err error) bool {
	if _, ok := errors.AsType[*pgconn.ConnectError](err); ok {
		return true
	}
	if server, ok := errors.AsType[*pgconn.PgError](err); ok {
		return slices.Contains(idSources, server.File) || slices.ContainsFunc(awaySQLStates, func(class string) bool { return strings.HasPrefix(server.Code, class) })
	}
	if network, ok := errors.AsType[net.Error](err); ok && network.Timeout() {
		return true
	}
	return slices.ContainsFunc([]error{
		pgconn.ErrConnClosed, net.ErrClosed, io.ErrUnexpectedEOF, syscall.ECONNREFUSED, syscall.ECONNRESET, syscall.EPIPE,
		context.DeadlineExceeded, context.Canceled,
	}, func(away error) bool { return errors.Is(err, away) })
}

// Refuse answers with the problem that [ProblemOf] returns for err. It breaks the connection if the client is gone.
func Refuse(w http.ResponseWriter, r *http.Request, err error, logger *slog.Logger, look Page) {
	p := ProblemOf(r, err, logger)
	if p == nil {
		panic(http.ErrAbortHandler)
	}
	p.Write(w, r, look)
}

// Write answers with the problem: for a browser a page that looks like look, else application/problem+json.
func (p *Problem) Write(w http.ResponseWriter, r *http.Request, look Page) {
	full := *p
	full.Status = cmp.Or(p.Status, http.StatusInternalServerError)
	full.Title = full.title()
	h := w.Header()
	// What the handler said of the answer that it did not give.
	for _, name := range []string{"Accept-Ranges", "Content-Encoding", "Content-Length", "Content-Disposition", "Etag", "Last-Modified", "Location"} {
		h.Del(name)
	}
	h.Set("Cache-Control", "no-store")
	maps.Copy(h, p.Header)
	var b bytes.Buffer
	enc := json.NewEncoder(&b)
	enc.SetEscapeHTML(false) // people copy URLs from it
	err := enc.Encode(full)
	body, contentType := b.Bytes(), "application/problem+json"
	if err == nil && PrefersHTML(r) {
		page := struct {
			Problem
			Login string // "" means it would not help
		}{Problem: full}
		if full.Status == http.StatusUnauthorized && r.Method == http.MethodGet {
			page.Login = "/login?next=" + url.QueryEscape(r.URL.RequestURI())
		}
		look.Title, look.Operator, look.Data = full.Title, operatorOf(r), page
		h.Set("Cache-Control", "no-store") // the page is of one client
		body, err = Execute(problemPage, look)
		contentType = HTMLType
	}
	if err != nil {
		panic(err) // strings and a number in a template of our own
	}
	Send(w, r, full.Status, contentType, body)
}
