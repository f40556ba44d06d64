package check

import (
	"encoding/json"
	"net/http"
	"strings"
)

// A fault is a way in which a source, or what stands before it, misbehaves. While it lasts, a reader may fail, but its
// copy may not become wrong.
type fault struct {
	name   string
	after  int // that many requests are answered honestly before
	answer func(s *source, w http.ResponseWriter, r *http.Request)
}

func answering(status int, body string, headers ...string) func(*source, http.ResponseWriter, *http.Request) {
	return func(_ *source, w http.ResponseWriter, _ *http.Request) {
		for i := 0; i < len(headers); i += 2 {
			w.Header().Set(headers[i], headers[i+1])
		}
		w.WriteHeader(status)
		_, _ = w.Write([]byte(body))
	}
}

func editing(edit func(page, own map[string]any, items []any)) func(*source, http.ResponseWriter, *http.Request) {
	return func(s *source, w http.ResponseWriter, r *http.Request) { s.edited(w, r, edit) }
}

// cut answers with a part of the honest body, as its length says or as a connection that ends early.
func cut(early bool) func(*source, http.ResponseWriter, *http.Request) {
	return func(s *source, w http.ResponseWriter, r *http.Request) {
		page, _ := s.page(r)
		body, _ := json.Marshal(page)
		w.Header().Set("Content-Type", "application/feed+json")
		if early {
			w.Header().Set("Content-Length", "1000000")
		}
		_, _ = w.Write(body[:len(body)*2/3])
		if early {
			panic(http.ErrAbortHandler)
		}
	}
}

const jsonFeed = "application/feed+json"

func empty(cursor string) string {
	return `{"version":"https://jsonfeed.org/version/1.1","title":"Entities","_datafeed":{"cursor":"` + cursor + `","next":"x","sealed":false,"up_to_date":true,"head":"` + cursor + `"},"items":[]}`
}

var faults = []fault{
	{"it answers 500", 0, answering(500, `{"title":"Broken","status":500}`, "Content-Type", "application/problem+json")},
	{"it answers 500 after the first page", 1, answering(500, `{"title":"Broken","status":500}`, "Content-Type", "application/problem+json")},
	{"it answers 503 with Retry-After", 0, answering(503, `{"title":"Not now","status":503}`, "Content-Type", "application/problem+json", "Retry-After", "1")},
	{"it answers 404", 0, answering(404, "not found", "Content-Type", "text/plain")},
	{"it answers 401", 0, answering(401, `{"title":"No token","status":401}`, "Content-Type", "application/problem+json")},
	{"it answers 204", 0, answering(204, "")},
	{"it answers 304 to everything", 0, func(s *source, w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("If-None-Match") != "" {
			s.honest(w, r)
			return
		}
		w.WriteHeader(http.StatusNotModified)
	}},
	{"a proxy shows a page for people", 0, answering(200, "<!doctype html><p>Maintenance", "Content-Type", "text/html")},
	{"the body is empty", 0, answering(200, "", "Content-Type", jsonFeed)},
	{"the body is an array", 0, answering(200, "[]", "Content-Type", jsonFeed)},
	{"the body is null", 0, answering(200, "null", "Content-Type", jsonFeed)},
	{"it is somebody else's feed", 0, answering(200, `{"version":"https://jsonfeed.org/version/1.1","title":"News","items":[]}`, "Content-Type", jsonFeed)},
	{"the connection ends in the body", 0, cut(true)},
	{"half a page looks whole", 0, cut(false)},
	{"the connection ends at once", 0, func(*source, http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) }},
	{"the first item of each page is left out", 0, editing(func(page, _ map[string]any, items []any) {
		if len(items) > 0 {
			page["items"] = items[1:]
		}
	})},
	{"the last item of each page is left out", 0, editing(func(page, _ map[string]any, items []any) {
		if len(items) > 0 {
			page["items"] = items[:len(items)-1]
		}
	})},
	{"an item comes twice", 0, editing(func(page, _ map[string]any, items []any) {
		if len(items) > 0 {
			page["items"] = append(items, items[0])
		}
	})},
	{"the items are in another order", 0, editing(func(_, _ map[string]any, items []any) {
		if n := len(items); n > 1 {
			items[0], items[n-1] = items[n-1], items[0]
		}
	})},
	{"a position is wrong", 0, editing(func(_, _ map[string]any, items []any) {
		if n := len(items); n > 0 {
			items[n-1].(map[string]any)["_datafeed"].(map[string]any)["position"] = 1_000_000
		}
	})},
	{"the pages are empty, and the cursor goes on", 0, editing(func(page, own map[string]any, items []any) {
		page["items"] = []any{}
	})},
	{"the page is of another place", 0, func(s *source, w http.ResponseWriter, r *http.Request) {
		other := len(s.entries) / 2
		s.write(w, r, s.pageOf(r, other, len(s.entries), 1000))
	}},
	{"the page is that of the start", 0, func(s *source, w http.ResponseWriter, r *http.Request) {
		if !strings.Contains(r.URL.RawQuery, "after=0&") && !strings.HasSuffix(r.URL.RawQuery, "after=0") {
			s.write(w, r, s.pageOf(r, 0, min(5, len(s.entries)), 5))
			return
		}
		answering(200, empty("7-000000000000"), "Content-Type", jsonFeed)(s, w, r)
	}},
	{"the items are no array", 0, editing(func(page, _ map[string]any, _ []any) { page["items"] = "none" })},
	{"the cursor is missing", 0, editing(func(_, own map[string]any, _ []any) { delete(own, "cursor") })},
	{"the cursor is that of another position", 0, editing(func(_, own map[string]any, items []any) {
		if len(items) > 0 {
			own["cursor"] = "999999-abcdefabcdef"
		}
	})},
}
