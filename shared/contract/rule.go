package contract

import (
	"bytes"
	"fmt"
	"math"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/go-json-experiment/json/jsontext"
	"github.com/google/uuid"

	"github.com/edison-cars/data-feeds/shared/feed"
)

type rule struct {
	schema   schema
	read     func(*reader) error
	optional bool // it may be null or missing

	fields      []field // of an object
	element     *rule   // of a list, with its least and greatest length
	least, most int64
}

// newRule returns the rule of a type; check and each are the tags of its field.
func newRule(t reflect.Type, check, each string) *rule {
	switch {
	case t == reflect.TypeFor[uuid.UUID]():
		return scalar(schema{"type": "string", "format": "uuid"}, '"', readUUID)
	case t == reflect.TypeFor[feed.Time]():
		return scalar(schema{"type": "string", "format": "date-time"}, '"', readTime)
	case t.Kind() == reflect.Pointer:
		r := newRule(t.Elem(), check, each)
		r.optional = true
		return r
	case t.Kind() == reflect.Struct:
		return object(t)
	case t.Kind() == reflect.Slice:
		least, most := bounds(check, math.MaxInt32)
		return list(newRule(t.Elem(), each, ""), least, most)
	case t.Kind() == reflect.String:
		return text(check)
	case t.Kind() == reflect.Bool:
		return &rule{schema: schema{"type": "boolean"}, read: readBool, optional: true}
	case t.Kind() == reflect.Int || t.Kind() == reflect.Int64:
		return number(check)
	}
	panic(fmt.Sprintf("contract: no rule for the type %v", t))
}

type field struct {
	name       string
	deprecated bool
	*rule
}

// object returns the rule of a struct.
func object(t reflect.Type) *rule {
	var fields []field
	for f := range t.Fields() {
		if name, _, _ := strings.Cut(f.Tag.Get("json"), ","); name != "-" {
			fields = append(fields, field{name, f.Tag.Get("deprecated") == "true", newRule(f.Type, f.Tag.Get("check"), f.Tag.Get("each"))})
		}
	}
	if len(fields) > 64 {
		panic(fmt.Sprintf("contract: %v has more than 64 members", t))
	}
	return objectOf(fields)
}

// objectOf returns the rule of an object. Names are matched exactly, in nested objects too.
func objectOf(fields []field) *rule {
	return &rule{schema: schemaOf(fields), fields: fields, read: func(r *reader) error {
		if r.PeekKind() != '{' {
			return wrong("must be an object")
		}
		root, seen := r.StackDepth() == 0, uint64(0)
		err := r.object(func(name []byte) error {
			for i := range fields {
				if fields[i].name == string(name) {
					seen |= 1 << i
					return fields[i].member(r, root)
				}
			}
			for i := range fields {
				if strings.EqualFold(fields[i].name, string(name)) {
					return &Error{fields[i].name, "is given under a name that differs in case"}
				}
			}
			return r.any()
		})
		if err != nil {
			return err
		}
		for i := range fields {
			if seen&(1<<i) == 0 && !fields[i].optional {
				return &Error{fields[i].name, "is missing"}
			}
		}
		return nil
	}}
}

// member reads the value of a member. The entity's own id and version must equal the entry's.
func (f *field) member(r *reader, root bool) error {
	if f.optional && r.PeekKind() == 'n' {
		_, err := r.value()
		return err
	}
	if root && (f.name == "id" || f.name == "version") {
		v, err := r.value()
		if want := r.entry.ID.String(); f.name == "id" && err == nil && !strings.EqualFold(string(v), `"`+want+`"`) {
			err = &Error{f.name, "is not that of the entry"}
		}
		if want := strconv.FormatInt(r.entry.Version, 10); f.name == "version" && err == nil && string(v) != want {
			err = &Error{f.name, "is not that of the entry"}
		}
		return err
	}
	if err := f.read(r); err != nil {
		return within(f.name, err)
	}
	return nil
}

func list(element *rule, least, most int64) *rule {
	s := schema{"type": "array", "items": element.schema, "minItems": least, "maxItems": most}
	return &rule{schema: s, element: element, least: least, most: most, read: func(r *reader) error {
		if r.PeekKind() != '[' {
			return wrong("must be an array")
		}
		n := int64(0)
		err := r.list(func(i int) error {
			if n++; n > most {
				return wrong("must have at most %d elements", most)
			}
			if err := element.read(r); err != nil {
				return within("["+strconv.Itoa(i)+"]", err)
			}
			return nil
		})
		if err == nil && n < least {
			err = wrong("must have at least %d elements", least)
		}
		return err
	}}
}

var kinds = map[jsontext.Kind]string{'"': "a text", '0': "a number"}

func scalar(s schema, kind jsontext.Kind, check func(*reader, jsontext.Value) error) *rule {
	return &rule{schema: s, read: func(r *reader) error {
		if k := r.PeekKind(); k != kind && k != 0 { // 0: not JSON, which value reports
			return wrong("must be %s", kinds[kind])
		}
		v, err := r.value()
		if err != nil {
			return err
		}
		return check(r, v)
	}}
}

func text(check string) *rule {
	switch {
	case check == "date":
		return scalar(schema{"type": "string", "format": "date"}, '"', readDate)
	case !strings.Contains(check, ".."):
		values := strings.Split(check, "|")
		if check == "" {
			panic("contract: a text has no bounds")
		}
		return scalar(schema{"type": "string", "enum": values}, '"', func(r *reader, v jsontext.Value) error {
			text, err := r.text(v)
			if err == nil && !slices.Contains(values, string(text)) {
				err = wrong("must be one of %s", strings.Join(values, ", "))
			}
			return err
		})
	}
	least, most := bounds(check, math.MaxInt32)
	return scalar(schema{"type": "string", "minLength": least, "maxLength": most}, '"', func(r *reader, v jsontext.Value) error {
		text, err := r.text(v)
		if n := int64(utf8.RuneCount(text)); err == nil && (n < least || n > most) {
			err = wrong("must have %d to %d characters", least, most)
		}
		return err
	})
}

func number(check string) *rule {
	least, most := bounds(check, math.MaxInt64)
	return scalar(schema{"type": "integer", "minimum": least, "maximum": most}, '0', func(_ *reader, v jsontext.Value) error {
		if n, err := strconv.ParseInt(string(v), 10, 64); err != nil || n < least || n > most {
			return wrong("must be a whole number from %d to %d", least, most)
		}
		return nil
	})
}

// bounds parses "1..20"; without the second number it is greatest.
func bounds(check string, greatest int64) (least, most int64) {
	low, high, ok := strings.Cut(check, "..")
	least, err := strconv.ParseInt(low, 10, 64)
	if most = greatest; high != "" && err == nil {
		most, err = strconv.ParseInt(high, 10, 64)
	}
	if !ok || err != nil {
		panic(fmt.Sprintf("contract: %q is no range such as 1..20", check))
	}
	return least, most
}

func readBool(r *reader) error {
	if k := r.PeekKind(); k != 't' && k != 'f' {
		return wrong("must be true or false")
	}
	_, err := r.value()
	return err
}

func readUUID(_ *reader, v jsontext.Value) error {
	if len(v) == len(`"6ba7b810-9dad-11d1-80b4-00c04fd430c8"`) {
		if _, err := uuid.ParseBytes(v[1 : len(v)-1]); err == nil {
			return nil
		}
	}
	return wrong("must be a UUID")
}

func readDate(_ *reader, v jsontext.Value) error {
	if day, err := time.Parse(`"`+time.DateOnly+`"`, string(v)); err != nil || day.Year() < 1 {
		return wrong("must be a day such as 2026-11-23, in the years 1 to 9999")
	}
	return nil
}

const (
	longestTime = len(`"2006-01-02T15:04:05.999999999999+00:00"`)
	farthest    = 15 * time.Hour // from UTC: PostgreSQL's limit, less one
)

// readTime accepts times that Go and PostgreSQL read as the same microsecond of the years 1 to 9999. Go alone also
// accepts hours of one digit, a comma, and any minutes of a zone.
func readTime(_ *reader, v jsontext.Value) error {
	var at time.Time
	if len(v) > longestTime || at.UnmarshalJSON(v) != nil {
		return errTime()
	}
	if v[14] != ':' || bytes.IndexByte(v, ',') >= 0 || v[len(v)-2] != 'Z' && v[len(v)-3] > '5' {
		return errTime()
	}
	_, offset := at.Zone()
	year := at.UTC().Round(time.Microsecond).Year()
	written := at.Year() // PostgreSQL refuses a written year 0, whatever the zone
	if away := time.Duration(offset) * time.Second; min(year, written) < 1 || year > 9999 || max(away, -away) > farthest {
		return errTime()
	}
	return nil
}

func errTime() error { return wrong("must be a time of RFC 3339, in the years 1 to 9999") }
