package source

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"mime"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/gin-gonic/gin"
	"github.com/google/uuid"

	"github.com/edison-cars/data-feeds/shared/web"
)

// ReadBody decodes a JSON body into v, or returns the fields of a form; form is nil for JSON. what names the content in
// problems, such as "an order".
func ReadBody(c *gin.Context, v any, what string) (form url.Values, err error) {
	mediaType, _, _ := mime.ParseMediaType(c.GetHeader("Content-Type"))
	switch mediaType {
	case "application/json":
		err := web.DecodeJSON(c.Request.Body, v)
		if _, ok := errors.AsType[*web.Problem](err); ok || err == nil { // too large, too slow
			return nil, err
		}
		return nil, web.Errorf(http.StatusUnprocessableEntity, "The body is not %s: %v.", what, err)
	case "application/x-www-form-urlencoded":
		err := c.Request.ParseForm()
		if _, ok := errors.AsType[*web.Problem](err); ok || err == nil {
			return c.Request.PostForm, err
		}
		return nil, web.Errorf(http.StatusUnprocessableEntity, "The body is not a form: %v.", err)
	}
	p := web.Errorf(http.StatusUnsupportedMediaType, "%s is application/json, or the form of this site.", strings.ToUpper(what[:1])+what[1:])
	p.Header = http.Header{"Accept-Post": {"application/json, application/x-www-form-urlencoded"}}
	return nil, p
}

const maxKey = 255

// IdempotencyKey returns the SHA-256 of the key in the request's header or form, which may be nil, or "" if it has
// none. The key itself is kept nowhere, since clients make keys of e-mail addresses. Two keys are refused: it is not
// known which of them the client would send again.
func IdempotencyKey(c *gin.Context, form url.Values) (string, error) {
	keys := append(slices.Clone(c.Request.Header.Values("Idempotency-Key")), form["idempotency_key"]...)
	if len(keys) > 1 {
		return "", web.Errorf(http.StatusBadRequest,
			"The request has %d keys: Idempotency-Key in the header, or idempotency_key in the form. Send one. Nothing was done.", len(keys))
	}
	key := strings.Join(keys, "")
	switch {
	case key == "":
		return "", nil
	case len(key) > maxKey || strings.ContainsFunc(key, func(r rune) bool { return r < ' ' || r > '~' }):
		return "", web.Errorf(http.StatusBadRequest, "The Idempotency-Key takes up to %d printable ASCII characters.", maxKey)
	}
	return fmt.Sprintf("%x", sha256.Sum256([]byte(key))), nil
}

// ParseUUID accepts only the form with 36 characters.
func ParseUUID(s string) (uuid.UUID, error) {
	if len(s) != 36 {
		return uuid.UUID{}, errors.New("a UUID has 36 characters")
	}
	return uuid.Parse(s)
}

// ETag returns the entity tag of a version.
func ETag(version int64) string { return fmt.Sprintf(`"%d"`, version) }

// UnknownOutcome returns the problem for a request whose commit outcome is unknown. path is where the client can look.
// keyed says that the request has an Idempotency-Key; twice says what repeating it without one may do, such as "order
// twice", or is empty if that is harmless.
func UnknownOutcome(path, twice string, keyed bool) error {
	advice := fmt.Sprintf("It may still happen: check %s. Repeating the request is safe.", path)
	switch {
	case keyed:
		advice = "Repeat the request with the same Idempotency-Key: that is safe."
	case twice != "":
		advice = fmt.Sprintf("It may still happen: check %s before you repeat the request, which may %s.", path, twice)
	}
	p := web.Errorf(http.StatusServiceUnavailable, "The database did not confirm in time whether the request was executed. %s", advice)
	p.Header = http.Header{"Location": {path}}
	return p
}

// Now returns the time as PostgreSQL stores it: UTC, in microseconds.
func Now() time.Time { return time.Now().UTC().Truncate(time.Microsecond) }

// Later returns t, or one microsecond after before if the clock went backwards.
func Later(t, before time.Time) time.Time {
	if t.After(before) {
		return t
	}
	return before.Add(time.Microsecond)
}
