package web

import (
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"
)

// An answer is as encoding/json has it, but for the digits of its times.
func TestJSON(t *testing.T) {
	t.Parallel()
	at := time.Date(2026, 11, 23, 10, 0, 0, 100_000_000, time.FixedZone("east", 2*60*60))
	type times struct {
		At    time.Time  `json:"at"`
		Maybe *time.Time `json:"maybe"`
		Never *time.Time `json:"never"`
	}
	for want, v := range map[string]any{
		`{"at":"2026-11-23T08:00:00.100000Z","maybe":"2026-11-23T08:00:00.100000Z","never":null}`: times{At: at, Maybe: &at},
		`["2026-11-23T08:00:00.000000Z"]`: []time.Time{at.Truncate(time.Second)},
		`{"b":{"at":"0001-01-01T00:00:00.000000Z","maybe":null,"never":null},"a":["<&>",null]}`: struct {
			B any   `json:"b"`
			A []any `json:"a"`
		}{times{}, []any{"<&>", nil}},
		`{"a":null,"b":{},"d":1000000000,"e":{"z":1,"a":[ ]}}`: struct {
			A []string        `json:"a"`
			B map[string]int  `json:"b"`
			C int             `json:"c,omitempty"`
			D time.Duration   `json:"d"`
			E json.RawMessage `json:"e"`
		}{B: map[string]int{}, D: time.Second, E: json.RawMessage(`{"z":1,"a":[ ]}`)},
		`{"a":1,"b":2,"c":3}`: map[string]int{"c": 3, "a": 1, "b": 2},
		"null":                nil,
	} {
		w := httptest.NewRecorder()
		JSON(w, httptest.NewRequest(http.MethodGet, "/", nil), http.StatusCreated, v)
		want = strings.ReplaceAll(want, "[ ]", "[]")
		if w.Code != 201 || w.Body.String() != want+"\n" || w.Header().Get("Content-Type") != "application/json; charset=utf-8" {
			t.Errorf("%d %s, want %s", w.Code, w.Body, want)
		}
	}
}

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
