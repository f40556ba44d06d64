package feedclient

import (
	"context"
	"errors"
	"net"
	"strconv"
	"syscall"
	"testing"
	"time"
)

// dead returns an address that answers nothing: its queue of connections is full.
func dead(t *testing.T) string {
	t.Helper()
	fd, err := syscall.Socket(syscall.AF_INET, syscall.SOCK_STREAM, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = syscall.Close(fd) })
	if err := errors.Join(syscall.Bind(fd, &syscall.SockaddrInet4{Addr: [4]byte{127, 0, 0, 1}}), syscall.Listen(fd, 0)); err != nil {
		t.Fatal(err)
	}
	name, err := syscall.Getsockname(fd)
	if err != nil {
		t.Fatal(err)
	}
	address := net.JoinHostPort("127.0.0.1", strconv.Itoa(name.(*syscall.SockaddrInet4).Port))
	for range 10 {
		conn, err := net.DialTimeout("tcp", address, 200*time.Millisecond)
		if err != nil {
			return address
		}
		t.Cleanup(func() { _ = conn.Close() })
	}
	t.Skip("a full queue takes connections here")
	return ""
}

// A name may have addresses of which some are dead.
func TestDialFirst(t *testing.T) {
	t.Parallel()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = ln.Close() })
	live, silent, refuses := ln.Addr().String(), dead(t), closedPort(t)
	for name, addresses := range map[string][]string{
		"live": {live}, "a dead one first": {silent, live}, "the dead one last": {live, silent}, "two dead ones": {silent, silent, live},
		"one that refuses": {refuses, live}, "many that refuse": {refuses, refuses, refuses, refuses, refuses, refuses, refuses, refuses, refuses, live},
		"dead and refusing": {silent, refuses, live},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			began := time.Now()
			conn, err := dialFirst(t.Context(), "tcp", addresses)
			if err != nil || conn.RemoteAddr().String() != live {
				t.Fatal(conn, err)
			}
			_ = conn.Close()
			if took := time.Since(began); took > 2*time.Second {
				t.Error("it took", took)
			}
		})
	}
	t.Run("none", func(t *testing.T) {
		t.Parallel()
		if _, err := dialFirst(t.Context(), "tcp", []string{refuses, refuses}); !errors.Is(err, syscall.ECONNREFUSED) {
			t.Error(err)
		}
		ctx, cancel := context.WithTimeout(t.Context(), dialStagger/2)
		defer cancel()
		if _, err := dialFirst(ctx, "tcp", []string{silent, silent, silent}); !errors.Is(err, context.DeadlineExceeded) {
			if timeout, ok := errors.AsType[net.Error](err); !ok || !timeout.Timeout() {
				t.Error(err)
			}
		}
	})
}

func closedPort(t *testing.T) string {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	_ = ln.Close()
	return ln.Addr().String()
}

func TestDialNames(t *testing.T) {
	t.Parallel()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = ln.Close() })
	_, port, _ := net.SplitHostPort(ln.Addr().String())
	for _, host := range []string{"localhost", "127.0.0.1", "::ffff:127.0.0.1"} {
		conn, err := dial(t.Context(), "tcp", net.JoinHostPort(host, port))
		if err != nil {
			t.Error(host, err)
			continue
		}
		_ = conn.Close()
	}
	_, err = dial(t.Context(), "tcp", "no..name:80")
	if failed, ok := errors.AsType[*net.OpError](err); !ok || failed.Op != "dial" {
		t.Error(err)
	}
}
