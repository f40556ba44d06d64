package access

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/url"
	"regexp"
	"strings"
	"sync"
	"testing"
	"testing/fstest"

	"github.com/gin-gonic/gin"

	"github.com/edison-cars/data-feeds/shared/postgres/pgtest"
	"github.com/edison-cars/data-feeds/shared/web"
	"github.com/edison-cars/data-feeds/shared/webserver"
	"github.com/edison-cars/data-feeds/sql"
)

func TestMain(m *testing.M) { pgtest.Main(m) }

// A logBuffer keeps what is logged.
type logBuffer struct {
	mu   sync.Mutex
	text bytes.Buffer
}

func (b *logBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.text.Write(p)
}

func (b *logBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.text.String()
}

// A site is a server with routes of each rule.
type site struct {
	*Access
	url    string
	logged *logBuffer
	tokens map[string]string // by what they are called in list
}

// list is what settings of the tests list, NAME:ROLE: the tokens are made by open.
var list = []string{"ada:operator", "warehouse:reader", "scarce:reader=orders+builds", "ada:reader"}

func settings(t *testing.T, tokens ...string) (Settings, map[string]string) {
	t.Helper()
	made, lines := map[string]string{}, []string(nil)
	for _, of := range tokens {
		token, hash := NewToken()
		made[of] = token
		lines = append(lines, of+":"+hash)
	}
	var s Settings
	if len(lines) > 0 {
		if err := s.Tokens.UnmarshalText([]byte(strings.Join(lines, ","))); err != nil {
			t.Fatal(err)
		}
	}
	return s, made
}

func newSite(t *testing.T, mode Mode, o Options, trusted ...string) *site {
	t.Helper()
	s, made := settings(t, list...)
	s.Access = mode
	return start(t, s, o, made, trusted...)
}

func start(t *testing.T, s Settings, o Options, made map[string]string, trusted ...string) *site {
	t.Helper()
	logged := new(logBuffer)
	o.Logger = slog.New(slog.NewTextHandler(logged, nil))
	if o.Service == "" {
		o.Service, o.Title = "warehouse", "Warehouse"
	}
	a, err := New(s, o)
	if err != nil {
		t.Fatal(err)
	}
	server := httptest.NewServer(engine(t, a, trusted...))
	t.Cleanup(server.Close)
	return &site{Access: a, url: server.URL, logged: logged, tokens: made}
}

func engine(t *testing.T, a *Access, trusted ...string) *gin.Engine {
	t.Helper()
	e := webserver.New(a.Logger, webserver.AccessLog(a.Logger))
	if err := webserver.Proxies(trusted).Trust(e); err != nil {
		t.Fatal(err)
	}
	e.Use(a.Identify())
	say := func(c *gin.Context) {
		id := Of(c)
		c.String(http.StatusOK, "<%s %s>", id.Name, [...]string{"nobody", "reader", "operator"}[id.Role])
	}
	page := web.Template(fstest.MapFS{"page.html": {Data: []byte(`{{define "main"}}people{{end}}`)}}, "page.html")
	for _, path := range []string{"/livez", "/readyz", "/open"} {
		webserver.GET(e, path, say)
	}
	readers, operators := e.Group("", a.Reader()), e.Group("", a.Operator())
	webserver.GET(readers, "/feeds", say)
	webserver.GET(readers, "/feeds/:feed", say)
	webserver.GET(readers, "/feeds/:feed/:id", say)
	webserver.GET(readers, "/feeds/:feed/views/:view", say)
	webserver.GET(readers, "/feeds/:feed/views/:view/:id", say)
	seal := func(c *gin.Context) { c.Header("Cache-Control", "private, max-age=31536000, immutable") }
	webserver.GET(readers, "/feeds/:feed/sealed", seal, say)
	webserver.GET(readers, "/feeds/:feed/unchanged", seal, func(c *gin.Context) { web.NotModified(c.Writer) })
	webserver.GET(operators, "/sealed", seal, say)
	webserver.GET(readers, "/metrics", say)
	webserver.GET(operators, "/people", say)
	operators.POST("/people", webserver.Handle(func(c *gin.Context) error {
		_ = c.Request.ParseForm()
		c.String(http.StatusOK, "<%s>", c.Request.PostForm.Encode())
		return nil
	}))
	operators.PUT("/people", say)
	webserver.GET(operators, "/page", func(c *gin.Context) {
		webserver.Render(c, http.StatusOK, page, web.Page{Service: "Warehouse", Title: "People"})
	})
	a.Route(e)
	return e
}

// A reply is an answer that is read to its end.
type reply struct {
	status int
	header http.Header
	body   string
}

// ask sends a request; header holds pairs, of which Host is the field. Redirects are not followed.
func (s *site) ask(t *testing.T, method, target, body string, header ...string) reply {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), method, s.url+target, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	if body != "" {
		req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	}
	for i := 0; i < len(header); i += 2 {
		if header[i] == "Host" {
			req.Host = header[i+1]
		} else {
			req.Header.Set(header[i], header[i+1])
		}
	}
	transport := http.DefaultTransport.(*http.Transport).Clone()
	defer transport.CloseIdleConnections()
	resp, err := transport.RoundTrip(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return reply{resp.StatusCode, resp.Header, string(text)}
}

func (s *site) as(of string) []string { return []string{"Authorization", "Bearer " + s.tokens[of]} }

const browser = "text/html,application/xhtml+xml,*/*;q=0.8"

// logIn returns the pair of header fields of a session.
func (s *site) logIn(t *testing.T, header ...string) []string {
	t.Helper()
	r := s.ask(t, "POST", "/login", url.Values{"token": {s.tokens["ada:operator"]}}.Encode(), header...)
	if r.status != http.StatusSeeOther || r.header.Get("Location") != "/" {
		t.Fatal(r)
	}
	value, _, _ := strings.Cut(r.header.Get("Set-Cookie"), ";")
	return []string{"Cookie", value, "Accept", browser}
}

func (r reply) wantProblem(t *testing.T, status int, words ...string) {
	t.Helper()
	var p web.Problem
	if err := json.Unmarshal([]byte(r.body), &p); err != nil || r.status != status || p.Status != status ||
		r.header.Get("Content-Type") != "application/problem+json" {
		t.Errorf("%d %v %s, want %d", r.status, r.header, r.body, status)
	}
	r.wantWords(t, words...)
}

func (r reply) wantWords(t *testing.T, words ...string) {
	t.Helper()
	for _, w := range words {
		if !strings.Contains(r.body, w) {
			t.Errorf("%d without %q: %s", r.status, w, r.body)
		}
	}
	if strings.Contains(strings.ReplaceAll(r.body, "<code>datafeed_</code>", ""), tokenPrefix) || r.status >= 400 && hashes.MatchString(r.body) {
		t.Error("it shows a token or a hash:", r.body)
	}
}

var hashes = regexp.MustCompile(`[0-9a-f]{64}`)

func basic(user, password string) string {
	return "Basic " + base64.StdEncoding.EncodeToString([]byte(user+":"+password))
}

// stores are both places where sessions may be.
func stores(t *testing.T, test func(*testing.T, Options)) {
	t.Run("in memory", func(t *testing.T) {
		t.Parallel()
		test(t, Options{})
	})
	t.Run("in PostgreSQL", func(t *testing.T) {
		t.Parallel()
		test(t, Options{Pool: pgtest.New(t, sql.Migrations("access"))})
	})
}
