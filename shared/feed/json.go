package feed

import (
	"bytes"
	"strconv"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"
	"github.com/gorilla/feeds"
)

const jsonFeedVersion = "https://jsonfeed.org/version/1.1"

// jsonDocument is a JSON Feed 1.1 with our extension, but for its items, which come last.
type jsonDocument struct {
	feeds.JSONFeed
	Datafeed jsonPage `json:"_datafeed"`
}

type jsonPage struct {
	About    string  `json:"about"`
	Cursor   Cursor  `json:"cursor"`
	Next     string  `json:"next"`
	Sealed   bool    `json:"sealed"`
	UpToDate *bool   `json:"up_to_date"`
	Head     *Cursor `json:"head,omitempty"`
}

// JSON returns the document as JSON Feed 1.1. Everything that a replay needs stands in the extension `_datafeed`; the entities
// are, byte for byte, what was written.
func (d *Document) JSON() ([]byte, error) {
	doc := jsonDocument{
		JSONFeed: feeds.JSONFeed{
			Version: jsonFeedVersion, Title: d.Title, Description: d.Text, HomePageUrl: d.Home, FeedUrl: d.Self,
			NextUrl: d.link("next"),
		},
		Datafeed: jsonPage{About: d.Home + "/feeds", Cursor: d.Cursor, Next: d.Next, Sealed: d.Sealed, UpToDate: &d.UpToDate},
	}
	if !d.NewestFirst() {
		doc.NextUrl = ""
	}
	if d.tail() {
		doc.Datafeed.Head = &d.Head
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
	b = e.Updated.UTC().AppendFormat(b, TimeFormat)
	b = append(b, `","_datafeed":{"position":`...)
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

// Events returns the entries as server-sent events (HTML Living Standard, section 9.2): each with its cursor as the id and, as
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
