package mailer

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"github.com/edison-cars/data-feeds/shared/dev/mailsink"
	"github.com/edison-cars/data-feeds/shared/feed"
	"github.com/edison-cars/data-feeds/shared/order"
	"github.com/edison-cars/data-feeds/shared/postgres/pgtest"
	"github.com/edison-cars/data-feeds/shared/smtp"
	"github.com/edison-cars/data-feeds/shared/subscribe"
)

func TestOnce(t *testing.T) {
	t.Parallel()
	pgtest.Slow(t, "many runs")
	placed := func(t *testing.T) func(b *bench) {
		return func(b *bench) { b.orders(t, orderEntry(t, 1, 1, 1, order.Placed)) }
	}
	cancelled := func(t *testing.T) func(b *bench) {
		return func(b *bench) { b.orders(t, orderEntry(t, 2, 1, 2, order.Cancelled)) }
	}
	vanished := func(t *testing.T) func(b *bench) { return func(b *bench) { b.orders(t, orderEntry(t, 3, 1, 3, "")) } }
	arrives := func(t *testing.T) func(b *bench) {
		return func(b *bench) { b.customers(t, customerEntry(t, aCustomer(1, 1))) }
	}
	deleted := func(t *testing.T) func(b *bench) { return func(b *bench) { b.customers(t, deletedCustomer(1, 2)) } }
	works := func(t *testing.T) func(b *bench) { return func(b *bench) { b.mustWork(t) } }
	for name, x := range map[string]struct {
		steps   []func(t *testing.T) func(b *bench)
		state   string
		arrived int
	}{
		"an order whose customer is known":                            {[]func(*testing.T) func(*bench){arrives, placed, works, works}, "sent", 1},
		"an order that comes before its customer":                     {[]func(*testing.T) func(*bench){placed, works, arrives, works, works}, "sent", 1},
		"an order whose customer does not come":                       {[]func(*testing.T) func(*bench){placed, works}, "waiting", 0},
		"an order and a customer that come again and again":           {[]func(*testing.T) func(*bench){arrives, placed, works, placed, arrives, works, placed}, "sent", 1},
		"an order that is first seen as cancelled":                    {[]func(*testing.T) func(*bench){arrives, cancelled, works}, "cancelled", 0},
		"an order that is cancelled before the mail was sent":         {[]func(*testing.T) func(*bench){arrives, placed, cancelled, works}, "cancelled", 0},
		"an order that is cancelled after the mail was sent":          {[]func(*testing.T) func(*bench){arrives, placed, works, cancelled, works}, "sent", 1},
		"an order that is cancelled while it waits":                   {[]func(*testing.T) func(*bench){placed, cancelled, arrives, works}, "cancelled", 0},
		"an order that vanished before the mail was sent":             {[]func(*testing.T) func(*bench){arrives, placed, vanished, works}, "withdrawn", 0},
		"an order that vanished after the mail was sent":              {[]func(*testing.T) func(*bench){arrives, placed, works, vanished, works}, "sent", 1},
		"an order that vanished and is back":                          {[]func(*testing.T) func(*bench){arrives, placed, vanished, works, placed, works, works}, "sent", 1},
		"an order that vanished after the mail was sent, and is back": {[]func(*testing.T) func(*bench){arrives, placed, works, vanished, works, placed, works}, "sent", 1},
		"a customer who is deleted before the mail was sent":          {[]func(*testing.T) func(*bench){arrives, placed, deleted, works}, "withdrawn", 0},
		"a customer who is deleted after the mail was sent":           {[]func(*testing.T) func(*bench){arrives, placed, works, deleted, works}, "sent", 1},
		"a customer who is deleted before the order comes":            {[]func(*testing.T) func(*bench){arrives, deleted, placed, works}, "withdrawn", 0},
		"a customer whose deletion is all that ever comes":            {[]func(*testing.T) func(*bench){placed, deleted, works}, "withdrawn", 0},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			b := newBench(t)
			for _, step := range x.steps {
				step(t)(b)
			}
			b.want(t, 1, x.state, x.arrived)
		})
	}
}

// Of a mail that was sent long ago only is kept that it was.
func TestOldTexts(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	var ids []uuid.UUID
	for n := 1; n <= 6; n++ {
		b.customers(t, customerEntry(t, aCustomer(n, 1)))
		b.orders(t, orderEntry(t, int64(n), n, 1, order.Placed))
		ids = append(ids, orderID(n))
	}
	b.mustWork(t)
	exec(t, b.db, `update mail set composed_at = now() - interval '90 days 1 second' where order_id = any($1)`, []uuid.UUID{orderID(1), orderID(2), orderID(4)})
	// One was refused before it was sent, and one was never composed.
	exec(t, b.db, `update mail set state = 'failed', body = null, recipient_name = null, reason = 'no such mailbox: ' || recipient where order_id = $1`, orderID(4))
	exec(t, b.db, `update mail set state = 'withdrawn', body = null, recipient_name = null, composed_at = null, due_at = now() - interval '91 days' where order_id = $1`, orderID(5))
	exec(t, b.db, `update mail set composed_at = now() + interval '60 years' where order_id = $1`, orderID(6))                 // a clock was ahead
	exec(t, b.db, `update mail set state = 'pending', due_at = now() + interval '30 minutes' where order_id = $1`, orderID(2)) // it may be sent again
	exec(t, b.db, `update mail set composed_at = now() - interval '89 days' where order_id = $1`, orderID(3))
	if err := b.work(t.Context()); err != nil {
		t.Fatal(err)
	}
	rows, err := b.db.Query(t.Context(), `
		select num_nonnulls(recipient, recipient_name, body, nullif(reason, '')) from mail where order_id = any($1) order by array_position($1, order_id)`, ids)
	if err != nil {
		t.Fatal(err)
	}
	kept, err := pgx.CollectRows(rows, pgx.RowTo[int])
	if err != nil || !slices.Equal(kept, []int{0, 3, 3, 0, 0, 3}) {
		t.Errorf("%v parts of the mails are kept, %v", kept, err)
	}
	var future bool
	if err := b.db.QueryRow(t.Context(), `select bool_or(composed_at > now() + interval '1 minute') from mail`).Scan(&future); err != nil || future {
		t.Errorf("a mail is kept for longer: %v, %v", future, err)
	}
	b.want(t, 1, "sent", 1)
}

func TestPast(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	b.past = 2
	b.customers(t, customerEntry(t, aCustomer(1, 1)), customerEntry(t, aCustomer(2, 1)), customerEntry(t, aCustomer(3, 1)))
	b.orders(t, orderEntry(t, 1, 1, 1, order.Placed), orderEntry(t, 2, 2, 1, order.Placed), orderEntry(t, 3, 3, 1, order.Placed))
	b.mustWork(t)
	known, begun := orderEntry(t, 9, 5, 3, order.Placed), orderEntry(t, 10, 6, 2, order.Placed) // of a snapshot, by their newest versions
	known.First, begun.First = 2, 3
	b.customers(t, customerEntry(t, aCustomer(5, 1)), customerEntry(t, aCustomer(6, 1)))
	b.orders(t, known, begun)
	b.mustWork(t)
	b.want(t, 5, "skipped", 0)
	b.want(t, 6, "sent", 1)
	b.past = 0 // the source has another history: what is known stays as it is
	b.orders(t, orderEntry(t, 7, 1, 2, order.Placed), orderEntry(t, 8, 4, 1, order.Placed))
	b.customers(t, customerEntry(t, aCustomer(4, 1)))
	b.mustWork(t)
	b.want(t, 1, "skipped", 0)
	b.want(t, 2, "skipped", 0)
	b.want(t, 3, "sent", 1)
	b.want(t, 4, "sent", 1)
}

// refuse makes the sink refuse recipients that begin so, until it is asked so often.
func refuse(code int, prefix string, times int) func(*mailsink.Sink) {
	return func(s *mailsink.Sink) {
		s.Refuse = func(to string) *mailsink.Refusal {
			if times == 0 || !strings.HasPrefix(to, prefix) {
				return nil
			}
			times--
			return &mailsink.Refusal{Code: code, EnhancedCode: [3]int{code / 100, 1, 1}, Message: "No mailbox for " + to}
		}
	}
}

func TestRefusals(t *testing.T) {
	t.Parallel()
	pgtest.Slow(t, "many databases")
	both := func(t *testing.T, b *bench) {
		for n := 1; n <= 2; n++ {
			b.customers(t, customerEntry(t, aCustomer(n, 1)))
			b.orders(t, orderEntry(t, int64(n), n, 1, order.Placed))
		}
	}
	t.Run("temporary, of one recipient, again and again", func(t *testing.T) {
		t.Parallel()
		b := newBench(t, refuse(451, "buyer1@", 3))
		both(t, b)
		var waits []time.Duration
		for range 3 {
			b.mustWork(t)
			m := b.want(t, 1, "pending", 0)
			if want := "451 4.1.1 No mailbox for " + email(1); m.Reason != want || m.NextTryAt == nil {
				t.Fatalf("%+v", m)
			}
			waits = append(waits, time.Until(*m.NextTryAt))
		}
		b.want(t, 2, "sent", 1)
		if waits[0] < 2*time.Second || waits[1] < waits[0]+3*time.Second || waits[2] < waits[1]+5*time.Second {
			t.Errorf("it waits %v", waits)
		}
		if err := b.work(t.Context()); err != nil {
			t.Fatal(err)
		}
		b.want(t, 1, "pending", 0) // as it is not due
		b.mustWork(t)
		if m := b.want(t, 1, "sent", 1); m.Attempts != 4 || m.Uncertain != 0 || m.Reason != "" {
			t.Errorf("%+v", m)
		}
	})
	t.Run("temporary, for too long", func(t *testing.T) {
		t.Parallel()
		b := newBench(t, refuse(451, "buyer1@", -1))
		both(t, b)
		b.mustWork(t)
		exec(t, b.db, `update mail set composed_at = composed_at - interval '121 hours'`)
		b.mustWork(t)
		if m := b.want(t, 1, "failed", 0); !strings.HasPrefix(m.Reason, "Refused for five days, most recently: 451") {
			t.Errorf("%+v", m)
		}
	})
	t.Run("temporary, for too long since the clock was set back", func(t *testing.T) {
		t.Parallel()
		b := newBench(t, refuse(451, "buyer1@", -1))
		both(t, b)
		b.mustWork(t)
		exec(t, b.db, `update mail set composed_at = composed_at + interval '74 years'`)
		b.mustWork(t)
		exec(t, b.db, `update mail set composed_at = composed_at - interval '121 hours'`)
		b.mustWork(t)
		b.want(t, 1, "failed", 0)
	})
	t.Run("temporary, for too long, and others were taken by a clock that was ahead", func(t *testing.T) {
		t.Parallel()
		b := newBench(t, refuse(451, "buyer1@", -1))
		both(t, b)
		b.mustWork(t)
		exec(t, b.db, `update mail set composed_at = composed_at - interval '121 hours', sent_at = sent_at + interval '74 years'`)
		b.mustWork(t)
		b.want(t, 1, "pending", 0)
	})
	t.Run("permanent, until the customer has another address", func(t *testing.T) {
		t.Parallel()
		b := newBench(t, refuse(550, "buyer1@", -1))
		both(t, b)
		b.mustWork(t)
		b.mustWork(t)
		if m := b.want(t, 1, "failed", 0); m.Attempts != 1 || m.Reason != "550 5.1.1 No mailbox for "+email(1) {
			t.Errorf("%+v", m)
		}
		b.want(t, 2, "sent", 1)
		moved := aCustomer(1, 2)
		moved.Address.City = "Ulm"
		b.customers(t, customerEntry(t, moved))
		b.mustWork(t)
		b.want(t, 1, "failed", 0)
		moved.Version, moved.Email = 3, "zoe@elsewhere.example"
		b.customers(t, customerEntry(t, moved))
		b.mustWork(t)
		b.want(t, 1, "sent", 1)
		if to := arrivals(b.sink, 1)[0].To; to[0] != "zoe@elsewhere.example" {
			t.Errorf("to %v", to)
		}
	})
	for code, state := range map[int]string{452: "pending", 554: "failed"} {
		t.Run(fmt.Sprint(code, " after the last line"), func(t *testing.T) {
			t.Parallel()
			b := newBench(t, func(s *mailsink.Sink) {
				s.After = func(m *mailsink.Mail) *mailsink.Refusal {
					if m.To[0] != email(1) {
						return nil
					}
					return &mailsink.Refusal{Code: code, EnhancedCode: [3]int{code / 100, 7, 1}, Message: "Not this one"}
				}
			})
			both(t, b)
			b.mustWork(t)
			if m := b.want(t, 1, state, 0); m.Uncertain != 0 || !strings.Contains(m.Reason, "7.1 Not this one") {
				t.Errorf("%+v", m)
			}
			b.want(t, 2, "sent", 1)
		})
	}
	t.Run("an address that is none", func(t *testing.T) {
		t.Parallel()
		b := newBench(t)
		for n, address := range []string{"", "zoe", "zoe@x.example\r\nRCPT TO:<other@x.example>", "a@x.example> SIZE=1", "Zoe <a@x.example>", "a@x.example, b@x.example"} {
			c := aCustomer(n, 1)
			c.Email = address
			b.customers(t, customerEntry(t, c))
			b.orders(t, orderEntry(t, int64(n+1), n, 1, order.Placed))
		}
		b.mustWork(t)
		for n := range 6 {
			if m := b.want(t, n, "failed", 0); m.Reason != smtp.ErrAddress.Error() {
				t.Errorf("%d: %+v", n, m)
			}
		}
		if got := b.sink.Mails(); len(got) != 0 {
			t.Errorf("%d mails have arrived", len(got))
		}
	})
	t.Run("a mail server that is down, and comes back", func(t *testing.T) {
		t.Parallel()
		b := newBench(t)
		at := b.addr
		b.mailTo(t, "127.0.0.1:1")
		both(t, b)
		if err := b.work(t.Context()); err == nil || !strings.Contains(err.Error(), "mail server smtp://127.0.0.1:1: ") {
			t.Errorf("%v", err)
		}
		for n := 1; n <= 2; n++ {
			if m := b.want(t, n, "pending", 0); m.Attempts != 0 || !strings.Contains(m.Reason, "Mail server: dial tcp 127.0.0.1:1: ") {
				t.Errorf("%+v", m)
			}
		}
		b.mailTo(t, at)
		b.mustWork(t)
		b.want(t, 1, "sent", 1)
		b.want(t, 2, "sent", 1)
	})
}

// What SMTP leaves open is sent again, with the same Message-ID, and counted; what it does not is sent once.
func TestLostConnection(t *testing.T) {
	t.Parallel()
	pgtest.Slow(t, "many databases")
	for _, stage := range []string{"greeting", "EHLO", "MAIL", "RCPT", "DATA", "end"} {
		t.Run("before the reply to "+stage, func(t *testing.T) {
			t.Parallel()
			b := newBench(t)
			p := newProxy(t, b.addr)
			b.mailTo(t, p.addr)
			b.customers(t, customerEntry(t, aCustomer(1, 1)))
			b.orders(t, orderEntry(t, 1, 1, 1, order.Placed))
			p.at(stage, true)
			if err := b.work(t.Context()); err == nil {
				t.Error("nothing is told of it")
			}
			<-p.held
			attempts := 1
			if stage == "greeting" || stage == "EHLO" || stage == "MAIL" {
				attempts = 0 // no mail was being sent
			}
			if m := b.mail(t, 1); m.State != "pending" || m.Attempts != attempts || m.Reason == "" {
				t.Errorf("%+v", m)
			}
			b.mustWork(t)
			b.mustWork(t)
			if stage != "end" {
				if m := b.want(t, 1, "sent", 1); m.Uncertain != 0 {
					t.Errorf("%+v", m)
				}
				return
			}
			if m := b.want(t, 1, "sent", 2); m.Uncertain != 1 || m.Attempts != 2 {
				t.Errorf("%+v", m)
			}
			mails := arrivals(b.sink, 1)
			cut := func(m *mailsink.Mail) string { _, mail, _ := strings.Cut(string(m.Raw), "\r\nDate: "); return mail }
			if first, again := cut(mails[0]), cut(mails[1]); first != again || first == "" {
				t.Errorf("what is sent again differs:\n%s\n%s", first, again)
			}
		})
	}
}

// The two feeds are applied at the same time. Whichever commits first, and however late the other is, the mail is sent,
// or is not.
func TestFeedsAtTheSameTime(t *testing.T) {
	t.Parallel()
	for name, x := range map[string]struct {
		deleted bool
		state   string
		arrived int
	}{"the customer arrives": {false, "sent", 1}, "the customer is deleted": {true, "withdrawn", 0}} {
		for _, ordersFirst := range []bool{true, false} {
			t.Run(fmt.Sprint(name, ", orders first: ", ordersFirst), func(t *testing.T) {
				t.Parallel()
				b := newBench(t)
				c := customerEntry(t, aCustomer(1, 1))
				if x.deleted {
					b.customers(t, c)
					c = deletedCustomer(1, 2)
				}
				o := orderEntry(t, 1, 1, 1, order.Placed)
				first, second := func(tx pgx.Tx) error { return applyOrders(t.Context(), tx, subscribe.NewBatch([]feed.Entry{o})) },
					func(tx pgx.Tx) error { return applyCustomers(t.Context(), tx, subscribe.NewBatch([]feed.Entry{c})) }
				if !ordersFirst {
					first, second = second, first
				}
				tx, err := b.db.Begin(t.Context())
				if err != nil {
					t.Fatal(err)
				}
				defer func() { _ = tx.Rollback(context.Background()) }()
				if err := first(tx); err != nil {
					t.Fatal(err)
				}
				ended := make(chan error, 1)
				go func() { ended <- pgx.BeginFunc(context.Background(), b.db, second) }()
				eventually(t, "the second waits for the first", func() bool {
					var waits bool
					err := b.db.QueryRow(t.Context(), `
						select exists (select from pg_locks where locktype = 'advisory' and not granted
						       and database = (select oid from pg_database where datname = current_database()))`).Scan(&waits)
					return err == nil && waits
				})
				if err := tx.Commit(t.Context()); err != nil {
					t.Fatal(err)
				}
				if err := <-ended; err != nil {
					t.Fatal(err)
				}
				b.mustWork(t)
				b.want(t, 1, x.state, x.arrived)
			})
		}
	}
}

// The server has taken the mail, but the database does not take that down at once.
func TestOutcomeIsNotedLate(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	exec(t, b.db, `create sequence tries`) // which no rollback takes back
	exec(t, b.db, `create function refuse() returns trigger language plpgsql as $$ begin
		if nextval('tries') <= 3 then raise exception 'not now' using errcode = 'disk_full'; end if; return new; end $$;
		create trigger refuse before update on mail for each row when (new.state = 'sent') execute function refuse()`)
	b.customers(t, customerEntry(t, aCustomer(1, 1)))
	b.orders(t, orderEntry(t, 1, 1, 1, order.Placed))
	ctx, stop := context.WithCancel(t.Context())
	go func() {
		for len(b.sink.Mails()) == 0 && t.Context().Err() == nil {
			time.Sleep(time.Millisecond)
		}
		stop() // as at the end of the process, or where its lock is lost with the database
	}()
	if err := b.work(ctx); err != nil {
		t.Fatal(err)
	}
	b.mustWork(t)
	if m := b.want(t, 1, "sent", 1); m.Uncertain != 0 || m.Attempts != 1 {
		t.Errorf("%+v", m)
	}
}

// What was put off, or was being sent, while the clock was ahead does not wait for that time.
func TestClockSetBack(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	for n := 1; n <= 3; n++ {
		b.add(t, n, email(n))
	}
	exec(t, b.db, `update mail set due_at = now() + interval '74 years'`)
	exec(t, b.db, `update mail set due_at = now() + interval '59 minutes' where order_id = $1`, orderID(2))
	exec(t, b.db, `update mail set state = 'sending', sending_since = now() + interval '74 years' where order_id = $1`, orderID(3))
	if err := b.work(t.Context()); err != nil {
		t.Fatal(err)
	}
	b.want(t, 1, "sent", 1)
	b.want(t, 2, "pending", 0)
	if m := b.want(t, 3, "sent", 1); m.Uncertain != 1 {
		t.Errorf("%+v", m)
	}
}

// The counts stay true if a table is emptied by hand; newBench checks them at the end.
func TestTruncate(t *testing.T) {
	t.Parallel()
	for _, tables := range []string{"customers", "mail", "customers, mail", "mail, customers"} {
		t.Run(tables, func(t *testing.T) {
			t.Parallel()
			b := newBench(t)
			b.customers(t, customerEntry(t, aCustomer(1, 1)))
			b.orders(t, orderEntry(t, 1, 1, 1, order.Placed), orderEntry(t, 2, 2, 1, order.Placed))
			exec(t, b.db, `update mail set uncertain = 1 where order_id = $1`, orderID(1))
			exec(t, b.db, `truncate `+tables)
			b.customers(t, customerEntry(t, aCustomer(2, 1)))
		})
	}
}

func TestNoServer(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	b.set.Server = smtp.Server{}
	b.add(t, 1, email(1))
	b.mustWork(t)
	b.want(t, 1, "pending", 0)
}

// Why a login fails stands beside the mail, without the password.
func TestWrongPassword(t *testing.T) {
	t.Parallel()
	b := newBench(t, func(s *mailsink.Sink) { s.Login = func(string, string) bool { return false } })
	b.mailTo(t, "zoe:hunter2@"+b.addr)
	b.add(t, 1, email(1))
	err := b.work(t.Context())
	m := b.want(t, 1, "pending", 0)
	if err == nil || !strings.Contains(err.Error(), "535 5.7.8 after AUTH") || !strings.Contains(m.Reason, "535 5.7.8 after AUTH") || strings.Contains(err.Error()+m.Reason, "hunter2") {
		t.Errorf("%v; %s", err, m.Reason)
	}
}

// A table that pg_restore fills alone, with an empty search_path, is counted like any other; the end of the test looks.
func TestTableFilledAlone(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	for n := range 3 {
		b.add(t, n+1, email(n+1))
	}
	exec(t, b.db, `create table kept_mail as table mail; create table kept_customers as table customers`)
	exec(t, b.db, `begin; set local search_path = '';
		delete from public.mail; insert into public.mail table public.kept_mail; update public.mail set state = 'skipped';
		delete from public.customers; insert into public.customers table public.kept_customers; truncate public.customers;
		insert into public.customers table public.kept_customers; truncate public.mail; insert into public.mail table public.kept_mail; commit`)
}
