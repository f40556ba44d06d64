package mailer

import (
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/edison-cars/data-feeds/shared/customer"
	"github.com/edison-cars/data-feeds/shared/daemon"
	"github.com/edison-cars/data-feeds/shared/dev/mailsink"
	"github.com/edison-cars/data-feeds/shared/feed"
	"github.com/edison-cars/data-feeds/shared/order"
	"github.com/edison-cars/data-feeds/shared/postgres/pgtest"
	"github.com/edison-cars/data-feeds/shared/publish"
)

func TestLimitSetting(t *testing.T) {
	t.Parallel()
	for value, want := range map[string]uint16{"": 5, "0": 0, "1": 1, "1000": 1000} {
		var set settings
		if err := daemon.Parse(map[string]string{"MAIL_LIMIT": value}, &set); err != nil || set.Limit != want {
			t.Errorf("%q: %d, %v", value, set.Limit, err)
		}
	}
	for _, bad := range []string{"-1", "five", "1.5", "70000"} {
		if err := daemon.Parse(map[string]string{"MAIL_LIMIT": bad}, new(settings)); !errors.Is(err, daemon.ErrUsage) || !strings.Contains(err.Error(), "MAIL_LIMIT") {
			t.Errorf("%q: %v", bad, err)
		}
	}
}

// anHourLater lets an hour go by for what was mailed.
func (b *bench) anHourLater(t *testing.T) {
	t.Helper()
	exec(t, b.db, `update recent_mail set began_at = began_at - interval '1 hour'`)
}

// states counts the mails by state.
func (b *bench) states(t *testing.T) map[string]int {
	t.Helper()
	list, err := readMails(httptest.NewRequest("GET", "/api/mails", nil), b.db)
	if err != nil {
		t.Fatal(err)
	}
	counts := map[string]int{}
	for _, m := range list.Items {
		counts[m.State]++
	}
	return counts
}

// A stranger's address gets so many mails an hour, however it is written and whatever account it belongs to; no mail is
// lost.
func TestLimit(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	b.set.Limit = 2
	forms := []string{"ada@bücher.example", "ADA@BÜCHER.example", "ada@xn--bcher-kva.example", "ada+1@bücher.example", "a.d.a+x+y@XN--BCHER-KVA.example"}
	for n, form := range forms {
		b.add(t, n+1, form)
	}
	b.add(t, 9, email(9))
	b.mustWork(t)
	b.want(t, 9, "sent", 1)
	arrived := func(n int) {
		t.Helper()
		b.mustWork(t)
		b.mustWork(t)
		if got := b.states(t); got["sent"] != n || got["pending"] != 6-n || len(b.sink.Mails()) != n {
			t.Errorf("%v, %d mails; want %d", got, len(b.sink.Mails()), n)
		}
	}
	arrived(3)
	o, err := readOverview(httptest.NewRequest("GET", "/", nil), b.db, b.set, b.outage.now(), b.current.Behind())
	if err != nil || o.Limit != 2 || o.Counts.OverLimit != 3 || o.Counts.Pending != 3 {
		t.Errorf("%+v, %v", o, err)
	}
	for n := 1; n <= len(forms); n++ {
		if m := b.mail(t, n); m.State == "pending" && (m.Reason != overLimit || m.Attempts != 0 || m.NextTryAt == nil || time.Until(*m.NextTryAt) > time.Hour || time.Until(*m.NextTryAt) < 50*time.Minute) {
			t.Errorf("%+v", m)
		}
	}
	b.anHourLater(t)
	arrived(5)
	b.anHourLater(t)
	arrived(6)
	b.anHourLater(t)
	b.mustWork(t)
	var left int
	if err := b.db.QueryRow(t.Context(), `select count(*) from recent_mail`).Scan(&left); err != nil || left != 0 {
		t.Errorf("%d addresses are kept for longer than an hour, %v", left, err)
	}
	t.Run("a new account with the address of a deleted one", func(t *testing.T) {
		t.Parallel()
		b := newBench(t)
		b.set.Limit = 1
		b.add(t, 1, email(1))
		b.mustWork(t)
		b.want(t, 1, "sent", 1)
		b.customers(t, deletedCustomer(1, 2))
		b.add(t, 2, email(1))
		b.mustWork(t)
		b.want(t, 2, "pending", 0)
	})
	t.Run("no limit", func(t *testing.T) {
		t.Parallel()
		b := newBench(t)
		for n := 1; n <= 20; n++ {
			b.add(t, n, email(1))
		}
		b.mustWork(t)
		if n := len(b.sink.Mails()); n != 20 {
			t.Errorf("%d mails", n)
		}
	})
}

// A mail that is refused counts for no limit; one that may have arrived does, as often as it may.
func TestLimitCountsWhatArrives(t *testing.T) {
	t.Parallel()
	pgtest.Slow(t, "many databases")
	for name, x := range map[string]struct {
		reply   func(string) string
		arrives bool
	}{
		"refused at the recipient":          {on("RCPT", "450 4.2.1 Not now"), false},
		"refused at the end, for now":       {on(".", "450 4.2.1 Not now"), false},
		"refused at the end, as all are":    {on(".", "554 5.7.1 Spam"), false},
		"lost before the reply to the end":  {on(".", "cut"), true},
		"lost before the reply to the mail": {on("MAIL", "cut"), false},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			b, s := newScripted(t, 1, x.reply)
			b.set.Limit = 2
			for range 3 {
				b.hurry(t)
				_ = b.work(t.Context())
			}
			s.set(yes)
			b.mustWork(t)
			if m := b.mail(t, 1); x.arrives != (m.State == "pending" && m.Reason == overLimit) || x.arrives == (m.State == "sent") {
				t.Errorf("%+v", m)
			}
			b.anHourLater(t)
			b.mustWork(t)
			if m := b.mail(t, 1); m.State != "sent" {
				t.Errorf("%+v", m)
			}
		})
	}
	t.Run("given up for good", func(t *testing.T) {
		t.Parallel()
		b := newBench(t, func(s *mailsink.Sink) {
			s.After = func(m *mailsink.Mail) *mailsink.Refusal {
				if strings.Contains(m.MessageID, orderID(1).String()) {
					return &mailsink.Refusal{Code: 550, EnhancedCode: [3]int{5, 6, 0}, Message: "no"}
				}
				return nil
			}
		})
		b.set.Limit = 1
		b.add(t, 1, email(1))
		b.mustWork(t)
		b.want(t, 1, "failed", 0)
		b.add(t, 2, email(1))
		b.mustWork(t)
		b.want(t, 2, "sent", 1)
	})
	t.Run("a process that was lost while it was sending", func(t *testing.T) {
		t.Parallel()
		b := newBench(t)
		b.set.Limit = 1
		b.add(t, 1, email(1))
		due, err := b.due(t.Context())
		if err != nil || len(due) != 1 {
			t.Fatal(due, err)
		}
		if err := b.begin(t.Context(), due[0]); err != nil {
			t.Fatal(err)
		}
		b.mustWork(t)
		if m := b.want(t, 1, "pending", 0); m.Uncertain != 1 || m.Reason != overLimit {
			t.Errorf("%+v", m)
		}
	})
	t.Run("another process that sends at the same time", func(t *testing.T) {
		t.Parallel()
		b := newBench(t)
		b.set.Limit = 1
		b.add(t, 1, email(1))
		b.add(t, 2, strings.ToUpper(email(1)))
		due, err := b.due(t.Context())
		if err != nil || len(due) != 2 {
			t.Fatal(due, err)
		}
		if err := b.begin(t.Context(), due[0]); err != nil {
			t.Fatal(err)
		}
		if err := b.begin(t.Context(), due[1]); !errors.Is(err, errOutdated) {
			t.Errorf("%v", err)
		}
	})
}

// However many mails wait for one address, others go out at once.
func TestFlood(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	b.set.Limit = 5
	b.customers(t, customerEntry(t, aCustomer(1, 1)))
	flood := make([]feed.Entry, 2*maxDue+100)
	for n := range flood {
		o := anOrder(n+10, 1, order.Placed)
		o.CustomerID = customerID(1)
		flood[n] = feed.Entry{Position: int64(n + 1), ID: o.ID, Version: 1, Entity: rawJSON(t, o)}
	}
	b.orders(t, flood...)
	b.mustWork(t)
	if n := len(b.sink.Mails()); n != 5 {
		t.Errorf("%d mails", n)
	}
	exec(t, b.db, `update mail set due_at = now() - interval '1 min'`)
	b.add(t, 2, email(2))
	if err := b.work(t.Context()); err != nil {
		t.Error(err)
	}
	b.want(t, 2, "sent", 1)
	if n := len(b.sink.Mails()); n != 6 {
		t.Errorf("%d mails", n)
	}
	b.anHourLater(t)
	b.mustWork(t)
	if n := len(b.sink.Mails()); n != 11 {
		t.Errorf("%d mails", n)
	}
}

func TestLimitOnThePage(t *testing.T) {
	t.Parallel()
	s, db := newSources(t), newDatabase(t)
	sink := new(mailsink.Sink)
	p := s.start(t, db, serve(t, sink), map[string]string{"MAIL_LIMIT": "1"})
	eventually(t, "the mailer is ready", func() bool { status, _ := p.Get(t, "/readyz", ""); return status == http.StatusOK })
	for n := 1; n <= 2; n++ {
		c := aCustomer(n, 1)
		c.Email = fmt.Sprintf("ada+%d@mail.example", n)
		s.append(t, customer.Feed, publish.Entry{ID: c.ID, Version: 1, Updated: c.UpdatedAt.Time, Payload: rawJSON(t, c)})
	}
	s.sell(t, 1, 2)
	eventually(t, "the second mail waits", func() bool {
		_, body := p.Get(t, "/", "text/html")
		return strings.Contains(body, overLimit)
	})
	status, body := p.Get(t, "/", "text/html")
	if status != http.StatusOK || !strings.Contains(body, "An address gets up to 1 mail per hour") || !strings.Contains(body, "Over the limit</dt><dd>1</dd>") || len(sink.Mails()) != 1 {
		t.Errorf("%d mails; %d %s", len(sink.Mails()), status, body)
	}
}
