package feed

import (
	"bytes"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"
	"github.com/google/uuid"
	"github.com/gorilla/feeds"
)

const jsonFeedVersion = "https://jsonfeed.org/version/1.1"

// jsonDocument is a JSON Feed 1.1 with our extension, but for its items, which come last.
type jsonDocument struct {
	feeds.JSONFeed
	Edison jsonPage `json:"_edison"`
}

type jsonPage struct {
	About    string  `json:"about"`
	Cursor   Cursor  `json:"cursor"`
	Next     string  `json:"next"`
	Sealed   bool    `json:"sealed"`
	UpToDate *bool   `json:"up_to_date"`
	Head     *Cursor `json:"head,omitempty"`
}

// JSON gives the document as JSON Feed 1.1. Everything that a replay needs stands in the extension `_edison`; the entities
// are, byte for byte, what was written.
func (d *Document) JSON() ([]byte, error) {
	doc := jsonDocument{
		JSONFeed: feeds.JSONFeed{
			Version: jsonFeedVersion, Title: d.Title, Description: d.Text, HomePageUrl: d.Home, FeedUrl: d.Self,
			NextUrl: d.link("next"),
		},
		Edison: jsonPage{About: d.Home + "/feeds", Cursor: d.Cursor, Next: d.Next, Sealed: d.Sealed, UpToDate: &d.UpToDate},
	}
	if !d.NewestFirst() {
		doc.NextUrl = ""
	}
	if d.tail() {
		doc.Edison.Head = &d.Head
	}
	frame, err := json.Marshal(doc)
	if err != nil {
		return nil, err
	}
	scratch := buffers.Get().(*[]byte)
	defer putBuffer(scratch)
	b := append(append((*scratch)[:0], frame[:len(frame)-1]...), `,"items":[`...)
	for i, e := range d.Entries {
		if i > 0 {
			b = append(b, ',')
		}
		b = d.appendItem(b, e)
	}
	b = append(b, "]}\n"...)
	*scratch = b
	return bytes.Clone(b), nil
}

// appendItem writes an item of JSON Feed 1.1. By hand: a page of a long history is made by the thousand entries, and most of
// it is there already.
func (d *Document) appendItem(b []byte, e Entry) []byte {
	b = append(b, `{"id":"`...)
	b = append(b, e.ID.URN()...)
	b = append(b, '"')
	if e.Deleted {
		b = append(b, `,"title":"`+tombstoneTitle(e)+`","content_text":"`+tombstoneTitle(e)+` at its source."`...)
	} else {
		shown := d.Words(e)
		b = appendMember(b, `,"url":`, shown.URL)
		b = appendMember(b, `,"title":`, shown.Title)
		b = appendMember(b, `,"content_html":`, shown.HTML)
	}
	b = append(b, `,"date_modified":"`...)
	b = e.Updated.AppendFormat(b, time.RFC3339Nano)
	b = append(b, `","_edison":{"position":`...)
	b = strconv.AppendInt(b, e.Position, 10)
	b = append(b, `,"version":`...)
	b = strconv.AppendInt(b, e.Version, 10)
	if e.Deleted {
		b = append(b, `,"deleted":true`...)
		if e.Erased {
			b = append(b, `,"erased":true`...)
		}
	} else {
		b = append(b, `,"entity":`...)
		b = append(b, e.Entity...)
	}
	return append(b, "}}"...)
}

func tombstoneTitle(e Entry) string {
	if e.Erased {
		return "Erased"
	}
	return "Deleted"
}

// appendMember leaves out what is empty.
func appendMember(b []byte, name, value string) []byte {
	if value == "" {
		return b
	}
	b, _ = jsontext.AppendQuote(append(b, name...), value) // what is not UTF-8 becomes U+FFFD, and an error
	return b
}

// Events gives the entries as server-sent events (HTML Living Standard, section 9.2): each with its cursor as the id and, as
// the data, the item that it is in JSON.
func (d *Document) Events() ([]byte, error) {
	var b []byte
	for _, e := range d.Entries {
		b = append(b, "id: "+e.Cursor.String()+"\ndata: "...)
		data := len(b)
		b = d.appendItem(b, e)
		for i := data; i < len(b); i++ {
			if b[i] == '\n' || b[i] == '\r' { // between two tokens of the entity, and here the end of the data
				b[i] = ' '
			}
		}
		b = append(b, "\n\n"...)
	}
	return b, nil
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

// jsonReplay is what a reader takes of a replay page.
type jsonReplay struct {
	Version string    `json:"version"`
	Edison  *jsonPage `json:"_edison"`
	Items   []struct {
		ID       string    `json:"id"`
		Modified time.Time `json:"date_modified"`
		Edison   struct {
			Position int64          `json:"position"`
			Version  int64          `json:"version"`
			Deleted  bool           `json:"deleted"`
			Erased   bool           `json:"erased"`
			Entity   jsontext.Value `json:"entity"`
		} `json:"_edison"`
	} `json:"items"`
}

// asWritten: an entity that the log has taken does not fail its whole page.
var asWritten = json.JoinOptions(jsontext.AllowDuplicateNames(true), jsontext.AllowInvalidUTF8(true))

// ParsePage reads a replay page that starts at after and checks that it is whole: positions follow each other
// from after on, and the page's cursor is that of its last entry. It keeps nothing of body. All errors wrap ErrPage.
func ParsePage(body []byte, after Cursor) (*Page, error) {
	var doc jsonReplay
	if err := json.Unmarshal(body, &doc, asWritten); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrPage, undecodable(err))
	}
	return doc.page(after)
}

// undecodable returns an error of decoding without the values that it quotes, and the names within entities: it may be logged.
func undecodable(err error) error {
	if wrong, ok := errors.AsType[*json.SemanticError](err); ok { // the path to the value has names of ours alone
		return &json.SemanticError{ByteOffset: wrong.ByteOffset, JSONPointer: wrong.JSONPointer, JSONKind: wrong.JSONKind, GoType: wrong.GoType}
	}
	if wrong, ok := errors.AsType[*jsontext.SyntacticError](err); ok {
		return &jsontext.SyntacticError{ByteOffset: wrong.ByteOffset, Err: wrong.Err}
	}
	return errors.New("no JSON")
}

// parseHead reads from the newest entries where the feed ends.
func parseHead(body []byte) (head Cursor, err error) {
	var doc jsonReplay
	if err := json.Unmarshal(body, &doc, asWritten); err != nil {
		return head, fmt.Errorf("%w: %w", ErrPage, undecodable(err))
	}
	if doc.Version != jsonFeedVersion || doc.Edison == nil || doc.Edison.Head == nil {
		return head, fmt.Errorf("%w: it does not say where the feed ends", ErrPage)
	}
	return *doc.Edison.Head, nil
}

func (doc *jsonReplay) page(after Cursor) (*Page, error) {
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
			Deleted: item.Edison.Deleted, Erased: item.Edison.Erased, Entity: []byte(item.Edison.Entity),
		}
		if e.Position != position {
			return nil, fmt.Errorf("%w: expected position %d, got %d", ErrPage, position, e.Position)
		}
		id, err := uuid.Parse(strings.TrimPrefix(item.ID, "urn:uuid:"))
		if err != nil || e.Version < 1 || e.Deleted == bytes.HasPrefix(e.Entity, []byte("{")) || e.Deleted && e.Entity != nil || e.Erased && !e.Deleted {
			return nil, fmt.Errorf("%w: the entry at position %d lacks a UUID, a version from 1 on, or one of entity (an object) and deleted, or is erased and not deleted", ErrPage, position)
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
