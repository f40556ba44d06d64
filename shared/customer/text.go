package customer

import (
	"errors"
	"regexp"
	"strings"
	"unicode"

	"golang.org/x/text/unicode/norm"
)

var (
	errUnseen = errors.New("must not hold characters that are no text or are not seen, such as line breaks")
	errEmpty  = errors.New("must hold a character that is seen")
	errLink   = errors.New("must not hold an address of the web or of e-mail; a space goes after a full stop")
)

// CheckText returns an error unless the text can be shown beside other text: it has at least one visible character, and
// no control, format, private or other character that is invisible or changes how its neighbours look.
func CheckText(text string) error {
	switch {
	case strings.ContainsFunc(text, unseen):
		return errUnseen
	case !strings.ContainsFunc(text, seen):
		return errEmpty
	}
	return nil
}

// CheckName returns an error unless a mail may contain the name: it passes [CheckText], and contains nothing that mail
// programs turn into a link. Readers that send mails must call it: [Check] accepts any name, since a customer with a
// bad one still gets invoices and cars.
func CheckName(name string) error {
	if err := CheckText(name); err != nil {
		return err
	}
	if link.MatchString(norm.NFKC.String(name)) {
		return errLink
	}
	return nil
}

// unseen also matches U+FFFD, which JSON decoders put in place of invalid UTF-8.
func unseen(r rune) bool {
	return r == unicode.ReplacementChar ||
		unicode.In(r, unicode.C, unicode.Zl, unicode.Zp, unicode.Other_Default_Ignorable_Code_Point, unicode.Noncharacter_Code_Point)
}

// seen excludes spaces, marks, and the two blank symbols (of Braille, and of music).
func seen(r rune) bool {
	return unicode.In(r, unicode.L, unicode.N, unicode.P, unicode.S) && r != '\u2800' && r != '\U0001d159'
}

// link matches more than mail programs do. As top-level domains change, every word with a dot in it counts as a domain,
// unless an initial follows the dot.
var link = regexp.MustCompile(`(?i)[/\\]{2}` + // after a scheme, or of a file server
	`|\b(callto|data|file|javascript|magnet|mailto|news|sips?|skype|sms|tel|vbscript|xmpp):` +
	`|\bwww[.。]` +
	`|\S[.。]\p{L}[\p{L}\p{M}\p{N}-]` + // evil.example
	`|\d(\.\d+){3}` +
	`|\S@\S`)
