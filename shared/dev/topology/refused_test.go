package topology

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/edison-cars/data-feeds/shared/directory"
	"github.com/edison-cars/data-feeds/shared/webserver"
)

// What answers at a service's address, and not as a service does, is not shown as one that is up.
func TestAnotherProgramAtTheAddress(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]string{"<h1>hi</h1>": NotReady, "{}": NotReady, "null": NotReady, "": NotReady, "[]": Up} {
		server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, text) }))
		w := NewWatch([]directory.Service{{Name: "warehouse", URL: server.URL}}, "")
		w.ask(t.Context(), 0)
		if s := w.States()[0]; s.Status != want || (s.Detail == "") != (want == Up) {
			t.Errorf("%q: %s, %s", text, s.Status, s.Detail)
		}
		w.leave(0)
		server.Close()
	}
}

// A service that names another order at each answer is not followed for ever.
func TestServiceThatLeadsOn(t *testing.T) {
	t.Parallel()
	var asked atomic.Int32
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		asked.Add(1)
		_, _ = fmt.Fprintf(w, `{"order_id": %q, "customer_id": %q, "steps": [], "waits_for": []}`, uuid.New(), uuid.New())
	}))
	defer server.Close()
	w := NewWatch([]directory.Service{{Name: "warehouse", URL: server.URL}}, "")
	defer w.leave(0)
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	if way := w.follow(ctx, uuid.New()); len(way.Missing) > 0 || asked.Load() < 2 || asked.Load() > maxAsked+1 {
		t.Errorf("it was asked %d times: %+v", asked.Load(), way)
	}
}

// A service that refuses the map's token, or its lack of one, is up, and what is known of its copies counts no longer.
func TestServiceThatRefusesTheMap(t *testing.T) {
	t.Parallel()
	for _, x := range []struct {
		name, token, page string
		status            int
	}{
		{"no token", "", "They need a token: start the map with FEED_TOKEN", http.StatusUnauthorized},
		{"another token", "datafeed_OTHER", "They do not list FEED_TOKEN", http.StatusUnauthorized},
		{"a token for other feeds", "datafeed_OTHER", "or only for other feeds", http.StatusForbidden},
	} {
		t.Run(x.name, func(t *testing.T) {
			t.Parallel()
			refuses := true
			server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				switch {
				case r.URL.Path == "/readyz":
				case refuses:
					w.WriteHeader(x.status)
				case r.URL.Path == "/feeds":
					w.WriteHeader(http.StatusNotFound)
				default:
					_, _ = io.WriteString(w, `[{"feed": "orders", "url": "http://sales:8080/feeds/orders", "state": "fresh"}]`)
				}
			}))
			defer server.Close()
			w := NewWatch([]directory.Service{{Name: "warehouse", URL: server.URL}}, x.token)
			defer w.leave(0)
			engine := webserver.New(slog.New(slog.DiscardHandler))
			Route(engine, w)
			says := func(wants bool, parts ...string) {
				t.Helper()
				w.ask(t.Context(), 0)
				resp := httptest.NewRecorder()
				engine.ServeHTTP(resp, httptest.NewRequest("GET", "/", nil))
				for _, part := range parts {
					if strings.Contains(resp.Body.String(), part) != wants {
						t.Errorf("%q: not %t:\n%s", part, wants, resp.Body)
					}
				}
			}
			refusal := []string{"The map may not read the feeds and copies of warehouse.", x.page, "It answers, but the map may not read"}
			says(true, append(refusal, `<span class="badge fresh">up</span>`)...)
			refuses = false
			says(false, refusal...)
			says(true, `<span class="badge fresh">fresh</span>`)
			refuses = true
			says(true, refusal...)
			says(false, `<span class="badge fresh">fresh</span>`)
		})
	}
}
