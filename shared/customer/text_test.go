package customer_test

import (
	"strings"
	"testing"

	"github.com/edison-cars/data-feeds/shared/customer"
)

func TestCheckName(t *testing.T) {
	t.Parallel()
	for _, name := range []string{
		"Ada Lovelace", "Zoë Müller", "Zoe\u0308", "J. R. R. Tolkien", "J.R.R. Tolkien", "J.R.R", "St. John", "Sammy Davis Jr.", "O'Neil, Jr., Esq.", "Axel:son",
		"Hans-Jürgen v. d. Heide", "Dr. med. A. Weiß", "名前", "阿尔伯特·爱因斯坦", "محمد علی", "אברהם", "Nguyễn Thị Minh Khai", "葛\U000E0100城", "ශ්රී", "A/S Dampskib", "Ada & Co",
		"X Æ A-12", "<script>", ".", "2", "Zoë\u00a0Müller", "ada @ home", "Ωmega", "Ph.D", "3.5 Ada",
	} {
		if err := customer.CheckName(name); err != nil {
			t.Errorf("%q: %v", name, err)
		}
	}
	for wrong, names := range map[string][]string{
		"must not hold an address of the web": {
			"http://evil.example", "Ada https://evil", "HTTPS://EVIL", "hxxp://x", "ftp://x", "//evil", `\\evil\x`, "Ada http:\\\\evil", "www.evil", "WWW.evil.example", "Ada www.", "evil.example/x",
			"evil.example", "Win at evil.example now", "evil.co", "t.me/evil", "1e.de", "ev-il.com:80", "EVIL.EXAMPLE", "пример.рф", "例え。テスト", "evil。com", "evil．com", "evil｡com", "evil․com",
			"ｅｖｉｌ．ｃｏｍ", "evil.xn--p1ai", "💩.la", "evil.co\u0301m", "ev\ufe0fil.example", "(evil.example)", "a@b", "eve@evil.example", "eve＠evil.example", "mailto:eve", "Tel:0123456", "javascript:x",
			"192.0.2.1", "192.0.2.1/x", "http：／／evil", "St.John", "St。John",
		},
		"must hold a character": {
			"", " ", "\u00a0", "\u3000 \u2003", "\u0301", " \u0301\u0308 ", "\ufe0f", "\u2800", "\u2800 \u0301", "\U0001d159", "\u20dd",
		},
		"must not hold characters": {
			"Ada\n", "Ada\r\nBcc: eve", "Ada\tL", "\x00", "Ada\x7f", "Ada\u0085", "Ada\u2028L", "Ada\u2029L", "\u202aAda", "\u202bAda", "\u202cAda", "\u202dAda", "\u202eadA", "\u2066Ada", "\u2067Ada", "\u2068Ada",
			"\u2069Ada", "\u200eAda", "\u200fAda", "\u061cAda", "\u200b", "A\u200bda", "A\u200cda", "A\u200dda", "\u2060", "\ufeffAda", "A\u00adda", "\u180e", "\u115f", "\u1160", "\u3164", "\uffa0", "\u034f",
			"\u17b4", "\ufff9Ada", "\U000e0001", "\U000e0041", "\ue000", "\U000f0000", "\ufffd", "\ufdd0", "\uffff", "\U0010ffff", "\xff", "ev\u200bil.example", "Ada\u206aL", "Ada\U0001d173",
		},
	} {
		for _, name := range names {
			if err := customer.CheckName(name); err == nil || !strings.HasPrefix(err.Error(), wrong) {
				t.Errorf("%q: %v, not %s", name, err, wrong)
			}
		}
	}
	if err := customer.CheckText("12 St.John's Street, c/o evil.example"); err != nil {
		t.Error(err)
	}
}
