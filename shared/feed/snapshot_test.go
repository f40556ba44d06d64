package feed

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"
)

// testSnapshot is a page of a snapshot, the entities of which have the ids 1 to 3, and the link to the next page.
func testSnapshot(next string) *Document {
	at := time.Date(2026, 11, 23, 8, 0, 0, 123_000, time.UTC)
	id := func(n byte) uuid.UUID { return uuid.UUID{15: n} }
	d := testDocument()
	d.View, d.Next = Snapshot, next
	d.Page = Page{Cursor: At(9, Digest{7}), Entries: []Entry{
		{Position: 9, First: 1, ID: id(1), Version: 4, Updated: at, Entity: json.RawMessage(`{"a":1}`)},
		{Position: 2, First: 2, ID: id(2), Version: 1, Updated: at, Entity: json.RawMessage(`{"a":2}`)},
		{Position: 7, First: 3, ID: id(3), Version: 2, Updated: at, Deleted: true, Erased: true},
	}}
	return d
}

const (
	nextEntities = "http://source.example/feeds/things?snapshot=9-070000000000&from=00000000-0000-0000-0000-000000000003&limit=3"
	nextReplay   = "http://source.example/feeds/things?after=9-070000000000&limit=3"
)

func TestSnapshotComesBackAsItWasWritten(t *testing.T) {
	t.Parallel()
	for next, more := range map[string]*SnapshotPlace{
		nextReplay:   nil,
		nextEntities: {At(9, Digest{7}), uuid.UUID{15: 3}},
	} {
		d := testSnapshot(next)
		body, err := d.JSON()
		if err != nil {
			t.Fatal(err)
		}
		want := &Page{Cursor: d.Cursor, More: more, Entries: []Entry{d.Entries[1], d.Entries[2], d.Entries[0]}} // in the order of the feed
		for _, at := range []SnapshotPlace{{}, {d.Cursor, uuid.UUID{}}, {d.Cursor, uuid.UUID{14: 0, 15: 0}}} {
			if p, err := ParseSnapshot(body, at); err != nil || !reflect.DeepEqual(p, want) {
				t.Errorf("at %v: %+v, %v", at, p, err)
			}
		}
	}
}

func TestParseSnapshotRefuses(t *testing.T) {
	t.Parallel()
	body, err := testSnapshot(nextEntities).JSON()
	if err != nil {
		t.Fatal(err)
	}
	good := string(body)
	at := SnapshotPlace{At(9, Digest{7}), uuid.UUID{}}
	if _, err := ParseSnapshot(body, at); err != nil {
		t.Fatal(err)
	}
	replaced := func(old, by string) string {
		if !strings.Contains(good, old) {
			t.Fatalf("no %s in %s", old, good)
		}
		return strings.Replace(good, old, by, 1)
	}
	jsonNext := strings.ReplaceAll(nextEntities, "&", `\u0026`)
	if !strings.Contains(good, jsonNext) {
		jsonNext = nextEntities
	}
	for name, bad := range map[string]string{
		"what is torn":                         good[:len(good)/2],
		"what is not JSON":                     "<html>",
		"another document":                     `{"items":[]}`,
		"a page of another snapshot":           replaced(`"snapshot":"9-070000000000"`, `"snapshot":"8-070000000000"`),
		"a page of another history":            replaced(`"snapshot":"9-070000000000"`, `"snapshot":"7-080000000000"`),
		"a head that is none":                  replaced(`"snapshot":"9-070000000000"`, `"snapshot":"7"`),
		"entities in another order":            strings.NewReplacer("000000000001\"", "000000000002\"", "000000000002\"", "000000000001\"").Replace(good),
		"an entity twice":                      replaced("000000000002\"", "000000000001\""),
		"an entity of the page before":         replaced("000000000001\"", "000000000000\""),
		"a position 0":                         replaced(`"position":2`, `"position":0`),
		"an entity without its first":          replaced(`,"first":2`, ``),
		"an entity that begins after it":       replaced(`"first":2`, `"first":3`),
		"no next page":                         replaced(jsonNext, ``),
		"a next page of another snapshot":      replaced("?snapshot=9-", "?snapshot=8-"),
		"a next page that leaves out some":     replaced("000000000003&limit", "000000000004&limit"),
		"a next page that has some again":      replaced("000000000003&limit", "000000000002&limit"),
		"a next page from nowhere":             replaced("000000000003&limit", "x&limit"),
		"a replay after another place":         replaced(jsonNext, strings.ReplaceAll(nextReplay, "9-0", "6-0")),
		"an entry beyond the snapshot":         replaced(`"position":9`, `"position":10`),
		"what follows it":                      good + "{}",
		"an item without position and version": replaced(`"position":2,"version":1,"first":2`, `"position":0,"version":0`),
		"an empty page that goes on":           `{"version":"https://jsonfeed.org/version/1.1","_datafeed":{"snapshot":"9-070000000000","next":"?snapshot=9-070000000000&from=00000000-0000-0000-0000-000000000000"},"items":[]}`,
	} {
		if p, err := ParseSnapshot([]byte(bad), at); !errors.Is(err, ErrPage) {
			t.Errorf("%s is read as %+v, %v", name, p, err)
		}
	}
	// A page may have passed entities that are newer, and says so.
	passed := strings.NewReplacer("000000000003&limit", "000000000004&limit", `"next"`, `"through":"00000000-0000-0000-0000-000000000004","next"`).Replace(good)
	if p, err := ParseSnapshot([]byte(passed), at); err != nil || p.More == nil || p.More.From.String() != "00000000-0000-0000-0000-000000000004" {
		t.Errorf("a page that has passed an entity: %+v, %v", p, err)
	}
	if p, err := ParseSnapshot([]byte(strings.Replace(passed, "000000000004&limit", "000000000005&limit", 1)), at); !errors.Is(err, ErrPage) {
		t.Errorf("a next page further on than that: %+v, %v", p, err)
	}
	// A feed that was empty has no second page.
	empty := strings.NewReplacer(`"snapshot":"9-070000000000"`, `"snapshot":"0"`, "snapshot=9-070000000000", "snapshot=0").Replace(good)
	if p, err := ParseSnapshot([]byte(empty), SnapshotPlace{}); !errors.Is(err, ErrPage) {
		t.Errorf("a second page of an empty feed: %+v, %v", p, err)
	}
	replay, err := testDocument().JSON()
	if err != nil {
		t.Fatal(err)
	}
	for _, other := range []string{string(replay), `{"version":"https://jsonfeed.org/version/1.1","items":[]}`} {
		if p, err := ParseSnapshot([]byte(other), SnapshotPlace{}); !errors.Is(err, ErrNoSnapshot) || errors.Is(err, ErrPage) {
			t.Errorf("no snapshot: %+v, %v", p, err)
		}
	}
}

// An item that cannot be read is an entry that says so, and holds up neither the others nor the next page.
func TestParseSnapshotOfMalformedItems(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		old, by         string
		index           int // in the order of the feed
		position, first int64
		nameless        bool
	}{
		"no version":                {`"version":1`, `"version":"x"`, 0, 2, 2, false},
		"no position":               {`"position":2`, `"position":"x"`, 2, 9, 2, false},
		"no first":                  {`"first":2`, `"first":"x"`, 0, 2, 2, false},
		"no id":                     {`urn:uuid:00000000-0000-0000-0000-000000000002`, `two`, 0, 2, 2, true},
		"no id on the last":         {`urn:uuid:00000000-0000-0000-0000-000000000003`, `three`, 1, 7, 3, true},
		"an entity that is no such": {`{"a":1}`, `[1]`, 2, 9, 1, false},
	} {
		body, err := testSnapshot(nextEntities).JSON()
		if err != nil {
			t.Fatal(err)
		}
		if !bytes.Contains(body, []byte(c.old)) {
			t.Fatalf("no %s in %s", c.old, body)
		}
		p, err := ParseSnapshot(bytes.Replace(body, []byte(c.old), []byte(c.by), 1), SnapshotPlace{})
		if err != nil || len(p.Entries) != 3 || p.More == nil {
			t.Errorf("%s: %+v, %v", name, p, err)
			continue
		}
		for i, e := range p.Entries {
			if got := fmt.Sprint(e.Position, e.First, e.Nameless()); (e.Malformed() != nil) != (i == c.index) || i == c.index && got != fmt.Sprint(c.position, c.first, c.nameless) {
				t.Errorf("%s: entry %d is at %s, %v", name, i, got, e.Malformed())
			}
		}
	}
	// Whatever else is wrong, an erasure is one.
	body, _ := testSnapshot(nextEntities).JSON()
	p, err := ParseSnapshot(bytes.Replace(body, []byte(`"first":3`), []byte(`"first":"x"`), 1), SnapshotPlace{})
	if err != nil || !p.Entries[1].Erased || p.Entries[1].Malformed() != nil || p.Entries[1].First != 7 {
		t.Errorf("%+v, %v", p, err)
	}
}

func FuzzParseSnapshot(f *testing.F) {
	for _, next := range []string{nextEntities, nextReplay} {
		body, err := testSnapshot(next).JSON()
		if err != nil {
			f.Fatal(err)
		}
		f.Add(body)
	}
	at := SnapshotPlace{At(9, Digest{7}), uuid.UUID{}}
	f.Fuzz(func(t *testing.T, body []byte) {
		p, err := ParseSnapshot(body, at)
		if err != nil {
			if !errors.Is(err, ErrPage) && !errors.Is(err, ErrNoSnapshot) {
				t.Error(err)
			}
			return
		}
		if p.Cursor != at.Head || p.More != nil && (p.More.Head != at.Head || bytes.Compare(p.More.From[:], at.From[:]) <= 0) {
			t.Errorf("%s goes on at %v", body, p.More)
		}
		for i, e := range p.Entries {
			if e.First < 1 || e.First > e.Position || i > 0 && p.Entries[i-1].Position > e.Position {
				t.Errorf("%s has %+v", body, e)
			}
		}
	})
}
