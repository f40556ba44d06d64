package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os/exec"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/edison-cars/data-feeds/shared/postgres/pgtest"
)

const (
	openFiles = 600 // that the process may have
	greedy    = 700 // connections of one client
)

// clientAt returns a client with an address of its own, and a new connection for each request.
func clientAt(ip string) *http.Client {
	dialer := &net.Dialer{LocalAddr: &net.TCPAddr{IP: net.ParseIP(ip)}}
	return &http.Client{Transport: &http.Transport{DialContext: dialer.DialContext, DisableKeepAlives: true}}
}

// hold opens connections of 127.0.0.1 that each send the text and leave the rest to the server, until the test ends. It
// returns how often each status was answered, and as "" how many requests were held.
func hold(t *testing.T, addr, text string) map[string]int {
	t.Helper()
	var opening sync.WaitGroup
	var mu sync.Mutex
	statuses := map[string]int{}
	turns := make(chan struct{}, 32)
	for range greedy {
		opening.Go(func() {
			turns <- struct{}{}
			defer func() { <-turns }()
			conn, err := net.Dial("tcp", addr)
			if err != nil {
				return // it is refused
			}
			t.Cleanup(func() { _ = conn.Close() })
			_, _ = io.WriteString(conn, text)
			if strings.HasPrefix(text, "GET") { // until the server has seen it
				_ = conn.SetReadDeadline(time.Now().Add(50 * time.Millisecond))
				line, _ := bufio.NewReader(conn).ReadString('\n')
				status, _, _ := strings.Cut(strings.TrimPrefix(line, "HTTP/1.1 "), " ")
				mu.Lock()
				statuses[status]++
				mu.Unlock()
			}
		})
	}
	opening.Wait()
	return statuses
}

// Whatever one client holds of a process with few files, another one buys, reads and waits, and health answers.
func TestOverload(t *testing.T) {
	t.Parallel()
	binary := build(t)
	for name, text := range map[string]string{
		"connections without a request": "",
		"requests that wait":            "GET /feeds/orders HTTP/1.1\r\nHost: localhost\r\nIf-None-Match: *\r\nPrefer: wait=30\r\n\r\n",
		"event streams":                 "GET /feeds/orders HTTP/1.1\r\nHost: localhost\r\nAccept: text/event-stream\r\n\r\n",
		"headers that do not end":       "POST /orders HTTP/1.1\r\nHost: localhost\r\nX",
		"bodies that do not come":       "POST /orders HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: 100\r\n\r\n",
	} {
		t.Run(name, func(t *testing.T) {
			cmd := exec.Command("sh", "-c", fmt.Sprintf("ulimit -n %d && exec %q", openFiles, binary))
			_, url := start(t, cmd, pgtest.URL(pgtest.New(t)))
			ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
			defer cancel()
			statuses := hold(t, strings.TrimPrefix(url, "http://"), text)
			t.Log("answered:", statuses)
			held := statuses[""] + statuses["200"]
			for status := range statuses {
				if held == 0 || !slices.Contains([]string{"", "200", "304", "429", "503"}, status) {
					t.Errorf("answered: %v", statuses)
				}
			}
			other := clientAt("127.0.0.2")
			for _, path := range []string{"/livez", "/readyz", "/feeds/orders", "/"} {
				if err := answers(ctx, other, url+path); err != nil {
					t.Error(err)
				}
			}
			for i := range 10 {
				if _, err := buy(ctx, other, url, fmt.Sprint(i)); err != nil {
					t.Error(err)
				}
			}
			if err := waits(ctx, other, url+"/feeds/orders.atom"); err != nil {
				t.Error(err)
			}
		})
	}
}

func answers(ctx context.Context, client *http.Client, url string) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return err
	}
	resp, err := client.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if _, err := io.Copy(io.Discard, resp.Body); err != nil || resp.StatusCode != http.StatusOK {
		return fmt.Errorf("%s: %s, %w", url, resp.Status, err)
	}
	return nil
}

// waits reports an error unless the source holds a request of the client.
func waits(ctx context.Context, client *http.Client, url string) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return err
	}
	req.Header.Set("If-None-Match", "*")
	req.Header.Set("Prefer", "wait=1")
	resp, err := client.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusNotModified || resp.Header.Get("Preference-Applied") == "" {
		return errors.New("the request was not held: " + resp.Status)
	}
	return nil
}
