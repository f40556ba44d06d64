package scaffold

import (
	"cmp"
	"errors"
	"html"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"unicode"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"

	"github.com/edison-cars/data-feeds/shared/columntype"
)

// A name is the name of a table, or of a column and of the member that fills it.
type name string

// SQL returns the name for a statement: quoted, as it may be a keyword or have capital letters.
func (n name) SQL() string { return `"` + string(n) + `"` }

// usable matches the names of members that become columns: they need no escapes in SQL, Go or HTML.
var usable = regexp.MustCompile(`^[A-Za-z_][A-Za-z0-9_-]{0,62}$`)

// A column is filled from the members of its name.
type column struct {
	name
	Type  string // of PostgreSQL
	Field string // of the struct in Go
}

// goTypes has the Go type of each type of column, and an example of its JSON.
var goTypes = map[string]struct{ goType, example string }{
	"text":        {"*string", `"text"`},
	"bigint":      {"*int64", `7`},
	"numeric":     {"*json.Number", `1.5`},
	"boolean":     {"*bool", `true`},
	"timestamptz": {"*time.Time", `"2026-11-23T12:00:00Z"`},
	"uuid":        {"*uuid.UUID", `"01a20846-44a9-7e64-b2ad-57974371e065"`},
	"jsonb":       {"json.RawMessage", `{"a": [1]}`},
}

func (c column) String() string  { return string(c.name) }
func (c column) GoType() string  { return goTypes[c.Type].goType }
func (c column) Number() bool    { return c.Type == "bigint" || c.Type == "numeric" }
func (c column) HTML() string    { return html.EscapeString(string(c.name)) }
func (c column) example() string { return goTypes[c.Type].example }

// Show returns what the page's template has for the column.
func (c column) Show() string {
	switch f := "." + c.Field; c.Type {
	case "timestamptz":
		return "{{with " + f + "}}{{time .}}{{end}}"
	case "jsonb":
		return "{{with " + f + "}}<code>{{json .}}</code>{{end}}"
	case "uuid", "text": // which may be long
		return "{{with " + f + "}}<code>{{.}}</code>{{end}}"
	default:
		return "{{with " + f + "}}{{.}}{{end}}"
	}
}

// columnsOf returns a column for each member that the entities have, in the order in which they come first, and the
// names of those that can be none.
func columnsOf(entities []jsontext.Value) (columns []column, left []string, err error) {
	types, order := map[string]string{}, []string(nil)
	for _, entity := range entities {
		var members map[string]jsontext.Value
		if err := json.Unmarshal(entity, &members, jsontext.AllowDuplicateNames(true), jsontext.AllowInvalidUTF8(true)); err != nil {
			continue // a subscriber rejects it
		}
		for _, member := range columntype.Members(entity) {
			was, known := types[member]
			if !known {
				order = append(order, member)
			}
			types[member] = columntype.Both(was, columntype.Of(members[member]))
		}
	}
	fields := []string{"ID", "Version"}
	for _, member := range order {
		switch {
		case member == "id", member == "version": // of the entry
		case !usable.MatchString(member):
			left = append(left, member)
		default:
			field := fieldName(member)
			for n := 2; slices.Contains(fields, field); n++ {
				field = fieldName(member) + strconv.Itoa(n)
			}
			fields = append(fields, field)
			columns = append(columns, column{name(member), cmp.Or(types[member], "jsonb"), field})
		}
	}
	if len(columns) == 0 {
		return nil, left, errors.New("the newest entries have no member that can be a column")
	}
	return columns, left, nil
}

// initialisms are written in capital letters in Go.
var initialisms = []string{"id", "url", "vat", "api", "html", "http", "json", "uuid", "ip"}

// fieldName returns the exported name in Go of a member: customer_id is CustomerID.
func fieldName(member string) string {
	var field strings.Builder
	for _, word := range strings.FieldsFunc(member, func(r rune) bool { return r == '_' || r == '-' }) {
		if slices.Contains(initialisms, strings.ToLower(word)) {
			field.WriteString(strings.ToUpper(word))
			continue
		}
		field.WriteString(strings.ToUpper(word[:1]) + word[1:])
	}
	if s := field.String(); s != "" && unicode.IsUpper(rune(s[0])) {
		return s
	}
	return "Member" + field.String()
}
