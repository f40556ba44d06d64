package main

import (
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/url"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/edison-cars/data-feeds/shared/daemon"
	"github.com/edison-cars/data-feeds/shared/dev/mailsink"
	"github.com/edison-cars/data-feeds/shared/postgres/pgtest"
	"github.com/edison-cars/data-feeds/sql"
)

func openSink(t *testing.T) (sink *mailsink.Sink, smtpURL string) {
	t.Helper()
	open := make(chan struct{})
	close(open)
	return openSinkLater(t, open)
}

// openSinkLater returns a mail server that takes connections, and says nothing before open is closed.
func openSinkLater(t *testing.T, open <-chan struct{}) (sink *mailsink.Sink, smtpURL string) {
	t.Helper()
	ln, err := new(net.ListenConfig).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	logger := daemon.Logger(pgtest.Output(t), slog.LevelWarn)
	sink = new(mailsink.Sink)
	ended := make(chan error, 1)
	go func() {
		select {
		case <-open:
		case <-t.Context().Done():
		}
		ended <- sink.Serve(t.Context(), ln, logger)
	}()
	t.Cleanup(func() {
		if err := <-ended; err != nil {
			t.Error(err)
		}
	})
	return sink, "smtp://" + ln.Addr().String()
}

// mailed waits for the n-th mail.
func mailed(t *testing.T, sink *mailsink.Sink, n int) *mailsink.Mail {
	t.Helper()
	for deadline := time.Now().Add(time.Minute); ; time.Sleep(5 * time.Millisecond) {
		for _, m := range sink.Mails() {
			if m.Number == n {
				return m
			}
		}
		if time.Now().After(deadline) {
			t.Fatalf("%d mails", len(sink.Mails()))
		}
	}
}

var linkInMail = regexp.MustCompile(`\S+/signin/datafeed_signin_[A-Z2-7]{26}`)

func links(t *testing.T, m *mailsink.Mail, n int) []string {
	t.Helper()
	found := linkInMail.FindAllString(m.Text, -1)
	if len(found) != n {
		t.Fatalf("%d links in %s", len(found), m.Text)
	}
	return found
}

// accountOf returns the account of a browser that is signed in at customers.
func accountOf(t *testing.T, co *company, b *browser) (path string, confirmed bool) {
	t.Helper()
	b.get(t, co.customers.URL+"/account")
	path = b.at.Path
	b.send(t, http.MethodGet, b.at.String(), nil, "Accept", "application/json")
	var p struct {
		EmailConfirmed bool `json:"email_confirmed"`
	}
	if err := json.Unmarshal([]byte(b.page), &p); err != nil {
		t.Fatal(b.page, err)
	}
	return path, p.EmailConfirmed
}

// Mails that are asked for while the mail server is slow wait for one another.
func TestManyLinksAtOnce(t *testing.T) {
	t.Parallel()
	open := make(chan struct{})
	sink, smtpURL := openSinkLater(t, open)
	co := openCompany(t, "SMTP_URL="+smtpURL)
	const n = 20
	for i := range n {
		b := newBrowser(t)
		b.get(t, co.customers.URL+"/signup")
		b.signUp(t, fmt.Sprintf("ada%d@example.com", i))
		b.wants(t, 200, "request a link by e-mail")
	}
	close(open)
	mailed(t, sink, n)
}

// A stop does not lose a mail that an answer promised, neither one that pauses nor one that the mail server delays.
func TestMailsAtTheStop(t *testing.T) {
	t.Parallel()
	open := make(chan struct{})
	sink, smtpURL := openSinkLater(t, open)
	cmd := exec.Command(build(t), "customers")
	cmd.Env = []string{"SMTP_URL=" + smtpURL, "ERASED_FILE=" + filepath.Join(t.TempDir(), "customers.erased")}
	process, url := start(t, cmd, pgtest.URL(pgtest.New(t)))
	client := &http.Client{Transport: &http.Transport{}}
	t.Cleanup(client.CloseIdleConnections)
	post := func(path, body string, want int) {
		t.Helper()
		resp, err := client.Post(url+path, "application/json", strings.NewReader(body))
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		if resp.StatusCode != want {
			answer, _ := io.ReadAll(resp.Body)
			t.Fatalf("%s: %s %s", path, resp.Status, answer)
		}
	}
	const account = `{"name": "Ada", "email": "ada@example.com", "address": {"street": "St James Square 12", "postal_code": "SW1Y 4JH", "city": "London", "country": "GB"}}`
	post("/customers", account, http.StatusCreated)
	post("/signin", `{"email": "ada@example.com"}`, http.StatusAccepted)
	client.CloseIdleConnections()
	if err := process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	for refused := false; !refused && t.Context().Err() == nil; {
		conn, err := new(net.Dialer).DialContext(t.Context(), "tcp", strings.TrimPrefix(url, "http://"))
		if refused = err != nil; !refused {
			_ = conn.Close()
		}
	}
	close(open)
	mailed(t, sink, 2)
}

// What counted the mails to an address goes when it is over, though no more mails are sent: the account may have been
// deleted since.
func TestCountsOfMailsGo(t *testing.T) {
	t.Parallel()
	pool := pgtest.New(t, sql.Migrations("publish"), sql.Migrations("customers"))
	if _, err := pool.Exec(t.Context(), `insert into mail_budget values ('ada', now() - interval '1 second'), ('bob', now() + interval '30 minutes')`); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(build(t), "customers")
	cmd.Env = []string{"ERASED_FILE=" + filepath.Join(t.TempDir(), "customers.erased")}
	start(t, cmd, pgtest.URL(pool))
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	end := time.After(30 * time.Second)
	for left := ""; left != "bob"; {
		if err := pool.QueryRow(t.Context(), `select string_agg(convert_from(key, 'UTF8'), ' ' order by key) from mail_budget`).Scan(&left); err != nil {
			t.Fatal(err)
		}
		select {
		case <-tick.C:
		case <-end:
			t.Fatalf("the counts of %s are left", left)
		}
	}
}

// Somebody else may have signed up with an address. Its owner hears of it before a link is used, and until it is
// confirmed.
func TestLinkToTheAccountOfAStranger(t *testing.T) {
	t.Parallel()
	sink, smtpURL := openSink(t)
	co := openCompany(t, "SMTP_URL="+smtpURL)
	stranger, owner := newBrowser(t), newBrowser(t)
	stranger.get(t, co.customers.URL+"/signup")
	stranger.signUp(t, "ada@example.com")
	const inMail, onPage = "The link confirms the address, and signs out all other browsers", "Did you sign up yourself?"
	welcome := mailed(t, sink, 1)
	owner.get(t, co.customers.URL+"/signin")
	owner.post(t, "/signin", url.Values{"email": {"ada@example.com"}})
	unconfirmed := mailed(t, sink, 2)
	for _, m := range []*mailsink.Mail{welcome, unconfirmed} {
		if text := strings.Join(strings.Fields(m.Text), " "); !strings.Contains(text, inMail) {
			t.Errorf("the mail does not warn: %s", text)
		}
	}
	owner.get(t, links(t, unconfirmed, 1)[0])
	owner.wants(t, 200, "will be signed in to account", onPage)
	stranger.get(t, links(t, welcome, 1)[0])
	stranger.wants(t, 200, "will be signed in to account")
	if strings.Contains(stranger.page, onPage) {
		t.Error("the browser that signed up is asked whether it did")
	}

	owner.post(t, links(t, unconfirmed, 1)[0], nil)
	elsewhere := newBrowser(t)
	elsewhere.get(t, co.customers.URL+"/signin")
	elsewhere.post(t, "/signin", url.Values{"email": {"ada@example.com"}})
	confirmed := mailed(t, sink, 3)
	elsewhere.get(t, links(t, confirmed, 1)[0])
	elsewhere.wants(t, 200, "will be signed in to account")
	if strings.Contains(elsewhere.page, onPage) || strings.Contains(confirmed.Text, "who signed up") {
		t.Errorf("a confirmed address is doubted: %s %s", elsewhere.page, confirmed.Text)
	}
}

// asAPI sends a request of a program with a buyer's token ("" is none), and returns the status and what the answer has.
func asAPI(t *testing.T, method, address, token, body string, header ...string) (status int, id, newToken, text string) {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), method, address, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	if body != "" {
		req.Header.Set("Content-Type", "application/json")
	}
	if token != "" {
		req.Header.Set("Authorization", "Bearer "+token)
	}
	for i := 0; i < len(header); i += 2 {
		req.Header.Set(header[i], header[i+1])
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	whole, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	var answer struct {
		ID    string `json:"id"`
		Token string `json:"buyer_token"`
	}
	_ = json.Unmarshal(whole, &answer) // a list has neither
	return resp.StatusCode, answer.ID, answer.Token, string(whole)
}

// differentSites sends what a browser sends where sales and customers are of different sites: their pages' forms carry
// only the cookies that are marked for it.
type differentSites struct{}

func (differentSites) RoundTrip(req *http.Request) (*http.Response, error) {
	if req.Method == http.MethodPost && req.Header.Get("Sec-Fetch-Site") == "same-site" {
		req = req.Clone(req.Context())
		cookies := req.Cookies()
		req.Header.Del("Cookie")
		for _, sent := range cookies {
			if slices.Contains([]string{"sales_handover", "sales_pair", "customers_pair"}, sent.Name) {
				req.AddCookie(sent)
			}
		}
	}
	return http.DefaultTransport.RoundTrip(req)
}

// A confirmation ends whatever was given out before, at both apps.
func TestConfirmationEndsCredentials(t *testing.T) {
	t.Parallel()
	sink, smtpURL := openSink(t)
	co := openCompany(t, "SMTP_URL="+smtpURL)

	t.Run("of the browser that signed up", func(t *testing.T) {
		stranger, owner := newBrowser(t), newBrowser(t)
		asGuest := stranger.buy(t, co)
		stranger.signIn(t, co)
		stranger.signUp(t, "ada@example.com")
		stranger.handOver(t)
		before := stranger.buy(t, co)
		account, _ := accountOf(t, co, stranger)
		stranger.signIn(t, co)
		atCustomers := stranger.at
		toSales, held := stranger.handover(t)

		owner.get(t, links(t, mailed(t, sink, 1), 1)[0])
		owner.post(t, owner.at.Path, nil)
		owner.wants(t, 200, "Your address is confirmed")
		owner.handOver(t)
		owner.wants(t, 200, "Ada Lovelace")
		if at, confirmed := accountOf(t, co, owner); at != account || !confirmed {
			t.Errorf("the owner has %s, confirmed: %v", at, confirmed)
		}

		stranger.at = atCustomers
		stranger.post(t, toSales, url.Values{"handover": {held}})
		stranger.wants(t, 403, "confirmed since")
		stranger.get(t, co.customers.URL+account)
		stranger.wants(t, 401)
		form := ada("", "stranger@example.com")
		form.Set("version", "2")
		for path, form := range map[string]url.Values{account: form, account + "/delete": {"confirm": {"yes"}}} {
			stranger.post(t, path, form)
			stranger.wants(t, 401)
		}
		stranger.get(t, co.customers.URL+"/account")
		stranger.wants(t, 200, "Sign in")
		for _, at := range []string{"/orders", "/orders/" + before, "/orders/" + asGuest} { // what was the guest's is the account's
			stranger.get(t, co.sales.URL+at)
			stranger.wants(t, 401)
			stranger.get(t, co.salesReplica.URL+at)
			stranger.wants(t, 401)
		}
		stranger.post(t, "/orders", url.Values{"model": {"ohm"}, "quantity": {"1"}})
		stranger.wants(t, 401, "Nothing was changed or bought.")
		stranger.get(t, co.sales.URL+"/")
		stranger.wants(t, 200, "You are buying as a guest")
		stranger.buy(t, co)

		owner.signIn(t, co)
		owner.handOver(t)
		owner.wants(t, 200, "You are signed in as customer", account)
		after := owner.buy(t, co)
		owner.get(t, co.sales.URL+"/orders")
		owner.wants(t, 200, asGuest, before, after)
		stranger.get(t, co.sales.URL+"/orders/"+after)
		stranger.wants(t, 404)
	})
	for i, transport := range []http.RoundTripper{http.DefaultTransport, differentSites{}} {
		t.Run(fmt.Sprintf("but of no browser that confirms, with %T", transport), func(t *testing.T) {
			b := newBrowser(t)
			b.client.Transport = transport
			asGuest := b.buy(t, co)
			b.signIn(t, co)
			b.signUp(t, fmt.Sprintf("bob%d@example.com", i))
			b.handOver(t)
			account, _ := accountOf(t, co, b)
			b.get(t, links(t, mailed(t, sink, 2+i), 1)[0])
			b.post(t, b.at.Path, nil)
			b.wants(t, 200, "Your address is confirmed")
			b.handOver(t)
			b.wants(t, 200, "Ada Lovelace")
			for range 2 {
				b.get(t, co.sales.URL+"/")
				b.wants(t, 200, "You are signed in as customer", account)
			}
			b.get(t, co.sales.URL+"/orders")
			b.wants(t, 200, asGuest)
			b.get(t, co.sales.URL+"/")
			b.post(t, "/signout", nil)
			b.handOver(t)
			b.get(t, co.customers.URL+account)
			b.wants(t, 401)
		})
	}
	t.Run("of the program that signed up", func(t *testing.T) {
		const cy = `{"name":"Cy","email":"cy@example.com","address":{"street":"St James Square 12","postal_code":"SW1Y 4JH","city":"London","country":"GB"}}`
		const ohm = `{"lines":[{"model":"ohm","quantity":1}]}`
		signUp := func() (status int, id, token, text string) {
			t.Helper()
			return asAPI(t, http.MethodPost, co.customers.URL+"/customers", "", cy, "Idempotency-Key", "cy")
		}
		_, id, old, _ := signUp()
		account, orders := co.customers.URL+"/customers/"+id, co.sales.URL+"/orders"
		status, before, _, text := asAPI(t, http.MethodPost, orders, old, ohm)
		if status != 201 {
			t.Fatal(status, text)
		}
		status, _, token, text := asAPI(t, http.MethodPost, links(t, mailed(t, sink, 4), 1)[0], "", "")
		if status != 200 || token == "" {
			t.Fatal(status, text)
		}
		if status, again, given, text := signUp(); status != 201 || again != id || given != "" {
			t.Errorf("the sign-up again: %d %s", status, text)
		}
		for method, body := range map[string]string{http.MethodGet: "", http.MethodPut: cy, http.MethodDelete: ""} {
			if status, _, _, text := asAPI(t, method, account, old, body); status != 401 || !strings.Contains(text, "has been confirmed") {
				t.Errorf("%s: %d %s", method, status, text)
			}
		}
		if status, _, _, text := asAPI(t, http.MethodGet, account, token, ""); status != 200 {
			t.Errorf("the new token: %d %s", status, text)
		}
		status, after, _, text := asAPI(t, http.MethodPost, orders, token, ohm)
		if status != 201 {
			t.Fatal(status, text)
		}
		for _, address := range []string{orders, orders + "/" + before, orders + "/" + after, co.salesReplica.URL + "/orders/" + after} {
			if status, _, _, text := asAPI(t, http.MethodGet, address, old, ""); status != 401 {
				t.Errorf("%s: %d %s", address, status, text)
			}
			if status, _, _, text := asAPI(t, http.MethodGet, address, token, ""); status != 200 {
				t.Errorf("%s with the new token: %d %s", address, status, text)
			}
		}
		if status, _, _, text := asAPI(t, http.MethodPost, orders, old, ohm); status != 401 {
			t.Errorf("%d %s", status, text)
		}
	})
}

// A link by mail signs in another browser, once, and confirms the address.
func TestSignInByLink(t *testing.T) {
	t.Parallel()
	sink, smtpURL := openSink(t)
	co := openCompany(t, "SMTP_URL="+smtpURL)
	first := newBrowser(t)
	first.get(t, co.customers.URL+"/signup")
	first.signUp(t, "ada@example.com")
	first.wants(t, 200, "Ada Lovelace", "request a link by e-mail")
	welcome := mailed(t, sink, 1)
	if len(welcome.To) != 1 || welcome.To[0] != "ada@example.com" || strings.Contains(string(welcome.Raw), "Lovelace") || !strings.Contains(welcome.Text, "has signed up") {
		t.Errorf("%v %s", welcome.To, welcome.Raw)
	}
	account, confirmed := accountOf(t, co, first)
	if confirmed {
		t.Error("confirmed before the link was used")
	}

	b := newBrowser(t)
	b.signIn(t, co)
	b.wants(t, 200, "Send me a link")
	b.post(t, "/signin", url.Values{"email": {"nobody@example.com"}})
	unknown := b.page
	b.get(t, co.customers.URL+"/signin")
	b.post(t, "/signin", url.Values{"email": {" Ada@example.com "}})
	b.wants(t, 200, "we have sent it a link")
	if b.page != unknown {
		t.Error("the answer tells whether there is an account")
	}
	link := links(t, mailed(t, sink, 2), 1)[0]
	for range 2 { // as what looks into mails does
		newBrowser(t).get(t, link)
		scanner := newBrowser(t)
		scanner.send(t, http.MethodHead, link, nil)
	}
	b.get(t, strings.Replace(link, co.customers.URL, co.accountsCopy.URL, 1))
	b.wants(t, 200, "Sign in")
	b.get(t, link)
	b.wants(t, 200, "will be signed in to account")
	b.send(t, http.MethodPost, link, nil, "Origin", "https://evil.example", "Sec-Fetch-Site", "cross-site")
	b.wants(t, 403, "another origin")
	b.get(t, link)
	b.post(t, link, nil)
	b.wants(t, 200, "You are signed in") // and came from the shop
	b.handOver(t)
	b.wants(t, 200, "You are signed in as customer", account)
	if at, confirmed := accountOf(t, co, b); at != account || !confirmed {
		t.Errorf("%s, %s, %v", at, account, confirmed)
	}
	dead := func(t *testing.T, link string) {
		t.Helper()
		other := newBrowser(t)
		other.get(t, link)
		other.wants(t, 404, "This link is no longer valid")
		other.post(t, link, nil)
		other.wants(t, 404, "This link is no longer valid")
		other.get(t, co.customers.URL+"/account")
		other.wants(t, 200, "Sign in")
	}
	t.Run("used, or made up", func(t *testing.T) {
		dead(t, link)
		dead(t, co.customers.URL+"/signin/datafeed_signin_ABCDEFGHIJKLMNOPQRSTUVWXYZ")
		dead(t, co.customers.URL+"/signin/x")
	})
	t.Run("the link of the sign-up works elsewhere, and gives the API a token", func(t *testing.T) {
		req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, links(t, welcome, 1)[0], nil)
		if err != nil {
			t.Fatal(err)
		}
		resp, err := http.DefaultClient.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		var p struct {
			ID    string `json:"id"`
			Token string `json:"buyer_token"`
		}
		if err := json.NewDecoder(resp.Body).Decode(&p); err != nil || "/customers/"+p.ID != account || p.Token == "" || resp.Header.Get("Cache-Control") != "no-store" {
			t.Errorf("%+v %v %v", p, resp.Header, err)
		}
	})
	first = b // the one that signed up is signed out
	t.Run("of an address that the account has no more", func(t *testing.T) {
		first.get(t, co.customers.URL+"/signin")
		first.post(t, "/signin", url.Values{"email": {"ada@example.com"}})
		link := links(t, mailed(t, sink, 3), 1)[0]
		form := ada("", "eve@example.com")
		first.get(t, co.customers.URL+account)
		form.Set("version", regexp.MustCompile(`name="version" value="(\d+)"`).FindStringSubmatch(first.page)[1])
		first.post(t, account, form)
		first.wants(t, 200, "Saved.")
		other := newBrowser(t)
		other.get(t, link)
		other.post(t, link, nil)
		other.wants(t, 404, "This link is no longer valid")
	})
	t.Run("of a deleted account", func(t *testing.T) {
		first.get(t, co.customers.URL+"/signin")
		first.post(t, "/signin", url.Values{"email": {"eve@example.com"}})
		link := links(t, mailed(t, sink, 4), 1)[0]
		first.get(t, co.customers.URL+account)
		first.post(t, account+"/delete", url.Values{"confirm": {"yes"}})
		first.wants(t, 200, "This account is deleted")
		dead(t, link)
	})
	t.Run("each account of an address has a link, and few mails go to one", func(t *testing.T) {
		for range 2 {
			other := newBrowser(t)
			other.get(t, co.customers.URL+"/signup")
			other.signUp(t, "bob@example.com")
		}
		mailed(t, sink, 6)
		for i := range 8 {
			b.get(t, []string{co.customers.URL, co.accountsCopy.URL}[i%2]+"/signin")
			b.post(t, "/signin", url.Values{"email": {"bob@example.com"}})
			b.wants(t, 200, "we have sent it a link")
		}
		links(t, mailed(t, sink, 11), 2)
		b.post(t, "/signin", url.Values{"email": {"bob"}})
		b.wants(t, 422, "must be an e-mail address")
		limited := false
		for range 20 {
			b.post(t, "/signin", url.Values{"email": {"nobody@example.com"}})
			limited = limited || b.status == http.StatusTooManyRequests
		}
		if !limited {
			t.Error("a client may ask without end")
		}
		b.post(t, "/signin", url.Values{"email": {strings.Repeat("a", 300) + "@example.com"}})
		b.wants(t, 422, "must be an e-mail address")
		for _, email := range []string{"b.o.b@example.com", "bob+1@example.com", "BOB@example.com", "b.ob+2@example.com", "bob+3@EXAMPLE.com", "last@example.com"} {
			other := newBrowser(t)
			other.get(t, co.customers.URL+"/signup")
			other.signUp(t, email)
		}
		mailed(t, sink, 15) // three more to the mailbox, and the last
		if !slices.ContainsFunc(sink.Mails(), func(m *mailsink.Mail) bool { return m.To[0] == "last@example.com" }) || len(sink.Mails()) != 15 {
			t.Errorf("%d mails", len(sink.Mails()))
		}
	})
}

// A stranger who signs up with somebody else's address cannot keep that person from getting a link or the account.
func TestSignUpsOfOthers(t *testing.T) {
	t.Parallel()
	sink, smtpURL := openSink(t)
	co := openCompany(t, "SMTP_URL="+smtpURL)
	b := newBrowser(t)
	b.get(t, co.customers.URL+"/signup")
	b.signUp(t, "ada@example.com")
	b.get(t, links(t, mailed(t, sink, 1), 1)[0])
	b.post(t, b.at.Path, nil)
	account, confirmed := accountOf(t, co, b)
	if !confirmed {
		t.Error("not confirmed")
	}
	for range 6 {
		other := newBrowser(t)
		other.get(t, co.customers.URL+"/signup")
		other.signUp(t, "ada@example.com")
	}
	mailed(t, sink, 5) // and no more of these
	b.get(t, co.customers.URL+"/signin")
	b.post(t, "/signin", url.Values{"email": {"ada@example.com"}})
	all := links(t, mailed(t, sink, 6), 5)
	b = newBrowser(t)
	b.get(t, all[0])
	b.post(t, b.at.Path, nil)
	if at, _ := accountOf(t, co, b); at != account {
		t.Errorf("the first link is for %s, not %s", at, account)
	}
}

func TestWithoutMails(t *testing.T) {
	t.Parallel()
	co := openCompany(t)
	b := newBrowser(t)
	for _, path := range []string{"/signin", "/signup"} {
		b.get(t, co.customers.URL+path)
		b.wants(t, 200, "This shop sends no e-mail.")
	}
	b.post(t, "/signin", url.Values{"email": {"ada@example.com"}})
	b.wants(t, 503, "This shop sends no e-mail.")
	b.get(t, co.customers.URL+"/signup")
	b.signUp(t, "ada@example.com")
	b.wants(t, 200, "no other browser can be signed in")
}
