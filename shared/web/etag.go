package web

import (
	"regexp"
	"strings"
)

// coded is what proxies that compress an answer put at the end of its entity tag: Apache -gzip, Jetty --gzip, others
// ;gzip.
var coded = regexp.MustCompile(`^(--?|;)(gzip|br|zstd|deflate)"$`)

// MatchesETag tells whether the entity tag stands in the fields of an If-None-Match (weak comparison) or If-Match
// (strong), or one of them is `*` (RFC 9110 sections 8.8.3.2, 13.1.1 and 13.1.2), as it was given or as a proxy made it
// that compresses. A list is read up to where it is malformed.
func MatchesETag(fields []string, tag string, weak bool) bool {
	list := strings.Trim(strings.Join(fields, ","), " \t")
	if list == "*" {
		return true
	}
	for {
		list = strings.TrimLeft(list, ", \t")
		rest, isWeak := strings.CutPrefix(list, "W/")
		if !strings.HasPrefix(rest, `"`) {
			return false
		}
		end := strings.IndexByte(rest[1:], '"')
		if end < 0 {
			return false
		}
		if sameTag(rest[:end+2], tag) && (weak || !isWeak) {
			return true
		}
		list = rest[end+2:]
	}
}

func sameTag(given, tag string) bool {
	added, longer := strings.CutPrefix(given, strings.TrimSuffix(tag, `"`))
	return given == tag || longer && len(tag) > len(`""`) && coded.MatchString(added)
}
