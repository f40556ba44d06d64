package access

import (
	"bufio"
	"context"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/gin-gonic/gin"

	"github.com/edison-cars/data-feeds/shared/postgres/pgtest"
	"github.com/edison-cars/data-feeds/shared/web"
	"github.com/edison-cars/data-feeds/shared/webserver"
	"github.com/edison-cars/data-feeds/sql"
)

const soon = 5 * time.Second // in which a change of the file counts

// A watched file is one of tokens that a running Access reads.
type watched struct {
	*Access
	path   string
	logged *logBuffer
}

// watch starts an Access with the lines in its file.
func watch(t *testing.T, lines ...string) *watched {
	t.Helper()
	return watchWith(t, Options{}, lines...)
}

func watchWith(t *testing.T, o Options, lines ...string) *watched {
	t.Helper()
	w := &watched{path: filepath.Join(t.TempDir(), "tokens"), logged: new(logBuffer)}
	w.write(t, strings.Join(lines, "\n")+"\n")
	o.Service, o.Title, o.Logger = "warehouse", "Warehouse", slog.New(slog.NewTextHandler(w.logged, nil))
	var err error
	w.Access, err = New(Settings{TokensFile: w.path}, o)
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(t.Context())
	var run sync.WaitGroup
	run.Go(func() { w.Run(ctx) })
	t.Cleanup(func() {
		stop()
		run.Wait()
	})
	return w
}

func (w *watched) write(t *testing.T, text string) {
	t.Helper()
	if err := os.WriteFile(w.path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}

func (w *watched) knows(token string) bool { return w.tokens.Load().find(token) != nil }

func TestTokensFileIsReadAgain(t *testing.T) {
	t.Parallel()
	ada, adaHash := NewToken()
	bob, bobHash := NewToken()
	first, second := "ada:operator:"+adaHash, "bob:reader:"+bobHash
	both := first + "\n" + second + "\n"
	for name, x := range map[string]struct {
		change   func(*testing.T, *watched)
		ada, bob bool
		warns    bool
	}{
		"a token more": {func(t *testing.T, w *watched) { w.write(t, both) }, true, true, false},
		"another one":  {func(t *testing.T, w *watched) { w.write(t, second+"\n") }, false, true, false},
		"another one of the same length and time": {func(t *testing.T, w *watched) {
			info, err := os.Stat(w.path)
			if err != nil {
				t.Fatal(err)
			}
			w.write(t, "ada:operator:"+bobHash+"\n")
			if err := os.Chtimes(w.path, info.ModTime(), info.ModTime()); err != nil {
				t.Fatal(err)
			}
		}, false, true, false},
		"an atomic replacement": {func(t *testing.T, w *watched) {
			path := w.path
			w.path += ".new"
			w.write(t, both)
			if err := os.Rename(w.path, path); err != nil {
				t.Fatal(err)
			}
		}, true, true, false},
		"a link that leads elsewhere, as Kubernetes changes a secret": {func(t *testing.T, w *watched) {
			path := w.path
			w.path += ".new"
			w.write(t, both)
			if err := os.Symlink(w.path, path+".link"); err != nil {
				t.Fatal(err)
			}
			if err := os.Rename(path+".link", path); err != nil {
				t.Fatal(err)
			}
		}, true, true, false},
		"written in place, with pauses": {func(t *testing.T, w *watched) {
			time.Sleep(lookAgain/2 - settles/2) // it is read in each pause
			for _, part := range []string{"", "# the\n", "# the readers\n"} {
				w.write(t, part+second+"\n")
				time.Sleep(settles * 3 / 4)
				if !w.knows(ada) {
					t.Error("a part of the file counts")
				}
			}
			w.write(t, both)
		}, true, true, false},
		"comments alone more": {func(t *testing.T, w *watched) { w.write(t, "# the operators\n"+first+"\n") }, true, false, false},
		"gone": {func(t *testing.T, w *watched) {
			if err := os.Remove(w.path); err != nil {
				t.Fatal(err)
			}
		}, true, false, true},
		"a folder": {func(t *testing.T, w *watched) {
			if err := os.Remove(w.path); err != nil {
				t.Fatal(err)
			}
			if err := os.Mkdir(w.path, 0o700); err != nil {
				t.Fatal(err)
			}
		}, true, false, true},
		"empty":                {func(t *testing.T, w *watched) { w.write(t, "") }, true, false, true},
		"comments alone":       {func(t *testing.T, w *watched) { w.write(t, "# nobody\n") }, true, false, true},
		"a bad line":           {func(t *testing.T, w *watched) { w.write(t, second+"\nada:operator\n") }, true, false, true},
		"half-written":         {func(t *testing.T, w *watched) { w.write(t, second) }, true, false, true},
		"half of a line":       {func(t *testing.T, w *watched) { w.write(t, second+"\n"+first[:40]) }, true, false, true},
		"a hash twice":         {func(t *testing.T, w *watched) { w.write(t, both+second+"\n") }, true, false, true},
		"another kind of file": {func(t *testing.T, w *watched) { w.write(t, "\x00\x01\n") }, true, false, true},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				w := watch(t, first)
				time.Sleep(lookAgain * 3 / 2)
				x.change(t, w)
				for range 10 {
					time.Sleep(soon)
				}
				if w.knows(ada) != x.ada || w.knows(bob) != x.bob {
					t.Errorf("ada %t, bob %t", w.knows(ada), w.knows(bob))
				}
				logged := w.logged.String()
				if n := strings.Count(logged, "level=WARN"); n > 1 || (n == 1) != x.warns {
					t.Errorf("%d warnings: %s", n, logged)
				}
				if hashes.MatchString(logged) || strings.Contains(logged, tokenPrefix) {
					t.Error(logged)
				}
			})
		})
	}
	t.Run("within 5 s", func(t *testing.T) {
		t.Parallel()
		for _, at := range []time.Duration{0, lookAgain - 1, lookAgain, lookAgain + settles/2, lookAgain + settles} {
			synctest.Test(t, func(t *testing.T) {
				w := watch(t, first)
				time.Sleep(at)
				w.write(t, second+"\n")
				time.Sleep(soon)
				if w.knows(ada) || !w.knows(bob) {
					t.Error("changed after", at)
				}
			})
		}
	})
	t.Run("warned of again after it was right", func(t *testing.T) {
		t.Parallel()
		synctest.Test(t, func(t *testing.T) {
			w := watch(t, first)
			for _, text := range []string{"", first + "\n", "", "ada\n"} {
				w.write(t, text)
				time.Sleep(soon)
			}
			if n := strings.Count(w.logged.String(), "level=WARN"); n != 3 {
				t.Errorf("%d warnings: %s", n, w.logged)
			}
		})
	})
}

// A session ends with its token, and does not come back with it.
func TestSessionsEnd(t *testing.T) {
	t.Parallel()
	ada, adaHash := NewToken()
	_, bobHash := NewToken()
	first, second := "ada:operator:"+adaHash, "bob:operator:"+bobHash
	for name, x := range map[string]struct {
		lines [][]string // what the file holds, every 5 s
		after time.Duration
		ends  bool
	}{
		"not by itself":                  {nil, sessionTime - time.Second, false},
		"after 12 hours":                 {nil, sessionTime, true},
		"with the token":                 {[][]string{{second}}, 0, true},
		"with the token's role":          {[][]string{{"ada:reader:" + adaHash, second}}, 0, true},
		"also if the token comes back":   {[][]string{{second}, {first}}, 0, true},
		"not with others' tokens":        {[][]string{{first, second}, {first}}, 0, false},
		"not if the file is of no use":   {[][]string{{"ada"}}, 0, false},
		"not if the order changes":       {[][]string{{second, first}}, 0, false},
		"with the token, under its name": {[][]string{{"ada:operator:" + bobHash}}, 0, true},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				w := watch(t, first)
				e := engine(t, w.Access)
				cookie := logIn(t, e, ada)
				if got := send(t, e, "GET", "/people", "", "Cookie", cookie); got.Code != 200 {
					t.Fatal(got)
				}
				for _, lines := range x.lines {
					w.write(t, strings.Join(lines, "\n")+"\n")
					time.Sleep(soon)
				}
				time.Sleep(x.after)
				want := http.StatusOK
				if x.ends {
					want = http.StatusUnauthorized
				}
				if got := send(t, e, "GET", "/people", "", "Cookie", cookie); got.Code != want {
					t.Error(got.Code, got.Body)
				}
				time.Sleep(sessionTime + sweepsAgain)
				memory := w.sessions.(*inMemory)
				memory.mu.Lock()
				defer memory.mu.Unlock()
				if n := len(memory.byHash); n != 0 {
					t.Errorf("%d sessions are kept for good", n)
				}
			})
		})
	}
}

// What waits by a session ends when the session does, and no sooner.
func TestWaitingEndsWithItsSession(t *testing.T) {
	t.Parallel()
	token, hash := NewToken()
	_, other := NewToken()
	for name, x := range map[string]struct {
		end  func(t *testing.T, w *watched, e http.Handler, cookie string)
		ends bool
	}{
		"logout": {func(t *testing.T, _ *watched, e http.Handler, cookie string) {
			send(t, e, "POST", "/logout", "", "Cookie", cookie)
		}, true},
		"logout of another session": {func(t *testing.T, _ *watched, e http.Handler, _ string) {
			send(t, e, "POST", "/logout", "", "Cookie", logIn(t, e, token))
		}, false},
		"12 hours": {func(*testing.T, *watched, http.Handler, string) { time.Sleep(sessionTime) }, true},
		"the token": {func(t *testing.T, w *watched, _ http.Handler, _ string) {
			w.write(t, "bob:operator:"+other+"\n")
		}, true},
		"nothing": {func(*testing.T, *watched, http.Handler, string) { time.Sleep(sessionTime / 2) }, false},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				w := watch(t, "ada:operator:"+hash)
				e := engine(t, w.Access)
				waits := map[string]<-chan struct{}{}
				for path, rule := range map[string]gin.HandlerFunc{"/by/reader": w.Reader(), "/by/operator": w.Operator()} {
					e.GET(path, rule, func(c *gin.Context) { waits[path] = web.Stopping(c.Request.Context()) })
				}
				cookie := logIn(t, e, token)
				send(t, e, "GET", "/by/reader", "", "Cookie", cookie)
				send(t, e, "GET", "/by/operator", "", "Cookie", cookie)
				x.end(t, w, e, cookie)
				time.Sleep(soon)
				if len(waits) != 2 {
					t.Fatal("refused")
				}
				for path, stop := range waits {
					select {
					case <-stop:
						if !x.ends {
							t.Error("ended:", path)
						}
					default:
						if x.ends {
							t.Error("goes on:", path)
						}
					}
				}
			})
		})
	}
}

// A database that does not answer keeps nothing alive by the session of a token that is gone. When it answers again,
// the other sessions that have ended since are found, too.
func TestRevokedSessionsWhileTheDatabaseIsAway(t *testing.T) {
	t.Parallel()
	pgtest.Slow(t, "timeouts")
	pool := pgtest.New(t, sql.Migrations("access"))
	ada, adaHash := NewToken()
	bob, bobHash := NewToken()
	first, second := "ada:operator:"+adaHash, "bob:operator:"+bobHash
	w := watchWith(t, Options{Pool: pool}, first, second)
	e := engine(t, w.Access)
	var stop <-chan struct{}
	e.GET("/stream", w.Operator(), func(c *gin.Context) { stop = web.Stopping(c.Request.Context()) })
	wait := func(token string) (ends <-chan struct{}, cookie string) {
		cookie = logIn(t, e, token)
		if got := send(t, e, "GET", "/stream", "", "Cookie", cookie); got.Code != 200 {
			t.Fatal(got)
		}
		return stop, cookie
	}
	revoked, _ := wait(ada)
	out, cookie := wait(bob)
	goesOn, _ := wait(bob)
	ended := func(what string, ends <-chan struct{}) {
		t.Helper()
		select {
		case <-ends:
		case <-time.After(20 * time.Second):
			t.Fatal("goes on: " + what)
		}
	}
	lock, err := pool.Begin(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = lock.Rollback(context.Background()) }()
	if _, err := lock.Exec(t.Context(), `lock operator_session`); err != nil {
		t.Fatal(err)
	}
	w.write(t, second+"\n")
	ended("of the revoked token", revoked)
	if _, err := lock.Exec(t.Context(), `delete from operator_session where hash = sha256(convert_to($1, 'UTF8'))`, strings.TrimPrefix(cookie, "warehouse_session=")); err != nil {
		t.Fatal(err)
	}
	if err := lock.Commit(t.Context()); err != nil {
		t.Fatal(err)
	}
	ended("of a logout elsewhere", out)
	select {
	case <-goesOn:
		t.Error("ended without a reason")
	default:
	}
}

// send asks an engine without a server.
func send(t *testing.T, e http.Handler, method, path, body string, header ...string) *httptest.ResponseRecorder {
	t.Helper()
	r := httptest.NewRequestWithContext(t.Context(), method, path, strings.NewReader(body))
	r.Host = "localhost"
	r.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	for i := 0; i < len(header); i += 2 {
		r.Header.Set(header[i], header[i+1])
	}
	answer := httptest.NewRecorder()
	e.ServeHTTP(answer, r)
	return answer
}

// logIn returns the cookie of a new session.
func logIn(t *testing.T, e http.Handler, token string) string {
	t.Helper()
	cookie, _, _ := strings.Cut(send(t, e, "POST", "/login", url.Values{"token": {token}}.Encode()).Header().Get("Set-Cookie"), ";")
	return cookie
}

func TestSweepOfTheTable(t *testing.T) {
	t.Parallel()
	pool := pgtest.New(t, sql.Migrations("access"))
	site := newSite(t, Closed, Options{Pool: pool})
	ended, future, going := site.logIn(t), site.logIn(t), site.logIn(t)
	for ends, header := range map[string][]string{"now()": ended, "now() + interval '12 hours 2 minutes'": future} { // by a clock that was wrong
		if _, err := pool.Exec(t.Context(), `update operator_session set ends_at = `+ends+` where hash = sha256(convert_to($1, 'UTF8'))`, strings.TrimPrefix(header[1], "warehouse_session=")); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := pool.Exec(t.Context(), `insert into operator_session values ('\x00', 'billing', '\x01', now() - interval '1 day')`); err != nil {
		t.Fatal(err)
	}
	for _, x := range []struct {
		header []string
		status int
	}{{ended, 303}, {future, 303}, {going, 200}} {
		if r := site.ask(t, "GET", "/people", "", x.header...); r.status != x.status {
			t.Error(r)
		}
	}
	count := func() (mine, others int) {
		if err := pool.QueryRow(t.Context(), `select count(*) filter (where service = 'warehouse'), count(*) filter (where service <> 'warehouse') from operator_session`).Scan(&mine, &others); err != nil {
			t.Fatal(err)
		}
		return mine, others
	}
	if err := site.sweep(t.Context()); err != nil {
		t.Fatal(err)
	}
	if mine, others := count(); mine != 1 || others != 1 {
		t.Error(mine, others)
	}
	known := site.Access.tokens.Load().find(site.tokens["ada:operator"])
	site.revoked = [][]byte{known.hash[:]}
	if err := site.sweep(t.Context()); err != nil {
		t.Fatal(err)
	}
	if mine, others := count(); mine != 0 || others != 1 || len(site.revoked) != 0 {
		t.Error(mine, others)
	}
	ctx, stop := context.WithCancel(t.Context())
	stop()
	site.revoked = [][]byte{known.hash[:]}
	if err := site.sweep(ctx); err == nil || len(site.revoked) != 1 {
		t.Error("what could not be removed is forgotten")
	}
}

// TestRevokedReadersWaitNoLonger is at a server with real connections and real time.
func TestRevokedReadersWaitNoLonger(t *testing.T) {
	t.Parallel()
	revoked, revokedHash := NewToken()
	valid, validHash := NewToken()
	gone, stays := "gone:reader:"+revokedHash, "stays:reader:"+validHash
	for name, change := range map[string]string{
		"the token is gone":     stays + "\n",
		"the token is for less": "gone:reader=builds:" + revokedHash + "\n" + stays + "\n",
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := watch(t, gone, stays)
			e := webserver.New(w.Logger)
			e.Use(w.Identify())
			waiting := make(chan struct{}, 4)
			happened := make(chan struct{})
			readers := e.Group("", w.Reader())
			readers.GET("/feeds/:feed", webserver.HandleLong(func(c *gin.Context) error {
				ctx := c.Request.Context()
				if c.Query("stream") != "" {
					c.Writer.WriteHeaderNow()
					c.Writer.Flush()
				}
				waiting <- struct{}{}
				select {
				case <-happened:
				case <-web.Stopping(ctx):
				case <-ctx.Done():
				}
				c.String(200, "over")
				return nil
			}))
			ctx, stop := context.WithCancel(t.Context())
			ln, err := webserver.Listen(ctx, "127.0.0.1:0")
			if err != nil {
				t.Fatal(err)
			}
			var serve sync.WaitGroup
			serve.Go(func() { _ = webserver.ServeListener(ctx, ln, e, w.Logger) })
			defer serve.Wait()
			defer stop()
			type ended struct {
				name   string
				status int
			}
			over := make(chan ended, 4)
			for name, of := range map[string]struct{ token, query string }{
				"wait, revoked": {revoked, ""}, "stream, revoked": {revoked, "?stream=1"}, "wait": {valid, ""}, "stream": {valid, "?stream=1"},
			} {
				go func() {
					req, _ := http.NewRequestWithContext(ctx, "GET", "http://"+ln.Addr().String()+"/feeds/orders"+of.query, nil)
					req.Header.Set("Authorization", "Bearer "+of.token)
					resp, err := http.DefaultClient.Do(req)
					if err != nil {
						t.Error(err)
						over <- ended{name: name}
						return
					}
					_, _ = io.Copy(io.Discard, bufio.NewReader(resp.Body))
					_ = resp.Body.Close()
					over <- ended{name, resp.StatusCode}
				}()
			}
			for range 4 {
				<-waiting
			}
			w.write(t, change)
			next := func() ended {
				select {
				case e := <-over:
					return e
				case <-time.After(20 * time.Second): // in which no other wait ends
					t.Fatal("it still waits")
				}
				panic("not reached")
			}
			for range 2 {
				e := next()
				if !strings.Contains(e.name, "revoked") || e.status != http.StatusOK {
					t.Error(e)
				}
			}
			close(happened)
			for range 2 {
				if e := next(); strings.Contains(e.name, "revoked") || e.status != 200 {
					t.Error(e)
				}
			}
		})
	}
}
