// Package readme_test runs what README.md shows.
package readme_test

import (
	"bytes"
	"context"
	"fmt"
	"go/format"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/edison-cars/data-feeds/shared/postgres/pgtest"
)

const (
	root = "../../.."
	up   = "go run ./shared/cmd/up\n" // the block that starts the company
)

func TestMain(m *testing.M) { pgtest.Main(m) }

// blocks matches a block, the language that it is marked with, and the output behind it if there is one.
var blocks = regexp.MustCompile("(?ms)^```(\\w*)\n(.*?)^```\n(?:```text\n(.*?)^```\n)?")

func readme(t *testing.T) string {
	t.Helper()
	text, err := os.ReadFile(root + "/README.md")
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

// The blocks marked sh run in their order in one shell, on a fresh company, and print what stands behind them.
func TestReadme(t *testing.T) {
	t.Parallel()
	pgtest.Slow(t, "the whole company")
	dir, offset := pgtest.Dir(t), freeOffset(t)
	moved := func(text string) string { // to the ports and the folder of this company
		return strings.ReplaceAll(ports.ReplaceAllStringFunc(text, func(s string) string {
			host, port, _ := strings.Cut(s, ":")
			n, _ := strconv.Atoi(port)
			return host + ":" + strconv.Itoa(n+offset)
		}), ".edison/", dir+"/")
	}
	var script strings.Builder
	var wants []string
	for _, block := range blocks.FindAllStringSubmatch(readme(t), -1) {
		if block[1] == "sh" && block[2] != up {
			fmt.Fprintf(&script, "%s\necho '%s'\n", moved(block[2]), separator)
			wants = append(wants, block[3])
		}
	}
	if len(wants) < 10 {
		t.Fatalf("README.md has %d blocks to run: has their form changed?", len(wants))
	}
	startCompany(t, dir, offset)

	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Minute)
	defer cancel()
	shell := exec.CommandContext(ctx, "bash")
	shell.Dir, shell.Stdin, shell.Stderr = root, strings.NewReader(script.String()), os.Stderr
	shell.Env = append(os.Environ(), "DATA_DIR="+dir)
	for name, value := range map[string]string{ // the defaults of sales, when it is started again, and of the commands
		"SERVICES": "warehouse=http://localhost:8090", "ADDR": "localhost:8080", "PUBLIC_URL": "http://localhost:8080", "CUSTOMERS_URL": "http://localhost:8081",
	} {
		shell.Env = append(shell.Env, name+"="+moved(value))
	}
	inGroup(t, shell)
	shell.WaitDelay = time.Second
	out, err := shell.Output()
	if err != nil {
		t.Errorf("%v: %s", err, out)
	}
	gots := strings.Split(string(out), separator+"\n")
	for i, want := range wants {
		if i >= len(gots)-1 {
			t.Fatalf("the shell ended before block %d", i+1)
		}
		if got := normal(gots[i], offset); got != normal(want, 0) {
			t.Errorf("block %d printed\n%s\nREADME.md shows\n%s", i+1, gots[i], want)
		}
	}
}

// startCompany runs up until the end of the test, and returns when everything is up.
func startCompany(t *testing.T, dir string, offset int) {
	t.Helper()
	log := filepath.Join(t.TempDir(), "up.log")
	file, err := os.Create(log)
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	args := strings.Fields(up)[1:]
	args = append(args, "--dir", dir, "--port-offset", strconv.Itoa(offset))
	company := exec.Command("go", args...)
	company.Dir, company.Stdout, company.Stderr = root, file, file
	inGroup(t, company)
	if err := company.Start(); err != nil {
		t.Fatal(err)
	}
	exited := make(chan bool, 1)
	go func() { _ = company.Wait(); exited <- true }()
	t.Cleanup(func() {
		_ = syscall.Kill(-company.Process.Pid, syscall.SIGINT)
		<-exited
	})
	for deadline := time.Now().Add(3 * time.Minute); ; time.Sleep(100 * time.Millisecond) {
		text, err := os.ReadFile(log)
		switch {
		case err != nil:
			t.Fatal(err)
		case bytes.Contains(text, []byte("everything is up")):
			return
		case len(exited) > 0 || bytes.Contains(text, []byte(" has died")) || time.Now().After(deadline):
			t.Fatalf("the company is not up:\n%s", text)
		}
	}
}

// inGroup has the command run in a process group of its own, which ends with the test.
func inGroup(t *testing.T, cmd *exec.Cmd) {
	t.Helper()
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	t.Cleanup(func() {
		if cmd.Process != nil {
			_ = syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL)
		}
	})
}

const separator = "--- the end of a block ---"

var (
	ports = regexp.MustCompile(`localhost:\d+`)
	// What differs from run to run, and what stands in its place.
	varying = []struct {
		pattern *regexp.Regexp
		as      string
	}{
		{regexp.MustCompile(`\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z`), "TIME"},
		{regexp.MustCompile(`(\d+)-[0-9a-f]{12}\b`), "$1-DIGEST"},
		{regexp.MustCompile(`Order [0-9a-f]{8} `), "Order ID "},
		{regexp.MustCompile(`state=(fresh|stale)`), "state=STATE"}, // a slow machine needs longer to the answer
		{regexp.MustCompile(`\r`), ""},
	}
)

// normal returns the text without what differs from run to run, with ports moved back by offset.
func normal(text string, offset int) string {
	text = ports.ReplaceAllStringFunc(text, func(s string) string {
		host, port, _ := strings.Cut(s, ":")
		n, _ := strconv.Atoi(port)
		return host + ":" + strconv.Itoa(n-offset)
	})
	for _, v := range varying {
		text = v.pattern.ReplaceAllString(text, v.as)
	}
	return strings.TrimSpace(text)
}

// freeOffset returns what to add to the ports of the company, 1025 and 8025 to 8097, so that they are free.
func freeOffset(t *testing.T) int {
	t.Helper()
	// Above the offsets that shared/cmd/up's tests use (to 24,475), below the ports of outgoing connections (from
	// 32,768).
	for offset := 24_560; offset < 24_670; offset += 10 {
		taken := false
		for port := 8025; port < 8100 && !taken; port++ {
			taken = !free(t, port+offset)
		}
		if !taken && free(t, 1025+offset) {
			return offset
		}
	}
	t.Fatal("no free ports")
	return 0
}

func free(t *testing.T, port int) bool {
	t.Helper()
	l, err := new(net.ListenConfig).Listen(t.Context(), "tcp", net.JoinHostPort("localhost", strconv.Itoa(port)))
	if err == nil {
		l.Close()
	}
	return err == nil
}

// The source that README.md shows is built as it stands there, in a module of its own, and its feed can be read in
// every format.
func TestReadmePublishes(t *testing.T) {
	t.Parallel()
	block := regexp.MustCompile("(?s)```go\n(package main\n.*?)```").FindStringSubmatch(readme(t))
	if block == nil {
		t.Fatal("README.md shows no source")
	}
	if formatted, err := format.Source([]byte(block[1])); err != nil || string(formatted) != block[1] {
		t.Errorf("it is not formatted: %v\n%s", err, formatted)
	}
	pgtest.Slow(t, "a build")
	l, err := new(net.ListenConfig).Listen(t.Context(), "tcp", "localhost:0")
	if err != nil {
		t.Fatal(err)
	}
	addr := fmt.Sprintf("localhost:%d", l.Addr().(*net.TCPAddr).Port)
	l.Close()
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "main.go"), []byte(strings.ReplaceAll(block[1], "localhost:9000", addr)), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat("../../../vendor"); err == nil {
		t.Skip("modules are vendored: a module of its own cannot use them")
	}
	requireUs(t, dir)
	build := exec.CommandContext(t.Context(), "go", "build", "-o", "library", ".")
	build.Dir, build.Env = dir, append(os.Environ(), "GOFLAGS=-mod=mod", "GOWORK=off")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	database := pgtest.URL(pgtest.New(t))
	library := func() (stop func()) {
		cmd := exec.Command(dir + "/library")
		var said bytes.Buffer
		cmd.Env, cmd.Stdout, cmd.Stderr = []string{"DATABASE_URL=" + database}, &said, &said
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		exited := make(chan bool, 1)
		go func() { _ = cmd.Wait(); exited <- true }()
		stop = func() {
			_ = cmd.Process.Kill()
			<-exited
		}
		for deadline := time.Now().Add(time.Minute); get(t, "http://"+addr+"/feeds/books") == ""; time.Sleep(20 * time.Millisecond) {
			if len(exited) > 0 || time.Now().After(deadline) {
				stop()
				t.Fatalf("it does not answer: %s", said.String())
			}
		}
		return stop
	}
	stop := library()
	resp, err := http.PostForm("http://"+addr+"/books", url.Values{"title": {"Emma"}})
	if err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
	stop()
	defer library()() // a second start finds the tables
	got := get(t, "http://"+addr+"/feeds/books?after=0")
	for _, want := range []string{`"position":1,"version":1,"entity":{"title":"Emma"}`, `"next":"http://` + addr + `/feeds/books?after=1-`, `"up_to_date":true`} {
		if !strings.Contains(got, want) {
			t.Errorf("%s is not in %s", want, got)
		}
	}
	for path, want := range map[string]string{
		"":              `"entity":{"title":"Emma"}`,
		"?after=0":      `"title":"Emma"`,
		".atom?after=0": `<entity xmlns="https://datafeed.example/ns/entity"><title>Emma</title></entity>`,
		".html":         "<dt>title</dt><dd>Emma</dd>",
	} {
		got := get(t, "http://"+addr+"/feeds/books"+path)
		if !strings.Contains(got, want) || strings.Contains(strings.ToLower(got), "edison") {
			t.Errorf("%s without %s, or with a word of ours: %s", path, want, got)
		}
	}
}

// requireUs makes dir a module that takes this one from where it is, with the versions that this one takes.
func requireUs(t *testing.T, dir string) {
	t.Helper()
	here, err := filepath.Abs(root)
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"go.mod", "go.sum"} {
		text, err := os.ReadFile(filepath.Join(root, name))
		if err != nil {
			t.Fatal(err)
		}
		text = regexp.MustCompile(`(?m)^module (.*)$`).ReplaceAll(text, []byte("module library.example\n\nrequire $1 v0.0.0\n\nreplace $1 => "+here))
		if err := os.WriteFile(filepath.Join(dir, name), text, 0o600); err != nil {
			t.Fatal(err)
		}
	}
}

// get returns what a URL has, or "" if it cannot be had.
func get(t *testing.T, url string) string {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, url, http.NoBody)
	if err != nil {
		t.Fatal(err)
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return ""
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil || resp.StatusCode != http.StatusOK {
		return ""
	}
	return string(body)
}
