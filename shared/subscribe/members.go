package subscribe

import (
	"bytes"
	"errors"

	"github.com/go-json-experiment/json/jsontext"
)

// An entityError is the error of an entity that cannot be read.
type entityError struct{ error }

func (e *entityError) Unwrap() error { return e.error }

var errNoObject = &entityError{errors.New("the entity is no JSON object")}

// read puts the members of an entity into the values of the columns. A member that occurs twice counts as its last
// occurrence. A value is nil for null and for a missing member. The entity is valid JSON: that was checked when its
// page was parsed.
func (u *upsert) read(entity []byte, values []jsontext.Value) error {
	clear(values)
	s := scanner{entity}
	if !s.token('{') {
		return errNoObject
	}
	for !s.token('}') {
		s.token(',')
		name := s.value()
		if len(name) == 0 || name[0] != '"' || !s.token(':') {
			return errNoObject
		}
		value := s.value()
		if len(value) == 0 {
			return errNoObject
		}
		if value[0] == 'n' {
			value = nil
		}
		u.fill(values, name, value)
	}
	return nil
}

// fill sets the values of the columns that are filled from the member with a quoted name.
func (u *upsert) fill(values []jsontext.Value, quoted, value jsontext.Value) {
	if bytes.IndexByte(quoted, '\\') < 0 {
		quoted = quoted[1 : len(quoted)-1]
	} else {
		quoted, _ = jsontext.AppendUnquote(nil, quoted)
	}
	for i, m := range u.members {
		if m == string(quoted) {
			values[i] = value
		}
	}
}

// A scanner splits valid JSON. A decoder, which also validates, takes three times as long.
type scanner struct{ rest []byte }

// token skips white space and the character, if that comes next.
func (s *scanner) token(c byte) bool {
	s.space()
	if len(s.rest) == 0 || s.rest[0] != c {
		return false
	}
	s.rest = s.rest[1:]
	return true
}

// value returns the next value and skips it. It returns an empty value at the end.
func (s *scanner) value() jsontext.Value {
	s.space()
	n := 0
	for depth := 0; n < len(s.rest); {
		switch s.rest[n] {
		case '"':
			n += stringLen(s.rest[n:])
		case '{', '[':
			depth++
			n++
		case '}', ']':
			depth--
			n++
		default:
			n++
			if depth == 0 && n < len(s.rest) && s.rest[n] > ' ' && s.rest[n] != ',' && s.rest[n] != '}' && s.rest[n] != ']' {
				continue
			}
		}
		if depth <= 0 {
			break
		}
	}
	value := s.rest[:n]
	s.rest = s.rest[n:]
	return value
}

// space skips white space.
func (s *scanner) space() {
	for len(s.rest) > 0 && s.rest[0] <= ' ' {
		s.rest = s.rest[1:]
	}
}

// stringLen returns the length of the string that b begins with, with its quotes.
func stringLen(b []byte) int {
	for i := 1; i < len(b); {
		n := bytes.IndexByte(b[i:], '"')
		if n < 0 {
			break
		}
		i += n + 1
		slashes := 0
		for b[i-2-slashes] == '\\' {
			slashes++
		}
		if slashes%2 == 0 {
			return i
		}
	}
	return len(b)
}
