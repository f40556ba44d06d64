// Package web provides the parts of HTTP answers, for any router: problems (RFC 9457), content negotiation, pages with
// their style, and limits per client. Package webserver is the server.
package web

import (
	"net/http"
	"strconv"
	"strings"
)

// PrefersHTML reports whether the client prefers text/html to JSON. A tie, such as `*/*` or no Accept field, goes to
// JSON, unless the field names text/html, and JSON only by a wildcard.
func PrefersHTML(r *http.Request) bool {
	accept := strings.Join(r.Header.Values("Accept"), ",")
	return Negotiate(accept, "application/json", "application/problem+json", "text/html") == "text/html"
}

// Negotiate returns the offered media type (in lower case, without parameters) that the value of an Accept field
// prefers, or "" if it accepts none (RFC 9110 section 12.5.1). On a tie the type of the more specific range wins, since
// a client names a type for a reason and adds */* for safety; then the first offer wins. A blank value accepts
// everything. Malformed parts are ignored.
func Negotiate(accept string, offers ...string) string {
	best, _ := NegotiateNamed(accept, offers...)
	return best
}

// NegotiateNamed is [Negotiate], and reports whether the value names the type itself, not only by a wildcard.
func NegotiateNamed(accept string, offers ...string) (best string, named bool) {
	bestQuality, bestRange := 0, 0
	ranges := parseAccept(accept)
	for _, offer := range offers {
		quality, specific := 1000, 0
		if strings.TrimSpace(accept) != "" {
			quality, specific = qualityOf(offer, ranges)
		}
		if quality > bestQuality || quality == bestQuality && specific > bestRange {
			best, bestQuality, bestRange = offer, quality, specific
		}
	}
	return best, bestRange == exact
}

type mediaRange struct {
	pattern string // a/b, a/* or */*
	quality int    // 0 to 1000
}

// exact is how specific a range without a wildcard is.
const exact = 3

// qualityOf returns the quality of an offer, and how specific the range is that decides it. Both are 0 if it is
// refused.
func qualityOf(offer string, ranges []mediaRange) (quality, specific int) {
	kind, _, _ := strings.Cut(offer, "/")
	for i, pattern := range []string{offer, kind + "/*", "*/*"} { // the most specific range decides
		for _, r := range ranges {
			if r.pattern == pattern && r.quality > 0 {
				return r.quality, exact - i
			} else if r.pattern == pattern {
				return 0, 0
			}
		}
	}
	return 0, 0
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

// parseRange returns false for a malformed range, and for one with parameters that no offer has: all but charset=utf-8,
// and type=feed of Atom (RFC 5023 section 12.1).
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
		case param == "", param == "type=feed", name == "charset" && strings.Trim(value, `"`) == "utf-8":
		default:
			return r, false
		}
	}
	return r, r.pattern != ""
}

// parseQuality reads a weight, 0 to 1 with up to three decimals (RFC 9110 section 12.4.2), in thousandths. Java writes
// .2 for 0.2.
func parseQuality(s string) (int, bool) {
	whole, decimals, _ := strings.Cut(s, ".")
	if whole == "" && decimals != "" {
		whole = "0"
	}
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
