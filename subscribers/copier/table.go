package copier

import (
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strings"
	"sync"

	"github.com/go-json-experiment/json/jsontext"

	"github.com/edison-cars/data-feeds/shared/columntype"
	"github.com/edison-cars/data-feeds/shared/feed"
	"github.com/edison-cars/data-feeds/shared/subscribe"
)

// A table is where the copy of a feed goes.
type table struct {
	feed    string
	schema  string // "": that in which the connections make tables
	table   string
	columns []column // none: the whole entity

	name    string   // with its schema, once prepared
	missing []column // the table had none of them at the start
	resync  bool     // it is empty, or lacks columns

	mu    sync.Mutex
	types map[string]string // of the missing columns, by their names, as the first entities have them
}

// A column is filled from a member.
type column struct {
	name, member string
	optional     bool // entities need not have the member
}

// String returns the column as [subscribe.Feed] takes it.
func (c column) String() string {
	if c.name == c.member {
		return c.name
	}
	return c.name + "=" + c.member
}

// variable returns the setting of the table: TABLE_ORDERS.
func (t *table) variable() string {
	return "TABLE_" + strings.ToUpper(strings.ReplaceAll(t.feed, "-", "_"))
}

// given returns the name of the table as the setting has it.
func (t *table) given() string { return strings.TrimPrefix(t.schema+"."+t.table, ".") }

var (
	tableText   = regexp.MustCompile(`^(?:([^.(]+)\.)?([^.(]+)(?:\((.*)\))?$`)
	nameText    = regexp.MustCompile(`^[^\x00-\x1f"(),.=?]{1,63}$`)
	ofEntries   = []string{"id", "version"}
	ofEveryRow  = []string{"tableoid", "xmin", "cmin", "xmax", "cmax", "ctid"}                       // PostgreSQL, "System Columns"
	wholeEntity = []column{{name: "updated", member: "updated"}, {name: "entity", member: "entity"}} // of the entry
)

// parse reads a setting. Without one, the table has the name of the feed.
func (t *table) parse(text string) error {
	if text == "" {
		text = strings.ReplaceAll(t.feed, "-", "_")
	}
	parts := tableText.FindStringSubmatch(strings.TrimSpace(text))
	if parts == nil {
		return errors.New("it has another form")
	}
	t.schema, t.table = strings.TrimSpace(parts[1]), strings.TrimSpace(parts[2])
	if err := checkName(t.table); err != nil {
		return err
	}
	if parts[1] != "" {
		if err := checkName(t.schema); err != nil {
			return err
		}
	}
	if strings.HasPrefix(t.schema, "pg_") {
		return fmt.Errorf("the schema %s is one of PostgreSQL's own", t.schema)
	}
	if t.schema == Name {
		return errors.New("the schema copy is that of the command's own tables")
	}
	if !strings.HasSuffix(text, ")") {
		return nil
	}
	for part := range strings.SplitSeq(parts[3], ",") {
		part, optional := strings.CutSuffix(strings.TrimSpace(part), "?")
		name, member, named := strings.Cut(part, "=")
		name, member = strings.TrimSpace(name), strings.TrimSpace(member)
		if !named {
			member = name
		}
		c := column{name, member, optional}
		if err := checkName(name); err != nil {
			return err
		}
		switch {
		case member == "":
			return fmt.Errorf("the column %s has no member", name)
		case slices.Contains(ofEntries, name):
			return fmt.Errorf("every copy has a column %s of its own; to copy the member of that name, name its column: my_%[1]s=%[1]s", name)
		case slices.Contains(ofEveryRow, name):
			return fmt.Errorf("%s is a system column of PostgreSQL; name another one: my_%[1]s=%[2]s", name, member)
		case slices.ContainsFunc(t.columns, func(other column) bool { return other.name == name }):
			return fmt.Errorf("the column %s comes twice", name)
		}
		t.columns = append(t.columns, c)
	}
	return nil
}

func checkName(name string) error {
	if !nameText.MatchString(name) || len(name) > 63 {
		return fmt.Errorf(`%q is no name: names have 1 to 63 bytes, and none of ( ) , . = ? "`, name)
	}
	return nil
}

// subscription returns the feed; its Table is known when t is prepared.
func (t *table) subscription() subscribe.Feed {
	f := subscribe.Feed{Name: t.feed, Schedule: schedule, Apply: t.applyWhole, Columns: texts(t.filled())}
	if t.columns != nil {
		f.Apply, f.Complete = t.apply, t.complete
	}
	for _, c := range t.columns {
		if !c.optional {
			f.Needs = append(f.Needs, c.member)
		}
	}
	return f
}

// filled returns the columns beside id and version.
func (t *table) filled() []column {
	if t.columns == nil {
		return wholeEntity
	}
	return t.columns
}

func texts(columns []column) []string {
	list := make([]string, len(columns))
	for i, c := range columns {
		list[i] = c.String()
	}
	return list
}

// complete returns an error if the entity lacks a member.
func (t *table) complete(e feed.Entry) error {
	entity := jsontext.Value(e.Entity)
	if entity.Kind() != '{' {
		return nil // it is put aside
	}
	members := columntype.Members(entity)
	for _, c := range t.columns {
		if !c.optional && !slices.Contains(members, c.member) {
			return fmt.Errorf("has no member %q, which %s names", c.member, t.variable())
		}
	}
	return nil
}
