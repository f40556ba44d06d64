package faults_test

import (
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/edison-cars/data-feeds/shared/postgres/pgtest"
)

// TestFrozenDatabase stops the processes of PostgreSQL under all services, whose pools are in use: nothing waits for
// more than ten seconds, health answers at once, and when they go on all is as before.
func TestFrozenDatabase(t *testing.T) {
	t.Parallel()
	server := pgtest.NewServer(t)
	p := newInProcess(server.URL)
	for _, name := range all {
		p.start(t, name)
	}
	ask := func(t *testing.T, method, address, accept string, form url.Values) (int, string) {
		status, header, text, err := ask(method, address, accept, form)
		switch {
		case err != nil:
			t.Error(err)
		case status == http.StatusServiceUnavailable && header.Get("Retry-After") == "":
			t.Errorf("%s %s: no Retry-After: %v", method, address, header)
		}
		return status, text
	}
	everything := func(t *testing.T, name string, check func(t *testing.T, method, path string, status int, text string)) {
		t.Helper()
		var asking sync.WaitGroup
		defer asking.Wait()
		for _, path := range routes(t, name) {
			for _, accept := range []string{"application/json", "text/html"} {
				for range 3 { // more than the pool has connections
					asking.Go(func() {
						status, text := ask(t, http.MethodGet, p.urls[name]+path, accept, nil)
						check(t, http.MethodGet, path, status, text)
					})
				}
			}
		}
		if name == "sales" || name == "customers" {
			return
		}
		for _, path := range []string{"pause", "resume", "resync", "poll", "rejected/retry"} {
			asking.Go(func() {
				path := "/subscriptions/orders/" + path
				status, text := ask(t, http.MethodPost, p.urls[name]+path, "application/json", url.Values{})
				check(t, http.MethodPost, path, status, text)
			})
		}
	}
	for _, name := range all {
		everything(t, name, func(t *testing.T, method, path string, status int, text string) {
			if status >= 500 && !strings.HasSuffix(path, "/poll") { // which another one may have interrupted
				t.Errorf("%s %s%s: %d %s", method, name, path, status, text)
			}
		})
	}
	resume := func() { // whatever of the requests above came last
		t.Helper()
		eventually(t, func() error {
			if status, text := ask(t, http.MethodPost, p.urls["warehouse"]+"/subscriptions/orders/resume", "", url.Values{}); status != http.StatusOK {
				return fmt.Errorf("resume: %d %s", status, text)
			}
			return nil
		})
	}
	resume()
	if err := p.buy(); err != nil {
		t.Fatal(err)
	}
	p.copied(t, server)
	thaw := server.Freeze(t)
	var services sync.WaitGroup
	for range 6 { // for a page that nobody has asked for yet: they do not wait one after the other
		services.Go(func() { ask(t, http.MethodGet, p.urls["sales"]+"/feeds/orders?after=0&limit=13", "", nil) })
	}
	for _, name := range all {
		services.Go(func() {
			refused, answers := sync.Map{}, sync.Map{}
			everything(t, name, func(t *testing.T, method, path string, status int, text string) {
				if answers.Store(path, status); status >= 500 || status == http.StatusTooManyRequests { // its client waits often enough
					refused.Store(path, true)
				}
				if status >= 500 && status != http.StatusServiceUnavailable || status == http.StatusOK && method == http.MethodPost {
					t.Errorf("%s %s%s: %d %s", method, name, path, status, text)
				}
			})
			for _, path := range map[string][]string{"sales": {"/orders"}, "customers": {"/customers/00000000-0000-4000-8000-000000000001"}}[name] {
				if _, ok := refused.Load(path); !ok {
					status, _ := answers.Load(path)
					t.Errorf("%s%s is answered without a database: %v", name, path, status)
				}
			}
			if _, ok := refused.Load("/"); !ok && name != "sales" && name != "customers" {
				status, _ := answers.Load("/")
				t.Errorf("%s/ is answered without a database: %v", name, status)
			}
			if status, text := ask(t, http.MethodGet, p.urls[name]+"/livez", "", nil); status != http.StatusOK {
				t.Errorf("%s/livez: %d %s", name, status, text)
			}
			if status, text := ask(t, http.MethodGet, p.urls[name]+"/readyz", "", nil); status != http.StatusServiceUnavailable {
				t.Errorf("%s/readyz: %d %s", name, status, text)
			}
		})
	}
	services.Wait()
	thaw()
	began := time.Now()
	for _, name := range all {
		eventually(t, func() error {
			if err := ready(name, p.urls[name]); err != nil {
				return err
			}
			for _, path := range routes(t, name) {
				if status, text := ask(t, http.MethodGet, p.urls[name]+path, "application/json", nil); status >= 500 {
					return fmt.Errorf("%s%s: %d %s", name, path, status, text)
				}
			}
			return nil
		})
	}
	resume()
	eventually(t, p.buy)
	p.copied(t, server)
	t.Logf("all is as before after %v", time.Since(began).Round(time.Millisecond))
}
