package scaffold

import (
	"bytes"
	"errors"
	"fmt"
	"go/ast"
	"go/format"
	"go/parser"
	"go/token"
	"go/types"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"github.com/edison-cars/data-feeds/shared/daemon"
)

const listFile = "subscribers/services/services.go"

// A module is the source code that a service is added to.
type module struct {
	root, path string
	list       []byte // listFile
	tree       *ast.File
	files      *token.FileSet
}

// openModule finds the module in the current folder or above it.
func openModule() (*module, error) {
	dir, err := os.Getwd()
	if err != nil {
		return nil, err
	}
	for start := dir; ; dir = filepath.Dir(dir) {
		text, err := os.ReadFile(filepath.Join(dir, "go.mod"))
		if found := regexp.MustCompile(`(?m)^module (\S+)`).FindSubmatch(text); err == nil && found != nil {
			m := &module{root: dir, path: string(found[1]), files: token.NewFileSet()}
			if m.list, err = os.ReadFile(m.file(listFile)); err == nil {
				m.tree, err = parser.ParseFile(m.files, listFile, m.list, parser.ParseComments)
			}
			return m, err
		}
		if dir == filepath.Dir(dir) {
			return nil, daemon.Usagef("no go.mod in %s or above it: run this inside the project", start)
		}
	}
}

func (m *module) file(name string) string { return filepath.Join(m.root, filepath.FromSlash(name)) }

var serviceName = regexp.MustCompile(`^[a-z][a-z0-9]{0,30}$`)

// others are programs and folders of the company that are no subscribers.
var others = []string{"sales", "customers", "map", "up", "mailsink", "rabbitmq", "internal", "vendor", "testdata", "main", "init", "log"}

// checkName returns an error unless the name can be that of a new service: its folders, its package, its database, an
// import of the list, and a command beside others.
func (m *module) checkName(name string, commands []string) error {
	switch {
	case !serviceName.MatchString(name):
		return daemon.Usagef("NAME takes 1 to 31 small letters and digits, a letter first, such as loyalty; not %q", name)
	case token.IsKeyword(name), types.Universe.Lookup(name) != nil:
		return daemon.Usagef("%s means something in Go: choose another NAME", name)
	case slices.Contains(others, name), slices.Contains(commands, name):
		return daemon.Usagef("%s is taken: choose another NAME", name)
	}
	for _, folder := range []string{"subscribers/" + name, "sql/" + name} {
		if _, err := os.Stat(m.file(folder)); err == nil {
			return daemon.Usagef("%s is there already: choose another NAME, or delete it", folder)
		} else if !errors.Is(err, os.ErrNotExist) {
			return err
		}
	}
	for _, spec := range m.tree.Imports {
		if used, _ := strconv.Unquote(spec.Path.Value); filepath.Base(used) == name {
			return daemon.Usagef("%s has another meaning in %s: choose another NAME", name, listFile)
		}
	}
	return nil
}

// withService returns listFile with the service at the end of its list.
func (m *module) withService(name string) ([]byte, error) {
	list, importAt := -1, -1
	for node := range ast.Preorder(m.tree) {
		if f, ok := node.(*ast.FuncDecl); ok && f.Name.Name == "All" {
			for inside := range ast.Preorder(f) {
				if literal, ok := inside.(*ast.CompositeLit); ok && list < 0 {
					list = m.lineOf(literal.Rbrace)
				}
			}
		}
	}
	own := strconv.Quote(m.path + "/subscribers/" + name)
	for _, spec := range m.tree.Imports {
		switch {
		case !strings.HasPrefix(spec.Path.Value, `"`+m.path+`/`):
		case spec.Path.Value < own:
			importAt = m.lineOf(spec.End()) + 1
		}
	}
	if list < 0 || importAt < 0 {
		return nil, fmt.Errorf("%s has no function All that returns a list: add the service yourself", listFile)
	}
	lines := slices.Collect(bytes.Lines(m.list))
	lines = slices.Insert(lines, list-1, []byte("\t\t"+name+".Service,\n"))
	lines = slices.Insert(lines, importAt-1, []byte("\t"+own+"\n"))
	return format.Source(bytes.Join(lines, nil))
}

func (m *module) lineOf(pos token.Pos) int { return m.files.Position(pos).Line }

// write writes the service's files and adds it to the list. After an error nothing is left of it.
func (m *module) write(s *service) (wrote []string, err error) {
	rendered, err := s.render()
	if err != nil {
		return nil, err
	}
	list, err := m.withService(s.Name)
	if err != nil {
		return nil, err
	}
	folders := []string{"sql/" + s.Name, "subscribers/" + s.Name}
	for i, folder := range folders {
		if err := os.Mkdir(m.file(folder), 0o755); err != nil { // which fails if it is there
			return nil, errors.Join(err, m.remove(folders[:i]))
		}
	}
	for _, file := range slices.Sorted(maps.Keys(rendered)) {
		if err := os.WriteFile(m.file(file), rendered[file], 0o644); err != nil {
			return nil, errors.Join(err, m.remove(folders))
		}
		wrote = append(wrote, file)
	}
	if err := os.WriteFile(m.file(listFile), list, 0o644); err != nil {
		return nil, errors.Join(err, os.WriteFile(m.file(listFile), m.list, 0o644), m.remove(folders))
	}
	return append(wrote, listFile), nil
}

func (m *module) remove(folders []string) (err error) {
	for _, folder := range folders {
		err = errors.Join(err, os.RemoveAll(m.file(folder)))
	}
	return err
}
