package publish

import (
	"encoding/json"
	"fmt"
	"math"

	"github.com/jackc/pgx/v5"
)

// A column is a column of a table that is attached to a feed.
type column struct {
	Feed, Name, Type string
	Length           *int // the most characters of a text
	NotNull          bool
}

// schemas returns the JSON Schemas (2020-12) of the feeds to which tables are attached, by the feeds' names. They say
// what the tables' rows are now.
func schemas(rows pgx.Rows) (map[string]json.RawMessage, error) {
	columns, err := pgx.CollectRows(rows, pgx.RowToStructByPos[column])
	if err != nil {
		return nil, err
	}
	byFeed := map[string]map[string]any{}
	for _, c := range columns {
		s := byFeed[c.Feed]
		if s == nil {
			s = map[string]any{"$schema": "https://json-schema.org/draft/2020-12/schema", "title": c.Feed, "type": "object", "properties": map[string]any{}, "required": []string{}}
			byFeed[c.Feed] = s
		}
		s["properties"].(map[string]any)[c.Name] = c.schema()
		s["required"] = append(s["required"].([]string), c.Name)
	}
	all := make(map[string]json.RawMessage, len(byFeed))
	for name, s := range byFeed {
		text, err := json.MarshalIndent(s, "", "  ")
		if err != nil {
			return nil, fmt.Errorf("write the schema of feed %s: %w", name, err)
		}
		all[name] = append(text, '\n')
	}
	return all, nil
}

// schema returns the JSON Schema of a member that holds a value of the column.
func (c *column) schema() map[string]any {
	s := map[string]any{}
	switch c.Type {
	case "smallint":
		s = map[string]any{"type": "integer", "minimum": math.MinInt16, "maximum": math.MaxInt16}
	case "integer":
		s = map[string]any{"type": "integer", "minimum": math.MinInt32, "maximum": math.MaxInt32}
	case "bigint":
		s = map[string]any{"type": "integer", "minimum": math.MinInt64, "maximum": math.MaxInt64}
	case "numeric", "real", "double precision":
		s = orOne(map[string]any{"type": "number"}, "NaN", "Infinity", "-Infinity")
	case "boolean":
		s["type"] = "boolean"
	case "uuid":
		s = map[string]any{"type": "string", "format": "uuid"}
	case "date":
		s = moment("date")
	case "timestamp with time zone":
		s = moment("date-time")
	case "text", "character varying", "character":
		s["type"] = "string"
		if c.Length != nil {
			s["maxLength"] = *c.Length
		}
	}
	if len(s) > 0 && !c.NotNull {
		return map[string]any{"anyOf": []any{s, map[string]any{"type": "null"}}}
	}
	return s
}

// moment returns the schema of a time in the format, which is of the years 0 to 9999, or of one that PostgreSQL knows
// beyond it.
func moment(format string) map[string]any {
	s := orOne(map[string]any{"type": "string", "format": format}, "infinity", "-infinity")
	s["anyOf"] = append(s["anyOf"].([]any), map[string]any{"type": "string", "pattern": "^[0-9]{5,}-| BC$"})
	return s
}

// orOne returns the schema of what meets s or is one of the texts.
func orOne(s map[string]any, texts ...string) map[string]any {
	return map[string]any{"anyOf": []any{s, map[string]any{"enum": texts}}}
}
