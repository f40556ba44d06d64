// Package contract checks the entities of a feed against the Go struct that is their published contract. The check is
// the same for all readers: PostgreSQL and Go decode what passes to the same values.
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

// Bounds of an entity, including members that the contract does not define. They are far below the limits of
// PostgreSQL's jsonb.
const (
	maxSize   = 1 << 20 // bytes
	maxDepth  = 100
	maxNumber = 100 // characters of a number
	maxPower  = 1000
	maxDigits = 1 << 20 // of all numbers of an entity together, written without exponents as PostgreSQL does
)

// An Error says how an entity breaks its contract. It contains nothing of the entity, so that it can be logged.
type Error struct {
	Member string // its path, "lines[0].quantity", or empty for the entity as a whole
	Detail string // "must be a whole number from 1 to 500"
}

func (e *Error) Error() string {
	if e.Member == "" {
		return "the entity " + e.Detail
	}
	return e.Member + " " + e.Detail
}

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

// A Contract is the specification of the entities of one feed.
type Contract struct{ root *rule }

// Of returns the contract that a struct defines by its types and the tags json and check. Every member must be present,
// once, under its exact name, and must not be null, unless its field is a pointer or a boolean, which is then nil or
// false. Other members may have any value. The tag check defines
//
//   - the range of a whole number: "1..500", or "1.." up to the greatest int64;
//   - the length of a text in characters: "0..100"; or its values: "placed|cancelled"; or "date", a day such as 2026-11-23;
//   - the length of a list: "1..20". The tag each defines its elements.
//
// The tag deprecated:"true" says that a member will go. UUIDs have 36 characters. Times are of RFC 3339, in the years 1 to 9999 in UTC. The members id and version must equal
// the entry's. Of panics if a field has no bounds or a type that it does not support.
func Of[T any]() *Contract {
	return &Contract{newRule(reflect.TypeFor[T](), "", "")}
}

// Check returns an [Error], or nil if the entry is a tombstone or superseded, or its entity meets the contract.
func (c *Contract) Check(e feed.Entry) error {
	if e.Deleted || e.Superseded {
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

// decoders are pooled for their memory of names.
var decoders = sync.Pool{New: func() any { return jsontext.NewDecoder(new(bytes.Buffer)) }}

type reader struct {
	*jsontext.Decoder
	entry   *feed.Entry
	escapes bool // the text may contain an escaped NUL
	digits  int  // that exponents stand for, in all
}

func (r *reader) value() (jsontext.Value, error) {
	v, err := r.ReadValue()
	if err != nil {
		return nil, malformed(err)
	}
	return v, nil
}

// malformed returns an error without the text of jsontext's, which may quote the entity.
func malformed(err error) error {
	if errors.Is(err, jsontext.ErrDuplicateName) {
		return wrong("has a member twice")
	}
	return wrong("is not valid JSON in UTF-8")
}

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

// object reads an object, and calls member with the name of each member; member reads its value.
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

// any reads a value that the contract does not define: readers pass it on to PostgreSQL.
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

// list reads an array, and calls element with the index of each element; element reads it.
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

// anyNumber refuses numbers that PostgreSQL's numeric cannot hold, or that become many times longer there.
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
