package web

import (
	"net/http"

	"github.com/gin-gonic/gin"
)

type readerKey struct{}

// SetReader names the client of the request, which has proved by a token or a session to be that one: limits, the access log and
// metrics count by the name.
func SetReader(c *gin.Context, name string) { c.Set(readerKey{}, name) }

// Reader returns the name that [SetReader] gave the client, or "" if it has none.
func Reader(c *gin.Context) string { return c.GetString(readerKey{}) }

// Unstored keeps every cache from storing the answer, whatever Cache-Control the handlers set before its status.
func Unstored(c *gin.Context) { c.Writer = unstoredWriter{c.Writer} }

type unstoredWriter struct{ gin.ResponseWriter }

func (w unstoredWriter) WriteHeader(status int) {
	w.Header().Set("Cache-Control", "no-store")
	w.ResponseWriter.WriteHeader(status)
}

func (w unstoredWriter) Unwrap() http.ResponseWriter { return unwrap(w.ResponseWriter) }

type sessionKey struct{}

// SetSession makes the pages of the answer offer an operator to log out. name returns the operator's name, or "" if the session
// has ended; it is called only if there is a page.
func SetSession(c *gin.Context, name func() string) { c.Set(sessionKey{}, name) }

// operatorOf returns the name of the operator who is logged in, or "".
func operatorOf(c *gin.Context) string {
	found, _ := c.Get(sessionKey{})
	if name, ok := found.(func() string); ok {
		return name()
	}
	return ""
}
