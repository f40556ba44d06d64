package subscribe

import (
	"bytes"
	"compress/gzip"
	"context"
	"errors"
	"fmt"
	"io"
	"log"
	"log/slog"
	"maps"
	"net"
	"net/http"
	"net/http/httptest"
	"regexp"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"
	"pgregory.net/rapid"

	"github.com/edison-cars/data-feeds/shared/feed"
	"github.com/edison-cars/data-feeds/shared/feedclient"
	"github.com/edison-cars/data-feeds/shared/postgres/pgtest"
)

type tamper = func(w http.ResponseWriter, r *http.Request, honest http.Handler)

// resetAfter sends the first bytes of the honest answer, header included, and resets the connection.
func resetAfter(n int) tamper {
	return func(w http.ResponseWriter, r *http.Request, honest http.Handler) {
		answer := httptest.NewRecorder()
		honest.ServeHTTP(answer, r)
		var raw bytes.Buffer
		if err := answer.Result().Write(&raw); err != nil {
			panic(err)
		}
		conn, _, err := http.NewResponseController(w).Hijack()
		if err != nil {
			panic(err)
		}
		_, _ = conn.Write(raw.Bytes()[:min(n, raw.Len()-1)])
		_ = conn.(*net.TCPConn).SetLinger(0)
		_ = conn.Close()
	}
}

// edited changes the honest answer's body.
func edited(edit func(body string) string) tamper {
	return func(w http.ResponseWriter, r *http.Request, honest http.Handler) {
		answer := httptest.NewRecorder()
		honest.ServeHTTP(answer, r)
		maps.Copy(w.Header(), answer.Header())
		w.Header().Del("Content-Length")
		w.WriteHeader(answer.Code)
		_, _ = io.WriteString(w, edit(answer.Body.String()))
	}
}

// garbled answers with what is not HTTP.
func garbled(w http.ResponseWriter, _ *http.Request, _ http.Handler) {
	conn, _, err := http.NewResponseController(w).Hijack()
	if err != nil {
		panic(err)
	}
	_, _ = io.WriteString(conn, "SSH-2.0-OpenSSH\r\n\r\n")
	_ = conn.Close()
}

func replaced(pattern, by string) tamper {
	return edited(func(body string) string { return regexp.MustCompile(pattern).ReplaceAllString(body, by) })
}

// answered returns the same answer to everything; header in pairs.
func answered(status int, body string, header ...string) tamper {
	return func(w http.ResponseWriter, _ *http.Request, _ http.Handler) {
		for i := 0; i < len(header); i += 2 {
			w.Header().Set(header[i], header[i+1])
		}
		w.WriteHeader(status)
		_, _ = io.WriteString(w, body)
	}
}

// Whatever a source answers that is not the page: nothing moves, the error says what it was, and the next poll of an
// honest source makes good for it.
func TestSourceFaults(t *testing.T) {
	t.Parallel()
	pgtest.Slow(t, "many databases")
	s := newSource(t)
	s.put(t, 1, 25)
	pool := newCopier(t, s).pool
	for name, fault := range map[string]struct {
		tamper
		says  string
		after time.Duration // the least time to the next poll
	}{
		"a connection that is closed at once":   {tamper: resetAfter(0), says: "connection reset"},
		"a connection reset in the header":      {tamper: resetAfter(100), says: "ask http://"},
		"a connection reset in mid-body":        {tamper: resetAfter(1500), says: "connection reset"},
		"half a page that looks whole":          {tamper: edited(func(s string) string { return s[:len(s)/2] }), says: "not a page of this feed: jsontext: unexpected EOF"},
		"no body":                               {tamper: edited(func(string) string { return "" }), says: "not a page of this feed"},
		"a page for people":                     {tamper: answered(200, "<p>Maintenance", "Content-Type", "text/html"), says: `expected application/feed+json, got "text/html"`},
		"a page without a type":                 {tamper: answered(200, "", "Content-Type", ""), says: `expected application/feed+json, got ""`},
		"somebody else's feed":                  {tamper: answered(200, `{"version":"https://jsonfeed.org/version/1.1","title":"News","items":[]}`, "Content-Type", feed.TypeJSONFeed), says: "with the extension _datafeed"},
		"an array":                              {tamper: answered(200, `[]`, "Content-Type", feed.TypeJSONFeed), says: "not a page of this feed"},
		"a gap in the positions":                {tamper: replaced(`"position":3,`, `"position":4,`), says: "expected position 3, got 4"},
		"a position twice":                      {tamper: replaced(`"position":5,`, `"position":4,`), says: "expected position 5, got 4"},
		"an entry that is left out at the end":  {tamper: replaced(`"cursor":"10-`, `"cursor":"11-`), says: "it ends at cursor 11-"},
		"entries without a version":             {tamper: replaced(`"version":1,`, ``), says: "the first: its version is no whole number from 1 on"},
		"entries without an entity":             {tamper: replaced(`"entity":`, `"other":`), says: "the first: its entity is no object"},
		"a page of another place":               {tamper: elsewhere, says: "expected position 1, got 11"},
		"an empty page in the middle":           {tamper: answered(200, `{"version":"https://jsonfeed.org/version/1.1","_datafeed":{"cursor":"0","up_to_date":false,"head":"25-000000000000"},"items":[]}`, "Content-Type", feed.TypeJSONFeed), says: "it is empty and does not end the feed"},
		"a page that does not say where it is":  {tamper: answered(200, `{"version":"https://jsonfeed.org/version/1.1","_datafeed":{"cursor":"0"},"items":[]}`, "Content-Type", feed.TypeJSONFeed), says: "does not say where the feed ends"},
		"more than fits":                        {tamper: tooLong, says: "longer than 64 MiB"},
		"304 to a request without an ETag":      {tamper: answered(304, ""), says: "the source answered 304"},
		"nothing":                               {tamper: answered(204, ""), says: "the source answered 204"},
		"404":                                   {tamper: answered(404, "", "Content-Type", "text/plain"), says: "the source answered 404 Not Found"},
		"500 with a problem":                    {tamper: answered(500, `{"detail":"The disk is full."}`, "Content-Type", "application/problem+json; charset=utf-8"), says: "the source answered 500 Internal Server Error: The disk is full."},
		"503 with seconds to wait":              {tamper: answered(503, "", "Retry-After", "77"), says: "503", after: 77 * time.Second},
		"503 with a date to wait for":           {tamper: tenMinutes, says: "503", after: 10*time.Minute - 2*time.Second},
		"429":                                   {tamper: answered(429, "", "Retry-After", "120"), says: "429 Too Many Requests", after: 2 * time.Minute},
		"503 that wants a reader away for ever": {tamper: answered(503, "", "Retry-After", "99999999999999999999"), says: "503", after: time.Hour},
		"a redirect to another origin":          {tamper: answered(302, "", "Location", "http://127.0.0.1:1/feeds/things"), says: "it redirects to another origin, 127.0.0.1:1"},
		"a redirect in a circle":                {tamper: answered(307, "", "Location", "/feeds/things"), says: "it redirects more than 5 times"},
	} {
		t.Run(name, func(t *testing.T) {
			exec(t, pool, `truncate thing, subscription cascade`)
			c := s.copier(t, pool, 10)
			defer c.fetcher.client.Close()
			started := c.stored(t)
			s.setTamper(fault.tamper)
			err := c.poll(t.Context())
			if err == nil || !strings.Contains(err.Error(), fault.says) {
				t.Fatalf("the error is %q, not %q", err, fault.says)
			}
			if at := c.stored(t); at != started || len(c.things(t)) > 0 || c.applied != nil {
				t.Errorf("it moved to %+v, with %d things", at, len(c.things(t)))
			}
			now := time.Now()
			next := c.state.after(err, now)
			if most := fault.after + time.Minute; next.Before(now.Add(max(fault.after, 500*time.Millisecond))) || next.After(now.Add(most)) {
				t.Errorf("the next poll is in %v, not in %v to %v", next.Sub(now), fault.after, most)
			}
			shown := c.status(now)
			if shown.State != Stale || shown.LastError == nil || *shown.LastError != err.Error() || !shown.NextPolls[0].Equal(next.Round(time.Millisecond)) {
				t.Errorf("it shows %+v", shown)
			}
			s.setTamper(nil)
			c.mustPoll(t)
			c.state.after(nil, time.Now())
			c.wantUpToDate(t, s)
			if shown := c.status(time.Now()); shown.State != Fresh || shown.LastError != nil {
				t.Errorf("then it shows %+v", shown)
			}
		})
	}
}

// An ETag that cannot be stored or sent back, and what else a header may say, stops nothing.
func TestOddHeaders(t *testing.T) {
	t.Parallel()
	s := newSource(t)
	s.put(t, 1, 5)
	c := newCopier(t, s)
	for _, header := range [][2]string{
		{"ETag", "\"v\xff1\""}, {"ETag", `"` + strings.Repeat("x", 70_000) + `"`}, {"ETag", `"ä"`}, {"ETag", "*"}, {"ETag", `"a",*`}, {"Age", "99999999999999999999"}, {"Date", "yesterday"},
		{"Link", "<" + strings.Repeat("x", 70_000) + `>; rel="start"`}, {"Retry-After", "Fri, 31 Dec 9999 23:59:59 GMT"},
	} {
		s.setTamper(func(w http.ResponseWriter, r *http.Request, honest http.Handler) {
			if len(r.Header.Get("If-None-Match")) > 1000 {
				w.WriteHeader(http.StatusRequestHeaderFieldsTooLarge)
				return
			}
			answer := httptest.NewRecorder()
			honest.ServeHTTP(answer, r)
			maps.Copy(w.Header(), answer.Header())
			w.Header()[header[0]] = []string{header[1]}
			w.WriteHeader(answer.Code)
			_, _ = w.Write(answer.Body.Bytes())
		})
		for range 2 { // what it has stored comes back
			s.put(t, 3, 6)
			if err := c.poll(t.Context()); err != nil {
				t.Errorf("%.20s: %.200v", header, err)
			}
			c.mustPoll(t)
			c.wantUpToDate(t, s)
		}
	}
	// One that was stored before.
	exec(t, c.pool, `update subscription set etag = repeat('x', 70000)`)
	c.mustPoll(t)
}

func tenMinutes(w http.ResponseWriter, r *http.Request, _ http.Handler) {
	answered(503, "", "Retry-After", time.Now().Add(10*time.Minute).UTC().Format(http.TimeFormat))(w, r, nil)
}

// elsewhere answers with the second page.
func elsewhere(w http.ResponseWriter, r *http.Request, honest http.Handler) {
	first := httptest.NewRecorder()
	honest.ServeHTTP(first, r)
	second := r.Clone(r.Context())
	second.URL.RawQuery = "after=" + regexp.MustCompile(`"cursor":"([^"]*)`).FindStringSubmatch(first.Body.String())[1] + "&limit=10"
	honest.ServeHTTP(w, second)
}

// tooLong answers with a small body that is large when it is decompressed.
func tooLong(w http.ResponseWriter, _ *http.Request, _ http.Handler) {
	w.Header().Set("Content-Type", feed.TypeJSONFeed)
	w.Header().Set("Content-Encoding", "gzip")
	zip, _ := gzip.NewWriterLevel(w, gzip.BestSpeed)
	spaces := bytes.Repeat([]byte{' '}, 1<<20)
	for range feedclient.MaxBody>>20 + 1 {
		_, _ = zip.Write(spaces)
	}
	_ = zip.Close()
}

// A source that cannot even be asked.
func TestSourceOutOfReach(t *testing.T) {
	t.Parallel()
	s := newSource(t)
	s.put(t, 1, 25)
	c := newCopier(t, s)
	here := c.URL
	otherName := httptest.NewTLSServer(s.Config.Handler)
	defer otherName.Close()
	otherName.Config.ErrorLog = log.New(io.Discard, "", 0)
	_, port, err := net.SplitHostPort(otherName.Listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	for name, x := range map[string]struct{ url, says string }{
		"nobody listens":                     {"http://127.0.0.1:1/feeds/things", "connection refused"},
		"a name that there is not":           {"http://source.invalid/feeds/things", "lookup source.invalid"},
		"a certificate for another name":     {"https://localhost:" + port + "/feeds/things", "x509: certificate is valid for example.com, *.example.com, not localhost"},
		"a certificate of an unknown issuer": {otherName.URL + "/feeds/things", "x509: certificate signed by unknown authority"},
		"TLS where there is none":            {strings.Replace(here, "http:", "https:", 1), "server gave HTTP response to HTTPS client"},
	} {
		t.Run(name, func(t *testing.T) {
			c.URL = x.url
			err := c.poll(t.Context())
			if err == nil || !strings.Contains(err.Error(), x.says) {
				t.Errorf("%v, not %q", err, x.says)
			}
			if at := c.stored(t); at.cursor.Position != 0 || len(c.things(t)) > 0 {
				t.Errorf("it moved to %+v", at)
			}
		})
	}
	c.URL = here
	c.mustPoll(t)
	c.wantUpToDate(t, s)
}

func TestRedirectWithinTheOrigin(t *testing.T) {
	t.Parallel()
	s := newSource(t)
	s.put(t, 1, 25)
	c := newCopier(t, s)
	s.setTamper(func(w http.ResponseWriter, r *http.Request, honest http.Handler) {
		if path, ok := strings.CutPrefix(r.URL.Path, "/moved"); ok {
			r.URL.Path = path
			honest.ServeHTTP(w, r)
			return
		}
		http.Redirect(w, r, "/moved"+r.URL.RequestURI(), http.StatusPermanentRedirect)
	})
	c.mustPoll(t)
	c.mustPoll(t)
	c.wantUpToDate(t, s)
	s.exchanges()
	c.mustPoll(t)
	if asked := s.exchanges(); len(asked) != 2 || asked[1].status != http.StatusNotModified {
		t.Errorf("with the ETag: %v", asked)
	}
}

// restored takes the source back to a backup of before, and sells on.
func (s *source) restored(t rapid.TB, position int) {
	t.Helper()
	exec(t, s.pool, `
		with gone as (delete from feed_entry where position > $1)
		update feed set marked_position = 0`, position)
	s.history = s.history[:position]
	var compacted bool
	if err := s.pool.QueryRow(context.Background(), `select to_regclass('backup') is not null`).Scan(&compacted); err != nil {
		t.Fatal(err)
	}
	if compacted {
		exec(t, s.pool, `
			with before as (delete from feed_compaction)
			update feed_entry e set payload = b.payload, salt = b.salt from backup b where b.position = e.position`)
		exec(t, s.pool, `drop table backup`)
	}
	clear(s.versions)
	for _, e := range s.history {
		s.versions[e.ID] = e.Version
	}
}

func TestAnotherHistory(t *testing.T) {
	t.Parallel()
	s := newSource(t)
	s.put(t, 1, 25)
	s.put(t, 3, 3) // version 2, which the backup does not have
	c := newCopier(t, s)
	c.mustPoll(t)
	copied := c.things(t)
	c.forgetPages(t)
	s.restored(t, 20)
	s.put(t, 30, 45)
	walked := 0
	s.setTamper(func(w http.ResponseWriter, r *http.Request, honest http.Handler) {
		if r.URL.Query().Get("after") != "0" && walked == 0 && r.URL.Query().Has("history") {
			walked++
			http.Error(w, "broken off", 500) // in the middle of the walk
			return
		}
		honest.ServeHTTP(w, r)
	})
	err := c.poll(t.Context())
	if err == nil || walked == 0 {
		t.Fatalf("the walk was not broken off: %v", err)
	}
	c.state.after(err, time.Now())
	shown := c.status(time.Now())
	if shown.State != Resyncing || shown.ResyncSince == nil || shown.AsOf == nil || shown.Generation != 1 || !strings.Contains(shown.ResyncReason, "another history") {
		t.Errorf("in the middle it shows %+v", shown)
	}
	if !maps.Equal(c.things(t), copied) {
		t.Error("the old copy does not serve as it was")
	}
	at := c.stored(t)
	if at.resync.cursor.Position == 0 || at.resync.history.IsStart() {
		t.Errorf("the walk is at %s, its history %s", at.resync.cursor, at.resync.history)
	}
	again := s.copier(t, c.pool, 10) // after a restart
	s.exchanges()
	again.mustPoll(t)
	for _, e := range s.exchanges() {
		if strings.HasPrefix(e.query, "after=0&") {
			t.Errorf("it began again: %s", e.query)
		}
	}
	again.wantUpToDate(t, s)
	shown = again.status(time.Now())
	if shown.State != Fresh || shown.Generation != 2 || shown.ResyncedAt == nil || shown.ResyncSince != nil {
		t.Errorf("in the end it shows %+v", shown)
	}
	var left int
	if err := c.pool.QueryRow(t.Context(), `select count(*) from resynced_entity`).Scan(&left); err != nil || left != 0 {
		t.Errorf("%d rows of the walk are left (%v)", left, err)
	}
	s.put(t, 1, 50)
	again.mustPoll(t)
	again.wantUpToDate(t, s)
}

// The history changes again under a walk.
func TestAnotherHistoryTwice(t *testing.T) {
	t.Parallel()
	s := newSource(t)
	s.put(t, 1, 45)
	c := newCopier(t, s)
	c.mustPoll(t)
	c.forgetPages(t)
	s.restored(t, 40)
	s.put(t, 50, 60)
	twice := false
	s.setTamper(func(w http.ResponseWriter, r *http.Request, honest http.Handler) {
		if strings.HasPrefix(r.URL.Query().Get("after"), "30-") && !twice {
			twice = true
			s.restored(t, 10)
			s.put(t, 70, 75)
		}
		honest.ServeHTTP(w, r)
	})
	err := c.poll(t.Context())
	if !errors.Is(err, feedclient.ErrDiverged) {
		t.Fatalf("%v", err)
	}
	c.state.after(err, time.Now())
	if shown := c.status(time.Now()); shown.State != Diverged {
		t.Errorf("it is %s", shown.State)
	}
	c.mustPoll(t)
	c.wantUpToDate(t, s)
}

// The database has the page and the cursor, but its answer to the commit never arrives.
func TestCommitWhoseAnswerIsLost(t *testing.T) {
	t.Parallel()
	s := newSource(t)
	s.put(t, 1, 25)
	honest := newCopier(t, s)
	config := honest.pool.Config()
	var lose atomic.Bool
	config.ConnConfig.DialFunc = func(ctx context.Context, network, addr string) (net.Conn, error) {
		conn, err := new(net.Dialer).DialContext(ctx, network, addr)
		return &lossyConn{conn, &lose}, err
	}
	pool, err := pgxpool.NewWithConfig(t.Context(), config)
	if err != nil {
		t.Fatal(err)
	}
	defer pool.Close()
	c := s.copier(t, pool, 10)
	defer c.fetcher.client.Close()
	c.applier.erasures.looked = time.Now() // the first commit is that of the page
	lose.Store(true)
	if err := c.poll(t.Context()); err == nil {
		t.Fatal("it did not notice")
	}
	eventually(t, "the page is there", func() bool { return honest.stored(t).cursor.Position == 10 })
	c.mustPoll(t)
	c.wantUpToDate(t, s)
	if !slices.Equal(c.applied, []int{10, 10, 5}) {
		t.Errorf("batches of %v", c.applied)
	}
}

// A lossyConn closes after it has sent a commit, once.
type lossyConn struct {
	net.Conn
	lose *atomic.Bool
}

func (c *lossyConn) Write(b []byte) (int, error) {
	n, err := c.Conn.Write(b)
	if bytes.Contains(b, []byte("commit\x00")) && c.lose.CompareAndSwap(true, false) {
		_ = c.Conn.Close()
	}
	return n, err
}

func TestAfter(t *testing.T) {
	t.Parallel()
	c := newCopier(t, newSource(t))
	now := time.Date(2026, 11, 23, 8, 0, 1, 0, time.UTC)
	failure := errors.New("away")
	for n, most := range []time.Duration{1, 2, 4, 5, 5, 5} {
		most *= time.Second
		if wait := c.state.after(failure, now).Sub(now); wait < most/2 || wait > most {
			t.Errorf("after failure %d it waits %v, not %v to %v", n+1, wait, most/2, most)
		}
	}
	if got, want := c.state.after(nil, now), c.state.given.schedule.Next(now); !got.Equal(want) {
		t.Errorf("after a success it polls at %v, not %v", got, want)
	}
	if wait := c.state.after(failure, now).Sub(now); wait > time.Second {
		t.Errorf("the next failure counts as the first, but it waits %v", wait)
	}
	status := fmt.Errorf("asked: %w", &feedclient.StatusError{Status: 503, RetryAfter: 24 * time.Hour})
	if wait := c.state.after(status, now).Sub(now); wait < time.Hour || wait > time.Hour+time.Minute {
		t.Errorf("asked to stay away for a day it stays away for %v", wait)
	}
	shown := c.status(now)
	if first := shown.NextPolls[0]; len(shown.NextPolls) != 5 || !first.Equal(c.state.nextPoll.Round(time.Millisecond)) || !shown.NextPolls[1].Equal(c.state.given.schedule.Next(c.state.nextPoll)) {
		t.Errorf("next polls %v", shown.NextPolls)
	}
}

// A source that has another history at every poll is the same trouble again and again.
func TestResyncThatBeginsAgainIsLoggedOnce(t *testing.T) {
	t.Parallel()
	s := newSource(t)
	c := newCopier(t, s)
	var lines bytes.Buffer
	c.logger = slog.New(slog.NewTextHandler(&lines, nil))
	s.setTamper(answered(410, ``))
	for range 3 {
		if err := c.attempt(); !errors.Is(err, feedclient.ErrDiverged) {
			t.Fatal(err)
		}
	}
	if n := strings.Count(lines.String(), "resync begins"); n != 2 { // the resync begins, and begins again
		t.Errorf("%d warnings: %s", n, &lines)
	}
}

// A source that breaks every connection, each from another port, is the same trouble again and again.
func TestTroubleIsLoggedOnce(t *testing.T) {
	t.Parallel()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = ln.Close() })
	go func() {
		for {
			conn, err := ln.Accept()
			if err != nil {
				return
			}
			_, _ = conn.Read(make([]byte, 1))
			_ = conn.(*net.TCPConn).SetLinger(0) // the rest is answered with a reset
			_ = conn.Close()
		}
	}()
	c := newCopier(t, newSource(t))
	var lines bytes.Buffer
	c.logger = slog.New(slog.NewTextHandler(&lines, nil))
	c.URL = "http://" + ln.Addr().String() + "/feeds/things"
	var texts []string
	for range 3 {
		err := c.attempt()
		if err == nil {
			t.Fatal("it polled")
		}
		texts = append(texts, err.Error())
	}
	if n := strings.Count(lines.String(), "poll failed"); n != 1 || texts[0] == texts[1] {
		t.Errorf("%d warnings of %q", n, texts)
	}
	for _, same := range [][2]string{
		{"read tcp [::1]:51234->[::1]:8080: read: connection reset by peer", "read tcp [::1]:51236->[::1]:8080: read: connection reset by peer"},
		{"lookup sales: read udp 127.0.0.1:4->127.0.0.53:53: i/o timeout", "lookup sales: read udp 127.0.0.1:5->127.0.0.53:53: i/o timeout"},
		{"stream error: stream ID 5; INTERNAL_ERROR", "stream error: stream ID 35; INTERNAL_ERROR"},
	} {
		if constant(errors.New(same[0])) != constant(errors.New(same[1])) {
			t.Errorf("%q are not the same", same)
		}
	}
	for _, other := range [][2]string{
		{"read tcp 127.0.0.1:5->10.0.0.1:80: read: connection reset by peer", "read tcp 127.0.0.1:5->10.0.0.2:80: read: connection reset by peer"},
		{"the source answered 500 Internal Server Error", "the source answered 503 Service Unavailable"},
	} {
		if constant(errors.New(other[0])) == constant(errors.New(other[1])) {
			t.Errorf("%q are the same", other)
		}
	}
}
