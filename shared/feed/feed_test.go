package feed

import (
	"bytes"
	"encoding/json"
	"encoding/xml"
	"errors"
	"fmt"
	"reflect"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/gorilla/feeds"
	"pgregory.net/rapid"
)

const emptyPage = `{"version":"https://jsonfeed.org/version/1.1","_datafeed":{"cursor":"0","up_to_date":true,"head":"0"},"items":[]}`

func TestParseCursor(t *testing.T) {
	t.Parallel()
	for _, s := range []string{"0", "1-000000000000", "4200-9f3c1a2b7d04", "9223372036854775807-ffffffffffff"} {
		if c, err := ParseCursor(s); err != nil || c.String() != s {
			t.Errorf("%q is read as %v, %v", s, c, err)
		}
	}
	for _, s := range []string{
		"", "00", "-0", "+0", "0-000000000000", "1", "1-", "1-00000000000", "1-0000000000000", "01-000000000000", "-1-000000000000",
		"+1-000000000000", "1-00000000000G", "1-9F3C1A2B7D04", " 1-000000000000", "1-000000000000 ", "9223372036854775808-000000000000",
		"1_0-000000000000", "1-000000000000\n", "١-000000000000", strings.Repeat("1", 5000) + "-000000000000",
	} {
		if c, err := ParseCursor(s); !errors.Is(err, ErrCursor) || len(err.Error()) > 400 {
			t.Errorf("%.30q is read as %v, %v", s, c, err)
		}
	}
}

func FuzzParseCursor(f *testing.F) {
	f.Add("0")
	f.Add("4200-9f3c1a2b7d04")
	f.Add("01-9f3c1a2b7d04")
	f.Fuzz(func(t *testing.T, s string) {
		c, err := ParseCursor(s)
		if err == nil && c.String() != s {
			t.Errorf("%q is read as %s", s, c)
		}
		if err != nil && c != (Cursor{}) {
			t.Errorf("%q gives an error and %s", s, c)
		}
	})
}

func TestCursorMatches(t *testing.T) {
	t.Parallel()
	a, b := Digest{1}, Digest{2}
	if c := At(7, a); !c.Matches(a) || c.Matches(b) {
		t.Error("a cursor does not tell two histories apart")
	}
	if At(0, a) != At(0, b) || !At(0, a).IsStart() {
		t.Error("there is more than one start")
	}
}

func testDocument() *Document {
	gone := uuid.MustParse("018f4e7c-5d1b-7c3a-9f00-2b6d1c8e4a12")
	at := time.Date(2026, 11, 23, 8, 0, 0, 123_000, time.UTC)
	return &Document{
		Description: Description{Name: "things", Title: "Things <&>", ID: "tag:edison-cars.example,2026:things", Show: func(e Entry) (Shown, error) {
			return Shown{Title: "A <b>", HTML: "<p>one</p>", XML: struct {
				XMLName xml.Name `xml:"thing"`
			}{}}, nil
		}},
		Page: Page{
			Entries: []Entry{
				{Position: 1, ID: uuid.MustParse("018f4e7c-5d1b-7c3a-9f00-2b6d1c8e4a11"), Version: 1, Updated: at, Entity: json.RawMessage(`{"a":"<&>"}`)},
				{Position: 2, ID: gone, Version: 3, Updated: at.Add(time.Second), Deleted: true},
			},
			Cursor: At(2, Digest{2}), Head: At(5, Digest{5}),
		},
		Next: "http://source.example/feeds/things?after=x",
	}
}

func TestPageComesBackAsItWasWritten(t *testing.T) {
	t.Parallel()
	d := testDocument()
	body, err := d.JSON()
	if err != nil {
		t.Fatal(err)
	}
	p, err := ParsePage(body, Cursor{})
	if err != nil {
		t.Fatal(err)
	}
	if fmt.Sprintf("%+v", *p) != fmt.Sprintf("%+v", d.Page) {
		t.Errorf("got  %+v\nwant %+v", *p, d.Page)
	}
	if empty, err := ParsePage([]byte(emptyPage), Cursor{}); err != nil || !empty.UpToDate {
		t.Errorf("an empty page: %+v, %v", empty, err)
	}
}

func TestParsePageTakesWhatTheLogTakes(t *testing.T) {
	t.Parallel()
	d := testDocument()
	for _, entity := range []string{`{"a":1,"a":2}`, "{\"a\":\"\xff\"}", `{"a":"\ud800"}`, "{ \"a\" :\r\n[1e400] }", `{"a":"\u0000"}`, "{\"a\":\"\u2028\"}"} {
		d.Entries[0].Entity = json.RawMessage(entity)
		body, err := d.JSON()
		if err != nil {
			t.Fatal(err)
		}
		if p, err := ParsePage(body, Cursor{}); err != nil || string(p.Entries[0].Entity) != entity {
			t.Errorf("%q: %+v, %v", entity, p, err)
		}
	}
}

func TestJSONIsThatOfEncodingJSON(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		d := testDocument()
		words := Shown{Title: rapid.String().Draw(t, "title"), HTML: rapid.String().Draw(t, "html"), URL: rapid.String().Draw(t, "url")}
		words.HTML += string(rapid.SliceOf(rapid.Byte()).Draw(t, "bytes"))
		d.Show = func(Entry) (Shown, error) { return words, nil }
		d.Entries[0].Updated = time.Unix(0, rapid.Int64().Draw(t, "updated")).UTC()
		body, err := d.JSON()
		if err != nil {
			t.Fatal(err)
		}
		var got struct{ Items []json.RawMessage }
		if err := json.Unmarshal(body, &got); err != nil {
			t.Fatal(err)
		}
		raw := strings.NewReplacer(`\\`, `\\`, `\u2028`, "\u2028", `\u2029`, "\u2029", `\ufffd`, "\ufffd") // which encoding/json alone escapes
		type extension struct {
			Position int64           `json:"position"`
			Version  int64           `json:"version"`
			Deleted  bool            `json:"deleted,omitempty"`
			Erased   bool            `json:"erased,omitempty"`
			Entity   json.RawMessage `json:"entity,omitempty"`
		}
		for i, e := range d.Entries {
			var b bytes.Buffer
			item := feeds.JSONItem{Id: e.ID.URN(), Title: words.Title, ContentHTML: words.HTML, Url: words.URL, ModifiedDate: &e.Updated}
			if e.Deleted {
				item = feeds.JSONItem{Id: e.ID.URN(), Title: "Deleted", ContentText: "Deleted at its source.", ModifiedDate: &e.Updated}
			}
			enc := json.NewEncoder(&b)
			enc.SetEscapeHTML(false)
			if err := enc.Encode(struct {
				feeds.JSONItem
				Datafeed extension `json:"_datafeed"`
			}{item, extension{e.Position, e.Version, e.Deleted, e.Erased, e.Entity}}); err != nil {
				t.Fatal(err)
			}
			want := raw.Replace(strings.TrimSuffix(b.String(), "\n"))
			want = strings.Replace(want, `"date_modified":"`+e.Updated.Format(time.RFC3339Nano)+`"`, `"date_modified":"`+e.Updated.Format(TimeFormat)+`"`, 1)
			if string(got.Items[i]) != want {
				t.Errorf("got  %s\nwant %s", got.Items[i], want)
			}
		}
	})
}

func TestEventsKeepToTheirLines(t *testing.T) {
	t.Parallel()
	d := testDocument()
	d.Entries[0].Entity = json.RawMessage("{\"a\":\n\"\\n\",\r\"b\":\r\n1}")
	d.Entries[0].Cursor = At(1, Digest{1})
	events, err := d.Events()
	if err != nil {
		t.Fatal(err)
	}
	lines := strings.FieldsFunc(string(events), func(r rune) bool { return r == '\n' || r == '\r' })
	if len(lines) != 4 || lines[0] != "id: 1-010000000000" || !strings.HasSuffix(lines[1], `"entity":{"a": "\n", "b":  1}}}`) {
		t.Errorf("%q", lines)
	}
}

func TestParsePageRefuses(t *testing.T) {
	t.Parallel()
	body, err := testDocument().JSON()
	if err != nil {
		t.Fatal(err)
	}
	good := string(body)
	for name, bad := range map[string]string{
		"what is torn":                  good[:len(good)/2],
		"what is not JSON":              "<html>",
		"another document":              `{"items":[]}`,
		"a page without our extension":  `{"version":"https://jsonfeed.org/version/1.1","items":[]}`,
		"a gap":                         strings.Replace(good, `"position":2`, `"position":3`, 1),
		"a position twice":              strings.Replace(good, `"position":2`, `"position":1`, 1),
		"a page that starts elsewhere":  strings.Replace(good, `"position":1`, `"position":7`, 1),
		"a cursor that is not its end":  strings.Replace(good, `"cursor":"2-`, `"cursor":"3-`, 1),
		"a cursor that is none":         strings.Replace(good, `"cursor":"2-`, `"cursor":"`, 1),
		"a tail that hides its head":    strings.Replace(good, `,"head":"5-050000000000"`, ``, 1),
		"an empty page with other ends": `{"version":"https://jsonfeed.org/version/1.1","_datafeed":{"cursor":"2-050000000000","head":"0","up_to_date":true},"items":[]}`,
		"an end before the feed's":      strings.Replace(good, `"up_to_date":false`, `"up_to_date":true`, 1),
		"a head that it is past":        strings.Replace(good, `"head":"5-`, `"head":"1-`, 1),
		"an empty page on the way":      `{"version":"https://jsonfeed.org/version/1.1","_datafeed":{"cursor":"0","head":"2-050000000000","up_to_date":false},"items":[]}`,
		"an empty sealed page":          `{"version":"https://jsonfeed.org/version/1.1","_datafeed":{"cursor":"0","sealed":true},"items":[]}`,
		"what follows it":               good + "{}",
		"a position 0":                  strings.Replace(good, `"position":1`, `"position":0`, 1),
		"a gap at a malformed item":     strings.NewReplacer(`"position":2`, `"position":3`, `"version":3`, `"version":0`).Replace(good),
		"a torn item":                   strings.Replace(good, `"version":3`, `"version":`, 1),
		"items that are no list":        strings.Replace(good, `"items":[`, `"items":{},"others":[`, 1),
	} {
		if p, err := ParsePage([]byte(bad), Cursor{}); !errors.Is(err, ErrPage) {
			t.Errorf("%s is read as %+v, %v", name, p, err)
		}
	}
}

// readAlike holds ParsePage against encoding/json: it takes nothing that this refuses, and reads the same. It gives the
// page, or nil.
func readAlike(t *testing.T, body []byte) *Page {
	t.Helper()
	p, err := ParsePage(body, Cursor{})
	if err != nil {
		if !errors.Is(err, ErrPage) {
			t.Error(err)
		}
		return nil
	}
	if p.Cursor.Position != int64(len(p.Entries)) {
		t.Errorf("%d entries end at %s", len(p.Entries), p.Cursor)
	}
	malformed := false
	for i, e := range p.Entries {
		if e.Position != int64(i+1) {
			t.Errorf("entry %d of %s is at position %d", i, body, e.Position)
		}
		if e.Malformed() != nil {
			malformed = true
			var item []json.RawMessage
			if err := json.Unmarshal(e.Entity, &item); err != nil || len(item) != 1 || e.Deleted || e.Erased || e.Version < 0 || e.ID == uuid.Nil {
				t.Errorf("%s has the malformed entry %+v, %v", body, e, err)
			}
		}
	}
	if malformed || otherCase(body) {
		return p
	}
	var doc jsonReplay[jsonItem]
	if err := json.Unmarshal(body, &doc); err != nil {
		t.Fatalf("encoding/json refuses %s: %v", body, err)
	}
	want, err := doc.page(Cursor{}, (*jsonItem).entry)
	if err != nil || !reflect.DeepEqual(p, want) {
		t.Errorf("%s\ngot  %+v\nwant %+v, %v", body, p, want, err)
	}
	return p
}

func TestParsePageReadsAlike(t *testing.T) {
	t.Parallel()
	body, err := testDocument().JSON()
	if err != nil {
		t.Fatal(err)
	}
	values := []string{
		"", "null", "true", "false", "0", "-0", "1", "1.0", "1e0", "01", "+1", "9223372036854775808", `""`, `"0"`, `"1"`, `"true"`, `"2-020000000000"`,
		`"2-\u00320000000000"`, `"2026-11-23T08:00:00Z"`, `"2026-11-23 08:00:00Z"`, `"2026-11-23T08:00:00+25:00"`, "{}", "[]", "[null]", `{"a":1}`, `[{}]`, "{,}", "[1,]", "\xff", "\"\xff\"", "1 1",
	}
	read := 0
	for _, at := range regexp.MustCompile(`"\w+":("[^"]*"|\w+|\{"a":"<&>"\})`).FindAllSubmatchIndex(body, -1) {
		before, member, after := body[:at[0]], body[at[0]:at[1]], body[at[1]:]
		name := body[at[0]:at[2]]
		for _, value := range values {
			changed := append(bytes.Clone(name), value...)
			for _, bad := range [][][]byte{
				{before, changed, after},
				{before, changed, []byte(","), member, after},
				{before, member, []byte(","), changed, after},
				{before, []byte(" \t\r\n"), changed, []byte("\v"), after},
			} {
				if readAlike(t, bytes.Join(bad, nil)) != nil {
					read++
				}
			}
		}
	}
	for i := range body {
		readAlike(t, body[:i])
		readAlike(t, append(bytes.Clone(body[:i]), body[i+1:]...))
	}
	if read < 100 {
		t.Errorf("only %d pages were read", read)
	}
}

func FuzzParsePage(f *testing.F) {
	body, err := testDocument().JSON()
	if err != nil {
		f.Fatal(err)
	}
	f.Add(body)
	f.Add([]byte(emptyPage))
	f.Add(bytes.Replace(body, []byte(`{"a":"<&>"}`), []byte("{\"a\":\"\\ud800\xff\",\n\"a\" : 1e400}"), 1))
	f.Fuzz(func(t *testing.T, body []byte) { readAlike(t, body) })
}

// otherCase tells whether a name of ours may stand in the page in other letters, which encoding/json takes for it.
func otherCase(body []byte) bool {
	names := regexp.MustCompile(`(?i)"(version|_datafeed|items|id|date_modified|position|deleted|entity|about|cursor|next|sealed|up_to_date|head)"`)
	for _, name := range names.FindAll(body, -1) {
		if !bytes.Equal(name, bytes.ToLower(name)) {
			return true
		}
	}
	return bytes.Contains(body, []byte(`\u00`)) || bytes.ContainsAny(body, "ſ\u212a") // escaped, and the letters that fold into ASCII
}

// An item that cannot be read is an entry that says so, and the others are as they were.
func TestParsePageOfMalformedItems(t *testing.T) {
	t.Parallel()
	body, err := testDocument().JSON()
	if err != nil {
		t.Fatal(err)
	}
	good := string(body)
	whole, err := ParsePage(body, Cursor{})
	if err != nil {
		t.Fatal(err)
	}
	first, second := whole.Entries[0], whole.Entries[1]
	id, other := first.ID.String(), second.ID.String()
	for _, x := range []struct {
		name, old, new string
		position       int64
		id             uuid.UUID // zero: one that is made
		version        int64
		says           string
	}{
		{"no entity", `,"entity":{"a":"<&>"}`, ``, 1, first.ID, 1, "its entity is no object"},
		{"a null for an entity", `{"a":"<&>"}`, `null`, 1, first.ID, 1, "its entity is no object"},
		{"a list for an entity", `{"a":"<&>"}`, `[{"a":1}]`, 1, first.ID, 1, "its entity is no object"},
		{"a text for an entity", `{"a":"<&>"}`, `"{}"`, 1, first.ID, 1, "its entity is no object"},
		{"deleted, with an entity", `"deleted":true`, `"deleted":true,"entity":{}`, 2, second.ID, 3, "it is deleted and has an entity"},
		{"deleted in words", `"deleted":true`, `"deleted":"true"`, 2, second.ID, 3, "its deleted is neither true nor false"},
		{"neither deleted nor there", `,"deleted":true`, ``, 2, second.ID, 3, "its entity is no object"},
		{"erased and there", `"version":1,"entity"`, `"version":1,"erased":true,"entity"`, 1, first.ID, 1, "it is erased and not deleted"},
		{"erased in numbers", `"deleted":true`, `"deleted":true,"erased":1`, 2, second.ID, 3, "its erased is neither true nor false"},
		{"version 0", `"version":3`, `"version":0`, 2, second.ID, 0, "its version is no whole number from 1 on"},
		{"version -1", `"version":3`, `"version":-1`, 2, second.ID, 0, "its version is no whole number from 1 on"},
		{"half a version", `"version":3`, `"version":3.5`, 2, second.ID, 0, "its version is no whole number from 1 on"},
		{"a version in words", `"version":3`, `"version":"3"`, 2, second.ID, 0, "its version is no whole number from 1 on"},
		{"a version beyond 64 bits", `"version":3`, `"version":9223372036854775808`, 2, second.ID, 0, "its version is no whole number from 1 on"},
		{"no version", `"version":3,`, ``, 2, second.ID, 0, "its version is no whole number from 1 on"},
		{"an id that is no UUID", `urn:uuid:` + id, `tag:things,1`, 1, uuid.Nil, 1, "its id is no UUID"},
		{"an id with a NUL", `urn:uuid:` + id, `urn:uuid:\u0000` + id[1:], 1, uuid.Nil, 1, "its id is no UUID"},
		{"an id that is no UTF-8", `urn:uuid:` + id, "\xff", 1, uuid.Nil, 1, "its id is no UUID"},
		{"an id that is a number", `"urn:uuid:` + id + `"`, `7`, 1, uuid.Nil, 1, "its id is no UUID"},
		{"no id", `"id":"urn:uuid:` + other + `",`, ``, 2, uuid.Nil, 3, "its id is no UUID"},
		{"a day for a time", `"2026-11-23T08:00:00.000123Z"`, `"2026-11-23"`, 1, first.ID, 1, "its date_modified is no time of RFC 3339"},
		{"seconds for a time", `"2026-11-23T08:00:00.000123Z"`, `1795420800`, 1, first.ID, 1, "its date_modified is no time of RFC 3339"},
		{"a time in the year 10000", `"2026-11-23T08:00:00.000123Z"`, `"10000-11-23T08:00:00Z"`, 1, first.ID, 1, "its date_modified is no time of RFC 3339"},
		{"no extension", `"_datafeed":{"position":2,"version":3,"deleted":true}`, `"_datafeed":null`, 2, second.ID, 0, "its position is no whole number"},
		{"a list for an extension", `"_datafeed":{"position":2,"version":3,"deleted":true}`, `"_datafeed":[]`, 2, second.ID, 0, "its _datafeed is no object"},
		{"a position in words", `"position":2`, `"position":"2"`, 2, second.ID, 3, "its position is no whole number"},
		{"no position", `"position":2,`, ``, 2, second.ID, 3, "its position is no whole number"},
		{"a position in other letters", `"position":2`, `"Position":2`, 2, second.ID, 3, "its position is no whole number"},
	} {
		if strings.Count(good, x.old) != 1 {
			t.Fatalf("%s: the page has not one %s:\n%s", x.name, x.old, good)
		}
		page, err := ParsePage([]byte(strings.Replace(good, x.old, x.new, 1)), Cursor{})
		if err != nil {
			t.Errorf("%s: %v", x.name, err)
			continue
		}
		e, neighbour := page.Entries[x.position-1], 2-x.position
		if !reflect.DeepEqual(page.Entries[neighbour], whole.Entries[neighbour]) {
			t.Errorf("%s: its neighbour is %+v", x.name, page.Entries[neighbour])
		}
		if err := e.Malformed(); err == nil || err.Error() != x.says {
			t.Errorf("%s: %v", x.name, err)
		}
		if x.id == uuid.Nil && (e.ID == uuid.Nil || e.ID == first.ID || e.ID == second.ID) || x.id != uuid.Nil && e.ID != x.id {
			t.Errorf("%s: its id is %s", x.name, e.ID)
		}
		if e.Position != x.position || e.Version != x.version || e.Deleted || e.Erased || !bytes.Contains(e.Entity, []byte(x.new)) || !json.Valid(e.Entity) {
			t.Errorf("%s: %+v", x.name, e)
		}
	}
	for _, item := range []string{"null", "7", `"urn:uuid:` + id + `"`, "[]", "{}", `[{"_datafeed":{"position":1}}]`} {
		body := `{"version":"` + jsonFeedVersion + `","_datafeed":{"cursor":"1-010000000000","head":"1-010000000000","up_to_date":true},"items":[` + item + `]}`
		page, err := ParsePage([]byte(body), Cursor{})
		if err != nil || page.Entries[0].Malformed() == nil || page.Entries[0].Position != 1 || string(page.Entries[0].Entity) != "["+item+"]" {
			t.Errorf("the item %s: %+v, %v", item, page, err)
		}
	}
	if page, err := ParsePage([]byte(strings.Replace(good, `"next":"`, `"next":7,"then":"`, 1)), Cursor{}); err != nil || !reflect.DeepEqual(page, whole) {
		t.Errorf("a link that no reader needs: %+v, %v", page, err)
	}
	head, err := ParseHead([]byte(strings.Replace(good, `"version":3`, `"version":"3"`, 1)))
	if err != nil || head != At(5, Digest{5}) {
		t.Errorf("the feed of a malformed item ends at %s, %v", head, err)
	}
}

// An item that is nested deeper than a decoder reads is malformed, whatever its text says between the brackets.
func TestParsePageOfDeepItems(t *testing.T) {
	t.Parallel()
	body, err := testDocument().JSON()
	if err != nil {
		t.Fatal(err)
	}
	whole, err := ParsePage(body, Cursor{})
	if err != nil {
		t.Fatal(err)
	}
	const around = 5 // the page, its items, the item, its extension, its entity
	for _, x := range []struct {
		open, inner, end string
		levels           int
		deep             bool
	}{
		{`[`, ``, `]`, maxDepth - around, false},
		{`[`, `1`, `]`, 10_001 - around, true},
		{`[`, ``, `]`, 1_000_000, true},
		{`{"\\\"]":`, `"]}\\"`, `}`, 20_000, true},
		{`["}",{"a":`, `null`, `},"{"]`, 20_000, true},
	} {
		deep := strings.Repeat(x.open, x.levels) + x.inner + strings.Repeat(x.end, x.levels)
		text := []byte(strings.Replace(string(body), `{"a":"<&>"}`, `{"a":`+deep+`,"b":`+deep+`}`, 1))
		if bytes.Equal(text, body) || !x.deep && !bytes.Equal(flat(text), text) {
			t.Fatal("not the page that was meant")
		}
		page, err := ParsePage(text, Cursor{})
		if err != nil {
			t.Errorf("%s, %d levels: %.200s", x.open, x.levels, err)
			continue
		}
		first := page.Entries[0]
		if err := first.Malformed(); (err != nil) != x.deep || x.deep && err.Error() != "it is nested too deep" || first.ID != whole.Entries[0].ID || !json.Valid(first.Entity) {
			t.Errorf("%s, %d levels: %v", x.open, x.levels, err)
		}
		if !reflect.DeepEqual(page.Entries[1], whole.Entries[1]) {
			t.Errorf("%s, %d levels: its neighbour is %+v", x.open, x.levels, page.Entries[1])
		}
		if head, err := ParseHead(text); err != nil || head != At(5, Digest{5}) {
			t.Errorf("%s, %d levels: the feed ends at %s, %v", x.open, x.levels, head, err)
		}
	}
	for _, torn := range []string{strings.Repeat("[", 20_000), strings.Repeat("[", 20_000) + strings.Repeat("]", 19_000)} {
		if _, err := ParsePage([]byte(strings.Replace(string(body), `{"a":"<&>"}`, `{"a":`+torn+`}`, 1)), Cursor{}); !errors.Is(err, ErrPage) {
			t.Errorf("a torn page: %v", err)
		}
	}
}

// What is malformed hides nothing that is good, and a good version that comes later clears it.
func TestLatestOfMalformed(t *testing.T) {
	t.Parallel()
	a, b, c := uuid.New(), uuid.New(), uuid.New()
	bad := json.RawMessage("[{}]")
	p := Page{Entries: []Entry{
		{Position: 1, ID: a, Version: 2}, {Position: 2, ID: b, Entity: bad}, {Position: 3, ID: a, Entity: bad}, {Position: 4, ID: a, Version: 1, Entity: bad},
		{Position: 5, ID: b, Version: 1}, {Position: 6, ID: c, Version: 1, Deleted: true, Erased: true}, {Position: 7, ID: c, Version: 2, Entity: bad},
	}}
	var got []string
	for _, e := range p.Latest(nil) {
		got = append(got, fmt.Sprintf("%d v%d", e.Position, e.Version))
	}
	if want := []string{"1 v2", "4 v2", "5 v1", "6 v1"}; !reflect.DeepEqual(got, want) {
		t.Errorf("got %q, want %q", got, want)
	}
}

func TestLatestOfSuperseded(t *testing.T) {
	t.Parallel()
	a, b, c := uuid.New(), uuid.New(), uuid.New()
	p := Page{Entries: []Entry{
		{Position: 1, ID: a, Version: 1, Superseded: true}, {Position: 2, ID: b, Version: 1}, {Position: 3, ID: a, Version: 2}, {Position: 4, ID: b, Version: 2, Superseded: true},
		{Position: 5, ID: c, Version: 1, Superseded: true},
	}}
	if got := p.Latest(nil); len(got) != 2 || got[0].Position != 2 || got[0].Superseded || got[1].Position != 3 || got[1].First != 1 {
		t.Errorf("got %+v", got)
	}
}

func TestLatest(t *testing.T) {
	t.Parallel()
	a, b := uuid.New(), uuid.New()
	p := Page{Entries: []Entry{{Position: 1, ID: a, Version: 2}, {Position: 2, ID: b, Version: 1}, {Position: 3, ID: a, Version: 2}, {Position: 4, ID: a, Version: 1}}}
	if got := p.Latest(nil); len(got) != 2 || got[0].Position != 2 || got[1].Position != 3 {
		t.Errorf("got %+v", got)
	}
}

func TestAtom(t *testing.T) {
	t.Parallel()
	body, err := testDocument().Atom()
	if err != nil {
		t.Fatal(err)
	}
	var doc struct {
		XMLName xml.Name `xml:"http://www.w3.org/2005/Atom feed"`
		ID      string   `xml:"id"`
		Title   string   `xml:"title"`
		Updated string   `xml:"updated"`
		Page    struct {
			Cursor string `xml:"cursor,attr"`
		} `xml:"https://datafeed.example/ns page"`
		Entries []struct {
			ID      string `xml:"id"`
			Content struct {
				Type string `xml:"type,attr"`
				Text string `xml:",chardata"`
			} `xml:"content"`
			Thing *struct{} `xml:"thing"`
		} `xml:"entry"`
		Gone []struct {
			Ref  string `xml:"ref,attr"`
			When string `xml:"when,attr"`
		} `xml:"http://purl.org/atompub/tombstones/1.0 deleted-entry"`
	}
	if err := xml.Unmarshal(body, &doc); err != nil {
		t.Fatal(err)
	}
	if doc.Title != "Things <&>" || doc.Updated != "2026-11-23T08:00:01.000123Z" || doc.Page.Cursor != "2-020000000000" {
		t.Errorf("%+v", doc)
	}
	if len(doc.Entries) != 1 || doc.Entries[0].Content.Type != "html" || doc.Entries[0].Content.Text != "<p>one</p>" || doc.Entries[0].Thing == nil {
		t.Errorf("entries %+v", doc.Entries)
	}
	if len(doc.Gone) != 1 || doc.Gone[0].Ref != "urn:uuid:018f4e7c-5d1b-7c3a-9f00-2b6d1c8e4a12" || doc.Gone[0].When != doc.Updated {
		t.Errorf("tombstones %+v", doc.Gone)
	}
}
