package access

import (
	"fmt"
	"net/url"
	"regexp"
	"slices"
	"strings"
	"testing"
)

func TestLogin(t *testing.T) {
	t.Parallel()
	stores(t, func(t *testing.T, o Options) {
		site := newSite(t, Closed, o)
		html := []string{"Accept", browser}
		r := site.ask(t, "GET", "/people?page=2&x=%2F", "", html...)
		if r.status != 303 || r.header.Get("Location") != "/login?next=%2Fpeople%3Fpage%3D2%26x%3D%252F" || r.header.Get("Cache-Control") != "no-store" {
			t.Fatal(r)
		}
		r = site.ask(t, "GET", r.header.Get("Location"), "", html...)
		if r.status != 200 || r.header.Get("Cache-Control") != "no-store" {
			t.Error(r)
		}
		r.wantWords(t, `<form method="post" action="/login">`, `<input type="hidden" name="next" value="/people?page=2&amp;x=%2F">`,
			`name="token" type="password" autocomplete="current-password"`, "Edison <strong>Warehouse</strong>")

		send := url.Values{"token": {" " + site.tokens["ada:operator"] + "\r\n"}, "next": {"/people?page=2&x=%2F"}}.Encode() // as it was pasted
		r = site.ask(t, "POST", "/login", send, html...)
		if r.status != 303 || r.header.Get("Location") != "/people?page=2&x=%2F" || r.header.Get("Cache-Control") != "no-store" {
			t.Fatal(r)
		}
		cookie := r.header.Get("Set-Cookie")
		if !regexp.MustCompile(`^warehouse_session=[A-Z2-7]{26}; Path=/; Max-Age=43200; HttpOnly; SameSite=Lax$`).MatchString(cookie) {
			t.Fatal(cookie)
		}
		id, _, _ := strings.Cut(cookie, ";")
		session := []string{"Cookie", "other=1; " + id, "Accept", browser}
		if r := site.ask(t, "GET", "/people?page=2", "", session...); r.status != 200 || r.body != "<ada operator>" {
			t.Error(r)
		}
		if r := site.ask(t, "POST", "/people", "a=b", session...); r.status != 200 || r.body != "<a=b>" {
			t.Error(r)
		}
		site.ask(t, "GET", "/page", "", session...).wantWords(t, `action="/logout"><span>ada</span>`)
		if r := site.ask(t, "GET", "/page", "", site.as("ada:operator")...); strings.Contains(r.body, "/logout") {
			t.Error("a token is not logged in:", r.body)
		}
		for next, to := range map[string]string{"": "/", "?next=%2Fpage": "/page", "?next=%2F%2Fevil.example": "/"} {
			if r := site.ask(t, "GET", "/login"+next, "", session...); r.status != 303 || r.header.Get("Location") != to {
				t.Error(next, r)
			}
		}
		if r := site.ask(t, "GET", "/logout", "", session...); r.status != 405 {
			t.Error(r)
		}
		r = site.ask(t, "POST", "/logout", "", append(session, "Sec-Fetch-Site", "same-site")...)
		if r.status != 403 || r.header.Get("Set-Cookie") != "" {
			t.Error("another origin ends the session:", r)
		}
		other := site.logIn(t)
		r = site.ask(t, "POST", "/logout", "", session...)
		if r.status != 303 || r.header.Get("Location") != "/login?out" || r.header.Get("Set-Cookie") != "warehouse_session=; Path=/; Max-Age=0; HttpOnly; SameSite=Lax" {
			t.Error(r)
		}
		site.ask(t, "GET", "/login?out", "", html...).wantWords(t, "You are logged out.", `name="token"`)
		if r := site.ask(t, "GET", "/people", "", session...); r.status != 303 {
			t.Error("the session goes on:", r)
		}
		if r := site.ask(t, "GET", "/people", "", other...); r.status != 200 {
			t.Error("another session ended:", r)
		}
		if r := site.ask(t, "POST", "/logout", "", html...); r.status != 303 {
			t.Error(r)
		}
		logged := site.logged.String()
		if !strings.Contains(logged, `msg="operator logged in" operator=ada client=127.0.0.1`) || strings.Contains(logged, tokenPrefix) || strings.Contains(logged, strings.TrimPrefix(id, "warehouse_session=")) {
			t.Error(logged)
		}
	})
}

func TestLoginIsRefused(t *testing.T) {
	t.Parallel()
	site := newSite(t, Closed, Options{}, "127.0.0.2")
	unknown, hash := NewToken()
	for name, x := range map[string]struct {
		token  string
		status int
		says   string
	}{
		"no token":            {"", 401, "not valid"},
		"an unknown one":      {unknown, 401, "not valid"},
		"a hash":              {hash, 401, "not valid"},
		"a part of one":       {site.tokens["ada:operator"][:20], 401, "not valid"},
		"another case":        {strings.ToLower(site.tokens["ada:operator"]), 401, "not valid"},
		"a reader's":          {site.tokens["warehouse:reader"], 403, "token, for programs that read feeds"},
		"a reader's of feeds": {site.tokens["scarce:reader=orders+builds"], 403, "token, for programs that read feeds"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := site.ask(t, "POST", "/login", url.Values{"token": {x.token}, "next": {"/people"}}.Encode(), "Accept", browser)
			if r.status != x.status || r.header.Get("Set-Cookie") != "" || (r.header.Get("WWW-Authenticate") == bearerOnly) != (x.status == 401) {
				t.Error(r)
			}
			r.wantWords(t, x.says, `name="next" value="/people"`, `name="token"`)
			if x.token != "" && strings.Contains(r.body, x.token) {
				t.Error("the token is shown")
			}
		})
	}
	t.Run("a token in the URL", func(t *testing.T) {
		t.Parallel()
		if r := site.ask(t, "POST", "/login?token="+site.tokens["ada:operator"], "next=/"); r.status != 401 {
			t.Error(r)
		}
		if r := site.ask(t, "GET", "/login?token="+site.tokens["ada:operator"], ""); r.status != 200 || r.header.Get("Set-Cookie") != "" {
			t.Error(r)
		}
	})
	t.Run("another origin", func(t *testing.T) {
		t.Parallel()
		for _, header := range [][]string{{"Sec-Fetch-Site", "cross-site"}, {"Sec-Fetch-Site", "same-site"}, {"Origin", "http://evil.example"}, {"Origin", "null"}} {
			if r := site.ask(t, "POST", "/login", "token="+site.tokens["ada:operator"], header...); r.status != 403 || r.header.Get("Set-Cookie") != "" {
				t.Error(header, r)
			}
		}
	})
}

// A browser that reaches docker's forwarded port is no peer on loopback, but its Host is.
func TestLoginWantsHTTPS(t *testing.T) {
	t.Parallel()
	s, made := settings(t, list...)
	s.Hosts = Hosts{"feeds.example", "10.0.0.7"}
	plain, proxied := start(t, s, Options{}, made), start(t, s, Options{}, made, "127.0.0.1")
	for _, x := range []struct {
		name   string
		site   *site
		header []string
		cookie string // "" means refused
	}{
		{"localhost", plain, []string{"Host", "localhost:8080"}, "warehouse_session="},
		{"an address of loopback", plain, []string{"Host", "[::1]:8080"}, "warehouse_session="},
		{"another name", plain, []string{"Host", "feeds.example"}, ""},
		{"a proxy that nobody trusts, and that sends the address of the service as Host", plain, []string{"Host", "127.0.0.1:8080", "X-Forwarded-For", "192.0.2.7"}, ""},
		{"such a proxy that claims https", plain, []string{"Host", "localhost", "X-Forwarded-Proto", "https"}, ""},
		{"a trusted proxy on this machine without https", proxied, []string{"Host", "localhost", "X-Forwarded-Proto", "http"}, ""},
		{"another address", plain, []string{"Host", "10.0.0.7:8080"}, ""},
		{"a proxy that nobody trusts", plain, []string{"Host", "feeds.example", "X-Forwarded-Proto", "https"}, ""},
		{"a trusted proxy", proxied, []string{"Host", "feeds.example", "X-Forwarded-Proto", "https"}, "__Host-warehouse_session="},
		{"a trusted proxy on this machine", proxied, []string{"Host", "localhost", "X-Forwarded-Proto", "https"}, "__Host-warehouse_session="},
		{"a trusted proxy without https", proxied, []string{"Host", "feeds.example", "X-Forwarded-Proto", "http"}, ""},
		{"a trusted proxy that says nothing", proxied, []string{"Host", "feeds.example"}, ""},
	} {
		t.Run(x.name, func(t *testing.T) {
			t.Parallel()
			header := slices.Concat(x.header, []string{"Accept", browser})
			r := x.site.ask(t, "GET", "/login?next=/people", "", header...)
			if x.cookie == "" {
				r.wantWords(t, "not encrypted", "TLS_CERT_FILE", "TRUSTED_PROXIES", "http://localhost")
				if r.status != 403 || strings.Contains(r.body, `name="token"`) {
					t.Error(r)
				}
			} else if r.status != 200 {
				t.Error(r)
			}
			r = x.site.ask(t, "POST", "/login", "token="+made["ada:operator"], header...)
			if x.cookie == "" {
				if r.status != 403 || r.header.Get("Set-Cookie") != "" {
					t.Error(r)
				}
				return
			}
			cookie := r.header.Get("Set-Cookie")
			if r.status != 303 || !strings.HasPrefix(cookie, x.cookie) || strings.HasSuffix(cookie, "; HttpOnly; Secure; SameSite=Lax") != strings.HasPrefix(cookie, "__Host-") {
				t.Fatal(r)
			}
			id, _, _ := strings.Cut(cookie, ";")
			if r := x.site.ask(t, "GET", "/people", "", append(header, "Cookie", id)...); r.status != 200 {
				t.Error(r)
			}
			if r := x.site.ask(t, "POST", "/logout", "", append(header, "Cookie", id)...); !strings.HasPrefix(r.header.Get("Set-Cookie"), x.cookie+"; Path=/; Max-Age=0;") {
				t.Error(r)
			}
			if r := x.site.ask(t, "GET", "/people", "", append(header, "Cookie", id)...); r.status != 303 {
				t.Error(r)
			}
		})
	}
}

func TestLoginWithoutOperators(t *testing.T) {
	t.Parallel()
	s, made := settings(t, "warehouse:reader")
	site := start(t, s, Options{}, made)
	r := site.ask(t, "GET", "/login", "", "Accept", browser)
	if r.status != 403 || strings.Contains(r.body, `name="token"`) {
		t.Error(r)
	}
	r.wantWords(t, "sales-feed token --operator NAME", "TOKENS_FILE")
}

func TestLoginIsLimited(t *testing.T) {
	t.Parallel()
	s, made := settings(t, list...)
	site := start(t, s, Options{}, made, "127.0.0.1")
	tries := func(client func(i int) string) (refused int) {
		for i := range 100 {
			r := site.ask(t, "POST", "/login", "token=x&next=/people", "X-Forwarded-For", client(i), "X-Forwarded-Proto", "https", "Accept", browser)
			switch r.status {
			case 401:
			case 429:
				refused++
				if r.header.Get("Retry-After") == "" {
					t.Error(r)
				}
				r.wantWords(t, "Try again in", `name="next" value="/people"`)
			default:
				t.Error(r)
			}
		}
		return refused
	}
	if n := tries(func(int) string { return "192.0.2.1" }); n < 50 {
		t.Errorf("%d of 100 tries of one client are refused", n)
	}
	login := func(token, client string) int {
		return site.ask(t, "POST", "/login", "token="+token, "X-Forwarded-For", client, "X-Forwarded-Proto", "https").status
	}
	if status := login("x", "192.0.2.2"); status != 401 {
		t.Error("another client is refused:", status)
	}
	// limited reports whether a login is refused as one too many. On a slow machine, another one is allowed before it.
	limited := func(token string, client func(i int) string) bool {
		for i := range 100 {
			for range 50 { // all clients have 50 at once, and 10 a second
				_ = site.allAttempts.CheckAll(1)
			}
			if login(token, client(i)) == 429 {
				return true
			}
		}
		return false
	}
	if !limited("x", func(i int) string { return fmt.Sprint("192.0.2.", 100+i) }) {
		t.Error("all together are not limited")
	}
	for _, client := range []string{"192.0.2.1", "192.0.2.4"} {
		if status := login(made["ada:operator"], client); status != 303 {
			t.Errorf("others lock the operator at %s out: %d", client, status)
		}
	}
	if !limited(made["warehouse:reader"], func(int) string { return "192.0.2.1" }) {
		t.Error("a reader's token is no login, and is not limited")
	}
	if r := site.ask(t, "GET", "/people", "", site.as("ada:operator")...); r.status != 200 {
		t.Error(r)
	}
}

// hidden returns the hidden inputs of the form to action on a page.
func hidden(t *testing.T, page, action string) url.Values {
	t.Helper()
	_, rest, ok := strings.Cut(page, `<form method="post" action="`+action+`">`)
	if !ok {
		t.Fatalf("no form to %s: %s", action, page)
	}
	form, _, _ := strings.Cut(rest, "</form>")
	fields := url.Values{}
	for _, m := range regexp.MustCompile(`<input type="hidden" name="([^"]*)" value="([^"]*)">`).FindAllStringSubmatch(form, -1) {
		fields.Add(unescape(m[1]), unescape(m[2]))
	}
	return fields
}

func unescape(s string) string {
	return strings.NewReplacer("&amp;", "&", "&#34;", `"`, "&#39;", "'", "&lt;", "<", "&gt;", ">", "&#43;", "+", "&#61;", "=").Replace(s)
}

func TestFormOfAnEndedSession(t *testing.T) {
	t.Parallel()
	site := newSite(t, Closed, Options{})
	sent := url.Values{"schedule": {"@every 5s"}, "note": {"<b>\"a\" & 'b'+c\r\nd=e</b>", "second"}, "empty": {""}, "größe": {"ü"}}
	html := []string{"Accept", browser, "Referer", site.url + "/page?x=1", "Cookie", "warehouse_session=ended"}
	r := site.ask(t, "POST", "/people?a=b", sent.Encode(), html...)
	if r.status != 401 || r.header.Get("WWW-Authenticate") != bearerOnly || r.header.Get("Cache-Control") != "no-store" {
		t.Error(r)
	}
	r.wantWords(t, "Your session has ended, and nothing was changed.", "Log in to send your form")

	fields := hidden(t, r.body, "/login")
	fields.Set("token", "wrong")
	r = site.ask(t, "POST", "/login", fields.Encode(), html...)
	if r.status != 401 {
		t.Error(r)
	}
	fields = hidden(t, r.body, "/login")
	fields.Set("token", site.tokens["ada:operator"])
	r = site.ask(t, "POST", "/login", fields.Encode(), html...)
	if r.status != 200 || r.header.Get("Set-Cookie") == "" || r.header.Get("Cache-Control") != "no-store" {
		t.Fatal(r)
	}
	r.wantWords(t, "Your form has not been sent yet.", "<button>Send the form</button>", `href="/page?x=1"`, `<span>ada</span>`)
	if scripts := regexp.MustCompile(`<script[^>]*>`).FindAllString(r.body, -1); len(scripts) != 1 || !strings.Contains(scripts[0], "/times.") {
		t.Error("a script may send it")
	}
	id, _, _ := strings.Cut(r.header.Get("Set-Cookie"), ";")
	if got := hidden(t, r.body, "/people?a=b"); got.Encode() != sent.Encode() {
		t.Errorf("%v became %v", sent, got)
	}
	r = site.ask(t, "POST", "/people?a=b", hidden(t, r.body, "/people?a=b").Encode(), append(html, "Cookie", id)...)
	if r.status != 200 || r.body != "<"+sent.Encode()+">" {
		t.Error(r)
	}
}

func TestFormsThatAreNotKept(t *testing.T) {
	t.Parallel()
	site := newSite(t, Closed, Options{})
	for name, x := range map[string]struct {
		body   string
		header []string
		next   string
	}{
		"too large":               {"a=" + strings.Repeat("x", maxSent), nil, "/page"},
		"too many fields":         {strings.Repeat("a=b&", maxFields+1), nil, "/page"},
		"NUL":                     {"a=%00", nil, "/page"},
		"no UTF-8":                {"a=%ff", nil, "/page"},
		"no form":                 {"a=%", nil, "/page"},
		"a file":                  {"--x\r\n\r\n--x--", []string{"Content-Type", "multipart/form-data; boundary=x"}, "/page"},
		"JSON":                    {"{}", []string{"Content-Type", "application/json"}, "/page"},
		"from nowhere":            {"a=%00", []string{"Referer", ""}, ""},
		"from a page of another":  {"a=%00", []string{"Referer", "http://evil.example/page"}, ""},
		"from a page of no scope": {"a=%00", []string{"Referer", ":"}, ""},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := site.ask(t, "POST", "/people", x.body, append([]string{"Accept", browser, "Referer", site.url + "/page"}, x.header...)...)
			if r.status != 401 {
				t.Error(r)
			}
			r.wantWords(t, "nothing was changed", "fill in your form again")
			want := url.Values{}
			if x.next != "" {
				want.Set("next", x.next)
			}
			if fields := hidden(t, r.body, "/login"); fields.Encode() != want.Encode() {
				t.Error(fields)
			}
		})
	}
	t.Run("an empty one is", func(t *testing.T) {
		t.Parallel()
		r := site.ask(t, "POST", "/people", "", "Accept", browser)
		if fields := hidden(t, r.body, "/login"); fields.Get("form_to") != "/people" {
			t.Error(fields)
		}
	})
	t.Run("none of another method is", func(t *testing.T) {
		t.Parallel()
		r := site.ask(t, "PUT", "/people", "a=b", "Accept", browser)
		if fields := hidden(t, r.body, "/login"); r.status != 401 || len(fields) != 0 {
			t.Error(r)
		}
	})
	t.Run("none that leads elsewhere is", func(t *testing.T) {
		t.Parallel()
		for _, to := range []string{"//evil.example/", "http://evil.example/", `/\evil.example`, "javascript:alert(1)", "people", "/a\nb"} {
			r := site.ask(t, "POST", "/login", url.Values{"token": {site.tokens["ada:operator"]}, "form_to": {to}, "form_body": {"a=b"}}.Encode(),
				"Authorization", basic("", site.tokens[list[1+len(to)%3]])) // their limits are their own
			if r.status != 303 || r.header.Get("Location") != "/" {
				t.Errorf("%q: %v", to, r)
			}
		}
	})
}

// A program is not led to a page.
func TestProgramsAreNotLedToTheLogin(t *testing.T) {
	t.Parallel()
	site := newSite(t, Closed, Options{})
	unknown, _ := NewToken()
	for name, x := range map[string]struct {
		header []string
		status int
	}{
		"no Accept":                      {nil, 401},
		"anything":                       {[]string{"Accept", "*/*"}, 401},
		"JSON":                           {[]string{"Accept", "application/json"}, 401},
		"an event stream":                {[]string{"Accept", "text/event-stream"}, 401},
		"HTML, with a bad token":         {[]string{"Accept", browser, "Authorization", "Bearer " + unknown}, 401},
		"HTML, with a reader's":          {[]string{"Accept", browser, "Authorization", "Bearer " + site.tokens["ada:reader"]}, 403},
		"HTML, with a bad password":      {[]string{"Accept", browser, "Authorization", basic("", unknown)}, 303},
		"HTML, with a reader's password": {[]string{"Accept", browser, "Authorization", basic("", site.tokens["ada:reader"])}, 303},
		"HTML":                           {[]string{"Accept", browser}, 303},
		"HTML, with a session no more":   {[]string{"Accept", browser, "Cookie", "warehouse_session=ended"}, 303},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			for _, method := range []string{"GET", "HEAD"} {
				if r := site.ask(t, method, "/people", "", x.header...); r.status != x.status {
					t.Error(method, r)
				}
			}
			if r := site.ask(t, "POST", "/people", "a=b", x.header...); x.status == 303 && r.status != 401 || x.status != 303 && r.status != x.status {
				t.Error(r)
			}
		})
	}
}

var nexts = map[string]bool{
	"/": true, "/people": true, "/people?next=//evil.example&a=%0a": true, "/a//b": true, "/%2Fevil.example": true, "/größe": true, "/a:b@c": true, "/?http://evil.example": true,
	"/..//evil.example": true, "/@evil.example": true,

	"": false, "people": false, "//evil.example": false, "///evil.example": false, `/\evil.example`: false, `\/evil.example`: false, `/a\b`: false, "http://evil.example/": false, "https:evil.example": false,
	"javascript:alert(1)": false, "data:text/html,x": false, "/\t/evil.example": false, "/\n/evil.example": false, "\t//evil.example": false, " //evil.example": false, "/ /evil.example": false,
	"/a\r\nSet-Cookie: a=b": false, "/\x00": false, "/\x7f": false, "/%": false, "/" + strings.Repeat("a", maxPath): false, "http:///people": false, "?next": false, "#": false,
}

func TestNext(t *testing.T) {
	t.Parallel()
	site := newSite(t, Closed, Options{}, "127.0.0.1")
	for next, ok := range nexts {
		if localPath(next) != ok {
			t.Errorf("%q is local: %t", next, !ok)
		}
		r := site.ask(t, "GET", "/login?next="+url.QueryEscape(next), "", "Accept", browser)
		if shown := strings.Contains(r.body, `name="next"`); r.status == 200 && shown != ok {
			t.Errorf("%q: %s", next, r.body)
		}
		if strings.Contains(next, "\x00") { // no text: refused by every form
			continue
		}
		r = site.ask(t, "POST", "/login", url.Values{"token": {site.tokens["ada:operator"]}, "next": {next}}.Encode())
		if to := r.header.Get("Location"); r.status != 303 || !localPath(to) || (to == "/") != (!ok || next == "/") {
			t.Errorf("%q leads to %q: %d", next, to, r.status)
		}
	}
	if r := site.ask(t, "GET", "/people?a="+strings.Repeat("a", maxPath), "", "Accept", browser); r.status != 303 || r.header.Get("Location") != "/login" {
		t.Error(r)
	}
}

func FuzzNext(f *testing.F) {
	for next := range nexts {
		f.Add(next)
	}
	base, _ := url.Parse("https://feeds.example/login")
	f.Fuzz(func(t *testing.T, next string) {
		if !localPath(next) {
			return
		}
		// As browsers read it: without tabs and line ends, with / for \.
		plain := strings.NewReplacer("\t", "", "\n", "", "\r", "", `\`, "/").Replace(strings.Trim(next, "\x00 "))
		if strings.HasPrefix(plain, "//") || !strings.HasPrefix(plain, "/") {
			t.Fatalf("%q leads away", next)
		}
		to, err := base.Parse(plain)
		if err != nil || to.Host != base.Host || to.Scheme != base.Scheme || to.User != nil {
			t.Fatalf("%q leads to %v (%v)", next, to, err)
		}
	})
}
