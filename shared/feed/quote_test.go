package feed

import (
	"strings"
	"testing"
)

// No error of a page quotes an entry, whatever is wrong with it: it goes into logs.
func TestErrorsQuoteNothing(t *testing.T) {
	t.Parallel()
	const good = `{"version":"https://jsonfeed.org/version/1.1","_datafeed":{"cursor":"1-050000000000","head":"1-050000000000","up_to_date":true,"next":"","sealed":false},` +
		`"items":[{"id":"urn:uuid:68bb4785-ae0d-5f90-ad34-d51ab3280115","date_modified":"2026-11-23T08:00:01Z","_datafeed":{"position":1,"version":1,"entity":{"name":"x"}}}]}`
	if _, err := ParsePage([]byte(good), Cursor{}); err != nil {
		t.Fatal(err)
	}
	const secret = "Lovelace"
	for _, part := range []string{
		`"urn:uuid:68bb4785-ae0d-5f90-ad34-d51ab3280115"`, `"2026-11-23T08:00:01Z"`, `{"position":1,"version":1,"entity":{"name":"x"}}`, `1,"version"`, `1,"entity"`, `{"name":"x"}`, `"x"`, `true`, `"1-050000000000"`,
	} {
		for _, bad := range []string{
			`"Lovelace"`, `"2026-11-23T08:00:01ZLovelace"`, `Lovelace`, `{"Lovelace":"Lovelace"}`, `["Lovelace"]`, `"Lovelace`, `{"Lovelace":Lovelace}`, `{"name":"Lovelace\q"}`, `{"name":{"Lovelace":}}`,
			`99999999999999999999`, `"99999-Lovelace"`, `"Love\lace"`, `"Lovelace\ud800"`, `nuLovelace`,
			`"Lovelace","version"`, `"Lovelace","entity"`,
		} {
			body := strings.Replace(good, part, bad, 1)
			for _, err := range []error{parse(body, ParsePage), parse(body, func(b []byte, _ Cursor) (Cursor, error) { return ParseHead(b) })} {
				if err != nil && strings.Contains(err.Error(), secret) {
					t.Errorf("%s in the place of %s: %v", bad, part, err)
				}
			}
		}
	}
}

func parse[T any](body string, read func([]byte, Cursor) (T, error)) error {
	_, err := read([]byte(body), Cursor{})
	return err
}
