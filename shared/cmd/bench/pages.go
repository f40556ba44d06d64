package main

import (
	"bytes"
	"cmp"
	"context"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"os"
	"path/filepath"

	"github.com/edison-cars/data-feeds/shared/feed"
	"github.com/edison-cars/data-feeds/shared/publish"
)

// A page is what a case asks for.
type page struct {
	name string
	path map[string]string // by the kind of server; a kind that is missing does not take part
	gzip bool
	etag map[string]string // for a conditional request; nil: an unconditional one
}

func (p *page) request(kind string) (text string, status int) {
	text = "GET " + p.path[kind] + " HTTP/1.1\r\nHost: localhost\r\n"
	if p.gzip {
		text += "Accept-Encoding: gzip\r\n"
	}
	if p.etag == nil {
		return text + "\r\n", http.StatusOK
	}
	return text + "If-None-Match: " + p.etag[kind] + "\r\n\r\n", http.StatusNotModified
}

// requests is how many of a page one measurement sends.
func (p *page) requests(kind string) int {
	switch {
	case kind == structsKind:
		return 1000
	case p.etag != nil:
		return 40_000
	default:
		return 10_000
	}
}

// prepare fills the feed, and puts the bytes that it serves where nginx finds them.
func (r *reads) prepare(ctx context.Context) ([]page, error) {
	if err := r.fill(ctx); err != nil {
		return nil, err
	}
	s, err := startServer(ctx, r.env, feedKind, r.source(feedKind))
	if err != nil {
		return nil, err
	}
	defer func() { _, _ = s.stop() }()
	feedURL := "http://" + s.addr + "/feeds/" + feedName
	client := feed.NewClient("")
	defer client.Close()
	second, err := client.Get(ctx, feed.Request{URL: feedURL, Limit: 2 * feed.PageSize})
	if err != nil {
		return nil, err
	}
	sealed, tail := "?after=0&limit=100", "?after="+second.Page.Cursor.String()+"&limit=100"
	feeds := "/feeds/" + feedName
	pages := []page{
		{name: "304", path: map[string]string{feedKind: feeds + ".json" + tail, nginxKind: "/tail.json"}, etag: map[string]string{}},
		{name: "tail", path: map[string]string{feedKind: feeds + ".json" + tail, nginxKind: "/tail.json", structsKind: "/orders?after=200"}},
		{name: "sealed", path: map[string]string{feedKind: feeds + ".json" + sealed, nginxKind: "/sealed.json", structsKind: "/orders?after=0"}},
		{name: "sealed gzip", path: map[string]string{feedKind: feeds + ".json" + sealed, nginxKind: "/sealed.json", structsKind: "/orders?after=0"}, gzip: true},
		{name: "Atom", path: map[string]string{feedKind: feeds + ".atom" + sealed, nginxKind: "/sealed.atom"}},
	}
	if r.nginx == nil {
		_, pages[0].etag[feedKind], err = fetch(ctx, s.addr, &pages[0], feedKind)
		return pages, err
	}
	return pages, r.fillNginx(ctx, s.addr, pages)
}

// fillNginx writes its files, and checks that it serves the same bytes.
func (r *reads) fillNginx(ctx context.Context, feedAddr string, pages []page) error {
	if err := os.MkdirAll(filepath.Join(r.dir, "www"), 0o755); err != nil {
		return err
	}
	bodies := make([][]byte, len(pages))
	for i := range pages {
		p := &pages[i]
		body, etag, err := fetch(ctx, feedAddr, p, feedKind)
		if err != nil {
			return err
		}
		if bodies[i] = body; p.etag != nil {
			p.etag[feedKind] = etag
		}
		file := filepath.Join(r.dir, "www", p.path[nginxKind])
		if p.gzip {
			file += ".gz"
		}
		if err := os.WriteFile(file, body, 0o644); err != nil {
			return err
		}
	}
	nginx, err := startServer(ctx, r.env, nginxKind, r.dir)
	if err != nil {
		return err
	}
	defer func() { _, _ = nginx.stop() }()
	for i := range pages {
		p := &pages[i]
		body, etag, err := fetch(ctx, nginx.addr, p, nginxKind)
		if err != nil {
			return err
		}
		if !bytes.Equal(body, bodies[i]) {
			return fmt.Errorf("%s: nginx serves other bytes than the feed", p.name)
		}
		if p.etag != nil {
			p.etag[nginxKind] = etag
		}
	}
	return nil
}

// fill leaves the feed, and the orders beside it, with 299 of them.
func (r *reads) fill(ctx context.Context) error {
	_, err := r.db.Exec(ctx, `
		delete from feed_entry; delete from feed; truncate orders; select feed_create('`+feedName+`')`)
	if err != nil {
		return err
	}
	log, err := publish.Open(ctx, r.db, slog.New(slog.DiscardHandler))
	if err != nil {
		return err
	}
	defer log.Close()
	for range entries {
		change, err := newChange(newOrder())
		if err != nil {
			return err
		}
		if err := log.Commit(ctx, change); err != nil {
			return err
		}
	}
	_, err = r.db.Exec(ctx, `vacuum analyze`)
	return err
}

// fetch gives the body as it travels, in the content coding of the page.
func fetch(ctx context.Context, addr string, p *page, kind string) (body []byte, etag string, err error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+addr+p.path[kind], nil)
	if err != nil {
		return nil, "", err
	}
	coding := ""
	if p.gzip {
		coding = "gzip"
	}
	req.Header.Set("Accept-Encoding", cmp.Or(coding, "identity"))
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return nil, "", err
	}
	defer resp.Body.Close()
	body, err = io.ReadAll(resp.Body)
	if etag = resp.Header.Get("ETag"); err == nil && (resp.StatusCode != http.StatusOK || etag == "" || resp.Header.Get("Content-Encoding") != coding) {
		err = fmt.Errorf("%s: %s, ETag %q, Content-Encoding %q: %.200q", p.path[kind], resp.Status, etag, resp.Header.Get("Content-Encoding"), body)
	}
	return body, etag, err
}
