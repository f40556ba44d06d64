package web

import (
	"bytes"
	"encoding/json"
	"fmt"
	"html/template"
	"maps"
	"math"
	"reflect"
	"slices"
	"strconv"
	"time"

	"github.com/google/uuid"
	"golang.org/x/text/language"
	"golang.org/x/text/language/display"
)

// functions are the templates' own:
//
//	money CENTS CURRENCY   €45,990.00
//	num N                  12,345
//	time T                 a <time> element, which a script shows relative to now or in local time; without it, UTC; "never" for the zero time
//	since T                the same, never relative, to stand after "since"
//	ago T                  the same, always relative: 3 s ago, just now, in 2 min; not for pages that are cached
//	short ID               the end of an id
//	json V                 V, or the JSON text in V, indented
//	add A B, percent PART WHOLE   whole numbers; 0 to 100 with one decimal
//	country CODE           Germany for DE (ISO 3166-1 alpha-2); any other text stays as it is
//	asset NAME             URL of a file of assets/
//	linked TEXT URLS       TEXT with links at its paths, and at those of the URLs that are in it
var functions = template.FuncMap{
	"money":   money,
	"num":     num,
	"time":    timeElement,
	"since":   sinceElement,
	"ago":     agoElement,
	"short":   Short,
	"json":    indentJSON,
	"add":     add,
	"percent": percent,
	"country": country,
	"asset":   assetURL,
	"linked":  linked,
}

// Functions returns the templates' own functions, for a template without the layout.
func Functions() template.FuncMap { return maps.Clone(functions) }

var symbols = map[string]string{"EUR": "€", "USD": "$", "GBP": "£"}

// money takes a whole number of any type.
func money(cents any, currency string) (string, error) {
	n, err := whole(cents)
	if err != nil {
		return "", err
	}
	return Money(n, currency), nil
}

// Short returns the end of an id, enough to refer to it.
func Short(id uuid.UUID) string { return id.String()[28:] }

// Money writes an amount of a currency (ISO 4217) with two decimals, from its hundredths, as the templates do.
func Money(cents int64, currency string) string {
	sign, size := split(cents)
	amount := group(size/100) + "." + strconv.FormatUint(100+size%100, 10)[1:]
	if symbol, ok := symbols[currency]; ok {
		return sign + symbol + amount
	}
	return sign + amount + "\u00a0" + currency
}

func num(v any) (string, error) {
	n, err := whole(v)
	if err != nil {
		return "", err
	}
	return Num(n), nil
}

// Num writes a whole number as the function num of templates does: 12,345.
func Num(n int64) string {
	sign, size := split(n)
	return sign + group(size)
}

func whole(v any) (int64, error) {
	r := reflect.ValueOf(v)
	switch {
	case r.CanInt():
		return r.Int(), nil
	case r.CanUint() && r.Uint() <= math.MaxInt64:
		return int64(r.Uint()), nil
	}
	return 0, fmt.Errorf("not a whole number: %v of type %T", v, v)
}

func split(n int64) (sign string, size uint64) {
	if n < 0 {
		return "−", -uint64(n)
	}
	return "", uint64(n)
}

func group(n uint64) string {
	digits := strconv.AppendUint(make([]byte, 0, 26), n, 10)
	for i := len(digits) - 3; i > 0; i -= 3 {
		digits = slices.Insert(digits, i, ',')
	}
	return string(digits)
}

func add(a, b any) (int64, error) {
	x, err := whole(a)
	if err != nil {
		return 0, err
	}
	y, err := whole(b)
	return x + y, err
}

// percent returns 0 for a whole that is not positive.
func percent(part, of any) (float64, error) {
	p, err := whole(part)
	if err != nil {
		return 0, err
	}
	w, err := whole(of)
	if err != nil || w <= 0 {
		return 0, err
	}
	return math.Round(1000*min(1, max(0, float64(p)/float64(w)))) / 10, nil
}

func country(code string) string {
	region, err := language.ParseRegion(code)
	if err != nil {
		return code
	}
	return display.English.Regions().Name(region)
}

// shownFormat is of times in UTC.
const shownFormat = "2 Jan 2006, 15:04:05 UTC"

func timeElement(t time.Time) template.HTML { return element(t, "", t.UTC().Format(shownFormat)) }

func sinceElement(t time.Time) template.HTML {
	return element(t, " data-absolute", t.UTC().Format(shownFormat))
}

func agoElement(t time.Time) template.HTML {
	return element(t, ` title="`+t.UTC().Format(shownFormat)+`" data-ago`, Ago(t))
}

func element(t time.Time, attributes, text string) template.HTML {
	if t.IsZero() {
		return "never"
	}
	return template.HTML(`<time datetime="` + t.UTC().Format(TimeFormat) + `"` + attributes + `>` + text + `</time>`)
}

// Ago writes how long ago a time is, in the words of the function ago of templates: 3 s ago.
func Ago(t time.Time) string { return ago(t, time.Now()) }

func ago(t, now time.Time) string {
	if t.IsZero() {
		return "never"
	}
	d := now.Sub(t)
	switch {
	case d >= time.Second:
		return span(d) + " ago"
	case d >= 0:
		return "just now"
	case d > -time.Second:
		return "now"
	}
	return "in " + span(-d)
}

// span writes a duration in its largest unit, rounded down.
func span(d time.Duration) string {
	const day = 24 * time.Hour
	switch {
	case d < time.Minute:
		return fmt.Sprintf("%d s", d/time.Second)
	case d < time.Hour:
		return fmt.Sprintf("%d min", d/time.Minute)
	case d < day:
		return fmt.Sprintf("%d h", d/time.Hour)
	case d < 2*day:
		return "1 day"
	}
	return fmt.Sprintf("%d days", d/day)
}

// indentJSON indents JSON, unless it is so deep that most of the result would be spaces.
func indentJSON(v any) (string, error) {
	var raw []byte
	switch v := v.(type) {
	case string:
		raw = []byte(v)
	case []byte:
		raw = v
	case json.RawMessage:
		raw = v
	default:
		var err error
		if raw, err = json.Marshal(v); err != nil {
			return "", err
		}
	}
	depth, spaces := 0, 0
	for _, b := range raw { // those in texts may count, too
		switch b {
		case '{', '[':
			depth++
			spaces += 2 * depth
		case '}', ']':
			depth--
			spaces += 2 * depth
		case ',':
			spaces += 2 * depth
		}
	}
	if spaces > 4*len(raw)+1000 {
		return string(raw), nil
	}
	var out bytes.Buffer
	if err := json.Indent(&out, raw, "", "  "); err != nil {
		return "", fmt.Errorf("indent JSON: %w", err)
	}
	return out.String(), nil
}
