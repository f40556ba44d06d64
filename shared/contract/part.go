package contract

import (
	"fmt"
	"reflect"
	"strings"

	"github.com/google/uuid"

	"github.com/edison-cars/data-feeds/shared/feed"
)

// A Part is what a reader needs of a contract. Its Check checks nothing else, so that the reader goes on when a member
// goes that it does not need.
type Part struct {
	*Contract
	// Needs names the members, "status" and "lines[].model", as subscribe.Feed.Needs takes them.
	Needs []string
	// Columns lists the columns of an entity for jsonb_to_recordset: "(id uuid, version bigint, status text, lines jsonb)".
	Columns string
}

// PartOf returns the part of a contract that a reader needs which reads entities into the struct T: its members, by the
// tag json, and id and version. The contract defines what the members may be. A member that it does not have may have
// any value, but must be there.
func PartOf[T any](whole *Contract) *Part {
	t := reflect.TypeFor[T]()
	root, columns := partOf(whole.root, t), []string{"id uuid", "version bigint"}
	for _, name := range []string{"version", "id"} {
		if f, has := fieldOf(whole.root.fields, name); has {
			root.fields = append([]field{f}, root.fields...)
		}
	}
	for f := range members(t) {
		columns = append(columns, f.name+" "+sqlType(f.of))
	}
	root = objectOf(root.fields)
	return &Part{&Contract{root}, append([]string{"id", "version"}, needs("", t)...), "(" + strings.Join(columns, ", ") + ")"}
}

type member struct {
	name string
	of   reflect.Type
}

// members goes through the members that a struct has beside id and version.
func members(t reflect.Type) func(yield func(member) bool) {
	return func(yield func(member) bool) {
		for f := range t.Fields() {
			name, _, _ := strings.Cut(f.Tag.Get("json"), ",")
			if name != "-" && name != "id" && name != "version" && !yield(member{name, f.Type}) {
				return
			}
		}
	}
}

func fieldOf(fields []field, name string) (field, bool) {
	for _, f := range fields {
		if f.name == name {
			return f, true
		}
	}
	return field{}, false
}

// partOf returns the part of a rule that applies to what is read into a value of the type.
func partOf(whole *rule, t reflect.Type) *rule {
	if t.Kind() == reflect.Pointer {
		t = t.Elem()
	}
	part := whole
	switch {
	case whole.element != nil && t.Kind() == reflect.Slice:
		part = list(partOf(whole.element, t.Elem()), whole.least, whole.most)
	case whole.fields != nil && isObject(t):
		var fields []field
		for m := range members(t) {
			f, has := fieldOf(whole.fields, m.name)
			if !has {
				f.rule = &rule{schema: schema{}, read: (*reader).any}
			}
			fields = append(fields, field{m.name, f.deprecated, partOf(f.rule, m.of)})
		}
		part = objectOf(fields)
	}
	part.optional = whole.optional
	return part
}

func isObject(t reflect.Type) bool {
	return t.Kind() == reflect.Struct && t != reflect.TypeFor[feed.Time]()
}

// needs returns the paths of the members that are read into a value of the type.
func needs(path string, t reflect.Type) (paths []string) {
	switch {
	case t.Kind() == reflect.Pointer:
		return needs(path, t.Elem())
	case t.Kind() == reflect.Slice && isObject(t.Elem()):
		return needs(path+"[]", t.Elem())
	case !isObject(t):
		return []string{path}
	}
	for m := range members(t) {
		paths = append(paths, needs(strings.TrimPrefix(path+"."+m.name, "."), m.of)...)
	}
	return paths
}

// sqlType returns the type of PostgreSQL that holds a member.
func sqlType(t reflect.Type) string {
	switch {
	case t.Kind() == reflect.Pointer:
		return sqlType(t.Elem())
	case t == reflect.TypeFor[uuid.UUID]():
		return "uuid"
	case t == reflect.TypeFor[feed.Time]():
		return "timestamptz"
	case t == reflect.TypeFor[[]string]():
		return "text[]"
	case t.Kind() == reflect.String:
		return "text"
	case t.Kind() == reflect.Bool:
		return "boolean"
	case t.Kind() == reflect.Int:
		return "int"
	case t.Kind() == reflect.Int64:
		return "bigint"
	case t.Kind() == reflect.Struct, t.Kind() == reflect.Slice:
		return "jsonb"
	}
	panic(fmt.Sprintf("contract: no type of PostgreSQL for %v", t))
}
