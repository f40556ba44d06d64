package web

import (
	"strings"
	"testing"
)

func TestMatchesETag(t *testing.T) {
	t.Parallel()
	for _, x := range []struct {
		fields       string // separated by |
		weak, strong bool
	}{
		{`"a"`, true, true},
		{`W/"a"`, true, false},
		{` "b" , "a" `, true, true},
		{`"b"|"a"`, true, true},
		{`"b,c" , W/"a"`, true, false},
		{`,, ,"a"`, true, true},
		{`"a-gzip"`, true, true},
		{`"a--gzip"`, true, true},
		{`"a;gzip"`, true, true},
		{`"b-gzip", "a-br"`, true, true},
		{`W/"a-zstd"`, true, false},
		{`W/"b-gzip", "a;deflate"`, true, true},
		{`"a-gzip-gzip"`, false, false},
		{`"a-"`, false, false},
		{`"a-rot13"`, false, false},
		{`"agzip"`, false, false},
		{`"aa-gzip"`, false, false},
		{`"-gzip"`, false, false},
		{`*`, true, true},
		{` * `, true, true},
		{`*foo`, false, false},
		{`"b", *`, false, false},
		{`"b"`, false, false},
		{`a`, false, false},
		{`"a`, false, false},
		{`w/"a"`, false, false},
		{`"b" nonsense "a"`, false, false},
		{``, false, false},
	} {
		fields := strings.Split(x.fields, "|")
		if got := MatchesETag(fields, `"a"`, true); got != x.weak {
			t.Errorf("%s weakly: %t", x.fields, got)
		}
		if got := MatchesETag(fields, `"a"`, false); got != x.strong {
			t.Errorf("%s strongly: %t", x.fields, got)
		}
	}
}

// A tag that says nothing is no beginning of another one.
func TestEmptyETag(t *testing.T) {
	t.Parallel()
	if MatchesETag([]string{`"-gzip"`}, `""`, true) || !MatchesETag([]string{`""`}, `""`, true) {
		t.Error("the empty tag is not compared as it is")
	}
}

func FuzzMatchesETag(f *testing.F) {
	for _, s := range []string{`"a"`, `W/"a", "b"`, `*`, `"a`, `a"`, `,,"",`, `"a""b"`, `*"`} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, list string) {
		weak, strong := MatchesETag([]string{list}, `"a"`, true), MatchesETag([]string{list}, `"a"`, false)
		if strong && !weak {
			t.Errorf("%q matches strongly, and not weakly", list)
		}
		if weak && !strings.Contains(list, `"a`) && strings.Trim(list, " \t") != "*" {
			t.Errorf("%q matches", list)
		}
	})
}
