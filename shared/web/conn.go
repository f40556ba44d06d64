package web

import (
	"net"
	"time"
)

// A client that takes less than stallBytes of an answer within stallTimeout is cut off. Answers may still wait, and
// go on, for any time.
const (
	stallBytes   = 64 << 10
	stallTimeout = 30 * time.Second
)

// impatient accepts connections that do not wait for a client that does not read.
type impatient struct{ net.Listener }

func (l impatient) Accept() (net.Conn, error) {
	c, err := l.Listener.Accept()
	if err != nil {
		return nil, err
	}
	return impatientConn{c}, nil
}

type impatientConn struct{ net.Conn }

func (c impatientConn) Write(p []byte) (written int, err error) {
	for {
		part := p[written:min(written+stallBytes, len(p))]
		if err := c.SetWriteDeadline(time.Now().Add(stallTimeout)); err != nil {
			return written, err
		}
		n, err := c.Conn.Write(part)
		if written += n; err != nil || written == len(p) {
			return written, err
		}
	}
}

// CloseWrite is what net/http sends before it closes a connection that still sends, so that its answer is read.
func (c impatientConn) CloseWrite() error { return closeWrite(c.Conn) }

func closeWrite(c net.Conn) error {
	if half, ok := c.(interface{ CloseWrite() error }); ok {
		return half.CloseWrite()
	}
	return nil
}
