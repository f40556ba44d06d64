package check

import (
	"fmt"
	"net/http"
	"slices"
	"strings"
)

// later answers requests for later pages of a snapshot, and others honestly.
func later(answer func(*source, http.ResponseWriter, *http.Request)) func(*source, http.ResponseWriter, *http.Request) {
	return func(s *source, w http.ResponseWriter, r *http.Request) {
		if r.URL.Query().Has("from") {
			answer(s, w, r)
			return
		}
		s.honest(w, r)
	}
}

// editingSnapshot answers with pages of snapshots after edit has changed them, and honestly to other requests.
func editingSnapshot(edit func(page, own map[string]any, items []any)) func(*source, http.ResponseWriter, *http.Request) {
	return func(s *source, w http.ResponseWriter, r *http.Request) {
		page, status := s.page(r)
		if status != http.StatusOK || !r.URL.Query().Has("snapshot") {
			s.honest(w, r)
			return
		}
		edit(page, page["_datafeed"].(map[string]any), page["items"].([]any))
		s.write(w, r, page)
	}
}

// asked answers honestly to another query than that of the request.
func asked(s *source, w http.ResponseWriter, r *http.Request, names ...string) {
	other := r.Clone(r.Context())
	q := other.URL.Query()
	for i := 0; i < len(names); i += 2 {
		if q.Set(names[i], names[i+1]); names[i+1] == "" {
			q.Del(names[i])
		}
	}
	other.URL.RawQuery = q.Encode()
	s.honest(w, other)
}

// goesOn reports whether another page of the snapshot follows.
func goesOn(own map[string]any) bool { return strings.Contains(own["next"].(string), "&from=") }

// linked changes the place after which the next page of the snapshot begins.
func linked(own map[string]any, from any) {
	link, rest, _ := strings.Cut(own["next"].(string), "&from=")
	_, limit, _ := strings.Cut(rest, "&")
	own["next"] = fmt.Sprintf("%s&from=%s&%s", link, strings.TrimPrefix(from.(string), "urn:uuid:"), limit)
}

// passing is not a fault: a page that has found only entities which are newer than the snapshot.
var passing = fault{"a page passes newer entities", 0, func(s *source, w http.ResponseWriter, r *http.Request) {
	editingSnapshot(func(page, own map[string]any, _ []any) {
		if through := idOf(0); r.URL.Query().Get("from") < through { // it lies before the first one
			page["items"], own["through"] = []any{}, through
			own["next"] = fmt.Sprintf("http://%s%s?snapshot=%s&from=%s&limit=3", r.Host, r.URL.Path, own["snapshot"], through)
		}
	})(s, w, r)
}}

// snapshotFaults are those of the pages of a snapshot.
var snapshotFaults = []fault{
	{"the source answers 500", 0, later(answering(500, `{"title":"Broken","status":500}`, "Content-Type", "application/problem+json"))},
	{"the body is empty", 0, later(answering(200, "", "Content-Type", jsonFeed))},
	{"the connection ends in the body", 0, later(cut(true))},
	{"half a page looks whole", 0, later(cut(false))},
	{"a page comes again", 0, later(func(s *source, w http.ResponseWriter, r *http.Request) { asked(s, w, r, "from", "") })},
	{"each page is of a snapshot of its own", 0, later(func(s *source, w http.ResponseWriter, r *http.Request) {
		s.change(1)
		asked(s, w, r, "snapshot", "0")
	})},
	{"a page is empty, and goes on with itself", 0, later(func(s *source, w http.ResponseWriter, r *http.Request) {
		editingSnapshot(func(page, own map[string]any, _ []any) {
			page["items"], own["next"] = []any{}, "http://"+r.Host+r.URL.String()
		})(s, w, r)
	})},
	{"pages are empty, and go on", 0, editingSnapshot(func(page, own map[string]any, _ []any) {
		if goesOn(own) {
			page["items"] = []any{}
		}
	})},
	{"the last item of each page is left out", 0, editingSnapshot(func(page, own map[string]any, items []any) {
		if goesOn(own) {
			page["items"] = items[:len(items)-1]
		}
	})},
	{"an item comes twice", 0, editingSnapshot(func(page, own map[string]any, items []any) {
		if len(items) > 0 {
			page["items"] = append(items[:1], items...)
		}
	})},
	{"the items are in another order", 0, editingSnapshot(func(_, _ map[string]any, items []any) { slices.Reverse(items) })},
	{"the next page is an earlier one", 0, editingSnapshot(func(_, own map[string]any, items []any) {
		if goesOn(own) {
			linked(own, items[0].(map[string]any)["id"])
		}
	})},
	{"the next page is one further on", 0, editingSnapshot(func(_, own map[string]any, _ []any) {
		if goesOn(own) {
			linked(own, idOf(9))
		}
	})},
	{"the replay after it begins too late", 0, func(s *source, w http.ResponseWriter, r *http.Request) {
		editingSnapshot(func(_, own map[string]any, _ []any) {
			if !goesOn(own) {
				s.change(1)
				own["next"] = fmt.Sprintf("http://%s%s?after=%s&limit=1000", r.Host, r.URL.Path, s.cursor(len(s.entries)))
			}
		})(s, w, r)
	}},
	{"a page says that it is up to date", 0, editingSnapshot(func(_, own map[string]any, _ []any) {
		own["cursor"], own["head"], own["up_to_date"], own["sealed"] = own["snapshot"], own["snapshot"], true, false
	})},
	{"a page does not say what follows", 0, editingSnapshot(func(_, own map[string]any, _ []any) { delete(own, "next") })},
}

// lost are the ways in which a source answers that has no snapshots any more.
var lost = []fault{
	{"400", 0, withoutSnapshots(answering(400, `{"title":"Bad Request","status":400}`, "Content-Type", "application/problem+json"))},
	{"404", 0, withoutSnapshots(answering(404, "not found", "Content-Type", "text/plain"))},
	{"a replay page", 0, withoutSnapshots(func(s *source, w http.ResponseWriter, r *http.Request) {
		asked(s, w, r, "snapshot", "", "from", "", "after", "0")
	})},
}

func withoutSnapshots(answer func(*source, http.ResponseWriter, *http.Request)) func(*source, http.ResponseWriter, *http.Request) {
	return func(s *source, w http.ResponseWriter, r *http.Request) {
		if r.URL.Query().Has("snapshot") {
			answer(s, w, r)
			return
		}
		s.honest(w, r)
	}
}
