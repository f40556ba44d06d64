package mailer

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/edison-cars/data-feeds/shared/feed"
	"github.com/edison-cars/data-feeds/shared/order"
	"github.com/edison-cars/data-feeds/shared/postgres/pgtest"
	"github.com/edison-cars/data-feeds/shared/smtp"
)

// A reply is positive by its first digit: a mail that was taken so is not sent again.
func TestPositiveReplies(t *testing.T) {
	t.Parallel()
	pgtest.Slow(t, "many databases")
	for name, reply := range map[string]func(string) string{
		"200 at the end":       on(".", "200 queued"),
		"252 at the end":       on(".", "252 2.0.0 queued"),
		"many lines":           on(".", "250-a\r\n250-b\r\n250 c"),
		"251 at the recipient": on("RCPT", "251 will forward"),
		"200 at the recipient": on("RCPT", "200 ok"),
		"200 at the sender":    on("MAIL", "200 ok"),
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			b, s := newScripted(t, 2, reply)
			for range 3 {
				b.mustWork(t)
				b.hurry(t)
			}
			b.state(t, 1, "sent", 1, "")
			b.state(t, 2, "sent", 1, "")
			if heard, _ := s.got(); strings.Count(heard, "DATA") != 2 {
				t.Errorf("it was sent again:\n%s", heard)
			}
		})
	}
}

// A server may take so many mails over one connection; the others go over the next ones, and nothing is said to be
// wrong.
func TestMailsPerConnection(t *testing.T) {
	t.Parallel()
	for _, full := range []string{"421 4.7.0 Too many messages in this connection", "450 4.7.0 Too many", "cut"} {
		t.Run(full, func(t *testing.T) {
			t.Parallel()
			mails := 0
			b, s := newScripted(t, 7, func(command string) string {
				switch {
				case strings.HasPrefix(command, "EHLO"):
					mails = 0
				case strings.HasPrefix(command, "MAIL"):
					if mails++; mails > 2 {
						return full
					}
				}
				return ""
			})
			b.mustWork(t)
			for n := 1; n <= 7; n++ {
				b.state(t, n, "sent", 1, "")
			}
			if heard, _ := s.got(); strings.Count(heard, "EHLO") != 4 || b.outage.now() != (failure{}) {
				t.Errorf("%d connections, %+v", strings.Count(heard, "EHLO"), b.outage.now())
			}
		})
	}
}

// A server that closes the connection instead of taking a mail may do so for that mail: the others go over the next
// one. One that does so for many in a row takes none.
func TestRefusedAndClosed(t *testing.T) {
	t.Parallel()
	pgtest.Slow(t, "many databases")
	for name, x := range map[string]struct {
		stage      string // of the mails to be refused
		bad, good  int
		sent, away bool // the good ones are; nothing can be sent
	}{
		"the recipient of one":                {"RCPT", 1, 3, true, false},
		"the recipients of some":              {"RCPT", maxDoubtful - 1, 3, true, false},
		"one, after the last line":            {".", 1, 3, true, false},
		"a single one":                        {"RCPT", 1, 0, true, false},
		"all, as long as it is tried":         {"RCPT", maxDoubtful, 3, false, true},
		"more than one finds out of in a run": {"RCPT", 2*maxDoubtful + 1, 0, false, true},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			refused, closed := false, false
			b, s := newScripted(t, x.bad+x.good, func(command string) string {
				var n int
				switch _, _ = fmt.Sscanf(command, "RCPT TO:<buyer%d@", &n); {
				case strings.HasPrefix(command, "EHLO"):
					closed = false
				case closed:
					return "cut"
				case n > 0:
					refused = n <= x.bad
				}
				if refused && strings.HasPrefix(command, x.stage) {
					closed = true
					return "421 4.3.2 Not now"
				}
				return ""
			})
			for n := x.bad + 1; n <= x.bad+x.good; n++ {
				exec(t, b.db, `update mail set due_at = now() + interval '1 minute' where order_id = $1`, orderID(n))
			}
			exec(t, b.db, `update mail set due_at = due_at - interval '1 hour'`)
			if err := b.work(t.Context()); (err != nil) != x.away {
				t.Errorf("%v", err)
			}
			b.state(t, x.bad, "pending", min(1, maxDoubtful/x.bad), "421 4.3.2 Not now") // nothing is booked to what was not tried
			if _, mails := s.got(); mails != x.good && x.sent || mails != 0 && !x.sent {
				t.Errorf("%d mails are sent", mails)
			}
			if f := b.outage.now(); (f != failure{}) != x.away {
				t.Errorf("%+v", f)
			}
		})
	}
}

// One mail of which the database refuses the row keeps back no other one.
func TestRowAtFault(t *testing.T) {
	t.Parallel()
	for name, when := range map[string]string{"when it is being sent": "new.state = 'sending'", "ever": "true"} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			b, s := newScripted(t, 4, yes)
			exec(t, b.db, `create function refuse() returns trigger language plpgsql as $$ begin raise exception 'no mail to %', new.recipient; end $$`)
			exec(t, b.db, fmt.Sprintf(`create trigger refuse before update on mail for each row when (new.order_id = '%s' and %s) execute function refuse()`, orderID(2), when))
			exec(t, b.db, `alter table mail disable trigger refuse; update mail set due_at = now() - interval '1 h' where order_id = '`+orderID(2).String()+`'; alter table mail enable trigger refuse`)
			err := b.work(t.Context())
			if err == nil || !strings.Contains(err.Error(), "mail for order "+orderID(2).String()) || !strings.Contains(err.Error(), "P0001") || strings.Contains(err.Error(), "@") {
				t.Errorf("%v", err)
			}
			if m := b.mail(t, 2); m.State != "pending" || m.Recipient != nil {
				t.Errorf("%+v", m)
			}
			for _, n := range []int{1, 3, 4} {
				b.state(t, n, "sent", 1, "")
			}
			exec(t, b.db, `drop trigger refuse on mail`)
			b.hurry(t)
			b.mustWork(t)
			if m := b.mail(t, 2); m.State != "sent" {
				t.Errorf("%+v", m)
			}
			if _, mails := s.got(); mails < 4 {
				t.Errorf("%d mails", mails)
			}
		})
	}
}

// Where the time of work is too short for a mail server that takes as long as it may, nothing is begun: what is cut off
// would be sent again.
func TestTimeOfWork(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	b.customers(t, customerEntry(t, aCustomer(1, 1)))
	b.orders(t, orderEntry(t, 1, 1, 1, order.Placed))
	for _, x := range []struct {
		left    time.Duration
		state   string
		arrived int
	}{{smtp.SendTimeout - time.Minute, "pending", 0}, {Service().WorkTimeout, "sent", 1}} {
		ctx, cancel := context.WithTimeout(t.Context(), x.left)
		defer cancel()
		b.hurry(t)
		if err := b.work(ctx); err != nil {
			t.Fatal(err)
		}
		if m := b.want(t, 1, x.state, x.arrived); m.Attempts != x.arrived {
			t.Errorf("with %v left: %+v", x.left, m)
		}
	}
}

// A server that never ends its reply is no server, and fills no memory.
func TestEndlessReply(t *testing.T) {
	t.Parallel()
	pgtest.Slow(t, "the largest replies")
	endless := strings.Repeat("x", 1<<16)
	for _, stage := range []string{"EHLO", "MAIL", "RCPT", "DATA", "."} {
		b, s := newScripted(t, 1, on(stage, "250-"+strings.Repeat(endless, 32)))
		if err := b.work(t.Context()); err == nil || !strings.Contains(err.Error()+b.mail(t, 1).Reason, "replies exceed") && stage != "." {
			t.Errorf("after %s: %v, %+v", stage, err, b.mail(t, 1))
		}
		s.set(yes)
		b.mustWork(t)
		b.state(t, 1, "sent", b.mail(t, 1).Attempts, "")
	}
}

// A model may begin with any letter.
func TestStrangeModels(t *testing.T) {
	t.Parallel()
	b, _ := newScripted(t, 0, yes)
	models := []string{"élan", "\u202eabc", "😀x", "ßx", "ı", "\u2028", "\x01", "a\r\n.\r\nRSET", "{{.}}"}
	for i, model := range models {
		i++
		b.customers(t, customerEntry(t, aCustomer(i, 1)))
		o := anOrder(i, 1, order.Placed)
		o.Lines[0].Model, o.Lines[0].Options = model, []string{model}
		b.orders(t, feed.Entry{Position: int64(i), ID: o.ID, Version: 1, Entity: rawJSON(t, o)})
	}
	b.mustWork(t)
	for i := 1; i <= len(models); i++ {
		b.state(t, i, "sent", 1, "")
	}
	if m := b.mail(t, 1); !strings.Contains(*m.Body, "Edison Élan with élan") {
		t.Errorf("%s", *m.Body)
	}
}

// A server that takes mails and never replies gets none of them for ever.
func TestNoReplyForDays(t *testing.T) {
	t.Parallel()
	b, s := newScripted(t, 1, on(".", "cut"))
	for range 3 {
		b.hurry(t)
		if err := b.work(t.Context()); err == nil {
			t.Error("nothing is told of it")
		}
		b.state(t, 1, "pending", b.mail(t, 1).Uncertain, "may have arrived")
	}
	exec(t, b.db, `update mail set composed_at = composed_at - interval '6 days'`)
	for range 3 {
		b.hurry(t)
		_ = b.work(t.Context())
	}
	b.state(t, 1, "failed", 4, "No reply for five days, though the mail may have arrived.")
	if heard, _ := s.got(); strings.Count(heard, "DATA") != 4 {
		t.Errorf("it was sent again:\n%s", heard)
	}
}

// A mail at which the server always cuts the connection is given up, at some time, if it takes others: not if it takes
// none.
func TestCutAlways(t *testing.T) {
	t.Parallel()
	pgtest.Slow(t, "many databases")
	for name, x := range map[string]struct {
		at     string
		others bool
		tries  int // until the mail is given up; 0: it is not
		says   string
	}{
		"after the last line":                      {".", true, maxCut, "No reply to 10 attempts, though the mail may have arrived."},
		"after the last line, as at all others":    {".", false, 0, "may have arrived"},
		"at the recipient, for days":               {"RCPT", true, maxCut, "The connection was lost for five days, most recently: EOF."},
		"at the recipient, as at all others":       {"RCPT", false, 0, "Mail server: EOF"},
		"before the mail, for days":                {"DATA", true, maxCut, "The connection was lost for five days, most recently: EOF."},
		"before the mail, for days, as all others": {"DATA", false, 0, "Mail server: EOF"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			bad := false
			b, s := newScripted(t, 2, func(command string) string {
				if strings.HasPrefix(command, "RCPT") {
					bad = strings.Contains(command, "buyer1@") || !x.others
				}
				if bad && strings.HasPrefix(command, x.at) {
					return "cut"
				}
				return ""
			})
			tries := 0
			for ; tries < maxCut+2 && b.mail(t, 1).State == "pending"; tries++ {
				b.hurry(t)
				exec(t, b.db, `update mail set due_at = due_at - interval '1 minute' where order_id = $1`, orderID(1))
				if err := b.work(t.Context()); err == nil {
					t.Error("nothing is told of it")
				}
				_ = b.work(t.Context()) // the other one
				if x.at != "." && tries == maxCut-2 {
					exec(t, b.db, `update mail set composed_at = composed_at - interval '6 days' where order_id = $1`, orderID(1))
				}
			}
			m := b.mail(t, 1)
			if gaveUp := m.State == "failed"; gaveUp != (x.tries > 0) || gaveUp && tries != x.tries || !strings.Contains(m.Reason, x.says) {
				t.Errorf("after %d attempts: %+v", tries, m)
			}
			if _, mails := s.got(); (mails > 0) != x.others {
				t.Errorf("%d mails are sent", mails)
			}
		})
	}
}
