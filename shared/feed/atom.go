package feed

import (
	"cmp"
	"encoding/xml"
	"time"

	"github.com/google/uuid"
	"github.com/gorilla/feeds"
)

const (
	nsAtom      = "http://www.w3.org/2005/Atom"
	nsTombstone = "http://purl.org/atompub/tombstones/1.0"  // RFC 6721
	nsHistory   = "http://purl.org/syndication/history/1.0" // RFC 5005
	nsDatafeed  = "https://datafeed.example/ns"
)

// atomDocument is an Atom feed with our extension. Its own fields shadow those of gorilla/feeds, which has only one
// link and no extensions.
type atomDocument struct {
	feeds.AtomFeed
	NSTombstone string           `xml:"xmlns:at,attr"`
	NSHistory   string           `xml:"xmlns:fh,attr"`
	NSDatafeed  string           `xml:"xmlns:datafeed,attr"`
	Archive     *struct{}        `xml:"fh:archive"`
	Links       []feeds.AtomLink `xml:"link"`
	Page        atomPage         `xml:"datafeed:page"`
	Entries     []atomEntry      `xml:"entry"`
	Tombstones  []atomTombstone  `xml:"at:deleted-entry"`
}

type atomPage struct {
	Snapshot  *Cursor    `xml:"snapshot,attr,omitempty"` // then without Cursor, Sealed and UpToDate
	Cursor    *Cursor    `xml:"cursor,attr,omitempty"`
	Next      string     `xml:"next,attr"`
	Through   *uuid.UUID `xml:"through,attr,omitempty"`
	Sealed    *bool      `xml:"sealed,attr,omitempty"`
	UpToDate  *bool      `xml:"up-to-date,attr,omitempty"`
	Head      *Cursor    `xml:"head,attr,omitempty"`
	Compacted *Cursor    `xml:"compacted,attr,omitempty"`
}

type atomEntry struct {
	feeds.AtomEntry
	Place  atomPlace
	Entity any
}

type atomPlace struct {
	XMLName    xml.Name `xml:"datafeed:entry"`
	Position   int64    `xml:"position,attr"`
	Version    int64    `xml:"version,attr"`
	First      int64    `xml:"first,attr,omitempty"`
	Erased     bool     `xml:"erased,attr,omitempty"`
	Superseded bool     `xml:"superseded,attr,omitempty"`
}

type atomTombstone struct {
	Ref   string `xml:"ref,attr"`
	When  string `xml:"when,attr"`
	Place atomPlace
}

// Atom returns the document as an Atom feed (RFC 4287), deleted entities as tombstones (RFC 6721), with erased="true"
// in our extension where they are erased. Each entry has content for people and, beside it, the entity as an XML
// element of its own namespace, which a superseded entry lacks. An archive document is marked as one (RFC 5005 section
// 4).
func (d *Document) Atom() ([]byte, error) {
	doc := atomDocument{
		AtomFeed: feeds.AtomFeed{
			Xmlns: nsAtom, Title: d.Title, Subtitle: d.Text, Id: d.ID, Updated: rfc3339(time.Unix(0, 0)),
			Author: &feeds.AtomAuthor{AtomPerson: feeds.AtomPerson{Name: cmp.Or(d.Author, d.Title)}},
		},
		NSTombstone: nsTombstone, NSHistory: nsHistory, NSDatafeed: nsDatafeed,
		Page:  atomPage{Next: d.Next, Through: d.Through, Compacted: d.compacted()},
		Links: []feeds.AtomLink{{Rel: "self", Href: d.Self, Type: TypeAtom}},
	}
	if d.View == Snapshot {
		doc.Page.Snapshot = &d.Cursor
	} else {
		doc.Page.Cursor, doc.Page.Sealed, doc.Page.UpToDate = &d.Cursor, &d.Sealed, &d.UpToDate
	}
	if d.Archive {
		doc.Archive = &struct{}{}
	}
	if d.tail() {
		doc.Page.Head = &d.Head
	}
	for _, l := range d.Links {
		doc.Links = append(doc.Links, feeds.AtomLink{Rel: l.Rel, Href: l.Href, Type: l.Type})
	}
	var updated time.Time
	for _, e := range d.Entries {
		if e.Updated.After(updated) {
			updated = e.Updated
			doc.Updated = rfc3339(updated)
		}
		place := atomPlace{Position: e.Position, Version: e.Version, First: e.First, Erased: e.Erased, Superseded: e.Superseded}
		if e.Deleted {
			doc.Tombstones = append(doc.Tombstones, atomTombstone{Ref: e.ID.URN(), When: rfc3339(e.Updated), Place: place})
			continue
		}
		shown := d.Words(e)
		entry := atomEntry{
			AtomEntry: feeds.AtomEntry{
				Title: shown.Title, Id: e.ID.URN(), Updated: rfc3339(e.Updated),
				Content: &feeds.AtomContent{Type: "html", Content: shown.HTML},
			},
			Place: place, Entity: shown.XML,
		}
		if shown.URL != "" {
			entry.AtomEntry.Links = []feeds.AtomLink{{Rel: "alternate", Type: TypeHTML, Href: shown.URL}}
		}
		doc.Entries = append(doc.Entries, entry)
	}
	body, err := xml.Marshal(doc)
	return append([]byte(xml.Header), body...), err
}

func rfc3339(t time.Time) string { return t.UTC().Format(TimeFormat) }
