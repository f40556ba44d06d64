package customers

import (
	"context"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"

	"github.com/edison-cars/data-feeds/shared/access"
	"github.com/edison-cars/data-feeds/shared/customer"
	"github.com/edison-cars/data-feeds/shared/feedclient"
)

const (
	viewStreet = "Undisclosed Street 7"
	viewEmail  = "undisclosed@mail.example"
)

// viewApp is an app with an account, and the tokens of readers of the views delivery and contact.
func viewApp(t testing.TB) (a *app, id string, tokens map[string]string) {
	t.Helper()
	tokens = map[string]string{}
	var list []string
	for _, view := range []string{"delivery", "contact"} {
		token, hash := access.NewToken()
		tokens[view] = token
		list = append(list, view+":reader=customers/views/"+view+":"+hash)
	}
	a = open(t, "ACCESS=closed", "TOKENS="+strings.Join(list, ","))
	body := `{"name":"Ada Lovelace","email":"` + viewEmail + `","address":{"street":"` + viewStreet + `","postal_code":"10115","city":"Berlin","country":"DE"}}`
	_, p := a.json(t, "POST", "/customers", body, http.StatusCreated)
	return a, p.ID.String(), tokens
}

// Each entry of a view meets the view's contract.
func TestViews(t *testing.T) {
	t.Parallel()
	a, _, tokens := viewApp(t)
	for _, x := range []struct {
		view, has, lacks string
	}{{"delivery", viewStreet, viewEmail}, {"contact", viewEmail, viewStreet}} {
		answer, err := feedclient.New(tokens[x.view]).Get(t.Context(), feedclient.Request{URL: a.URL + "/feeds/customers/views/" + x.view, Limit: 10})
		if err != nil || len(answer.Page.Entries) == 0 {
			t.Fatal(x.view, err)
		}
		check := map[string]func() error{
			"delivery": func() error { return customer.CheckDelivery(answer.Page.Entries[0]) },
			"contact":  func() error { return customer.CheckContact(answer.Page.Entries[0]) },
		}[x.view]
		if entity := string(answer.Page.Entries[0].Entity); check() != nil || !strings.Contains(entity, x.has) || strings.Contains(entity, x.lacks) {
			t.Errorf("%s has %s: %v", x.view, entity, check())
		}
	}
}

// The reader of a view cannot get the rest by any URL.
func FuzzViewReader(f *testing.F) {
	a, id, tokens := viewApp(f)
	own := "/feeds/customers/views/delivery"
	for _, path := range []string{
		"", ".json", ".atom", ".html", ".cloudevents", "/" + id, "/schema", "/newer", "/jump", "/../contact", "/../..", "/%2e%2e/contact", "//", "/views/contact", "/./" + id,
	} {
		for _, query := range []string{"", "after=0", "snapshot=0", "limit=1000", "to=" + id, "lastEventId=0", "before=1-000000000000"} {
			f.Add(own+path, query, "", "")
		}
	}
	for _, path := range []string{
		"/feeds", "/feeds/customers", "/feeds/customers.json", "/feeds/customers/" + id, "/feeds/customers/views/contact", "/feeds/customers/views/contact.atom", "/feeds/customers/views",
		"/feeds/customers%2fviews%2fdelivery", "/feeds/customers.json/views/delivery", "/feeds//customers", "/feeds/customers/views/delivery%2f..%2fcontact", "/feeds/customers;views/delivery",
		"/customers", "/customers/" + id, "/trace/" + id, "/api/trace/" + id, "/account", "/metrics", "/", "/Feeds/customers", "/feeds/customers/", "/feeds/customers/views/delivery/../../../customers",
	} {
		for _, accept := range []string{"text/html", "application/atom+xml", "text/event-stream", "*/*"} {
			f.Add(path, "after=0", accept, "X-Original-URL")
		}
	}
	f.Fuzz(func(t *testing.T, path, query, accept, header string) {
		u, err := url.Parse("http://localhost" + path)
		if err != nil || !strings.HasPrefix(path, "/") {
			return
		}
		ctx, leave := context.WithCancel(t.Context())
		w := httptest.NewRecorder()
		if strings.Contains(accept, "event-stream") {
			leave() // of a stream it takes the beginning
		}
		defer leave()
		r := (&http.Request{
			Method: http.MethodGet, URL: u, Proto: "HTTP/1.1", ProtoMajor: 1, ProtoMinor: 1, Host: "localhost", RequestURI: u.RequestURI(), RemoteAddr: "127.0.0.1:80",
			Header: http.Header{"Authorization": {"Bearer " + tokens["delivery"]}, "Accept": {accept}}, Body: http.NoBody,
		}).WithContext(ctx)
		r.URL.RawQuery = query
		if header != "" && header != "Authorization" {
			r.Header.Set(header, "/feeds/customers")
		}
		a.Config.Handler.ServeHTTP(w, r)
		if said := w.Body.String(); strings.Contains(said, viewEmail) || strings.Contains(said, "contact.") && strings.HasPrefix(u.Path, own) {
			t.Errorf("%s?%s: %d %s", path, query, w.Code, said)
		}
		asked := "/feeds/customers/views/delivery"
		if w.Code == http.StatusOK && strings.HasPrefix(u.Path, "/feeds/") && !strings.HasPrefix(u.Path, asked) {
			t.Errorf("%s?%s: 200", path, query)
		}
	})
}
