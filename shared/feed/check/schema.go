package check

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"regexp"
	"slices"
	"strings"

	"github.com/santhosh-tekuri/jsonschema/v6"
)

const dialect = "https://json-schema.org/draft/2020-12/schema"

var errNoSchema = skipError("the source declares no schema")

// readSchema returns the schema of the feed, compiled, and its answer.
func (c *checker) readSchema() (*jsonschema.Schema, *answer, error) {
	a, err := c.get("/schema")
	if err == nil && a.status == http.StatusNotFound {
		err = errNoSchema
	}
	if err == nil {
		err = a.want(http.StatusOK)
	}
	if err != nil {
		return nil, nil, err
	}
	text, err := jsonschema.UnmarshalJSON(bytes.NewReader(a.body))
	if err != nil {
		return nil, nil, fmt.Errorf("%s is no JSON: %w", a.asked, err)
	}
	if object, is := text.(map[string]any); !is || object["$schema"] != dialect {
		return nil, nil, fmt.Errorf("%s does not say that it is written in %s", a.asked, dialect)
	}
	compiler := jsonschema.NewCompiler()
	compiler.UseLoader(jsonschema.SchemeURLLoader{}) // a schema is whole: nothing else is loaded
	err = compiler.AddResource("schema.json", text)
	if err != nil {
		return nil, nil, err
	}
	schema, err := compiler.Compile("schema.json")
	if err != nil {
		return nil, nil, fmt.Errorf("%s is no valid schema: %w", a.asked, err)
	}
	return schema, a, nil
}

var etagOfLink = regexp.MustCompile(`rel="describedby"[^<]*; etag=("[^"]*")`)

func (c *checker) schema() error {
	_, a, err := c.readSchema()
	if errors.Is(err, errNoSchema) {
		if p, err := c.page("?limit=1"); err == nil && p.answer.link("describedby") != "" {
			return fmt.Errorf("%s links to a schema, and there is none", p.answer.asked)
		}
	}
	if err != nil {
		return err
	}
	tag := a.header.Get("ETag")
	if a.mediaType() != "application/schema+json" || !strings.HasPrefix(tag, `"`) {
		return fmt.Errorf("%s has Content-Type %q and ETag %s", a.asked, a.mediaType(), tag)
	}
	if err := c.status(http.StatusNotModified, "/schema", "If-None-Match", tag); err != nil {
		return err
	}
	if err := c.status(http.StatusOK, "/schema", "If-None-Match", `"other"`); err != nil {
		return err
	}
	p, err := c.page("?limit=1")
	if err != nil {
		return err
	}
	if !strings.HasSuffix(p.answer.link("describedby"), "/schema") {
		return fmt.Errorf(`%s has no link with rel="describedby" to the schema`, p.answer.asked)
	}
	if m := etagOfLink.FindStringSubmatch(strings.Join(p.answer.header.Values("Link"), ", ")); m != nil && m[1] != tag {
		return fmt.Errorf("%s says that the schema has the ETag %s, which has %s", p.answer.asked, m[1], tag)
	}
	return nil
}

// meetsSchema looks at the newest entity: older ones may be of an older schema.
func (c *checker) meetsSchema() error {
	schema, _, err := c.readSchema()
	if err != nil {
		return err
	}
	if c.Append != nil {
		if err := c.Append(c.ctx); err != nil {
			return fmt.Errorf("append an entry: %w", err)
		}
	}
	p, err := c.page("")
	if err != nil {
		return err
	}
	newest := slices.IndexFunc(p.Items, func(i item) bool { return len(i.DataFeed.Entity) > 0 })
	if newest < 0 {
		return skipError("the newest page has no entity")
	}
	entity, err := jsonschema.UnmarshalJSON(bytes.NewReader(p.Items[newest].DataFeed.Entity))
	if err != nil {
		return err
	}
	if invalid, is := errors.AsType[*jsonschema.ValidationError](schema.Validate(entity)); is {
		where, _ := json.Marshal(deepest(invalid).InstanceLocation)
		return fmt.Errorf("the entity at position %d does not meet the schema: its part %s", p.Items[newest].DataFeed.Position, where)
	}
	return nil
}

func deepest(e *jsonschema.ValidationError) *jsonschema.ValidationError {
	for len(e.Causes) > 0 {
		e = e.Causes[0]
	}
	return e
}
