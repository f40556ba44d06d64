package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/edison-cars/data-feeds/shared/feed"
	"github.com/edison-cars/data-feeds/shared/order"
	"github.com/edison-cars/data-feeds/shared/postgres/pgtest"
)

// The service that the README adds is built from it as it stands there, and copies a feed.
func TestReadmeAddsASubscriber(t *testing.T) {
	t.Parallel()
	readme, err := os.ReadFile("../README.md")
	if err != nil {
		t.Fatal(err)
	}
	root, err := filepath.Abs("..")
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	replace := map[string]string{}
	overlay := func(name, text string) {
		file := filepath.Join(dir, strings.ReplaceAll(name, "/", "_"))
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		replace[filepath.Join(root, name)] = file
	}
	for _, name := range []string{"sql/loyalty/00001_loyalty.sql", "subscribers/loyalty/loyalty.go"} {
		block := regexp.MustCompile("(?s)`" + regexp.QuoteMeta(name) + "`.*?```[a-z]+\n(.*?)```").FindSubmatch(readme)
		if block == nil {
			t.Fatalf("the README does not show %s", name)
		}
		overlay(name, string(block[1]))
	}
	main, err := os.ReadFile("main.go")
	if err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(string(readme), "`loyalty.Service,`") {
		t.Fatal("the README does not say which line to add")
	}
	text := strings.Replace(string(main), "\tdashboard.Service,\n", "\tdashboard.Service,\n\tloyalty.Service,\n", 1)
	const imported = "\t\"github.com/edison-cars/data-feeds/subscribers/dashboard\"\n"
	overlay("subscribers/main.go", strings.Replace(text, imported, imported+strings.Replace(imported, "dashboard", "loyalty", 1), 1))
	list, err := json.Marshal(map[string]any{"Replace": replace})
	if err != nil {
		t.Fatal(err)
	}
	overlay("overlay.json", string(list))
	pgtest.Slow(t, "a build")
	binary := filepath.Join(dir, "subscribers")
	build := exec.Command("go", "build", "-overlay", filepath.Join(dir, "overlay.json"), "-o", binary, ".")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}

	customer := uuid.New()
	placed := func() order.Order {
		return order.Order{ID: uuid.New(), Version: 1, Status: order.Placed, CustomerID: customer, Currency: "EUR", PlacedAt: feed.TimeOf(noon), UpdatedAt: feed.TimeOf(noon)}
	}
	feedURL := ordersFeed(t, placed(), placed())
	ctx, stop := context.WithCancel(context.Background())
	service := exec.CommandContext(ctx, binary, "loyalty")
	service.Cancel = func() error { return service.Process.Signal(os.Interrupt) }
	service.WaitDelay = 20 * time.Second
	service.Env = append(os.Environ(), "ADDR=127.0.0.1:0", "ACCESS=open", "FEED_URL_ORDERS="+feedURL, "DATABASE_URL="+pgtest.URL(pgtest.New(t)))
	out, err := service.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := service.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { stop(); _ = service.Wait() })
	var log strings.Builder
	url := listeningURL(t, io.TeeReader(out, &log))
	want := fmt.Sprintf(`[{"customer_id":"%s","orders":2}]`, customer)
	for deadline := time.Now().Add(20 * time.Second); ; {
		resp, err := http.Get(url + "/api/customers")
		if err == nil {
			body, _ := io.ReadAll(resp.Body)
			_ = resp.Body.Close()
			if strings.TrimSpace(string(body)) == want {
				return
			}
			if time.Now().After(deadline) {
				t.Fatalf("it answers %s, not %s", body, want)
			}
		}
		time.Sleep(20 * time.Millisecond)
	}
}

// listeningURL reads the log up to where a service says where it listens.
func listeningURL(t *testing.T, log io.Reader) string {
	t.Helper()
	text := ""
	for b := make([]byte, 1024); ; {
		n, err := log.Read(b)
		text += string(b[:n])
		if at := regexp.MustCompile(`msg=listening url=(\S+)\n`).FindStringSubmatch(text); at != nil {
			go func() { _, _ = io.Copy(io.Discard, log) }()
			return at[1]
		}
		if err != nil {
			t.Fatalf("it does not listen: %v\n%s", err, text)
		}
	}
}
