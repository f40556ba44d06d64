package feed

import (
	"bytes"
	"cmp"
	"encoding/xml"
	"errors"
	"fmt"
	"html"
	"strings"
	"unicode/utf8"

	"github.com/go-json-experiment/json/jsontext"
)

// nsMembers is the namespace of the XML that is made of an entity's members.
const nsMembers = nsDatafeed + "/entity"

// maxNested is how deep arrays and objects are shown as such: what is deeper is shown as JSON.
const maxNested = 50

// maxValues is the most values of an entity that are shown as such. Each takes many times its size in JSON.
const maxValues = 5000

// maxHTML is after how many bytes of an entity's HTML its members are left out, and maxText the most characters of one of
// its texts. What is for people needs no more, since the entity itself stands beside it.
const (
	maxHTML = 32 << 10
	maxText = 2000
)

var errValues = errors.New("too many values")

// A member is a value of an entity, with its name in the object that has it.
type member struct {
	name  string
	text  string   // of a string, number or boolean, and of what is nested too deep; "" of null
	kind  byte     // of its first token: { [ n or another
	inner []member // of an object or array
}

// membersOf reads an entity, whose members keep their order. If it has too many values, its members are shown as JSON, or
// else it is one text, as is what is no JSON.
func membersOf(entity []byte) member {
	for _, nested := range []int{maxNested, 1} {
		r := memberReader{jsontext.NewDecoder(bytes.NewReader(entity), jsontext.AllowDuplicateNames(true), jsontext.AllowInvalidUTF8(true)), 0}
		if m, err := r.read("", nested); err == nil {
			return m
		}
	}
	return member{text: string(entity)}
}

type memberReader struct {
	*jsontext.Decoder
	values int // that were read
}

// read reads the next value, with what is nested in it up to so many levels.
func (dec *memberReader) read(name string, nested int) (m member, err error) {
	if dec.values++; dec.values > maxValues {
		return m, errValues
	}
	m = member{name: name, kind: byte(dec.PeekKind())}
	if m.kind != '{' && m.kind != '[' || nested == 0 {
		value, err := dec.ReadValue()
		if err != nil {
			return m, err
		}
		switch m.text = string(value); m.kind {
		case 'n':
			m.text = ""
		case '"':
			text, _ := jsontext.AppendUnquote(nil, value) // it is a string; what is not UTF-8 in it becomes U+FFFD
			m.text = string(text)
		}
		return m, nil
	}
	if _, err := dec.ReadToken(); err != nil {
		return m, err
	}
	for dec.PeekKind() != '}' && dec.PeekKind() != ']' {
		name := "item"
		if m.kind == '{' {
			token, err := dec.ReadToken()
			if err != nil {
				return m, err
			}
			name = token.String()
		}
		inner, err := dec.read(name, nested-1)
		if err != nil {
			return m, err
		}
		m.inner = append(m.inner, inner)
	}
	_, err = dec.ReadToken()
	return m, err
}

// plain shows an entry of which nothing is known but that it is JSON.
func plain(e Entry) Shown {
	m := membersOf(e.Entity)
	title := map[string]string{}
	for _, x := range m.inner {
		if m.kind == '{' && (x.kind == '"' || x.kind == '0' && x.name == "id") {
			title[x.name] = x.text
		}
	}
	var b strings.Builder
	m.writeHTML(&b)
	return Shown{Title: shorten(cmp.Or(title["title"], title["name"], title["id"], e.ID.String())), HTML: b.String(), XML: m}
}

// shorten returns the text, or its beginning and how much is left out.
func shorten(text string) string {
	n := 0
	for i := range text {
		if n++; n > maxText {
			return fmt.Sprintf("%s… (%d more characters)", text[:i], utf8.RuneCountInString(text[i:]))
		}
	}
	return text
}

// writeHTML writes an object as a description list, an array as a list, and any other value as text.
func (m member) writeHTML(b *strings.Builder) {
	switch {
	case m.inner == nil:
		b.WriteString(html.EscapeString(shorten(m.text)))
	case m.kind == '{':
		b.WriteString("<dl>")
		for i, x := range m.inner {
			if b.Len() > maxHTML {
				fmt.Fprintf(b, "<dt>…</dt><dd>%d more</dd>", len(m.inner)-i)
				break
			}
			b.WriteString("<dt>" + html.EscapeString(shorten(x.name)) + "</dt><dd>")
			x.writeHTML(b)
			b.WriteString("</dd>")
		}
		b.WriteString("</dl>")
	default:
		b.WriteString("<ul>")
		for i, x := range m.inner {
			if b.Len() > maxHTML {
				fmt.Fprintf(b, "<li>… %d more</li>", len(m.inner)-i)
				break
			}
			b.WriteString("<li>")
			x.writeHTML(b)
			b.WriteString("</li>")
		}
		b.WriteString("</ul>")
	}
}

// MarshalXML writes a member as an element of its name, or as <member name="..."> where XML has no such name; an item
// of an array is an element <item>, and null is one with nil="true".
func (m member) MarshalXML(e *xml.Encoder, _ xml.StartElement) error {
	return m.encode(e, xml.StartElement{Name: xml.Name{Space: nsMembers, Local: "entity"}})
}

func (m member) encode(e *xml.Encoder, start xml.StartElement) error {
	if m.kind == 'n' {
		start.Attr = append(start.Attr, xml.Attr{Name: xml.Name{Local: "nil"}, Value: "true"})
	}
	if err := e.EncodeToken(start); err != nil {
		return err
	}
	if err := e.EncodeToken(xml.CharData(m.text)); err != nil {
		return err
	}
	for _, x := range m.inner {
		inner := xml.StartElement{Name: xml.Name{Local: x.name}}
		if !isXMLName(x.name) {
			inner = xml.StartElement{Name: xml.Name{Local: "member"}, Attr: []xml.Attr{{Name: xml.Name{Local: "name"}, Value: x.name}}}
		}
		if err := x.encode(e, inner); err != nil {
			return err
		}
	}
	return e.EncodeToken(start.End())
}

// isXMLName reports whether every parser of XML takes the name for that of an element: letters of ASCII, then digits
// and -_. too, but not xml at its start.
func isXMLName(name string) bool {
	for i, r := range name {
		letter := r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r == '_'
		if !letter && (i == 0 || !(r >= '0' && r <= '9' || r == '-' || r == '.')) {
			return false
		}
	}
	return name != "" && !strings.HasPrefix(strings.ToLower(name), "xml")
}
