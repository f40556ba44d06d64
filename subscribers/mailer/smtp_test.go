package mailer

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"math/big"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/edison-cars/data-feeds/shared/daemon"
	"github.com/edison-cars/data-feeds/shared/mailsink"
	"github.com/edison-cars/data-feeds/shared/order"
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
		var set settings
		if err := daemon.Parse(map[string]string{"SMTP_URL": c.url}, &set); err != nil {
			t.Errorf("%s: %v", c.url, err)
		}
		if s := set.SMTP; s.addr != c.addr || s.String() != c.shown || s.user != c.user || s.password != c.password || set.From.Address != "orders@edison-cars.example" {
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
			err := daemon.Parse(map[string]string{variable: value}, new(settings))
			if !errors.Is(err, daemon.ErrUsage) || !strings.HasPrefix(err.Error(), variable+": takes ") || strings.Contains(err.Error(), "hunter2") {
				t.Errorf("%s=%q: %v", variable, value, err)
			}
		}
	}
	b := newBench(t)
	b.set.SMTP = server{}
	b.customers(t, customerEntry(t, aCustomer(1, 1)))
	b.orders(t, orderEntry(t, 1, 1, 1, order.Placed))
	b.mustWork(t)
	b.want(t, 1, "pending", 0)
}

// certificate gives one for localhost and 127.0.0.1 that nobody knows, and those who do.
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

func TestTransport(t *testing.T) {
	t.Parallel()
	secure, roots := certificate(t)
	login := func(s *mailsink.Sink) {
		s.Login = func(user, password string) bool { return user == "zoe" && password == "hunter2/" }
	}
	starttls := func(s *mailsink.Sink) { s.TLS = secure }
	// elsewhere is an address of this machine that is no loopback one; else the test is left out.
	elsewhere := func(t *testing.T) string {
		conn, err := net.Dial("udp", "192.0.2.1:9") // nothing is sent
		if err != nil {
			t.Skip("this machine has no other address than loopback: ", err)
		}
		defer conn.Close()
		return conn.LocalAddr().(*net.UDPAddr).IP.String()
	}
	for name, x := range map[string]struct {
		sink []func(*mailsink.Sink)
		set  func(t *testing.T, b *bench)
		says string // "": the mail arrives
	}{
		"a user and a password, on loopback":                {[]func(*mailsink.Sink){login}, func(_ *testing.T, b *bench) { b.set.SMTP.user, b.set.SMTP.password = "zoe", "hunter2/" }, ""},
		"a user and a password over STARTTLS":               {[]func(*mailsink.Sink){login, starttls}, func(_ *testing.T, b *bench) { b.set.SMTP.user, b.set.SMTP.password = "zoe", "hunter2/" }, ""},
		"a wrong password":                                  {[]func(*mailsink.Sink){login}, func(_ *testing.T, b *bench) { b.set.SMTP.user, b.set.SMTP.password = "zoe", "hunter3" }, "AUTH: 535"},
		"no password where there must be one":               {[]func(*mailsink.Sink){login}, func(*testing.T, *bench) {}, "530"},
		"a password where none is taken":                    {nil, func(_ *testing.T, b *bench) { b.set.SMTP.user, b.set.SMTP.password = "zoe", "hunter2/" }, "it takes no password"},
		"STARTTLS by a server that nobody knows, loopback":  {[]func(*mailsink.Sink){starttls}, func(*testing.T, *bench) {}, ""},
		"STARTTLS by a server that nobody knows, elsewhere": {[]func(*mailsink.Sink){starttls}, func(t *testing.T, b *bench) { b.mailTo(t, b.relay(t, elsewhere(t))) }, "STARTTLS: tls: failed to verify certificate"},
		"a password to elsewhere without TLS": {[]func(*mailsink.Sink){login}, func(t *testing.T, b *bench) {
			b.mailTo(t, b.relay(t, elsewhere(t)))
			b.set.SMTP.user, b.set.SMTP.password = "zoe", "hunter2/"
		}, "it offers no TLS"},
		"smtps":                               {nil, func(t *testing.T, b *bench) { b.overTLS(t, secure); b.set.SMTP.roots = roots }, ""},
		"smtps by a server that nobody knows": {nil, func(t *testing.T, b *bench) { b.overTLS(t, secure) }, "tls: failed to verify certificate"},
		"smtps to a server without TLS":       {nil, func(_ *testing.T, b *bench) { b.set.SMTP.tls = true }, "tls: first record does not look like a TLS handshake"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			b := newBench(t, x.sink...)
			x.set(t, b)
			b.customers(t, customerEntry(t, aCustomer(1, 1)))
			b.orders(t, orderEntry(t, 1, 1, 1, order.Placed))
			err := b.work(t.Context())
			if x.says == "" {
				if err != nil {
					t.Error(err)
				}
				b.want(t, 1, "sent", 1)
				return
			}
			m := b.want(t, 1, "pending", 0)
			if err == nil || !strings.Contains(err.Error(), x.says) || !strings.Contains(m.Reason, x.says) {
				t.Errorf("%v; %s", err, m.Reason)
			}
			if strings.Contains(err.Error()+m.Reason, "hunter") {
				t.Errorf("it tells the password: %v; %s", err, m.Reason)
			}
		})
	}
}

// relay gives an address at ip behind which the bench's mail server is.
func (b *bench) relay(t *testing.T, ip string) string {
	t.Helper()
	return forward(t, b.set.SMTP.addr, func() (net.Listener, error) { return net.Listen("tcp", net.JoinHostPort(ip, "0")) })
}

// overTLS puts TLS in front of the bench's mail server.
func (b *bench) overTLS(t *testing.T, config *tls.Config) {
	t.Helper()
	addr := forward(t, b.set.SMTP.addr, func() (net.Listener, error) { return tls.Listen("tcp", "127.0.0.1:0", config) })
	if err := b.set.SMTP.UnmarshalText([]byte("smtps://" + addr)); err != nil {
		t.Fatal(err)
	}
}
