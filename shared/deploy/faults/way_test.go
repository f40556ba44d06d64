package faults_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"html"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/url"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/google/uuid"

	"github.com/edison-cars/data-feeds/shared/dev/topology"
	"github.com/edison-cars/data-feeds/shared/directory"
	"github.com/edison-cars/data-feeds/shared/postgres/pgtest"
	"github.com/edison-cars/data-feeds/shared/webserver"
)

// postJSON posts a body and reads the answer.
func postJSON(t *testing.T, address, token, body string, into any) {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, address, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Content-Type", "application/json")
	if token != "" {
		req.Header.Set("Authorization", "Bearer "+token)
	}
	resp, err := client.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	if resp.StatusCode >= 300 {
		t.Fatal(address, resp.Status)
	}
	if err := json.NewDecoder(resp.Body).Decode(into); err != nil {
		t.Fatal(err)
	}
}

// An order is followed through all services, by its id and by those of what belongs to it. The map says what the order
// waits for, and which service does not tell its part.
func TestWayOfAnOrder(t *testing.T) {
	t.Parallel()
	pgtest.Slow(t, "the whole company")
	server := pgtest.NewServer(t)
	p := newInProcess(server.URL)
	stop := map[string]func(){}
	for _, name := range all[:8] {
		stop[name] = p.start(t, name)
	}
	var services []directory.Service
	for _, name := range all[:8] {
		services = append(services, directory.Service{Name: name, URL: p.urls[name]})
	}
	engine := webserver.New(slog.New(slog.DiscardHandler))
	topology.Route(engine, topology.NewWatch(services, ""))
	company := httptest.NewServer(engine)
	t.Cleanup(company.Close)
	follow := func(id string) (way topology.Way) {
		t.Helper()
		status, _, text, err := ask(http.MethodGet, company.URL+"/api/trace/"+id, "application/json", nil)
		if err == nil && status == http.StatusOK {
			err = json.Unmarshal([]byte(text), &way)
		}
		if err != nil || status != http.StatusOK {
			t.Fatalf("%d %v %s", status, err, text)
		}
		return way
	}
	has := func(way *topology.Way, service, text string) bool {
		return slices.ContainsFunc(way.Steps, func(s topology.WayStep) bool { return s.Service == service && strings.Contains(s.Text, text) })
	}

	// A guest's order waits for its customer.
	var o struct{ ID, CustomerID uuid.UUID }
	var bought struct {
		ID         uuid.UUID `json:"id"`
		CustomerID uuid.UUID `json:"customer_id"`
		Token      string    `json:"buyer_token"`
	}
	postJSON(t, p.urls["sales"]+"/orders", "", `{"lines":[{"model":"volta","options":["heat_pump"],"quantity":2}]}`, &bought)
	o.ID, o.CustomerID = bought.ID, bought.CustomerID
	waits := map[string]string{"billing": "its customer is not known yet", "mailer": "its customer is not known yet", "assembly": "its build", "shipping": "the address of its customer"}
	eventually(t, func() error {
		for _, w := range follow(o.ID.String()).WaitsFor { // not all of them at the same time
			if says := waits[w.Service]; says != "" && strings.Contains(w.Text, says) {
				delete(waits, w.Service)
			}
		}
		if len(waits) > 0 {
			return fmt.Errorf("they do not say that they wait: %v, %+v", waits, follow(o.ID.String()))
		}
		return nil
	})

	// A customer's goes through.
	var account struct {
		ID    uuid.UUID `json:"id"`
		Token string    `json:"buyer_token"`
	}
	postJSON(t, p.urls["customers"]+"/customers", "", `{"name":"Ada Example","email":"ada@mail.example","address":{"street":"Ring 1","postal_code":"50667","city":"Köln","country":"DE"}}`, &account)
	postJSON(t, p.urls["sales"]+"/orders", account.Token, `{"lines":[{"model":"volta","options":[],"quantity":1}]}`, &bought)
	var way topology.Way
	eventually(t, func() error {
		way = follow(bought.ID.String())
		for service, text := range map[string]string{
			"sales": "order placed: 1 Edison Volta", "customers": "signed up", "warehouse": "reserved", "assembly": "is planned for", "billing": "invoice 1",
		} {
			if !has(&way, service, text) {
				return fmt.Errorf("%s does not say %q: %+v", service, text, way)
			}
		}
		if !has(&way, "assembly", "finished") || !has(&way, "shipping", "has left") {
			return errors.New("the car has not left")
		}
		return nil
	})
	if len(way.Missing) > 0 || way.OrderID == nil || *way.OrderID != bought.ID || way.CustomerID == nil || *way.CustomerID != account.ID ||
		!slices.IsSortedFunc(way.Steps, func(a, b topology.WayStep) int { return a.At.Compare(b.At) }) {
		t.Errorf("the way: %+v", way)
	}
	var texts []string
	for _, s := range way.Steps {
		texts = append(texts, s.Service+" "+s.Text)
		if s.URL == "" {
			continue
		}
		if status, _, text, err := ask(http.MethodGet, s.URL, "text/html", nil); err != nil || status != http.StatusOK || strings.Contains(text, "Ada") && s.Service == "sales" {
			t.Errorf("%s: %d %v", s.URL, status, err)
		}
	}
	if text := strings.Join(texts, "; "); strings.Contains(text, "Ada") || strings.Contains(text, "Köln") || strings.Contains(text, "mail.example") {
		t.Errorf("the steps quote the customer: %s", text)
	}

	// By the ids of what belongs to it, and by what a person pastes.
	var builds []struct {
		ID uuid.UUID `json:"id"`
	}
	if status, _, text, err := ask(http.MethodGet, p.urls["assembly"]+"/api/builds?order_id="+bought.ID.String(), "", nil); err != nil || status != 200 || json.Unmarshal([]byte(text), &builds) != nil || len(builds) != 1 {
		t.Fatal(status, err, text)
	}
	if got := follow(builds[0].ID.String()); got.OrderID == nil || *got.OrderID != bought.ID || len(got.Steps) != len(way.Steps) {
		t.Errorf("by the build: %+v", got)
	}
	for query, says := range map[string]string{
		bought.ID.String(): "signed up",
		" " + p.urls["sales"] + "/orders/" + strings.ToUpper(bought.ID.String()) + "?x=1": "signed up",
		uuid.NewString():     "No service that answered knows",
		"order of last week": "There is no id in it",
		`"><script>alert(1)`: "There is no id in it",
		account.ID.String():  "order " + bought.ID.String()[28:] + " placed",
	} {
		status, _, text, err := ask(http.MethodGet, company.URL+"/?q="+url.QueryEscape(query), "text/html", nil)
		if err != nil || status != http.StatusOK || !strings.Contains(html.UnescapeString(text), says) || strings.Contains(text, "<script>alert") {
			t.Errorf("%q: %d %v %s", query, status, err, text)
		}
	}
	for _, name := range all[:8] { // each service's own page, and links to it
		if status, _, text, err := ask(http.MethodGet, p.urls[name]+"/trace/"+bought.ID.String(), "text/html", nil); err != nil || status != http.StatusOK || !strings.Contains(text, bought.ID.String()) {
			t.Errorf("%s: %d %v", name, status, err)
		}
		if status, _, _, err := ask(http.MethodGet, p.urls[name]+"/api/trace/"+"nonsense", "", nil); err != nil || status != http.StatusNotFound {
			t.Errorf("%s: nonsense: %d %v", name, status, err)
		}
	}
	linked := regexp.MustCompile(`href="/trace/` + bought.ID.String() + `"`)
	for name, path := range map[string]string{"billing": "/invoices/1", "assembly": "/builds/" + builds[0].ID.String(), "mailer": "/mails/" + bought.ID.String(), "shipping": "/"} {
		if status, _, text, err := ask(http.MethodGet, p.urls[name]+path, "text/html", nil); err != nil || status != http.StatusOK || !linked.MatchString(text) {
			t.Errorf("%s%s has no link to the order's way: %d %v", name, path, status, err)
		}
	}

	// A service that is down is shown as such, and the others tell their parts.
	stop["customers"]()
	way = follow(bought.ID.String())
	if len(way.Missing) != 1 || way.Missing[0].Service != "customers" || has(&way, "customers", "") || !has(&way, "billing", "invoice 1") {
		t.Errorf("without customers: %+v", way)
	}
}
