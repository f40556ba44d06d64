package feed

import (
	"bytes"
	"strconv"
	"sync"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"
	"github.com/google/uuid"
	"github.com/gorilla/feeds"
)

const jsonFeedVersion = "https://jsonfeed.org/version/1.1"

// jsonDocument is a JSON Feed 1.1 with our extension, without its items, which are appended last.
type jsonDocument struct {
	feeds.JSONFeed
	Datafeed jsonPage `json:"_datafeed"`
}

type jsonPage struct {
	About     string     `json:"about"`
	Snapshot  *Cursor    `json:"snapshot,omitempty"` // then without Cursor, Sealed and UpToDate
	Cursor    *Cursor    `json:"cursor,omitempty"`
	Next      string     `json:"next"`
	Through   *uuid.UUID `json:"through,omitempty"`
	Sealed    *bool      `json:"sealed,omitempty"`
	UpToDate  *bool      `json:"up_to_date,omitempty"`
	Head      *Cursor    `json:"head,omitempty"`
	Compacted *Cursor    `json:"compacted,omitempty"`
}

// JSON returns the document as JSON Feed 1.1. All that a replay needs is in the extension `_datafeed`. Entities are
// byte for byte as they were written.
func (d *Document) JSON() ([]byte, error) {
	doc := jsonDocument{
		JSONFeed: feeds.JSONFeed{
			Version: jsonFeedVersion, Title: d.Title, Description: d.Text, HomePageUrl: d.Home, FeedUrl: d.Self,
			NextUrl: d.link("next"),
		},
		Datafeed: jsonPage{About: d.Home + "/feeds", Next: d.Next, Through: d.Through, Compacted: d.compacted()},
	}
	if own := &doc.Datafeed; d.View == Snapshot {
		own.Snapshot = &d.Cursor
	} else {
		own.Cursor, own.Sealed, own.UpToDate = &d.Cursor, &d.Sealed, &d.UpToDate
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
	scratch := scratches.Get().(*[]byte)
	defer func() {
		if cap(*scratch) <= maxScratch {
			scratches.Put(scratch)
		}
	}()
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

// scratches hold documents while they are written.
var scratches = sync.Pool{New: func() any { return new([]byte) }}

const maxScratch = 8 << 20 // bytes of one that is kept for the next document

// appendItem appends an item of JSON Feed 1.1. It is written by hand for speed: pages of a long history have a thousand
// entries each, most of whose bytes exist already.
func (d *Document) appendItem(b []byte, e Entry) []byte {
	b = append(b, `{"id":"`...)
	b = append(b, e.ID.URN()...)
	b = append(b, '"')
	if e.Deleted {
		b = append(b, `,"title":"`+tombstoneTitle(e)+`","content_text":"`+d.tombstoneText(e)+`"`...)
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
	if e.First > 0 {
		b = append(b, `,"first":`...)
		b = strconv.AppendInt(b, e.First, 10)
	}
	switch {
	case e.Superseded:
		b = append(b, `,"superseded":true`...)
	case e.Deleted:
		b = append(b, `,"deleted":true`...)
		if e.Erased {
			b = append(b, `,"erased":true`...)
		}
	default:
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

func (d *Document) tombstoneText(e Entry) string {
	if d.Partial && !e.Erased {
		return "Deleted at its source, or outside of this view."
	}
	return tombstoneTitle(e) + " at its source."
}

// appendMember appends a member unless its value is empty.
func appendMember(b []byte, name, value string) []byte {
	if value == "" {
		return b
	}
	b, _ = jsontext.AppendQuote(append(b, name...), value) // invalid UTF-8 becomes U+FFFD, with an error that does not matter
	return b
}

// Events returns the entries as server-sent events (HTML Living Standard, section 9.2). Each has its cursor as id, and
// as data its item in JSON; that of a superseded entry has Compacted, too.
func (d *Document) Events() ([]byte, error) {
	var b []byte
	for _, e := range d.Entries {
		b = append(b, "id: "+e.Cursor.String()+"\ndata: "...)
		data := len(b)
		if b = d.appendItem(b, e); e.Superseded {
			b = append(b[:len(b)-len("}}")], `,"compacted":"`+d.Compacted.String()+`"}}`...)
		}
		for i := data; i < len(b); i++ {
			if b[i] == '\n' || b[i] == '\r' { // allowed between two tokens of the entity, but the end of the data here
				b[i] = ' '
			}
		}
		b = append(b, "\n\n"...)
	}
	return b, nil
}

// CloudEvents returns the entries as a batch of CloudEvents 1.0 in JSON, in the terms of http-feeds.org. The id of an
// event is the cursor after its entry.
func (d *Document) CloudEvents() ([]byte, error) {
	b := []byte{'['}
	for i, e := range d.Entries {
		if i > 0 {
			b = append(b, ',')
		}
		b = append(b, `{"specversion":"1.0","id":"`+e.Cursor.String()+`"`...)
		kind := eventType + d.Name
		if e.Superseded {
			kind += ".superseded"
		}
		b = appendMember(b, `,"type":`, kind)
		b = appendMember(b, `,"source":`, d.ID)
		b = append(b, `,"time":"`...)
		b = e.Updated.UTC().AppendFormat(b, TimeFormat)
		b = append(b, `","subject":"`+e.ID.String()+`"`...)
		switch {
		case e.Erased:
			b = append(b, `,"method":"DELETE","erased":true}`...)
		case e.Deleted:
			b = append(b, `,"method":"DELETE"}`...)
		case e.Superseded:
			b = append(b, `,"superseded":true,"compacted":"`+d.Compacted.String()+`"}`...)
		default:
			b = append(b, `,"datacontenttype":"application/json","data":`...)
			b = append(append(b, e.Entity...), '}')
		}
	}
	return append(b, "]\n"...), nil
}

// eventType begins the types of CloudEvents, which begin with a domain in reverse. The feed's name follows, and
// .superseded if the entry is that, so that a client that knows no such entries passes them over.
const eventType = "example.datafeed."

func (d *Document) link(rel string) string {
	for _, l := range d.Links {
		if l.Rel == rel {
			return l.Href
		}
	}
	return ""
}
