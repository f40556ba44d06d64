package webserver

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/gin-gonic/gin"
)

func TestHealth(t *testing.T) {
	t.Parallel()
	var away atomic.Bool
	url, _ := newServer(t, func(r *gin.Engine) {
		Health(r, func(context.Context) error {
			if away.Load() {
				return errors.New("secret")
			}
			return nil
		})
		Health(r.Group("/restoring"), func(context.Context) error { return fmt.Errorf("secret: %w", restoring{}) })
	})
	for _, path := range []string{"/livez", "/readyz"} {
		if resp, body := ask(t, "GET", url+path, nil); resp.StatusCode != http.StatusOK || body != "ok\n" {
			t.Errorf("%s: %d %q", path, resp.StatusCode, body)
		}
	}
	resp, body := ask(t, "GET", url+"/restoring/readyz", nil)
	wantProblem(t, resp, body, http.StatusServiceUnavailable)
	if strings.Contains(body, "secret") || !strings.Contains(body, restoring{}.Error()) {
		t.Error(body)
	}
	away.Store(true)
	resp, body = ask(t, "GET", url+"/readyz", nil)
	wantProblem(t, resp, body, http.StatusServiceUnavailable)
	if strings.Contains(body, "secret") || resp.Header.Get("Retry-After") == "" {
		t.Errorf("%v %s", resp.Header, body)
	}
	if resp, _ := ask(t, "GET", url+"/livez", nil); resp.StatusCode != http.StatusOK {
		t.Errorf("a process without its database is not alive: %d", resp.StatusCode)
	}
}

// restoring is an error of a library that says itself when to ask again.
type restoring struct{}

func (restoring) Error() string             { return "The database is being restored." }
func (restoring) RetryAfter() time.Duration { return 5 * time.Second }

// However many ask at once, ready runs once for all of them: they take no more connections from the requests that sell.
func TestHealthAskedByMany(t *testing.T) {
	t.Parallel()
	const clients = 50
	var running, most atomic.Int32
	began, end := make(chan struct{}, clients), make(chan struct{})
	url, _ := newServer(t, func(r *gin.Engine) {
		Health(r, func(context.Context) error {
			if n := running.Add(1); n > most.Load() {
				most.Store(n)
			}
			defer running.Add(-1)
			began <- struct{}{}
			<-end
			return nil
		})
	})
	var all sync.WaitGroup
	request := func(ctx context.Context) {
		req, err := http.NewRequestWithContext(ctx, http.MethodGet, url+"/readyz", nil)
		if err != nil {
			t.Error(err)
			return
		}
		resp, err := http.DefaultClient.Do(req)
		if err != nil {
			if ctx.Err() == nil {
				t.Error(err)
			}
			return
		}
		defer resp.Body.Close()
		if resp.StatusCode != http.StatusOK {
			t.Error(resp.Status)
		}
	}
	leaving, leave := context.WithCancel(t.Context())
	all.Go(func() { request(leaving) })
	<-began
	for range clients {
		all.Go(func() { request(t.Context()) })
	}
	leave() // what the others wait for does not end with the first one
	if resp, _ := ask(t, "GET", url+"/livez", nil); resp.StatusCode != http.StatusOK {
		t.Error(resp.Status)
	}
	close(end)
	all.Wait()
	if most.Load() != 1 {
		t.Errorf("ready ran %d times at once", most.Load())
	}
}
