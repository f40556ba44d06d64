package web

import (
	"errors"
	"fmt"
	"io"
	"net/http"
	"time"

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
func JSON(w http.ResponseWriter, r *http.Request, status int, v any) {
	body, err := EncodeJSON(v)
	if err != nil {
		panic(err)
	}
	Send(w, r, status, "application/json; charset=utf-8", body)
}

// DecodeJSON reads exactly one JSON value into v. Text that is not JSON is a Problem (400). A field twice, and a field
// that v does not have, or has in another spelling, are other errors.
func DecodeJSON(r io.Reader, v any) error {
	body, err := io.ReadAll(r)
	if err != nil {
		return err
	}
	if len(body) == 0 {
		return Errorf(http.StatusBadRequest, "The body is not JSON: it is empty.")
	}
	var value jsontext.Value // the whole text, before any of it is understood
	err = jsonv2.Unmarshal(body, &value)
	if bad, ok := errors.AsType[*jsontext.SyntacticError](err); ok && errors.Is(err, jsontext.ErrDuplicateName) {
		return fmt.Errorf("field %.40q is given twice", bad.JSONPointer.LastToken())
	}
	if err != nil {
		return Errorf(http.StatusBadRequest, "The body is not JSON: %v.", err)
	}
	return jsonv2.Unmarshal(value, v, jsonv2.RejectUnknownMembers(true))
}
