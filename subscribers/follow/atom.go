package follow

import (
	"bytes"
	"cmp"
	"encoding/xml"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/google/uuid"

	"github.com/edison-cars/data-feeds/shared/feed"
)

const (
	nsAtom     = "http://www.w3.org/2005/Atom"
	nsDatafeed = "https://datafeed.example/ns"
)

// An atomFeed has the elements of an Atom document that a replay needs: the extension, and tombstones (RFC 6721).
type atomFeed struct {
	XMLName xml.Name `xml:"http://www.w3.org/2005/Atom feed"`
	Page    *struct {
		Cursor    feed.Cursor  `xml:"cursor,attr"`
		Sealed    bool         `xml:"sealed,attr"`
		UpToDate  bool         `xml:"up-to-date,attr"`
		Head      *feed.Cursor `xml:"head,attr"`
		Compacted feed.Cursor  `xml:"compacted,attr"`
	} `xml:"https://datafeed.example/ns page"`
	Entries    []atomEntry `xml:"http://www.w3.org/2005/Atom entry"`
	Tombstones []struct {
		ID      string    `xml:"ref,attr"`
		Updated time.Time `xml:"when,attr"`
		Place   atomPlace `xml:"https://datafeed.example/ns entry"`
	} `xml:"http://purl.org/atompub/tombstones/1.0 deleted-entry"`
}

type atomPlace struct {
	Position   int64 `xml:"position,attr"`
	Version    int64 `xml:"version,attr"`
	Erased     bool  `xml:"erased,attr"`
	Superseded bool  `xml:"superseded,attr"`
}

type atomEntry struct {
	id       string
	updated  time.Time
	place    atomPlace
	from, to int64 // the entity's bytes in the document; equal if there is none
}

// UnmarshalXML reads the first element of a foreign namespace as the entity.
func (e *atomEntry) UnmarshalXML(d *xml.Decoder, _ xml.StartElement) error {
	for {
		from := d.InputOffset()
		token, err := d.Token()
		if err != nil {
			return err
		}
		start, ok := token.(xml.StartElement)
		if _, end := token.(xml.EndElement); end {
			return nil
		} else if !ok {
			continue
		}
		switch {
		case start.Name == xml.Name{Space: nsAtom, Local: "id"}:
			err = d.DecodeElement(&e.id, &start)
		case start.Name == xml.Name{Space: nsAtom, Local: "updated"}:
			err = d.DecodeElement(&e.updated, &start)
		case start.Name == xml.Name{Space: nsDatafeed, Local: "entry"}:
			err = d.DecodeElement(&e.place, &start)
		default:
			err = d.Skip()
			if start.Name.Space != nsAtom && e.from == e.to {
				e.from, e.to = from, d.InputOffset()
			}
		}
		if err != nil {
			return err
		}
	}
}

// decodeAtom returns errors that wrap feed.ErrPage.
func decodeAtom(body []byte) (*atomFeed, error) {
	var doc atomFeed
	if err := xml.Unmarshal(body, &doc); err != nil {
		return nil, fmt.Errorf("%w: %w", feed.ErrPage, err)
	}
	if doc.Page == nil {
		return nil, fmt.Errorf("%w: an Atom feed without the extension %s", feed.ErrPage, nsDatafeed)
	}
	if doc.Page.Head == nil && !doc.Page.Sealed {
		return nil, fmt.Errorf("%w: it is not sealed and does not say where the feed ends", feed.ErrPage)
	}
	return &doc, nil
}

// atomHead returns where the feed ends, as its document without parameters says.
func atomHead(body []byte) (head feed.Cursor, err error) {
	doc, err := decodeAtom(body)
	if err != nil {
		return head, err
	}
	if doc.Page.Head == nil {
		return head, fmt.Errorf("%w: it does not say where the feed ends", feed.ErrPage)
	}
	return *doc.Page.Head, nil
}

// parseAtom parses a replay page, with each entity as XML, in the order of the positions.
func parseAtom(body []byte, _ feed.Cursor) (*feed.Page, error) {
	doc, err := decodeAtom(body)
	if err != nil {
		return nil, err
	}
	page := &feed.Page{Cursor: doc.Page.Cursor, Sealed: doc.Page.Sealed, UpToDate: doc.Page.UpToDate, Compacted: doc.Page.Compacted}
	if doc.Page.Head != nil {
		page.Head = *doc.Page.Head
	}
	add := func(id string, e feed.Entry) error {
		if e.ID, err = uuid.Parse(strings.TrimPrefix(id, "urn:uuid:")); err != nil {
			return fmt.Errorf("%w: the entry at position %d lacks a UUID", feed.ErrPage, e.Position)
		}
		page.Entries = append(page.Entries, e)
		return nil
	}
	for _, e := range doc.Entries {
		if err := add(e.id, feed.Entry{Position: e.place.Position, Version: e.place.Version, Updated: e.updated, Superseded: e.place.Superseded, Entity: bytes.Clone(body[e.from:e.to])}); err != nil {
			return nil, err
		}
	}
	for _, e := range doc.Tombstones {
		if err := add(e.ID, feed.Entry{Position: e.Place.Position, Version: e.Place.Version, Updated: e.Updated, Deleted: true, Erased: e.Place.Erased}); err != nil {
			return nil, err
		}
	}
	slices.SortFunc(page.Entries, func(a, b feed.Entry) int { return cmp.Compare(a.Position, b.Position) })
	return page, nil
}
