package feed

import (
	"strings"
	"testing"

	"github.com/google/uuid"
)

// What is erased says so in every format; a reader that does not know the member still sees a tombstone.
func TestErased(t *testing.T) {
	t.Parallel()
	d := testDocument()
	deleted := 0
	for i := range d.Entries {
		if d.Entries[i].Deleted {
			deleted, d.Entries[i].Erased = i, true
		}
	}
	for _, c := range []struct {
		encode func() ([]byte, error)
		want   string
	}{
		{d.JSON, `"title":"Erased","content_text":"Erased at its source."`},
		{d.JSON, `"version":3,"deleted":true,"erased":true}`},
		{d.Atom, `<datafeed:entry position="2" version="3" erased="true">`},
		{d.Events, `"deleted":true,"erased":true}`},
	} {
		body, err := c.encode()
		if err != nil || strings.Count(string(body), c.want) != 1 || strings.Count(string(body), "erased") != 1 {
			t.Errorf("%s is not there once, %v:\n%s", c.want, err, body)
		}
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
		if e.Erased != (i == deleted) || e.Deleted != (i == deleted) {
			t.Errorf("it is read as %+v", e)
		}
	}
}

// An erasure is one, whatever else is wrong with its item, as long as it says whose it is.
func TestErasureOfMalformedItem(t *testing.T) {
	t.Parallel()
	d := testDocument()
	for i := range d.Entries {
		d.Entries[i].Erased = d.Entries[i].Deleted
	}
	good, err := d.JSON()
	if err != nil {
		t.Fatal(err)
	}
	for _, x := range []struct {
		old, new string
		erased   bool
	}{
		{`"erased":true`, `"erased":true,"entity":null`, true},
		{`"erased":true`, `"erased":true,"entity":{}`, true},
		{`"erased":true`, `"erased":true,"entity":7`, true},
		{`"deleted":true,`, ``, true},
		{`"deleted":true,`, `"deleted":"yes",`, true},
		{`"deleted":true,`, `"deleted":false,`, true},
		{`"version":3,`, `"version":0,`, true},
		{`"version":3,`, `"version":"3",`, true},
		{`"version":3,`, ``, true},
		{`"position":2,`, ``, true},
		{`"deleted":true,"erased":true`, `"erased":true,"entity":{"name":"Ada"}`, false}, // it still says something
		{`"erased":true`, `"erased":"true"`, false},
	} {
		body := strings.Replace(string(good), x.old, x.new, 1)
		if x.old == `"deleted":true,` || strings.HasPrefix(x.old, `"erased`) { // and with a wrong time
			body = strings.ReplaceAll(body, `"date_modified":"`, `"date_modified":"about `)
		}
		if body == string(good) {
			t.Fatalf("the page has no %s", x.old)
		}
		page, err := ParsePage([]byte(body), Cursor{})
		if err != nil {
			t.Errorf("%s: %v", x.new, err)
			continue
		}
		e := page.Entries[1]
		if malformed := e.Malformed() != nil; malformed == x.erased || e.Erased != x.erased || e.Deleted != x.erased || x.erased && e.Entity != nil ||
			e.ID != d.Entries[1].ID || e.Position != 2 || x.erased && e.Version < 1 {
			t.Errorf("%s: %+v", x.new, e)
		}
	}
	body := strings.Replace(string(good), `"deleted":true,"erased":true`, `"deleted":true,"entity":null`, 1)
	if page, err := ParsePage([]byte(body), Cursor{}); err != nil || page.Entries[1].Malformed() != nil || page.Entries[1].Entity != nil {
		t.Errorf("a tombstone with a null: %+v, %v", page, err)
	}
}

// No version of an entity is newer than its erasure, whatever a source says behind it.
func TestLatestKeepsAnErasure(t *testing.T) {
	t.Parallel()
	ada, bob := uuid.New(), uuid.New()
	p := Page{Entries: []Entry{
		{Position: 1, ID: ada, Version: 1},
		{Position: 2, ID: bob, Version: 7, Deleted: true},
		{Position: 3, ID: ada, Version: 2, Deleted: true, Erased: true},
		{Position: 4, ID: bob, Version: 8},
		{Position: 5, ID: ada, Version: 3},
		{Position: 6, ID: ada, Version: 2, Deleted: true},
	}}
	if latest := p.Latest(func(Entry) bool { return false }); len(latest) != 2 || latest[0].Position != 3 || latest[1].Position != 4 {
		t.Errorf("the newest are %+v", latest)
	}
}
