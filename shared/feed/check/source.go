package check

import (
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"maps"
	"net/http"
	"slices"
	"strconv"
	"sync"
)

// A source is one in memory, with replay pages and snapshots in JSON Feed alone: what a reader needs.
type source struct {
	turn      sync.Mutex // answers one request after another
	mu        sync.Mutex
	entries   []entry
	compacted string        // what superseded entries lies at or before it
	versions  map[int]int64 // by the number of the entity
	fault     *fault        // nil means that it is honest
	begun     int           // requests since the fault was set
	asked     []*http.Request
	replays   bool              // it has no snapshots
	most      int               // entries of a page; 0 means as many as any
	short     int               // the most items on a page of a snapshot; 0 means as many as the reader wants
	sealed    map[string][]byte // what a shared cache before it has stored, by query; nil means there is none
	stores    bool              // the cache stores pages of snapshots, too
	onAnswer  func()            // is called after each answer, before the reader gets the end of it
	tooOften  func()            // is called once the reader has asked more often than any reader has to
}

// An entry is one of an entity, which a number names.
type entry struct {
	entity          int
	version         int64
	deleted, erased bool
	superseded      bool   // and compacted
	body            string // the entity as JSON
	cursor          string // after it
}

func newSource() *source { return &source{versions: map[int]int64{}} }

func idOf(entity int) string { return fmt.Sprintf("%08x-0000-5000-8000-%012x", entity, entity+1) }

// put appends a new version of each of the entities, remove and erase append that one is gone.
func (s *source) put(entities ...int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, n := range entities {
		s.change(n)
	}
}

// change appends a new version of an entity. s.mu is locked.
func (s *source) change(n int) {
	s.append(entry{entity: n, body: fmt.Sprintf(`{"id": %q, "text": "entity %d “ü” \u0041 %d", "list": [1, {"a": null}]}`, idOf(n), n, len(s.entries))})
}

func (s *source) remove(n int) { s.add(entry{entity: n, deleted: true}) }

func (s *source) erase(n int) {
	s.mu.Lock()
	for i := range s.entries {
		if e := &s.entries[i]; e.entity == n {
			e.body, e.deleted, e.erased, e.superseded = "", true, true, false
		}
	}
	s.mu.Unlock()
	s.add(entry{entity: n, deleted: true, erased: true})
}

func (s *source) add(e entry) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.append(e)
}

// append appends an entry. s.mu is locked.
func (s *source) append(e entry) {
	s.versions[e.entity]++
	e.version = s.versions[e.entity]
	digest := sha256.Sum256(fmt.Appendf(nil, "%s %d %d %s", s.cursor(len(s.entries)), e.entity, e.version, e.body))
	e.cursor = fmt.Sprintf("%d-%x", len(s.entries)+1, digest[:6])
	s.entries = append(s.entries, e)
}

// restore takes the source back to a position, as a restore of its database does, from before any compaction.
func (s *source) restore(position int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.entries = s.entries[:position]
	clear(s.versions)
	for i := range s.entries {
		e := &s.entries[i]
		s.versions[e.entity], e.superseded = e.version, false
	}
}

// compact takes the content from all entries that have a newer version.
func (s *source) compact() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.compacted = s.cursor(len(s.entries))
	for i := range s.entries {
		e := &s.entries[i]
		e.superseded = e.version < s.versions[e.entity] && !e.erased
	}
}

func (s *source) cursor(position int) string {
	if position == 0 {
		return "0"
	}
	return s.entries[position-1].cursor
}

// truth is what a copy has to have, by id, apart from what was once erased.
func (s *source) truth(erased map[int]bool) map[string]row {
	s.mu.Lock()
	defer s.mu.Unlock()
	rows := map[string]row{}
	for _, e := range s.entries {
		delete(rows, idOf(e.entity))
		if !e.deleted && !erased[e.entity] {
			rows[idOf(e.entity)] = row{e.version, normal([]byte(e.body))}
		}
	}
	return rows
}

// A row is one of a copy.
type row struct {
	version int64
	entity  string // as normal returns it
}

// normal returns JSON in one form, whatever its spaces, escapes and the order of its members.
func normal(text []byte) string {
	var v any
	if json.Unmarshal(text, &v) != nil {
		return string(text)
	}
	same, _ := json.Marshal(v)
	return string(same)
}

func (s *source) setFault(f *fault) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.fault, s.begun = f, 0
}

// requests returns those since the last call.
func (s *source) requests() []*http.Request {
	s.mu.Lock()
	defer s.mu.Unlock()
	asked := s.asked
	s.asked = nil
	return asked
}

func (s *source) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	s.turn.Lock()
	defer s.turn.Unlock()
	s.mu.Lock()
	if s.onAnswer != nil {
		defer s.onAnswer()
	}
	defer s.mu.Unlock()
	if s.asked = append(s.asked, r); len(s.asked) > 1000+len(s.entries) && s.tooOften != nil {
		s.tooOften()
	}
	if body, stored := s.sealed[r.URL.RawQuery]; stored {
		w.Header().Set("Content-Type", "application/feed+json")
		_, _ = w.Write(body)
		return
	}
	if s.begun++; s.fault != nil && s.begun > s.fault.after {
		s.fault.answer(s, w, r)
		return
	}
	s.honest(w, r)
}

// honest answers as PROTOCOL.md has it.
func (s *source) honest(w http.ResponseWriter, r *http.Request) {
	p, status := s.page(r)
	switch status {
	case http.StatusGone:
		link := "http://" + r.Host + r.URL.Path + "?after=0&limit=100"
		if full := len(s.entries) / 100 * 100; full > 0 {
			link += "&history=" + s.cursor(full)
		}
		w.Header().Set("Link", "<"+link+`>; rel="start"`)
		refuse(w, status, `{"type":"http://`+r.Host+`/problems/history-diverged","title":"The history diverged","status":410}`)
	case http.StatusOK:
		s.write(w, r, p)
	default:
		refuse(w, status, fmt.Sprintf(`{"title":"Refused","status":%d}`, status))
	}
}

// page returns the page that the request asks for, or the status of the refusal.
func (s *source) page(r *http.Request) (map[string]any, int) {
	q := r.URL.Query()
	limit, err := strconv.Atoi(q.Get("limit"))
	if q.Get("limit") == "" {
		limit, err = 100, nil
	}
	if err != nil || limit < 1 || limit > 1000 || q.Has("after") == (q.Has("snapshot") && !s.replays) || len(q["after"]) > 1 {
		return nil, http.StatusBadRequest
	}
	if s.most > 0 && limit > s.most {
		return nil, http.StatusRequestEntityTooLarge
	}
	if q.Has("snapshot") {
		return s.snapshot(r, limit)
	}
	begin := int(positionOf(q.Get("after")))
	if begin > len(s.entries) || s.cursor(begin) != q.Get("after") {
		return nil, http.StatusGone
	}
	return s.pageOf(r, begin, min((begin/limit+1)*limit, len(s.entries)), limit), http.StatusOK
}

func (s *source) pageOf(r *http.Request, begin, end, limit int) map[string]any {
	items := []any{}
	for i := begin; i < end; i++ {
		items = append(items, s.item(i))
	}
	query := fmt.Sprintf("?after=%s&limit=%d", s.cursor(end), limit)
	if history := r.URL.Query().Get("history"); history != "" {
		query += "&history=" + history
	}
	own := map[string]any{
		"cursor": s.cursor(end), "next": "http://" + r.Host + r.URL.Path + query, "about": "http://" + r.Host + "/feeds",
		"sealed": begin%limit == 0 && begin+2*limit <= len(s.entries), "up_to_date": end == len(s.entries),
	}
	if own["sealed"] == false {
		own["head"] = s.cursor(len(s.entries))
	}
	return s.document(r, own, items)
}

// snapshot returns a page of a snapshot.
func (s *source) snapshot(r *http.Request, limit int) (map[string]any, int) {
	q := r.URL.Query()
	head, from := q.Get("snapshot"), q.Get("from")
	if at := int(positionOf(head)); at > len(s.entries) || s.cursor(at) != head {
		return nil, http.StatusGone
	}
	if head == "0" {
		head = s.cursor(len(s.entries))
	}
	first, newest := map[string]int{}, map[string]int{}
	for i, e := range s.entries[:positionOf(head)] {
		if newest[idOf(e.entity)] = i; e.version == 1 {
			first[idOf(e.entity)] = i + 1
		}
	}
	items, query := []any{}, fmt.Sprintf("?after=%s&limit=%d", head, limit)
	for _, id := range slices.Sorted(maps.Keys(newest)) {
		if id <= q.Get("from") {
			continue
		}
		if len(items) == limit || len(items) == s.short && s.short > 0 {
			query = fmt.Sprintf("?snapshot=%s&from=%s&limit=%d", head, from, limit)
			break
		}
		item := s.item(newest[id])
		item["_datafeed"].(map[string]any)["first"] = first[id]
		items, from = append(items, item), id
	}
	if history := q.Get("history"); history != "" {
		query += "&history=" + history
	}
	return s.document(r, map[string]any{"snapshot": head, "next": "http://" + r.Host + r.URL.Path + query, "about": "http://" + r.Host + "/feeds"}, items), http.StatusOK
}

// item returns the entry of an index.
func (s *source) item(i int) map[string]any {
	e := s.entries[i]
	own := map[string]any{"position": i + 1, "version": e.version}
	switch {
	case e.superseded:
		own["superseded"] = true
	case e.deleted:
		own["deleted"] = true
		if e.erased {
			own["erased"] = true
		}
	default:
		own["entity"] = json.RawMessage(e.body)
	}
	return map[string]any{"id": "urn:uuid:" + idOf(e.entity), "date_modified": fmt.Sprintf("2026-01-01T00:00:%02d.000000Z", e.version), "_datafeed": own}
}

func (s *source) document(r *http.Request, own map[string]any, items []any) map[string]any {
	for _, item := range items {
		if item.(map[string]any)["_datafeed"].(map[string]any)["superseded"] == true {
			own["compacted"] = s.compacted
		}
	}
	return map[string]any{
		"version": "https://jsonfeed.org/version/1.1", "title": "Entities", "feed_url": "http://" + r.Host + r.URL.String(), "_datafeed": own, "items": items,
	}
}

func (s *source) write(w http.ResponseWriter, r *http.Request, page map[string]any) {
	body, _ := json.Marshal(page)
	own := page["_datafeed"].(map[string]any)
	if s.sealed != nil && (own["sealed"] == true || s.stores && own["snapshot"] != nil) {
		s.sealed[r.URL.RawQuery] = body
	}
	tag := fmt.Sprintf(`"%x"`, sha256.Sum256(body))
	w.Header().Set("ETag", tag)
	if r.Header.Get("If-None-Match") == tag {
		w.WriteHeader(http.StatusNotModified)
		return
	}
	w.Header().Set("Content-Type", "application/feed+json")
	_, _ = w.Write(body)
}

func refuse(w http.ResponseWriter, status int, problem string) {
	w.Header().Set("Content-Type", "application/problem+json")
	w.WriteHeader(status)
	_, _ = w.Write([]byte(problem))
}

// edited answers with the page after edit has changed it, and with a refusal or a page of a snapshot as it is.
func (s *source) edited(w http.ResponseWriter, r *http.Request, edit func(page, own map[string]any, items []any)) {
	page, status := s.page(r)
	if status != http.StatusOK || r.URL.Query().Has("snapshot") {
		s.honest(w, r)
		return
	}
	page = maps.Clone(page)
	edit(page, page["_datafeed"].(map[string]any), page["items"].([]any))
	s.write(w, r, page)
}
