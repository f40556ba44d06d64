package feed

import (
	"bytes"
	"encoding/json"
	"regexp"
	"slices"

	"github.com/go-json-experiment/json/jsontext"
)

// A DeclaredView is a part of a feed that its source declares under a name: some members of some of the entities. It has
// the positions, versions and cursors of the feed. A source never changes one: another definition gets another name.
type DeclaredView struct {
	Name   string   `json:"view"`        // in URLs: "delivery"
	Text   string   `json:"description"` // one sentence
	Fields []string `json:"fields"`      // the members that it shows, in this order
	// Where are the entities that it shows: each of these members has one of the texts, numbers or booleans, all written
	// as texts. If it is empty, the view shows all entities.
	Where map[string][]string `json:"where,omitempty"`
}

var viewName = regexp.MustCompile(`^[a-z][a-z0-9_-]{0,62}$`)

// Valid reports whether the name can be in a URL, and there are fields.
func (v *DeclaredView) Valid() bool { return viewName.MatchString(v.Name) && len(v.Fields) > 0 }

// Definition returns what must not change under the view's name.
func (v *DeclaredView) Definition() string {
	text, _ := json.Marshal(struct {
		Name   string              `json:"view"`
		Fields []string            `json:"fields"`
		Where  map[string][]string `json:"where,omitempty"`
	}{v.Name, v.Fields, v.Where}) // it is made of texts
	return string(text)
}

// Of returns the entry as the view shows it. One outside the view is a tombstone, and what is no tombstone has no member
// that the view does not show. An entity that is no JSON object becomes null.
func (v *DeclaredView) Of(e Entry) Entry {
	if e.Deleted || e.Superseded {
		return e
	}
	members, ok := v.read(e.Entity)
	if !ok {
		e.Entity = json.RawMessage("null")
		return e
	}
	for name, values := range v.Where {
		if text, ok := scalarText(members[name]); !ok || !slices.Contains(values, text) {
			e.Entity, e.Deleted = nil, true
			return e
		}
	}
	b := []byte{'{'}
	for _, name := range v.Fields {
		value, ok := members[name]
		if !ok {
			continue
		}
		if len(b) > 1 {
			b = append(b, ',')
		}
		b, _ = jsontext.AppendQuote(b, name)
		b = append(append(b, ':'), value...)
	}
	b = append(b, '}')
	e.Entity = b
	return e
}

// read returns the members of an entity that the view needs, of a name that is given twice the last one. It reports
// whether the entity is a JSON object.
func (v *DeclaredView) read(entity []byte) (members map[string]jsontext.Value, ok bool) {
	dec := jsontext.NewDecoder(bytes.NewReader(entity), jsontext.AllowDuplicateNames(true), jsontext.AllowInvalidUTF8(true))
	if dec.PeekKind() != '{' {
		return nil, false
	}
	_, err := dec.ReadToken()
	members = make(map[string]jsontext.Value, len(v.Fields))
	for err == nil && dec.PeekKind() == '"' {
		var token jsontext.Token
		if token, err = dec.ReadToken(); err != nil {
			break
		}
		name := token.String()
		var value jsontext.Value
		if value, err = dec.ReadValue(); err == nil && (slices.Contains(v.Fields, name) || v.Where[name] != nil) {
			members[name] = value.Clone()
		}
	}
	if err == nil {
		_, err = dec.ReadToken()
	}
	return members, err == nil
}

// scalarText returns a string, number or boolean as text.
func scalarText(value jsontext.Value) (text string, ok bool) {
	switch value.Kind() {
	case '"':
		b, err := jsontext.AppendUnquote(nil, value)
		return string(b), err == nil
	case '0', 't', 'f':
		return string(value), true
	}
	return "", false
}

// SchemaOf returns the JSON Schema of the view's entities, or nil if the feed has none.
func (v *DeclaredView) SchemaOf(schema json.RawMessage) json.RawMessage {
	var whole struct {
		Dialect    string                     `json:"$schema,omitempty"`
		Properties map[string]json.RawMessage `json:"properties"`
		Required   []string                   `json:"required,omitempty"`
		Title      string                     `json:"title,omitempty"`
		Type       string                     `json:"type"`
	}
	if schema == nil || json.Unmarshal(schema, &whole) != nil {
		return nil
	}
	for name := range whole.Properties {
		if !slices.Contains(v.Fields, name) {
			delete(whole.Properties, name)
		}
	}
	whole.Required = slices.DeleteFunc(whole.Required, func(name string) bool { return !slices.Contains(v.Fields, name) })
	text, err := json.MarshalIndent(whole, "", "  ")
	if err != nil {
		return nil
	}
	return append(text, '\n')
}
