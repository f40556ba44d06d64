package web

import (
	"bytes"
	"errors"
	"io"
	"mime"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"unicode/utf8"
)

// malformed reports whether s is not text as a database takes it: UTF-8 without NUL.
func malformed(s string) bool { return strings.IndexByte(s, 0) >= 0 || !utf8.ValidString(s) }

// CheckText returns an error if the path or the query is not text: a 404 or a 400.
func CheckText(u *url.URL) error {
	if malformed(u.Path) {
		return NothingHere()
	}
	plain := func(r rune) bool { return r > 0 && r < utf8.RuneSelf && r != '%' }
	if strings.IndexFunc(u.RawQuery, func(r rune) bool { return !plain(r) }) < 0 {
		return nil
	}
	query, _ := url.ParseQuery(u.RawQuery) // other errors are for the handler
	return checkValues(query, "parameter")
}

// checkValues refuses names and values that are not text; kind is what they are called.
func checkValues(values url.Values, kind string) error {
	for name, all := range values {
		if malformed(name) {
			return Errorf(http.StatusBadRequest, "The name of a %s takes UTF-8 text without NUL.", kind)
		}
		if slices.ContainsFunc(all, malformed) {
			return Errorf(http.StatusBadRequest, "The %s %.100s takes UTF-8 text without NUL.", kind, name)
		}
	}
	return nil
}

// ReadWhole takes all of the request's body into memory, and refuses forms and JSON that are not text.
func ReadWhole(req *http.Request) error {
	if req.Body == nil || req.ContentLength == 0 {
		return nil
	}
	body, err := io.ReadAll(req.Body)
	if large, ok := errors.AsType[*http.MaxBytesError](err); ok {
		return Errorf(http.StatusRequestEntityTooLarge, "The request body may have at most %d bytes.", large.Limit)
	}
	if err != nil {
		return err
	}
	req.Body = io.NopCloser(bytes.NewReader(body))
	switch mediaType, _, _ := mime.ParseMediaType(req.Header.Get("Content-Type")); mediaType {
	case "application/x-www-form-urlencoded":
		form, _ := url.ParseQuery(string(body)) // other errors are for the handler
		return checkValues(form, "field")
	case "application/json":
		if !utf8.Valid(body) { // RFC 8259 section 8.1
			return Errorf(http.StatusBadRequest, "The body takes UTF-8 text.")
		}
	}
	return nil
}
