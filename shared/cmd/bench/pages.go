package main

import (
	"bytes"
	"cmp"
	"context"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"

	"github.com/edison-cars/data-feeds/shared/feed"
	"github.com/edison-cars/data-feeds/shared/feedclient"
	"github.com/edison-cars/data-feeds/shared/order"
)

type page struct {
	name string
	path map[string]string // by the kind of server; a kind that is missing does not take part
	gzip bool
	etag map[string]string // for a conditional request, or nil
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

func (r *reads) prepare(ctx context.Context) ([]page, error) {
	if err := r.fill(ctx, entries); err != nil {
		return nil, err
	}
	s, err := r.startSource(ctx, nil)
	if err != nil {
		return nil, err
	}
	defer s.stop()
	feedURL := "http://" + s.addr + "/feeds/" + order.Feed
	client := feedclient.New("")
	defer client.Close()
	second, err := client.Get(ctx, feedclient.Request{URL: feedURL, Limit: 2 * feed.PageSize})
	if err != nil {
		return nil, err
	}
	feeds, first, last := "/feeds/"+order.Feed, "?after=0&limit=100", "?after="+second.Page.Cursor.String()+"&limit=100"
	tail := map[string]string{feedKind: feeds + ".json" + last, nginxKind: "/tail.json", structsKind: "/orders?after=200"}
	sealed := map[string]string{feedKind: feeds + ".json" + first, nginxKind: "/sealed.json",
		structsKind: "/orders?after=0"}
	pages := []page{
		{name: "304", path: map[string]string{feedKind: tail[feedKind], nginxKind: tail[nginxKind]},
			etag: map[string]string{}},
		{name: "tail", path: tail},
		{name: "sealed", path: sealed},
		{name: "sealed gzip", path: sealed, gzip: true},
		{name: "Atom", path: map[string]string{feedKind: feeds + ".atom" + first, nginxKind: "/sealed.atom"}},
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
	nginx, err := r.start(ctx, nginxKind, r.dir, nil)
	if err != nil {
		return err
	}
	defer nginx.stop()
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

// fetch returns the body as it travels, in the content coding of the page.
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
	etag, got := resp.Header.Get("ETag"), resp.Header.Get("Content-Encoding")
	if err == nil && (resp.StatusCode != http.StatusOK || etag == "" || got != coding) {
		err = fmt.Errorf("%s: %s, ETag %q, Content-Encoding %q: %.200q", p.path[kind], resp.Status, etag, got, body)
	}
	return body, etag, err
}
