package web

import (
	"strconv"
	"strings"

	"github.com/gin-gonic/gin"
)

// PrefersHTML tells whether the client would rather have text/html than JSON: on a tie (also `*/*` and no Accept at
// all) it would not.
func PrefersHTML(c *gin.Context) bool {
	accept := strings.Join(c.Request.Header.Values("Accept"), ",")
	return Negotiate(accept, "application/json", "application/problem+json", "text/html") == "text/html"
}

// Negotiate gives the offered media type (in lower case, without parameters) that the value of an Accept field likes
// best, the first of them on a tie, and "" if it takes none (RFC 9110 section 12.5.1). A blank value takes everything;
// a part that is not well-formed is passed over.
func Negotiate(accept string, offers ...string) string {
	best, bestQuality := "", 0
	ranges := parseAccept(accept)
	for _, offer := range offers {
		quality := 1000
		if strings.TrimSpace(accept) != "" {
			quality = qualityOf(offer, ranges)
		}
		if quality > bestQuality {
			best, bestQuality = offer, quality
		}
	}
	return best
}

type mediaRange struct {
	pattern string // a/b, a/* or */*
	quality int    // 0 to 1000
}

func qualityOf(offer string, ranges []mediaRange) int {
	kind, _, _ := strings.Cut(offer, "/")
	for _, pattern := range []string{offer, kind + "/*", "*/*"} { // the most specific range decides
		for _, r := range ranges {
			if r.pattern == pattern {
				return r.quality
			}
		}
	}
	return 0
}

func parseAccept(accept string) []mediaRange {
	var ranges []mediaRange
	for part := range SplitQuoted(accept, ',') {
		if r, ok := parseRange(part); ok {
			ranges = append(ranges, r)
		}
	}
	return ranges
}

// parseRange passes over a range with parameters that no representation of ours has: all but charset=utf-8.
func parseRange(part string) (mediaRange, bool) {
	r := mediaRange{quality: 1000}
	for param := range SplitQuoted(part, ';') {
		param = strings.ToLower(strings.TrimSpace(param))
		name, value, _ := strings.Cut(param, "=")
		switch {
		case r.pattern == "":
			kind, sub, ok := strings.Cut(param, "/")
			if !ok || kind == "" || sub == "" || kind == "*" && sub != "*" {
				return r, false
			}
			r.pattern = param
		case name == "q":
			q, ok := parseQuality(value)
			if !ok {
				return r, false
			}
			r.quality = q
			return r, true // what follows are extensions
		case param == "", name == "charset" && strings.Trim(value, `"`) == "utf-8":
		default:
			return r, false
		}
	}
	return r, r.pattern != ""
}

// parseQuality reads a weight, 0 to 1 with up to three decimals (RFC 9110 section 12.4.2), in thousandths.
func parseQuality(s string) (int, bool) {
	whole, decimals, _ := strings.Cut(s, ".")
	if whole != "0" && whole != "1" || len(decimals) > 3 {
		return 0, false
	}
	n, err := strconv.ParseUint(whole+(decimals + "000")[:3], 10, 16)
	return int(n), err == nil && n <= 1000
}

// SplitQuoted splits at sep outside quoted strings (RFC 9110 section 5.6.4).
func SplitQuoted(s string, sep byte) func(yield func(string) bool) {
	return func(yield func(string) bool) {
		start, quoted := 0, false
		for i := 0; i < len(s); i++ {
			switch {
			case quoted && s[i] == '\\':
				i++
			case s[i] == '"':
				quoted = !quoted
			case s[i] == sep && !quoted:
				if !yield(s[start:i]) {
					return
				}
				start = i + 1
			}
		}
		yield(s[start:])
	}
}
