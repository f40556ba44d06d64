package webserver

import (
	"net/http"
	"slices"
	"time"

	"github.com/gin-gonic/gin"
)

// A streamWriter answers over HTTP/2, where a stream may stall while its connection does not: a client that takes less
// than stallBytes of an answer within stallTimeout is cut off, and its connection may give way before. Between two
// writes any time may pass.
type streamWriter struct {
	gin.ResponseWriter
	req  *http.Request
	conn *impatientConn // nil if not known
}

// streams sends every answer over HTTP/2 through a streamWriter.
func streams(c *gin.Context) {
	if c.Request.ProtoMajor < 2 { // its connection is an impatient one
		return
	}
	w := streamWriter{c.Writer, c.Request, connOf(c.Request)}
	c.Writer = w
	c.Next()
	w.Flush() // what net/http still has of the answer: it waits for the client here, where that is noted
}

func (w streamWriter) Write(p []byte) (written int, err error) {
	defer w.end()
	for part := range slices.Chunk(p, stallBytes) {
		w.begin()
		n, err := w.ResponseWriter.Write(part)
		if written += n; err != nil {
			return written, err
		}
	}
	return written, nil
}

func (w streamWriter) WriteString(s string) (int, error) { return w.Write([]byte(s)) }

func (w streamWriter) Flush() {
	w.begin()
	defer w.end()
	w.ResponseWriter.Flush()
}

// begin begins the time for the next part of the answer.
func (w streamWriter) begin() {
	w.conn.await(w.req, nil)
	w.bound(time.Now().Add(stallTimeout))
}

func (w streamWriter) end() {
	w.conn.arrived(w.req)
	w.bound(time.Time{}) // net/http resets a stream at its deadline even if nothing is to be written then
}

func (w streamWriter) bound(deadline time.Time) {
	_ = http.NewResponseController(w.Unwrap()).SetWriteDeadline(deadline) // what has none is in memory
}

func (w streamWriter) Unwrap() http.ResponseWriter { return unwrap(w.ResponseWriter) }
