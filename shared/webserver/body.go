package webserver

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"time"

	"github.com/edison-cars/data-feeds/shared/web"
)

const (
	maxBody     = 1 << 20          // of a request, in bytes
	bodyTimeout = 30 * time.Second // for all of it
	smallBody   = 8 << 10          // bytes: larger ones are bounded in number, since each is held in memory
)

// largeBodies bounds the unanswered requests of whose body more than smallBody has arrived.
var largeBodies = web.Bound{All: 64, Client: 16}

// A body is the body of a request. It fails with a Problem: 413 if it is larger than maxBody, 408 if it takes longer
// than bodyTimeout, 400 if it breaks off, 429 or 503 if it is larger than smallBody and there are too many such ones.
type body struct {
	io.ReadCloser
	conn    *impatientConn // nil if not known
	small   int            // bytes of it that may come without a slot
	large   *web.Slots
	client  string // see ClientKey
	release func() // nil without a slot
}

func boundBody(w http.ResponseWriter, r *http.Request, large *web.Slots, client string) *body {
	// net/http lifts the deadline at the end of the body. A writer without deadlines is a test's.
	_ = http.NewResponseController(w).SetReadDeadline(time.Now().Add(bodyTimeout))
	b := &body{ReadCloser: http.MaxBytesReader(w, r.Body, maxBody), conn: connOf(r), small: smallBody, large: large, client: client}
	if b.conn != nil {
		lose := func() { _ = b.conn.Close() }
		if r.ProtoMajor > 1 { // others share the connection
			whole := r.Body
			lose = func() { _ = whole.Close() }
		}
		b.conn.await(b, b.conn.open.bodies.hold(client, 1, lose))
	}
	if r.ProtoMajor > 1 { // else net/http reads on after the answer, until the connection is idle
		context.AfterFunc(r.Context(), func() { b.conn.arrived(b) })
	}
	return b
}

func (b *body) done() {
	if b.release != nil {
		b.release()
	}
}

func (b *body) Read(p []byte) (int, error) {
	n, err := b.ReadCloser.Read(p)
	if b.small -= n; b.small < 0 && b.release == nil {
		release, full := b.large.Take(b.client)
		if refused, ok := errors.AsType[*web.Problem](full); ok {
			refused.Header.Set("Connection", "close") // net/http would wait for the rest
			return 0, refused
		}
		b.release = release
	}
	if err != nil {
		b.conn.arrived(b)
	}
	switch _, large := errors.AsType[*http.MaxBytesError](err); {
	case err == nil, errors.Is(err, io.EOF):
	case large:
		err = tooLarge()
	case errors.Is(err, os.ErrDeadlineExceeded):
		slow := web.Errorf(http.StatusRequestTimeout, "The request body must arrive within %d seconds.", int(bodyTimeout.Seconds()))
		slow.Header = http.Header{"Connection": {"close"}} // RFC 9110 section 15.5.9
		err = slow
	default:
		err = fmt.Errorf("%w (%w)", web.Errorf(http.StatusBadRequest, "The request body broke off."), err)
	}
	return n, err
}

func tooLarge() *web.Problem {
	return web.Errorf(http.StatusRequestEntityTooLarge, "The request body may have at most %d bytes.", maxBody)
}
