package customers

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/gin-gonic/gin"
	"github.com/google/uuid"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/edison-cars/data-feeds/shared/customer"
	"github.com/edison-cars/data-feeds/shared/daemon"
	"github.com/edison-cars/data-feeds/shared/dev/mailsink"
	"github.com/edison-cars/data-feeds/shared/postgres/pgtest"
	"github.com/edison-cars/data-feeds/shared/publish"
)

// A post sends sign-in links to a mail server.
type post struct {
	*links
	sink  *mailsink.Sink
	serve func()
}

// openPost returns a post whose mail server refuses connections until serve.
func openPost(t *testing.T, a *app) *post {
	t.Helper()
	ln, err := new(net.ListenConfig).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	address := ln.Addr().String()
	if err := ln.Close(); err != nil {
		t.Fatal(err)
	}
	logger := daemon.Logger(pgtest.Output(t), slog.LevelWarn)
	var s Settings
	if err := daemon.Parse(map[string]string{
		"ACCESS": "open", "STOREFRONT_URL": "https://shop.example", "BUYER_KEY": buyerKey, "SMTP_URL": "smtp://" + address,
	}, &s); err != nil {
		t.Fatal(err)
	}
	p := &post{links: newLinks(s, store{a.pool, a.log}, logger), sink: new(mailsink.Sink)}
	p.serve = func() {
		ln, err := new(net.ListenConfig).Listen(t.Context(), "tcp", address)
		if err != nil {
			t.Fatal(err)
		}
		ended := make(chan error, 1)
		go func() { ended <- p.sink.Serve(t.Context(), ln, logger) }()
		t.Cleanup(func() {
			if err := <-ended; err != nil {
				t.Error(err)
			}
		})
	}
	return p
}

// ask asks for links so many times, and returns the recipients of all mails that were sent so far, sorted.
func (p *post) ask(t *testing.T, email string, times int) (to []string) {
	t.Helper()
	for range times {
		c, _ := gin.CreateTestContext(httptest.NewRecorder())
		c.Request = httptest.NewRequestWithContext(t.Context(), http.MethodPost, "/signin", nil)
		if err := p.request(c, email); err != nil {
			t.Fatal(err)
		}
	}
	for deadline := time.Now().Add(time.Minute); len(p.waiting) > 0; time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("mails wait")
		}
	}
	for _, m := range p.sink.Mails() {
		to = append(to, m.To...)
	}
	slices.Sort(to)
	return to
}

// signUp makes an account with the address.
func (a *app) signUp(t *testing.T, email string, confirmed bool) {
	t.Helper()
	_, p := a.json(t, "POST", "/customers", strings.Replace(ada, "ada@example.com", email, 1), 201)
	if _, err := a.pool.Exec(t.Context(), `update customer set email_confirmed = $2 where id = $1`, p.ID, confirmed); err != nil {
		t.Fatal(err)
	}
}

// An account that was erased gets no link, also when the table of accounts is restored alone.
func TestNoLinkForTheErased(t *testing.T) {
	t.Parallel()
	pool := pgtest.New(t, Migrations()...)
	a := startErasing(t, pool, filepath.Join(t.TempDir(), "customers.erased"))
	p := openPost(t, a)
	p.serve()
	erase := func(email string) {
		t.Helper()
		_, erased := a.json(t, "POST", "/customers", strings.Replace(ada, "ada@example.com", email, 1), 201)
		if _, err := pool.Exec(t.Context(), `create table kept as select * from customer where id = $1`, erased.ID); err != nil {
			t.Fatal(err)
		}
		if resp, body := a.do(t, "DELETE", path(erased.ID), ""); resp.StatusCode != 204 {
			t.Fatalf("%d %s", resp.StatusCode, body)
		}
		if _, err := pool.Exec(t.Context(), `insert into customer table kept; drop table kept`); err != nil {
			t.Fatal(err)
		}
	}
	erase("eve@mail.example")
	if to := p.ask(t, "eve@mail.example", 1); len(to) > 0 {
		t.Errorf("mails to %v", to)
	}
	a.signUp(t, "both@mail.example", true)
	erase("both@mail.example")
	if to := p.ask(t, "both@mail.example", 1); len(to) != 1 || strings.Count(p.sink.Mails()[0].Text, "/signin/") != 1 {
		t.Errorf("mails to %v: %+v", to, p.sink.Mails())
	}
	var links int
	if err := pool.QueryRow(t.Context(), `select count(*) from sign_in_link`).Scan(&links); err != nil || links != 1 {
		t.Errorf("%d links, %v", links, err)
	}
}

// A link goes to the address that the account has, not to the one that was asked for.
func TestLinkRecipient(t *testing.T) {
	t.Parallel()
	t.Run("upper and lower case", func(t *testing.T) {
		t.Parallel()
		a := open(t)
		p := openPost(t, a)
		p.serve()
		accounts := map[string]int{"Ada@example.com": 2, "ada@EXAMPLE.com": 1}
		for email, n := range accounts {
			for range n {
				a.signUp(t, email, false)
			}
		}
		if to := p.ask(t, "ADA@example.com", 1); !slices.Equal(to, []string{"Ada@example.com", "ada@EXAMPLE.com"}) {
			t.Errorf("mails to %q", to)
		}
		for _, m := range p.sink.Mails() {
			if n := strings.Count(m.Text, "/signin/"); n != accounts[m.To[0]] {
				t.Errorf("%d links to %s", n, m.To)
			}
		}
		var others int
		if err := a.pool.QueryRow(t.Context(), `select count(*) from sign_in_link l join customer c on c.id = l.customer_id where l.email <> c.email`).Scan(&others); err != nil || others != 0 {
			t.Errorf("%d links to addresses of others, %v", others, err)
		}
	})
	for what, change := range map[string]string{
		"is deleted":           `delete from customer where email = 'ada@example.com'`,
		"gets another address": `update customer set email = 'new@example.com' where email = 'ada@example.com'`,
	} {
		t.Run("an account that "+what+" while its mail is made", func(t *testing.T) {
			t.Parallel()
			a := open(t)
			p := openPost(t, a)
			p.serve()
			a.signUp(t, "ada@example.com", true)
			holder, err := a.pool.Begin(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			exec := func(sql string) {
				t.Helper()
				if _, err := holder.Exec(t.Context(), sql); err != nil {
					t.Fatal(err)
				}
			}
			exec(`lock table sign_in_link`) // the mail waits for it when the account has been read
			c, _ := gin.CreateTestContext(httptest.NewRecorder())
			c.Request = httptest.NewRequestWithContext(t.Context(), http.MethodPost, "/signin", nil)
			if err := p.request(c, "ada@example.com"); err != nil {
				t.Fatal(err)
			}
			for waits := false; !waits; {
				if err := holder.QueryRow(t.Context(), `select exists (select from pg_locks where relation = 'sign_in_link'::regclass and not granted)`).Scan(&waits); err != nil {
					t.Fatal(err)
				}
			}
			exec(change)
			if err := holder.Commit(t.Context()); err != nil {
				t.Fatal(err)
			}
			if to := p.ask(t, "nobody@example.com", 1); len(to) > 0 {
				t.Errorf("mails to %q", to)
			}
		})
	}
	t.Run("letters that a locale lowers to others", func(t *testing.T) {
		t.Parallel()
		server := pgtest.NewServer(t)
		var turkish bool
		if err := server.Open("postgres").QueryRow(t.Context(), `select exists (select from pg_collation where collname = 'tr-x-icu')`).Scan(&turkish); err != nil {
			t.Fatal(err)
		}
		if !turkish {
			t.Skip("PostgreSQL was built without ICU")
		}
		server.Exec(`create database customers template template0 encoding utf8 locale_provider icu icu_locale 'tr' locale 'C'`)
		a := start(t, server.Open("customers", Migrations()...))
		p := openPost(t, a)
		p.serve()
		a.signUp(t, "ada@firma.example", true)
		a.signUp(t, "kim@kiosk.example", true)
		for _, email := range []string{"ada@f\u0130rma.example", "kim@\u212aiosk.example", "\u212aim@kiosk.example"} {
			if to := p.ask(t, email, 1); to != nil {
				t.Errorf("asked for %s: mails to %q", email, to)
			}
		}
		if to := p.ask(t, "ADA@FIRMA.example", 1); !slices.Equal(to, []string{"ada@firma.example"}) {
			t.Errorf("mails to %q", to)
		}
	})
}

// Only a mail that is sent counts for its address, so nobody keeps a customer from a link by asking for another one.
func TestLinkLimit(t *testing.T) {
	t.Parallel()
	a := open(t)
	a.signUp(t, "ada@example.com", true)
	a.signUp(t, "Bob@example.com", false)
	a.signUp(t, "bob+1@example.com", false)
	for name, c := range map[string]struct {
		strangers []string
		down      bool
		email, to string
	}{
		"no account has the address":       {strangers: []string{"ada+1@example.com", "a.da@example.com"}, email: "ada@example.com", to: "ada@example.com"},
		"neither has one of the mailbox":   {strangers: []string{"bob+2@example.com"}, email: "bob@example.com", to: "Bob@example.com"},
		"the mail server is down":          {strangers: []string{"ada@example.com"}, down: true, email: "ada@example.com", to: "ada@example.com"},
		"and the address is not confirmed": {strangers: []string{"bob@example.com"}, down: true, email: "bob@example.com", to: "Bob@example.com"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			p := openPost(t, a)
			if !c.down {
				p.serve()
			}
			for _, email := range c.strangers {
				p.ask(t, email, 6)
			}
			if c.down {
				p.serve()
			}
			if to := p.ask(t, c.email, 1); !slices.Equal(to, []string{c.to}) {
				t.Errorf("mails to %q", to)
			}
		})
	}
	t.Run("a mailbox gets few mails, and a confirmed account of it has its own", func(t *testing.T) {
		t.Parallel()
		a := open(t)
		for _, email := range []string{"ada+1@example.com", "a.da@example.com"} {
			a.signUp(t, email, false)
		}
		a.signUp(t, "ada@example.com", true)
		p := openPost(t, a)
		p.serve()
		if to := append(p.ask(t, "ada+1@example.com", 4), p.ask(t, "a.da@example.com", 4)...); len(to) != 4+5 {
			t.Errorf("mails to %q", to)
		}
		if to := p.ask(t, "ada@example.com", 7); len(to) != 5+5 {
			t.Errorf("mails to %q", to)
		}
	})
}

// The mails to an address are counted for all processes, over restarts, and more are allowed as time passes.
func TestMailBudget(t *testing.T) {
	t.Parallel()
	a := open(t)
	process := func() *links { return &links{pool: a.pool} }
	mails := func(times int) (allowed int) {
		t.Helper()
		for range times {
			ok, err := process().allow(t.Context(), "ada@example.com", true, false)
			if err != nil {
				t.Fatal(err)
			}
			if ok {
				allowed++
			}
		}
		return allowed
	}
	if n := mails(8); n != 5 {
		t.Errorf("%d mails at once", n)
	}
	for change, want := range map[string]int{"used_until - interval '25 minutes'": 2, "now() - interval '3 days'": 5, "now() + interval '3 days'": 5, "timestamptz 'infinity'": 5} {
		if _, err := a.pool.Exec(t.Context(), `update mail_budget set used_until = `+change); err != nil {
			t.Fatal(err)
		}
		if n := mails(8); n != want {
			t.Errorf("%d mails after %s, want %d", n, change, want)
		}
	}
	if ok, err := process().allow(t.Context(), "bob@example.com", false, false); !ok || err != nil {
		t.Error(ok, err)
	}
	if _, err := a.pool.Exec(t.Context(), `update mail_budget set used_until = now() - interval '1 second' where used_until > now() + interval '20 minutes'`); err != nil {
		t.Fatal(err)
	}
	if _, err := a.pool.Exec(t.Context(), sweep); err != nil {
		t.Fatal(err)
	}
	var rows int
	if err := a.pool.QueryRow(t.Context(), `select count(*) from mail_budget`).Scan(&rows); err != nil || rows != 1 {
		t.Errorf("%d rows are kept, %v", rows, err)
	}
}

// Mails to several addresses, whose earlier counts are all old, do not wait for each other: they could do so in a
// circle.
func TestMailBudgetLocked(t *testing.T) {
	t.Parallel()
	a := open(t)
	l := &links{pool: a.pool}
	allow := func(ctx context.Context, email string) {
		t.Helper()
		if ok, err := l.allow(ctx, email, true, false); !ok || err != nil {
			t.Errorf("%s: %t, %v", email, ok, err)
		}
	}
	allow(t.Context(), "ada@example.com")
	if _, err := a.pool.Exec(t.Context(), `update mail_budget set used_until = now() - interval '1 second'`); err != nil {
		t.Fatal(err)
	}
	counting, err := a.pool.Begin(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = counting.Rollback(context.WithoutCancel(t.Context())) }()
	if _, err := counting.Exec(t.Context(), `update mail_budget set used_until = now() + interval '12 minutes'`); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
	defer cancel()
	allow(ctx, "bob@example.com")
	if _, err := a.pool.Exec(ctx, sweep); err != nil {
		t.Error(err)
	}
	if err := counting.Commit(t.Context()); err != nil {
		t.Fatal(err)
	}
	allow(t.Context(), "ada@example.com")
}

// A link signs in for half an hour and no longer, whatever the clock showed when it was sent.
func TestLinkTime(t *testing.T) {
	t.Parallel()
	a := open(t)
	_, p := a.json(t, "POST", "/customers", ada, 201)
	l := &links{pool: a.pool}
	for expires, good := range map[string]bool{
		"now() + interval '30 minutes'": true, "now() + interval '1 minute'": true, "now() - interval '1 second'": false,
		"now() + interval '32 minutes'": false, "timestamptz '2100-01-01'": false, "timestamptz 'infinity'": false,
	} {
		a.keepLink(t, expires, p.ID, p.Email, expires)
		found, _, findErr := l.find(t.Context(), expires)
		useErr := l.use(t.Context(), expires)
		if good && (findErr != nil || useErr != nil || found != p.ID) || !good && (!errors.Is(findErr, errNoLink) || !errors.Is(useErr, errNoLink)) {
			t.Errorf("one that expires at %s: %v, %v", expires, findErr, useErr)
		}
		a.keepLink(t, expires, p.ID, p.Email, expires)
		change := publish.NewChange()
		l.useBy(change, expires)
		other := p
		other.ID = uuid.New()
		entry, err := entryOf(&other)
		if err != nil {
			t.Fatal(err)
		}
		change.Append(customer.Feed, entry)
		if err := a.log.Commit(t.Context(), change); good && err != nil || !good && !errors.Is(err, publish.ErrGuard) {
			t.Errorf("one that expires at %s, by a change: %v", expires, err)
		}
	}
}

// keepLink makes a link, in place of one of the same secret.
func (a *app) keepLink(t *testing.T, secret string, id uuid.UUID, email, expires string) {
	t.Helper()
	hash := sha256.Sum256([]byte(secret))
	if _, err := a.pool.Exec(t.Context(), `insert into sign_in_link values ($1, $2, $3, `+expires+`)
		on conflict (hash) do update set expires_at = excluded.expires_at`, hash[:], id, email); err != nil {
		t.Fatal(err)
	}
}

// A link is used up if, and only if, it signs in and confirms the address.
func TestLinkIsUsedOnce(t *testing.T) {
	t.Parallel()
	for _, confirmed := range []bool{false, true} {
		t.Run(fmt.Sprintf("confirmed before: %t", confirmed), func(t *testing.T) {
			t.Parallel()
			a := open(t)
			_, p := a.json(t, "POST", "/customers", ada, 201)
			if confirmed {
				a.keepLink(t, "first", p.ID, p.Email, "now() + interval '1 minute'")
				if resp, text := a.do(t, "POST", "/signin/first", ""); resp.StatusCode != http.StatusOK {
					t.Fatal(resp.Status, text)
				}
			}
			a.keepLink(t, "x", p.ID, p.Email, "now() + interval '1 minute'")
			if !confirmed { // where it has been sent already, nothing is written but the use of the link
				holder, err := a.pool.Begin(t.Context())
				if err != nil {
					t.Fatal(err)
				}
				if _, err := holder.Exec(t.Context(), `select from customer where id = $1 for update`, p.ID); err != nil {
					t.Fatal(err)
				}
				if resp, text := a.do(t, "POST", "/signin/x", ""); resp.StatusCode < 500 {
					t.Errorf("while its row is locked: %s %s", resp.Status, text)
				}
				if err := holder.Rollback(t.Context()); err != nil {
					t.Fatal(err)
				}
			}
			var all sync.WaitGroup
			var signedIn, refused atomic.Int32
			for range 8 {
				all.Go(func() {
					switch resp, text := a.do(t, "POST", "/signin/x", ""); resp.StatusCode {
					case http.StatusOK:
						signedIn.Add(1)
					case http.StatusNotFound:
						refused.Add(1)
					default:
						t.Error(resp.Status, text)
					}
				})
			}
			all.Wait()
			if signedIn.Load() != 1 || refused.Load() != 7 {
				t.Errorf("%d signed in, %d were refused", signedIn.Load(), refused.Load())
			}
			if _, p := a.json(t, "GET", path(p.ID), "", 200); !p.EmailConfirmed || p.Version != 2 {
				t.Errorf("%+v", p)
			}
		})
	}
}

// A link gives no credential that is good since another address was confirmed, also if that was confirmed meanwhile.
func TestLinkOfAnEarlierAddress(t *testing.T) {
	t.Parallel()
	a := open(t)
	_, p := a.json(t, "POST", "/customers", ada, 201)
	for _, secret := range []string{"first", "second"} {
		a.keepLink(t, secret, p.ID, p.Email, "now() + interval '1 minute'")
	}
	if resp, text := a.do(t, "POST", "/signin/first", ""); resp.StatusCode != http.StatusOK {
		t.Fatal(resp.Status, text)
	}
	holder, err := a.pool.Begin(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	exec := func(sql string, args ...any) {
		t.Helper()
		if _, err := holder.Exec(t.Context(), sql, args...); err != nil {
			t.Fatal(err)
		}
	}
	exec(`lock table buyer_since`) // the request waits for it when it has read the account
	answered := make(chan string, 1)
	go func() {
		resp, text := a.do(t, "POST", "/signin/second", "")
		answered <- resp.Status + text
	}()
	for waits := false; !waits; {
		if err := holder.QueryRow(t.Context(), `select exists (select from pg_locks where relation = 'buyer_since'::regclass and not granted)`).Scan(&waits); err != nil {
			t.Fatal(err)
		}
	}
	exec(`update customer set email = 'new@example.com' where id = $1`, p.ID)
	exec(`update buyer_since set since = since + 1 where customer_id = $1`, p.ID)
	if err := holder.Commit(t.Context()); err != nil {
		t.Fatal(err)
	}
	if answer := <-answered; !strings.HasPrefix(answer, "404 ") {
		t.Error(answer)
	}
}

func TestRequestedMailPauses(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		pool, err := pgxpool.New(t.Context(), "")
		if err != nil {
			t.Fatal(err)
		}
		pool.Close() // a delivery fails at once
		var log bytes.Buffer
		l := newLinks(Settings{}, store{pool: pool}, slog.New(slog.NewTextHandler(&log, nil)))
		c, _ := gin.CreateTestContext(httptest.NewRecorder())
		c.Request = httptest.NewRequestWithContext(t.Context(), http.MethodPost, "/signin", nil)
		if err := l.request(c, "ada@example.com"); err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		if log.Len() > 0 {
			t.Error("the answer competes with the delivery, and its time tells whether there is an account")
		}
		time.Sleep(maxPause)
		synctest.Wait()
		if !strings.Contains(log.String(), "sign-in mail not sent") {
			t.Errorf("no delivery: %q", log.String())
		}
	})
}
