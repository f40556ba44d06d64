package daemon

import (
	"encoding"
	"errors"
	"fmt"
	"io"
	"net/url"
	"reflect"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/caarlos0/env/v11"
)

// A Setting is one environment variable of a program.
type Setting struct {
	Name    string
	Default string // "" where there is none
	Help    string // one line
}

// Parse sets the fields of the structs that into points to from vars, by the tags `env:"NAME" envDefault:"VALUE"`. An
// empty variable gets its default. The error matches ErrUsage, and says for each wrong variable, on a line of its own,
// which values are valid.
func Parse(vars map[string]string, into ...any) error {
	if vars == nil {
		vars = map[string]string{} // nil would mean the environment of the process
	}
	var wrong []error
	for _, one := range into {
		wrong = append(wrong, parse(vars, one))
	}
	return errors.Join(wrong...)
}

func parse(vars map[string]string, into any) error {
	err := env.ParseWithOptions(into, env.Options{Environment: vars})
	if err == nil {
		return nil
	}
	// The library's errors name Go fields. Each variable is parsed alone so that its error is known.
	t := reflect.TypeOf(into)
	if t.Kind() != reflect.Pointer || t.Elem().Kind() != reflect.Struct {
		return err
	}
	var lines []string
	for _, s := range settings(t.Elem(), "") {
		v, set := vars[s.Name]
		if !set || v == "" {
			continue
		}
		one := env.ParseWithOptions(reflect.New(t.Elem()).Interface(), env.Options{Environment: map[string]string{s.Name: v}})
		if bad, ok := errors.AsType[env.ParseError](one); ok {
			lines = append(lines, describe(s.Name, v, bad))
		}
	}
	if missing, ok := errors.AsType[env.VarIsNotSetError](err); ok {
		lines = append(lines, missing.Key+" must be set")
	}
	if len(lines) == 0 {
		return usageError{err}
	}
	return Usagef("%s", strings.Join(lines, "\n"))
}

// describe repeats a value only if its type cannot contain a secret.
func describe(name, value string, bad env.ParseError) string {
	t := bad.Type
	if t.Kind() == reflect.Pointer {
		t = t.Elem()
	}
	if reflect.PointerTo(t).Implements(reflect.TypeFor[encoding.TextUnmarshaler]()) {
		return fmt.Sprintf("%s: %v", name, bad.Err)
	}
	if t == reflect.TypeFor[url.URL]() {
		return name + ": takes a URL such as http://localhost:8080"
	}
	return fmt.Sprintf("%s=%q: takes %s", name, value, takes(t))
}

func takes(t reflect.Type) string {
	switch {
	case t == reflect.TypeFor[time.Duration]():
		return "a duration such as 250ms, 30s or 5m"
	case t == reflect.TypeFor[time.Location]():
		return "a time zone such as UTC or Europe/Berlin"
	case t.Kind() == reflect.Bool:
		return "true or false"
	case t.Kind() == reflect.Slice:
		return "a list, each " + takes(t.Elem())
	case t.Kind() >= reflect.Uint && t.Kind() <= reflect.Uint64:
		return "a whole number from 0"
	case t.Kind() >= reflect.Int && t.Kind() <= reflect.Int64:
		return "a whole number"
	case t.Kind() == reflect.Float32, t.Kind() == reflect.Float64:
		return "a number"
	default:
		return "a value of type " + t.String()
	}
}

// Help prints settings, one aligned line each: name, default, help. Each argument is a struct as Parse takes it, with
// an additional tag `help:"..."`, a pointer to one, a Setting or a []Setting. Settings without help are left out.
func Help(w io.Writer, of ...any) {
	tw := tabwriter.NewWriter(w, 0, 0, 3, ' ', 0)
	for _, s := range list(of) {
		if s.Help == "" {
			continue
		}
		fmt.Fprintf(tw, "  %s\t%s\t%s\n", s.Name, s.Default, s.Help)
	}
	tw.Flush()
}

// Names returns the names of settings, given as [Help] takes them.
func Names(of ...any) (names []string) {
	for _, s := range list(of) {
		names = append(names, s.Name)
	}
	return names
}

func list(of []any) (all []Setting) {
	for _, o := range of {
		switch o := o.(type) {
		case Setting:
			all = append(all, o)
		case []Setting:
			all = append(all, o...)
		default:
			t := reflect.TypeOf(o)
			if t.Kind() == reflect.Pointer {
				t = t.Elem()
			}
			all = append(all, settings(t, "")...)
		}
	}
	return all
}

// settings lists the variables of struct type t and of the structs in it, in the order of the fields.
func settings(t reflect.Type, prefix string) []Setting {
	var list []Setting
	for f := range t.Fields() {
		name, _, _ := strings.Cut(f.Tag.Get("env"), ",")
		switch {
		case !f.IsExported() || name == "-":
		case name != "":
			list = append(list, Setting{Name: prefix + name, Default: f.Tag.Get("envDefault"), Help: f.Tag.Get("help")})
		case f.Type.Kind() == reflect.Struct:
			list = append(list, settings(f.Type, prefix+f.Tag.Get("envPrefix"))...)
		}
	}
	return list
}
