package webserver

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/big"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

// certificate writes a certificate of localhost and its key into dir, and gives what trusts it.
func certificate(t *testing.T, dir, subject string) (certFile, keyFile string, roots *x509.CertPool) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: subject}, DNSNames: []string{"localhost"},
		IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
		NotBefore:   time.Unix(0, 0), NotAfter: time.Date(2100, 1, 1, 0, 0, 0, 0, time.UTC), IsCA: true, BasicConstraintsValid: true,
	}
	cert, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	pkcs8, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	certFile, keyFile = filepath.Join(dir, "cert.pem"), filepath.Join(dir, "key.pem")
	certPEM := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: cert})
	write(t, certFile, certPEM)
	write(t, keyFile, pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: pkcs8}))
	roots = x509.NewCertPool()
	roots.AppendCertsFromPEM(certPEM)
	return certFile, keyFile, roots
}

func write(t *testing.T, file string, text []byte) {
	t.Helper()
	if err := os.WriteFile(file, text, 0o600); err != nil {
		t.Fatal(err)
	}
}

func listenTLS(t *testing.T, ln net.Listener, certFile, keyFile string) net.Listener {
	t.Helper()
	secure, err := ListenTLS(ln, certFile, keyFile, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	return secure
}

func secureClient(roots *x509.CertPool, dial func(context.Context, string, string) (net.Conn, error)) *http.Client {
	return &http.Client{Transport: &http.Transport{
		DialContext: dial, ForceAttemptHTTP2: true, TLSClientConfig: &tls.Config{RootCAs: roots, MinVersion: tls.VersionTLS12},
	}}
}

func TestTLS(t *testing.T) {
	t.Parallel()
	certFile, keyFile, roots := certificate(t, t.TempDir(), "cars")
	ctx, stop := context.WithCancel(t.Context())
	ln, err := Listen(ctx, "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var logged logBuffer
	logger := slog.New(slog.NewTextHandler(&logged, nil))
	secure, err := ListenTLS(ln, certFile, keyFile, logger)
	if err != nil {
		t.Fatal(err)
	}
	url := "https://" + ln.Addr().String()
	served := make(chan error, 1)
	go func() { served <- ServeListener(ctx, secure, New(logger), logger) }()
	defer func() {
		stop()
		if err := <-served; err != nil {
			t.Error(err)
		}
		if !strings.Contains(logged.String(), "url="+url) {
			t.Error(logged.String())
		}
	}()
	client := secureClient(roots, nil)
	defer client.CloseIdleConnections()
	resp, err := client.Get(url + "/assets/style.css")
	if err != nil {
		t.Fatal(err)
	}
	body, err := io.ReadAll(resp.Body)
	_ = resp.Body.Close()
	if err != nil || resp.ProtoMajor != 2 || resp.TLS.Version < tls.VersionTLS12 || !bytes.Contains(body, []byte(":root")) {
		t.Errorf("%s, TLS %x, %d bytes: %v", resp.Proto, resp.TLS.Version, len(body), err)
	}
	for version, ok := range map[uint16]bool{tls.VersionTLS11: false, tls.VersionTLS12: true, tls.VersionTLS13: true} {
		conn, err := tls.Dial("tcp", ln.Addr().String(), &tls.Config{RootCAs: roots, MinVersion: version, MaxVersion: version})
		if (err == nil) != ok {
			t.Errorf("%s: %v", tls.VersionName(version), err)
		}
		if err == nil {
			_ = conn.Close()
		}
	}
	plain, err := http.Get("http://" + ln.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	_ = plain.Body.Close()
	if plain.StatusCode != http.StatusBadRequest {
		t.Error("without TLS:", plain.Status)
	}
}

func TestRenewedCertificate(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		dir := t.TempDir()
		certFile, keyFile, _ := certificate(t, dir, "first")
		var logged logBuffer
		k := &keyPair{certFile: certFile, keyFile: keyFile, logger: slog.New(slog.NewTextHandler(&logged, nil))}
		if err := k.load(); err != nil {
			t.Fatal(err)
		}
		subject := func() string {
			t.Helper()
			cert, err := k.get(new(tls.ClientHelloInfo))
			if err != nil {
				t.Fatal(err)
			}
			return cert.Leaf.Subject.CommonName
		}
		renewed := time.Now().Add(time.Hour)
		renew := func(subject string) {
			certificate(t, dir, subject)
			renewed = renewed.Add(time.Hour)
			for _, file := range []string{certFile, keyFile} {
				if err := os.Chtimes(file, renewed, renewed); err != nil {
					t.Fatal(err)
				}
			}
		}
		renew("second")
		time.Sleep(lookAgain - 1)
		if got := subject(); got != "first" {
			t.Error("looked at the files sooner than after", lookAgain, got)
		}
		time.Sleep(time.Nanosecond)
		if got := subject(); got != "second" {
			t.Error("a minute after the renewal it is the", got)
		}
		renew("third")
		key, err := os.ReadFile(keyFile)
		if err != nil {
			t.Fatal(err)
		}
		write(t, keyFile, key[:len(key)/2])
		time.Sleep(lookAgain)
		if got := subject(); got != "second" || !strings.Contains(logged.String(), "certificate not renewed") {
			t.Errorf("in the middle of a renewal it is the %s; %s", got, logged.String())
		}
		write(t, keyFile, key)
		time.Sleep(lookAgain)
		if got := subject(); got != "third" {
			t.Error("after it, it is the", got)
		}
	})
}

// Files that cannot be used never end the renewal, nor hold up a handshake. The log has a warning each minute.
func TestRenewalAfterUnusableFiles(t *testing.T) {
	t.Parallel()
	for name, x := range unusable {
		for which := range 2 {
			t.Run(fmt.Sprint(name, ", ", []string{"certificate", "key"}[which]), func(t *testing.T) {
				t.Parallel()
				dir := t.TempDir()
				certFile, keyFile, _ := certificate(t, dir, "first")
				var logged logBuffer
				k := &keyPair{certFile: certFile, keyFile: keyFile, logger: slog.New(slog.NewTextHandler(&logged, nil))}
				if err := k.load(); err != nil {
					t.Fatal(err)
				}
				file := []string{certFile, keyFile}[which]
				subject := func() (name string) {
					t.Helper()
					k.looked = time.Time{} // a minute ago
					soon(t, func() {
						for range 3 {
							if cert, err := k.get(new(tls.ClientHelloInfo)); err == nil {
								name = cert.Leaf.Subject.CommonName
							}
						}
					})
					return name
				}
				if err := errors.Join(os.Remove(file), x.become(file)); err != nil {
					t.Fatal(err)
				}
				for minute := range 2 {
					if got := subject(); got != "first" {
						t.Error("while the file cannot be used it is the", got)
					}
					if n := strings.Count(logged.String(), "certificate not renewed"); n != minute+1 || !strings.Contains(logged.String(), x.says) {
						t.Error(n, logged.String())
					}
				}
				if name != "missing" {
					if err := os.Remove(file); err != nil {
						t.Fatal(err)
					}
				}
				certificate(t, dir, "second")
				if got := subject(); got != "second" {
					t.Error("after it was put right it is the", got)
				}
				if err := errors.Join(os.Remove(file), x.become(file)); err != nil {
					t.Fatal(err)
				}
				soon(t, func() {
					if _, err := ListenTLS(nil, certFile, keyFile, k.logger); err == nil || !strings.Contains(err.Error(), x.says) {
						t.Error("at the start:", err)
					}
				})
			})
		}
	}
}

func TestCertificateFiles(t *testing.T) {
	t.Parallel()
	ln := listen(t)
	certFile, keyFile, _ := certificate(t, t.TempDir(), "cars")
	_, otherKey, _ := certificate(t, t.TempDir(), "others")
	if same, err := ListenTLS(ln, "", "", nil); err != nil || same != ln {
		t.Error("without files:", err)
	}
	for _, x := range []struct{ cert, key, says string }{
		{certFile, "", "TLS_CERT_FILE and TLS_KEY_FILE go together"},
		{"", keyFile, "TLS_CERT_FILE and TLS_KEY_FILE go together"},
		{certFile + "x", keyFile, "no such file"},
		{certFile, otherKey, "does not match"},
		{keyFile, certFile, "TLS_CERT_FILE and TLS_KEY_FILE: "},
	} {
		if _, err := ListenTLS(ln, x.cert, x.key, nil); err == nil || !strings.Contains(err.Error(), x.says) {
			t.Errorf("%s, %s: %v", x.cert, x.key, err)
		}
	}
}

// The log tells of a certificate that clients refuse because of the time: at the start, and every minute that somebody connects.
func TestExpiredCertificate(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	certFile, keyFile, _ := certificate(t, dir, "a")
	synctest.Test(t, func(t *testing.T) {
		var log strings.Builder
		k := &keyPair{certFile: certFile, keyFile: keyFile, logger: slog.New(slog.NewTextHandler(&log, nil))}
		if err := k.load(); err != nil {
			t.Fatal(err)
		}
		said := func() int {
			t.Helper()
			if _, err := k.get(new(tls.ClientHelloInfo)); err != nil {
				t.Fatal(err)
			}
			return strings.Count(log.String(), "certificate has expired")
		}
		time.Sleep(time.Hour)
		if n := said(); n != 0 {
			t.Errorf("%d lines while it is valid", n)
		}
		time.Sleep(time.Until(time.Date(2100, 1, 2, 0, 0, 0, 0, time.UTC)))
		for want := range 3 {
			if n := said(); n != want+1 {
				t.Errorf("%d lines, want %d: %s", n, want+1, &log)
			}
			time.Sleep(lookAgain)
		}
	})
}
