package feed

import (
	"encoding/xml"
	"errors"
	"strings"
	"testing"
)

// testSuperseded is a document whose tombstone is superseded and compacted.
func testSuperseded(t *testing.T) *Document {
	t.Helper()
	d := testDocument()
	e := &d.Entries[1]
	if !e.Deleted {
		t.Fatal("the second entry is no tombstone")
	}
	e.Deleted, e.Superseded, d.Compacted = false, true, At(1001, Digest{5})
	return d
}

// What is superseded says so in every format, and is neither a tombstone nor an entity.
func TestSuperseded(t *testing.T) {
	t.Parallel()
	d := testSuperseded(t)
	for _, c := range []struct {
		encode func() ([]byte, error)
		want   []string
	}{
		{d.JSON, []string{`"title":"Superseded","content_html":"`, `"version":3,"superseded":true}`, `"compacted":"1001-050000000000"`}},
		{d.Atom, []string{`<title>Superseded</title>`, `<datafeed:entry position="2" version="3" superseded="true">`, ` compacted="1001-050000000000"`}},
		{d.Events, []string{`"superseded":true,"compacted":"1001-050000000000"}}` + "\n\n"}},
		{d.CloudEvents, []string{`"type":"example.datafeed.things.superseded"`, `,"superseded":true,"compacted":"1001-050000000000"}`}},
	} {
		body, err := c.encode()
		for _, want := range c.want {
			if err != nil || strings.Count(string(body), want) != 1 {
				t.Errorf("%s is not there once, %v:\n%s", want, err, body)
			}
		}
		if strings.Contains(string(body), "deleted") || strings.Contains(string(body), "DELETE") {
			t.Errorf("something is deleted:\n%s", body)
		}
	}
	if atom, err := d.Atom(); err != nil || xml.Unmarshal(atom, new(any)) != nil {
		t.Errorf("%v:\n%s", err, atom)
	}
	body, err := d.JSON()
	if err != nil {
		t.Fatal(err)
	}
	page, err := ParsePage(body, Cursor{})
	if err != nil {
		t.Fatal(err)
	}
	for i, e := range page.Entries {
		if e.Superseded != (i == 1) || e.Deleted || e.Malformed() != nil || (e.Entity == nil) != (i == 1) {
			t.Errorf("entry %d is read as %+v", i+1, e)
		}
	}
	if page.Compacted != d.Compacted {
		t.Errorf("the page is compacted up to %s", page.Compacted)
	}

	s := testSnapshot(nextEntities)
	s.Entries[1] = Entry{Position: 2, First: 2, ID: s.Entries[1].ID, Version: 1, Updated: s.Entries[1].Updated, Superseded: true}
	s.Compacted = At(12, Digest{8})
	if body, err = s.JSON(); err != nil {
		t.Fatal(err)
	}
	if page, err = ParseSnapshot(body, SnapshotPlace{}); err != nil || page.Compacted != s.Compacted || !page.Entries[0].Superseded {
		t.Errorf("the snapshot is read as %+v, %v", page, err)
	}
}

// A page without superseded entries does not say up to where its feed is compacted: it stays as it was.
func TestNothingSuperseded(t *testing.T) {
	t.Parallel()
	d := testDocument()
	d.Compacted = At(1001, Digest{5})
	for _, encode := range []func() ([]byte, error){d.JSON, d.Atom, d.Events, d.CloudEvents} {
		if body, err := encode(); err != nil || strings.Contains(string(body), "compacted") {
			t.Errorf("%v:\n%s", err, body)
		}
	}
}

// An item that is superseded and says more is malformed, or an erasure. A page with superseded
// entries has to say what a restore could take away.
func TestParseOfSuperseded(t *testing.T) {
	t.Parallel()
	good, err := testSuperseded(t).JSON()
	if err != nil {
		t.Fatal(err)
	}
	const is = `"superseded":true`
	for with, want := range map[string]struct{ malformed, erased, superseded bool }{
		is + `,"entity":null`:                 {superseded: true},
		is + `,"deleted":false`:               {superseded: true},
		is + `,"entity":{}`:                   {malformed: true},
		is + `,"entity":7`:                    {malformed: true},
		is + `,"deleted":true`:                {malformed: true},
		is + `,"deleted":true,"erased":true`:  {erased: true},
		is + `,"erased":true`:                 {erased: true},
		`"superseded":"true"`:                 {malformed: true},
		`"superseded":false`:                  {malformed: true}, // neither deleted nor an entity
		`"superseded":"yes","entity":{"a":1}`: {malformed: true},
	} {
		page, err := ParsePage([]byte(strings.Replace(string(good), is, with, 1)), Cursor{})
		if err != nil {
			t.Errorf("%s: %v", with, err)
			continue
		}
		e := page.Entries[1]
		if e.Superseded != want.superseded || e.Erased != want.erased || e.Deleted != want.erased || (e.Malformed() != nil) != want.malformed {
			t.Errorf("%s is read as %+v", with, e)
		}
	}
	const at = `"compacted":"1001-050000000000"`
	for _, with := range []string{`"compacted":"0"`, `"compacted":"2-050000000000"`, `"compacted":"soon"`, `"compacted":null`, `"other":1`} {
		if _, err := ParsePage([]byte(strings.Replace(string(good), at, with, 1)), Cursor{}); !errors.Is(err, ErrPage) {
			t.Errorf("with %s: %v", with, err)
		}
	}
}
