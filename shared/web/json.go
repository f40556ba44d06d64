package web

import (
	"errors"
	"io"
	"net/http"
	"strings"
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

// EncodeJSON returns v as a line of JSON, with times in [TimeFormat].
func EncodeJSON(v any) ([]byte, error) {
	body, err := jsonv2.Marshal(v, asAnswers)
	return append(body, '\n'), err
}

// JSON answers with v, encoded by [EncodeJSON]. It panics if v cannot be encoded.
func JSON(w http.ResponseWriter, r *http.Request, status int, v any) {
	body, err := EncodeJSON(v)
	if err != nil {
		panic(err)
	}
	Send(w, r, status, "application/json; charset=utf-8", body)
}

// halfSurrogates reads an escape such as \ud800 as U+FFFD, as encoding/json does.
var halfSurrogates = jsontext.AllowInvalidUTF8(true)

// OtherType is the detail of a [FieldError] for a value of a type that the field does not take.
const OtherType = "is of another type"

// DecodeJSON reads exactly one JSON value into v. If the text is not JSON, the error is a [*Problem] (400). If a field
// is given twice, has another type than in v, or is not in v under exactly this name, the error is a [FieldError].
func DecodeJSON(r io.Reader, v any) error {
	body, err := io.ReadAll(r)
	if err != nil {
		return err
	}
	if len(body) == 0 {
		return Errorf(http.StatusBadRequest, "The body is not JSON: it is empty.")
	}
	var value jsontext.Value // the whole text, before any of it is understood
	err = jsonv2.Unmarshal(body, &value, halfSurrogates)
	if bad, ok := errors.AsType[*jsontext.SyntacticError](err); ok && errors.Is(err, jsontext.ErrDuplicateName) {
		return fieldError(bad.JSONPointer, "is given twice")
	}
	if err != nil {
		return Errorf(http.StatusBadRequest, "The body is not JSON: %v.", err)
	}
	err = jsonv2.Unmarshal(value, v, halfSurrogates, jsonv2.RejectUnknownMembers(true))
	if wrong, ok := errors.AsType[*jsonv2.SemanticError](err); ok { // whose text names types of Go
		if errors.Is(err, jsonv2.ErrUnknownName) {
			return fieldError(wrong.JSONPointer, "is not known")
		}
		return fieldError(wrong.JSONPointer, OtherType)
	}
	return err
}

func fieldError(at jsontext.Pointer, detail string) error {
	return FieldError{strings.TrimPrefix(string(at), "/"), detail}
}
