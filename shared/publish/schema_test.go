package publish

import (
	"bytes"
	"testing"

	"github.com/santhosh-tekuri/jsonschema/v6"

	"github.com/edison-cars/data-feeds/shared/feed"
)

// What an attached table publishes meets the schema of its feed, and the schema says what the columns say.
func TestSchemaOfATable(t *testing.T) {
	t.Parallel()
	pool := database(t)
	exec(t, pool, `
		create table item (id bigint primary key, n smallint, i integer, x numeric, f real, d double precision, b boolean not null, u uuid, day date,
		       at timestamptz, local timestamp, text text not null, code varchar(3), letters char(2), list text[], more jsonb, span interval);
		select feed_create('items');
		select feed_attach('items', 'item', key => 'id');
		insert into item (id, b, text) values (1, true, '');
		insert into item values
		  (2, -32768, 2147483647, 'NaN', '-Infinity', 'Infinity', false, gen_random_uuid(), 'infinity', '-infinity', now(), 'x', 'abc', 'ab', '{a,null}', '{"a":[]}', '1 day'),
		  (3, 0, 0, 0, 0, 0, false, null, '0001-01-01 BC', '2020-01-01 00:00:00+00 BC', now(), '', '', '', '{}', '1', '0'),
		  (4, 0, 0, 0, 0, 0, false, null, '12020-01-31', '12020-12-31 23:59:59.5+00', now(), '', '', '', '{}', '1', '0'),
		  (9223372036854775807, 1, 1, 1.5, 1e30, 1e-300, true, gen_random_uuid(), '2026-11-30', now(), now(), E'\\u00fc"', 'äöü', 'a', '{}', 'null', '0')`)
	l := openLog(t, pool)
	feeds, err := l.Feeds(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	var schema []byte
	for _, d := range feeds {
		if d.Name == "items" {
			schema = d.Schema
		}
	}
	parse := func(text []byte) any {
		v, err := jsonschema.UnmarshalJSON(bytes.NewReader(text))
		if err != nil {
			t.Fatalf("%v: %s", err, text)
		}
		return v
	}
	compiler := jsonschema.NewCompiler()
	compiler.AssertFormat()
	if err := compiler.AddResource("items", parse(schema)); err != nil {
		t.Fatal(err)
	}
	compiled, err := compiler.Compile("items")
	if err != nil {
		t.Fatal(err)
	}
	found, err := l.Entities(t.Context(), "items", feed.Cursor{}, [16]byte{}, 10)
	if err != nil || len(found.Entries) != 5 {
		t.Fatalf("%v, %v", found, err)
	}
	for _, e := range found.Entries {
		if err := compiled.Validate(parse(e.Entity)); err != nil {
			t.Errorf("%s: %v", e.Entity, err)
		}
		for was, is := range map[string]string{`"text":"`: `"text":1,"was":"`, `"b":`: `"b":null,"was":`, `"code":`: `"code":"abcd","was":`, `"n":`: `"n":32768,"was":`,
			`"day":`: `"day":"2026-02-30","was":`, `"at":`: `"at":"2026-11-30","was":`} {
			if other := bytes.Replace(e.Entity, []byte(was), []byte(is), 1); compiled.Validate(parse(other)) == nil {
				t.Errorf("the schema takes %s", other)
			}
		}
	}
}
