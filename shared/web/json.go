package web

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"time"

	"github.com/gin-gonic/gin"
	jsonv2 "github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"
	jsonv1 "github.com/go-json-experiment/json/v1"
)

// TimeFormat is how answers write times, in UTC, as feeds do: RFC 3339 with six digits of the second.
const TimeFormat = "2006-01-02T15:04:05.000000Z07:00"

// asAnswers is JSON as encoding/json writes it, but with times in TimeFormat, and nothing escaped for HTML.
var asAnswers = jsonv2.JoinOptions(
	jsonv1.DefaultOptionsV1(), jsontext.EscapeForHTML(false),
	jsonv2.WithMarshalers(jsonv2.MarshalToFunc(func(e *jsontext.Encoder, t time.Time) error {
		return e.WriteToken(jsontext.String(t.UTC().Format(TimeFormat)))
	})),
)

// EncodeJSON returns v as JSON, whose times are in TimeFormat, on a line.
func EncodeJSON(v any) ([]byte, error) {
	body, err := jsonv2.Marshal(v, asAnswers)
	return append(body, '\n'), err
}

// JSON answers with v as [EncodeJSON] has it. It panics if v has no JSON.
func JSON(c *gin.Context, status int, v any) {
	body, err := EncodeJSON(v)
	if err != nil {
		panic(err)
	}
	Send(c, status, "application/json; charset=utf-8", body)
}

// DecodeJSON reads exactly one JSON value into v. Text that is not JSON is a Problem (400). What the two sides could
// understand differently is another error: a field that v does not have, and a field twice or in another spelling than
// v's.
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
	return nil
}

// notJSON returns the problem of a body that is not one JSON value.
func notJSON(err error) *Problem {
	if errors.Is(err, io.EOF) {
		err = errors.New("it is empty")
	}
	return Errorf(http.StatusBadRequest, "The body is not JSON: %v.", err)
}

// uniqueKeys refuses objects with a key twice, upper case counted as lower: encoding/json would take the last. It reads
// to the end, so that all that is not JSON is found.
func uniqueKeys(dec *json.Decoder) error {
	type object struct {
		keys  map[string]bool // nil means an array
		value bool            // a value comes next, not a key
	}
	var open []object
	for values := 0; ; {
		token, err := dec.Token()
		switch {
		case errors.Is(err, io.EOF) && len(open) == 0 && values > 0:
			return nil
		case errors.Is(err, io.EOF) && len(open) > 0:
			return notJSON(io.ErrUnexpectedEOF)
		case err != nil:
			return notJSON(err)
		}
		if len(open) == 0 {
			if values++; values > 1 {
				return notJSON(errors.New("there is more after the JSON value"))
			}
		}
		if key, ok := token.(string); ok && len(open) > 0 {
			if top := &open[len(open)-1]; top.keys != nil && !top.value {
				if lower := strings.ToLower(key); key != lower || top.keys[lower] {
					return fmt.Errorf("field %.40q is given twice or not in lower case", key)
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
