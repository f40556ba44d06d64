// Package columntype infers the types of PostgreSQL columns from the members of JSON objects.
package columntype

import (
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"
	"github.com/google/uuid"
)

// Members returns the names of an object's members, each once, in their order. It returns none of another value.
func Members(object jsontext.Value) (names []string) {
	d := jsontext.NewDecoder(strings.NewReader(string(object)), jsontext.AllowDuplicateNames(true), jsontext.AllowInvalidUTF8(true))
	if _, err := d.ReadToken(); err != nil {
		return nil
	}
	for d.PeekKind() == '"' {
		key, err := d.ReadToken()
		if err != nil || !slices.Contains(names, key.String()) {
			names = append(names, key.String())
		}
		if d.SkipValue() != nil {
			return names
		}
	}
	return names
}

// Of returns the type that a value suggests, or "" for null. The column keeps the value: a time with parts of a
// microsecond, or a UUID with capitals, is text.
func Of(v jsontext.Value) string {
	switch v.Kind() {
	case 'n':
		return ""
	case 't', 'f':
		return "boolean"
	case '0':
		if _, err := strconv.ParseInt(string(v), 10, 64); err == nil {
			return "bigint"
		}
		return "numeric"
	case '"':
		var s string
		if json.Unmarshal(v, &s) != nil {
			return "text"
		}
		if t, err := time.Parse(time.RFC3339Nano, s); err == nil && t.Nanosecond()%1000 == 0 {
			return "timestamptz"
		}
		if id, err := uuid.Parse(s); err == nil && id.String() == s {
			return "uuid"
		}
		return "text"
	}
	return "jsonb"
}

// Both returns the type for values of two types, of which either may be "".
func Both(a, b string) string {
	strings, numbers := []string{"text", "uuid", "timestamptz"}, []string{"numeric", "bigint"}
	switch {
	case a == "" || a == b:
		return b
	case b == "":
		return a
	case slices.Contains(strings, a) && slices.Contains(strings, b):
		return "text"
	case slices.Contains(numbers, a) && slices.Contains(numbers, b):
		return "numeric"
	}
	return "jsonb"
}
