package mailer

import (
	"bufio"
	"fmt"
	"net"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/edison-cars/data-feeds/shared/dev/mailsink"
	"github.com/edison-cars/data-feeds/shared/feed"
	"github.com/edison-cars/data-feeds/shared/order"
	"github.com/edison-cars/data-feeds/shared/postgres/pgtest"
)

// A script is a mail server that replies as it is told to, and takes everything else.
type script struct {
	mu    sync.Mutex
	reply func(command string) string // "" is yes
	heard []string                    // commands
	taken int                         // mails
}

func (s *script) set(reply func(command string) string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.reply = reply
}

func (s *script) got() (commands string, mails int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return strings.Join(s.heard, "\n"), s.taken
}

func (s *script) serve(t *testing.T) (addr string) {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var all sync.WaitGroup
	all.Go(func() {
		for {
			conn, err := ln.Accept()
			if err != nil {
				return
			}
			all.Go(func() {
				defer conn.Close()
				s.talk(conn)
			})
		}
	})
	t.Cleanup(func() {
		ln.Close()
		all.Wait()
	})
	return ln.Addr().String()
}

func (s *script) talk(conn net.Conn) {
	lines := bufio.NewScanner(conn)
	fmt.Fprint(conn, "220 test\r\n")
	for lines.Scan() {
		command := lines.Text()
		s.mu.Lock()
		s.heard = append(s.heard, command)
		reply := s.reply(command)
		s.mu.Unlock()
		verb, _, _ := strings.Cut(command, " ")
		switch {
		case reply == "cut":
			return
		case reply != "":
		case verb == "DATA":
			fmt.Fprint(conn, "354 go on\r\n")
			for lines.Scan() && lines.Text() != "." {
			}
			s.mu.Lock()
			if reply = s.reply("."); reply == "" {
				s.taken++
			}
			s.mu.Unlock()
		}
		if reply == "" {
			reply = "250 yes"
		}
		fmt.Fprint(conn, reply+"\r\n")
		if verb == "QUIT" {
			return
		}
	}
}

// newScripted is a bench of so many waiting mails, whose mail server is a script.
func newScripted(t *testing.T, mails int, reply func(command string) string) (*bench, *script) {
	t.Helper()
	b, s := newBench(t), &script{reply: reply}
	b.mailTo(t, s.serve(t))
	for n := 1; n <= mails; n++ {
		b.add(t, n, email(n))
	}
	return b, s
}

// add makes a mail n wait.
func (b *bench) add(t *testing.T, n int, to string) {
	t.Helper()
	c := aCustomer(n, 1)
	c.Email = to
	b.customers(t, customerEntry(t, c))
	b.orders(t, orderEntry(t, int64(n), n, 1, order.Placed))
}

func (b *bench) state(t *testing.T, n int, state string, attempts int, reason string) {
	t.Helper()
	if m := b.mail(t, n); m.State != state || m.Attempts != attempts || !strings.Contains(m.Reason, reason) {
		t.Errorf("the mail for order %d is %s after %d attempts, not %s after %d: %s", n, m.State, m.Attempts, state, attempts, m.Reason)
	}
}

// on returns a reply to all commands that begin so.
func on(prefix, reply string) func(string) string {
	return func(command string) string {
		if strings.HasPrefix(command, prefix) {
			return reply
		}
		return ""
	}
}

func yes(string) string { return "" }

// What the set-up is refused for is booked to no mail, however many wait and however long, and all go out when it is
// right.
func TestSetupAtFault(t *testing.T) {
	t.Parallel()
	pgtest.Slow(t, "many runs")
	for name, x := range map[string]struct {
		reply func(string) string
		says  string
	}{
		"the greeting, at the recipient":        {on("RCPT", "504 5.5.2 <localhost>: Helo command rejected: need fully-qualified hostname"), "504 5.5.2 after RCPT"},
		"the greeting, at once":                 {func(c string) string { return on("EHLO", "504 no")(c) + on("HELO", "504 no")(c) }, "it refuses the greeting"},
		"the greeting, not now":                 {func(c string) string { return on("EHLO", "450 no")(c) + on("HELO", "450 no")(c) }, "it refuses the greeting"},
		"the sender":                            {on("MAIL", "553 5.7.1 Sender address rejected: not owned by user"), "it refuses the sender"},
		"the sender, without a login":           {on("MAIL", "530 5.7.0 Authentication required"), "530"},
		"the sender, at the recipient":          {on("RCPT", "550 5.1.8 Sender address rejected: Domain not found"), "550 5.1.8 after RCPT"},
		"every recipient, as it relays none":    {on("RCPT", "554 5.7.1 Relay access denied"), "554 5.7.1 after RCPT"},
		"every recipient, without a code":       {on("RCPT", "554 Relay access denied"), "554 after RCPT"},
		"every recipient, as Exim says it":      {on("RCPT", "550 relay not permitted"), "550 after RCPT"},
		"every mail, at its start":              {on("DATA", "554 5.5.1 no valid recipients"), "554 5.5.1 after DATA"},
		"every mail, at its end":                {on(".", "554 5.7.1 Spam"), "554 5.7.1 after end"},
		"the network, and it hangs up at MAIL":  {on("MAIL", "cut"), "MAIL_FROM"},
		"the network, and it hangs up at first": {on("EHLO", "cut"), "greeting"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			b, s := newScripted(t, 3, x.reply)
			for range 3 {
				b.hurry(t)
				if err := b.work(t.Context()); err == nil || !strings.Contains(err.Error(), x.says) || strings.Contains(err.Error(), "@mail.example") {
					t.Fatalf("it says %v", err)
				}
				exec(t, b.db, `update mail set composed_at = composed_at - interval '20 days'`)
			}
			for n := 1; n <= 3; n++ {
				b.state(t, n, "pending", 0, "Mail server: ")
			}
			before, _ := s.got()
			if err := b.work(t.Context()); err == nil { // it is not tried again so soon, and the log says it once
				t.Error("it is over")
			} else if after, _ := s.got(); after != before {
				t.Error("it is tried again at once")
			}
			o, err := readOverview(httptest.NewRequest("GET", "/", nil), b.db, b.set, b.outage.now(), b.current.Behind())
			if err != nil || o.Failure.Since.IsZero() || !strings.Contains(o.Failure.Text, x.says) {
				t.Errorf("%+v, %v", o.Failure, err)
			}
			b.add(t, 4, email(4))
			s.set(yes)
			b.mustWork(t)
			for n := 1; n <= 4; n++ {
				b.state(t, n, "sent", 1, "")
			}
			if _, mails := s.got(); mails != 4 || b.outage.now() != (failure{}) {
				t.Errorf("%d mails, %+v", mails, b.outage.now())
			}
		})
	}
}

// A mail that alone is refused is given up, and says why.
func TestMailAtFault(t *testing.T) {
	t.Parallel()
	pgtest.Slow(t, "many databases")
	const first = "RCPT TO:<buyer1@mail.example>"
	for name, x := range map[string]struct {
		mails int
		reply func(string) string
		says  string
	}{
		"a single one without a mailbox":           {1, on("RCPT", "550 No such user here"), "550 No such user here"},
		"a single one without a mailbox, exactly":  {1, on("RCPT", "550 5.1.1 No such user"), "550 5.1.1 No such user"},
		"a single one whose mailbox is closed":     {1, on("RCPT", "550 5.2.1 Disabled"), "550 5.2.1 Disabled"},
		"one whose domain is blocked, among three": {3, on(first, "554 5.7.1 Blocked"), "554 5.7.1 Blocked"},
		"one that is refused as Exim does":         {3, on(first, "550 Administrative prohibition"), "550 Administrative"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			b, _ := newScripted(t, x.mails, x.reply)
			b.mustWork(t)
			b.state(t, 1, "failed", 1, x.says)
			for n := 2; n <= x.mails; n++ {
				b.state(t, n, "sent", 1, "")
			}
			if f := b.outage.now(); f != (failure{}) {
				t.Errorf("%+v", f)
			}
		})
	}
	t.Run("a single one that is blocked, until another one passes", func(t *testing.T) {
		t.Parallel()
		b, _ := newScripted(t, 1, on(first, "554 5.7.1 Blocked"))
		for range 2 {
			b.hurry(t)
			if err := b.work(t.Context()); err == nil {
				t.Error("nothing is told of it")
			}
			b.state(t, 1, "pending", 0, "554 5.7.1 Blocked")
		}
		b.add(t, 2, email(2))
		b.mustWork(t)
		b.state(t, 1, "failed", 1, "554 5.7.1 Blocked")
		b.state(t, 2, "sent", 1, "")
	})
	t.Run("one after the other, as Exim refuses them", func(t *testing.T) {
		t.Parallel()
		b, s := newScripted(t, 1, on("RCPT", "550 relay not permitted"))
		b.mustWork(t)
		b.state(t, 1, "failed", 1, "550")
		o := anOrder(2, 1, order.Placed) // the same address
		o.CustomerID = customerID(1)
		b.orders(t, feed.Entry{Position: 2, ID: o.ID, Version: 1, Entity: rawJSON(t, o)})
		b.mustWork(t)
		b.state(t, 2, "failed", 1, "550")
		b.add(t, 3, email(3))
		b.hurry(t)
		if err := b.work(t.Context()); err == nil {
			t.Error("nothing is told of it")
		}
		b.state(t, 3, "pending", 0, "550")
		b.state(t, 2, "pending", 0, "550")
		s.set(yes)
		b.mustWork(t)
		b.state(t, 2, "sent", 1, "")
		b.state(t, 3, "sent", 1, "")
	})
	t.Run("more of them than are tried in a run, and then a good one", func(t *testing.T) {
		t.Parallel()
		b, s := newScripted(t, 2*maxDoubtful+1, func(c string) string {
			if strings.HasPrefix(c, "RCPT") && !strings.Contains(c, fmt.Sprintf("buyer%d@", 2*maxDoubtful+1)) {
				return "554 5.7.1 Blocked"
			}
			return ""
		})
		exec(t, b.db, `update mail set due_at = now() - interval '1 h'`)
		for range 3 {
			b.outage.over()
			_ = b.work(t.Context())
		}
		if commands, mails := s.got(); mails != 1 || strings.Count(commands, "RCPT") > 3*maxDoubtful+1 {
			t.Errorf("%d mails, %d recipients", mails, strings.Count(commands, "RCPT"))
		}
	})
	t.Run("a temporary refusal of all is not booked as five days of one", func(t *testing.T) {
		t.Parallel()
		b, s := newScripted(t, 2, on("RCPT", "450 4.7.1 Helo command rejected: Host not found"))
		b.mustWork(t)
		exec(t, b.db, `update mail set composed_at = composed_at - interval '20 days'`)
		b.mustWork(t)
		b.state(t, 1, "pending", 2, "450 4.7.1")
		s.set(yes)
		b.mustWork(t)
		b.state(t, 1, "sent", 3, "")
		b.state(t, 2, "sent", 3, "")
	})
}

func TestGreeting(t *testing.T) {
	t.Parallel()
	// What Postfix does by default: reject_non_fqdn_helo_hostname, at the recipient.
	greeted := ""
	postfix := func(c string) string {
		if name, ok := strings.CutPrefix(c, "EHLO "); ok {
			greeted = name
		}
		if strings.HasPrefix(c, "RCPT") && !strings.ContainsAny(greeted, ".:") {
			return "504 5.5.2 <" + greeted + ">: Helo command rejected: need fully-qualified hostname"
		}
		return ""
	}
	b, s := newScripted(t, 1, postfix)
	b.mustWork(t)
	b.state(t, 1, "sent", 1, "")
	b.set.Helo = "shop.example.com"
	b.add(t, 2, email(2))
	b.mustWork(t)
	if commands, _ := s.got(); !strings.Contains(commands, "EHLO shop.example.com") {
		t.Error(commands)
	}
}

func TestInternationalAddresses(t *testing.T) {
	t.Parallel()
	pgtest.Slow(t, "many runs")
	const beyond = "250-test\r\n250 SMTPUTF8"
	for _, x := range []struct {
		to, envelope string
		utf8         bool // the server takes addresses beyond ASCII
		state        string
	}{
		{"ada@bücher.example", "ada@xn--bcher-kva.example", false, "sent"},
		{"ada@bücher.example", "ada@xn--bcher-kva.example", true, "sent"},
		{"ada@BÜCHER.Example", "ada@xn--bcher-kva.example", false, "sent"},
		{"ada@例え.テスト", "ada@xn--r8jz45g.xn--zckzah", false, "sent"},
		{"ada@straße.example", "ada@xn--strae-oqa.example", false, "sent"},
		{"zoë@mail.example", "zoë@mail.example", true, "sent"},
		{"zoë@bücher.example", "zoë@bücher.example", true, "sent"},
		{"zoë@bücher.example", "", false, "failed"},
		{"zoë@mail.example", "", false, "failed"},
		{`"a@b"@bücher.example`, "", false, "failed"}, // no address of ours: it is not written as it is read
	} {
		t.Run(fmt.Sprint(x.to, " ", x.utf8), func(t *testing.T) {
			t.Parallel()
			b, s := newScripted(t, 0, func(c string) string {
				if x.utf8 && strings.HasPrefix(c, "EHLO") {
					return beyond
				}
				return ""
			})
			b.add(t, 1, x.to)
			b.add(t, 2, email(2))
			b.mustWork(t)
			b.state(t, 1, x.state, 1, "")
			b.state(t, 2, "sent", 1, "")
			commands, _ := s.got()
			if x.envelope != "" && !strings.Contains(commands, "RCPT TO:<"+x.envelope+">") {
				t.Error(commands)
			}
			if x.state == "failed" && b.mail(t, 1).Reason == "" {
				t.Error("it does not say why")
			}
		})
	}
	t.Run("the sender", func(t *testing.T) {
		t.Parallel()
		b, s := newScripted(t, 2, yes)
		if err := b.set.From.UnmarshalText([]byte("Bücher <orders@bücher.example>")); err != nil {
			t.Fatal(err)
		}
		b.mustWork(t)
		if commands, mails := s.got(); mails != 2 || !strings.Contains(commands, "MAIL FROM:<orders@xn--bcher-kva.example>") {
			t.Error(commands)
		}
	})
	t.Run("a sender beyond ASCII is the set-up's fault", func(t *testing.T) {
		t.Parallel()
		b, _ := newScripted(t, 2, yes)
		b.set.From.Address = "käufe@bücher.example"
		if err := b.work(t.Context()); err == nil || !strings.Contains(err.Error(), "MAIL_FROM") {
			t.Errorf("%v", err)
		}
		b.state(t, 1, "pending", 0, "MAIL_FROM")
		b.state(t, 2, "pending", 0, "MAIL_FROM")
	})
	t.Run("the header, too, is ASCII", func(t *testing.T) {
		t.Parallel()
		b := newBench(t)
		b.add(t, 1, "ada@bücher.example")
		b.mustWork(t)
		raw := string(arrivals(b.sink, 1)[0].Raw)
		if head, _, _ := strings.Cut(raw, "\r\n\r\n"); strings.ContainsFunc(head, func(r rune) bool { return r > '~' }) || !strings.Contains(head, "<ada@xn--bcher-kva.example>") {
			t.Error(head)
		}
	})
}

// While a server does not reply, no connection to the database is held.
func TestFrozenServer(t *testing.T) {
	t.Parallel()
	pgtest.Slow(t, "many databases")
	for _, stage := range []string{"greeting", "EHLO", "MAIL", "RCPT", "DATA", "end"} {
		t.Run(stage, func(t *testing.T) {
			t.Parallel()
			b := newBench(t, func(*mailsink.Sink) {})
			p := newProxy(t, b.addr)
			b.mailTo(t, p.addr)
			b.add(t, 1, email(1))
			p.at(stage, false)
			ended := make(chan struct{})
			go func() {
				defer close(ended)
				_ = b.work(t.Context())
			}()
			<-p.held
			eventually(t, "no connection is held", func() bool { return b.db.Stat().AcquiredConns() == 0 })
			p.drop()
			select {
			case <-ended:
			case <-time.After(time.Minute):
				t.Error("it does not end")
			}
		})
	}
}
