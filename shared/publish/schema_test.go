package publish

import (
	"bytes"
	"crypto/sha256"
	"fmt"
	"net/http/httptest"
	"os"
	"strings"
	"testing"

	"github.com/santhosh-tekuri/jsonschema/v6"
)

// Of schema-v1.1.json in the npm package jsonfeed-schema 0.5.0.
const schemaDigest = "f50384a84eae33988efb7865db4eaf98ba0a67b8c8e7eac6d32bb701b3cd125a"

// Every page of a long history passes the published schema of JSON Feed 1.1, which is not ours.
func TestPublishedJSONFeedSchema(t *testing.T) {
	t.Parallel()
	file := os.Getenv("JSON_FEED_SCHEMA")
	if file == "" {
		t.Skip("needs the published schema: npm pack jsonfeed-schema@0.5.0, unpack it, and let JSON_FEED_SCHEMA name its schema-v1.1.json")
	}
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if digest := fmt.Sprintf("%x", sha256.Sum256(text)); digest != schemaDigest {
		t.Fatalf("%s is another file: its SHA-256 is %s", file, digest)
	}
	parsed, err := jsonschema.UnmarshalJSON(bytes.NewReader(text))
	if err != nil {
		t.Fatal(err)
	}
	compiler := jsonschema.NewCompiler()
	compiler.AssertFormat()
	if err := compiler.AddResource("published.json", parsed); err != nil {
		t.Fatal(err)
	}
	schema, err := compiler.Compile("published.json")
	if err != nil {
		t.Fatal(err)
	}
	check := func(server *httptest.Server, query string) (body string) {
		t.Helper()
		resp, body := get(t, server, "GET", "/feeds/things.json"+query)
		v, err := jsonschema.UnmarshalJSON(strings.NewReader(body))
		if err == nil {
			err = schema.Validate(v)
		}
		if err != nil || resp.StatusCode != 200 {
			t.Errorf("%s: %d, %v", query, resp.StatusCode, err)
		}
		return body
	}
	empty := serve(t, openLog(t, database(t)))
	check(empty, "")
	check(empty, "?after=0&limit=7")

	pool := database(t)
	appendAll(t, openLog(t, pool), lives(1250))
	server := serve(t, openLog(t, pool))
	at := func(position int64) string { return cursorAt(t, pool, position).String() }
	tombstones := 0
	for _, query := range append(pageQueries(t, server, pool), "?after=0&limit=1000", "?after="+at(1000)+"&limit=1000", "?after=0&limit=7",
		"?after="+at(42), "?before="+at(1), "?before="+at(42), "?after=0&limit=100&history="+at(1200)) {
		tombstones += strings.Count(check(server, query), `"deleted":true`)
	}
	if tombstones < 200 { // two views of a hundred or so
		t.Errorf("%d tombstones were checked", tombstones)
	}

	body := check(server, "?after=0&limit=1")
	for name, bad := range map[string]string{
		"an item without an id":  strings.Replace(body, `"id":`, `"_id":`, 1),
		"a time that is none":    strings.Replace(body, `"date_modified":"`, `"date_modified":"on `, 1),
		"a name of nobody's":     strings.Replace(body, `"_datafeed":`, `"edison":`, 1),
		"a version that is none": strings.Replace(body, "/version/1.1", "/version/9", 1),
	} {
		v, err := jsonschema.UnmarshalJSON(strings.NewReader(bad))
		if err != nil || bad == body || schema.Validate(v) == nil {
			t.Errorf("%s passes, %v", name, err)
		}
	}
}
