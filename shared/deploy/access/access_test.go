// Package access_test requests every route of every service with every kind of credential, and compares the answers
// with the table in shared/access/README.md.
package access_test

import (
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/http/cookiejar"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/gorilla/securecookie"

	"github.com/edison-cars/data-feeds/shared/daemon"
	"github.com/edison-cars/data-feeds/shared/postgres/pgtest"
)

const root = "../../.."

// built is the folder of the programs, which are built once for all companies.
var built struct {
	sync.Once
	dir string
	err error
}

func TestMain(m *testing.M) {
	code := pgtest.Run(m)
	_ = os.RemoveAll(built.dir)
	os.Exit(code)
}

// A rule is a row of the table.
type rule struct {
	who    []string
	where  []string // services, or "every service", "sources", "subscribers"
	routes []string // METHOD path
	rest   bool     // all routes that no other row has
}

var (
	sources     = []string{"sales", "customers", "assembly", "shipping"}
	subscribers = []string{"warehouse", "assembly", "dashboard", "billing", "shipping", "mailer", "relay"}
	services    = []string{
		"customers", "sales", "assembly", "shipping", "warehouse", "dashboard", "billing", "mailer", "relay", "mail sink", "map", "serve",
	}
)

// readRules reads the table.
func readRules(t *testing.T) (rules []rule) {
	t.Helper()
	text, err := os.ReadFile(root + "/shared/access/README.md")
	if err != nil {
		t.Fatal(err)
	}
	_, table, found := strings.Cut(string(text), "| who | where | may use |\n| --- | --- | --- |\n")
	if !found {
		t.Fatal("shared/access/README.md has no table of who may do what")
	}
	table, _, _ = strings.Cut(table, "\n\n")
	for line := range strings.Lines(table) {
		cells := strings.Split(strings.Trim(line, "| \n"), "|")
		if len(cells) != 3 {
			t.Fatalf("row %q has %d cells", line, len(cells))
		}
		r := rule{who: list(cells[0]), where: list(cells[1]), rest: strings.Contains(cells[2], "all else")}
		for _, m := range regexp.MustCompile("`([A-Z]+ [^`]+)`").FindAllStringSubmatch(cells[2], -1) {
			r.routes = append(r.routes, m[1])
		}
		rules = append(rules, r)
	}
	return rules
}

func list(cell string) (items []string) {
	for item := range strings.SplitSeq(cell, ",") {
		items = append(items, strings.TrimSpace(item))
	}
	return items
}

func (r *rule) at(service string) bool {
	return slices.ContainsFunc(r.where, func(where string) bool {
		return where == service || where == "every service" ||
			where == "sources" && slices.Contains(sources, service) ||
			where == "subscribers" && slices.Contains(subscribers, service)
	})
}

// ruleOf returns the row of a route, or nil if there is none.
func ruleOf(rules []rule, service, route string) *rule {
	var rest *rule
	for i := range rules {
		r := &rules[i]
		if !r.at(service) {
			continue
		}
		if slices.ContainsFunc(r.routes, func(of string) bool { return matches(of, route) }) {
			return r
		}
		if r.rest {
			rest = r
		}
	}
	return rest
}

// matches reports whether the route is that of the table, or below it, as /assets/style.css is below /assets/...
func matches(of, route string) bool {
	below, prefix := strings.CutSuffix(of, "...")
	return of == route || prefix && strings.HasPrefix(route, below)
}

// A company is all services, each a process with a database of its own.
type company struct {
	bin       string
	urls      map[string]string
	databases map[string]string   // their URLs
	routes    map[string][]string // METHOD path
	tokens    map[string]string   // of "reader", "orders", "operator" and "revoked"
	file      string              // TOKENS_FILE
	env       []string            // of all of them, beside what each one needs
	logs      map[string]*journal
}

// programs are the commands of the services.
func program(bin, service string) *exec.Cmd {
	switch service {
	case "sales":
		return exec.Command(bin + "/sales-feed")
	case "customers":
		return exec.Command(bin+"/sales-feed", "customers")
	case "serve":
		return exec.Command(bin+"/sales-feed", "serve")
	case "map":
		return exec.Command(bin + "/map")
	case "mail sink":
		return exec.Command(bin + "/mailsink")
	}
	return exec.Command(bin+"/subscribers", service)
}

// build returns a folder with the programs.
func build(t *testing.T) string {
	t.Helper()
	built.Do(func() {
		if built.dir, built.err = os.MkdirTemp("", "edison-built-"); built.err != nil {
			return
		}
		cmd := exec.Command("go", "build", "-C", root, "-buildvcs=false", "-o", built.dir+"/", "./sales-feed", "./subscribers", "./shared/cmd/map", "./shared/cmd/mailsink")
		if out, err := cmd.CombinedOutput(); err != nil {
			built.err = fmt.Errorf("%w\n%s", err, out)
		}
	})
	if built.err != nil {
		t.Fatal(built.err)
	}
	return built.dir
}

func startCompany(t *testing.T, access string, services ...string) *company {
	t.Helper()
	return startCompanyWith(t, nil, access, services...)
}

func startCompanyWith(t *testing.T, env []string, access string, services ...string) *company {
	t.Helper()
	pgtest.Slow(t, "a company")
	c := &company{
		env: env, logs: map[string]*journal{}, bin: build(t), urls: map[string]string{}, databases: map[string]string{}, routes: map[string][]string{},
		tokens: map[string]string{}, file: filepath.Join(t.TempDir(), "tokens"),
	}
	for _, name := range []string{"reader", "orders", "operator", "revoked"} {
		c.tokens[name] = "datafeed_" + strings.ToUpper(name) + strings.Repeat("X", 20)
	}
	c.writeTokens(t, "reader:reader", "orders:reader=orders", "operator:operator", "revoked:operator")
	data := t.TempDir()
	for _, service := range services {
		env := map[string]string{
			"ADDR": "127.0.0.1:0", "ACCESS": access, "TOKENS_FILE": c.file, "LOG_LEVEL": "debug", "DATA_DIR": data,
			daemon.StopWithParent: fmt.Sprint(os.Getpid()), "PATH": os.Getenv("PATH"),
		}
		if service != "map" && service != "mail sink" {
			c.databases[service] = pgtest.URL(pgtest.New(t))
			env["DATABASE_URL"] = c.databases[service]
		}
		if slices.Contains(subscribers, service) || service == "map" {
			env["FEED_TOKEN"] = c.tokens["reader"]
		}
		for feed, source := range map[string]string{"ORDERS": "sales", "CUSTOMERS": "customers", "BUILDS": "assembly", "SHIPMENTS": "shipping"} {
			if slices.Contains(subscribers, service) && (service != "relay" || feed == "ORDERS") {
				env["FEED_URL_"+feed], env["POLL_"+feed] = c.urls[source]+"/feeds/"+strings.ToLower(feed), "@every 1s"
			}
		}
		switch service {
		case "relay":
			env["AMQP_URL"] = "amqp://127.0.0.1:1" // nobody is there
		case "mail sink":
			env["SMTP_ADDR"] = "127.0.0.1:0"
		case "map":
			env["SERVICES"] = "sales=" + c.urls["sales"]
		}
		c.start(t, service, env)
	}
	return c
}

// start starts a service and notes its address and its routes.
func (c *company) start(t *testing.T, service string, env map[string]string) {
	t.Helper()
	cmd := program(c.bin, service)
	for k, v := range env {
		cmd.Env = append(cmd.Env, k+"="+v)
	}
	cmd.Env = append(cmd.Env, c.env...)
	log := &journal{}
	c.logs[service] = log
	cmd.Stdout, cmd.Stderr = log, log
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Signal(syscall.SIGTERM)
		if err := cmd.Wait(); err != nil {
			t.Errorf("%s, at its stop: %v", service, err)
		}
		if t.Failed() {
			t.Logf("%s: %s", service, log)
		}
	})
	eventually(t, service+" listens", func() bool { return listening.MatchString(log.String()) })
	c.urls[service] = listening.FindStringSubmatch(log.String())[1]
	for _, m := range routed.FindAllStringSubmatch(log.String(), -1) {
		if m[1] != http.MethodHead { // which goes with GET
			c.routes[service] = append(c.routes[service], m[1]+" "+m[2])
		}
	}
	if len(c.routes[service]) < 5 {
		t.Fatalf("%s has the routes %q", service, c.routes[service])
	}
}

// writeTokens makes entries NAME:ROLE the ones that count.
func (c *company) writeTokens(t *testing.T, entries ...string) {
	t.Helper()
	var text strings.Builder
	for _, entry := range entries {
		name, _, _ := strings.Cut(entry, ":")
		fmt.Fprintf(&text, "%s:%x\n", entry, sha256.Sum256([]byte(c.tokens[name])))
	}
	if err := os.WriteFile(c.file, []byte(text.String()), 0o600); err != nil {
		t.Fatal(err)
	}
}

var (
	listening = regexp.MustCompile(`msg=listening url=(\S+)`)
	routed    = regexp.MustCompile(`msg=route method=(\S+) path=(\S+)`)
)

// A journal is what a process prints.
type journal struct {
	mu   sync.Mutex
	text strings.Builder
}

func (j *journal) Write(b []byte) (int, error) {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.text.Write(b)
}

func (j *journal) String() string {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.text.String()
}

func eventually(t *testing.T, what string, condition func() bool) {
	t.Helper()
	for deadline := time.Now().Add(time.Minute); !condition(); time.Sleep(20 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("%s: not within a minute", what)
		}
	}
}

// A buyer has an account, an order and the token of both.
type buyer struct{ customer, order, token string }

// signUp makes a buyer, as a program does.
func (c *company) signUp(t *testing.T, name string) (b buyer) {
	t.Helper()
	var made struct {
		ID         string `json:"id"`
		BuyerToken string `json:"buyer_token"`
	}
	c.post(t, c.urls["customers"]+"/customers", "", fmt.Sprintf(
		`{"name": %q, "email": "%s@example.com", "address": {"street": "St James Square 12", "postal_code": "SW1Y 4JH", "city": "London", "country": "GB"}}`,
		name, strings.ToLower(name)), &made)
	b.customer, b.token = made.ID, made.BuyerToken
	made.ID = ""
	c.post(t, c.urls["sales"]+"/orders", b.token, fmt.Sprintf(
		`{"customer_id": %q, "lines": [{"model": "volta", "quantity": 1}]}`, b.customer), &made)
	b.order = made.ID
	return b
}

func (c *company) post(t *testing.T, url, token, body string, into any) {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, url, strings.NewReader(body))
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
	text, err := io.ReadAll(resp.Body)
	if err == nil {
		err = json.Unmarshal(text, into)
	}
	if err != nil || resp.StatusCode != http.StatusCreated {
		t.Fatalf("POST %s: %s %s %v", url, resp.Status, text, err)
	}
}

var client = &http.Client{
	Timeout:       20 * time.Second,
	CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
}

// path puts values into the parameters of a route.
func (b buyer) path(service, route string) string {
	feeds := map[string]string{"sales": "orders", "customers": "customers", "assembly": "builds", "shipping": "shipments", "serve": "invoices"}
	_, path, _ := strings.Cut(route, " ")
	id := uuid.NewString()
	switch {
	case strings.HasPrefix(path, "/orders/"):
		id = b.order
	case strings.HasPrefix(path, "/customers/"):
		id = b.customer
	}
	feed := feeds[service]
	if strings.HasPrefix(path, "/subscriptions/") {
		feed = "orders"
		if service == "shipping" {
			feed = "builds"
		}
	}
	return strings.NewReplacer(":feed", feed, ":id", id, ":number", "1", ":part", "wheel", ":order_id", id,
		":secret", "none", ":view", "delivery").Replace(path)
}

// An asker is as whom a request is sent.
type asker struct {
	name string
	as   func(*http.Request) // makes the request that of the asker
}

// forgedBuyer has the cookies of a browser in which the buyer is signed in, but for their signature, which is by
// another key.
func forgedBuyer(t *testing.T, b buyer) func(*http.Request) {
	t.Helper()
	codec := securecookie.New([]byte(strings.Repeat("k", 32)), nil).SetSerializer(securecookie.JSONEncoder{})
	cookies := map[string]string{}
	for _, name := range []string{"sales_buyer", "customers_buyer"} {
		signed, err := codec.Encode(name, map[string]string{"customer": b.customer})
		if err != nil {
			t.Fatal(err)
		}
		cookies[name] = signed
	}
	return func(r *http.Request) {
		for name, value := range cookies {
			r.AddCookie(&http.Cookie{Name: name, Value: value})
		}
	}
}

func bearer(token string) func(*http.Request) {
	return func(r *http.Request) { r.Header.Set("Authorization", "Bearer "+token) }
}

// status asks for a route and returns the status. A redirect to the login page counts as 401.
func (c *company) status(t *testing.T, service, route, path string, as func(*http.Request)) int {
	t.Helper()
	resp := c.answer(t, service, route, path, as)
	if strings.HasPrefix(resp.Header.Get("Location"), "/login") {
		return http.StatusUnauthorized
	}
	return resp.StatusCode
}

// answer returns an answer without its body.
func (c *company) answer(t *testing.T, service, route, path string, as func(*http.Request)) *http.Response {
	t.Helper()
	method, _, _ := strings.Cut(route, " ")
	var body io.Reader
	if method != http.MethodGet {
		body = strings.NewReader(`{}`)
	}
	req, err := http.NewRequestWithContext(t.Context(), method, c.urls[service]+path, body)
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Content-Type", "application/json")
	as(req)
	resp, err := client.Do(req)
	if err != nil {
		t.Fatalf("%s %s%s: %v", method, service, path, err)
	}
	_, _ = io.Copy(io.Discard, io.LimitReader(resp.Body, 1<<20))
	resp.Body.Close()
	return resp
}

// An expectation says which statuses are right.
type expectation struct {
	text string
	ok   func(status int) bool
}

func in(statuses ...int) expectation {
	return expectation{fmt.Sprint(statuses), func(status int) bool { return slices.Contains(statuses, status) }}
}

var allowed = expectation{"none of 401, 403, 421 and 500", func(status int) bool {
	return status != http.StatusInternalServerError && status != http.StatusUnauthorized && status != http.StatusForbidden && status != http.StatusMisdirectedRequest
}}

// expected is the answer to an asker by the row of the route. Where anybody may come, it is what nobody in particular
// gets: some of these routes, such as that of the login, look at a secret of their own.
func (r *rule) expected(route, asker string, nobodys int) expectation {
	switch {
	case slices.Contains(r.who, "anybody"):
		return in(nobodys, http.StatusTooManyRequests)
	case slices.Contains(r.who, asker):
		return allowed
	case asker == "operator" && slices.Contains(r.who, "reader"):
		return allowed
	case asker == "another buyer" && route == "GET /orders" && slices.Contains(r.who, "buyer"): // which are that buyer's own
		return allowed
	case slices.Contains(r.who, "buyer"): // it is not told whether the order or the account is there
		return in(http.StatusUnauthorized, http.StatusForbidden, http.StatusNotFound)
	case asker == "reader":
		return in(http.StatusForbidden)
	}
	return in(http.StatusUnauthorized)
}

func TestWhoMayDoWhat(t *testing.T) {
	t.Parallel()
	rules := readRules(t)
	c := startCompany(t, "closed", services...)
	ada, bob := c.signUp(t, "Ada"), c.signUp(t, "Bob")
	seen := map[string]bool{}
	for _, service := range services {
		for _, route := range c.routes[service] {
			r := ruleOf(rules, service, route)
			if r == nil {
				t.Errorf("%s: no row of the table has %s", service, route)
				continue
			}
			seen[service+" "+route] = true
			path := ada.path(service, route)
			nobodys := c.status(t, service, route, path, func(*http.Request) {})
			if plain := !strings.ContainsAny(route, ":") && strings.HasPrefix(route, "GET "); plain && slices.Contains(r.who, "anybody") && route != "GET /account" && nobodys >= 400 {
				t.Errorf("%s: %s as nobody: %d", service, route, nobodys)
			}
			if got := c.status(t, service, route, path, bearer("datafeed_"+strings.Repeat("Y", 26))); got != http.StatusUnauthorized && got != nobodys {
				t.Errorf("%s: %s with a token that is none: %d", service, route, got)
			}
			for _, a := range []struct {
				asker
				counts string
			}{
				{asker{"nobody", func(*http.Request) {}}, "nobody"},
				{asker{"a reader", bearer(c.tokens["reader"])}, "reader"},
				{asker{"another buyer", bearer(bob.token)}, "another buyer"},
				{asker{"a proxy", func(r *http.Request) { r.Header.Set("X-Forwarded-For", "127.0.0.1") }}, "nobody"},
				{asker{"a forged session", func(r *http.Request) {
					for name := range c.cookies(t, service) {
						r.AddCookie(&http.Cookie{Name: name, Value: strings.Repeat("A", 26)})
					}
				}}, "nobody"},
				{asker{"a forged buyer", forgedBuyer(t, ada)}, "nobody"},
				{asker{"an operator", bearer(c.tokens["operator"])}, "operator"},
			} {
				if a.name == "a proxy" && strings.HasSuffix(route, " /login") { // it wants https of it
					continue
				}
				if got, want := c.status(t, service, route, path, a.as), r.expected(route, a.counts, nobodys); !want.ok(got) {
					t.Errorf("%s: %s as %s: %d; want %s", service, route, a.name, got, want.text)
				}
			}
			// Requests by a session have no Authorization, which would keep shared caches away (RFC 9111 section 3.5).
			if nobodys == http.StatusUnauthorized && strings.HasPrefix(route, "GET ") && !slices.Contains([]string{"GET /map.css", "GET /problems/history-diverged", "GET /problems/page-too-large"}, route) {
				resp := c.answer(t, service, route, path, bearer(c.tokens["operator"]))
				if keep := resp.Header.Get("Cache-Control"); resp.StatusCode == http.StatusOK && !strings.Contains(keep, "private") && keep != "no-store" {
					t.Errorf("%s: %s may be kept by shared caches: %q", service, route, keep)
				}
				resp = c.answer(t, service, route, path, c.session(t, service))
				if keep := resp.Header.Get("Cache-Control"); resp.StatusCode == http.StatusOK && keep != "no-store" {
					t.Errorf("%s: %s is kept by the browser of an operator: %q", service, route, keep)
				}
			}
			got := c.status(t, service, route, path, func(r *http.Request) { r.Host = "evil.example" })
			if exempt := strings.HasSuffix(route, "/livez") || strings.HasSuffix(route, "/readyz") || strings.HasPrefix(route, "GET /assets/"); exempt != (got != http.StatusMisdirectedRequest) {
				t.Errorf("%s: %s of another Host: %d", service, route, got)
			}
			if slices.Contains(r.who, "buyer") {
				fresh := c.signUp(t, "Grace") // some of these routes end what they are used on
				if got := c.status(t, service, route, fresh.path(service, route), bearer(fresh.token)); !allowed.ok(got) {
					t.Errorf("%s: %s as its buyer: %d", service, route, got)
				}
			}
		}
	}
	for _, r := range rules {
		for _, service := range services {
			for _, route := range r.routes {
				if r.at(service) && !slices.ContainsFunc(slices.Collect(maps.Keys(seen)), func(s string) bool { return matches(service+" "+route, s) }) {
					t.Errorf("the table has %s at %s, which has not", route, service)
				}
			}
		}
	}
	t.Run("a reader of some feeds", func(t *testing.T) {
		for service, want := range map[string]int{"sales": 200, "customers": 403, "assembly": 403} {
			path := ada.path(service, "GET /feeds/:feed")
			if got := c.status(t, service, "GET", path, bearer(c.tokens["orders"])); got != want {
				t.Errorf("%s%s: %d", service, path, got)
			}
		}
	})
	t.Run("a token that is taken away", func(t *testing.T) {
		sessions := map[string]func(*http.Request){}
		for _, service := range services {
			sessions[service] = c.logIn(t, service, c.tokens["revoked"])
			if got := c.status(t, service, "GET", "/metrics", sessions[service]); got != http.StatusOK {
				t.Errorf("%s in a session: %d", service, got)
			}
		}
		c.writeTokens(t, "reader:reader", "orders:reader=orders", "operator:operator")
		for _, service := range services {
			for name, as := range map[string]func(*http.Request){"its session": sessions[service], "the token": bearer(c.tokens["revoked"])} {
				eventually(t, service+": "+name+" has ended", func() bool { return c.status(t, service, "GET", "/metrics", as) == http.StatusUnauthorized })
				for _, route := range c.routes[service] {
					r := ruleOf(rules, service, route)
					if r == nil || slices.Contains(r.who, "anybody") {
						continue
					}
					if got, want := c.status(t, service, route, ada.path(service, route), as), r.expected(route, "nobody", 0); !want.ok(got) {
						t.Errorf("%s: %s by %s: %d; want %s", service, route, name, got, want.text)
					}
				}
			}
		}
	})
}

// cookies are those that a login at the service sets.
func (c *company) cookies(t *testing.T, service string) map[string]string {
	t.Helper()
	r, err := http.NewRequestWithContext(t.Context(), http.MethodGet, c.urls[service], nil)
	if err != nil {
		t.Fatal(err)
	}
	c.session(t, service)(r)
	found := map[string]string{}
	for _, cookie := range r.Cookies() {
		found[cookie.Name] = cookie.Value
	}
	return found
}

var sessions sync.Map // of services, of an operator

func (c *company) session(t *testing.T, service string) func(*http.Request) {
	t.Helper()
	if s, ok := sessions.Load(c.urls[service]); ok {
		return s.(func(*http.Request))
	}
	s := c.logIn(t, service, c.tokens["operator"])
	sessions.Store(c.urls[service], s)
	return s
}

// logIn logs in by the form, and returns what makes a request one of that session.
func (c *company) logIn(t *testing.T, service, token string) func(*http.Request) {
	t.Helper()
	jar, err := cookiejar.New(nil)
	if err != nil {
		t.Fatal(err)
	}
	browser := &http.Client{Jar: jar, CheckRedirect: client.CheckRedirect, Timeout: client.Timeout}
	resp, err := browser.PostForm(c.urls[service]+"/login", url.Values{"token": {token}, "next": {"/"}})
	if err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
	at, err := url.Parse(c.urls[service])
	if err != nil {
		t.Fatal(err)
	}
	cookies := jar.Cookies(at)
	if resp.StatusCode != http.StatusSeeOther || len(cookies) == 0 {
		t.Fatalf("login at %s: %s, cookies %v", service, resp.Status, slices.Collect(maps.Keys(resp.Header)))
	}
	return func(r *http.Request) {
		for _, cookie := range cookies {
			r.AddCookie(cookie)
		}
	}
}

// On this machine, ACCESS=open stands for an operator, and never for a buyer.
func TestOpenAccess(t *testing.T) {
	t.Parallel()
	rules := readRules(t)
	c := startCompany(t, "open", services...)
	ada := c.signUp(t, "Ada")
	forged := forgedBuyer(t, ada)
	for _, service := range services {
		for _, route := range c.routes[service] {
			r := ruleOf(rules, service, route)
			if r == nil || strings.HasSuffix(route, " /login") { // TestWhoMayDoWhat tells; a login by a proxy wants https
				continue
			}
			path := ada.path(service, route)
			nobodys := c.status(t, service, route, path, func(r *http.Request) { r.Header.Set("X-Forwarded-For", "192.0.2.7") })
			for name, x := range map[string]struct {
				as     func(*http.Request)
				counts string
			}{
				"somebody on this machine":     {func(*http.Request) {}, "operator"},
				"somebody behind a proxy":      {func(r *http.Request) { r.Header.Set("X-Forwarded-For", "192.0.2.7") }, "nobody"},
				"somebody behind Forwarded":    {func(r *http.Request) { r.Header.Set("Forwarded", "for=192.0.2.7") }, "nobody"},
				"somebody behind Via":          {func(r *http.Request) { r.Header.Set("Via", "1.1 cache") }, "nobody"},
				"somebody behind X-Real-IP":    {func(r *http.Request) { r.Header.Set("X-Real-IP", "192.0.2.7") }, "nobody"},
				"somebody behind underscores":  {func(r *http.Request) { r.Header["X_FORWARDED_FOR"] = []string{"192.0.2.7"} }, "nobody"},
				"somebody behind Cloudflare":   {func(r *http.Request) { r.Header.Set("CF-Connecting-IP", "192.0.2.7") }, "nobody"},
				"a buyer that is forged":       {func(r *http.Request) { forged(r); r.Header.Set("Via", "1.1 cache") }, "nobody"},
				"a reader on the same machine": {bearer(c.tokens["reader"]), "reader"},
			} {
				if got, want := c.status(t, service, route, path, x.as), r.expected(route, x.counts, nobodys); !want.ok(got) {
					t.Errorf("%s: %s as %s: %d; want %s", service, route, name, got, want.text)
				}
			}
		}
	}
}
