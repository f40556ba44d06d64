package deploy_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"maps"
	"os"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/edison-cars/data-feeds/shared/carbuild"
	"github.com/edison-cars/data-feeds/shared/contract"
	"github.com/edison-cars/data-feeds/shared/customer"
	"github.com/edison-cars/data-feeds/shared/feed"
	"github.com/edison-cars/data-feeds/shared/order"
	"github.com/edison-cars/data-feeds/shared/shipment"
	"github.com/edison-cars/data-feeds/subscribers/services"
)

// A change of a contract breaks no reader: what its feed says from now on is what the released schema lets readers
// expect, and what the feed has said already, the readers of the new contract still take.
func TestReleasedSchemas(t *testing.T) {
	t.Parallel()
	for name, schema := range map[string]json.RawMessage{
		order.Feed: order.Schema, customer.Feed: customer.Schema, carbuild.Feed: carbuild.Schema, shipment.Feed: shipment.Schema,
	} {
		file := map[string]string{
			order.Feed: "../order/schema.json", customer.Feed: "../customer/schema.json",
			carbuild.Feed: "../carbuild/schema.json", shipment.Feed: "../shipment/schema.json",
		}[name]
		for _, lack := range unmet(name, parse(t, schema)) {
			t.Errorf("%s: %s", file, lack)
		}
		released, err := os.ReadFile(file)
		if err == nil {
			for _, breach := range breaches("", parse(t, released), parse(t, schema)) {
				t.Errorf("%s: %s", file, breach)
			}
		}
		switch {
		case t.Failed() || bytes.Equal(released, schema):
		case *update:
			err = os.WriteFile(file, schema, 0o644)
		default:
			t.Errorf("%s is not the schema of the contract. If the change is meant: go test ./shared/deploy -run TestReleasedSchemas -update", file)
		}
		if err != nil && !os.IsNotExist(err) {
			t.Error(err)
		}
	}
}

// A view never changes under its name: another definition gets another name. Its members are those of its contract.
func TestReleasedViews(t *testing.T) {
	t.Parallel()
	const file = "../customer/views.json"
	var views []feed.DeclaredView
	if text, err := os.ReadFile(file); err == nil {
		if err := json.Unmarshal(text, &views); err != nil {
			t.Fatal(err)
		}
	}
	var released []string // definitions
	for _, view := range views {
		released = append(released, view.Definition())
	}
	defined := map[string]string{} // definitions by name
	for _, view := range customer.Views {
		defined[view.Name] = view.Definition()
	}
	if breach := changedView(released, defined); breach != "" {
		t.Fatal(breach)
	}
	now := slices.Sorted(maps.Values(defined))
	switch {
	case slices.Equal(released, now):
	case *update:
		text := "[\n  " + strings.Join(now, ",\n  ") + "\n]\n"
		if err := os.WriteFile(file, []byte(text), 0o644); err != nil {
			t.Error(err)
		}
	default:
		t.Errorf("%s has not all views. If the new ones are meant: go test ./shared/deploy -run TestReleasedViews -update", file)
	}
	for i, of := range []any{customer.Delivery{}, customer.Contact{}} {
		var members []string
		for f := range reflect.TypeOf(of).Fields() {
			members = append(members, f.Tag.Get("json"))
		}
		if !slices.Equal(members, customer.Views[i].Fields) {
			t.Errorf("the contract of the view %s has the members %v, and the view %v", customer.Views[i].Name, members, customer.Views[i].Fields)
		}
	}
}

// changedView says which of the released views has another definition, or none any more.
func changedView(released []string, defined map[string]string) string {
	for _, definition := range released {
		var view feed.DeclaredView
		if err := json.Unmarshal([]byte(definition), &view); err != nil {
			return err.Error()
		}
		if now := defined[view.Name]; now != definition {
			return fmt.Sprintf("the view %s was %s and is %q. Keep it, and declare another one beside it.", view.Name, definition, now)
		}
	}
	return ""
}

func TestChangedView(t *testing.T) {
	t.Parallel()
	view := feed.DeclaredView{Name: "part", Text: "Words.", Fields: []string{"a", "b"}, Where: map[string][]string{"c": {"x"}}}
	released := []string{view.Definition()}
	other := view
	other.Text = "Other words."
	if breach := changedView(released, map[string]string{"part": other.Definition(), "new": "{}"}); breach != "" {
		t.Error(breach)
	}
	for _, change := range []func(*feed.DeclaredView){
		func(v *feed.DeclaredView) { v.Fields = []string{"a"} }, func(v *feed.DeclaredView) { v.Fields = []string{"a", "b", "d"} },
		func(v *feed.DeclaredView) { v.Where = nil }, func(v *feed.DeclaredView) { v.Where = map[string][]string{"c": {"x", "y"}} },
	} {
		other := view
		change(&other)
		if changedView(released, map[string]string{"part": other.Definition()}) == "" {
			t.Errorf("%+v is taken for the same", other)
		}
	}
	if changedView(released, nil) == "" {
		t.Error("a view that is gone is not noticed")
	}
}

// unmet returns the members that services need of a feed, and its schema lacks.
func unmet(name string, schema object) (list []string) {
	readers := map[string][]string{}
	for _, s := range services.All() {
		for _, f := range s.Feeds {
			for _, member := range f.Needs {
				if f.Name == name && !has(schema, strings.ReplaceAll(member, "[]", ".[]")) {
					readers[member] = append(readers[member], s.Name)
				}
			}
		}
	}
	for _, member := range slices.Sorted(maps.Keys(readers)) {
		list = append(list, fmt.Sprintf("%s is gone, and is needed by %s, which would pause. Change them first.", member, strings.Join(readers[member], ", ")))
	}
	return list
}

// has reports whether a schema of a contract has the member at the path "lines.[].model".
func has(schema object, path string) bool {
	if path == "" {
		return true
	}
	if either, ok := schema["anyOf"].([]any); ok {
		schema = either[0].(object)
	}
	name, rest, _ := strings.Cut(path, ".")
	next, ok := schema["items"].(object)
	if name != "[]" {
		properties, _ := schema["properties"].(object)
		next, ok = properties[name].(object)
	}
	return ok && has(next, rest)
}

func TestUnmet(t *testing.T) {
	t.Parallel()
	if list := unmet(order.Feed, parse(t, order.Schema)); list != nil {
		t.Error(list)
	}
	less := bytes.ReplaceAll(bytes.ReplaceAll(order.Schema, []byte(`"currency"`), []byte(`"money"`)), []byte(`"unit_price_cents"`), []byte(`"price"`))
	want := []string{
		"currency is gone, and is needed by billing, mailer, which would pause. Change them first.",
		"lines[].unit_price_cents is gone, and is needed by dashboard, billing, mailer, which would pause. Change them first.",
	}
	if list := unmet(order.Feed, parse(t, less)); !slices.Equal(list, want) {
		t.Errorf("%q, want %q", list, want)
	}
}

type object = map[string]any

func parse(t *testing.T, text []byte) (o object) {
	t.Helper()
	if err := json.Unmarshal(text, &o); err != nil {
		t.Fatal(err)
	}
	return o
}

// breaches returns how a schema breaks what the one before it has promised of the member at path.
func breaches(path string, before, after object) (list []string) {
	breach := func(format string, args ...any) {
		list = append(list, fmt.Sprintf("%s %s", path, fmt.Sprintf(format, args...)))
	}
	if before["anyOf"] != nil && after["anyOf"] != nil {
		return breaches(path, before["anyOf"].([]any)[0].(object), after["anyOf"].([]any)[0].(object))
	}
	if before["anyOf"] != nil { // the rest is compared when it may be missing again
		return nil
	}
	if after["anyOf"] != nil {
		breach("may be null or missing now. Readers need it: keep it, and add another member beside it.")
		return list
	}
	for _, key := range []string{"type", "format"} {
		if !reflect.DeepEqual(before[key], after[key]) {
			breach("has the %s %v instead of %v. Keep it, and add a member of another name beside it.", key, after[key], before[key])
			return list
		}
	}
	for _, key := range []string{"minimum", "minLength", "minItems"} {
		least, bounded := before[key].(float64)
		if now, ok := after[key].(float64); ok && bounded && now < least {
			breach("has the %s %v instead of %v. Readers refuse what lies below: move the bound in their contract first.", key, now, least)
		}
	}
	for _, key := range []string{"maximum", "maxLength", "maxItems"} {
		most, bounded := before[key].(float64)
		if now, ok := after[key].(float64); ok && bounded && now > most {
			breach("has the %s %v instead of %v. Readers refuse what lies above: move the bound in their contract first.", key, now, most)
		}
	}
	if known, ok := before["enum"].([]any); ok {
		values, ok := after["enum"].([]any)
		if !ok {
			breach("may have any text now. Readers refuse it: change their contract first.")
		}
		for _, value := range values {
			if !slices.Contains(known, value) {
				breach("may be %q now. Readers refuse it: add it to their contract first.", value)
			}
		}
	}
	if items, ok := before["items"].(object); ok {
		list = append(list, breaches(path+"[]", items, after["items"].(object))...)
	}
	properties, _ := before["properties"].(object)
	now, _ := after["properties"].(object)
	for _, name := range slices.Sorted(maps.Keys(properties)) {
		at := name
		if path != "" {
			at = path + "." + name
		}
		if next, ok := now[name].(object); ok {
			list = append(list, breaches(at, properties[name].(object), next)...)
		} else if properties[name].(object)["deprecated"] != true {
			list = append(list, at+` is gone. Readers may need it: keep it with the tag deprecated:"true", release that, and remove it when no reader needs it.`)
		}
	}
	for _, name := range slices.Sorted(maps.Keys(now)) {
		if properties != nil && properties[name] == nil && now[name].(object)["anyOf"] == nil {
			list = append(list, name+" is new, and entries lack it that the feed has already. Make it a pointer, so that it may be missing.")
		}
	}
	return list
}

func TestBreaches(t *testing.T) {
	t.Parallel()
	type Line struct {
		Options []string `json:"options" check:"0..2" each:"1..9"`
	}
	type before struct {
		N     int    `json:"n" check:"1..5"`
		S     string `json:"s" check:"a|b"`
		Lines []Line `json:"lines" check:"1..2"`
		Old   *int   `json:"old" check:"1..2"`
		Worn  int    `json:"worn" check:"1..2" deprecated:"true"`
	}
	of := func(c *contract.Contract) object { return parse(t, c.Schema("thing")) }
	type same struct {
		N     int    `json:"n" check:"2..4"`
		S     string `json:"s" check:"a"`
		Lines []Line `json:"lines" check:"1..1"`
		Old   *int   `json:"old" check:"1..2"`
		New   *int   `json:"new" check:"1..9"`
	}
	if list := breaches("", of(contract.Of[before]()), of(contract.Of[same]())); list != nil {
		t.Error("a change that breaks nobody:", list)
	}
	type OtherLine struct {
		Options []string `json:"options" check:"0..2" each:"0..10"`
	}
	type other struct {
		N     *int        `json:"n" check:"1..5"`
		S     string      `json:"s" check:"a|c"`
		Lines []OtherLine `json:"lines" check:"0..3"`
		New   int         `json:"new" check:"1..9"`
	}
	got := breaches("", of(contract.Of[before]()), of(contract.Of[other]()))
	for i, begin := range []string{
		"lines has the minItems 0 instead of 1.", "lines has the maxItems 3 instead of 2.",
		"lines[].options[] has the minLength 0 instead of 1.", "lines[].options[] has the maxLength 10 instead of 9.",
		"n may be null or missing now.", "old is gone.", `s may be "c" now.`, "new is new,",
	} {
		if i >= len(got) || !strings.HasPrefix(got[i], begin) {
			t.Fatalf("want %s, got %q", begin, got)
		}
	}
	type changed struct {
		N     string `json:"n" check:"1..5"`
		S     string `json:"s" check:"date"`
		Lines []Line `json:"lines" check:"1..2"`
		Old   string `json:"old" check:"1..3"`
	}
	if got := breaches("", of(contract.Of[before]()), of(contract.Of[changed]())); len(got) != 2 {
		t.Errorf("a number that is a text, and values that are days: %q", got)
	}
}
