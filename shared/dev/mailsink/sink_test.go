package mailsink

import (
	"context"
	"errors"
	"fmt"
	"html"
	"io"
	"io/fs"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"net/smtp"
	"net/textproto"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/edison-cars/data-feeds/shared/webserver"
)

const plain = "Message-ID: <%s@test.example>\r\nSubject: =?utf-8?q?Gr=C3=BC=C3=9Fe?=\r\nContent-Type: text/plain; charset=utf-8\r\n\r\nHello,\r\n.dot\r\n"

const alternative = "Message-ID: <%s@test.example>\r\nSubject: Two parts\r\nMIME-Version: 1.0\r\nContent-Type: multipart/alternative; boundary=b\r\n\r\n" +
	"--b\r\nContent-Type: text/plain\r\n\r\nText <b>\r\n--b\r\nContent-Type: text/html\r\nContent-Transfer-Encoding: quoted-printable\r\n\r\n<p onclick=3D\"x()\">HTML</p><script>alert(1)</script>\r\n--b--\r\n"

// serve returns the addresses of a sink: of SMTP, and the URL of its pages.
func serve(t *testing.T, s *Sink) (addr, url string) {
	t.Helper()
	if err := s.Open(); err != nil {
		t.Fatal(err)
	}
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(context.Background())
	ended, logger := make(chan error, 1), slog.New(slog.DiscardHandler)
	go func() { ended <- s.Serve(ctx, ln, logger) }()
	t.Cleanup(func() {
		stop()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	})
	engine := webserver.New(logger)
	s.Route(engine)
	pages := httptest.NewServer(engine)
	t.Cleanup(pages.Close)
	return ln.Addr().String(), pages.URL
}

func send(t *testing.T, addr, id, mail string, to ...string) error {
	t.Helper()
	return smtp.SendMail(addr, nil, "from@test.example", to, []byte(fmt.Sprintf(mail, id)))
}

func get(t *testing.T, url string) (*http.Response, string) {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, url, nil)
	if err != nil {
		t.Fatal(err)
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return resp, string(body)
}

func TestSink(t *testing.T) {
	t.Parallel()
	s := &Sink{Dir: filepath.Join(t.TempDir(), "mails [1]"), Refuse: func(to string) *Refusal {
		if to == "nobody@test.example" {
			return &Refusal{Code: 550, Message: "No mailbox"}
		}
		return nil
	}}
	addr, url := serve(t, s)
	if _, page := get(t, url+"/"); !strings.Contains(page, "No mail has arrived yet") {
		t.Error(page)
	}
	if _, body := get(t, url+"/api/mails"); strings.TrimSpace(body) != "[]" {
		t.Error(body)
	}
	for _, m := range []struct{ id, mail, to string }{{"one", plain, "a@test.example"}, {"two", alternative, "b@test.example"}, {"one", plain, "a@test.example"}} {
		if err := send(t, addr, m.id, m.mail, m.to, "c@test.example"); err != nil {
			t.Fatal(err)
		}
	}
	refused := send(t, addr, "three", plain, "nobody@test.example")
	if reply, ok := errors.AsType[*textproto.Error](refused); !ok || reply.Code != 550 {
		t.Errorf("%v", refused)
	}
	check := func(t *testing.T, s *Sink, url string) {
		t.Helper()
		got := s.Mails()
		if len(got) != 3 {
			t.Fatalf("%d mails", len(got))
		}
		if m := got[0]; m.Number != 1 || m.MessageID != "one@test.example" || m.Subject != "Grüße" || m.From != "from@test.example" ||
			strings.Join(m.To, " ") != "a@test.example c@test.example" || m.Text != "Hello,\r\n.dot\r\n" || m.HTML != "" || m.ReceivedAt.IsZero() {
			t.Errorf("%+v", m)
		}
		if m := got[1]; m.Text != "Text <b>" || m.HTML != `<p onclick="x()">HTML</p><script>alert(1)</script>` {
			t.Errorf("%+v", m)
		}
		_, page := get(t, url+"/")
		for _, part := range []string{`<dt>Mails</dt><dd>3</dd>`, `<dt>Duplicates</dt><dd>1</dd>`, "copy 2 of 2", "copy 1 of 2", "Grüße", "a@test.example, c@test.example"} {
			if !strings.Contains(page, part) {
				t.Errorf("not %q in %s", part, page)
			}
		}
		if _, body := get(t, url+"/api/mails"); !strings.HasPrefix(body, `[{"number":3,"message_id":"one@test.example",`) || !strings.Contains(body, `"copy":2,"copies":2}`) {
			t.Error(body)
		}
	}
	check(t, s, url)
	if _, page := get(t, url+"/mails/2"); !strings.Contains(page, "Text &lt;b&gt;") || !strings.Contains(page, `href="/mails/2/html"`) || strings.Contains(page, "onclick") {
		t.Error(page)
	}
	resp, page := get(t, url+"/mails/2/html")
	if policy := resp.Header.Get("Content-Security-Policy"); policy != "sandbox; default-src 'none'; style-src 'unsafe-inline'; img-src data:" || !strings.Contains(page, "<script>") {
		t.Errorf("%s: %s", policy, page)
	}
	if resp, raw := get(t, url+"/mails/1/raw"); resp.Header.Get("Content-Type") != "text/plain; charset=utf-8" || !strings.HasPrefix(raw, "Return-Path: <from@test.example>\r\nDelivered-To: ") {
		t.Error(raw)
	}
	for _, path := range []string{"/mails/4", "/mails/0", "/mails/x", "/mails/1/html"} {
		if resp, _ := get(t, url+path); resp.StatusCode != http.StatusNotFound {
			t.Errorf("%s: %s", path, resp.Status)
		}
	}
	again := &Sink{Dir: s.Dir}
	addr, url = serve(t, again)
	check(t, again, url)
	if err := send(t, addr, "four", plain, "a@test.example"); err != nil || again.Mails()[3].Number != 4 {
		t.Errorf("%v; %+v", err, again.Mails()[3])
	}
}

// A mail may hold a link that signs in.
func TestMailsAreReadByTheirUserAlone(t *testing.T) {
	t.Parallel()
	s := &Sink{Dir: filepath.Join(t.TempDir(), "mails")}
	if err := errors.Join(s.Open(), s.keep(&Mail{Raw: []byte("Subject: Sign in\r\n\r\n")})); err != nil {
		t.Fatal(err)
	}
	for path, want := range map[string]fs.FileMode{s.Dir: fs.ModeDir | 0o700, s.file(1): 0o600} {
		if info, err := os.Stat(path); err != nil || info.Mode() != want {
			t.Errorf("%s: %v, %v", path, info.Mode(), err)
		}
	}
}

// A mail whose end does not come is none, nor is one that is too long.
// A sink that cannot store a mail is not ready, until it can again.
func TestReady(t *testing.T) {
	t.Parallel()
	s := &Sink{Dir: filepath.Join(t.TempDir(), "mails")}
	for _, step := range []struct {
		name string
		do   func() error
		want bool
	}{
		{"opened", s.Open, true},
		{"gone", func() error { return os.RemoveAll(s.Dir) }, false},
		{"back", func() error { return os.Mkdir(s.Dir, 0o700) }, true},
	} {
		if err := step.do(); err != nil {
			t.Fatal(err)
		}
		if err := s.Ready(t.Context()); (err == nil) != step.want {
			t.Errorf("%s: %v", step.name, err)
		}
	}
	if files, err := os.ReadDir(s.Dir); err != nil || len(files) > 0 {
		t.Errorf("it leaves %v, %v", files, err)
	}
	if err := new(Sink).Ready(t.Context()); err != nil {
		t.Errorf("in memory: %v", err)
	}
}

func TestTornMail(t *testing.T) {
	t.Parallel()
	s := new(Sink)
	addr, _ := serve(t, s)
	c, err := smtp.Dial(addr)
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(c.Mail("from@test.example"), c.Rcpt("a@test.example")); err != nil {
		t.Fatal(err)
	}
	w, err := c.Data()
	if err != nil {
		t.Fatal(err)
	}
	if _, err := io.WriteString(w, fmt.Sprintf(plain, "torn")); err != nil {
		t.Fatal(err)
	}
	if err := c.Text.W.Flush(); err != nil {
		t.Fatal(err)
	}
	c.Close()
	if err := send(t, addr, "long", plain+strings.Repeat(strings.Repeat("x", 70)+"\r\n", maxMail/70), "a@test.example"); err == nil {
		t.Error("the long mail was taken")
	}
	if err := send(t, addr, "next", plain, "a@test.example"); err != nil {
		t.Fatal(err)
	}
	if got := s.Mails(); len(got) != 1 || got[0].MessageID != "next@test.example" {
		t.Errorf("%d mails", len(got))
	}
}

// A mail that violates the standards is shown as it came.
func TestStrangeMail(t *testing.T) {
	t.Parallel()
	s := new(Sink)
	addr, url := serve(t, s)
	for i, raw := range []string{"", "no header at all", "Subject: half\r\nContent-Type: multipart/mixed; boundary=b\r\n\r\n--b\r\n", "Content-Type: text/plain; charset=klingon\r\n\r\nqo'\r\n", "\xff\xfe: x\r\n\r\n\xff"} {
		if err := smtp.SendMail(addr, nil, "from@test.example", []string{"a@test.example"}, []byte(raw)); err != nil {
			t.Fatalf("%q: %v", raw, err)
		}
		for _, path := range []string{"/", fmt.Sprintf("/mails/%d", i+1), fmt.Sprintf("/mails/%d/raw", i+1)} {
			if resp, page := get(t, url+path); resp.StatusCode != http.StatusOK {
				t.Errorf("%q: %s: %d %s", raw, path, resp.StatusCode, page)
			}
		}
	}
}

func TestBounds(t *testing.T) {
	t.Parallel()
	s := &Sink{Dir: t.TempDir()}
	if err := s.Open(); err != nil {
		t.Fatal(err)
	}
	big := make([]byte, maxMail)
	for n := range maxBytes/maxMail + 3 {
		if err := s.keep(&Mail{Raw: big}); err != nil {
			t.Fatal(n, err)
		}
	}
	got := s.Mails()
	again := &Sink{Dir: s.Dir}
	if err := again.Open(); err != nil || len(got) != maxBytes/maxMail || got[0].Number != 4 || len(again.Mails()) != len(got) {
		t.Errorf("%v; %d mails from %d on; %d", err, len(got), got[0].Number, len(again.Mails()))
	}
}

func TestListOfMails(t *testing.T) {
	t.Parallel()
	s := &Sink{}
	_, site := serve(t, s)
	for n := 1; n <= 250; n++ {
		if err := s.keep(&Mail{MessageID: fmt.Sprint(n, "@test.example"), Subject: fmt.Sprint("Mail ", n), To: []string{fmt.Sprint("to", n%2, "@Test.example")}, Raw: []byte("x")}); err != nil {
			t.Fatal(err)
		}
	}
	subjects := regexp.MustCompile(`>Mail (\d+)<`)
	next := regexp.MustCompile(`<a rel="(next|prev)" href="([^"]*)">`)
	visit := func(path, first, last string) map[string]string {
		t.Helper()
		_, page := get(t, site+path)
		found := subjects.FindAllStringSubmatch(page, -1)
		if len(found) == 0 || found[0][1] != first || found[len(found)-1][1] != last {
			t.Errorf("%s shows %v, not %s to %s", path, found, first, last)
		}
		links := map[string]string{}
		for _, link := range next.FindAllStringSubmatch(page, -1) {
			links[link[1]] = html.UnescapeString(link[2])
		}
		return links
	}
	second := visit("/", "250", "151")["next"]
	links := visit(second, "150", "51")
	visit(links["next"], "50", "1")
	visit(links["prev"], "250", "151")
	visit(visit("/?q=TO1", "249", "51")["next"], "49", "1")
	visit("/?q=17@test", "217", "17")
	if _, page := get(t, site+"/?q=nobody"); !strings.Contains(page, "Nothing matches") {
		t.Error(page)
	}
	if _, body := get(t, site+"/api/mails?q=to1"); strings.Count(body, `"number"`) != 125 {
		t.Error(body)
	}
}
