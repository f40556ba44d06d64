package deploy_test

import (
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

var command = regexp.MustCompile(`\bgo (run|test)((?: -\w+)*) \./([\w/-]+)(.*)`)

// Each package that a text runs or tests exists, and its tests take -update where the text gives it.
func TestCommands(t *testing.T) {
	t.Parallel()
	named := 0
	err := filepath.WalkDir(root, func(path string, e fs.DirEntry, err error) error {
		switch name := filepath.Base(path); {
		case err != nil:
			return err
		case e.IsDir() && slices.Contains([]string{".git", ".edison", "vendor"}, name):
			return fs.SkipDir
		case e.IsDir(), filepath.Ext(name) != ".md" && name != "Taskfile.yml":
			return nil
		}
		text, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		for _, m := range command.FindAllStringSubmatch(string(text), -1) {
			named++
			folder, holds := filepath.Join(root, m[3]), "package main\n"
			switch {
			case m[1] == "run":
			case strings.Contains(m[4], "-update"):
				holds = ` = flag.Bool("update", `
			default:
				holds = "testing.T"
			}
			if !hasText(t, folder, holds) {
				t.Errorf("%s: %q: no file of the package has %q", path, m[0], holds)
			}
		}
		return nil
	})
	if err != nil {
		t.Error(err)
	}
	if named < 30 {
		t.Errorf("the texts have %d commands: has their form changed?", named)
	}
}

func hasText(t *testing.T, folder, want string) bool {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(folder, "*.go"))
	if err != nil {
		t.Fatal(err)
	}
	for _, file := range files {
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		if strings.Contains(string(text), want) {
			return true
		}
	}
	return false
}
