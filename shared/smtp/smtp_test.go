package smtp

import (
	"bufio"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/big"
	"net"
	"os"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/wneessen/go-mail"
	"github.com/wneessen/go-mail/smtp"

	"github.com/edison-cars/data-feeds/shared/daemon"
	"github.com/edison-cars/data-feeds/shared/dev/mailsink"
)

const password = "hunter2%2F"

func TestSettings(t *testing.T) {
	t.Parallel()
	for _, c := range []struct{ url, addr, shown, user, password string }{
		{"smtp://mail.example", "mail.example:587", "smtp://mail.example:587", "", ""},
		{"smtp://localhost:1025/", "localhost:1025", "smtp://localhost:1025", "", ""},
		{"smtps://zoe%40mail.example:" + password + "@mail.example", "mail.example:465", "smtps://mail.example:465", "zoe@mail.example", "hunter2/"},
		{"smtp://[::1]:25", "[::1]:25", "smtp://[::1]:25", "", ""},
	} {
		var set Settings
		if err := daemon.Parse(map[string]string{"SMTP_URL": c.url}, &set); err != nil {
			t.Errorf("%s: %v", c.url, err)
		}
		if s := set.Server; s.addr != c.addr || s.String() != c.shown || s.user != c.user || s.password != c.password || set.From.Address != "orders@edison-cars.example" {
			t.Errorf("%s: %+v", c.url, set)
		}
	}
	for variable, bad := range map[string][]string{
		"SMTP_URL": {
			"mail.example", "http://u:hunter2@mail.example", "smtp://", "smtp://u:hunter2@", "smtp://u@mail.example", "smtp://:hunter2@mail.example",
			"smtp://u:hunter2@mail.example/path", "smtp://u:hunter2@mail.example?tls=no", "smtp://u:hunter2@mail.example:port", "smtp://u:hunter2%zz@mail.example", "smtp://mail\n.example",
		},
		"MAIL_FROM": {"nobody", "a@x.example, b@x.example", "a@x.example\r\nBcc: b@x.example"},
	} {
		for _, value := range bad {
			err := daemon.Parse(map[string]string{variable: value}, new(Settings))
			if !errors.Is(err, daemon.ErrUsage) || !strings.HasPrefix(err.Error(), variable+": takes ") || strings.Contains(err.Error(), "hunter2") {
				t.Errorf("%s=%q: %v", variable, value, err)
			}
		}
	}
}

func TestGreeting(t *testing.T) {
	t.Parallel()
	v4, v6 := &net.TCPAddr{IP: net.IPv4(192, 0, 2, 1), Port: 1}, &net.TCPAddr{IP: net.ParseIP("2001:db8::1"), Port: 1, Zone: "eth0"}
	if host, _ := os.Hostname(); !full(host) {
		for addr, want := range map[*net.TCPAddr]string{v4: "[192.0.2.1]", v6: "[IPv6:2001:db8::1]"} {
			if got := Greeting("").from(addr); got != want {
				t.Errorf("%v: %s", addr, got)
			}
		}
	}
	for name, is := range map[string]bool{
		"mail.example.com": true, "a-b.x1.example": true, "mailer": false, "localhost": false, "localhost.localdomain": false, "box.local": false,
		"192.0.2.1": false, "a..b": false, "a_b.example": false, "-a.example": false, "a.example.": false, strings.Repeat("a.", 130) + "b": false, "": false,
	} {
		if full(name) != is {
			t.Errorf("%q: %t", name, !is)
		}
	}
	for value, ok := range map[string]bool{
		"mail.example.com": true, "localhost": true, "[192.0.2.1]": true, "[IPv6:2001:db8::1]": true, "": true,
		"[2001:db8::1]": false, "[IPv6:192.0.2.1]": false, "[192.0.2.1": false, "[]": false, "a b": false, "a\r\nMAIL FROM:<x>": false, "bücher.example": false,
	} {
		var set Settings
		err := daemon.Parse(map[string]string{"SMTP_HELO": value}, &set)
		if (err == nil) != ok || ok && string(set.Helo) != value {
			t.Errorf("%q: %q, %v", value, set.Helo, err)
		}
	}
}

func TestMailbox(t *testing.T) {
	t.Parallel()
	for _, same := range [][]string{
		{"ada@mail.example", "Ada@Mail.EXAMPLE", "ada+shop@mail.example", "a.d.a@mail.example", "ADA+a+b@mail.example", "ada@ｍａｉｌ.example", "ada@mail。example"},
		{"zoë@bücher.example", "ZOË@BÜCHER.example", "zoe\u0308@xn--bcher-kva.example", "zoë+x@XN--BCHER-KVA.example", "zoë@bu\u0308cher.example"},
		{"ada@other.example"}, {"adam@mail.example"}, {"ada@mail.example.com"}, {"ada"}, {""}, {"zoe@bücher.example"}, {"ada@a_b.example", "ADA@A_B.example"},
	} {
		for _, email := range same {
			if got := Mailbox(email); got != Mailbox(same[0]) {
				t.Errorf("%s is %s, not %s", email, got, Mailbox(same[0]))
			}
		}
		for _, other := range []string{"ada@mail.example", "zoë@bücher.example"} {
			if same[0] != other && Mailbox(same[0]) == Mailbox(other) {
				t.Errorf("%s is %s", same[0], other)
			}
		}
	}
}

// certificate returns a certificate for localhost and 127.0.0.1 that only the returned pool trusts.
func certificate(t *testing.T) (*tls.Config, *x509.CertPool) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		DNSNames: []string{"localhost"}, IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}, IsCA: true, BasicConstraintsValid: true,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	parsed, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	roots := x509.NewCertPool()
	roots.AddCert(parsed)
	return &tls.Config{Certificates: []tls.Certificate{{Certificate: [][]byte{der}, PrivateKey: key}}}, roots
}

// serve returns the address of a sink behind that listener.
func serve(t *testing.T, sink *mailsink.Sink, ln net.Listener, err error) string {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- sink.Serve(ctx, ln, slog.New(slog.DiscardHandler)) }()
	t.Cleanup(func() {
		stop()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	})
	return ln.Addr().String()
}

// sendOne sends a mail over a session of its own.
func sendOne(t *testing.T, set *Settings) (Outcome, error) {
	t.Helper()
	c, err := set.Dial(t.Context())
	if err != nil {
		return Trouble, err
	}
	defer c.Close()
	return c.Send(message(t), nil)
}

func message(t *testing.T) *mail.Msg {
	t.Helper()
	m := mail.NewMsg()
	if err := errors.Join(m.From("shop@edison-cars.example"), m.To("zoe@mail.example")); err != nil {
		t.Fatal(err)
	}
	m.Subject("A test")
	m.SetBodyString(mail.TypeTextPlain, "Hello")
	return m
}

// Text from a server that is not a reply may name the recipient: no log may have it.
func TestWhatIsNoReplyIsNotQuoted(t *testing.T) {
	t.Parallel()
	for _, at := range []string{"MAIL", "RCPT", "DATA", "."} {
		for _, reply := range []string{"zoe@mail.example does not exist here", "25 zoe@mail.example", "abc zoe@mail.example", "2500 zoe@mail.example"} {
			conn, server := net.Pipe()
			go func() {
				defer server.Close()
				_, _ = io.WriteString(server, "220 mail.example\r\n")
				for lines := bufio.NewScanner(server); lines.Scan(); {
					command, _, _ := strings.Cut(lines.Text(), " ")
					answer, known := map[string]string{"EHLO": "250 mail.example", "MAIL": "250 yes", "RCPT": "250 yes", "DATA": "354 go on", ".": "250 yes"}[command]
					if command == at {
						answer = reply
					}
					if known {
						_, _ = io.WriteString(server, answer+"\r\n")
					}
				}
			}()
			c := newSession(t.Context(), conn)
			var err error
			if c.client, err = smtp.NewClient(c.conn, "mail.example"); err != nil {
				t.Fatal(err)
			}
			if err := c.client.Hello("shop.example"); err != nil {
				t.Fatal(err)
			}
			if outcome, err := c.Send(message(t), nil); err == nil || outcome == Sent || strings.Contains(err.Error(), "zoe") {
				t.Errorf("%s, %q: outcome %d, %v", at, reply, outcome, err)
			}
			c.abort()
		}
	}
}

// Nor does a log keep the password, which a server may quote when it refuses it.
func TestPasswordIsNotQuoted(t *testing.T) {
	t.Parallel()
	for _, reply := range []string{"535 5.7.8 failed: AUTH PLAIN %s", "500 unknown: AUTH PLAIN %s", "421 AUTH PLAIN %s", "AUTH PLAIN %s"} {
		ln, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = ln.Close() })
		go func() {
			conn, err := ln.Accept()
			if err != nil {
				return
			}
			defer conn.Close()
			_, _ = io.WriteString(conn, "220 mail.example\r\n")
			for lines := bufio.NewScanner(conn); lines.Scan(); {
				command, rest, _ := strings.Cut(lines.Text(), " ")
				switch command {
				case "EHLO":
					_, _ = io.WriteString(conn, "250-mail.example\r\n250 AUTH PLAIN\r\n")
				case "AUTH":
					_, secret, _ := strings.Cut(rest, " ")
					_, _ = fmt.Fprintf(conn, reply+"\r\n", secret)
					return
				}
			}
		}()
		set := &Settings{Server: Server{addr: ln.Addr().String(), host: "127.0.0.1", user: "zoe", password: "hunter3"}}
		secret := base64.StdEncoding.EncodeToString([]byte("\x00zoe\x00hunter3"))
		if _, err := set.Dial(t.Context()); err == nil || strings.Contains(err.Error(), secret) || strings.Contains(err.Error(), "hunter3") {
			t.Errorf("%s: %v", reply, err)
		}
	}
}

// A session lasts 5 s after the stop: the reply to the command that runs is awaited, and all others have what is left.
func TestStop(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		conn, server := net.Pipe()
		ctx, stop := context.WithCancel(t.Context())
		var stopped time.Time
		go func() {
			_, _ = io.WriteString(server, "220 mail.example\r\n")
			for lines := bufio.NewScanner(server); lines.Scan(); {
				switch command, _, _ := strings.Cut(lines.Text(), " "); command {
				case "EHLO", "MAIL", "RCPT":
					_, _ = io.WriteString(server, "250 mail.example\r\n")
				case "DATA":
					_, _ = io.WriteString(server, "354 go on\r\n")
				case ".":
					time.Sleep(time.Second) // the reply is awaited
					stopped = time.Now()
					stop()
					time.Sleep(stopTimeout - time.Second)
					_, _ = io.WriteString(server, "250 it has the mail\r\n")
				}
			}
		}()
		c := newSession(ctx, conn)
		var err error
		if c.client, err = smtp.NewClient(c.conn, "mail.example"); err != nil {
			t.Fatal(err)
		}
		if err := c.client.Hello("shop.example"); err != nil {
			t.Fatal(err)
		}
		if outcome, err := c.Send(message(t), nil); err != nil {
			t.Errorf("the mail that was under way: outcome %d, %v", outcome, err)
		}
		c.Close() // QUIT has no reply
		if took := time.Since(stopped); took != stopTimeout {
			t.Errorf("it lasts %v", took)
		}
	})
}

// A server that falls silent holds a mail up for a minute, or for ten at the end of the mail; then the next one has its
// turn.
func TestSilentServer(t *testing.T) {
	t.Parallel()
	for at, want := range map[string]time.Duration{
		"greeting": replyTimeout, "EHLO": replyTimeout, "MAIL": replyTimeout, "RCPT": replyTimeout, "DATA": replyTimeout, ".": endTimeout, "QUIT": replyTimeout,
	} {
		t.Run(at, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				conn, server := net.Pipe()
				defer server.Close()
				go func() {
					if at == "greeting" {
						return
					}
					_, _ = io.WriteString(server, "220 mail.example\r\n")
					for lines := bufio.NewScanner(server); lines.Scan(); {
						command, _, _ := strings.Cut(lines.Text(), " ")
						reply := map[string]string{"EHLO": "250 mail.example", "MAIL": "250 go on", "RCPT": "250 go on", "DATA": "354 go on", ".": "250 it has the mail"}[command]
						if command != at && reply != "" {
							_, _ = io.WriteString(server, reply+"\r\n")
						}
					}
				}()
				began := time.Now()
				c := newSession(t.Context(), conn)
				var err error
				if c.client, err = smtp.NewClient(c.conn, "mail.example"); err == nil {
					if err = c.client.Hello("shop.example"); err == nil {
						_, err = c.Send(message(t), nil)
					}
					c.Close()
				}
				if (err == nil) != (at == "QUIT") {
					t.Errorf("the outcome is %v", err)
				}
				if took := time.Since(began); took < want || took > want+replyTimeout { // the other minute is that of the QUIT
					t.Errorf("it took %v", took)
				}
				c.abort()
			})
		})
	}
}

func TestTransport(t *testing.T) {
	t.Parallel()
	secure, roots := certificate(t)
	login := func(s *mailsink.Sink) {
		s.Login = func(user, password string) bool { return user == "zoe" && password == "hunter2/" }
	}
	starttls := func(s *mailsink.Sink) { s.TLS = secure }
	plain := func(*testing.T) (string, net.Listener, error) {
		ln, err := net.Listen("tcp", "127.0.0.1:0")
		return "smtp://", ln, err
	}
	overTLS := func(*testing.T) (string, net.Listener, error) {
		ln, err := tls.Listen("tcp", "127.0.0.1:0", secure)
		return "smtps://", ln, err
	}
	// elsewhere listens at an address of this machine that is no loopback one; else the test is left out.
	elsewhere := func(t *testing.T) (string, net.Listener, error) {
		conn, err := net.Dial("udp", "192.0.2.1:9") // nothing is sent
		if err != nil {
			t.Skip("this machine has no other address than loopback: ", err)
		}
		defer conn.Close()
		ln, err := net.Listen("tcp", net.JoinHostPort(conn.LocalAddr().(*net.UDPAddr).IP.String(), "0"))
		return "smtp://", ln, err
	}
	zoe := func(s *Server) { s.user, s.password = "zoe", "hunter2/" }
	for name, x := range map[string]struct {
		sink   []func(*mailsink.Sink)
		listen func(*testing.T) (string, net.Listener, error)
		set    func(*Server)
		says   string // "" means the mail arrives
	}{
		"no user":                                           {nil, plain, func(*Server) {}, ""},
		"a user and a password, on loopback":                {[]func(*mailsink.Sink){login}, plain, zoe, ""},
		"a user and a password over STARTTLS":               {[]func(*mailsink.Sink){login, starttls}, plain, zoe, ""},
		"a wrong password":                                  {[]func(*mailsink.Sink){login}, plain, func(s *Server) { s.user, s.password = "zoe", "hunter3" }, "535 5.7.8 after AUTH"},
		"no password where there must be one":               {[]func(*mailsink.Sink){login}, plain, func(*Server) {}, "530"},
		"a password where none is taken":                    {nil, plain, zoe, "it takes no password"},
		"STARTTLS by a server that nobody knows, loopback":  {[]func(*mailsink.Sink){starttls}, plain, func(*Server) {}, ""},
		"STARTTLS by a server that nobody knows, elsewhere": {[]func(*mailsink.Sink){starttls}, elsewhere, func(*Server) {}, "STARTTLS: tls: failed to verify certificate"},
		"a password to elsewhere without TLS":               {[]func(*mailsink.Sink){login}, elsewhere, zoe, "it offers no TLS"},
		"smtps":                                             {nil, overTLS, func(s *Server) { s.roots = roots }, ""},
		"smtps by a server that nobody knows":               {nil, overTLS, func(*Server) {}, "tls: failed to verify certificate"},
		"smtps to a server without TLS":                     {nil, plain, func(s *Server) { s.tls = true }, "tls: first record does not look like a TLS handshake"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			sink := new(mailsink.Sink)
			for _, option := range x.sink {
				option(sink)
			}
			scheme, ln, err := x.listen(t)
			var set Settings
			if err := set.Server.UnmarshalText([]byte(scheme + serve(t, sink, ln, err))); err != nil {
				t.Fatal(err)
			}
			x.set(&set.Server)
			outcome, err := sendOne(t, &set)
			arrived := len(sink.Mails())
			if x.says == "" {
				if err != nil || outcome != Sent || arrived != 1 {
					t.Errorf("%v, %d mails: %v", outcome, arrived, err)
				}
				return
			}
			if err == nil || !strings.Contains(err.Error(), x.says) || outcome != Trouble && outcome != Setup || arrived != 0 {
				t.Errorf("%v, %d mails: %v", outcome, arrived, err)
			}
			if err != nil && strings.Contains(err.Error(), "hunter") {
				t.Errorf("it tells the password: %v", err)
			}
		})
	}
}
