package webserver

import (
	"log/slog"
	"math"
	"regexp"
	"strconv"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/gin-gonic/gin"

	"github.com/edison-cars/data-feeds/shared/web"
)

// maxLogged bounds, in bytes, what a line of the log takes from a client's text.
const maxLogged = 512

// AccessLog is an observer for New that logs a line per request at level info: with who asked, but no credentials.
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
				slog.String("path", cut(normal(req.RequestURI))),
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

// normal writes a URI without escapes that it does not need (RFC 3986 section 6.2.2.2), so that a token in it is known
// for one.
func normal(uri string) string {
	return escape.ReplaceAllStringFunc(uri, func(s string) string {
		b, _ := strconv.ParseUint(s[1:], 16, 8)
		if c := rune(b); c < utf8.RuneSelf && (unicode.IsLetter(c) || unicode.IsDigit(c) || strings.ContainsRune("-._~", c)) {
			return string(c)
		}
		return s
	})
}

// cut shortens a text to maxLogged bytes; what is not UTF-8 in it goes.
func cut(s string) string {
	if len(s) > maxLogged {
		s = s[:maxLogged] + "..."
	}
	if !utf8.ValidString(s) {
		s = strings.ToValidUTF8(s, "\uFFFD")
	}
	return s
}
