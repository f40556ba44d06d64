package subscribe

import (
	"errors"
	"net/http"
	"slices"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/edison-cars/data-feeds/shared/feed"
	"github.com/edison-cars/data-feeds/shared/publish/feedhttp"
)

// describe makes the source a new process with a schema of its entities.
func (s *source) describe(t *testing.T, schema string) {
	t.Helper()
	engine := feedhttp.New(s.log, feedhttp.Options{Name: "Test", PublicURL: "http://source.example"}, feed.Description{
		Name: "things", Title: "Things", Text: "Things.", ID: "tag:edison-cars.example,2026:things", Schema: []byte(schema),
	})
	s.mu.Lock()
	defer s.mu.Unlock()
	s.engine = engine
}

const (
	namedThings   = `{"type": "object", "properties": {"id": {}, "version": {}, "name": {"type": "string"}}}`
	unnamedThings = `{"type": "object", "properties": {"id": {}, "version": {}, "title": {"type": "string"}}}`
)

func TestNeeds(t *testing.T) {
	t.Parallel()
	s := newSource(t)
	var asked atomic.Int64
	status := http.StatusOK
	plain := false // pages do not say which schema there is
	s.setTamper(func(w http.ResponseWriter, r *http.Request, honest http.Handler) {
		if strings.HasSuffix(r.URL.Path, "/schema") {
			if asked.Add(1); status != http.StatusOK {
				w.WriteHeader(status)
				return
			}
		}
		if plain {
			w = &plainWriter{w}
		}
		honest.ServeHTTP(w, r)
	})
	requests := func(t *testing.T, want int64) {
		t.Helper()
		if n := asked.Swap(0); n != want {
			t.Errorf("it has asked %d times for the schema, want %d", n, want)
		}
	}
	s.put(t, 1, 25)
	c := newCopier(t, s)
	c.Needs = []string{"id", "name"}
	c.mustPoll(t) // the source declares none
	requests(t, 0)

	s.describe(t, namedThings)
	s.put(t, 1, 25)
	c.mustPoll(t)
	requests(t, 1)
	s.put(t, 1, 1)
	c.mustPoll(t)
	c.mustPoll(t)
	requests(t, 0)

	lacks := func(t *testing.T) {
		t.Helper()
		at := cursorOf(t, c.poller)
		for range 2 {
			err := c.poller.poll(t.Context(), true)
			if !errors.Is(err, ErrIncomplete) || err.Error() != "the copy pauses before the page after "+at+": the schema of its source has no member name" {
				t.Errorf("the schema lacks a member: %v", err)
			}
		}
		if now := c.stored(t); cursorOf(t, c.poller) != at || now.resync.underWay {
			t.Error("the copy has moved, or a resync has begun")
		}
	}
	s.describe(t, unnamedThings)
	c.mustPoll(t) // there is nothing new
	s.put(t, 2, 2)
	lacks(t)
	requests(t, 2)
	s.describe(t, namedThings)
	c.mustPoll(t)
	c.wantUpToDate(t, s)
	requests(t, 1)

	status = http.StatusInternalServerError
	s.describe(t, unnamedThings)
	s.put(t, 2, 2)
	if err := c.poll(t.Context()); err == nil || errors.Is(err, ErrIncomplete) {
		t.Errorf("the schema cannot be had: %v", err)
	}
	status = http.StatusForbidden
	c.mustPoll(t)
	c.wantUpToDate(t, s)
	status = http.StatusOK

	s.describe(t, namedThings)
	plain = true
	s.put(t, 3, 3)
	asked.Store(0)
	c.mustPoll(t)
	s.put(t, 4, 4)
	c.mustPoll(t)
	requests(t, 1)
	plain = false

	s.describe(t, unnamedThings)
	if err := c.poller.resync(t.Context()); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if err := c.poll(t.Context()); !errors.Is(err, ErrIncomplete) {
			t.Errorf("a resync: %v", err)
		}
	}
	s.describe(t, namedThings)
	c.mustPoll(t)
	c.wantUpToDate(t, s)
}

// A plainWriter leaves out which schema the source has.
type plainWriter struct{ http.ResponseWriter }

func (w *plainWriter) WriteHeader(status int) {
	link, _, _ := strings.Cut(w.Header().Get("Link"), "; etag=")
	w.Header().Set("Link", link)
	w.ResponseWriter.WriteHeader(status)
}

func TestLacked(t *testing.T) {
	t.Parallel()
	needs := []string{"status", "lines[].model", "lines[].options", "address.city"}
	for schema, want := range map[string][]string{
		`{"properties": {"status": {}, "lines": {"type": "array", "items": {"type": "object", "properties": {"model": {}, "options": {}}}}, "address": true}}`: nil,
		`{"properties": {"status": {}, "lines": {"items": {"properties": {"model": {}}}}, "address": {"properties": {"city": false}}}}`:                        {"lines[].options", "address.city"},
		`{"properties": {"status": {}, "lines": {"anyOf": [{"type": "null"}, {"items": {"properties": {"options": {}}}}]}, "address": {"type": "string"}}}`:    {"lines[].model", "address.city"},
		`{"properties": {"lines": {"type": ["array", "null"]}, "address": {"$ref": "#/$defs/address"}}}`:                                                       {"status"},
		`{"type": "object", "properties": {}}`:                                                      needs,
		`{"allOf": [{"properties": {"status": {}, "address": {}}}, {"properties": {"lines": {}}}]}`: nil,
		`{}`: nil, `true`: nil, `false`: needs,
	} {
		if got := lacked([]byte(schema), needs); !slices.Equal(got, want) {
			t.Errorf("%s lacks %q, want %q", schema, got, want)
		}
	}
}
