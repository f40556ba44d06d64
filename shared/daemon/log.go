package daemon

import (
	"io"
	"log/slog"
	"regexp"
	"strings"
)

// Logger returns a logger that writes one line of key=value per record of at least level: debug, info, warn or error;
// "" is info. Times are UTC. Tokens and the passwords of URLs are redacted.
func Logger(w io.Writer, level string) (*slog.Logger, error) {
	var min slog.Level
	switch strings.ToLower(level) {
	case "debug":
		min = slog.LevelDebug
	case "", "info":
	case "warn":
		min = slog.LevelWarn
	case "error":
		min = slog.LevelError
	default:
		return nil, Usagef("LOG_LEVEL=%q: takes debug, info, warn or error", level)
	}
	return slog.New(slog.NewTextHandler(w, &slog.HandlerOptions{Level: min, ReplaceAttr: tidy})), nil
}

// userinfo matches the password of a URL anywhere in a text.
var userinfo = regexp.MustCompile(`(://[^\s/?#:@]*):[^\s/?#]*@`)

// token matches a token of a reader, an operator or a buyer, or the secret of a link, anywhere in a text.
var token = regexp.MustCompile(`datafeed_[A-Za-z0-9_=-]{20,}`)

func redact(s string) string {
	return token.ReplaceAllString(userinfo.ReplaceAllString(s, "$1:xxxxx@"), "datafeed_xxxxx")
}

func tidy(groups []string, a slog.Attr) slog.Attr {
	v := a.Value.Resolve()
	switch {
	case a.Key == slog.TimeKey && len(groups) == 0 && v.Kind() == slog.KindTime:
		return slog.String(a.Key, v.Time().UTC().Format("2006-01-02T15:04:05.000Z"))
	case v.Kind() == slog.KindString, v.Kind() == slog.KindAny && a.Key != slog.LevelKey:
		s := v.String()
		if r := redact(s); r != s {
			return slog.String(a.Key, r)
		}
	}
	return a
}
