package feedclient

import (
	"context"
	"errors"
	"net"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/uuid"

	"github.com/edison-cars/data-feeds/shared/feed"
)

const (
	emptyPage = `{"version":"https://jsonfeed.org/version/1.1","_datafeed":{"cursor":"0","up_to_date":true,"head":"0"},"items":[]}`
	somewhere = "7-0123456789ab"
)

// asked returns what a client makes of the handler's answer to a request for the first page.
func asked(t *testing.T, etag string, h http.HandlerFunc) (*Answer, error) {
	t.Helper()
	server := httptest.NewServer(h)
	defer server.Close()
	client := New("")
	defer client.Close()
	return client.Get(t.Context(), Request{URL: server.URL + "/feeds/things", Limit: 10, ETag: etag})
}

func page(header ...string) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", feed.TypeJSONFeed+"; charset=utf-8")
		for i := 0; i < len(header); i += 2 {
			w.Header().Set(header[i], header[i+1])
		}
		_, _ = w.Write([]byte(emptyPage))
	}
}

func TestClientRequest(t *testing.T) {
	t.Parallel()
	for _, etag := range []string{"", `"x"`} {
		_, err := asked(t, etag, func(w http.ResponseWriter, r *http.Request) {
			if r.Method != http.MethodGet || r.URL.Path != "/feeds/things" || r.URL.RawQuery != "after=0&limit=10" || r.Header.Get("Accept") != "application/feed+json" {
				t.Errorf("it asks %s %s, accepting %s", r.Method, r.URL, r.Header.Get("Accept"))
			}
			if got := r.Header.Values("If-None-Match"); strings.Join(got, " ") != etag || etag == "" && got != nil {
				t.Errorf("with the ETag %s it asks for none but %s", etag, got)
			}
			page()(w, r)
		})
		if err != nil {
			t.Error(err)
		}
	}
	cursor, err := feed.ParseCursor(somewhere)
	if err != nil {
		t.Fatal(err)
	}
	ask := Request{URL: "http://cars.example/feeds/things", After: cursor, Limit: 1000}
	if got := ask.PageURL(); got != "http://cars.example/feeds/things?after="+somewhere+"&limit=1000" {
		t.Error(got)
	}
	ask.History = feed.At(9, feed.Digest{9})
	if got := ask.PageURL(); got != "http://cars.example/feeds/things?after="+somewhere+"&limit=1000&history=9-090000000000" {
		t.Error(got)
	}
}

func TestClientToken(t *testing.T) {
	t.Parallel()
	const token = "datafeed_ABCDEFGHIJKLMNOPQRSTUVWXYZ"
	for _, x := range []struct{ name, token, user, want string }{
		{"a token", token, "", "Bearer " + token},
		{"none", "", "", ""},
		{"a user in the URL", token, "reader:secret@", "Basic cmVhZGVyOnNlY3JldA=="},
	} {
		t.Run(x.name, func(t *testing.T) {
			t.Parallel()
			redirected := false
			server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				if got := r.Header.Get("Authorization"); got != x.want || strings.Contains(r.URL.String(), token) {
					t.Errorf("it asks %s with %q", r.URL, got)
				}
				if !redirected {
					redirected = true
					http.Redirect(w, r, "/elsewhere?"+r.URL.RawQuery, http.StatusFound)
					return
				}
				http.Error(w, "no", http.StatusUnauthorized)
			}))
			defer server.Close()
			client := New(x.token)
			defer client.Close()
			_, err := client.Get(t.Context(), Request{URL: strings.Replace(server.URL, "//", "//"+x.user, 1) + "/feeds/things", Limit: 10})
			var status *StatusError
			if !errors.As(err, &status) || status.Status != http.StatusUnauthorized || !redirected {
				t.Errorf("%v", err)
			}
			server.Close()
			if _, err := client.Get(t.Context(), Request{URL: server.URL, Limit: 10}); err == nil || strings.Contains(err.Error(), "datafeed_") {
				t.Errorf("%v", err)
			}
		})
	}
}

func TestClientAnswer(t *testing.T) {
	t.Parallel()
	answer, err := asked(t, "", page("ETag", `"a"`))
	if err != nil || answer.ETag != `"a"` || answer.Page == nil || !answer.Page.UpToDate {
		t.Errorf("a page: %+v, %v", answer, err)
	}
	notModified := func(w http.ResponseWriter, r *http.Request) { w.WriteHeader(http.StatusNotModified) }
	if answer, err := asked(t, `"a"`, notModified); err != nil || answer.Page != nil {
		t.Errorf("304: %+v, %v", answer, err)
	}
	var status *StatusError
	if _, err := asked(t, "", notModified); !errors.As(err, &status) || status.Status != http.StatusNotModified {
		t.Errorf("304 that was not asked for: %v", err)
	}
}

func TestClientAsOf(t *testing.T) {
	t.Parallel()
	for age, want := range map[string]time.Duration{
		"": 0, "0": time.Second, "1": 2 * time.Second, "3600": time.Hour + time.Second, "99999999999999999999": 1 << 31 * time.Second, // it is rounded down
		"-5": 0, "1.5": 0, "soon": 0,
		"10, 20": 11 * time.Second, "10,20": 11 * time.Second, // of several values the first (RFC 9111 section 5.1)
	} {
		var arrived time.Time
		before := time.Now().Truncate(time.Millisecond)
		answer, err := asked(t, "", func(w http.ResponseWriter, r *http.Request) {
			arrived = time.Now()
			page("Age", age)(w, r)
		})
		if err != nil {
			t.Fatal(err)
		}
		// What came into being while the answer was on its way may not be in it.
		if got := answer.AsOf.Add(want); got.Before(before) || got.After(arrived) {
			t.Errorf("Age %q: as of %v, asked between %v and %v", age, answer.AsOf, before, arrived)
		}
		if answer.AsOf.Location() != time.UTC || answer.AsOf.Nanosecond()%1e6 != 0 {
			t.Errorf("as of %v", answer.AsOf)
		}
	}
}

func TestAgeOf(t *testing.T) {
	t.Parallel()
	now := time.Date(2026, 11, 23, 8, 0, 0, 0, time.UTC)
	const hour, ahead, soon = "Mon, 23 Nov 2026 07:00:00 GMT", "Mon, 23 Nov 2026 08:00:05 GMT", "Mon, 23 Nov 2026 07:59:58 GMT"
	for _, x := range []struct {
		name      string
		header    http.Header
		age, kept time.Duration
	}{
		{"no cache", http.Header{"Date": {hour}, "Cache-Control": {"max-age=5"}}, 0, 0},
		{"a cache that asked", http.Header{"Date": {hour}, "Cache-Status": {"nginx; fwd=miss"}}, 0, 0},
		{"a cache called hit", http.Header{"Date": {hour}, "Cache-Status": {"hit; fwd=miss"}}, 0, 0},
		{"Age goes before Date", http.Header{"Date": {hour}, "Age": {"1"}, "Cache-Status": {"nginx; hit"}, "Cache-Control": {"max-age=5"}}, 2 * time.Second, 4 * time.Second},
		{"a cache that had it", http.Header{"Date": {soon}, "Cache-Status": {"nginx; hit"}, "Cache-Control": {"public, max-age=5"}}, 2 * time.Second, 4 * time.Second},
		{"a cache that had it for too long", http.Header{"Date": {hour}, "Cache-Status": {"nginx;hit;detail=stale"}, "Cache-Control": {"max-age=5"}}, time.Hour, time.Second},
		{"the first of two caches", http.Header{"Date": {hour}, "Cache-Status": {"a; hit, b; fwd=miss"}}, time.Hour, time.Second},
		{"the second of two caches", http.Header{"Date": {hour}, "Cache-Status": {"a; fwd=miss", "b; ttl=1; hit"}}, time.Hour, time.Second},
		{"a clock that is ahead", http.Header{"Date": {ahead}, "Cache-Status": {"nginx; hit"}}, 0, time.Second},
		{"no date", http.Header{"Date": {"yesterday"}, "Cache-Status": {"nginx; hit"}}, 0, 0},
	} {
		if age, kept := ageOf(x.header, now); age != x.age || kept != x.kept {
			t.Errorf("%s: %v old, and kept for %v; want %v and %v", x.name, age, kept, x.age, x.kept)
		}
	}
}

func TestRetryAfter(t *testing.T) {
	t.Parallel()
	now := time.Date(2026, 11, 23, 8, 0, 0, 0, time.UTC)
	for value, want := range map[string]time.Duration{
		"": 0, "0": 0, "5": 5 * time.Second, "86400": 24 * time.Hour, "99999999999999999999": (1<<31 - 1) * time.Second,
		"-5": 0, "+5": 0, "5.5": 0, "5s": 0, "soon": 0,
		"Mon, 23 Nov 2026 08:02:00 GMT":  2 * time.Minute,
		"Monday, 23-Nov-26 08:02:00 GMT": 2 * time.Minute,
		"Mon Nov 23 08:02:00 2026":       2 * time.Minute,
		"Mon, 23 Nov 2026 07:59:59 GMT":  0,
		"2026-11-23T08:02:00Z":           0,
	} {
		if got := retryAfter(value, now); got != want {
			t.Errorf("%q: %v, not %v", value, got, want)
		}
	}
}

func TestClientRefused(t *testing.T) {
	t.Parallel()
	refuse := func(status int, contentType, body string) http.HandlerFunc {
		return func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Type", contentType)
			w.Header().Set("Retry-After", "7")
			w.WriteHeader(status)
			_, _ = w.Write([]byte(body))
		}
	}
	for name, c := range map[string]struct {
		handler http.HandlerFunc
		status  int
		text    string
	}{
		"a problem":         {refuse(503, "application/problem+json; charset=utf-8", `{"status":503,"detail":"Later."}`), 503, "the source answered 503 Service Unavailable: Later."},
		"a broken problem":  {refuse(500, feed.TypeProblem, `{"detail":`), 500, "the source answered 500 Internal Server Error"},
		"an endless detail": {refuse(500, feed.TypeProblem, `{"detail":"`+strings.Repeat("x", 1<<20)+`"}`), 500, "the source answered 500 Internal Server Error"},
		"a page for people": {refuse(502, feed.TypeHTML, `{"detail":"no"}`), 502, "the source answered 502 Bad Gateway"},
		"another history":   {refuse(410, feed.TypeProblem, `{"detail":"Start again."}`), 410, "the source has another history than this copy (the source answered 410 Gone: Start again.)"},
		"a page as 203":     {refuse(203, feed.TypeJSONFeed, emptyPage), 203, "the source answered 203 Non-Authoritative Information"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			_, err := asked(t, "", c.handler)
			var status *StatusError
			if !errors.As(err, &status) || status.Status != c.status || status.RetryAfter != 7*time.Second || err.Error() != c.text {
				t.Errorf("%v", err)
			}
			if errors.Is(err, ErrDiverged) != (c.status == 410) {
				t.Errorf("%v is ErrDiverged: %t", err, errors.Is(err, ErrDiverged))
			}
		})
	}
}

func TestClientRedirects(t *testing.T) {
	t.Parallel()
	other := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { t.Error("the other origin was asked") }))
	defer other.Close()
	if _, err := asked(t, "", http.RedirectHandler(other.URL, http.StatusFound).ServeHTTP); err == nil || !strings.Contains(err.Error(), "it redirects to another origin, "+strings.TrimPrefix(other.URL, "http://")) {
		t.Errorf("to another origin: %v", err)
	}
	for _, times := range []int{1, 5, 6} {
		left := times
		answer, err := asked(t, `"x"`, func(w http.ResponseWriter, r *http.Request) {
			if left--; left >= 0 {
				http.Redirect(w, r, "/next?"+r.URL.RawQuery, http.StatusTemporaryRedirect)
				return
			}
			if r.Header.Get("If-None-Match") != `"x"` || r.URL.RawQuery != "after=0&limit=10" {
				t.Errorf("redirected it asks %s with %v", r.URL, r.Header)
			}
			page()(w, r)
		})
		if times <= 5 && (err != nil || answer.Page == nil) || times > 5 && (err == nil || !strings.Contains(err.Error(), "more than 5 times")) {
			t.Errorf("%d redirects: %v", times, err)
		}
	}
}

// waiting returns what a client makes of an answer to a request that may wait, and how long it took, by a clock of its
// own.
func waiting(t *testing.T, wait time.Duration, h http.HandlerFunc) (answer *Answer, took time.Duration, err error) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		near, far := net.Pipe()
		server := &http.Server{Handler: h, ReadHeaderTimeout: time.Hour}
		go func() { _ = server.Serve(&listener{accepted: []net.Conn{far}, closed: make(chan struct{})}) }()
		client := New("")
		client.http.Transport.(*transport).http.DialContext = func(context.Context, string, string) (net.Conn, error) { return near, nil }
		began := time.Now()
		answer, err = client.Get(t.Context(), Request{URL: "http://cars.example/feeds/things", Limit: 10, Wait: wait})
		took = time.Since(began)
		client.Close()
		_ = server.Close()
	})
	return answer, took, err
}

// A listener accepts what it has.
type listener struct {
	accepted []net.Conn
	closed   chan struct{}
}

func (l *listener) Accept() (net.Conn, error) {
	if len(l.accepted) == 0 {
		<-l.closed
		return nil, net.ErrClosed
	}
	conn := l.accepted[0]
	l.accepted = l.accepted[1:]
	return conn, nil
}

func (l *listener) Close() error {
	close(l.closed)
	return nil
}

func (l *listener) Addr() net.Addr { return &net.TCPAddr{} }

func TestClientWaits(t *testing.T) {
	t.Parallel()
	for wait, want := range map[time.Duration]string{
		0: "", -time.Second: "", 999 * time.Millisecond: "", time.Second: "wait=1", 2900 * time.Millisecond: "wait=2", time.Hour: "wait=30",
	} {
		asked := make(chan string, 1)
		answer, _, err := waiting(t, wait, func(w http.ResponseWriter, r *http.Request) {
			asked <- r.Header.Get("Prefer")
			page("Preference-Applied", "wait=1")(w, r)
		})
		if err != nil || (answer.Waits == time.Second) != (want != "") {
			t.Errorf("%v: %+v, %v", wait, answer, err)
		}
		if got := <-asked; got != want {
			t.Errorf("%v: it prefers %q, not %q", wait, got, want)
		}
	}
	for applied, want := range map[string]time.Duration{
		"": 0, "wait": 20, "wait=20": 20, "wait=7": 7, "wait=90": 20, "wait=0": 0, "wait=-1": 0, "wait=soon": 0, "waits=7": 0, "respond-async": 0,
		`Wait = "7"`: 7, "respond-async, wait=7": 7, "wait=7; a=b": 7, "wait=99999999999999999999": 20,
	} {
		answer, _, err := waiting(t, 20*time.Second, page("Preference-Applied", applied))
		if err != nil || answer.Waits != want*time.Second {
			t.Errorf("Preference-Applied: %s: %+v, %v", applied, answer, err)
		}
	}
}

func TestClientPatience(t *testing.T) {
	t.Parallel()
	silent := func(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() }
	trickling := func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", feed.TypeJSONFeed)
		for {
			_, _ = w.Write([]byte(" "))
			_ = http.NewResponseController(w).Flush()
			select {
			case <-time.After(time.Second):
			case <-r.Context().Done():
				return
			}
		}
	}
	stalling := func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", feed.TypeJSONFeed)
		_ = http.NewResponseController(w).Flush()
		<-r.Context().Done()
	}
	for _, x := range []struct {
		name       string
		handler    http.HandlerFunc
		wait, want time.Duration
	}{
		{"stalled after the header", stalling, 0, time.Minute},
		{"silent", silent, 0, 15 * time.Second},
		{"silent, may wait", silent, 20 * time.Second, 35 * time.Second},
		{"trickling", trickling, 0, time.Minute},
		{"trickling, may wait", trickling, time.Hour, 90 * time.Second},
	} {
		_, took, err := waiting(t, x.wait, x.handler)
		var network net.Error
		if took != x.want || !errors.As(err, &network) || !network.Timeout() {
			t.Errorf("%s: after %v %v", x.name, took, err)
		}
	}
}

func TestClientDiverged(t *testing.T) {
	t.Parallel()
	for link, want := range map[string]string{
		`<http://other.example/feeds/things?after=0&limit=10&history=` + somewhere + `>; rel="start"`:                              somewhere,
		`<?before=` + somewhere + `&history=9-000000000000>; rel="next", <?after=0&history=` + somewhere + `>;rel=start; type="x"`: somewhere,
		`</feeds/things?after=0&limit=10>; rel="start"`:                                                                            "0",
		`</feeds/things?after=0&history=` + somewhere + `>; rel="current"`:                                                         "0",
		`</feeds/things?after=0&history=somewhere>; rel="start"`:                                                                   "0",
		`</feeds/things?after=0&history=` + somewhere + `>; rel="starting"`:                                                        "0",
		"": "0",
	} {
		_, err := asked(t, "", func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Link", link)
			w.WriteHeader(http.StatusGone)
		})
		var status *StatusError
		if !errors.As(err, &status) || status.History.String() != want {
			t.Errorf("%s: %+v", link, status)
		}
	}
}

func TestClientStops(t *testing.T) {
	t.Parallel()
	inBody := make(chan struct{})
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", feed.TypeJSONFeed)
		_, _ = w.Write([]byte(emptyPage[:20]))
		_ = http.NewResponseController(w).Flush()
		close(inBody)
		<-r.Context().Done() // the client went away
	}))
	defer server.Close()
	client := New("")
	defer client.Close()
	ctx, cancel := context.WithCancel(t.Context())
	go func() {
		<-inBody
		cancel()
	}()
	_, err := client.Get(ctx, Request{URL: strings.Replace(server.URL, "//", "//reader:secret@", 1), Limit: 10})
	if !errors.Is(err, context.Canceled) || strings.Contains(err.Error(), "secret") {
		t.Errorf("%v", err)
	}
}

// Whatever stands in the header of an answer, the page in it counts.
func TestClientOddHeaders(t *testing.T) {
	t.Parallel()
	long := strings.Repeat("x", 70_000)
	for name, x := range map[string]struct {
		header []string
		etag   string
	}{
		"an ETag":                            {[]string{"ETag", `W/"1-gzip!~"`}, `W/"1-gzip!~"`},
		"an ETag with a byte above 0x7f":     {[]string{"ETag", "\"v\xff1\""}, ""},
		"an ETag of UTF-8":                   {[]string{"ETag", `"ä"`}, ""},
		"an ETag of 70 kB":                   {[]string{"ETag", `"` + long + `"`}, ""},
		"an ETag with a space":               {[]string{"ETag", `"a b"`}, ""},
		"an ETag with a tab":                 {[]string{"ETag", "\"a\tb\""}, ""},
		"an ETag that matches all":           {[]string{"ETag", "*"}, ""},
		"a weak one":                         {[]string{"ETag", "W/*"}, ""},
		"a list of ETags":                    {[]string{"ETag", `"a","b"`}, ""},
		"a list that matches all":            {[]string{"ETag", `"a",*`}, ""},
		"an ETag without quotes":             {[]string{"ETag", "a"}, ""},
		"half an ETag":                       {[]string{"ETag", `"a`}, ""},
		"an empty ETag":                      {[]string{"ETag", `""`}, `""`},
		"a Link of 70 kB":                    {[]string{"Link", "<" + long + `>; rel="start"`}, ""},
		"an Age that is none":                {[]string{"Age", "-5"}, ""},
		"an Age of ages":                     {[]string{"Age", "99999999999999999999"}, ""},
		"a Date that is none":                {[]string{"Date", "yesterday"}, ""},
		"a Retry-After":                      {[]string{"Retry-After", "Fri, 31 Dec 9999 23:59:59 GMT"}, ""},
		"a preference that it does not know": {[]string{"Preference-Applied", "\xff"}, ""},
		"a type with a parameter twice":      {[]string{"Content-Type", "Application/Feed+JSON ; charset=utf-8; charset=latin1"}, ""},
	} {
		answer, err := asked(t, "", page(x.header...))
		if err != nil || answer.ETag != x.etag || answer.Page == nil {
			t.Errorf("%s: %+v, %v", name, answer, err)
		}
	}
}

// What a source says of its own address is a link on pages: it is a web address, or nothing.
func TestClientSelf(t *testing.T) {
	t.Parallel()
	for link, want := range map[string]string{
		`<https://cars.example/feeds/orders?after=0&limit=100>; rel="self"; type="application/feed+json", <https://x.example>; rel="next"`: "https://cars.example/feeds/orders",
		`<https://x.example/>; rel="next", <http://localhost:8080/feeds/orders#a>; rel=self`:                                               "http://localhost:8080/feeds/orders",
		`</feeds/orders>; rel="self"`:               "",
		`<javascript:alert(1)>; rel="self"`:         "",
		`<https://user:secret@x.example>; rel=self`: "",
		`<https://x.example/>; rel="selfish"`:       "",
		`<https:///orders>; rel="self"`:             "",
		``:                                          "",
	} {
		if answer, err := asked(t, "", page("Link", link)); err != nil || answer.Self != want {
			t.Errorf("%s: %+v, %v", link, answer, err)
		}
	}
}

func TestClientETags(t *testing.T) {
	t.Parallel()
	for name, x := range map[string]struct {
		etag string
		fail func(w http.ResponseWriter)
		sent []string
		says string // the error; "" means none
	}{
		"one that the source does not stand": {`"x"`, func(w http.ResponseWriter) { w.WriteHeader(http.StatusRequestHeaderFieldsTooLarge) }, []string{`"x"`, ""}, ""},
		"one at which the source fails":      {`"x"`, func(w http.ResponseWriter) { w.WriteHeader(http.StatusInternalServerError) }, []string{`"x"`, ""}, ""},
		"a source that wants to be left alone": {`"x"`, func(w http.ResponseWriter) {
			w.Header().Set("Retry-After", "5")
			w.WriteHeader(http.StatusServiceUnavailable)
		}, []string{`"x"`}, "503"},
		"another history":               {`"x"`, func(w http.ResponseWriter) { w.WriteHeader(http.StatusGone) }, []string{`"x"`}, "another history"},
		"one that was stored before":    {"\"v\xff\"", nil, []string{""}, ""},
		"a stored one that matches all": {"*", nil, []string{""}, ""},
	} {
		var sent []string
		_, err := asked(t, x.etag, func(w http.ResponseWriter, r *http.Request) {
			if sent = append(sent, r.Header.Get("If-None-Match")); r.Header.Get("If-None-Match") != "" {
				x.fail(w)
				return
			}
			page()(w, r)
		})
		if !slices.Equal(sent, x.sent) || (err == nil) != (x.says == "") || err != nil && !strings.Contains(err.Error(), x.says) {
			t.Errorf("%s: it sent %q: %v", name, sent, err)
		}
	}
}

func TestClientSnapshot(t *testing.T) {
	t.Parallel()
	head, err := feed.ParseCursor("7-070000000000")
	if err != nil {
		t.Fatal(err)
	}
	from := uuid.MustParse("018f4e7c-5d1b-7c3a-9f00-2b6d1c8e4a12")
	const last = `{"version":"https://jsonfeed.org/version/1.1","_datafeed":{"snapshot":"7-070000000000","next":"http://elsewhere.example/?after=7-070000000000"},"items":[]}`
	answers := map[string]func(w http.ResponseWriter){
		"a page":                    func(w http.ResponseWriter) { _, _ = w.Write([]byte(last)) },
		"a replay page":             func(w http.ResponseWriter) { _, _ = w.Write([]byte(emptyPage)) },
		"400":                       func(w http.ResponseWriter) { w.WriteHeader(http.StatusBadRequest) },
		"404":                       func(w http.ResponseWriter) { w.WriteHeader(http.StatusNotFound) },
		"500":                       func(w http.ResponseWriter) { w.WriteHeader(http.StatusInternalServerError) },
		"something that is no page": func(w http.ResponseWriter) { _, _ = w.Write([]byte("{}")) },
	}
	for name, answer := range answers {
		var query string
		server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			query = r.URL.RawQuery
			w.Header().Set("Content-Type", feed.TypeJSONFeed)
			answer(w)
		}))
		client := New("")
		got, err := client.Get(t.Context(), Request{URL: server.URL, Limit: 10, History: head, Snapshot: &feed.SnapshotPlace{}})
		if query != "snapshot=0&limit=10&history=7-070000000000" {
			t.Errorf("asked for %s", query)
		}
		if is := name == "a page"; (err == nil) != is || is && (got.Page.Cursor != head || got.Page.More != nil) {
			t.Errorf("%s: %+v, %v", name, got, err)
		}
		if none := name == "400" || name == "404" || name == "a replay page"; errors.Is(err, feed.ErrNoSnapshot) != none {
			t.Errorf("%s: %v", name, err)
		}
		_, _ = client.Get(t.Context(), Request{URL: server.URL, Limit: 10, Snapshot: &feed.SnapshotPlace{Head: head, From: from}})
		if query != "snapshot=7-070000000000&from="+from.String()+"&limit=10" {
			t.Errorf("asked for %s", query)
		}
		client.Close()
		atom := NewOf("", Format{Type: feed.TypeAtom})
		if _, err := atom.Get(t.Context(), Request{URL: server.URL, Snapshot: &feed.SnapshotPlace{}}); !errors.Is(err, feed.ErrNoSnapshot) {
			t.Errorf("a format without: %v", err)
		}
		server.Close()
	}
}
