package web

import (
	"net/http"
	"net/url"
	"strconv"

	"github.com/google/uuid"
)

// QueryInt returns the parameter of a query, a whole number from 1 to most, or most if it is missing or empty.
func QueryInt(query url.Values, name string, most int64) (int64, error) {
	text := query.Get(name)
	if text == "" {
		return most, nil
	}
	n, err := strconv.ParseInt(text, 10, 64)
	if err != nil || n < 1 || n > most {
		return 0, Errorf(http.StatusBadRequest, "The parameter %s takes a whole number from 1 to %d.", name, most)
	}
	return n, nil
}

// QueryUUID returns the parameter of a query, or nil if it is missing or empty.
func QueryUUID(query url.Values, name string) (*uuid.UUID, error) {
	text := query.Get(name)
	if text == "" {
		return nil, nil
	}
	id, err := uuid.Parse(text)
	if err != nil {
		return nil, Errorf(http.StatusBadRequest, "The parameter %s takes an id: a UUID.", name)
	}
	return &id, nil
}
