package mailer

import (
	"context"
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/edison-cars/data-feeds/shared/customer"
	"github.com/edison-cars/data-feeds/shared/dev/mailsink"
	"github.com/edison-cars/data-feeds/shared/feed"
	"github.com/edison-cars/data-feeds/shared/order"
	"github.com/edison-cars/data-feeds/shared/postgres/pgtest"
	"github.com/edison-cars/data-feeds/shared/publish"
)

// found names the tables with a row that says one of the words, in any column.
func found(t testing.TB, db *pgxpool.Pool, words ...string) (where []string) {
	t.Helper()
	rows, err := db.Query(context.Background(), `
		select quote_ident(table_schema) || '.' || quote_ident(table_name), quote_ident(column_name), udt_name
		  from information_schema.columns join information_schema.tables using (table_schema, table_name)
		 where table_schema not in ('pg_catalog', 'information_schema') and table_type = 'BASE TABLE'`)
	if err != nil {
		t.Fatal(err)
	}
	columns, err := pgx.CollectRows(rows, pgx.RowToStructByPos[struct{ Table, Column, Type string }])
	if err != nil || len(columns) < 40 {
		t.Fatalf("%d columns, %v", len(columns), err)
	}
	for _, c := range columns {
		text := c.Column + "::text"
		if c.Type == "bytea" {
			text = "encode(" + c.Column + ", 'escape')"
		}
		for _, word := range words {
			var n int
			if err := db.QueryRow(context.Background(), `select count(*) from `+c.Table+` where `+text+` ilike '%' || $1 || '%'`, word).Scan(&n); err != nil {
				t.Fatal(err)
			}
			if n > 0 {
				where = append(where, c.Table+"."+c.Column)
			}
		}
	}
	return where
}

// Nothing is left of a customer who deletes the account: of mails that were sent, that were refused, that wait, or that
// were on their way when the process was killed, and of entries that were rejected.
func TestForget(t *testing.T) {
	t.Parallel()
	pgtest.Slow(t, "many runs")
	s, db := newSources(t), newDatabase(t)
	exec(t, db, `alter table customers add constraint banned check (email not like 'banned%')`)
	sink := &mailsink.Sink{Refuse: func(to string) *mailsink.Refusal {
		switch to {
		case "refused-ada@mail.example":
			return &mailsink.Refusal{Code: 550, EnhancedCode: [3]int{5, 1, 1}, Message: "No mailbox for " + to}
		case "deferred-ada@mail.example":
			return &mailsink.Refusal{Code: 450, EnhancedCode: [3]int{4, 1, 1}, Message: "No mailbox for " + to}
		}
		return nil
	}}
	p := newProxy(t, serve(t, sink))
	first := s.start(t, db, p.addr, nil)
	eventually(t, "the mailer is ready", func() bool { status, _ := first.Get(t, "/readyz", ""); return status == http.StatusOK })
	kinds := []string{"", "sent", "refused", "deferred", "banned", "cut"} // the number of customer and order
	person := func(n int) publish.Entry {
		c := customer.Customer{ID: customerID(n), Version: 1, Name: "Ada Lovelace", Email: kinds[n] + "-ada@mail.example", EmailConfirmed: true, UpdatedAt: feed.TimeOf(noon)}
		return publish.Entry{ID: c.ID, Version: 1, Updated: noon, Payload: rawJSON(t, c)}
	}
	s.sell(t, 1, 4)
	s.append(t, customer.Feed, person(1), person(2), person(3), person(4))
	eventually(t, "the mails are sent, refused, deferred", func() bool {
		m := first.mails(t)
		return m[orderID(1)].State == "sent" && m[orderID(2)].State == "failed" && m[orderID(3)].Attempts > 0 && m[orderID(4)].State == "waiting"
	})
	eventually(t, "an entry is rejected", func() bool {
		_, body := first.Get(t, "/subscriptions/customers/rejected", "application/json")
		return strings.Contains(body, "banned-ada")
	})
	p.at("end", false)
	s.append(t, customer.Feed, person(5))
	s.sell(t, 5, 5)
	<-p.held
	first.Kill()
	p.drop()
	if where := fmt.Sprint(found(t, db, "lovelace", "ada@")); !strings.Contains(where, "mail.recipient_name") || !strings.Contains(where, "mail.body") ||
		!strings.Contains(where, "mail.reason") || !strings.Contains(where, "customers.name") || !strings.Contains(where, "rejected_entry.entity") {
		t.Fatalf("only %s say who it is", where)
	}

	var outbox []byte
	if err := db.QueryRow(t.Context(), `select json_agg(m) from mail m`).Scan(&outbox); err != nil {
		t.Fatal(err)
	}

	err := s.log.InTx(t.Context(), func(tx *publish.Tx) error {
		for n := 1; n <= 5; n++ {
			tx.Erase(customer.Feed, customerID(n), 2, noon.Add(time.Minute))
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	second := s.start(t, db, p.addr, map[string]string{"POLL_ORDERS": "@every 1h"})
	eventually(t, "nothing is left", func() bool { return found(t, db, "lovelace", "ada@") == nil })
	eventually(t, "nothing waits any more", func() bool {
		for _, m := range second.mails(t) {
			if m.State != "sent" && m.State != "failed" && m.State != "withdrawn" {
				return false
			}
		}
		return true
	})
	for n := 1; n <= 5; n++ {
		status, page := second.Get(t, "/mails/"+orderID(n).String(), "text/html")
		if status != http.StatusOK || strings.Contains(page, "ovelace") || strings.Contains(page, "ada@") {
			t.Errorf("%d: %d %s", n, status, page)
		}
	}
	for _, path := range []string{"/", "/api/mails", "/subscriptions", "/subscriptions/customers/rejected", "/metrics"} {
		if status, page := second.Get(t, path, "*/*"); status != http.StatusOK || strings.Contains(page, "ovelace") || strings.Contains(page, "ada@") {
			t.Errorf("%s: %d %s", path, status, page)
		}
	}
	if where := found(t, db, "lovelace", "ada@"); where != nil {
		t.Errorf("%v say who it was", where)
	}
	for _, log := range []string{first.Log(t), second.Log(t)} {
		if strings.Contains(log, "ovelace") || strings.Contains(log, "ada@") {
			t.Errorf("the log says who it was:\n%s", log)
		}
	}
	if n := len(arrivals(sink, 5)); n != 1 {
		t.Errorf("the mail that was under way has arrived %d times, though the account was deleted before it could be sent again", n)
	}

	// The outbox alone goes back to what it was.
	second.Kill()
	exec(t, db, `delete from mail`)
	if _, err := db.Exec(t.Context(), `insert into mail select * from json_populate_recordset(null::mail, $1)`, outbox); err != nil {
		t.Fatal(err)
	}
	if where := found(t, db, "lovelace", "ada@"); where == nil {
		t.Fatal("the restore has brought nothing back")
	}
	s.start(t, db, p.addr, map[string]string{"POLL_ORDERS": "@every 1h"})
	eventually(t, "nothing is left again", func() bool { return found(t, db, "lovelace", "ada@") == nil })
	if n := len(arrivals(sink, 5)); n != 1 {
		t.Errorf("after the restore of the outbox the mail has arrived %d times", n)
	}
}

// The account is deleted while its mail is being sent: whatever the server replies then, nothing comes back.
func TestForgetWhileSending(t *testing.T) {
	t.Parallel()
	for name, refusal := range map[string]*mailsink.Refusal{
		"taken":                 nil,
		"refused, by its name":  {Code: 550, Message: "No mailbox for " + email(1)},
		"deferred, by its name": {Code: 450, Message: "No mailbox for " + email(1)},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			var b *bench
			b = newBench(t, func(s *mailsink.Sink) {
				s.After = func(*mailsink.Mail) *mailsink.Refusal {
					b.customers(t, deletedCustomer(1, 2))
					return refusal
				}
			})
			b.customers(t, customerEntry(t, aCustomer(1, 1)))
			b.orders(t, orderEntry(t, 1, 1, 1, order.Placed))
			b.mustWork(t)
			b.mustWork(t)
			want := map[string]string{"taken": "sent", "refused, by its name": "failed", "deferred, by its name": "withdrawn"}[name]
			if m := b.mail(t, 1); m.State != want || m.Recipient != nil || m.Body != nil || m.Reason != "" {
				t.Errorf("%+v", m)
			}
			if where := found(t, b.db, email(1), "Zoë"); where != nil {
				t.Errorf("%v", where)
			}
		})
	}
}

// What has changed since a mail was composed is not sent as it was.
func TestOutdated(t *testing.T) {
	t.Parallel()
	for name, x := range map[string]struct {
		change  func(t *testing.T, b *bench)
		state   string
		arrived int
	}{
		"the order is cancelled": {func(t *testing.T, b *bench) { b.orders(t, orderEntry(t, 2, 1, 2, order.Cancelled)) }, "cancelled", 0},
		"the account is deleted": {func(t *testing.T, b *bench) { b.customers(t, deletedCustomer(1, 2)) }, "withdrawn", 0},
		"the address has changed": {func(t *testing.T, b *bench) {
			c := aCustomer(1, 2)
			c.Email = "new@mail.example"
			b.customers(t, customerEntry(t, c))
		}, "sent", 1},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			var b *bench
			changed := false
			b = newBench(t, func(s *mailsink.Sink) {
				s.Refuse = func(string) *mailsink.Refusal {
					if !changed {
						changed = true
						x.change(t, b)
					}
					return nil
				}
			})
			b.customers(t, customerEntry(t, aCustomer(1, 1)))
			b.orders(t, orderEntry(t, 1, 1, 1, order.Placed))
			b.mustWork(t)
			if got := len(b.sink.Mails()); got != 0 {
				t.Errorf("%d mails have arrived as they were composed", got)
			}
			b.mustWork(t)
			if m := b.want(t, 1, x.state, x.arrived); m.Uncertain != 0 {
				t.Errorf("%+v", m)
			}
			for _, m := range b.sink.Mails() {
				if m.To[0] != "new@mail.example" {
					t.Errorf("to %v", m.To)
				}
			}
		})
	}
}
