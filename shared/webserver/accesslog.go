package webserver

import (
	"log/slog"
	"math"
	"net/url"
	"regexp"
	"strconv"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/gin-gonic/gin"

	"github.com/edison-cars/data-feeds/shared/web"
)

// maxLogged limits the bytes of each text from a client in a line of the log.
const maxLogged = 512

// AccessLog is an observer for [New] that logs a line per request at level info. The line names the client, but has no
// credentials, and no text of the query that may name a person.
func AccessLog(logger *slog.Logger) gin.HandlerFunc {
	return func(c *gin.Context) {
		req := c.Request
		if !logger.Enabled(req.Context(), slog.LevelInfo) {
			return
		}
		start, complete := time.Now(), false
		defer func() {
			attrs := []slog.Attr{
				slog.String("method", cut(req.Method)),
				slog.String("path", cut(withoutText(normal(req.RequestURI)))),
				slog.Int("status", c.Writer.Status()),
				slog.Int("bytes", max(c.Writer.Size(), 0)),
				slog.Float64("duration_ms", math.Round(time.Since(start).Seconds()*1e6)/1e3),
				slog.String("client", c.ClientIP()),
				slog.String("reader", web.Reader(c.Request)),
				slog.String("user_agent", cut(req.UserAgent())),
			}
			if !complete { // a panic breaks the connection
				attrs = append(attrs, slog.Bool("broken_off", true))
			}
			logger.LogAttrs(req.Context(), slog.LevelInfo, "request", attrs...)
		}()
		c.Next()
		complete = true
	}
}

var escape = regexp.MustCompile(`%[0-9A-Fa-f]{2}`)

// normal removes the unnecessary escapes of a URI (RFC 3986 section 6.2.2.2), so that a token in it is recognized.
func normal(uri string) string {
	return escape.ReplaceAllStringFunc(uri, func(s string) string {
		b, _ := strconv.ParseUint(s[1:], 16, 8)
		if c := rune(b); c < utf8.RuneSelf && (unicode.IsLetter(c) || unicode.IsDigit(c) || strings.ContainsRune("-._~", c)) {
			return string(c)
		}
		return s
	})
}

var (
	parameter = regexp.MustCompile(`^[A-Za-z0-9_.~-]{0,64}$`)
	// value matches an id or its beginning, a cursor, a number, a time, or several of them. A long number may be a
	// telephone's, and a word of the letters a to f a name.
	value = regexp.MustCompile(`^(?:` + part + `)(?:,(?:` + part + `))*$`)
)

const part = `[0-9A-Fa-f]{8}(?:-[0-9A-Fa-f]{0,4}){0,3}(?:-[0-9A-Fa-f]{0,12})?|[0-9]{1,19}-[0-9a-f]{12}|-?(?:0|[1-9][0-9]{0,8})` +
	`|[0-9]{4}-[0-9]{2}-[0-9]{2}(?:T[0-9:.]{5,18}(?:Z|[+-][0-9]{2}:[0-9]{2}))?`

// withoutText replaces the values in the query of a URI that are not ids, cursors, numbers or times. Names of
// parameters stay.
func withoutText(uri string) string {
	path, query, found := strings.Cut(uri, "?")
	if !found {
		return uri
	}
	pairs := strings.Split(query, "&")
	for i, pair := range pairs {
		name, text, assigned := strings.Cut(pair, "=")
		if !parameter.MatchString(name) {
			name = "..."
		}
		if plain, err := url.QueryUnescape(text); err != nil || plain != "" && !value.MatchString(plain) {
			text = "..."
		}
		if pairs[i] = name; assigned {
			pairs[i] += "=" + text
		}
	}
	return path + "?" + strings.Join(pairs, "&")
}

// cut shortens a text to maxLogged bytes, and replaces invalid UTF-8.
func cut(s string) string {
	if len(s) > maxLogged {
		s = s[:maxLogged] + "..."
	}
	if !utf8.ValidString(s) {
		s = strings.ToValidUTF8(s, "\uFFFD")
	}
	return s
}
