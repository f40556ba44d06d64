package web

import (
	"strings"
	"testing"
)

func TestDecodeJSON(t *testing.T) {
	t.Parallel()
	type order struct {
		Model string           `json:"model"`
		Lines []map[string]any `json:"lines"`
	}
	for _, good := range []string{`{}`, `{"model":"a","lines":[{"a":1},{"a":{"a":[]}}]}`, " {\n} ", `{"lines":[],"model":"lines"}`} {
		if err := DecodeJSON(strings.NewReader(good), new(order)); err != nil {
			t.Errorf("%s: %v", good, err)
		}
	}
	for _, bad := range []string{
		``, `{`, `{"model"}`, `[]`, `{}{}`, `{} x`, `{"other":1}`, `{"model":1}`, `{"Model":"a"}`, `{"model":"a","model":"b"}`,
		`{"model":"a","MODEL":"b"}`, `{"lines":[{"a":1,"a":2}]}`, `{"lines":[{"a":{"b":1},"a":2}]}`, `{"lines":[]]}`,
	} {
		var v order
		if err := DecodeJSON(strings.NewReader(bad), &v); err == nil {
			t.Errorf("%s is read as %+v", bad, v)
		}
	}
}

func FuzzDecodeJSON(f *testing.F) {
	f.Add(`{"a":[{"b":"c"}],"d":null}`)
	f.Fuzz(func(_ *testing.T, s string) {
		_ = DecodeJSON(strings.NewReader(s), new(any)) // never panics
	})
}
