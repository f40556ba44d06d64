package access_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"io"
	"math/big"
	"net"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// Every process serves by TLS, takes the client from a trusted proxy, gives its session to https alone, and ends in
// good order.
func TestEveryProcessHasTheWholeShell(t *testing.T) {
	t.Parallel()
	cert, key, roots := certificate(t)
	c := startCompanyWith(t, []string{"TLS_CERT_FILE=" + cert, "TLS_KEY_FILE=" + key, "TRUSTED_PROXIES=127.0.0.1"}, "closed", services...)
	trusting := &http.Client{
		Transport:     &http.Transport{TLSClientConfig: &tls.Config{RootCAs: roots, MinVersion: tls.VersionTLS12}},
		CheckRedirect: client.CheckRedirect, Timeout: client.Timeout,
	}
	defer trusting.CloseIdleConnections()
	send := func(t *testing.T, method, address, body string, header ...string) *http.Response {
		t.Helper()
		req, err := http.NewRequestWithContext(t.Context(), method, address, strings.NewReader(body))
		if err != nil {
			t.Fatal(err)
		}
		for i := 0; i < len(header); i += 2 {
			req.Header.Set(header[i], header[i+1])
		}
		resp, err := trusting.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		_, _ = io.Copy(io.Discard, resp.Body)
		resp.Body.Close()
		return resp
	}
	for i, service := range services {
		t.Run(service, func(t *testing.T) {
			at, err := url.Parse(c.urls[service])
			if err != nil || at.Scheme != "https" {
				t.Fatalf("it listens at %s, %v", at, err)
			}
			if resp := send(t, "GET", c.urls[service]+"/livez", ""); resp.StatusCode != http.StatusOK {
				t.Errorf("/livez: %s", resp.Status)
			}
			if resp := send(t, "GET", "http://"+at.Host+"/livez", ""); resp.StatusCode != http.StatusBadRequest {
				t.Errorf("without TLS: %s", resp.Status)
			}
			if resp := send(t, "GET", c.urls[service]+"/metrics", ""); resp.StatusCode != http.StatusUnauthorized {
				t.Errorf("/metrics without a token: %s", resp.Status)
			}
			const from = "192.0.2."
			who := from + string(rune('1'+i%9))
			if resp := send(t, "GET", c.urls[service]+"/metrics", "", "Authorization", "Bearer "+c.tokens["reader"], "X-Forwarded-For", who); resp.StatusCode != http.StatusOK {
				t.Errorf("/metrics by a proxy: %s", resp.Status)
			}
			eventually(t, "the log names the client", func() bool { return strings.Contains(c.logs[service].String(), "client="+who) })
			resp := send(t, "POST", c.urls[service]+"/login", url.Values{"token": {c.tokens["operator"]}, "next": {"/"}}.Encode(), "Content-Type", "application/x-www-form-urlencoded")
			cookies := resp.Cookies()
			if len(cookies) != 1 || !cookies[0].Secure || !cookies[0].HttpOnly || !strings.HasPrefix(cookies[0].Name, "__Host-") {
				t.Errorf("login: %s, %v", resp.Status, cookies)
			}
		})
	}
}

// certificate returns files with a certificate for 127.0.0.1 and its key, and a pool that trusts it.
func certificate(t *testing.T) (cert, key string, roots *x509.CertPool) {
	t.Helper()
	private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), NotBefore: time.Unix(0, 0), NotAfter: time.Date(2100, 1, 1, 0, 0, 0, 0, time.UTC), IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
		IsCA: true, BasicConstraintsValid: true,
	}
	signed, err := x509.CreateCertificate(rand.Reader, template, template, &private.PublicKey, private)
	if err != nil {
		t.Fatal(err)
	}
	der, err := x509.MarshalPKCS8PrivateKey(private)
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	write := func(name, kind string, der []byte) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	cert = write("cert.pem", "CERTIFICATE", signed)
	text, err := os.ReadFile(cert)
	roots = x509.NewCertPool()
	if err != nil || !roots.AppendCertsFromPEM(text) {
		t.Fatal("no certificate", err)
	}
	return cert, write("key.pem", "PRIVATE KEY", der), roots
}
