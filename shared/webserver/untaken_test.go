package webserver

import (
	"bufio"
	"context"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/gin-gonic/gin"
)

// Answers that a client does not take are bounded in bytes: the one that is under way for the longest is broken off, and
// no other one, over whatever connection.
func TestUntakenAnswers(t *testing.T) {
	t.Parallel()
	const size = 4 << 20
	fit := untakenAnswers.Client / size
	routes := func(r *gin.Engine) {
		r.GET("/", func(c *gin.Context) { c.String(http.StatusOK, strings.Repeat("page", size/4)) })
	}
	// brokenOff asks for one answer more than fit, and takes them after that.
	brokenOff := func(t *testing.T, get func() *http.Response) {
		t.Helper()
		var answers []*http.Response
		for range fit {
			answers = append(answers, get())
			time.Sleep(time.Millisecond)
		}
		time.Sleep(slowAfter)
		answers = append(answers, get())
		synctest.Wait()
		for i, resp := range answers {
			n, err := io.Copy(io.Discard, resp.Body)
			if broken := err != nil; broken != (i == 0) || !broken && n != size {
				t.Errorf("answer %d of %d: %d bytes, %v", i+1, len(answers), n, err)
			}
			_ = resp.Body.Close()
		}
	}
	t.Run("over HTTP/1.1", func(t *testing.T) {
		t.Parallel()
		synctest.Test(t, func(t *testing.T) {
			ln := serveInMemory(t, plain, routes)
			brokenOff(t, func() *http.Response {
				conn := ln.dial()
				t.Cleanup(func() { _ = conn.Close() })
				if _, err := io.WriteString(conn, "GET / HTTP/1.1\r\nHost: cars\r\n\r\n"); err != nil {
					t.Fatal(err)
				}
				resp, err := http.ReadResponse(bufio.NewReader(conn), nil)
				if err != nil {
					t.Fatal(err)
				}
				return resp
			})
		})
	})
	t.Run("over HTTP/2", func(t *testing.T) {
		t.Parallel()
		synctest.Test(t, func(t *testing.T) {
			certFile, keyFile, roots := certificate(t, t.TempDir(), "first")
			ln := serveInMemory(t, func(ln net.Listener) net.Listener { return listenTLS(t, ln, certFile, keyFile) }, routes)
			client := secureClient(roots, func(context.Context, string, string) (net.Conn, error) { return ln.dial(), nil })
			client.Transport.(*http.Transport).HTTP2 = &http.HTTP2Config{MaxReceiveBufferPerStream: 64 << 10}
			brokenOff(t, func() *http.Response {
				resp, err := client.Get("https://localhost/")
				if err != nil || resp.ProtoMajor != 2 {
					t.Fatal(resp, err)
				}
				return resp
			})
			client.CloseIdleConnections()
		})
	})
}
