package webserver

import (
	"net/http"
	"time"

	"github.com/gin-gonic/gin"

	"github.com/edison-cars/data-feeds/shared/web"
)

// untakenAnswers bounds, in bytes, the answers that are under way: each is held in memory until its client has taken
// all of it. Nothing is lost of one that has been under way for less than slowAfter.
var untakenAnswers = web.Bound{All: 64 << 20, Client: 32 << 20}

// smallAnswer is the size, in bytes, up to which an answer does not count.
const smallAnswer = 8 << 10

// An untakenWriter breaks the answer off if its client does not take it while there are too many such answers.
type untakenWriter struct {
	gin.ResponseWriter
	c    *gin.Context
	conn *impatientConn
	of   *share
}

// untaken sends every answer through an untakenWriter.
func untaken(bound web.Bound) gin.HandlerFunc {
	of := newShare(bound, slowAfter)
	return func(c *gin.Context) {
		if conn := connOf(c.Request); conn != nil {
			c.Writer = untakenWriter{c.Writer, c, conn, of}
		}
	}
}

func (w untakenWriter) Write(p []byte) (int, error) {
	if len(p) > smallAnswer {
		defer w.of.hold(web.ClientKey(w.c.Request), len(p), w.lose)()
	}
	return w.ResponseWriter.Write(p)
}

func (w untakenWriter) WriteString(s string) (int, error) { return w.Write([]byte(s)) }

func (w untakenWriter) lose() {
	if w.c.Request.ProtoMajor < 2 {
		_ = w.conn.Close()
		return
	}
	// A deadline that is over resets the stream at once.
	_ = http.NewResponseController(w.Unwrap()).SetWriteDeadline(time.Now().Add(-time.Second))
}

func (w untakenWriter) Unwrap() http.ResponseWriter { return unwrap(w.ResponseWriter) }
