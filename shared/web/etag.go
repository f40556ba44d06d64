package web

import (
	"regexp"
	"strings"
)

// coded matches what a proxy that compresses an answer appends to its entity tag: Apache -gzip, Jetty --gzip, others
// ;gzip.
var coded = regexp.MustCompile(`^(--?|;)(gzip|br|zstd|deflate)"$`)

// MatchesETag reports whether the fields of an If-None-Match (weak comparison) or If-Match (strong) list the entity
// tag, or are `*` (RFC 9110 sections 8.8.3.2, 13.1.1 and 13.1.2). A proxy that compresses may have changed the listed
// tag. A malformed list is read up to the error.
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
