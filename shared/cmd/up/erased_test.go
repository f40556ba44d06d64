package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"github.com/edison-cars/data-feeds/shared/customer"
	"github.com/edison-cars/data-feeds/shared/daemon"
	"github.com/edison-cars/data-feeds/shared/order"
)

// Texts that occur nowhere else.
const (
	theName   = "Xanthippe Quillfeather"
	theEmail  = "xq.quillmail@example.com"
	theStreet = "Quillgasse 17"
	newStreet = "Quillplatz 99"
)

// A crew is a company, where something happens to people and to services.
type crew struct {
	*bench
	up *process
}

// Whichever customer buys or deletes the account, and whatever is stopped, the company goes on.
func TestPeopleAndOutages(t *testing.T) {
	t.Parallel()
	c := &crew{bench: newBench(t)}
	c.settle(t)
	c.up = c.start(t, exec.Command(c.binary, c.args()...), fmt.Sprint(daemon.StopWithParent, "=", os.Getpid()), "POLL_ORDERS=@every 1s", "POLL_CUSTOMERS=@every 1s", "POLL_BUILDS=@every 1s", "POLL_SHIPMENTS=@every 1s", "CLOCK_SPEED=10000", "PICKUP=1s")
	c.up.says(t, "everything is up")
	for _, step := range []struct {
		name string
		run  func(*testing.T)
	}{
		{"one order, bought in a browser, is followed through the whole company", func(t *testing.T) { browse(t, c.bench, c.up) }},
		{"who deletes the account is found on invoices alone", c.erase},
		{"any one service that is stopped leaves the others working", c.stopEach},
		{"so does a database that stands still", c.freeze},
	} {
		if !t.Run(step.name, step.run) {
			return
		}
	}
}

func (c *crew) erase(t *testing.T) {
	earlier := len(c.people(t))
	p := c.signUp(t, theName, theEmail, theStreet)
	bystander := c.signUp(t, "Bela Bystander", "bela@example.com", "Ring 1")
	kept, cancelled := c.buy(t, p), c.buy(t, p)
	c.invoiced(t, kept, 1)
	c.invoiced(t, cancelled, 1)
	c.post(t, c.url(sales)+"/orders/"+cancelled.String()+"/cancel", "", http.StatusOK, nil)
	c.invoiced(t, cancelled, 2)
	eventually(t, func() error {
		var list []struct {
			OrderID uuid.UUID `json:"order_id"`
			Status  string    `json:"status"`
			Name    string    `json:"name"`
		}
		if err := getJSON(c.url("shipping")+"/api/shipments", &list); err != nil {
			return err
		}
		for _, s := range list {
			if s.OrderID == kept && s.Status == "shipped" && s.Name == theName {
				return nil
			}
		}
		return fmt.Errorf("not shipped: %+v", list)
	})
	eventually(t, func() error {
		return c.has(t, "mailer", `select exists (select from mail where order_id = $1 and state = 'sent')`, kept)
	})

	// Shipping refuses what comes next, for a reason that says the street.
	c.exec(t, "shipping", `alter table customer add constraint street_is_number
		check (case when street like 'Quillp%' then street::int > 0 else true end) not valid`)
	move := fmt.Sprintf(`{"name": %q, "email": %q, "address": {"street": %q, "postal_code": "50667", "city": "Köln", "country": "DE"}}`, theName, theEmail, newStreet)
	if status, body := c.ask(t, http.MethodPut, c.url(customersApp)+"/customers/"+p.String(), move, "application/json"); status != http.StatusOK {
		t.Fatalf("the change of address: %d %s", status, body)
	}
	eventually(t, func() error {
		_, body, err := get(c.url("shipping")+"/subscriptions/customers/rejected", "application/json")
		if err == nil && !strings.Contains(string(body), `: \"`+newStreet) {
			err = fmt.Errorf("rejected are %s", body)
		}
		return err
	})

	// Billing has begun to read the customers again from the start, and stands before the second one.
	if status, body := c.ask(t, http.MethodPut, c.url("billing")+"/subscriptions/customers/schedule", `{"schedule": "@every 1s", "page_size": 1}`, "application/json"); status != http.StatusOK {
		t.Fatalf("the schedule: %d %s", status, body)
	}
	release := c.holdWalk(t, "billing", bystander)
	c.post(t, c.url("billing")+"/subscriptions/customers/resync", "", http.StatusAccepted, nil)
	eventually(t, func() error {
		return c.has(t, "billing", `select exists (select from resynced_entity where id = $1)`, p)
	})

	found := c.search(t, theName, theEmail, theStreet, newStreet)
	for _, place := range found { // of what is in no view that the service reads
		if strings.Contains(place, "shipping") && strings.HasSuffix(place, strings.ToLower(theEmail)) ||
			strings.Contains(place, "mailer") && (strings.HasSuffix(place, strings.ToLower(theStreet)) || strings.HasSuffix(place, strings.ToLower(newStreet))) {
			t.Errorf("a view does not keep it away: %s", place)
		}
	}
	before := strings.Join(found, "\n")
	for _, place := range []string{
		"table customers.customer: ", "table customers.feed_entry: ", "page customers /feeds/customers: ",
		"table billing.customer: ", "table billing.resynced_entity: ", "table billing.document: ", "page billing /: ",
		"table mailer.customers: ", "table mailer.mail: ", "page mailer /mails/",
		"table shipping.shipment: ", "table shipping.rejected_entry: ", "page shipping /subscriptions/customers/rejected: ", "page shipping /: ",
	} {
		if !strings.Contains(before, place) {
			t.Errorf("before the account is deleted, nothing is found at %s\n%s", place, before)
		}
	}

	dump := c.backUp(t, customersApp)
	if status, body := c.ask(t, http.MethodDelete, c.url(customersApp)+"/customers/"+p.String(), "", "application/json"); status != http.StatusNoContent {
		t.Fatalf("the deletion: %d %s", status, body)
	}
	release()
	c.caughtUp(t, customer.Feed)
	c.invoicesAlone(t)
	entries := c.people(t)[earlier:]
	if len(entries) != 4 {
		t.Errorf("on the feed: %+v", entries)
	}
	for _, e := range entries {
		if erased := e.ID == p.URN(); e.Datafeed.Deleted != erased || e.Datafeed.Erased != erased {
			t.Errorf("on the feed: %+v", e)
		}
	}
	c.exec(t, "shipping", `alter table customer drop constraint street_is_number`)
	if status, _ := c.ask(t, http.MethodGet, c.url(customersApp)+"/customers/"+p.String(), "", "text/html"); status != http.StatusNotFound {
		t.Errorf("the account answers %d", status)
	}
	c.restored(t, p, dump)
}

// invoicesAlone searches for the person everywhere: only invoices may name the person.
func (c *crew) invoicesAlone(t *testing.T) {
	t.Helper()
	var invoices bool
	for _, place := range c.search(t, theName, theEmail, theStreet, newStreet) {
		page, isPage := strings.CutPrefix(place, "page billing ")
		invoice := strings.HasPrefix(place, "table billing.document: ") || isPage && !strings.HasPrefix(page, "/subscriptions")
		if invoices = invoices || invoice; !invoice || strings.HasSuffix(place, strings.ToLower(theEmail)) {
			t.Errorf("after the account was deleted: %s", place)
		}
	}
	if !invoices {
		t.Error("the invoices have lost their customer")
	}
}

// A personal entry is one of the customers feed.
type personal struct {
	ID       string `json:"id"`
	Datafeed struct {
		Deleted bool `json:"deleted"`
		Erased  bool `json:"erased"`
	} `json:"_datafeed"`
}

func (c *crew) people(t *testing.T) []personal {
	t.Helper()
	var page struct {
		Items []personal `json:"items"`
	}
	if err := getJSON(c.url(customersApp)+"/feeds/customers?after=0", &page); err != nil {
		t.Fatal(err)
	}
	return page.Items
}

func (c *crew) signUp(t *testing.T, name, email, street string) uuid.UUID {
	t.Helper()
	var p customer.Customer
	c.post(t, c.url(customersApp)+"/customers", fmt.Sprintf(
		`{"name": %q, "email": %q, "address": {"street": %q, "postal_code": "50667", "city": "Köln", "country": "DE"}}`, name, email, street), http.StatusCreated, &p)
	return p.ID
}

func (c *crew) buy(t *testing.T, by uuid.UUID) uuid.UUID {
	t.Helper()
	var o order.Order
	c.post(t, c.url(sales)+"/orders", fmt.Sprintf(`{"customer_id": %q, "lines": [{"model": "volta", "quantity": 1}]}`, by), http.StatusCreated, &o)
	return o.ID
}

func (c *crew) post(t *testing.T, url, body string, want int, into any) {
	t.Helper()
	status, answer := c.ask(t, http.MethodPost, url, body, "application/json")
	if status != want {
		t.Fatalf("POST %s: %d %s", url, status, answer)
	}
	if into != nil {
		if err := json.Unmarshal(answer, into); err != nil {
			t.Fatal(err)
		}
	}
}

// invoiced waits until an order has n invoices and credit notes. If its car had left when it was cancelled, the car is
// returned.
func (b *bench) invoiced(t *testing.T, id uuid.UUID, n int) {
	t.Helper()
	eventually(t, func() error {
		var cars []struct {
			ID        uuid.UUID `json:"id"`
			Status    string    `json:"status"`
			Cancelled bool      `json:"order_cancelled"`
		}
		if err := getJSON(b.url("shipping")+"/api/shipments?order_id="+id.String(), &cars); err != nil {
			return err
		}
		for _, car := range cars {
			if car.Cancelled && car.Status == "shipped" {
				resp, err := client.Post(b.url("shipping")+"/shipments/"+car.ID.String()+"/return", "", nil)
				if err != nil {
					return err
				}
				resp.Body.Close()
			}
		}
		var list []any
		err := getJSON(b.url("billing")+"/api/invoices?order_id="+id.String(), &list)
		if err == nil && len(list) != n {
			err = fmt.Errorf("order %s has %d invoices and credit notes, not %d", id, len(list), n)
		}
		return err
	})
}

// holdWalk keeps a walk from going past an entity until it is released.
func (c *crew) holdWalk(t *testing.T, service string, id uuid.UUID) (release func()) {
	t.Helper()
	conn := c.connect(t, service)
	if _, err := conn.Exec(t.Context(), `begin; insert into resynced_entity (service, feed, id, version, position, updated) values ('`+service+`', 'customers', '`+id.String()+`', 1, 0, now())`); err != nil {
		t.Fatal(err)
	}
	return func() { conn.Close(t.Context()) }
}

func (b *bench) exec(t *testing.T, service, query string) {
	t.Helper()
	if _, err := b.connect(t, service).Exec(t.Context(), query); err != nil {
		t.Fatal(err)
	}
}

var errNot = errors.New("it is not so")

// has asks a database a question.
func (b *bench) has(t *testing.T, service, query string, args ...any) error {
	t.Helper()
	conn := b.connect(t, service)
	defer conn.Close(t.Context())
	var yes bool
	err := conn.QueryRow(t.Context(), query, args...).Scan(&yes)
	if err == nil && !yes {
		err = fmt.Errorf("%s: %w", query, errNot)
	}
	return err
}

// connect opens a session at the server of a service.
func (b *bench) connect(t *testing.T, service string) *pgx.Conn {
	t.Helper()
	conn, err := connect(t, filepath.Join(b.dir, service), service)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close(b.all.Context()) })
	return conn
}

// caughtUp waits until every copy of a feed is at its end, and nothing is rejected.
func (b *bench) caughtUp(t *testing.T, feed string) {
	t.Helper()
	url := ""
	for _, source := range sources {
		if source.feed == feed {
			url = b.url(source.service) + "/feeds/" + feed
		}
	}
	eventually(t, func() error {
		copies := 0
		for _, s := range b.services {
			var list []struct {
				Feed     string `json:"feed"`
				Cursor   string `json:"cursor"`
				State    string `json:"state"`
				Rejected int    `json:"rejected_entries"`
			}
			if s.reads == nil {
				continue
			}
			if err := getJSON(b.url(s.name)+"/subscriptions", &list); err != nil {
				return err
			}
			for _, at := range list {
				if at.Feed != feed {
					continue
				}
				copies++
				var page struct {
					Datafeed struct {
						Head string `json:"head"`
					} `json:"_datafeed"`
				}
				if err := getJSON(url, &page); err != nil {
					return err
				}
				if at.Cursor != page.Datafeed.Head || at.State != "fresh" || at.Rejected > 0 {
					return fmt.Errorf("%s is %+v, the feed ends at %s", s.name, at, page.Datafeed.Head)
				}
			}
		}
		if copies < 2 {
			return fmt.Errorf("%d copies of %s", copies, feed)
		}
		return nil
	})
}
