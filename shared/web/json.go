package web

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"
)

// DecodeJSON reads exactly one JSON value into v. What the two sides could understand differently is an error: a field
// that v does not have, a field twice or in another spelling than v's, and anything after the value.
func DecodeJSON(r io.Reader, v any) error {
	body, err := io.ReadAll(r)
	if err != nil {
		return err
	}
	if err := uniqueKeys(json.NewDecoder(strings.NewReader(string(body)))); err != nil {
		return err
	}
	dec := json.NewDecoder(strings.NewReader(string(body)))
	dec.DisallowUnknownFields()
	if err := dec.Decode(v); err != nil {
		return err
	}
	if _, err := dec.Token(); !errors.Is(err, io.EOF) {
		return errors.New("there is more after the JSON value")
	}
	return nil
}

// uniqueKeys refuses objects with a key twice, upper case counted as lower: encoding/json would take the last.
func uniqueKeys(dec *json.Decoder) error {
	type object struct {
		keys  map[string]bool // nil: an array
		value bool            // a value comes next, not a key
	}
	var open []object
	for {
		token, err := dec.Token()
		if errors.Is(err, io.EOF) {
			if len(open) > 0 {
				return io.ErrUnexpectedEOF
			}
			return nil
		}
		if err != nil {
			return err
		}
		if key, ok := token.(string); ok && len(open) > 0 {
			if top := &open[len(open)-1]; top.keys != nil && !top.value {
				if lower := strings.ToLower(key); key != lower || top.keys[lower] {
					return fmt.Errorf("field %.40q is there twice or not in lower case", key)
				}
				top.keys[key], top.value = true, true
				continue
			}
		}
		switch token {
		case json.Delim('{'):
			open = append(open, object{keys: map[string]bool{}})
			continue
		case json.Delim('['):
			open = append(open, object{})
			continue
		case json.Delim('}'), json.Delim(']'):
			open = open[:len(open)-1]
		}
		if len(open) > 0 {
			open[len(open)-1].value = false
		}
	}
}
