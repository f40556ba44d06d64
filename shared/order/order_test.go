package order

import (
	"encoding/json"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/santhosh-tekuri/jsonschema/v6"

	"github.com/edison-cars/data-feeds/shared/feed"
)

var id = uuid.MustParse("01939a5e-2d1b-7c3a-9f00-2b6d1c8e4a11")

// good is an order, and what more says in front of its own members.
func good(more string) string {
	return `{` + more + `"id":"01939a5e-2d1b-7c3a-9f00-2b6d1c8e4a11","version":7,"status":"placed","customer_id":"018F4E7C-5D1B-7C3A-9F00-2B6D1C8E4A11",` +
		`"lines":[{"model":"volta","options":["heat_pump"],"quantity":2,"unit_price_cents":2797000}],"total_cents":5594000,"currency":"EUR",` +
		`"placed_at":"2026-11-23T12:00:00.123456Z","updated_at":"2026-11-23T12:00:00Z"}`
}

func entry(entity string) feed.Entry {
	return feed.Entry{ID: id, Version: 7, Entity: json.RawMessage(entity)}
}

func TestCheck(t *testing.T) {
	t.Parallel()
	for _, more := range []string{
		"", ` `, `"news":[1,{"a":null,"b":[]}],`, `"text":"\\u0000 \\ é \ud83d\ude97",`, `"number":-1.5e-300,`, `"_status":"x","stat":"us",`,
		`"deep":` + strings.Repeat("[", 90) + strings.Repeat("]", 90) + `,`, `"model":1,"quantity":"many",`, // names of lines
	} {
		if err := Check(entry(good(more))); err != nil {
			t.Errorf("%s: %v", more, err)
		}
	}
	if err := Check(feed.Entry{ID: id, Version: 8, Deleted: true}); err != nil {
		t.Error(err)
	}
	for _, c := range []struct{ was, is, says string }{
		{`"placed_at":"2026-11-23T12:00:00.123456Z"`, `"placed_at":"2026-11-23T14:00:00+02:00"`, ""},
		{`"placed_at":"2026-11-23T12:00:00.123456Z"`, `"placed_at":"9999-12-31T23:59:59.999999Z"`, ""},
		{`"placed_at":"2026-11-23T12:00:00.123456Z"`, `"placed_at":"0001-01-01T00:00:00Z"`, ""},
		{`"placed_at":"2026-11-23T12:00:00.123456Z"`, `"placed_at":"2026-11-23T12:00:00-09:30"`, ""},
		{`"version":7`, `"version" : 7 `, ""},
		{`"model":"volta"`, `"model":"` + strings.Repeat("ö", 100) + `"`, ""},
		{`"lines":[{`, `"lines":[{"colour":"blue",`, ""},

		{`"id":"01939a5e-2d1b-7c3a-9f00-2b6d1c8e4a11"`, `"id":"01939a5e-2d1b-7c3a-9f00-2b6d1c8e4a12"`, "id is not that of the entry"},
		{`"version":7`, `"version":8`, "version is not that of the entry"},
		{`"version":7`, `"version":7.0`, "version is not"},
		{`"customer_id":"018F4E7C-5D1B-7C3A-9F00-2B6D1C8E4A11"`, `"customer_id":"x"`, "customer_id must be a UUID"},
		{`"customer_id":"018F4E7C-5D1B-7C3A-9F00-2B6D1C8E4A11"`, `"customer_id":"{018F4E7C-5D1B-7C3A-9F00-2B6D1C8E4A11}"`, "customer_id must be a UUID"},
		{`"customer_id":"018F4E7C-5D1B-7C3A-9F00-2B6D1C8E4A11"`, `"customer_id":"018F4E7C5D1B7C3A9F002B6D1C8E4A11"`, "customer_id must be a UUID"},
		{`"customer_id":"018F4E7C-5D1B-7C3A-9F00-2B6D1C8E4A11"`, `"customer_id":null`, "customer_id must be a text"},
		{`"customer_id":"018F4E7C-5D1B-7C3A-9F00-2B6D1C8E4A11",`, ``, "customer_id is missing"},
		{`"status":"placed"`, `"status":"delivered"`, "status must be one of placed, cancelled"},
		{`"status":"placed"`, `"status":"placed","Status":"cancelled"`, "status is given under a name that differs in case"},
		{`"status":"placed"`, `"Status":"placed"`, "status is given under a name that differs in case"},
		{`"status":"placed"`, `"ſtatus":"placed"`, "status is given under a name that differs in case"},
		{`"status":"placed"`, `"status":"placed","status":"placed"`, "has a member twice"},
		{`"status":"placed"`, `"status":"placed","\u0073tatus":"cancelled"`, "has a member twice"},
		{`"quantity":2`, `"quantity":2,"Quantity":3`, "lines[0].quantity is given under a name that differs in case"},
		{`"quantity":2`, `"quantity":2,"quantity":3`, "has a member twice"},
		{`"quantity":2`, `"quantity":0`, "lines[0].quantity must be a whole number from 1 to 500"},
		{`"quantity":2`, `"quantity":501`, "lines[0].quantity must be"},
		{`"quantity":2`, `"quantity":2.0`, "lines[0].quantity must be"},
		{`"quantity":2`, `"quantity":2e0`, "lines[0].quantity must be"},
		{`"quantity":2`, `"quantity":"2"`, "lines[0].quantity must be a number"},
		{`"quantity":2`, `"quantity":NaN`, "not valid JSON"},
		{`"total_cents":5594000`, `"total_cents":-1`, "total_cents must be"},
		{`"total_cents":5594000`, `"total_cents":99999999999999999999`, "total_cents must be"},
		{`"unit_price_cents":2797000`, `"unit_price_cents":1000000001`, "lines[0].unit_price_cents must be"},
		{`"currency":"EUR"`, `"currency":"euros"`, "currency must have 0 to 3 characters"},
		{`"model":"volta"`, `"model":"` + strings.Repeat("x", 3200) + `"`, "lines[0].model must have 1 to 100 characters"},
		{`"model":"volta"`, `"model":"vol\u0000ta"`, "lines[0].model holds the character NUL"},
		{`"model":"volta"`, `"model":"\ud800"`, "not valid JSON in UTF-8"},
		{`"model":"volta"`, "\"model\":\"\xff\"", "not valid JSON in UTF-8"},
		{`"options":["heat_pump"]`, `"options":null`, "lines[0].options must be an array"},
		{`"options":["heat_pump"]`, `"options":[1]`, "lines[0].options[0] must be a text"},
		{`"options":["heat_pump"]`, `"options":[""]`, "lines[0].options[0] must have 1 to 100 characters"},
		{`"options":["heat_pump"]`, `"options":["a"` + strings.Repeat(`,"a"`, 20) + `]`, "lines[0].options must have at most 20 elements"},
		{`"lines":[`, `"lines":[{},`, "lines[0].model is missing"},
		{`"lines":[`, `"lines":[null,`, "lines[0] must be an object"},
		{`"currency":"EUR"`, `"currency":"EUR","news":"a\u0000"`, "holds the character NUL"},
		{`"currency":"EUR"`, `"currency":"EUR","ne\u0000ws":1`, "holds the character NUL"},
		{`"currency":"EUR"`, `"currency":"EUR","news":{"a":1,"a":2}`, "has a member twice"},
		{`"currency":"EUR"`, `"currency":"EUR","news":1e99999`, "holds a number that does not fit"},
		{`"currency":"EUR"`, `"currency":"EUR","news":` + strings.Repeat("9", 101), "holds a number of more than 100 characters"},
		{`"currency":"EUR"`, `"currency":"EUR","news":[` + strings.Repeat("1e1000,", 1048) + `1]`, ""},
		{`"currency":"EUR"`, `"currency":"EUR","news":[` + strings.Repeat("1e1000,", 1049) + `1]`, "holds numbers of more than 1048576 digits in all"},
		{`"quantity":2`, `"quantity":2,"news":[` + strings.Repeat("-1E-999,", 100_000) + `1]`, "lines[0] holds numbers of more than"},
		{`"currency":"EUR"`, `"currency":"EUR","news":` + strings.Repeat("[", 200) + strings.Repeat("]", 200), "nested deeper than 100 levels"},
		{`"currency":"EUR"`, `"currency":"EUR","news":"` + strings.Repeat("x", 1<<20) + `"`, "larger than 1048576 bytes"},
	} {
		entity := good("")
		if !strings.Contains(entity, c.was) {
			t.Fatalf("it has no %s", c.was)
		}
		err := Check(entry(strings.Replace(entity, c.was, c.is, 1)))
		if err == nil && schema(t).Validate(parse(t, strings.Replace(entity, c.was, c.is, 1))) != nil {
			t.Errorf("the schema refuses %.100s", c.is)
		}
		if (err == nil) != (c.says == "") || err != nil && !strings.Contains(err.Error(), c.says) {
			t.Errorf("%.100s: %v", c.is, err)
		}
	}
	for _, odd := range []string{``, ` `, `[]`, `null`, `{`, good("")[1:], good("") + `{}`, good("") + `x`} {
		if err := Check(entry(odd)); err == nil {
			t.Errorf("it takes %.40s", odd)
		}
	}
	for _, at := range []string{
		`"infinity"`, `"-infinity"`, `"yesterday"`, `"now"`, `"2026-11-23"`, `"2026-11-23 12:00:00Z"`, `"2026-11-23T12:00:00"`, `"2026-11-23T24:00:00Z"`,
		`"2026-11-23T23:59:60Z"`, `"2026-02-30T00:00:00Z"`, `"0000-12-31T00:00:00Z"`, `"0000-12-31T23:30:00-01:00"`, `"0000-12-31T12:00:00-15:00"`, `"10000-01-01T00:00:00Z"`, `"9999-12-31T23:59:59.9999996Z"`,
		`"9999-12-31T23:59:59-01:00"`, `"0001-01-01T00:00:00+01:00"`, `"2026-11-23T12:00:00+16:00"`, `"2026-11-23T12:00:00+01:75"`, `"2026-11-23T1:00:00Z"`, `"2026-11-23T12:00:00,5Z"`, `"2026-11-23t12:00:00z"`,
		`"2026-11-23T12:00:00.` + strings.Repeat("0", 150) + `Z"`, `""`, `1700000000`, `null`, `"\u0032026-11-23T12:00:00Z"`,
	} {
		if err := Check(entry(strings.Replace(good(""), `"2026-11-23T12:00:00.123456Z"`, at, 1))); err == nil || !strings.Contains(err.Error(), "placed_at must be") {
			t.Errorf("placed_at %s: %v", at, err)
		}
	}
}

// The schema refuses what the check refuses, but for what a schema cannot say.
func TestSchema(t *testing.T) {
	t.Parallel()
	if err := schema(t).Validate(parse(t, good(""))); err != nil {
		t.Error(err)
	}
	for was, is := range map[string]string{
		`"status":"placed"`: `"status":"delivered"`, `"currency":"EUR"`: `"currency":"euros"`, `"currency":"EUR",`: ``, `"quantity":2`: `"quantity":501`,
		`"options":["heat_pump"]`: `"options":[""]`, `"total_cents":5594000`: `"total_cents":"5594000"`, `"lines":[`: `"lines":[{},`,
		`"placed_at":"2026-11-23T12:00:00.123456Z"`: `"placed_at":"yesterday"`, `"customer_id":"018F4E7C-5D1B-7C3A-9F00-2B6D1C8E4A11"`: `"customer_id":"x"`,
	} {
		if schema(t).Validate(parse(t, strings.Replace(good(""), was, is, 1))) == nil {
			t.Errorf("the schema takes %s", is)
		}
	}
}

func parse(t *testing.T, text string) any {
	t.Helper()
	v, err := jsonschema.UnmarshalJSON(strings.NewReader(text))
	if err != nil {
		t.Fatal(err)
	}
	return v
}

func schema(t *testing.T) *jsonschema.Schema {
	t.Helper()
	compiler := jsonschema.NewCompiler()
	compiler.AssertFormat()
	if err := compiler.AddResource("order", parse(t, string(Schema))); err != nil {
		t.Fatal(err)
	}
	compiled, err := compiler.Compile("order")
	if err != nil {
		t.Fatal(err)
	}
	return compiled
}

// What a source writes by the struct passes its own check.
func TestCheckOfOwn(t *testing.T) {
	t.Parallel()
	o := Order{ID: id, Version: 7, Status: Cancelled, Currency: "EUR", PlacedAt: feed.TimeOf(time.Now()), UpdatedAt: feed.TimeOf(time.Now())}
	for range 20 {
		o.Lines = append(o.Lines, Line{Model: strings.Repeat("m", 100), Options: []string{}, Quantity: 500, UnitPriceCents: 1_000_000_000})
	}
	payload, err := json.Marshal(o)
	if err != nil {
		t.Fatal(err)
	}
	if err := Check(entry(string(payload))); err != nil {
		t.Error(err)
	}
	for _, status := range []Status{Placed, Cancelled} { // as the tag lists them
		if err := Check(entry(strings.Replace(good(""), `"placed"`, `"`+string(status)+`"`, 1))); err != nil {
			t.Error(err)
		}
	}
}

func BenchmarkCheck(b *testing.B) {
	e := entry(good(""))
	b.SetBytes(int64(len(e.Entity)))
	b.ReportAllocs()
	for b.Loop() {
		if err := Check(e); err != nil {
			b.Fatal(err)
		}
	}
}

func TestCarName(t *testing.T) {
	t.Parallel()
	for want, codes := range map[string][]string{
		"Volta": {"volta"}, "Élan": {"élan"}, "": {""}, "Volta with glass roof, tow bar": {"volta", "glass_roof", "tow_bar"},
	} {
		if got := CarName(codes[0], codes[1:]...); got != want {
			t.Errorf("%q: %q", codes, got)
		}
	}
}
