package web

import (
	"context"
	"errors"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"

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
	})
	for _, path := range []string{"/livez", "/readyz"} {
		if resp, body := ask(t, "GET", url+path, nil); resp.StatusCode != http.StatusOK || body != "ok\n" {
			t.Errorf("%s: %d %q", path, resp.StatusCode, body)
		}
	}
	away.Store(true)
	resp, body := ask(t, "GET", url+"/readyz", nil)
	wantProblem(t, resp, body, http.StatusServiceUnavailable)
	if strings.Contains(body, "secret") || resp.Header.Get("Retry-After") == "" {
		t.Errorf("%v %s", resp.Header, body)
	}
	if resp, _ := ask(t, "GET", url+"/livez", nil); resp.StatusCode != http.StatusOK {
		t.Errorf("a process without its database is not alive: %d", resp.StatusCode)
	}
}
