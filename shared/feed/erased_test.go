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
