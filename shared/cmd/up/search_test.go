package main

import (
	"bufio"
	"bytes"
	"encoding/hex"
	"fmt"
	"html"
	"io"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
)

const maxPages = 1000 // of one service

// link finds what a page, a feed or an answer links to.
var link = regexp.MustCompile(`(?:href|src|action)="([^"#]+)|"(http://[^"#\\]+)"`)

// crawl asks for what a service links to, up to so many addresses of a kind, from a few addresses on, as a browser and
// as a program.
func (b *bench) crawl(t *testing.T, base string, ofKind int, visit func(url string, status int, body []byte)) {
	t.Helper()
	from, err := url.Parse(base)
	if err != nil {
		t.Fatal(err)
	}
	queue, seen, kinds := []string{}, map[string]bool{}, map[string]int{}
	add := func(at *url.URL, to string) {
		u, err := at.Parse(html.UnescapeString(to))
		if err != nil || u.Host != from.Host {
			return
		}
		if u.Fragment = ""; !seen[u.String()] && kinds[kind(u)] < ofKind {
			seen[u.String()] = true
			kinds[kind(u)]++
			queue = append(queue, u.String())
		}
	}
	for _, source := range sources {
		for _, path := range []string{"/polls", "/rejected", "/schedule?schedule=@hourly"} {
			add(from, "/subscriptions/"+source.feed+path)
		}
	}
	for _, path := range []string{"/", "/feeds", "/subscriptions", "/metrics", "/api/parts", "/api/stats", "/api/invoices", "/api/shipments", "/api/builds", "/api/mails", "/api/services"} {
		add(from, path)
	}
	for n := 0; n < len(queue); n++ {
		if n == maxPages {
			t.Fatalf("%s has more than %d pages", base, maxPages)
		}
		at, err := url.Parse(queue[n])
		if err != nil {
			t.Fatal(err)
		}
		for _, accept := range []string{"text/html", "application/json"} {
			status, body := b.ask(t, http.MethodGet, queue[n], "", accept)
			visit(queue[n], status, body)
			for _, found := range link.FindAllSubmatch(body, -1) {
				add(at, string(found[1])+string(found[2]))
			}
		}
	}
}

// ask sends a request, with a body of JSON if there is one, and wants an answer.
func (b *bench) ask(t *testing.T, method, url, body, accept string) (status int, answer []byte) {
	t.Helper()
	req, err := http.NewRequest(method, url, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Accept", accept)
	if body != "" {
		req.Header.Set("Content-Type", "application/json")
	}
	resp, err := client.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	if answer, err = io.ReadAll(resp.Body); err != nil {
		t.Fatalf("%s %s: %v", method, url, err)
	}
	return resp.StatusCode, answer
}

// search returns where the words are: on every page, in every table, in every log.
func (b *bench) search(t *testing.T, words ...string) (places []string) {
	t.Helper()
	look := func(place string, text []byte) {
		text = bytes.ToLower(text)
		for _, word := range words {
			word := strings.ToLower(word)
			// pg_dump writes bytea in hexadecimal digits.
			if bytes.Contains(text, []byte(word)) || bytes.Contains(text, []byte(hex.EncodeToString([]byte(word)))) {
				places = append(places, place+": "+word)
			}
		}
	}
	pages := 0
	for name, base := range b.sites() {
		b.crawl(t, base, maxPages, func(url string, _ int, body []byte) {
			pages++
			look("page "+name+" "+strings.TrimPrefix(url, base), body)
		})
	}
	for _, s := range b.withDatabase() {
		b.dump(t, filepath.Join(b.dir, s.name), s.name, func(table string, row []byte) { look("table "+s.name+"."+table, row) })
		log, err := os.ReadFile(filepath.Join(b.dir, s.name, "postgres.log"))
		if err != nil {
			t.Fatal(err)
		}
		look("log of the server of "+s.name, log)
	}
	logs, err := filepath.Glob(filepath.Join(b.dir, "log", "*"))
	if err != nil || len(logs) < len(b.services) {
		t.Errorf("the logs of the services are %q, %v", logs, err)
	}
	for _, path := range logs {
		text, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		look("log "+path, text)
	}
	for _, p := range b.started {
		look("log of "+strings.Join(p.Args, " "), []byte(p.text(t)))
	}
	slices.Sort(places)
	t.Logf("searched %d answers", pages)
	return slices.Compact(places)
}

// sites are the services and the map. The mail sink is not one of them: what it has got is with those whom it was for.
func (b *bench) sites() map[string]string {
	all := map[string]string{"map": fmt.Sprintf("http://localhost:%d", mapPort+b.offset)}
	for _, s := range b.withDatabase() {
		all[s.name] = b.url(s.name)
	}
	return all
}

// dump returns what pg_dump writes of a database whose server is in dir, line by line.
func (b *bench) dump(t *testing.T, dir, database string, visit func(table string, row []byte)) {
	t.Helper()
	opts, err := os.ReadFile(filepath.Join(dir, "data", "postmaster.opts"))
	if err != nil {
		t.Fatal(err)
	}
	postgres, _, _ := strings.Cut(string(opts), ` "-D"`)
	host, port, err := socket(dir)
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(filepath.Join(filepath.Dir(postgres), "pg_dump"), "-h", host, "-p", port, "-U", "postgres", database)
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("pg_dump %s: %v", database, err)
	}
	table, tables := "", 0
	for lines := bufio.NewReader(bytes.NewReader(out)); err == nil; {
		var line []byte
		line, err = lines.ReadBytes('\n')
		if name, ok := bytes.CutPrefix(line, []byte("COPY public.")); ok {
			name, _, _ = bytes.Cut(name, []byte(" "))
			table, tables = string(name), tables+1
		}
		visit(table, line)
		if string(line) == "\\.\n" {
			table = ""
		}
	}
	if tables < 3 {
		t.Errorf("the dump of %s has %s tables", database, strconv.Itoa(tables))
	}
}
