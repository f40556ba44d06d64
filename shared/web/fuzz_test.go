package web

import (
	"fmt"
	"strings"
	"testing"
)

var (
	blanks = []string{"", " ", "\t", " \t "}
	// What a list may have between its elements (RFC 9110 section 5.6.1).
	separators = []string{",", ", ", " ,", ",,", " , ,\t"}
)

// FuzzAccept compares Negotiate with what RFC 9110 section 12.5.1 says, on lists without repetitions.
func FuzzAccept(f *testing.F) {
	for _, list := range []string{"", "\x00\x00\x00", "\x01\x05\x01\x02\x02\x02", "\x03\x00\x03\x04\x07\x04\x05\x01\x05", "\x03\x03\x00\x00\x04\x09", "\x06\x01\x01\x07\x00\x00\x08\x08\x03",
		"\x00\x03\x00\x08\x06\x00\x05\x01\x00", "\x05\x02\x01\x01\x06\x02\x02\x03\x80", "\x02\x03\x04\x08\x05\x03\x00\x06\x81"} {
		f.Add([]byte(list), "text/html;q=0, */*")
	}
	for _, raw := range []string{"", " ", "a/b;q=0", "text/html ; q=0.000", "text/html;q=1;q=0", "application/json;q=0,application/json", "text/html;q=.0, text/*", "TEXT/HTML;Q=0"} {
		f.Add([]byte{}, raw)
	}
	offers := []string{"application/feed+json", "application/json", "application/atom+xml", "text/html"}
	ranges := append([]string{"*/*", "application/*", "text/*", "image/*", "image/png"}, offers...)
	weights := []struct {
		text       string
		thousandth int
	}{
		{"", 1000}, {";q=0", 0}, {";q=0.000", 0}, {";q=1", 1000}, {";q=1.000", 1000}, {";q=0.001", 1}, {"; q=0.5", 500}, {" ;Q=0.75", 750}, {";q=0.", 0}, {";q=0.999;ext=x", 999},
	}
	f.Fuzz(func(t *testing.T, list []byte, raw string) {
		said := map[string]int{}
		var field strings.Builder
		for ; len(list) >= 3; list = list[3:] {
			pattern, weight := ranges[int(list[0])%len(ranges)], weights[int(list[1])%len(weights)]
			if _, twice := said[pattern]; twice {
				continue
			}
			if len(said) > 0 {
				field.WriteString(separators[int(list[2])%len(separators)])
			}
			said[pattern] = weight.thousandth
			if list[2] >= 128 {
				pattern = strings.ToUpper(pattern)
			}
			field.WriteString(pattern + weight.text + blanks[int(list[2])%len(blanks)])
		}
		want, best := "", 0
		for _, offer := range offers {
			kind, _, _ := strings.Cut(offer, "/")
			weight := 1000
			if len(said) > 0 {
				weight = 0
				for _, pattern := range []string{"*/*", kind + "/*", offer} { // the last one that was said decides
					if q, ok := said[pattern]; ok {
						weight = q
					}
				}
			}
			if weight > best {
				want, best = offer, weight
			}
		}
		if got := Negotiate(field.String(), offers...); got != want {
			t.Errorf("%q takes %q, want %q", field.String(), got, want)
		}

		got := Negotiate(raw, offers...)
		refused := 0
		for _, offer := range offers {
			if Negotiate(raw, offer) == "" {
				refused++
				if offer == got {
					t.Errorf("%q takes %q among others, and not alone", raw, got)
				}
			}
		}
		if (got == "") != (refused == len(offers)) {
			t.Errorf("%q takes %q, and refuses %d of %d", raw, got, refused, len(offers))
		}
		// A type that the first range refuses stays refused, whatever follows.
		if head, _, _ := strings.Cut(raw, ","); got != "" && strings.EqualFold(head, got+";q=0") {
			t.Errorf("%q takes %q", raw, got)
		}
	})
}

// FuzzIfNoneMatch compares MatchesETag with the comparison of RFC 9110 section 8.8.3.2, on well-formed lists in any
// number of fields.
func FuzzIfNoneMatch(f *testing.F) {
	for _, list := range []string{"", "\x00", "\x02\x81", "\x01\x02\x03\x04\x05\x06", "\x07\x88\x09", "\x80\x80\x01"} {
		f.Add([]byte(list), byte(1), `W/"a"`)
	}
	f.Add([]byte("\x05\x21"), byte(1), `"b", W/"a"`) // there as a weak one only
	f.Add([]byte("\x05\x22\xa6"), byte(2), "\t,W/\"b\"")
	for i, raw := range []string{"*", `"`, `""`, `W/`, `"a""b"`, "\"\x80\"", `"a" "b"`, ` * `, `"\"`} {
		f.Add([]byte{}, byte(i), raw)
	}
	opaque := []string{``, `a`, `b`, `a,b`, `W/`, `*`, `\`, `aa`, "\u00fc", `-gzip`}
	f.Fuzz(func(t *testing.T, list []byte, which byte, raw string) {
		tag := fmt.Sprintf(`"%s"`, opaque[int(which)%len(opaque)])
		fields := []string{""}
		weak, strong := false, false
		for i, b := range list {
			other, isWeak := fmt.Sprintf(`"%s"`, opaque[int(b&31)%len(opaque)]), b&32 != 0
			weak, strong = weak || other == tag, strong || other == tag && !isWeak
			if isWeak {
				other = "W/" + other
			}
			switch {
			case b&128 != 0:
				fields = append(fields, blanks[int(b)%len(blanks)]+other)
			case i > 0:
				fields[len(fields)-1] += separators[int(b)%len(separators)] + other
			default:
				fields[0] = other
			}
		}
		if got := MatchesETag(fields, tag, true); got != weak {
			t.Errorf("%q and %s compared weakly: %t", fields, tag, got)
		}
		if got := MatchesETag(fields, tag, false); got != strong {
			t.Errorf("%q and %s compared strongly: %t", fields, tag, got)
		}
		if MatchesETag([]string{raw}, tag, false) && !MatchesETag([]string{raw}, tag, true) {
			t.Errorf("%q and %s match strongly, and not weakly", raw, tag)
		}
		if MatchesETag([]string{raw}, tag, true) && !strings.Contains(raw, strings.TrimSuffix(tag, `"`)) && strings.Trim(raw, " \t") != "*" {
			t.Errorf("%q matches %s", raw, tag)
		}
	})
}
