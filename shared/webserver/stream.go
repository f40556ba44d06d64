package webserver

import (
	"net/http"
	"slices"
	"time"

	"github.com/gin-gonic/gin"
)

// A streamWriter answers over HTTP/2, where a stream may stall while its connection does not: a client that takes less
// than stallBytes of an answer within stallTimeout is cut off. Between two writes any time may pass.
type streamWriter struct{ gin.ResponseWriter }

// streams sends every answer over HTTP/2 through a streamWriter.
func streams(c *gin.Context) {
	if c.Request.ProtoMajor < 2 { // its connection is an impatient one
		return
	}
	w := streamWriter{c.Writer}
	c.Writer = w
	c.Next()
	w.bound(time.Now().Add(stallTimeout)) // what net/http still has of the answer
}

func (w streamWriter) Write(p []byte) (written int, err error) {
	defer w.bound(time.Time{}) // net/http resets a stream at its deadline even if nothing is to be written then
	for part := range slices.Chunk(p, stallBytes) {
		w.bound(time.Now().Add(stallTimeout))
		n, err := w.ResponseWriter.Write(part)
		if written += n; err != nil {
			return written, err
		}
	}
	return written, nil
}

func (w streamWriter) WriteString(s string) (int, error) { return w.Write([]byte(s)) }

func (w streamWriter) Flush() {
	w.bound(time.Now().Add(stallTimeout))
	defer w.bound(time.Time{})
	w.ResponseWriter.Flush()
}

func (w streamWriter) bound(deadline time.Time) {
	_ = http.NewResponseController(w.Unwrap()).SetWriteDeadline(deadline) // what has none is in memory
}

func (w streamWriter) Unwrap() http.ResponseWriter { return unwrap(w.ResponseWriter) }
