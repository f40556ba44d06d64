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

// CheckText returns an error, or nil if a text of a customer can stand beside others' texts: it has a character that is
// seen, and no control, format, private or other character that changes how its neighbours look, is not seen, or is
// none.
func CheckText(text string) error {
	switch {
	case strings.ContainsFunc(text, unseen):
		return errUnseen
	case !strings.ContainsFunc(text, seen):
		return errEmpty
	}
	return nil
}

// CheckName returns an error, or nil if a mail to others may hold the name: it is as [CheckText] says, and holds
// nothing that a mail program turns into a link. Readers that send mails have to check: [Check] takes any name, since a
// customer with a bad one still gets invoices and cars.
func CheckName(name string) error {
	if err := CheckText(name); err != nil {
		return err
	}
	if link.MatchString(norm.NFKC.String(name)) {
		return errLink
	}
	return nil
}

// unseen takes U+FFFD, too: JSON has it in place of what is not UTF-8.
func unseen(r rune) bool {
	return r == unicode.ReplacementChar ||
		unicode.In(r, unicode.C, unicode.Zl, unicode.Zp, unicode.Other_Default_Ignorable_Code_Point, unicode.Noncharacter_Code_Point)
}

// seen leaves out spaces, marks, and the two symbols that are blank: of Braille, and of music.
func seen(r rune) bool {
	return unicode.In(r, unicode.L, unicode.N, unicode.P, unicode.S) && r != '\u2800' && r != '\U0001d159'
}

// A link is more than a mail program may take for one: top-level domains come and go, so each word with a dot in it is
// a domain, unless what follows the dot is an initial.
var link = regexp.MustCompile(`(?i)[/\\]{2}` + // after a scheme, or of a file server
	`|\b(callto|data|file|javascript|magnet|mailto|news|sips?|skype|sms|tel|vbscript|xmpp):` +
	`|\bwww[.。]` +
	`|\S[.。]\p{L}[\p{L}\p{M}\p{N}-]` + // evil.example
	`|\d(\.\d+){3}` +
	`|\S@\S`)
