package webserver

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"sync"
	"sync/atomic"
	"time"
)

// lookAgain is how long a certificate is used without a look at its files.
const lookAgain = time.Minute

// ListenTLS returns a listener that speaks TLS 1.2 or newer over ln, and HTTP/2 or 1.1 in it, with the certificate
// (chain) and key in two PEM files. Files that change are used within a minute. Without files, ListenTLS returns ln
// itself. One file alone, or a pair that does not match, is an error.
func ListenTLS(ln net.Listener, certFile, keyFile string, logger *slog.Logger) (net.Listener, error) {
	if certFile == "" && keyFile == "" {
		return ln, nil
	}
	if certFile == "" || keyFile == "" {
		return nil, errors.New("TLS_CERT_FILE and TLS_KEY_FILE go together: set both or neither")
	}
	k := &keyPair{certFile: certFile, keyFile: keyFile, logger: logger}
	if err := k.load(); err != nil {
		return nil, fmt.Errorf("TLS_CERT_FILE and TLS_KEY_FILE: %w", err)
	}
	k.warnExpired(context.Background())
	return tlsListener{tls.NewListener(ln, &tls.Config{
		MinVersion:     tls.VersionTLS12,
		NextProtos:     []string{"h2", "http/1.1"},
		GetCertificate: k.get,
	})}, nil
}

// A tlsListener marks a listener that speaks TLS.
type tlsListener struct{ net.Listener }

// A keyPair is a certificate with its key, read from files.
type keyPair struct {
	certFile, keyFile string
	logger            *slog.Logger
	current           atomic.Pointer[tls.Certificate]

	mu      sync.Mutex // held by the one handshake that looks at the files
	looked  time.Time
	written [2]time.Time // of the files that current comes from
}

func (k *keyPair) get(hello *tls.ClientHelloInfo) (*tls.Certificate, error) {
	if k.mu.TryLock() {
		defer k.mu.Unlock()
		if time.Since(k.looked) >= lookAgain {
			if err := k.load(); err != nil { // half of a renewal, perhaps
				k.logger.WarnContext(hello.Context(), "certificate not renewed", "error", err)
			}
			k.warnExpired(hello.Context())
		}
	}
	return k.current.Load(), nil
}

// warnExpired logs a warning if clients refuse the certificate because of the time.
func (k *keyPair) warnExpired(ctx context.Context) {
	switch cert, now := k.current.Load().Leaf, time.Now(); {
	case now.After(cert.NotAfter):
		k.logger.WarnContext(ctx, "certificate has expired", "file", k.certFile, "not_after", cert.NotAfter)
	case now.Before(cert.NotBefore):
		k.logger.WarnContext(ctx, "certificate is not valid yet", "file", k.certFile, "not_before", cert.NotBefore)
	}
}

// load reads the files if they are newer than what is used.
func (k *keyPair) load() error {
	k.looked = time.Now()
	var written [2]time.Time
	for i, file := range []string{k.certFile, k.keyFile} {
		info, err := os.Stat(file)
		if err != nil {
			return err
		}
		written[i] = info.ModTime()
	}
	if written == k.written {
		return nil
	}
	cert, err := ReadFile(k.certFile)
	if err != nil {
		return err
	}
	key, err := ReadFile(k.keyFile)
	if err != nil {
		return err
	}
	pair, err := tls.X509KeyPair(cert, key)
	if err != nil {
		return err
	}
	k.written = written
	k.current.Store(&pair)
	return nil
}
