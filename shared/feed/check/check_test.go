package check

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"net/http"
	"net/http/httptest"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/edison-cars/data-feeds/shared/feed"
	"github.com/edison-cars/data-feeds/shared/postgres/pgtest"
	"github.com/edison-cars/data-feeds/shared/publish"
	"github.com/edison-cars/data-feeds/shared/publish/feedhttp"
	"github.com/edison-cars/data-feeds/sql"
)

func TestMain(m *testing.M) { pgtest.Main(m) }

// realSource returns the handler of a feed of 320 entries, and what appends one. One entity is deleted, and, if the feed
// is personal, one is erased. If it is compacted, only the newest versions of the first 318 entries are left.
func realSource(t *testing.T, personal, compacted bool) (http.Handler, func(ctx context.Context) error) {
	t.Helper()
	pool := pgtest.New(t, sql.Migrations("publish"))
	if _, err := pool.Exec(t.Context(), `select feed_create('things')`); err != nil {
		t.Fatal(err)
	}
	log, err := publish.Open(context.Background(), pool, publish.Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { log.Close() })
	versions := map[int]int64{}
	next := func(n int, put bool) publish.Entry {
		versions[n]++
		e := publish.Entry{ID: uuid.NewSHA1(uuid.NameSpaceOID, fmt.Append(nil, n)), Version: versions[n], Updated: time.Date(2026, 1, 1, 0, 0, int(versions[n]), 0, time.UTC)}
		if put {
			e.Payload, _ = json.Marshal(map[string]any{"id": e.ID, "version": e.Version, "name": fmt.Sprintf("thing %d", n), "even": n%2 == 0})
		}
		return e
	}
	add := func(ctx context.Context, entries ...publish.Entry) error {
		return log.InTx(ctx, func(tx *publish.Tx) error {
			tx.Append("things", entries...)
			return nil
		})
	}
	var entries []publish.Entry
	for i := range 318 {
		entries = append(entries, next(i%100, true))
	}
	entries = append(entries, next(4, false))
	if err := add(t.Context(), entries...); err != nil {
		t.Fatal(err)
	}
	if compacted {
		if _, err := log.Compact(t.Context(), "things", time.Hour); err != nil {
			t.Fatal(err)
		}
	}
	last := next(5, false)
	err = log.InTx(t.Context(), func(tx *publish.Tx) error {
		if personal {
			tx.Erase("things", last.ID, last.Version, last.Updated)
		} else {
			tx.Append("things", last)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	engine := feedhttp.New(log, feedhttp.Options{Name: "Test", PublicURL: "http://source.example"}, feed.Description{
		Name: "things", Title: "Things", Text: "Things.", ID: "tag:example.com,2026:things", Personal: personal,
		Schema: []byte(`{"$schema":"https://json-schema.org/draft/2020-12/schema","type":"object","required":["id"],"properties":{"id":{},"version":{"type":"integer"},"name":{"type":"string"},"even":{"type":"boolean"}}}`),
		Views:  []feed.DeclaredView{{Name: "even", Fields: []string{"id", "name"}, Where: map[string][]string{"even": {"true"}}}, {Name: "ids", Fields: []string{"id", "version"}}},
	})
	return engine, func(ctx context.Context) error { return add(ctx, next(1000+len(versions), true)) }
}

// run checks the source and returns the promises that it breaks, those that could not be checked, and all that was said.
func run(t *testing.T, source http.Handler, o Options) (broken, skipped []string, said string) {
	t.Helper()
	return runAt(t, "/feeds/things", source, o)
}

func runAt(t *testing.T, path string, source http.Handler, o Options) (broken, skipped []string, said string) {
	t.Helper()
	server := httptest.NewServer(source)
	defer server.Close()
	var out bytes.Buffer
	n, err := Run(t.Context(), server.URL+path, o, &out)
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(out.String()) {
		switch line = strings.TrimSpace(line); {
		case strings.HasPrefix(line, "not ok"):
			broken = append(broken, line)
		case strings.Contains(line, "# SKIP"):
			skipped = append(skipped, line)
		}
	}
	if n != len(broken) {
		t.Errorf("%d promises are broken, %d lines say so", n, len(broken))
	}
	return broken, skipped, out.String()
}

func TestSourceOfThisProject(t *testing.T) {
	t.Parallel()
	for name, skips := range map[string]int{"open": 3, "personal": 4, "compacted": 1, "personal, compacted": 2} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			source, add := realSource(t, strings.HasPrefix(name, "personal"), strings.HasSuffix(name, "compacted"))
			broken, skipped, said := run(t, source, Options{Append: add})
			if len(broken) > 0 || len(skipped) != skips || !strings.HasPrefix(said, fmt.Sprintf("TAP version 14\n1..%d\nok 1 - ", len(promises))) {
				t.Errorf("%d are broken, %d were skipped:\n%s", len(broken), len(skipped), said)
			}
		})
	}
}

// A view keeps the promises of a feed.
func TestViewOfThisProject(t *testing.T) {
	t.Parallel()
	source, add := realSource(t, true, true)
	for _, view := range []string{"even", "ids"} {
		if broken, _, said := runAt(t, "/feeds/things/views/"+view, source, Options{Append: add}); len(broken) > 0 {
			t.Errorf("%d are broken:\n%s", len(broken), said)
		}
	}
	more := viewReplacing(`"entity":\{`, `"entity":{"even":true,`)
	broken, _, said := runAt(t, "/feeds/things/views/ids", more.of(source), Options{})
	if !slices.ContainsFunc(broken, func(line string) bool { return strings.Contains(line, "a view has the entries") }) {
		t.Errorf("a member more is not caught:\n%s", said)
	}
}

// A source that offers no snapshots breaks no promise.
func TestSourceWithoutSnapshots(t *testing.T) {
	t.Parallel()
	source, _ := realSource(t, false, false)
	without := asking(func(q map[string][]string) {
		delete(q, "snapshot")
		delete(q, "from")
	})
	broken, skipped, said := run(t, without.of(source), Options{})
	skipped = slices.DeleteFunc(skipped, func(line string) bool { return !strings.Contains(line, "no snapshots") })
	if len(broken) > 0 || len(skipped) != 5 {
		t.Errorf("%d are broken, %d were skipped:\n%s", len(broken), len(skipped), said)
	}
}

func TestNoSource(t *testing.T) {
	t.Parallel()
	server := httptest.NewServer(http.NotFoundHandler())
	defer server.Close()
	if _, err := Run(t.Context(), server.URL+"/feeds/things", Options{}, new(bytes.Buffer)); err == nil || !strings.Contains(err.Error(), "404") {
		t.Errorf("error: %v", err)
	}
}

// A mutant is a source with a fault: it changes requests before they are answered, or answers before they are sent.
type mutant struct {
	request func(r *http.Request)
	answer  func(r *http.Request, a *httptest.ResponseRecorder)
}

func (m mutant) of(source http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if strings.Contains(r.Header.Get("Accept"), "event-stream") && m.answer != nil {
			http.Error(w, "no streams", http.StatusNotImplemented)
			return
		}
		seen := httptest.NewRecorder()
		if m.request != nil {
			r = r.Clone(r.Context())
			m.request(r)
		}
		if m.answer == nil {
			source.ServeHTTP(w, r)
			return
		}
		source.ServeHTTP(seen, r)
		m.answer(r, seen)
		maps.Copy(w.Header(), seen.Header())
		w.Header().Del("Content-Length")
		w.WriteHeader(seen.Code)
		_, _ = w.Write(seen.Body.Bytes())
	})
}

// replacing changes the bodies of answers with a status, as they are without compression.
func replacing(pattern, with string) mutant {
	re := regexp.MustCompile(pattern)
	return mutant{
		func(r *http.Request) { r.Header.Del("Accept-Encoding") },
		func(_ *http.Request, a *httptest.ResponseRecorder) {
			body := re.ReplaceAll(a.Body.Bytes(), []byte(with))
			a.Body.Reset()
			a.Body.Write(body)
		},
	}
}

// viewReplacing is replacing in views.
func viewReplacing(pattern, with string) mutant {
	m := replacing(pattern, with)
	change := m.answer
	m.answer = func(r *http.Request, a *httptest.ResponseRecorder) {
		if strings.Contains(r.URL.Path, "/views/") {
			change(r, a)
		}
	}
	return m
}

// header sets a field of answers with a status; an empty value deletes it.
func header(status int, name, value string) mutant {
	return mutant{answer: func(_ *http.Request, a *httptest.ResponseRecorder) {
		if a.Code == status && value == "" {
			a.Header().Del(name)
		} else if a.Code == status {
			a.Header().Set(name, value)
		}
	}}
}

// asking changes the query.
func asking(change func(q map[string][]string)) mutant {
	return mutant{request: func(r *http.Request) {
		q := r.URL.Query()
		change(q)
		r.URL.RawQuery = q.Encode()
	}}
}

func TestMutants(t *testing.T) {
	t.Parallel()
	pgtest.Slow(t, "timeouts")
	shared, _ := realSource(t, false, false)
	compacted, _ := realSource(t, false, true)
	for name, x := range map[string]struct {
		mutant
		breaks string // the promise
	}{
		"a gap":                         {replacing(`\{"position":7,`, `{"position":8,`), "every position once"},
		"a cursor that is ahead":        {replacing(`"cursor":"320-`, `"cursor":"321-`), "every position once"},
		"pages that end anywhere":       {asking(func(q map[string][]string) { shorten(q) }), "multiple of its limit"},
		"next that repeats":             {replacing(`("next":"[^"]*after=)[^&]*`, `${1}0`), "next is the replay after cursor"},
		"the end is sealed":             {replacing(`"sealed":false`, `"sealed":true`), "is sealed"},
		"never up to date":              {replacing(`"head":"[^"]*"`, `"head":"1-000000000000"`), "up to date"},
		"a version twice":               {replacing(`"version":3,`, `"version":2,`), "versions of an entity"},
		"a time that stands still":      {replacing(`00:00:0[0-9]`, `00:00:00`), "time of an entity"},
		"times without fractions":       {replacing(`\.000000Z`, `Z`), "time of an entity"},
		"ids in upper case":             {replacing(`urn:uuid:([0-9a-f]*[a-f][0-9a-f]*)`, `urn:uuid:A$1`), "ids are UUIDs"},
		"a tombstone with an entity":    {replacing(`"deleted":true`, `"deleted":true,"entity":{}`), "an object as its entity"},
		"entities as text":              {replacing(`"entity":\{`, `"entity":"","was":{`), "an object as its entity"},
		"oldest first":                  {asking(func(q map[string][]string) { atLeast(q) }), "newest entries first"},
		"another version of JSON Feed":  {replacing(`feed.org/version/1.1`, `feed.org/version/1`), "version 1.1"},
		"Atom lacks tombstones":         {replacing(`(?s)<at:deleted-entry.*</at:deleted-entry>`, ``), "same entries"},
		"a lost history is not noticed": {status(http.StatusGone, http.StatusOK), "another history"},
		"410 without a link":            {header(http.StatusGone, "Link", ""), "another history"},
		"weak ETags":                    {changing(func(a *httptest.ResponseRecorder) { a.Header().Set("ETag", "W/"+a.Header().Get("ETag")) }), "ETags are strong"},
		"one ETag for all":              {changing(func(a *httptest.ResponseRecorder) { a.Header().Set("ETag", `"same"`) }), "ETags differ"},
		"If-None-Match is ignored":      {mutant{request: func(r *http.Request) { r.Header.Del("If-None-Match") }}, "If-None-Match"},
		"304 for everything":            {mutant{request: func(r *http.Request) { r.Header.Set("If-None-Match", second(r)) }}, "If-None-Match"},
		"a schema of no dialect":        {replacing(`"\$schema":"[^"]*",`, ``), "the schema is of JSON Schema"},
		"a schema that is none":         {replacing(`"type":"integer"`, `"type":"whole"`), "the schema is of JSON Schema"},
		"pages that link to no schema": {changing(func(a *httptest.ResponseRecorder) {
			a.Header().Set("Link", strings.ReplaceAll(a.Header().Get("Link"), "describedby", "related"))
		}), "pages link to it"},
		"another schema":                 {replacing(`"required":\["id"\]`, `"required":["title"]`), "meets the schema"},
		"no Vary":                        {header(http.StatusOK, "Vary", ""), "Vary and Cache-Control"},
		"nothing is final":               {header(http.StatusOK, "Cache-Control", "no-cache"), "Vary and Cache-Control"},
		"Last-Modified everywhere":       {header(http.StatusOK, "Last-Modified", "Mon, 30 Nov 2026 00:00:00 GMT"), "Last-Modified"},
		"Accept is ignored":              {mutant{request: func(r *http.Request) { r.Header.Del("Accept") }}, "that Accept or the suffix asks for"},
		"refusals as text":               {header(http.StatusBadRequest, "Content-Type", "text/plain"), "refusals are problems"},
		"refusals are stored":            {header(http.StatusNotFound, "Cache-Control", "max-age=60"), "refusals are problems"},
		"bad limits are taken":           {asking(func(q map[string][]string) { bounded(q) }), "limit is 1 to 1000"},
		"a parameter that stands twice":  {asking(func(q map[string][]string) { once(q) }), "stand twice"},
		"waits everywhere":               {mutant{request: waitsAlways}, "a request waits only at the head"},
		"waiting requests are not woken": {mutant{request: func(r *http.Request) { r.Header.Del("Prefer") }}, "is answered when"},
		"ids that are UUIDs":             {replacing(`"id":"(\d+)-`, `"id":"urn-$1-`), "the events are the entries"},
		"tombstones that are no DELETE":  {replacing(`"method":"DELETE"`, `"method":"PUT"`), "the events are the entries"},
		"lastEventId is ignored":         {asking(func(q map[string][]string) { delete(q, "lastEventId") }), "lastEventId is a cursor"},
		"a timeout of no time":           {asking(func(q map[string][]string) { delete(q, "timeout") }), "waits for its timeout"},
		"an older version in a snapshot": {replacing(`"version":4,"first"`, `"version":3,"first"`), "by its newest entry"},
		"a snapshot lacks entities":      {asking(func(q map[string][]string) { skip(q) }), "each entity once"},
		"a snapshot begins again":        {asking(func(q map[string][]string) { delete(q, "from") }), "each entity once"},
		"first is the newest":            {replacing(`"position":(\d+),("version":[2-9],)"first":\d+`, `"position":$1,$2"first":$1`), "each entity once"},
		"a snapshot like a replay":       {replacing(`"snapshot":"([^"]*)"`, `"snapshot":"$1","cursor":"$1"`), "the pages link to each other"},
		"each page is another snapshot":  {replacing(`("next":"[^"]*snapshot=)[^&]*`, `${1}0`), "the pages link to each other"},
		"a snapshot forgets the history": {asking(func(q map[string][]string) { forget(q) }), "the pages link to each other"},
		"a snapshot without link":        {changing(func(a *httptest.ResponseRecorder) { a.Header().Del("Link") }), "the pages link to each other"},
		"Atom lacks first":               {replacing(` first="\d+"`, ``), "Atom, HTML and CloudEvents"},
		"a snapshot that caches keep":    {header(http.StatusOK, "Cache-Control", "max-age=60"), "without asking the source"},
		"from goes without snapshot":     {asking(func(q map[string][]string) { lone(q) }), "wrong parameters"},
		"a lost snapshot is not noticed": {asking(func(q map[string][]string) { found(q) }), "a snapshot of another history"},
		"superseded is deleted":          {replacing(`"superseded":true`, `"superseded":true,"deleted":true`), "neither an entity nor a deletion"},
		"superseded with an entity":      {replacing(`"superseded":true`, `"superseded":true,"entity":{}`), "neither an entity nor a deletion"},
		"superseded by nothing":          {replacing(`"version":4,"entity":\{[^}]*\}`, `"version":4,"superseded":true`), "and a newer version follows"},
		"superseded, and not compacted":  {replacing(`,"compacted":"[^"]*"`, ``), "says up to where"},
		"superseded later than it says":  {replacing(`"compacted":"[^"]*"`, `"compacted":"219-000000000000"`), "says up to where"},
		"superseded in another history":  {replacing(`"compacted":"(\d+)-[^"]*"`, `"compacted":"$1-000000000000"`), "says up to where"},
		"Atom lacks superseded":          {replacing(` superseded="true"`, ``), "same entries"},
		"Atom lacks compacted":           {replacing(` compacted="[^"]*"`, ``), "same entries"},
		"superseded events are changes":  {replacing(`"superseded":true,("compacted":"[^"]*")`, `"data":{}`), "the events are the entries"},
		"a schema without a link": {changing(func(a *httptest.ResponseRecorder) {
			a.Header().Set("Link", strings.ReplaceAll(a.Header().Get("Link"), "describedby", "help"))
		}), "the schema is of JSON Schema"},
		"a view that has all":            {mutant{request: func(r *http.Request) { r.URL.Path = strings.Replace(r.URL.Path, "/views/ids", "", 1) }}, "a view has the entries"},
		"a view without its condition":   {mutant{request: func(r *http.Request) { r.URL.Path = strings.Replace(r.URL.Path, "/views/even", "/views/ids", 1) }}, "a view has the entries"},
		"a view that leaves entries out": {viewReplacing(`"version":(\d+),"deleted":true`, `"version":1$1,"deleted":true`), "a view has the entries"},
		"a view with another member":     {viewReplacing(`"entity":\{`, `"entity":{"even":true,`), "a view has the entries"},
		"a view lacks a member":          {viewReplacing(`"name":`, `"nam":`), "a view has the entries"},
		"a link leaves the view":         {viewReplacing(`("next":"[^"]*)/views/[a-z]*`, `$1`), "a view has the entries"},
		"HEAD is other than GET": {mutant{answer: func(r *http.Request, a *httptest.ResponseRecorder) {
			if r.Method == http.MethodHead {
				a.Header().Del("ETag")
			}
		}}, "HEAD answers"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			source, o := shared, Options{}
			if strings.Contains(name, "superseded") || strings.Contains(name, "compacted") {
				source = compacted
			}
			if strings.Contains(name, "wait") {
				source, o.Append = realSource(t, false, false)
			}
			broken, _, said := run(t, x.of(source), o)
			if !slices.ContainsFunc(broken, func(line string) bool { return strings.Contains(line, x.breaks) }) {
				t.Errorf("it is not caught:\n%s", said)
			}
		})
	}
}

func status(from, to int) mutant {
	return changing(func(a *httptest.ResponseRecorder) {
		if a.Code == from {
			a.Code = to
		}
	})
}

func changing(change func(a *httptest.ResponseRecorder)) mutant {
	return mutant{answer: func(_ *http.Request, a *httptest.ResponseRecorder) { change(a) }}
}

func shorten(q map[string][]string) {
	if slices.Equal(q["limit"], []string{"4"}) {
		q["limit"] = []string{"3"}
	}
}

func atLeast(q map[string][]string) {
	if slices.Equal(q["limit"], []string{"1"}) && q["after"] == nil {
		q["limit"] = []string{"2"}
	}
}

func bounded(q map[string][]string) {
	if slices.Equal(q["limit"], []string{"1001"}) {
		q["limit"] = []string{"1000"}
	}
}

func once(q map[string][]string) {
	for name, values := range q {
		q[name] = values[:1]
	}
}

// skip leaves out the rest of a snapshot.
func skip(q map[string][]string) {
	if q["from"] != nil {
		q["from"] = []string{"ffffffff-ffff-4fff-bfff-ffffffffffff"}
	}
}

func forget(q map[string][]string) {
	if q["snapshot"] != nil {
		delete(q, "history")
	}
}

func lone(q map[string][]string) {
	if q["snapshot"] == nil {
		delete(q, "from")
	}
}

func found(q map[string][]string) {
	if slices.ContainsFunc(q["snapshot"], func(cursor string) bool { return strings.HasSuffix(cursor, "-fedcba987654") }) {
		q["snapshot"], q["from"] = []string{"0"}, nil
	}
}

// second is the ETag that a request with one names, or any.
func second(r *http.Request) string {
	if match := r.Header.Get("If-None-Match"); match == "" {
		return ""
	}
	return "*"
}

func waitsAlways(r *http.Request) {
	if r.Header.Get("Prefer") == "wait=20" {
		time.Sleep(11 * time.Second)
	}
}
