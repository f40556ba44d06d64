package feedhttp

import (
	"bytes"
	"context"
	"encoding/json"
	"encoding/xml"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zstd"

	"github.com/edison-cars/data-feeds/shared/feed"
)

// A target is a source of 230 entries that is asked without a network, so that headers and URLs reach it that no HTTP
// client would send. cursors are those at each position.
type target struct {
	source  *Source
	cursors []string
	clients int // each request comes from another one: what a client may ask for has a limit
}

func newTarget(f *testing.F) *target {
	f.Helper()
	pool := database(f)
	l := openLog(f, pool)
	appendAll(f, l, lives(230))
	t := &target{source: New(l, Options{Name: "Test", PublicURL: publicURL}, description), cursors: []string{"0"}}
	for position := range int64(230) {
		t.cursors = append(t.cursors, cursorAt(f, pool, position+1).String())
	}
	return t
}

// ask asks for what lies under path and query, with headers given as name, value, name, value ...
func (t *target) ask(ctx context.Context, w http.ResponseWriter, path, query string, header ...string) {
	t.clients++
	r := (&http.Request{
		Method: "GET", URL: &url.URL{Path: path, RawQuery: query}, Proto: "HTTP/1.1", ProtoMajor: 1, ProtoMinor: 1,
		Header: http.Header{}, Body: http.NoBody, Host: "source.example", RequestURI: path,
		RemoteAddr: fmt.Sprintf("10.%d.%d.%d:80", t.clients>>16&255, t.clients>>8&255, t.clients&255),
	}).WithContext(ctx)
	for i := 0; i < len(header); i += 2 {
		r.Header.Add(header[i], header[i+1])
	}
	t.source.ServeHTTP(w, r)
}

func (t *target) answer(path, query string, header ...string) *httptest.ResponseRecorder {
	ctx, leave := context.WithCancel(context.Background())
	defer leave()
	w := httptest.NewRecorder()
	t.ask(ctx, &stream{w, "", leave}, path, query, header...) // of an event stream it takes the beginning
	return w
}

var linkPattern = regexp.MustCompile(`^<(http://source\.example/[^<> ]*)>; rel="([a-z-]+)"(?:; type="([a-z+/-]+)")?$`)

// follow checks that the links of an answer lead to documents of the type they name, and the one to itself to its
// bytes.
func (t *target) follow(test *testing.T, w *httptest.ResponseRecorder, body string) {
	test.Helper()
	for text := range strings.SplitSeq(w.Header().Get("Link"), ", ") {
		link := linkPattern.FindStringSubmatch(text)
		if link == nil {
			test.Fatalf("a link that is none: %q", text)
		}
		u, err := url.Parse(link[1])
		if err != nil {
			test.Fatal(err)
		}
		to := t.answer(u.Path, u.RawQuery, "Accept", link[3])
		if to.Code == 410 && w.Code == 406 { // of two reasons to refuse it gave the first
			continue
		}
		if to.Code != 200 || link[3] != "" && mediaType(to) != link[3] {
			test.Errorf("%s leads to %d %s", text, to.Code, to.Header().Get("Content-Type"))
		}
		if link[2] == "self" && to.Body.String() != body {
			test.Errorf("%s leads to other bytes", text)
		}
	}
}

func mediaType(w *httptest.ResponseRecorder) string {
	t, _, _ := strings.Cut(w.Header().Get("Content-Type"), ";")
	return t
}

// Whatever is asked, the answer is a document that is whole, or a refusal that says why.
func FuzzQuery(f *testing.F) {
	t := newTarget(f)
	c := t.cursors
	for _, suffix := range []string{"", ".json", ".atom", ".html", ".rss", ".atom.json", "/", "%2e", "\x00"} {
		f.Add(suffix, "", "", "", "")
		f.Add(suffix, "after=0&limit=7", "*/*", "gzip", `"a"`)
	}
	for _, query := range []string{
		"after=0", "after=" + c[100] + "&limit=100", "after=" + c[230], "before=" + c[101], "before=" + c[1], "after=" + c[42] + "&limit=1000",
		"after=0&limit=10&history=" + c[200], "history=" + c[7], "after=0&after=0", "after=" + c[9] + "&before=" + c[9], "limit=5", "after=%zz",
		"after=231-000000000000", "after=9223372036854775807-9f3c1a2b7d04", "before=9-000000000000", "after=0;limit=1", "x=y&after=0", "&&after=0&",
		"snapshot=0", "snapshot=0&limit=7", "snapshot=" + c[100] + "&limit=20&from=" + numbered(7).String(), "snapshot=" + c[9] + "&history=" + c[7], "from=1&snapshot=0",
		"snapshot=0&after=0", "snapshot=231-000000000000",
		"after=%30", "after=0&limit=+7", "after=0&history=9223372036854775807-ffffffffffff",
	} {
		f.Add("", query, "application/atom+xml, */*;q=0.1", "zstd", "")
		f.Add(".html", query, "", "", "*")
	}
	f.Add("", "", "image/png", "", "")
	f.Add("", "after="+c[9], "text/event-stream", "", "")
	f.Add("", "lastEventId="+c[9]+"&limit=5", "application/cloudevents-batch+json", "", "")
	f.Add(".cloudevents", "lastEventId=null&timeout=1&history="+c[7], "", "zstd", "")
	f.Add("/newer", "before="+c[50], "", "", "")
	f.Add(".atom/newer", "before="+c[99]+"&history="+c[7], "", "", "")
	f.Fuzz(func(test *testing.T, suffix, query, accept, coding, tag string) {
		header := []string{"Accept", accept, "Accept-Encoding", coding}
		if tag != "" {
			header = append(header, "If-None-Match", tag)
		}
		w := t.answer("/feeds/things"+suffix, query, header...)
		switch w.Code {
		case 200:
			if mediaType(w) == feed.TypeEvents { // only its beginning is there
				return
			}
			body := decoded(test, w)
			checkDocument(test, w, body)
			t.follow(test, w, body)
			again := t.answer("/feeds/things"+suffix, query, "Accept", accept, "Accept-Encoding", coding, "If-None-Match", w.Header().Get("ETag"))
			if again.Code != 304 || again.Header().Get("ETag") != w.Header().Get("ETag") {
				test.Errorf("%d with its own ETag %s", again.Code, w.Header().Get("ETag"))
			}
		case 307:
			u, err := url.Parse(strings.TrimPrefix(w.Header().Get("Location"), publicURL))
			if err != nil || !strings.HasSuffix(suffix, "/newer") {
				test.Fatalf("Location: %s", w.Header().Get("Location"))
			}
			if to := t.answer(u.Path, u.RawQuery); to.Code != 200 {
				test.Errorf("%s leads to %d", u, to.Code)
			}
		case 304:
			if tag == "" || w.Body.Len() > 0 || w.Header().Get("ETag") == "" || w.Header().Get("Vary") == "" || w.Header().Get("Cache-Control") == "" {
				test.Errorf("a 304 to %q with %v", tag, w.Header())
			}
		case 400, 404, 406, 410:
			if w.Header().Get("Cache-Control") != "no-store" || mediaType(w) != feed.TypeProblem && mediaType(w) != feed.TypeHTML {
				test.Errorf("%d with %v", w.Code, w.Header())
			}
			if w.Code == 410 || w.Code == 406 {
				t.follow(test, w, "")
			}
		default:
			test.Errorf("%d %s", w.Code, w.Body)
		}
	})
}

// decoded undoes the content coding.
func decoded(t *testing.T, w *httptest.ResponseRecorder) string {
	t.Helper()
	var r io.Reader = bytes.NewReader(w.Body.Bytes())
	var err error
	switch coding := w.Header().Get("Content-Encoding"); coding {
	case "":
	case "gzip":
		r, err = gzip.NewReader(r)
	case "zstd":
		r, err = zstd.NewReader(r)
	default:
		t.Fatalf("the coding %q", coding)
	}
	if err != nil {
		t.Fatal(err)
	}
	body, err := io.ReadAll(r)
	if err != nil {
		t.Fatal(err)
	}
	if got := w.Header().Get("Content-Length"); got != strconv.Itoa(w.Body.Len()) {
		t.Errorf("%d bytes with Content-Length %s", w.Body.Len(), got)
	}
	return string(body)
}

// checkDocument checks that a document is one of its format, and that its entries are a run without gaps.
func checkDocument(t *testing.T, w *httptest.ResponseRecorder, body string) {
	t.Helper()
	switch mediaType(w) {
	case feed.TypeJSONFeed, feed.TypeJSON:
		var p pageJSON
		if err := json.Unmarshal([]byte(body), &p); err != nil || p.Datafeed.Cursor == "" {
			t.Fatalf("%v: %s", err, body)
		}
		for i, item := range p.Items {
			if i > 0 && item.Datafeed.Position != p.Items[i-1].Datafeed.Position+1 && item.Datafeed.Position != p.Items[i-1].Datafeed.Position-1 {
				t.Errorf("position %d after %d", item.Datafeed.Position, p.Items[i-1].Datafeed.Position)
			}
		}
	case feed.TypeCloudEvents:
		var events []cloudEvent
		if err := json.Unmarshal([]byte(body), &events); err != nil || len(events) > 0 && events[0].Source != description.ID {
			t.Fatalf("%v: %s", err, body)
		}
	case feed.TypeAtom:
		var a atomFeed
		if err := xml.Unmarshal([]byte(body), &a); err != nil || len(a.IDs) != 1 || a.IDs[0] != description.ID {
			t.Fatalf("%v: %s", err, body)
		}
	case feed.TypeHTML:
		if !strings.HasPrefix(body, "<!doctype html>") || !strings.HasSuffix(body, "</html>\n") {
			t.Errorf("not a page: %s", body)
		}
	default:
		t.Errorf("Content-Type: %s", w.Header().Get("Content-Type"))
	}
}

// Prefer is RFC 7240's: the first preference of a name counts. Nothing is held here, as there is something to give.
func FuzzPrefer(f *testing.F) {
	t := newTarget(f)
	for _, list := range []string{"\x00", "\x01\x08", "\x02\x0a\x07", "\x06\x03", "\x0b\x0c\x01", "\x05\x05\x04", "\x09"} {
		f.Add("wait=7", []byte(list))
	}
	for _, raw := range []string{"", "wait", "wait=", "wait=-1", "wait=99999999999999999999", "respond-async, wait=5;x=y", `wait="5"`, ",,wait = 5", "wait=5, wait=9", "await=5", "wait=0x5", "=5"} {
		f.Add(raw, []byte{})
	}
	preferences := []struct {
		text string
		wait int // in the answer; -1: another preference
	}{
		{"wait=5", 5}, {"wait=30", 30}, {"wait=31", 30}, {"WAIT=7", 7}, {`wait="8"`, 8}, {"wait=0", 0}, {"wait=86400", 30}, {"wait=09", 9},
		{"respond-async", -1}, {"handling=lenient", -1}, {"return=minimal; foo=\"some parameter\"", -1}, {"", -1}, {"wait = 6 ; x=1", 6},
	}
	f.Fuzz(func(test *testing.T, raw string, list []byte) {
		w := t.answer("/feeds/things", "", "Prefer", raw)
		applied := w.Header().Get("Preference-Applied")
		n, err := strconv.Atoi(strings.TrimPrefix(applied, "wait="))
		if w.Code != 200 || applied != "" && (err != nil || applied != fmt.Sprint("wait=", n) || n < 1 || n > 30 || !strings.Contains(strings.ToLower(raw), "wait")) {
			test.Errorf("%q: %d with Preference-Applied: %s", raw, w.Code, applied)
		}
		var header []string
		want := ""
		for i, b := range list {
			p := preferences[int(b)%len(preferences)]
			if separate := b >= 128; separate || i == 0 {
				header = append(header, "Prefer", p.text)
			} else {
				header[len(header)-1] += ", " + p.text
			}
			if p.wait >= 0 && want == "" {
				want = fmt.Sprint("wait=", p.wait)
			}
		}
		if want == "wait=0" {
			want = ""
		}
		if got := t.answer("/feeds/things", "", header...).Header().Get("Preference-Applied"); got != want {
			test.Errorf("%q: Preference-Applied: %q, want %q", header, got, want)
		}
	})
}

// A stream takes what is written until it has the event with the id last.
type stream struct {
	*httptest.ResponseRecorder
	last string
	end  context.CancelFunc
}

func (s *stream) SetWriteDeadline(time.Time) error { return nil }

func (s *stream) Write(b []byte) (int, error) {
	if s.last == "" || bytes.Contains(b, []byte("id: "+s.last+"\n")) {
		s.end()
	}
	return s.ResponseRecorder.Write(b)
}

// A stream goes on after the last event that its reader has, or is refused.
func FuzzLastEventID(f *testing.F) {
	t := newTarget(f)
	end := t.cursors[230]
	for _, id := range []string{t.cursors[1], t.cursors[99], t.cursors[100], t.cursors[229], end, "", "0", "00", "x", "7-000000000000", "231-000000000000", "1\ndata: x", " 0"} {
		f.Add(id)
	}
	f.Fuzz(func(test *testing.T, id string) {
		ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
		defer cancel()
		w := &stream{httptest.NewRecorder(), end, cancel}
		after := slices.Index(t.cursors, id)
		if id == "" || id == end {
			w.last = "" // nothing will come
		}
		if id == "" {
			after = 230
		}
		t.ask(ctx, w, "/feeds/things", "", "Accept", feed.TypeEvents, "Last-Event-ID", id)
		switch {
		case after < 0:
			if w.Code != 400 && w.Code != 410 {
				test.Errorf("%q: %d", id, w.Code)
			}
			return
		case w.Code != 200 || mediaType(w.ResponseRecorder) != feed.TypeEvents:
			test.Fatalf("%q: %d %v", id, w.Code, w.Header())
		}
		for event := range strings.SplitSeq(strings.TrimSuffix(w.Body.String(), "\n\n"), "\n\n") {
			text, data, ok := strings.Cut(event, "\ndata: ")
			if !ok { // when to come again
				continue
			}
			var item struct {
				Datafeed struct{ Position int } `json:"_datafeed"`
			}
			after++
			if err := json.Unmarshal([]byte(data), &item); err != nil || item.Datafeed.Position != after || text != "id: "+t.cursors[after] {
				test.Fatalf("%v: event %q at position %d", err, event, after)
			}
		}
		if after != 230 {
			test.Errorf("%q: the stream ends at %d", id, after)
		}
	})
}
