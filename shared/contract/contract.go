// Package contract checks entities of a feed against the Go struct that is their published contract, the same for all
// readers: what passes, PostgreSQL and Go decode alike, whichever way a reader takes.
package contract

import (
	"bytes"
	"errors"
	"fmt"
	"reflect"
	"strconv"
	"strings"
	"sync"

	"github.com/go-json-experiment/json/jsontext"

	"github.com/edison-cars/data-feeds/shared/feed"
)

// Bounds of an entity as a whole, members that the contract does not know included. They lie far below what
// PostgreSQL's jsonb takes.
const (
	maxSize   = 1 << 20 // bytes
	maxDepth  = 100
	maxNumber = 100 // characters of a number
	maxPower  = 1000
	maxDigits = 1 << 20 // that all numbers of an entity add where they are written without an exponent, as PostgreSQL does
)

// An Error says what of an entity is not as its contract says. It quotes nothing of the entity, so that it can be
// logged.
type Error struct {
	Member string // its path: "lines[0].quantity"; empty: the entity as a whole
	Detail string // "must be a whole number from 1 to 500"
}

func (e *Error) Error() string {
	if e.Member == "" {
		return "the entity " + e.Detail
	}
	return e.Member + " " + e.Detail
}

// within adds what the member lies in.
func within(name string, err error) error {
	if e, ok := errors.AsType[*Error](err); ok {
		switch {
		case e.Member == "":
			e.Member = name
		case strings.HasPrefix(e.Member, "["):
			e.Member = name + e.Member
		default:
			e.Member = name + "." + e.Member
		}
	}
	return err
}

func wrong(format string, args ...any) error { return &Error{Detail: fmt.Sprintf(format, args...)} }

// A Contract is what the entities of one feed are checked against.
type Contract struct{ root *rule }

// Of makes the contract that a struct describes by its types and the tags json and check. Every member has to be there,
// once, under its very name, and is not null, unless its field is a pointer or a boolean, which is then nil or false;
// other members may hold anything. The tag check says of
//
//   - a whole number its range: "1..500", or "1.." up to the greatest int64;
//   - a text its length in characters: "0..100"; or its values: "placed|cancelled"; or "date", which is a day such as 2026-11-23;
//   - a list its length: "1..20". What it says of the elements stands in the tag each.
//
// A UUID is one in its form of 36 characters, a time one of RFC 3339 that lies in the years 1 to 9999 in UTC. The
// members id and version are those of the entry. Of panics where a field has no bounds, or a type that it does not
// know.
func Of[T any]() *Contract {
	return &Contract{newRule(reflect.TypeFor[T](), "", "")}
}

// Check returns an [Error], or nil if the entry is a tombstone or its entity is as the contract says.
func (c *Contract) Check(e feed.Entry) error {
	if e.Deleted {
		return nil
	}
	if len(e.Entity) > maxSize {
		return wrong("is larger than %d bytes", maxSize)
	}
	decoder := decoders.Get().(*jsontext.Decoder)
	defer decoders.Put(decoder)
	decoder.Reset(bytes.NewBuffer(e.Entity))
	r := reader{Decoder: decoder, entry: &e, escapes: bytes.Contains(e.Entity, []byte(`\u0000`))}
	if r.PeekKind() != '{' {
		return wrong("is no JSON object")
	}
	err := c.root.read(&r)
	if err == nil && len(bytes.TrimSpace(e.Entity[r.InputOffset():])) > 0 {
		err = wrong("is followed by something else")
	}
	return err
}

// decoders have memory for the names of an object.
var decoders = sync.Pool{New: func() any { return jsontext.NewDecoder(new(bytes.Buffer)) }}

// A reader reads one entity.
type reader struct {
	*jsontext.Decoder
	entry   *feed.Entry
	escapes bool // there may be a NUL
	digits  int  // that exponents stand for
}

// value reads a value, or a member's name.
func (r *reader) value() (jsontext.Value, error) {
	v, err := r.ReadValue()
	if err != nil {
		return nil, malformed(err)
	}
	return v, nil
}

// malformed says what is wrong with JSON: an error of jsontext may quote names and text.
func malformed(err error) error {
	if errors.Is(err, jsontext.ErrDuplicateName) {
		return wrong("has a member twice")
	}
	return wrong("is not valid JSON in UTF-8")
}

// text returns the value of a quoted text. Escapes are rare.
func (r *reader) text(quoted jsontext.Value) ([]byte, error) {
	if bytes.IndexByte(quoted, '\\') < 0 {
		return quoted[1 : len(quoted)-1], nil
	}
	text, err := jsontext.AppendUnquote(nil, quoted)
	if err != nil {
		return nil, malformed(err)
	}
	if r.escapes && bytes.IndexByte(text, 0) >= 0 {
		return nil, wrong("holds the character NUL")
	}
	return text, nil
}

// object reads an object, and calls member with the name of each of its members, whose value comes next.
func (r *reader) object(member func(name []byte) error) error {
	if _, err := r.ReadToken(); err != nil {
		return malformed(err)
	}
	for r.PeekKind() != '}' {
		quoted, err := r.value()
		if err != nil {
			return err
		}
		name, err := r.text(quoted)
		if err != nil {
			return err
		}
		if err := member(name); err != nil {
			return err
		}
	}
	_, err := r.ReadToken()
	return err
}

// any reads a value of which the contract says nothing: readers hand it on to PostgreSQL with the rest.
func (r *reader) any() error {
	switch r.PeekKind() {
	case '{', '[':
		if r.StackDepth() >= maxDepth {
			return wrong("is nested deeper than %d levels", maxDepth)
		}
	}
	switch r.PeekKind() {
	case '{':
		return r.object(func([]byte) error { return r.any() })
	case '[':
		return r.list(func(int) error { return r.any() })
	}
	v, err := r.value()
	switch {
	case err != nil:
		return err
	case v[0] == '"':
		_, err = r.text(v)
	case v.Kind() == '0':
		err = r.anyNumber(v)
	}
	return err
}

// list reads an array, and calls element with the index of each of its elements, which comes next.
func (r *reader) list(element func(i int) error) error {
	if _, err := r.ReadToken(); err != nil {
		return malformed(err)
	}
	for i := 0; r.PeekKind() != ']'; i++ {
		if err := element(i); err != nil {
			return err
		}
	}
	_, err := r.ReadToken()
	return err
}

// anyNumber refuses what PostgreSQL's numeric does not take, and what becomes many times larger there.
func (r *reader) anyNumber(v jsontext.Value) error {
	if len(v) > maxNumber {
		return wrong("holds a number of more than %d characters", maxNumber)
	}
	if e := bytes.IndexAny(v, "eE"); e >= 0 {
		power, err := strconv.Atoi(string(v[e+1:]))
		if err != nil || max(power, -power) > maxPower {
			return wrong("holds a number that does not fit")
		}
		if r.digits += max(power, -power); r.digits > maxDigits {
			return wrong("holds numbers of more than %d digits in all", maxDigits)
		}
	}
	return nil
}
