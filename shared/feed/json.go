package feed

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/google/uuid"
	"github.com/gorilla/feeds"
)

const jsonFeedVersion = "https://jsonfeed.org/version/1.1"

// jsonDocument is a JSON Feed 1.1 with our extension; its own fields shadow those of gorilla/feeds, which
// would leave out empty items.
type jsonDocument struct {
	feeds.JSONFeed
	Edison jsonPage   `json:"_edison"`
	Items  []jsonItem `json:"items"`
}

type jsonPage struct {
	About    string  `json:"about"`
	Cursor   Cursor  `json:"cursor"`
	Next     string  `json:"next"`
	Sealed   bool    `json:"sealed"`
	UpToDate *bool   `json:"up_to_date,omitempty"`
	Head     *Cursor `json:"head,omitempty"`
}

type jsonItem struct {
	feeds.JSONItem
	Edison jsonEntry `json:"_edison"`
}

type jsonEntry struct {
	Position int64           `json:"position"`
	Version  int64           `json:"version"`
	Deleted  bool            `json:"deleted,omitempty"`
	Entity   json.RawMessage `json:"entity,omitempty"`
}

// JSON gives the document as JSON Feed 1.1. Everything that a replay needs stands in the extension `_edison`.
func (d *Document) JSON() ([]byte, error) {
	doc := jsonDocument{
		JSONFeed: feeds.JSONFeed{
			Version: jsonFeedVersion, Title: d.Title, Description: d.Text, HomePageUrl: d.Home, FeedUrl: d.Self,
			NextUrl: d.link("next"),
		},
		Edison: jsonPage{About: d.Home + "/feeds", Cursor: d.Cursor, Next: d.Next, Sealed: d.Sealed},
		Items:  make([]jsonItem, 0, len(d.Entries)),
	}
	if !d.NewestFirst() {
		doc.NextUrl = ""
	}
	if d.tail() {
		doc.Edison.UpToDate, doc.Edison.Head = &d.UpToDate, &d.Head
	}
	for _, e := range d.Entries {
		doc.Items = append(doc.Items, d.item(e))
	}
	return encodeJSON(doc)
}

func (d *Document) item(e Entry) jsonItem {
	item := jsonItem{
		JSONItem: feeds.JSONItem{Id: e.ID.URN(), ModifiedDate: &e.Updated},
		Edison:   jsonEntry{Position: e.Position, Version: e.Version, Deleted: e.Deleted, Entity: e.Entity},
	}
	if e.Deleted {
		item.Title, item.ContentText = "Deleted", "Deleted at its source."
	} else {
		shown := d.Words(e)
		item.Title, item.ContentHTML, item.Url = shown.Title, shown.HTML, shown.URL
	}
	return item
}

// Events gives the entries as server-sent events (HTML Living Standard, section 9.2): each with its cursor as the id and, as
// the data, the item that it is in JSON.
func (d *Document) Events() ([]byte, error) {
	var b bytes.Buffer
	for _, e := range d.Entries {
		item, err := encodeJSON(d.item(e)) // ends its only line
		if err != nil {
			return nil, err
		}
		fmt.Fprintf(&b, "id: %s\ndata: %s\n", e.Cursor, item)
	}
	return b.Bytes(), nil
}

// encodeJSON leaves <, > and & as they are: the payloads go out as they were written.
func encodeJSON(v any) ([]byte, error) {
	var b bytes.Buffer
	enc := json.NewEncoder(&b)
	enc.SetEscapeHTML(false)
	err := enc.Encode(v)
	return b.Bytes(), err
}

func (d *Document) link(rel string) string {
	for _, l := range d.Links {
		if l.Rel == rel {
			return l.Href
		}
	}
	return ""
}

// ErrPage is what ParsePage wraps when a body is not the page that was asked for: torn, of another format,
// or with positions that do not follow each other.
var ErrPage = errors.New("not a page of this feed")

// ParsePage reads a replay page that starts at after and checks that it is whole: positions follow each other
// from after on, and the page's cursor is that of its last entry. All errors wrap ErrPage.
func ParsePage(body []byte, after Cursor) (*Page, error) {
	var doc struct {
		Version string    `json:"version"`
		Edison  *jsonPage `json:"_edison"`
		Items   []struct {
			ID       string    `json:"id"`
			Modified time.Time `json:"date_modified"`
			Edison   jsonEntry `json:"_edison"`
		} `json:"items"`
	}
	if err := json.Unmarshal(body, &doc); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrPage, err)
	}
	if doc.Version != jsonFeedVersion || doc.Edison == nil {
		return nil, fmt.Errorf("%w: expected JSON Feed 1.1 with the extension _edison", ErrPage)
	}
	p := &Page{Cursor: doc.Edison.Cursor, Sealed: doc.Edison.Sealed, Entries: make([]Entry, 0, len(doc.Items))}
	if doc.Edison.Head != nil && doc.Edison.UpToDate != nil {
		p.Head, p.UpToDate = *doc.Edison.Head, *doc.Edison.UpToDate
	} else if !p.Sealed {
		return nil, fmt.Errorf("%w: it is not sealed and does not say where the feed ends", ErrPage)
	}
	position := after.Position
	for _, item := range doc.Items {
		position++
		e := Entry{
			Position: item.Edison.Position, Version: item.Edison.Version, Updated: item.Modified,
			Deleted: item.Edison.Deleted, Entity: item.Edison.Entity,
		}
		if e.Position != position {
			return nil, fmt.Errorf("%w: expected position %d, got %d", ErrPage, position, e.Position)
		}
		id, err := uuid.Parse(strings.TrimPrefix(item.ID, "urn:uuid:"))
		if err != nil || e.Version < 1 || e.Deleted == bytes.HasPrefix(e.Entity, []byte("{")) || e.Deleted && e.Entity != nil {
			return nil, fmt.Errorf("%w: the entry at position %d lacks a UUID, a version from 1 on, or one of entity (an object) and deleted", ErrPage, position)
		}
		e.ID = id
		p.Entries = append(p.Entries, e)
	}
	if p.Cursor.Position != position || len(p.Entries) == 0 && p.Cursor != after {
		return nil, fmt.Errorf("%w: it ends at cursor %s, its last entry is at position %d", ErrPage, p.Cursor, position)
	}
	if len(p.Entries) == 0 && !p.UpToDate {
		return nil, fmt.Errorf("%w: it is empty and does not end the feed", ErrPage)
	}
	if !p.Sealed && (p.Head.Position < p.Cursor.Position || p.UpToDate != (p.Head == p.Cursor)) {
		return nil, fmt.Errorf("%w: it ends at cursor %s, up to date: %t, while the feed ends at %s", ErrPage, p.Cursor, p.UpToDate, p.Head)
	}
	return p, nil
}
