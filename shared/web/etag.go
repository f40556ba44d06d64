package web

import "strings"

// MatchesETag tells whether the entity tag stands in the fields of an If-None-Match (weak comparison) or If-Match (strong),
// or one of them is `*` (RFC 9110 sections 8.8.3.2, 13.1.1 and 13.1.2). A list is read up to where it is malformed.
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
		if rest[:end+2] == tag && (weak || !isWeak) {
			return true
		}
		list = rest[end+2:]
	}
}
