package contract

import (
	"encoding/json"
	"fmt"
	"maps"
)

// Dialect is the URI of JSON Schema 2020-12, in which schemas are written.
const Dialect = "https://json-schema.org/draft/2020-12/schema"

// A schema is a JSON Schema, or a part of one.
type schema map[string]any

// Schema returns the contract as a JSON Schema (2020-12) of the title. What a schema cannot say only [Contract.Check]
// does: that no name is given twice or in another case, how large the entity is, and which id and version it has.
func (c *Contract) Schema(title string) json.RawMessage {
	whole := schema{"$schema": Dialect, "title": title}
	maps.Copy(whole, c.root.schema)
	text, err := json.MarshalIndent(whole, "", "  ")
	if err != nil {
		panic(fmt.Sprintf("contract: %v", err)) // it is made of texts and numbers
	}
	return append(text, '\n')
}

// schemaOf returns the schema of an object. Other members than the fields may have any value.
func schemaOf(fields []field) schema {
	properties, required := schema{}, []string{}
	for _, f := range fields {
		properties[f.name] = f.schema
		if f.optional {
			properties[f.name] = schema{"anyOf": []schema{f.schema, {"type": "null"}}}
		} else {
			required = append(required, f.name)
		}
		if f.deprecated {
			noted := maps.Clone(properties[f.name].(schema))
			noted["deprecated"] = true
			properties[f.name] = noted
		}
	}
	return schema{"type": "object", "properties": properties, "required": required}
}
