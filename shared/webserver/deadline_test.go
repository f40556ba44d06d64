package webserver

import (
	"bufio"
	"errors"
	"io"
	"net/http"
	"testing"
	"testing/synctest"
	"time"

	"github.com/gin-gonic/gin"
)

// A handler has 8 s from when the request is there as a whole, and then the answer is a 503.
func TestDeadline(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		ln := serveInMemory(t, plain, func(r *gin.Engine) {
			r.POST("/", Handle(func(c *gin.Context) error {
				<-c.Request.Context().Done()
				return c.Request.Context().Err()
			}))
			r.POST("/long", HandleLong(func(c *gin.Context) error {
				if _, err := io.ReadAll(c.Request.Body); err != nil {
					return err
				}
				select {
				case <-c.Request.Context().Done():
					return errors.New("cut off")
				case <-time.After(time.Hour):
				}
				c.Status(http.StatusNoContent)
				return nil
			}))
		})
		for path, want := range map[string]struct {
			status int
			took   time.Duration
		}{"/": {503, 8 * time.Second}, "/long": {204, time.Hour}} {
			conn := ln.dial()
			if _, err := io.WriteString(conn, "POST "+path+" HTTP/1.1\r\nHost: cars\r\nContent-Length: 2\r\n\r\na"); err != nil {
				t.Fatal(err)
			}
			if path == "/" {
				time.Sleep(20 * time.Second) // a slow client: its time is another
			}
			start := time.Now()
			if _, err := io.WriteString(conn, "b"); err != nil {
				t.Fatal(err)
			}
			resp, err := http.ReadResponse(bufio.NewReader(conn), nil)
			if err != nil {
				t.Fatal(err)
			}
			if took := time.Since(start); resp.StatusCode != want.status || took != want.took {
				t.Errorf("%s: %s after %v", path, resp.Status, took)
			}
			if want.status == 503 && resp.Header.Get("Retry-After") == "" {
				t.Error(resp.Header)
			}
			_ = conn.Close()
		}
	})
}
